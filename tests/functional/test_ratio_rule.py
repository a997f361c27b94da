"""The public code's step of α."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from midas_aug import functional as F
from midas_aug.functional.ratio_rule import RatioSums, step_from_ratios
from tests.helpers import reference
from tests.helpers import strategies as own
from tests.helpers.strategies import (
    Library,
    as_library,
    assert_close,
    assert_kind,
)


def test_reference_ratio_step_worked_by_hand() -> None:
    # N = 2, labels 0 and 1; block 0 takes modality 0 from the partner, block 1 modality 1.
    source = np.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    labels = np.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    strong_first = np.array([[0.8, 0.2], [0.6, 0.3]])  # mean c = 0.7, 0.25: uni = 2.8

    def step(confidence: Any, p: list[list[float]], alpha: float = 1.5) -> float:
        return reference.ratio_weak_step(alpha, confidence, source, np.log(p), labels, 2, 0.05, 1.6)

    even = [[0.5, 0.5]] * 4  # mm = 1
    assert step(strong_first, even) == pytest.approx(1.45)  # 1 < 2.8: the weak one is used enough
    lean = [[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]  # modality 0's label gets 0.9: mm = 9
    assert step(strong_first, lean) == pytest.approx(1.55)
    assert step(strong_first, lean, alpha=1.58) == 1.6
    assert step(strong_first[:, ::-1], lean) == pytest.approx(1.45)  # 9 > 1 / 2.8
    away = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]]  # mm = 1 / 9
    assert step(strong_first[:, ::-1], away) == pytest.approx(1.55)
    assert step(np.full((2, 2), 0.5), even) == pytest.approx(1.45)  # equality is a decrease
    assert step(np.full((2, 2), 0.5), even, alpha=1.01) == 1.0


@own.both_libraries
def test_ratio_step_averages_the_ratios_of_the_two_swaps(library: Library) -> None:
    source = np.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    confidence = np.array([[0.6, 0.1], [0.6, 0.1]])  # uni = 6
    p = np.array([[0.1, 0.9, 1e-9], [0.9, 0.1, 1e-9], [0.001, 0.01, 0.989], [0.01, 0.001, 0.989]])
    # mm = (9 + 0.1) / 2 = 4.55 < 6: a decrease; the ratio of the sums, 8.2, would be an increase
    wanted = reference.ratio_weak_step(1.5, confidence, source, np.log(p), source, 2, 0.05, None)
    assert wanted == pytest.approx(1.45)
    arrays = ([1.5, 1.5], confidence, source, np.log(p), source)
    dtypes = ("float32", "float32", "int64", "float32", "int64")
    natives = [as_library(x, d, library)[0] for x, d in zip(arrays, dtypes, strict=True)]
    alpha, raw, rows, logits, labels = natives
    assert_close(F.ratio_weak_modality_step(alpha, raw, rows, logits, labels), [1.45, 1.45])


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(min_value=1, max_value=16), own.seeds())
def test_ratio_step_is_the_public_codes(
    data: st.DataObject, library: Library, n: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dtype = data.draw(own.feature_dtypes(library))
    anchor, partner = np.arange(n), rng.permutation(n)
    source = np.concatenate([np.stack([partner, anchor], 1), np.stack([anchor, partner], 1)])
    labels = rng.integers(0, 5, n)[source]
    raw, confidence = as_library(0.05 + 0.9 * rng.random((n, 2)), dtype, library)
    logits, exact = as_library(rng.standard_normal((2 * n, 5)), dtype, library)
    max_alpha = data.draw(st.sampled_from([None, 1.2, 10.0]))
    start = 1 + data.draw(st.floats(0, 1))
    means = confidence.mean(0)
    shifts = (-1e-3, 0.0, 1e-3)  # rounding may decide a near tie: leave those to the test by hand
    wanted = {
        reference.ratio_weak_step(
            start, confidence + np.array([shift, 0]), source, exact, labels, n, 0.05, max_alpha
        )
        for shift in shifts
    }
    assume(len(wanted) == 1 and abs(means[0] - means[1]) > 1e-3)
    out = F.ratio_weak_modality_step(
        as_library([start, start], "float32", library)[0],
        raw,
        as_library(source, "int64", library)[0],
        logits,
        as_library(labels, "int64", library)[0],
        max_alpha=max_alpha,
    )
    assert_kind(out, library, "float32")
    assert_close(out, [wanted.pop()] * 2)


def test_at_a_tie_of_the_ratios_alpha_falls_and_the_first_modality_is_weak() -> None:
    """Numbers that float32 holds exactly, so that equal is equal."""
    source = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]])
    labels, start = source, torch.full((2,), 1.5)
    even = torch.zeros(4, 2)

    def step(confidence: list[float], logits: torch.Tensor) -> float:
        raw = torch.tensor([confidence, confidence])
        return float(F.ratio_weak_modality_step(start, raw, source, logits, labels)[0])

    assert step([0.5, 0.5], even) == pytest.approx(1.45)  # both ratios are 1
    leans = 3.0 * (labels[:, :1] == torch.arange(2))  # to modality 1's labels: the ratio is e³
    # Were the second the weak one at a tie, this lean to the first would raise α.
    assert step([0.5, 0.5], leans) == pytest.approx(1.45)
    assert step([0.5, 0.5], -leans) == pytest.approx(1.55)
    assert step([0.25, 0.5], even) == pytest.approx(1.45)
    assert step([0.5, 0.25], even) == pytest.approx(1.45)
    assert step([0.5, 0.25], leans) == pytest.approx(1.55)
    for weak, expected in ((0, 0.5), (1, 2.0)):
        received = torch.tensor([[expected, 1.0], [2 * expected, 2.0]])
        sums = RatioSums(confidence=torch.tensor([expected, 1.0]), received=received)
        stepped = step_from_ratios(start, sums, step_size=0.05, max_alpha=None)
        assert stepped[0] == pytest.approx(1.45), f"weak is {weak}"


def _leaning(ratio: float) -> torch.Tensor:
    """Logits of two blocks in which modality 1's labels get ``ratio`` times modality 2's."""
    more, less = ratio / (1 + ratio), 1 / (1 + ratio)
    return torch.tensor([[less, more], [more, less], [more, less], [less, more]]).log()


@pytest.mark.parametrize(("received", "alpha"), [(4.0, 1.55), (3.5, 1.55), (2.5, 1.45)])
def test_the_ratio_received_is_the_mean_over_the_swaps_that_have_rows(
    received: float, alpha: float
) -> None:
    source = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]])
    raw = torch.tensor([[0.75, 0.25], [0.75, 0.25]])  # 3 is expected
    given = (torch.full((2,), 1.5), raw, source, _leaning(received), source)
    assert F.ratio_weak_modality_step(*given)[0] == pytest.approx(alpha)
    # One block alone: its ratio, not half of it.
    first = torch.tensor([True, True, False, False])
    for valid in (first, ~first):
        assert F.ratio_weak_modality_step(*given, valid=valid)[0] == pytest.approx(alpha)


@pytest.mark.parametrize(("received", "alpha"), [(4.0, 1.55), (2.0, 1.45)])
def test_rows_with_an_ignored_source_have_no_say_in_the_ratio(
    received: float, alpha: float
) -> None:
    source = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0], [1, 2], [2, 2], [2, 0], [2, 2]])
    raw = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.1, 0.9], [0.1, 0.9]])  # of two rows: 3
    labels = torch.tensor([0, 1, -1, -1])[source]
    logits = torch.zeros(8, 2)
    logits[:4] = _leaning(received)
    start = torch.full((2,), 1.5)
    stepped = F.ratio_weak_modality_step(start, raw, source, logits, labels)
    assert stepped[0] == pytest.approx(alpha)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_ratio_with_a_zero_on_either_side_leaves_alpha_as_it_is(swapped: bool) -> None:
    """No modality is special: 0 / x is no more of a ratio than x / 0."""
    source = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]])
    confidence = torch.tensor([[0.0, 0.5], [0.0, 0.5]])
    even, vanishing = torch.zeros(4, 3), torch.tensor([[0.0, -200.0, 0.0]]).repeat(4, 1)
    labels = torch.tensor([[1, 0]] * 4)
    for raw, logits in ((confidence, even), (confidence + 0.1, vanishing)):
        given = (raw, source, logits, labels)
        if swapped:
            given = (raw.flip(1), source.flip(1), logits, labels.flip(1))
        assert F.ratio_weak_modality_step(torch.full((2,), 1.5), *given).tolist() == [1.5, 1.5]
    nothing = torch.tensor([[-200.0, -200.0, 0.0]]).repeat(4, 1)  # neither label gets anything
    given = (confidence + 0.1, source, nothing, labels)
    assert F.ratio_weak_modality_step(torch.full((2,), 1.5), *given).tolist() == [1.5, 1.5]
    usual = (confidence + 0.1, source, even, labels)
    assert F.ratio_weak_modality_step(torch.full((2,), 1.5), *usual).tolist() != [1.5, 1.5]
