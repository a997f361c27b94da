"""The step of α (Eq. 5-7), and what both rules refuse."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from midas_aug import functional as F
from midas_aug.errors import MidasAugError
from tests.helpers import reference
from tests.helpers import strategies as own
from tests.helpers.strategies import (
    Library,
    as_library,
    as_numpy,
    assert_close,
    assert_helpful,
    assert_kind,
)


def _step(
    library: Library,
    alpha: Any,
    shares: Any,
    logits: Any,
    labels: Any,
    valid: Any = None,
    dtype: str = "float32",
    **options: Any,
) -> Any:
    return F.weak_modality_step(
        as_library(alpha, "float32", library)[0],
        as_library(shares, "float32", library)[0],
        as_library(logits, dtype, library)[0],
        as_library(labels, "int64", library)[0],
        valid=None if valid is None else as_library(valid, "bool", library)[0],
        **options,
    )


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(), own.class_counts(), own.modality_counts())
def test_step_moves_the_weak_modality_and_sets_the_others_to_one(
    data: st.DataObject, library: Library, s: int, c: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    dtype = data.draw(own.feature_dtypes(library))
    alpha = np.where(rng.random(m) < 0.3, 1.0, 1.0 + rng.random(m))
    shares = data.draw(own.shares_arrays(s, m)).astype(np.float32)
    labels = data.draw(own.source_label_arrays(s, m, c))
    logits, exact = as_library(data.draw(own.logits(s, c)), dtype, library)
    valid = rng.random(s) < 0.8 if data.draw(st.booleans()) else None
    used = np.ones(s, np.bool_) if valid is None else valid
    if used.any():  # rounding may decide a near tie: leave those to the exact tests below
        mean_share = shares[used].astype(np.float64).mean(0)
        mean_fused = reference.fusion_shares(exact, labels)[used].mean(0)
        weak = int(mean_share.argmin())
        assume(np.sort(mean_share)[1] - mean_share[weak] > 1e-5)
        assume(abs(mean_share[weak] - mean_fused[weak]) > 1e-3)
    step_size = data.draw(st.sampled_from([0.05, 0.3]))
    max_alpha = data.draw(st.sampled_from([None, 1.2, 10.0]))
    out = F.weak_modality_step(
        as_library(alpha, "float32", library)[0],
        as_library(shares, "float32", library)[0],
        logits,
        as_library(labels, "int64", library)[0],
        valid=None if valid is None else as_library(valid, "bool", library)[0],
        step_size=step_size,
        max_alpha=max_alpha,
    )
    assert_kind(out, library, "float32")
    wanted = reference.weak_modality_step(alpha, shares, exact, labels, valid, step_size, max_alpha)
    assert_close(out, wanted)


LEANS_TO_0 = [[np.log(9.0), 0.0, -50.0]]  # q = (0.9, 0.1) for the labels (0, 1)


@own.both_libraries
def test_weak_modality_gains_when_the_fusion_model_uses_it_less_than_its_share(
    library: Library,
) -> None:
    out = _step(library, [1.3, 1.1], [[0.75, 0.25]], LEANS_TO_0, [[0, 1]])
    assert_close(out, [1.0, 1.15])


@own.both_libraries
def test_weak_modality_loses_when_the_fusion_model_uses_it_more_than_its_share(
    library: Library,
) -> None:
    out = _step(library, [1.3, 1.2], [[0.25, 0.75]], LEANS_TO_0, [[0, 1]])
    assert_close(out, [1.25, 1.0])


@own.both_libraries
def test_alpha_never_falls_below_one_nor_rises_above_its_maximum(library: Library) -> None:
    low = _step(library, [1.02, 1.0], [[0.25, 0.75]], LEANS_TO_0, [[0, 1]])
    assert as_numpy(low).tolist() == [1.0, 1.0]
    high = _step(
        library, [1.0, 1.98], [[0.75, 0.25]], LEANS_TO_0, [[0, 1]], step_size=0.5, max_alpha=2.0
    )
    assert as_numpy(high).tolist() == [1.0, 2.0]


@own.both_libraries
def test_equal_means_leave_the_weak_alpha_as_it_is(library: Library) -> None:
    flat = [[0.0, 0.0, 0.0]]
    out = _step(library, [1.5, 1.25], [[0.5, 0.5]], flat, [[0, 1]])
    assert as_numpy(out).tolist() == [1.5, 1.0]  # a tie: the first is the weak one; sign(0) = 0


@own.both_libraries
def test_signal_is_the_mean_of_normalised_values_and_not_a_ratio_of_means(
    library: Library,
) -> None:
    # p of the labels: (0.9, 0.05) and (0.001, 0.003), the third class has the rest.
    p = np.array([[0.9, 0.05, 0.05], [0.001, 0.003, 0.996]])
    labels = [[0, 1], [0, 1]]
    # mean q of modality 1 is (0.0526 + 0.75) / 2 = 0.401; the ratio of means would give 0.055.
    out = _step(library, [1.0, 1.5], [[0.7, 0.3], [0.7, 0.3]], np.log(p), labels)
    assert_close(out, [1.0, 1.45])


@own.every_dtype
def test_labels_far_from_the_top_class_still_give_a_signal(library: Library, dtype: str) -> None:
    # both probabilities underflow, their ratio does not: q = (0.982, 0.018)
    logits = [[0.0, -1000.0, -1004.0]]
    gains = _step(library, [1.0, 1.0], [[0.9, 0.1]], logits, [[1, 2]], dtype=dtype)
    loses = _step(library, [1.0, 1.2], [[0.99, 0.01]], logits, [[1, 2]], dtype=dtype)
    assert_close(gains, [1.0, 1.05])
    assert_close(loses, [1.0, 1.15])


@own.both_libraries
def test_no_valid_row_leaves_alpha_as_it_is(library: Library) -> None:
    alpha = [1.5, 1.25, 1.0]
    empty = _step(library, alpha, np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)))
    assert as_numpy(empty).tolist() == alpha
    shares, labels = np.full((2, 3), 1 / 3), np.array([[0, 1, 1], [-100, 1, 2]])
    out = _step(library, alpha, shares, np.zeros((2, 4)), labels, valid=[False, False])
    assert as_numpy(out).tolist() == alpha


@own.quick
@given(st.data(), own.libraries(), own.batch_sizes(min_value=2), own.modality_counts())
def test_rows_that_are_not_valid_have_no_say(
    data: st.DataObject, library: Library, s: int, m: int
) -> None:
    rng = np.random.default_rng(data.draw(own.seeds()))
    valid = rng.random(s) < 0.5
    shares, labels = rng.dirichlet(np.ones(m), s), rng.integers(0, 5, (s, m))
    logits = rng.standard_normal((s, 5))
    alpha = 1 + rng.random(m)
    kept = _step(library, alpha, shares[valid], logits[valid], labels[valid])
    shares[~valid], logits[~valid], labels[~valid, 0] = 0.0, 60000.0, -100
    shares[~valid, 0] = 1.0
    assert_close(_step(library, alpha, shares, logits, labels, valid=valid), as_numpy(kept))


@own.both_libraries
def test_order_of_rows_does_not_matter_and_modalities_are_symmetric(library: Library) -> None:
    rng = np.random.default_rng(5)
    shares, labels = rng.dirichlet([3, 2, 1], 20), rng.integers(0, 5, (20, 3))
    logits, rows = rng.standard_normal((20, 5)), rng.permutation(20)
    alpha = np.array([1.1, 1.2, 1.3])
    first = as_numpy(_step(library, alpha, shares, logits, labels))
    for order in map(list, itertools.permutations(range(3))):
        again = _step(
            library, alpha[order], shares[rows][:, order], logits[rows], labels[rows][:, order]
        )
        assert_close(again, first[order])


@own.both_libraries
def test_alpha_grows_by_one_step_a_call(library: Library) -> None:
    alpha: Any = as_library([1.0, 1.0], "float32", library)[0]
    for k in range(1, 6):
        before = as_numpy(alpha).copy()
        after = _step(library, before, [[0.75, 0.25]], LEANS_TO_0, [[0, 1]])
        assert_close(after, [1.0, 1.0 + 0.05 * k])
        alpha = after


def test_step_carries_no_gradient_and_changes_no_input() -> None:
    alpha = torch.tensor([1.5, 1.0])
    shares = torch.tensor([[0.25, 0.75]], requires_grad=True)
    logits = torch.tensor(LEANS_TO_0, dtype=torch.float32, requires_grad=True)
    out = F.weak_modality_step(alpha, shares, logits, torch.tensor([[0, 1]]))
    assert not out.requires_grad
    assert out is not alpha
    assert alpha.tolist() == [1.5, 1.0]
    assert shares.tolist() == [[0.25, 0.75]]


@own.both_libraries
@pytest.mark.parametrize(
    ("alpha", "shares", "logits", "labels", "valid", "label_dtype", "received"),
    [
        ((3,), (4, 2), (4, 5), (4, 2), None, "int64", ["3", "2"]),
        ((2, 1), (4, 2), (4, 5), (4, 2), None, "int64", ["(2, 1)"]),
        ((2,), (4,), (4, 5), (4, 2), None, "int64", ["(4,)"]),
        ((2,), (3, 2), (4, 5), (4, 2), None, "int64", ["3", "4"]),
        ((2,), (4, 2), (4,), (4, 2), None, "int64", ["(4,)"]),
        ((2,), (4, 2), (3, 5), (4, 2), None, "int64", ["3", "4"]),
        ((2,), (4, 2), (4, 5), (4,), None, "int64", ["(4,)"]),
        ((2,), (4, 2), (4, 5), (4, 2), (3,), "int64", ["3", "4"]),
        ((2,), (4, 2), (4, 5), (4, 2), (4, 1), "int64", ["(4, 1)"]),
        ((2,), (4, 2), (4, 5), (4, 2), None, "float32", ["float32"]),
    ],
)
def test_step_refuses_what_does_not_fit(
    library: Library,
    alpha: tuple[int, ...],
    shares: tuple[int, ...],
    logits: tuple[int, ...],
    labels: tuple[int, ...],
    valid: tuple[int, ...] | None,
    label_dtype: str,
    received: list[str],
) -> None:
    a, c, z = (as_library(np.ones(x), "float32", library)[0] for x in (alpha, shares, logits))
    native = as_library(np.ones(labels), label_dtype, library)[0]
    mask = None if valid is None else as_library(np.ones(valid), "bool", library)[0]
    with pytest.raises(MidasAugError) as error:
        F.weak_modality_step(a, c, z, native, valid=mask)
    assert isinstance(error.value, ValueError)
    assert_helpful(str(error.value), *received)


@own.both_libraries
def test_step_refuses_a_label_that_is_no_class(library: Library) -> None:
    with pytest.raises(MidasAugError) as error:
        _step(library, [1.0, 1.0], np.full((2, 2), 0.5), np.zeros((2, 3)), [[0, 1], [2, 7]])
    assert_helpful(str(error.value), "7", "3")


@own.both_libraries
def test_step_refuses_an_integer_alpha_that_could_not_hold_the_step(library: Library) -> None:
    alpha, labels = (as_library(x, "int64", library)[0] for x in ([1, 1], [[0, 1]]))
    shares, logits = (as_library(np.ones(x), "float32", library)[0] for x in ((1, 2), (1, 3)))
    with pytest.raises(MidasAugError) as error:
        F.weak_modality_step(alpha, shares, logits, labels)
    assert_helpful(str(error.value), "int64")


def _step_by(rule: str, **setting: float) -> torch.Tensor:
    logits, labels, ones = torch.zeros(2, 2), torch.tensor([[1, 0], [0, 1]]), torch.ones(2, 2)
    if rule == "paper":
        return F.weak_modality_step(ones[0], ones, logits, labels, **setting)
    return F.ratio_weak_modality_step(ones[0], ones, labels, logits, labels, **setting)


both_rules = pytest.mark.parametrize("rule", ["paper", "ratio"])


@pytest.mark.parametrize("step_size", [float("nan"), float("inf"), -0.5])
@both_rules
def test_steps_that_are_no_numbers_are_refused(rule: str, step_size: float) -> None:
    with pytest.raises(MidasAugError, match=r"finite step_size \(η\) of at least 0"):
        _step_by(rule, step_size=step_size)


@both_rules
def test_a_maximum_below_one_is_refused_and_one_holds_alpha_there(rule: str) -> None:
    for max_alpha in (0.5, 0.0, float("nan")):
        with pytest.raises(MidasAugError, match="finite max_alpha of at least 1"):
            _step_by(rule, max_alpha=max_alpha)
    assert _step_by(rule, max_alpha=1.0).tolist() == [1.0, 1.0]
    assert _step_by(rule, step_size=0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("broken", ["shares", "logits"])
def test_a_step_on_numbers_that_are_not_finite_changes_nothing(broken: str) -> None:
    alpha = torch.tensor([1.0, 1.3])
    shares, logits = torch.tensor([[0.6, 0.4]]), torch.tensor([[2.0, 0.0]])
    labels = torch.tensor([[0, 1]])
    assert not torch.equal(F.weak_modality_step(alpha, shares, logits, labels), alpha)
    {"shares": shares, "logits": logits}[broken][0, 0] = torch.nan
    assert torch.equal(F.weak_modality_step(alpha, shares, logits, labels), alpha)


@pytest.mark.parametrize("with_valid", [False, True])
@both_rules
def test_rows_with_a_negative_label_do_not_count(rule: str, with_valid: bool) -> None:
    torch.manual_seed(0)
    logits, shares = torch.randn(6, 3), torch.rand(6, 2).softmax(dim=1)
    confidence, source = torch.rand(3, 2), torch.tensor([[1, 0], [2, 1], [0, 2]] * 2)
    labels = torch.tensor([[0, 1], [-1, 2], [2, 1], [1, -1], [2, 0], [1, 0]])
    labelled = (labels >= 0).all(dim=1)
    for value in (0.0, 50.0):  # whatever these rows hold
        logits[~labelled] = value * torch.randn(2, 3)
        found = []
        for mask in (torch.ones(6).bool() if with_valid else None, labelled):
            if rule == "paper":
                now = F.weak_modality_step(torch.ones(2), shares, logits, labels, valid=mask)
            else:
                now = F.ratio_weak_modality_step(
                    torch.ones(2), confidence, source, logits, labels, valid=mask
                )
            found.append(now)
        assert torch.equal(*found)
