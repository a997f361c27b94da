"""OPM, against worked numbers and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.nn import functional as F

from benchmarks.methods import opm, shared
from benchmarks.methods.base import Method
from benchmarks.methods.opm import OPM
from tests.benchmarks.methods.helpers import (
    assert_close,
    assert_same_gradients,
    counts,
    lopsided_model,
    seeds,
    set_up,
    started,
    step_gradients,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_ratios


def test_opm_worked_example() -> None:
    rates = opm.drop_rates(torch.tensor([6.0, 4.0]), 0.5, 0.5)
    assert_close(rates, [0.615529, 0])
    assert_close(opm.drop_rates(torch.tensor([6.0, 4.0]), 0.4, 0.5), [0.492423, 0])
    assert_close(opm.drop_rates(torch.tensor([1.0, 4.0]), 0.5, 0.5), [0, 0.748764], atol=2e-5)
    factors = opm.feature_factors(rates, 1000, torch.Generator().manual_seed(0))
    assert_close(factors[1], torch.full((1000,), 1.444595))
    assert_close(factors[0].unique(), [0, 1.444595])
    assert_close(factors[1] * 2, torch.full((1000,), 2.889191))
    assert_close(factors[0].mean(), 0.555405, atol=0.06)


def test_opm_ratios_of_three_modalities() -> None:
    scores = torch.tensor([5.0, 3.0, 2.0])
    assert_close(shared.mean_ratios(scores), [2.083333, 1.05, 0.533333])
    rates = opm.drop_rates(scores, 0.5, 0.5)
    wanted = [0.5 * (1 + 0.5 * math.tanh(lead)) for lead in (1.083333, 0.05)]
    assert_close(rates, [*wanted, 0])
    theta = sum(wanted) / 3
    factors = opm.feature_factors(rates, 4000, torch.Generator().manual_seed(0))
    assert_close(factors.amax(dim=1), [1 / (1 - theta)] * 3)
    assert_close((factors == 0).double().mean(dim=1), rates, atol=0.03)
    together = ((factors[0] == 0) & (factors[1] == 0)).double().mean()
    assert_close(together, wanted[0] * wanted[1], atol=0.03)  # drawn apart, row by row


def test_opm_rates_end_at_one() -> None:
    rates = opm.drop_rates(torch.tensor([9.0, 1.0]), 0.9, 2.0)
    assert rates.tolist() == [1, 0]
    factors = opm.feature_factors(rates, 50, torch.Generator().manual_seed(0))
    assert (factors[0] == 0).all()
    assert_close(factors[1], torch.full((50,), 2.0))


@given(counts, seeds)
def test_opm_rates_match_slow_loops(count: tuple[int, int, int], seed: int) -> None:
    scores = np.random.default_rng(seed).uniform(0.01, 5, size=count[0])
    wanted = []
    for ratio in slow_ratios(scores):
        lead = math.tanh(max(ratio - 1, 0))
        wanted.append(min(0.8 * (1 + 0.5 * lead), 1) if lead > 0 else 0)
    assert_close(opm.drop_rates(torch.from_numpy(scores), 0.8, 0.5), wanted)
    assert min(wanted) == 0  # so that no row can lose all


def test_opm_with_a_rate_of_zero_is_joint_training() -> None:
    model = lopsided_model(3)
    plain = step_gradients(set_up(Method(), model), model)
    method = started(OPM(q_base=0, p_exe=1, warmup=0), model)
    assert_same_gradients(step_gradients(method, model), plain)


def test_opm_drops_and_rescales_the_features() -> None:
    model = lopsided_model()
    inputs, labels = tiny_rows(model, 12)
    features = {name: f.detach().requires_grad_() for name, f in model.encode(inputs).items()}
    method = started(OPM(p_exe=1, warmup=0), model)
    loss = method.loss(features, labels)
    scores = shared.label_scores(shared.stack(model.parts(features)), labels)
    rates = opm.drop_rates(scores, 0.5, 0.5)
    assert rates[0] > 0 == rates[1]
    generator = torch.Generator().manual_seed(0)
    torch.rand((), generator=generator)  # the coin
    factors = opm.feature_factors(rates, 12, generator)
    scaled = {n: f * w[:, None] for (n, f), w in zip(features.items(), factors, strict=True)}
    assert_close(loss, F.cross_entropy(model.fuse(scaled), labels))
    loss.backward()
    dropped = factors[0] == 0
    assert 0 < dropped.sum() < 12
    gradient = features["m0"].grad
    assert gradient is not None
    assert ((gradient == 0).all(dim=1) == dropped).all()


def test_opm_waits_for_its_warmup_and_its_coin() -> None:
    model = lopsided_model()
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    plain = F.cross_entropy(model.fuse(features), labels)
    method = set_up(OPM(p_exe=0.7, warmup=0.06), model, epochs=100)
    modulated = []
    for epoch in (0, 5, 6, 99):
        method.on_epoch_start(epoch)
        losses = [method.loss(features, labels) for _ in range(400)]
        modulated.append(float(np.mean([not torch.equal(loss, plain) for loss in losses])))
    assert modulated[:2] == [0, 0]
    assert modulated[2:] == pytest.approx([0.7, 0.7], abs=0.07)
