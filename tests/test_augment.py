"""MisalignAugment: any batch in, the same batch with misaligned rows out."""

import copy
import pickle
import warnings
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from transformers import BatchEncoding

from midas_aug import MidasAugError, MisalignAugment, SwapPlan
from midas_aug import functional as F
from midas_aug.confidence import (
    HeadConfidence,
    LogitConfidence,
    PrototypeConfidence,
    TableConfidence,
)
from tests.helpers import reference, strategies

# Most batches here hold something without a cosine on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:hardness='auto'")

N, C = 6, 4
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def row_coded(modality: int, rows: int = N, width: int = 2) -> torch.Tensor:
    """Data from which the batch row and the modality can be read off: 100·modality + row."""
    return (100.0 * modality + torch.arange(rows))[:, None].expand(rows, width).clone()


def uniform(modalities: Any = ("a", "b"), **options: Any) -> MisalignAugment:
    return MisalignAugment(modalities, C, confidence="uniform", **options)


class Pair(NamedTuple):
    a: Any
    b: Any
    label: Any


@dataclass
class Sample:
    a: Any
    b: Any
    label: Any
    note: str = "kept"
    counter: tuple[int, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        self.counter += (1,)


@dataclass(frozen=True)
class Frozen:
    a: Any
    b: Any
    label: Any


def read_rows(out: Any, key: Any) -> torch.Tensor:
    return torch.as_tensor(out[key])[:, 0].long()


@given(st.data(), st.integers(2, 8), st.integers(2, 4), strategies.libraries())
def test_data_labels_and_provenance_tell_the_same_story(data, num_classes, modalities, library):
    """The `source` matrix is the one truth: every field follows from it."""
    values = data.draw(strategies.labels_arrays(num_classes=num_classes))
    swap = data.draw(st.sampled_from(["each", "one", "permute"]))
    rows = len(values)
    names = [f"m{number}" for number in range(modalities)]
    batch = {name: row_coded(number, rows) for number, name in enumerate(names)}
    batch |= {"label": torch.as_tensor(values), "index": torch.arange(rows)}
    if library == "numpy":
        batch = {key: value.numpy() for key, value in batch.items()}
    out = MisalignAugment(names, num_classes, confidence="uniform", swap=swap)(batch)

    source, anchor, valid, labels = map(
        strategies.as_numpy, (out.source, out.anchor, out.valid, out.source_labels)
    )
    total = rows + rows * (modalities if swap == "each" else 1)
    assert source.shape == labels.shape == (total, modalities)
    assert (out.aligned, out.misaligned) == (slice(0, rows), slice(rows, total))
    assert np.array_equal(strategies.as_numpy(out["index"]), anchor)
    for number, name in enumerate(names):
        assert np.array_equal(
            strategies.as_numpy(out[name])[:, 0], 100 * number + source[:, number]
        )
    assert np.array_equal(labels, values[source])
    assert np.array_equal(valid[:rows], values >= 0)
    assert np.array_equal(
        strategies.as_numpy(out.is_misaligned), [len(set(row)) > 1 for row in labels]
    )
    partners = reference.possible_partners(values)
    for row in range(rows, total):
        assert valid[row] == bool(partners[int(anchor[row])])
        assert valid[row] == (len(set(labels[row])) > 1)
    targets, weights = strategies.as_numpy(out.targets), strategies.as_numpy(out.weights)
    assert targets.shape == (total, num_classes)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(weights == 0, ~valid)
    assert np.isfinite(weights).all()
    assert type(out.targets) is type(out.weights) is type(batch["label"])
    assert strategies.dtype_name(out.targets) == strategies.dtype_name(out.weights) == "float32"


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b, y: {"a": a, "b": b, "label": y},
        lambda a, b, y: OrderedDict(a=a, b=b, label=y),
        lambda a, b, y: BatchEncoding({"a": a, "b": b, "label": y}),
        lambda a, b, y: Pair(a, b, y),
        lambda a, b, y: Sample(a, b, y),
        lambda a, b, y: Frozen(a, b, y),
    ],
    ids=["dict", "OrderedDict", "BatchEncoding", "named tuple", "dataclass", "frozen dataclass"],
)
def test_every_container_comes_back_as_its_own_kind_and_the_original_is_untouched(make):
    batch = make(row_coded(0), row_coded(1), LABELS.clone())
    before = copy.deepcopy(batch)
    out = uniform()(batch)
    assert type(out.data) is type(batch)
    assert torch.equal(read_rows(out, "a"), out.source[:, 0])
    assert torch.equal(read_rows(out, "b") - 100, out.source[:, 1])
    assert torch.equal(out["label"], LABELS[out.anchor])
    for key in ("a", "b", "label"):
        get = (lambda tree, key: tree[key]) if hasattr(batch, "keys") else getattr
        assert torch.equal(get(batch, key), get(before, key))


def test_a_dataclass_keeps_its_other_fields_and_is_not_initialised_again():
    batch = Sample(row_coded(0), row_coded(1), LABELS)
    out = uniform()(batch)
    assert out["note"] == "kept"
    assert batch.counter == (1,)


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("label", [2, -1])
def test_tuples_and_lists_are_addressed_by_position(kind, label):
    batch = kind([row_coded(0), row_coded(1), LABELS])
    out = uniform((0, 1), label=label)(batch)
    assert type(out.data) is kind
    assert torch.equal(read_rows(out, 1) - 100, out.source[:, 1])
    assert out.keys() == [0, 1, 2]


def test_named_tuples_answer_to_positions_too():
    out = uniform((0, 1), label=2)(Pair(row_coded(0), row_coded(1), LABELS))
    assert torch.equal(read_rows(out, 1) - 100, out.source[:, 1])
    assert torch.equal(out["b"], out[1])


def test_a_nested_modality_moves_as_one_and_other_leaves_follow_the_anchor():
    tokens = {"input_ids": row_coded(1).long(), "attention": {"mask": row_coded(1, width=3)}}
    batch = {
        "a": row_coded(0),
        "b": tokens,
        "label": LABELS,
        "name": [f"clip {row}" for row in range(N)],
        "clips": [torch.zeros(row + 1) for row in range(N)],
        "table": torch.zeros(3),
        "extra": {"row": torch.arange(N), "fps": 25, "mean": torch.tensor(0.5)},
        "scale": np.arange(N),
        "none": None,
        "scalar": torch.tensor(3.0),
    }
    out = uniform(keep=("table",))(batch)
    assert out["table"] is batch["table"]
    assert torch.equal(out["b"]["input_ids"][:, 0] - 100, out.source[:, 1])
    assert torch.equal(out["b"]["attention"]["mask"][:, 2].long() - 100, out.source[:, 1])
    anchors = out.anchor.tolist()
    assert out["name"] == [f"clip {row}" for row in anchors]
    assert [len(clip) - 1 for clip in out["clips"]] == anchors
    assert out["extra"]["row"].tolist() == anchors
    assert out["extra"]["fps"] == 25
    assert out["extra"]["mean"] is batch["extra"]["mean"]
    assert isinstance(out["scale"], np.ndarray)
    assert out["scale"].tolist() == anchors
    assert out["none"] is None
    assert out["scalar"] is batch["scalar"]
    assert sorted(out.keys()) == sorted(batch)
    assert dict(out).keys() == batch.keys()
    assert "name" in out
    assert "other" not in out


def test_a_modality_of_raw_strings_is_swapped():
    batch = {"a": row_coded(0), "b": [f"text {row}" for row in range(N)], "label": LABELS}
    out = uniform()(batch)
    assert out["b"] == [f"text {row}" for row in out.source[:, 1].tolist()]


def test_labels_may_be_given_computed_or_taken_from_the_batch():
    batch = {"a": row_coded(0), "b": row_coded(1), "y": LABELS}
    by_key = uniform(label="y")(batch)
    by_function = uniform(label=lambda batch: batch["y"])(batch)
    given_labels = uniform()(batch, LABELS)
    for out in (by_key, by_function, given_labels):
        assert torch.equal(out.labels, LABELS)
    assert torch.equal(uniform(label="y")(batch, LABELS.flip(0)).labels, LABELS.flip(0))


def test_a_plan_replays_the_same_batch_in_either_library():
    batch = {"a": torch.randn(N, 3), "b": torch.randn(N, 5), "label": LABELS}
    augment = uniform(seed=1)
    first = augment(batch)
    again = augment(batch, plan=first.plan)
    arrays = {key: value.numpy() for key, value in batch.items()}
    in_numpy = augment(arrays, plan=SwapPlan(*(part.numpy() for part in first.plan)))
    for out in (again, in_numpy):
        for name in ("source", "anchor", "valid", "targets", "weights", "shares"):
            given_field = torch.as_tensor(getattr(out, name))
            torch.testing.assert_close(given_field, getattr(first, name), rtol=0, atol=0)
        assert torch.equal(torch.as_tensor(out["b"]), first["b"])


def test_permuting_the_batch_permutes_the_result():
    batch = {"a": torch.randn(N, 3), "b": torch.randn(N, 5), "label": LABELS}
    logits = {"a": torch.randn(N, C), "b": torch.randn(N, C)}
    order = torch.randperm(N)
    place = order.argsort()  # where each old row went
    augment = MisalignAugment(("a", "b"), C)
    out = augment(batch, unimodal_logits=logits)
    rows = torch.cat([order, N + order, 2 * N + order])
    moved_plan = SwapPlan(
        place[out.plan.source][rows[N:] - N], place[out.plan.anchor][rows[N:] - N], out.plan.valid
    )
    moved = augment(
        {key: value[order] for key, value in batch.items()},
        unimodal_logits={key: value[order] for key, value in logits.items()},
        plan=moved_plan,
    )
    torch.testing.assert_close(moved["a"], out["a"][rows])
    torch.testing.assert_close(moved.targets, out.targets[rows])
    torch.testing.assert_close(moved.weights, out.weights[rows])


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("swap", ["each", "one", "permute"])
def test_no_rows_and_one_row_work(rows, swap):
    batch = {"a": row_coded(0, rows), "b": row_coded(1, rows), "label": LABELS[:rows]}
    out = uniform(swap=swap)(batch)
    assert len(out["a"]) == len(out.weights) == rows + rows * (2 if swap == "each" else 1)
    assert out.weights[out.misaligned].sum() == 0
    assert torch.isfinite(out.targets).all()


def test_switched_off_it_gives_the_aligned_rows_alone_and_asks_for_no_confidence():
    augment = MisalignAugment(("a", "b"), C)
    augment.enabled = False
    batch = {"a": row_coded(0), "b": row_coded(1), "label": LABELS}
    out = augment(batch)
    assert torch.equal(out["a"], batch["a"])
    assert torch.equal(out.weights, torch.ones(N))
    assert torch.equal(out.targets, torch.nn.functional.one_hot(LABELS, C).float())
    assert out.shares.tolist() == [[0.5, 0.5]] * N
    augment.enabled = True
    assert len(augment(batch, unimodal_logits=[torch.zeros(N, C)] * 2).source) == 3 * N


def test_logits_by_name_and_in_order_agree_and_carry_no_gradient():
    batch = {"b": torch.randn(N, 3), "a": torch.randn(N, 3), "label": LABELS}
    logits = {
        "b": torch.randn(N, C, requires_grad=True),
        "a": torch.randn(N, C, requires_grad=True),
    }
    augment = MisalignAugment(("a", "b"), C)
    out = augment(batch, unimodal_logits=logits)
    in_order = augment(batch, unimodal_logits=[logits["a"], logits["b"]], plan=out.plan)
    assert torch.equal(out.shares, in_order.shares)
    assert not out.targets.requires_grad
    assert not out.weights.requires_grad
    expected = F.true_class_confidence(logits["a"], LABELS)
    assert torch.equal(out.confidence[:, 0], expected)


def test_gradients_flow_through_swapped_features_to_their_source_rows():
    features = {"a": torch.randn(N, 2, requires_grad=True), "b": torch.randn(N, 2)}
    out = uniform(hardness="cosine")(features, LABELS)
    weights = torch.randn(len(out.source), 2)
    (out["a"] * weights).sum().backward()
    expected = torch.zeros(N, 2).index_add_(0, out.source[:, 0], weights)
    torch.testing.assert_close(features["a"].grad, expected)


@pytest.mark.parametrize(
    ("hardness", "features", "expected"),
    [
        ("auto", "vectors", "cosine"),
        ("cosine", "vectors", "cosine"),
        (None, "vectors", None),
        ("auto", "images", "cosine"),
        ("auto", "integers", None),
    ],
)
def test_hardness_is_cosine_where_modalities_are_vectors(hardness, features, expected):
    shapes = {"vectors": (N, 3), "images": (N, 3, 2, 2), "integers": (N, 3)}
    batch = {
        "a": torch.randn(shapes[features]),
        "b": torch.randint(5, (N, 3)) if features == "integers" else torch.randn(N, 4),
        "label": LABELS,
    }
    out = uniform(hardness=hardness)(batch)
    weights = out.weights[out.misaligned]
    if expected is None:
        assert torch.equal(weights, torch.full_like(weights, 1.5))  # (N + S) / S
    else:
        plan = [np.asarray(part) for part in out.plan]
        cosine = reference.cosine_hardness(
            [
                batch[key].flatten(2).mean(dim=2).double().numpy()
                if batch[key].ndim > 2
                else batch[key].double().numpy()
                for key in "ab"
            ],
            plan[0],
            plan[1],
        )
        np.testing.assert_allclose(weights.numpy(), 1.5 * cosine, rtol=1e-5)


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_hardness_callable_gets_features_in_order_and_the_plan(library):
    batch = {"b": torch.randn(N, 3), "a": torch.randn(N, 2), "label": LABELS}
    if library == "numpy":
        batch = {key: value.numpy() for key, value in batch.items()}

    def mine(features, plan):
        assert [feature.shape[1] for feature in features] == [2, 3]
        assert type(features[0]) is type(plan.source)
        return plan.anchor * 1.0

    out = uniform(hardness=mine)(batch)
    expected = 1.5 * np.tile(np.arange(N), 2)
    np.testing.assert_allclose(strategies.as_numpy(out.weights)[N:], expected)


def test_misaligned_weight_scales_the_misaligned_rows_alone():
    batch = {"a": torch.randn(N, 3), "b": torch.randn(N, 5), "label": LABELS}
    plain = uniform()(batch)
    heavy = uniform(misaligned_weight=5.0)(batch, plan=plain.plan)
    torch.testing.assert_close(heavy.weights[:N], plain.weights[:N])
    torch.testing.assert_close(heavy.weights[N:], 5 * plain.weights[N:])


def test_seeded_streams_repeat_and_advance_and_resume():
    batch = {"a": row_coded(0), "b": row_coded(1), "label": LABELS}
    for library in ("torch", "numpy"):
        given_batch = (
            batch if library == "torch" else {key: value.numpy() for key, value in batch.items()}
        )
        first, second = uniform(seed=3), uniform(seed=3)
        draws = [np.asarray(first(given_batch).source) for _ in range(6)]
        assert all(np.array_equal(draw, second(given_batch).source) for draw in draws)
        assert len({draw.tobytes() for draw in draws}) > 3  # not the same draw over and over
        assert not all(np.array_equal(draw, uniform(seed=4)(given_batch).source) for draw in draws)

        resumed = uniform(seed=3)
        for _ in range(3):
            resumed(given_batch)
        state = pickle.loads(pickle.dumps(resumed.state_dict()))
        fresh = uniform(seed=3)
        fresh.load_state_dict(state)
        assert np.array_equal(fresh(given_batch).source, draws[3])


def test_ranks_draw_differently_from_the_same_seed(monkeypatch):
    batch = {"a": row_coded(0, 60), "b": row_coded(1, 60), "label": torch.arange(60) % C}
    sources = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        sources.append(uniform(seed=0)(batch).source)
    assert not torch.equal(*sources)


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_pairing_of_ones_own_draws_from_a_seeded_generator_of_the_library(library):
    kind = torch.Generator if library == "torch" else np.random.Generator

    def any_row(labels, *, features, generator):
        assert isinstance(generator, kind)
        assert [float(feature[0, 0]) for feature in features] == [0, 100]
        if library == "torch":
            return torch.randint(60, (60,), generator=generator), torch.ones(60, dtype=torch.bool)
        return generator.integers(60, size=60), np.ones(60, dtype=bool)

    batch = {"a": row_coded(0, 60), "b": row_coded(1, 60), "label": torch.arange(60) % C}
    if library == "numpy":
        batch = {key: value.numpy() for key, value in batch.items()}
    augments = [uniform(seed=seed, pairing=any_row) for seed in (0, 0, 1)]
    first, again, other = ([np.asarray(a(batch).source) for _ in range(2)] for a in augments)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("rank", [-1, 0.5, "0"])
def test_a_rank_that_is_none_is_refused(rank):
    augment = uniform(seed=0)
    with pytest.raises(MidasAugError, match="rank of a draw stream as an integer of at least 0"):
        augment.stream.rank = rank
    augment.stream.rank = 0
    augment.stream.rank = None


def test_a_run_that_nobody_launched_draws_as_rank_0_does_and_every_seed_draws(monkeypatch):
    batch = {"a": row_coded(0, 60), "b": row_coded(1, 60), "label": torch.arange(60) % C}
    seen = set()
    for seed in range(20):
        monkeypatch.setenv("RANK", "0")
        launched = uniform(seed=seed)(batch).source
        monkeypatch.delenv("RANK")
        assert torch.equal(uniform(seed=seed)(batch).source, launched)
        seen.add(str(launched.tolist()))
    assert len(seen) == 20


def test_the_state_counts_the_calls_and_no_negative_number_is_one():
    augment, batch = uniform(seed=0), {"a": row_coded(0), "b": row_coded(1), "label": LABELS}
    for calls in range(3):
        assert augment.state_dict()["stream"] == {"calls": calls}
        augment.draw(batch)
    for calls in (-1, 0.5, "1", None):
        with pytest.raises(MidasAugError, match="number of calls of a draw stream"):
            augment.load_state_dict({"enabled": True, "stream": {"calls": calls}})
    assert augment.state_dict()["stream"] == {"calls": 3}


@pytest.mark.parametrize(
    "state", [None, 3, "ab", [], {}, {"enabled": True, "stream": 3}, {"enabled": True}, np.zeros(2)]
)
def test_what_is_no_state_is_refused_and_changes_nothing(state):
    augment = uniform(seed=0)
    augment.enabled = False
    augment.stream.set_calls(5)
    before = augment.state_dict()
    with pytest.raises(MidasAugError, match=r"pass what augment.state_dict\(\) gave"):
        augment.load_state_dict(state)
    assert augment.state_dict() == before == {"enabled": False, "stream": {"calls": 5}}


def test_a_spawned_worker_keeps_the_rank_of_its_parent(monkeypatch):
    """It cannot ask torch.distributed, and a launcher need not have set the variable."""
    batch = {"a": row_coded(0, 60), "b": row_coded(1, 60), "label": torch.arange(60) % C}
    monkeypatch.setenv("RANK", "3")
    parent = uniform(seed=0)
    pickled = pickle.dumps(parent)
    expected = parent(batch).source
    monkeypatch.delenv("RANK")
    assert torch.equal(pickle.loads(pickled)(batch).source, expected)
    assert not torch.equal(uniform(seed=0)(batch).source, expected)


def test_without_a_seed_the_global_generator_of_the_library_decides():
    batch = {"a": row_coded(0), "b": row_coded(1), "label": LABELS}
    arrays = {key: value.numpy() for key, value in batch.items()}
    augment = uniform()
    for given_batch, seed_all in ((batch, torch.manual_seed), (arrays, np.random.seed)):
        sources = []
        for _ in range(2):
            seed_all(11)
            sources.append(np.asarray(augment(given_batch).source))
        assert np.array_equal(*sources)


def test_a_generator_of_the_call_wins_over_the_seed():
    batch = {"a": row_coded(0), "b": row_coded(1), "label": LABELS}
    augment = uniform(seed=0)
    sources = [augment(batch, generator=torch.Generator().manual_seed(5)).source for _ in range(2)]
    assert torch.equal(*sources)
    assert augment.state_dict()["stream"] == {"calls": 0}


def test_copies_and_pickles_draw_on_and_switch_apart():
    batch = {"a": row_coded(0), "b": row_coded(1), "label": LABELS}
    augment = uniform(seed=0)
    augment(batch)
    for twin in (copy.deepcopy(augment), pickle.loads(pickle.dumps(augment))):
        following = copy.deepcopy(augment)(batch).source
        assert torch.equal(twin(batch).source, following)
        twin.enabled = False
        assert augment.enabled


def test_the_representation_is_the_constructor_call():
    augment = MisalignAugment(("a", "b"), 3, confidence="uniform", swap="one", seed=1)
    assert repr(eval(repr(augment))) == repr(augment)


GOOD = {"a": row_coded(0), "b": row_coded(1), "label": LABELS}


@pytest.mark.parametrize(
    ("batch", "labels", "words"),
    [
        ({"a": row_coded(0), "label": LABELS}, None, ["modality 'b'", "['a', 'label']"]),
        ({"a": row_coded(0), "b": row_coded(1)}, None, ["labels under 'label'", "['a', 'b']"]),
        (GOOD | {"b": row_coded(1, 5)}, None, ["batch['b']", "6 rows", "(5, 2)"]),
        (GOOD | {"b": {"ids": row_coded(1, 5)}}, None, ["batch['b']['ids']", "6 rows"]),
        (GOOD | {"b": torch.tensor(1.0)}, None, ["batch['b']", "6 rows", "()"]),
        (GOOD | {"b": "text"}, None, ["batch['b']", "str"]),
        (GOOD | {"label": LABELS.float()}, None, ["labels", "integer dtype", "float32"]),
        (
            GOOD | {"label": torch.rand(6, 4)},
            None,
            ["integer dtype", "MultiLabel(C)", "Distribution(C)", "Continuous(width)", "float32"],
        ),
        (GOOD | {"label": torch.rand(6, 1)}, None, ["integer dtype", "regression", "float32"]),
        (GOOD | {"label": LABELS[:, None]}, None, ["labels", "(6, 1)"]),
        (GOOD, LABELS + 3, ["num_classes=4", "got 6"]),
        (row_coded(0), LABELS, ["mapping, a sequence or a dataclass", "Tensor"]),
        ("abc", LABELS, ["mapping, a sequence or a dataclass", "str"]),
        (GOOD | {"b": row_coded(1).to("meta")}, None, ["batch['b']", "cpu", "meta"]),
    ],
)
def test_a_batch_that_does_not_fit_is_named(batch, labels, words):
    with pytest.raises(MidasAugError) as error:
        uniform()(batch, labels)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modalities": ("a",)}, ["at least two", "('a',)"]),
        ({"modalities": "ab"}, ["sequence", "'ab'"]),
        ({"modalities": ("a", "a")}, ["different"]),
        ({"num_classes": 0}, ["positive integer", "0"]),
        ({"num_classes": 2.5}, ["positive integer", "2.5"]),
        ({"label": "a"}, ["another key", "'a'"]),
        ({"confidence": "heads"}, ["'logits'", "'uniform'", "'heads'"]),
        ({"pairing": "random"}, ["'uniform'", "'random'"]),
        ({"swap": "all"}, ["'each'", "'all'"]),
        ({"hardness": "l2"}, ["'cosine'", "'l2'"]),
        ({"misaligned_weight": -1.0}, ["λ", "-1.0"]),
        ({"misaligned_weight": float("nan")}, ["λ", "nan"]),
        ({"misaligned_weight": True}, ["λ", "True"]),
        ({"seed": "zero"}, ["integer or None", "'zero'"]),
        ({"modalities": b"ab"}, ["sequence", "b'ab'"]),
        ({"modalities": (["a"], ["b"])}, ["mapping", "(['a'], ['b'])"]),
        ({"modalities": {"a": {"x", "y"}, "b": "z"}}, ["list of keys", "'b': 'z'"]),
        ({"label": ["y"]}, ["batch key", "['y']", "augment(batch, labels)"]),
        ({"label": LABELS}, ["batch key", "augment(batch, labels)"]),
        ({"present": torch.ones(6, 2).bool()}, ["batch key", "present=mask"]),
        ({"present": "label"}, ["another key than the label", "'label'"]),
        ({"validate": "no"}, ["validate", "True or False", "'no'"]),
    ],
)
def test_a_bad_argument_is_named_at_construction(options, words):
    with pytest.raises(MidasAugError) as error:
        MisalignAugment(**({"modalities": ("a", "b"), "num_classes": C} | options))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("confidence", "logits", "words"),
    [
        ("logits", None, ["unimodal_logits", "None", "confidence='uniform'"]),
        ("logits", {"a": torch.zeros(N, C)}, ["'b'", "unimodal_logits"]),
        (
            "logits",
            [torch.zeros(N, C)],
            ["got 1", "('a', 'b')".replace("(", "[").replace(")", "]")],
        ),
        ("logits", [torch.zeros(N, C), torch.zeros(5, C)], ["unimodal_logits['b']", "(5, 4)"]),
        ("logits", [torch.zeros(N, C), torch.zeros(N, C).long()], ["['b']", "int64"]),
        (lambda *_: torch.ones(N), None, ["confidence", "(6,)"]),
        (lambda *_: torch.ones(N, 3), None, ["(6, 2)", "(6, 3)"]),
        (lambda *_: -torch.ones(N, 2), None, ["at least 0", "negative"]),
        (lambda *_: torch.full((N, 2), torch.nan), None, ["at least 0", "NaN"]),
    ],
)
def test_confidence_that_does_not_fit_is_named(confidence, logits, words):
    with pytest.raises(MidasAugError) as error:
        MisalignAugment(("a", "b"), C, confidence=confidence)(GOOD, unimodal_logits=logits)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_cosine_hardness_refuses_what_has_no_direction():
    batch = GOOD | {"a": torch.zeros(N, 3).long()}
    with pytest.raises(MidasAugError, match=r"\['a'\].*hardness='auto'"):
        uniform(hardness="cosine")(batch)
    with pytest.raises(MidasAugError, match=r"expected the hardness of shape \(12\)"):
        uniform(hardness=lambda features, plan: torch.ones(3))(batch)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(MidasAugError, match=r"hardness to be finite and at least 0, got .*12"):
            uniform(hardness=lambda features, plan, bad=bad: torch.full((12,), bad))(batch)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (F.plan_swaps(torch.arange(9), 2), ["0 … 5", "8"]),
        (F.plan_swaps(LABELS, 3), ["plan.source", "(18, 2)", "(18, 3)"]),
        (F.plan_swaps(LABELS, 2)._replace(valid=torch.ones(3)), ["plan.valid", "(12)", "(3,)"]),
        (F.plan_swaps(LABELS.to("meta"), 2), ["plan.source", "cpu", "meta"]),
        ((1, 2, 3), ["a SwapPlan", "tuple", "out.plan"]),
        (F.plan_swaps(LABELS, 2).source, ["a SwapPlan", "Tensor"]),
        (uniform()(GOOD), ["a SwapPlan", "MisalignedBatch", "out.plan"]),
    ],
)
def test_a_plan_of_another_batch_is_named(plan, words):
    with pytest.raises(MidasAugError) as error:
        uniform()(GOOD, plan=plan)
    assert all(word in str(error.value) for word in words), str(error.value)


class Guarded(MutableMapping):
    """A mapping that keeps its items in a dict of its own, which copies would share."""

    def __init__(self, items: Any) -> None:
        self.inner = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self.inner[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.inner[key] = value

    def __delitem__(self, key: str) -> None:
        del self.inner[key]

    def __iter__(self) -> Any:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


class Odd(Guarded):
    """A mapping that cannot be built from its items."""

    def __init__(self, a: Any, b: Any, label: Any) -> None:
        super().__init__({"a": a, "b": b, "label": label})


@pytest.mark.parametrize(
    ("batch", "kind"),
    [(Guarded(GOOD), Guarded), (Odd(**GOOD), dict), (MappingProxyType(GOOD), MappingProxyType)],
)
def test_a_foreign_mapping_is_not_written_to(batch, kind):
    out = uniform()(batch)
    assert type(out.data) is kind
    assert torch.equal(batch["a"], row_coded(0))
    assert torch.equal(read_rows(out, "a"), out.source[:, 0])


def test_labels_that_the_caller_overwrites_later_do_not_change_the_batch():
    batch = {"a": row_coded(0), "b": row_coded(1), "label": LABELS.clone()}
    out = uniform()(batch)
    before = out.targets
    batch["label"].zero_()
    assert torch.equal(out.targets, before)


def test_leaves_on_the_host_follow_labels_on_a_device_without_a_look_at_them():
    """Lengths for packing, file names and NumPy ids stay on the CPU beside a batch on a GPU."""
    batch = {
        "a": torch.empty(N, 3, device="meta"),
        "b": torch.empty(N, 2, device="meta"),
        "label": torch.empty(N, dtype=torch.int64, device="meta"),
        "length": torch.arange(N),
        "name": list("abcdef"),
        "id": np.arange(N),
    }
    out = uniform()(batch)
    assert out["length"].tolist() == out["id"].tolist() == list(range(N)) * 3
    assert out["name"] == list("abcdef") * 3
    table = TableConfidence(("a", "b"), N)
    looked_up = MisalignAugment(("a", "b"), C, confidence=lambda b, y: torch.ones(N, 2))
    with pytest.raises(MidasAugError, match=r"confidence on the device .* meta, got cpu"):
        looked_up(batch)
    by_table = MisalignAugment(("a", "b"), C, confidence=table, label="label")
    assert by_table(batch | {"index": torch.arange(N)}).shares.device.type == "meta"


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_ragged_lists_are_rows_at_any_batch_size(rows):
    words = [["a", "dog"], ["hello"], ["x", "y", "z"]][:rows]
    batch = {"a": row_coded(0, rows), "b": words, "label": LABELS[:rows]}
    out = uniform()(batch)
    assert out["b"] == [words[row] for row in out.source[:, 1].tolist()]


def test_a_pair_of_feature_maps_is_a_container():
    pair = (row_coded(1), row_coded(1, width=3))
    out = uniform()(GOOD | {"b": pair})
    assert [len(part) for part in out["b"]] == [3 * N, 3 * N]


@pytest.mark.parametrize("make", [HeadConfidence, PrototypeConfidence])
def test_a_provider_with_its_columns_in_another_order_is_refused(make):
    with pytest.raises(MidasAugError, match=r"order \('a', 'b'\), got \('b', 'a'\)"):
        MisalignAugment(("a", "b"), C, confidence=make({"b": 2, "a": 2}, C))
    MisalignAugment(("a", "b"), C, confidence=LogitConfidence(("a_logits", "b_logits")))


def test_stacked_logits_are_in_order():
    logits = torch.randn(2, N, C)
    augment = MisalignAugment(("a", "b"), C)
    out = augment(GOOD, unimodal_logits=logits)
    again = augment(GOOD, unimodal_logits=list(logits), plan=out.plan)
    assert torch.equal(out.shares, again.shares)


def test_logits_of_another_number_of_classes_are_refused():
    with pytest.raises(MidasAugError, match=r"logits\['a'\] of shape \(6, 4\), got \(6, 9\)"):
        MisalignAugment(("a", "b"), C)(GOOD, unimodal_logits=[torch.zeros(N, 9)] * 2)


def test_logits_that_are_no_numbers_are_refused_but_for_ignored_rows():
    batch = {"a": row_coded(0), "b": row_coded(1), "label": torch.tensor([0, 1, -1, 3, 0, 1])}
    augment = MisalignAugment(("a", "b"), C)
    for row, broken in ((1, torch.nan), (4, torch.inf)):
        given = [torch.randn(N, C), torch.randn(N, C)]
        given[1][row, 0] = broken
        with pytest.raises(MidasAugError, match="got NaN or infinity in 1 of 6 rows"):
            augment(batch, unimodal_logits=given)
    given = [torch.randn(N, C), torch.randn(N, C)]
    given[0][2] = torch.nan  # of the ignored row
    given[0][3, 3] = -torch.inf  # a confidence of 0
    out = augment(batch, unimodal_logits=given)
    assert torch.isfinite(out.shares).all()
    assert out.confidence[3, 0] == 0
    assert out.confidence[2].tolist() == [0, 0]


def test_validate_looks_at_values_wherever_they_are(monkeypatch):
    monkeypatch.setattr("midas_aug.functional.shares.may_read_values", lambda _: False)
    monkeypatch.setattr("midas_aug._labelling.may_read_values", lambda _: False)
    negative = uniform_with(lambda *_: -torch.ones(N, 2))
    negative(GOOD)  # as on an accelerator: nobody looks
    with pytest.raises(MidasAugError, match="at least 0"):
        uniform_with(lambda *_: -torch.ones(N, 2), validate=True)(GOOD)
    with pytest.raises(MidasAugError, match="num_classes=4, got 6"):
        uniform(validate=True)(GOOD, LABELS + 3)


def uniform_with(confidence: Any, **options: Any) -> MisalignAugment:
    return MisalignAugment(("a", "b"), C, confidence=confidence, **options)


def test_block_wise_hardness_is_the_general_one():
    """The fast way of swap="each" and the general one, which a replayed plan takes."""
    batch = {"a": torch.randn(N, 3), "b": torch.randn(N, 5), "c": torch.randn(N, 4)}
    augment = uniform(("a", "b", "c"))
    drawn = augment(batch, LABELS)
    assert torch.equal(drawn.weights, augment(batch, LABELS, plan=drawn.plan).weights)


def test_a_batch_of_numpy_strings_has_no_cosine():
    batch = {"a": np.array([["x", "y"]] * N), "b": np.ones((N, 2)), "label": LABELS.numpy()}
    out = uniform()(batch)
    np.testing.assert_allclose(out.weights[N:], 1.5)
    assert out["a"].shape == (3 * N, 2)


def test_numpy_numbers_are_numbers():
    assert uniform(misaligned_weight=np.float32(2)).misaligned_weight == 2.0
    assert MisalignAugment(("a", "b"), np.int64(4), confidence="uniform").num_classes == 4


def test_tensordicts_serve_as_batches_and_as_modalities():
    rows = {"a": row_coded(0), "b": row_coded(1), "label": LABELS}
    out = uniform()(TensorDict(rows, batch_size=[N]))
    assert isinstance(out.data, TensorDict)
    assert torch.equal(read_rows(out, "a"), out.source[:, 0])
    tokens = TensorDict({"ids": row_coded(1), "mask": torch.ones(N, 5)}, batch_size=[N])
    out = uniform()(rows | {"b": tokens})
    assert out["b"].batch_size == torch.Size([3 * N])
    assert torch.equal(out["b"]["ids"][:, 0].long() - 100, out.source[:, 1])


def test_a_replayed_plan_drops_the_rows_that_touch_an_ignored_label():
    plan = F.plan_swaps(LABELS, 2)
    ignored = LABELS.clone()
    ignored[2] = -1
    out = uniform()(GOOD, ignored, plan=plan)
    touched = (plan.source == 2).any(dim=1) | (plan.anchor == 2)
    assert torch.equal(out.valid[N:], ~touched)
    assert torch.equal(out.weights[N:] == 0, touched)


def test_the_number_of_classes_itself_is_no_label():
    labels = LABELS.clamp(max=1)
    assert MisalignAugment(("a", "b"), 2, confidence="uniform")(GOOD, labels).valid.all()
    with pytest.raises(MidasAugError, match="labels below num_classes=1, got 1"):
        MisalignAugment(("a", "b"), 1, confidence="uniform")(GOOD, labels)


@pytest.mark.filterwarnings("default:hardness='auto'")
def test_automatic_hardness_says_once_that_it_is_off():
    augment = MisalignAugment(("image", "ids"), 3, confidence="uniform")
    batch = {"image": torch.rand(4, 5), "ids": torch.arange(8).reshape(4, 2)}
    labels = torch.tensor([0, 1, 2, 0])
    with pytest.warns(UserWarning, match="hardness='auto' weighs no sample"):
        assert augment(batch, labels).hard_weights is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment(batch, labels)
        MisalignAugment(("image", "ids"), 3, confidence="uniform", hardness=None)(batch, labels)
        floats = {"image": torch.rand(4, 5), "ids": torch.rand(4, 2)}
        augmented = MisalignAugment(("image", "ids"), 3, confidence="uniform")(floats, labels)
    assert augmented.hard_weights is not None


def test_the_weight_of_misaligned_rows_may_be_set_for_a_schedule():
    labels = torch.tensor([0, 1, 2, 0])
    batch = {"image": torch.rand(4, 2), "text": torch.rand(4, 2)}
    augment = MisalignAugment(("image", "text"), 3, confidence="uniform", hardness=None)
    whole = augment(batch, labels)
    augment.misaligned_weight = 0.25
    quarter = augment(batch, labels, plan=whole.plan)
    torch.testing.assert_close(quarter.weights[4:], whole.weights[4:] / 4)
    torch.testing.assert_close(quarter.weights[:4], whole.weights[:4])
    assert "misaligned_weight=0.25" in repr(augment)
    with pytest.raises(MidasAugError, match="at least 0 in float32, got -1"):
        augment.misaligned_weight = -1
    assert augment.misaligned_weight == 0.25


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("swap", "each"), ("pairing", "uniform"), ("hardness", None), ("label", "y"),
        ("present", "has"), ("keep", ("table",)), ("seed", 1), ("validate", True),
        ("modalities", ("text", "image")), ("num_classes", 4), ("keys", {}),
    ],
)  # fmt: skip
def test_a_setting_that_other_things_are_made_from_cannot_be_set_afterwards(name, value):
    augment = MisalignAugment(("image", "text"), 3, swap="one", hardness="cosine")
    before = getattr(augment, name)
    with pytest.raises(MidasAugError, match=f"expected {name} to be given to MisalignAugment"):
        setattr(augment, name, value)
    assert getattr(augment, name) == before


@pytest.mark.parametrize("keep", [(-1,), (3,)])
def test_what_is_kept_may_be_named_by_its_place_from_either_end(keep):
    augment = MisalignAugment((0, 1), 3, confidence="uniform", label=2, keep=keep)
    table = torch.arange(4)
    batch = (torch.rand(4, 2), torch.rand(4, 2), torch.tensor([0, 1, 2, 0]), table)
    out = augment(batch)
    assert torch.equal(out.data[3], table)
    assert len(out.data[0]) == 12


@pytest.mark.parametrize("weight", [1e39, float("inf"), float("nan"), -0.5, True, "1"])
def test_a_weight_of_misaligned_rows_has_to_be_a_number_in_float32(weight):
    with pytest.raises(MidasAugError, match=r"misaligned_weight \(λ\) of at least 0 in float32"):
        MisalignAugment(("a", "b"), 3, misaligned_weight=weight)


def test_a_modality_under_the_key_none_says_nothing_of_what_is_present():
    batch = {"a": torch.rand(2, 2), None: torch.rand(2, 2)}
    augment = MisalignAugment(("a", None), 3, confidence="uniform")
    assert augment(batch, torch.tensor([0, 1]))[None].shape == (6, 2)
    with pytest.raises(MidasAugError, match="present to be another key than the modalities"):
        MisalignAugment(("a", "b"), 3, present="b")


@pytest.mark.parametrize("calls", [1 << 64, 1 << 63, -1, 1.5, "3"])
def test_a_number_of_calls_that_cannot_be_is_refused(calls):
    augment = MisalignAugment(("a", "b"), 3, seed=0)
    with pytest.raises(MidasAugError, match="number of calls"):
        augment.load_state_dict({"enabled": True, "stream": {"calls": calls}})
    assert augment.state_dict()["stream"]["calls"] == 0


def test_confidences_by_name_are_told_to_be_stacked():
    batch = {"image": torch.rand(4, 2), "text": torch.rand(4, 2)}
    labels, by_name = torch.tensor([0, 1, 2, 0]), {"image": torch.rand(4), "text": torch.rand(4)}
    augment = MisalignAugment(("image", "text"), 3, confidence=lambda batch, labels: by_name)
    for call in (
        lambda: augment(batch, labels),
        lambda: augment.draw(batch, labels).label(by_name),
    ):
        with pytest.raises(MidasAugError, match=r"one \(N, M\) array, got a dict") as error:
            call()
        assert "torch.stack" in str(error.value)
        assert "unimodal_logits" in str(error.value)
