"""Fitted fusion weights against slow loops, against SciPy, and where nothing can be fitted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.nn import functional as F

from midas_aug import MidasAugError
from midas_aug.functional import fit_fusion_weights, fusion_weights
from tests.helpers import reference, strategies

PULL = 1e-4


def drawn(seed, n_rows, n_modalities, num_classes, scale=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, num_classes, n_rows)
    parts = scale * rng.normal(size=(n_rows, n_modalities, num_classes))
    for row, label in zip(parts, labels, strict=True):
        if label >= 0:  # the modalities know more and less
            row[:, label] += np.linspace(1, 0, n_modalities)
    return parts, labels


@given(
    strategies.seeds(),
    st.integers(0, 12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([0.1, 1.0, 30.0]),
    strategies.libraries(),
    st.booleans(),
)
def test_the_slope_at_the_weights_is_zero_in_slow_loops(
    seed, n_rows, n_modalities, num_classes, scale, library, as_list
):
    parts, labels = drawn(seed, n_rows, n_modalities, num_classes, scale)
    given_parts, _ = strategies.as_library(parts, "float64", library)
    if as_list:
        given_parts = [given_parts[:, m] for m in range(n_modalities)]
    given_labels, _ = strategies.as_library(labels, "int64", library)
    weights = fit_fusion_weights(given_parts, given_labels)
    strategies.assert_kind(weights, library, "float64")
    values = [float(w) for w in weights]
    loss, slope = reference.fusion_weights_loss(values, parts, labels, PULL)
    start, _ = reference.fusion_weights_loss([1.0] * n_modalities, parts, labels, PULL)
    assert loss <= start + 1e-12
    # The last step of Newton is below 1e-6: the slope is that, times the curvature.
    assert max(map(abs, slope)) <= 1e-5 * max(1.0, scale**2)


@pytest.mark.parametrize("seed", range(3))
def test_a_general_solver_finds_the_same_weights(seed):
    parts, labels = drawn(seed, 60, 3, 4)
    found = minimize(
        lambda w: reference.fusion_weights_loss(list(w), parts, labels, PULL),
        np.ones(3),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-7},
    )
    np.testing.assert_allclose(fit_fusion_weights(parts, labels), found.x, atol=1e-4)


def test_the_weight_of_one_modality_is_the_log_odds_of_its_accuracy():
    """Right in 3 of 4 rows by a margin of 1: the best margin is log 3."""
    labels = torch.tensor([0, 0, 0, 1])
    part = F.one_hot(torch.zeros(4, dtype=torch.int64), 2).float()
    assert float(fit_fusion_weights([part], labels)) == pytest.approx(math.log(3), abs=2e-3)


def test_a_modality_that_knows_nothing_gets_no_weight_and_one_that_misleads_is_subtracted():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3000) % 3
    good = F.one_hot(labels, 3) + torch.randn(3000, 3, generator=generator)
    noise = 3 * torch.randn(3000, 3, generator=generator)
    weights = fit_fusion_weights([good, noise], labels)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.0]), atol=0.1, rtol=0)
    misleading = -F.one_hot(labels, 3) + torch.randn(3000, 3, generator=generator)
    torch.testing.assert_close(
        fit_fusion_weights([good, misleading], labels), torch.tensor([1.0, -1.0]), atol=0.1, rtol=0
    )


def test_late_fusion_with_fitted_weights_is_at_least_as_likely_as_each_model_alone():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    models = [
        (size * (F.one_hot(labels, 3) + torch.randn(300, 3, generator=generator))).log_softmax(1)
        for size in (0.5, 4)  # one is not sure enough, the other one too sure
    ]
    weights = fit_fusion_weights(models, labels)
    together = sum(w * log_p for w, log_p in zip(weights, models, strict=True))
    nll = [float(F.cross_entropy(logits, labels)) for logits in (together, *models)]
    assert nll[0] < min(nll[1:])
    assert weights[0] > 1 > weights[1] > 0


def test_rows_that_are_all_told_apart_have_finite_weights():
    labels = torch.arange(6) % 3
    weights = fit_fusion_weights(30.0 * F.one_hot(labels, 3)[:, None].repeat(1, 2, 1), labels)
    assert bool(weights.isfinite().all())
    assert bool((weights > 0).all())


def test_without_a_labelled_row_the_model_stays_as_it_is():
    for n_rows in (0, 3):
        labels = torch.full((n_rows,), -100)
        assert fit_fusion_weights(torch.randn(n_rows, 2, 4), labels).tolist() == [1, 1]


def test_a_row_that_is_ignored_may_hold_anything():
    parts, labels = map(torch.from_numpy, drawn(0, 20, 2, 3))
    expected = fit_fusion_weights(parts, labels)
    assert (labels < 0).any()
    assert torch.equal(fit_fusion_weights(parts[labels >= 0], labels[labels >= 0]), expected)
    parts[labels < 0] = math.nan
    assert torch.equal(fit_fusion_weights(parts, labels), expected)


def test_many_rows_are_added_up_a_few_at_a_time(monkeypatch):
    parts, labels = map(torch.from_numpy, drawn(0, 50, 2, 3))
    whole = fit_fusion_weights(parts, labels)
    monkeypatch.setattr(fusion_weights, "ROWS", 7)
    torch.testing.assert_close(fit_fusion_weights(parts, labels), whole)


def test_half_precision_is_fitted_in_full_and_nothing_has_a_gradient():
    parts, labels = map(torch.from_numpy, drawn(0, 50, 2, 3))
    half = parts.bfloat16().requires_grad_()
    weights = fit_fusion_weights(half, labels)
    assert not weights.requires_grad
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, fit_fusion_weights(half.detach().float(), labels))


@pytest.mark.parametrize(
    ("parts", "labels", "words"),
    [
        ([], torch.zeros(2).long(), ("a part for each modality", "none")),
        ({"a": torch.zeros(2, 3)}, torch.zeros(2).long(), ("dict", "list(parts.values())")),
        (torch.zeros(2, 6, 3), torch.zeros(6).long(), ("labels", "(6,)", "(N, M, C)")),
        (torch.zeros(2, 3), torch.zeros(2).long(), ("3 axes", "(2, 3)")),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], torch.zeros(2).long(), ("parts[1]", "(2, 4)")),
        (torch.zeros(2, 1, 3), torch.zeros(3).long(), ("labels", "(3,)")),
        (
            torch.zeros(2, 1, 3),
            torch.tensor([0, 3]),
            ("parts with a column for each class", "3 columns", "at least 4 outputs"),
        ),
        (torch.zeros(2, 1, 3), torch.zeros(2), ("integer dtype", "float32")),
        (torch.full((2, 1, 3), -math.inf), torch.zeros(2).long(), ("finite parts", "log_softmax")),
    ],
)
def test_mistakes_are_explained(parts, labels, words):
    with pytest.raises(MidasAugError) as error:
        fit_fusion_weights(parts, labels)
    assert all(word in str(error.value) for word in words), str(error.value)
