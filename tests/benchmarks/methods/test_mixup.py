"""Mixup, against worked numbers and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.methods import mixup
from benchmarks.methods.draws import permutations
from benchmarks.methods.mixup import Mixup
from tests.benchmarks.methods.helpers import (
    assert_close,
    assert_joint_training,
    loss_of,
    seeds,
    started,
    tiny_model,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import softmax


def test_mixup_worked_example() -> None:
    partner = torch.tensor([1, 0])
    f_a, f_v = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0], [4.0]])
    assert_close(mixup.interpolate(f_a, partner, 0.7), [[0.7, 0.3], [0.3, 0.7]])
    assert_close(mixup.interpolate(f_v, partner, 0.7), [[2.6], [3.4]])
    logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert_close(mixup.mixed_cross_entropy(logits, labels, torch.tensor([0]), 0.7), 0.313262)
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert_close(mixup.mixed_cross_entropy(logits, labels, partner, 0.7), 0.613262)


@given(seeds, st.integers(2, 4), st.integers(1, 6), st.booleans())
def test_mixup_mixes_every_modality_with_one_partner(
    seed: int, m: int, n: int, shared: bool
) -> None:
    model = tiny_model(m)
    inputs, labels = tiny_rows(model, n, seed)
    with torch.no_grad():
        features = model.encode(inputs)
        found = started(Mixup(shared_lambda=shared), model, seed).loss(features, labels)
        again = Mixup(shared_lambda=shared)
        started(again, model, seed)
        shares = again.draw_shares().tolist()
    assert (len(set(shares)) == 1) == shared
    partner = permutations(n, (), again.generator).tolist()
    rows = [
        np.concatenate(
            [
                share * values[i].numpy() + (1 - share) * values[partner[i]].numpy()
                for share, values in zip(shares, features.values(), strict=True)
            ]
        )
        for i in range(n)
    ]
    weight, bias = model.fusion.weight.detach().numpy(), model.fusion.bias.detach().numpy()
    own_share = np.mean(shares)
    wanted = []
    for i in range(n):
        p = softmax(weight @ rows[i] + bias)
        own, other = p[labels[i]], p[labels[partner[i]]]
        wanted.append(-own_share * math.log(own) - (1 - own_share) * math.log(other))
    assert_close(found, np.mean(wanted))


def test_mixup_at_lambda_one_is_joint_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(3)
    method = started(Mixup(), model)
    monkeypatch.setattr(mixup, "dirichlet", lambda *_: torch.tensor([[1.0, 0.0]]))
    assert_joint_training(loss_of(method), model)


def test_mixup_gradient_reaches_both_samples() -> None:
    values = torch.ones(3, 2, requires_grad=True)
    mixup.interpolate(values, torch.tensor([1, 2, 0]), 0.7)[0].sum().backward()
    assert values.grad is not None
    assert_close(values.grad[:, 0], [0.7, 0.3, 0.0])


def test_mixup_draws_alpha() -> None:
    method = Mixup(alpha=0.1)
    started(method, tiny_model(2))
    shares = torch.stack([method.draw_shares() for _ in range(2000)])[:, 0]
    assert_close(shares.var(), 1 / (4 * 1.2), atol=0.01)
