"""What of a batch has rows, what is passed through, and what is refused by name."""

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.nn.utils.rnn import pack_sequence

from midas_aug import FactoredLinear, MidasAugError, MisalignAugment

N = 3
LABELS = torch.tensor([0, 1, 2])


class Frame:
    """An array of some other library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.zeros(N)


class Table:
    """As of a library of tables."""

    iloc = None


class Graphs:
    """As of a library of graphs."""

    def to_data_list(self) -> list[int]:
        return [0] * N

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> int:
        return row


def augmented(**more: Any) -> Any:
    batch = {"a": torch.arange(N), "b": torch.arange(N)} | more
    return MisalignAugment(("a", "b"), 3, confidence="uniform", hardness=None)(batch, LABELS)


OTHER_SIZES = [
    [0, 1],
    [0, 1, 2, 3],
    torch.zeros(2),
    torch.zeros(4, 1),
    np.zeros(2),
    np.zeros((4, 1)),
    TensorDict({"x": torch.zeros(4)}, [4]),
    TensorDict({"x": torch.zeros(3)}, []),
]


@pytest.mark.parametrize("leaf", OTHER_SIZES)
@pytest.mark.parametrize("key", ["b", "more"])
def test_another_number_of_rows_is_refused_in_a_modality_and_beside_it(leaf, key):
    for value in (leaf, {"inside": leaf}):
        with pytest.raises(MidasAugError, match=rf"batch\['{key}'\].*to have 3 rows") as error:
            augmented(**{key: value})
        assert ("keep=" in str(error.value)) == (key == "more")


@pytest.mark.parametrize("leaf", [7, 0.5, "text", b"raw", 1j, int, torch.tensor(4), np.array(4)])
def test_what_has_no_rows_is_passed_through_beside_a_modality_and_refused_in_one(leaf):
    assert augmented(more=leaf)["more"] is leaf
    assert augmented(more={"inside": leaf})["more"]["inside"] is leaf
    for value in (leaf, {"inside": leaf}):
        with pytest.raises(MidasAugError, match=r"batch\['b'\].*"):
            augmented(b=value)


@pytest.mark.parametrize("nothing", [None, {}, {"x": None}, {"x": {"y": None}}, ()])
def test_a_modality_that_holds_nothing_is_refused(nothing):
    with pytest.raises(MidasAugError, match="hold arrays with one row per label, got"):
        augmented(b=nothing)
    inside = augmented(b={"x": None, "y": torch.arange(N)})["b"]  # as a model may put it out
    assert inside["x"] is None
    assert len(inside["y"]) == 3 * N


def test_a_row_without_anything_is_named_in_a_modality_and_passed_through_elsewhere():
    with pytest.raises(MidasAugError, match="got None in row 1"):
        augmented(b=["x", None, "z"])
    assert augmented(more=["x", None, "z"])["more"] == ["x", None, "z"] * 3


@pytest.mark.parametrize(
    ("leaf", "cure"),
    [
        (Frame(), "numpy.asarray"),
        (Table(), "numpy.asarray"),
        (deque("abc"), "deque"),
        (range(N), "range"),
        (Graphs(), "to_data_list"),
        (pack_sequence([torch.zeros(1)] * N), "pad_packed_sequence"),
        (torch.eye(N).to_sparse(), "to_dense"),
        (torch.nested.nested_tensor([torch.zeros(1)] * N, layout=torch.jagged), "nested"),
    ],
)
@pytest.mark.parametrize("key", ["b", "more"])
def test_rows_that_cannot_be_taken_are_refused_with_what_to_do(leaf, cure, key):
    for value in (leaf, {"inside": leaf}):
        with pytest.raises(MidasAugError, match=r"rows cannot be taken here") as error:
            augmented(**{key: value})
        assert cure in str(error.value)
        assert f"batch['{key}']" in str(error.value)


def test_the_aligned_rows_of_every_kind_of_leaf_come_back_for_a_provider():
    seen = []

    def provider(batch, labels):
        seen.append(batch)
        return torch.ones(N, 2)

    given = {
        "a": torch.arange(N),
        "b": {"x": np.arange(N), "deep": (["p", "q", "r"], torch.arange(N))},
        "size": torch.tensor(3),
        "note": "all",
    }
    augment = MisalignAugment(("a", "b"), 3, confidence=provider, hardness=None)
    augment(given, LABELS)
    (found,) = seen
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"]["x"].tolist() == [0, 1, 2]
    assert found["b"]["deep"][0] == ["p", "q", "r"]
    assert found["b"]["deep"][1].tolist() == [0, 1, 2]
    assert found["size"] == 3
    assert found["note"] == "all"


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_pair_in_each_sample_is_two_columns_whatever_the_number_of_rows(rows):
    """The usual collation makes a list of two of it, which looks like a list of two rows."""
    augment = MisalignAugment(("a", "b"), 3, confidence="uniform", hardness=None)
    samples = [
        {
            "a": row,
            "b": (torch.tensor(row), [torch.tensor(10 + row), torch.tensor(20 + row)]),
            "label": row,
        }
        for row in range(rows)
    ]
    out = augment.collate()(samples)
    first, (second, third) = out["b"]
    source = out.source[:, 1]
    assert torch.equal(first, source)
    assert torch.equal(second, 10 + source)
    assert torch.equal(third, 20 + source)


@pytest.mark.parametrize("swap", ["each", "one", "permute"])
@pytest.mark.parametrize("replayed", [False, True])
def test_the_gradient_of_a_swap_is_that_of_plain_indexing(swap, replayed):
    """Blocks that are the batch in order are added up as they stand; a replayed plan has none."""
    names = ("a", "b", "c")
    augment = MisalignAugment(names, 4, swap=swap, confidence="uniform", hardness=None)
    labels = torch.tensor([0, 1, 2, 3, 0, -1, 1])
    batch = {name: torch.randn(7, 5, requires_grad=True) for name in names}
    out = augment(batch, labels)
    if replayed:
        out = augment(batch, labels, plan=out.plan)
    drawn = augment.draw(batch, labels, plan=out.plan, materialize=False)
    head = FactoredLinear(dict.fromkeys(names, 5), 4)
    for number, name in enumerate(names):
        gradient = torch.randn(len(out.source), 5)
        (want,) = torch.autograd.grad(batch[name][out.source[:, number]], batch[name], gradient)
        for rows in (out[name], out.gather(name, batch[name]), drawn.gather(name, batch[name])):
            (have,) = torch.autograd.grad(rows, batch[name], gradient)
            torch.testing.assert_close(have, want)
    joined = torch.cat([batch[name][out.source[:, m]] for m, name in enumerate(names)], dim=1)
    gradient = torch.randn(len(out.source), 4)
    every = list(batch.values())
    want_all = torch.autograd.grad(head(joined), every, gradient)
    found = torch.autograd.grad(head(batch, out), every, gradient)
    for have, want in zip(found, want_all, strict=True):
        torch.testing.assert_close(have, want)


def test_a_swap_can_be_differentiated_twice():
    out = MisalignAugment(("a", "b"), 3, confidence="uniform", hardness=None).draw(
        {name: torch.zeros(4, 2) for name in "ab"}, torch.tensor([0, 1, 2, 0]), materialize=False
    )
    rows = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda given: out.gather("a", given), rows)


@pytest.mark.parametrize("size", [2, 5])
def test_a_tuple_of_strings_is_either_rows_or_a_setting_and_is_refused_at_every_size(size):
    augment = MisalignAugment(("a", "b"), 3, confidence="uniform")
    batch = {"a": torch.rand(size, 2), "b": torch.rand(size, 2), "label": torch.arange(size) % 3}
    with pytest.raises(MidasAugError, match="a tuple of str") as error:
        augment(batch | {"id": ("x", "y")})
    assert "pass a list" in str(error.value)
    assert "keep=" in str(error.value)
    kept = MisalignAugment(("a", "b"), 3, confidence="uniform", keep=("id",))
    assert kept(batch | {"id": ("x", "y")})["id"] == ("x", "y")
    assert augment(batch | {"size": (224, 224), "none": (None, None)})["size"] == (224, 224)


def test_a_column_of_strings_that_default_collate_makes_of_tuple_samples_has_rows():
    """Torch makes a tuple of it, where samples that are dictionaries give a list."""
    samples = [
        (torch.rand(4), f"caption {i}", torch.rand(5), {"id": (f"x{i}", b"y")}, i % 3)
        for i in range(8)
    ]
    augment = MisalignAugment((0, 2), 3, label=4, confidence="uniform", hardness=None)
    out = augment.collate()(samples)
    anchors = out.anchor.tolist()
    assert out.data[1] == [f"caption {i}" for i in anchors]
    assert list(out.data[3]["id"][0]) == [f"x{i}" for i in anchors]
    augment = MisalignAugment((0, 1), 3, label=4, confidence="uniform", hardness=None)
    texts = augment.collate()(samples)
    assert texts.data[1] == [f"caption {i}" for i in texts.source[:, 1].tolist()]
