"""Misaligned accuracy (Sec. 1 of the paper): are the top-k classes the source labels?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midas_aug import diagnostics
from midas_aug import functional as F
from midas_aug.errors import MidasAugError
from tests.helpers import reference
from tests.helpers import strategies as own
from tests.helpers.strategies import Library, as_library, assert_helpful


def _accuracy(
    library: Library,
    logits: Any,
    labels: Any,
    valid: Any = None,
    dtype: str = "float32",
    **options: Any,
) -> float:
    out = F.misaligned_accuracy(
        as_library(logits, dtype, library)[0],
        as_library(labels, "int64", library)[0],
        valid=None if valid is None else as_library(valid, "bool", library)[0],
        **options,
    )
    assert isinstance(out, torch.Tensor if library == "torch" else (np.ndarray, np.generic))
    assert out.shape == ()
    assert own.dtype_name(out) in ("float32", "float64")
    return float(out)


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.modality_counts())
def test_accuracy_is_the_share_of_rows_whose_top_classes_are_the_source_labels(
    data: st.DataObject, library: Library, s: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    c = data.draw(st.integers(2, 6))  # few classes, so that right answers occur
    dtype = data.draw(own.feature_dtypes(library))
    values = data.draw(own.logits(s, c))
    labels = data.draw(own.source_label_arrays(s, m, c, ignored=data.draw(st.booleans())))
    helped = rng.random(s) < 0.5
    for row in np.flatnonzero(helped & (labels >= 0).all(axis=1)):
        values[row, labels[row]] = values[row].max() + 1
    valid = rng.random(s) < 0.7 if data.draw(st.booleans()) else None
    exact = as_library(values, dtype, library)[1]
    wanted = reference.misaligned_accuracy(exact, labels, valid)
    assert _accuracy(library, values, labels, valid, dtype) == pytest.approx(wanted, abs=1e-6)


@own.both_libraries
@pytest.mark.parametrize(
    ("row", "labels", "right"),
    [
        ([5.0, 4.0, 1.0, 0.0], [0, 1], True),
        ([4.0, 5.0, 1.0, 0.0], [0, 1], True),  # in any order
        ([5.0, 5.0, 1.0, 0.0], [1, 0], True),  # a tie inside the set
        ([5.0, 1.0, 4.0, 0.0], [0, 1], False),
        ([5.0, 4.0, 4.0, 0.0], [0, 1], False),  # a tie across the boundary
        ([5.0, 4.0, 4.0, 0.0], [0, 2], False),
        ([5.0, 4.0, 1.0, 0.0], [0, 0], True),  # one distinct label: top 1
        ([5.0, 6.0, 1.0, 0.0], [0, 0], False),
        ([5.0, 5.0, 1.0, 0.0], [0, 0], False),
        ([5.0, 4.0, 3.0, 0.0], [2, 0, 1], True),
        ([5.0, 4.0, 3.0, 3.0], [2, 0, 1], False),
        ([5.0, 4.0, 3.0, 0.0], [1, 0, 1], True),  # two distinct of three
        ([1.0, 4.0, 3.0, 0.0], [3, 0, 1, 2], True),  # every class
        ([0.0, 0.0, 0.0, 0.0], [3, 0, 1, 2], True),
        ([0.0, 0.0, 0.0, 0.0], [3, 0], False),
    ],
)
def test_a_row_is_right_when_its_top_set_equals_its_labels(
    library: Library, row: list[float], labels: list[int], right: bool
) -> None:
    assert _accuracy(library, [row], [labels]) == float(right)
    assert reference.misaligned_accuracy(np.array([row]), np.array([labels])) == float(right)


@own.both_libraries
def test_only_valid_rows_with_labels_count(library: Library) -> None:
    logits = np.array([[5.0, 4.0, 0.0], [5.0, 0.0, 4.0], [5.0, 4.0, 0.0], [0.0, 4.0, 5.0]])
    labels = np.array([[0, 1], [0, 1], [0, -100], [-1, -1]])
    assert _accuracy(library, logits, labels) == 0.5
    assert _accuracy(library, logits, labels, [True, False, True, True]) == 1.0
    assert _accuracy(library, logits, labels, [False, True, True, True]) == 0.0


@own.both_libraries
def test_nothing_to_count_gives_zero_and_not_nan(library: Library) -> None:
    assert _accuracy(library, np.zeros((0, 3)), np.zeros((0, 2))) == 0.0
    assert _accuracy(library, np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0)) == 0.0
    assert _accuracy(library, [[1.0, 0.0, 0.5]], [[0, 2]], [False]) == 0.0
    assert _accuracy(library, [[1.0, 0.0, 0.5]], [[0, -1]]) == 0.0


@own.both_libraries
def test_rows_of_one_label_count_or_are_skipped_or_are_wrong(library: Library) -> None:
    logits = [[5.0, 4.0, 0.0], [5.0, 0.0, 4.0], [5.0, 1.0, 0.0], [5.0, 1.0, 0.0]]
    labels = [[0, 1], [0, 1], [0, 0], [1, 1]]
    assert _accuracy(library, logits, labels) == pytest.approx(2 / 4)
    assert _accuracy(library, logits, labels, same_label="count") == pytest.approx(2 / 4)
    assert _accuracy(library, logits, labels, same_label="skip") == pytest.approx(1 / 2)
    assert _accuracy(library, logits, labels, same_label="wrong") == pytest.approx(1 / 4)
    assert _accuracy(library, logits[2:], labels[2:], same_label="skip") == 0.0
    with pytest.raises(MidasAugError) as error:
        _accuracy(library, logits, labels, same_label="ignore")
    assert_helpful(str(error.value), "'ignore'", "'skip'")


@own.both_libraries
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_with_a_nan_is_wrong(library: Library, place: int) -> None:
    row = [5.0, 4.0, 0.0]
    row[place] = float("nan")
    for labels in ([0, 1], [1, 0], [place, place]):
        assert _accuracy(library, [row], [labels]) == 0.0


def test_the_diagnostics_have_the_same_function() -> None:
    assert diagnostics.misaligned_accuracy is F.misaligned_accuracy


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(min_value=1))
def test_order_of_rows_and_a_rising_map_of_the_logits_change_nothing(
    data: st.DataObject, library: Library, s: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    logits, labels = rng.integers(-3, 4, (s, 4)).astype(float), rng.integers(0, 4, (s, 2))
    rows, order = rng.permutation(s), rng.permutation(2)
    first = _accuracy(library, logits, labels)
    assert _accuracy(library, 2 * logits[rows] - 5, labels[rows][:, order]) == pytest.approx(first)


def test_chance_is_one_over_the_number_of_pairs() -> None:
    rng = np.random.default_rng(0)
    labels = np.stack([rng.permutation(4)[:2] for _ in range(3000)])
    value = _accuracy("torch", rng.standard_normal((3000, 4)), labels)
    assert value == pytest.approx(1 / 6, abs=0.03)


def test_a_perfect_model_of_many_classes_in_bfloat16_is_right() -> None:
    labels = np.array([[2049, 4097], [2051, 999]])
    logits = np.zeros((2, 4099))
    np.put_along_axis(logits, labels, 3.0, axis=1)
    assert _accuracy("torch", logits, labels, dtype="bfloat16") == 1.0
    assert _accuracy("torch", logits, labels + 1, dtype="bfloat16") == 0.0


def test_accuracy_carries_no_gradient_and_changes_no_input() -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    labels = torch.tensor([[0, 1]] * 5)
    before = logits.detach().clone(), labels.clone()
    assert not F.misaligned_accuracy(logits, labels).requires_grad
    assert torch.equal(before[0], logits)
    assert torch.equal(before[1], labels)


@own.both_libraries
@pytest.mark.parametrize(
    ("logits", "labels", "valid", "dtype", "received"),
    [
        ((4,), (4, 2), None, "int64", ["(4,)"]),
        ((4, 3, 2), (4, 2), None, "int64", ["(4, 3, 2)"]),
        ((4, 3), (4,), None, "int64", ["(4,)"]),
        ((4, 3), (5, 2), None, "int64", ["4", "5"]),
        ((4, 3), (4, 2), (5,), "int64", ["4", "5"]),
        ((4, 3), (4, 2), (4, 1), "int64", ["(4, 1)"]),
        ((4, 3), (4, 2), None, "float32", ["float32"]),
    ],
)
def test_accuracy_refuses_what_does_not_fit(
    library: Library,
    logits: tuple[int, ...],
    labels: tuple[int, ...],
    valid: tuple[int, ...] | None,
    dtype: str,
    received: list[str],
) -> None:
    native = as_library(np.zeros(logits), "float32", library)[0]
    mask = None if valid is None else as_library(np.ones(valid), "bool", library)[0]
    with pytest.raises(MidasAugError) as error:
        F.misaligned_accuracy(native, as_library(np.zeros(labels), dtype, library)[0], valid=mask)
    assert isinstance(error.value, ValueError)
    assert_helpful(str(error.value), *received)


@own.both_libraries
def test_accuracy_refuses_a_label_that_is_no_class(library: Library) -> None:
    with pytest.raises(MidasAugError) as error:
        _accuracy(library, np.zeros((2, 3)), [[0, 1], [2, 7]])
    assert_helpful(str(error.value), "7", "3")


def test_with_as_many_labels_as_classes_every_row_is_right_but_one_with_a_nan() -> None:
    """Both are in the top two of two: nothing is told by it."""
    logits = torch.tensor([[0.0, 0.0], [3.0, -1.0], [float("nan"), 0.0]])
    assert float(F.misaligned_accuracy(logits, torch.tensor([[0, 1]] * 3))) == pytest.approx(2 / 3)
