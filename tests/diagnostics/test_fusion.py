"""Late fusion and its fitted weights, against slow loops and another optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from midas_aug import MidasAugError, functional
from midas_aug.diagnostics import cross_fitted_fusion, late_fusion


def draw(seed: int, modalities: int = 2, rows: int = 40, classes: int = 3, signal: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits = torch.randn(modalities, rows, classes, generator=generator, dtype=torch.float64)
    logits[0, torch.arange(rows), labels] += signal
    return logits, labels


def fit_fusion_weights(logits, labels):
    parts = logits.log_softmax(dim=2).clamp(min=-1e4)
    return functional.fit_fusion_weights(list(parts), labels)


def log_p(row) -> list[float]:
    total = math.log(math.fsum(math.exp(float(value)) for value in row))
    return [float(value) - total for value in row]


def slow_loss(weights, logits, labels) -> float:
    """Mean cross-entropy of Σ_m w_m log p_m, and the pull towards 1."""
    terms = []
    for row, label in enumerate(labels.tolist()):
        parts = [log_p(logits[m, row]) for m in range(len(logits))]
        fused = [
            math.fsum(w * part[c] for w, part in zip(weights, parts, strict=True))
            for c in range(logits.shape[2])
        ]
        terms.append(-log_p(fused)[label])
    return math.fsum(terms) / len(terms) + 5e-5 * math.fsum((w - 1) ** 2 for w in weights)


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 8), st.integers(2, 5))
def test_late_fusion_is_the_mean_of_the_probabilities(seed, modalities, rows, classes):
    logits, _ = draw(seed, modalities, rows, classes)
    fused = late_fusion(logits).exp()
    for row in range(rows):
        each = [[math.exp(v) for v in log_p(logits[m, row])] for m in range(modalities)]
        wanted = [math.fsum(p[c] for p in each) / modalities for c in range(classes)]
        assert fused[row].tolist() == pytest.approx(wanted, abs=1e-12)


@given(st.integers(0, 2**31), st.integers(2, 3))
def test_fitted_weights_are_those_that_another_optimiser_finds(seed, modalities):
    logits, labels = draw(seed, modalities)
    weights = fit_fusion_weights(logits, labels)
    found = minimize(slow_loss, np.ones(modalities), (logits, labels), method="BFGS", tol=1e-7)
    assert slow_loss(weights.tolist(), logits, labels) <= found.fun + 1e-9
    assert weights.tolist() == pytest.approx(found.x, abs=0.02)


def test_noise_gets_no_weight_and_what_misleads_a_negative_one():
    logits, labels = draw(0, rows=2000, signal=2.0)
    heard, noise = fit_fusion_weights(logits, labels)
    assert heard > 0.8
    assert abs(float(noise)) < 0.1
    misled, _ = fit_fusion_weights(torch.stack([-logits[0], logits[1]]), labels)
    assert misled < -0.5


def test_rows_that_are_all_told_apart_have_finite_weights():
    labels = torch.arange(30) % 3
    sure = 50.0 * torch.nn.functional.one_hot(labels)
    weights = fit_fusion_weights(torch.stack([sure, torch.zeros(30, 3)]), labels)
    assert weights.isfinite().all()


def test_rows_are_predicted_with_weights_that_have_not_seen_them():
    logits, labels = draw(1, rows=50)
    before = cross_fitted_fusion(logits, labels, seed=3)
    changed = labels.clone()
    changed[7] = (labels[7] + 1) % 3
    after = cross_fitted_fusion(logits, changed, seed=3)
    assert torch.equal(before.logits[7], after.logits[7])
    assert not torch.equal(before.logits, after.logits)
    assert not torch.equal(before.weights, after.weights)


def test_each_fold_has_the_weights_of_all_other_rows():
    logits, labels = draw(2, rows=12)
    fused = cross_fitted_fusion(logits, labels, folds=12).logits  # leave one out
    for row in range(12):
        others = torch.arange(12) != row
        weights = fit_fusion_weights(logits[:, others], labels[others])
        assert torch.allclose(fused[row], late_fusion(logits, weights)[row], atol=1e-6)


@given(st.integers(0, 2**31))
def test_the_influence_of_rows_is_that_of_fitting_anew(seed):
    logits, labels = draw(seed, rows=200)
    generator = torch.Generator().manual_seed(seed)
    fitted = cross_fitted_fusion(logits, labels)
    assert fitted.influence.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-9)
    left_out = int(torch.randint(200, (1,), generator=generator))
    others = torch.arange(200) != left_out
    exact = fit_fusion_weights(logits[:, others], labels[others])
    first_order = fitted.weights + fitted.influence[others].mean(dim=0)
    moved = float((exact - fitted.weights).abs().max())
    assert (exact - first_order).abs().max() <= 0.1 * moved + 1e-3


def test_rows_without_a_label_are_predicted_but_not_fitted_to():
    logits, labels = draw(4, rows=60)
    hidden = labels.clone()
    hidden[40:] = -1
    fitted = cross_fitted_fusion(logits, hidden)
    assert torch.allclose(fitted.weights, fit_fusion_weights(logits[:, :40], labels[:40]))
    assert fitted.logits.isfinite().all()
    assert not fitted.influence[40:].any()


def test_a_class_that_is_ruled_out_is_no_infinity():
    logits, labels = draw(5, rows=60)
    logits[1, :, 2] = -math.inf
    assert cross_fitted_fusion(logits, labels).logits.isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda u, y: late_fusion(u[0]), "logits with 3 axes"),
        (lambda u, y: late_fusion(u[:, :, :1]), "two classes or more"),
        (lambda u, y: late_fusion(u, torch.ones(3)), r"weights of shape \(2\)"),
        (lambda u, y: cross_fitted_fusion(u, y[:5]), "one row a label"),
        (lambda u, y: cross_fitted_fusion(u * math.nan, y), "finite logits"),
        (lambda u, y: cross_fitted_fusion(u, y, folds=1), "two folds or more"),
        (lambda u, y: cross_fitted_fusion(u[:, :3], y[:3]), "got 5 folds and 3 rows"),
        (lambda u, y: cross_fitted_fusion(u, y, seed=-1), "expected seed"),
    ],
)
def test_errors_say_what_came(call, words):
    with pytest.raises(MidasAugError, match=words):
        call(*draw(0))
