"""LFM, against worked numbers and slow loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.methods import lfm
from benchmarks.methods.base import Method
from benchmarks.methods.lfm import LFM
from tests.benchmarks.methods.helpers import (
    all_close,
    assert_close,
    gradients_of,
    loss_of,
    random_parts,
    seeds,
    set_up,
    started,
    tiny_model,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_js, slow_reverse_js

O_A = torch.tensor([[2.0, 0.0, 0.0]])
O_V = torch.tensor([[0.0, 1.0, 0.0]])


def test_lfm_worked_example() -> None:
    parts = torch.stack([O_A, O_V])
    assert_close(lfm.alignment(parts), 0.219176)
    assert_close(lfm.alignment(parts, "js"), 0.185749)
    joint, label = (O_A + O_V) / 2, torch.tensor([0])
    assert_close(lfm.lfm_loss(joint, parts, label, 1.0), 2 * 0.680270)
    assert_close(lfm.lfm_loss(joint, parts, label, lfm.fitted_weight(0, 200)), 0.627053)


@pytest.mark.parametrize(
    ("epoch", "weight"),
    [(0, 0.204624), (25, 0.327804), (50, 0.436681), (100, 0.539155), (150, 0.821314)],
)
def test_lfm_schedule_is_stretched_to_the_run(epoch: int, weight: float) -> None:
    assert_close(lfm.fitted_weight(epoch, 200), weight)
    assert_close(lfm.fitted_weight(4 * epoch, 800), weight)
    if epoch % 25 == 0:
        assert_close(lfm.fitted_weight(epoch // 25, 8), weight)


def test_lfm_schedule_ends_where_it_was_fitted() -> None:
    assert_close(lfm.fitted_weight(199, 200), 0.915989)
    assert lfm.fitted_weight(799, 800) == lfm.fitted_weight(199, 200)
    weights = [lfm.fitted_weight(epoch, 200) for epoch in range(200)]
    assert weights[:183] == sorted(weights[:183])
    assert min(weights) == weights[0]
    assert max(weights) == weights[183] == 1.0  # the polynomial has 1.0105


@pytest.mark.parametrize("align", ["reverse_js", "js"])
def test_lfm_follows_its_schedule_on_the_parts_of_the_model(align: lfm.Align) -> None:
    model = tiny_model(2)
    method = set_up(LFM(align=align), model, epochs=8)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    parts = torch.stack(list(model.parts(features).values()))
    for epoch, weight in [(0, 0.204624), (1, 0.327804), (4, 0.539155)]:
        method.on_epoch_start(epoch)
        wanted = lfm.lfm_loss(model.fuse(features), parts, labels, weight, align)
        assert_close(method.loss(features, labels), wanted.item())


@pytest.mark.parametrize("epoch", [0, 3])
def test_lfm_without_alignment_is_twice_joint_training(epoch: int) -> None:
    model = tiny_model(3)
    method = set_up(LFM(classification_weight=1.0), model)
    method.on_epoch_start(epoch)
    loss_of(method).backward()
    found = gradients_of(model)
    joint = loss_of(started(Method(), model))
    joint.backward()
    assert_close(loss_of(method), 2 * joint.item())
    assert all_close(found, gradients_of(model), factor=2.0)


@given(seeds, st.integers(2, 4), st.integers(1, 6))
def test_lfm_alignment_is_the_mean_over_pairs_and_rows(seed: int, m: int, n: int) -> None:
    parts = random_parts(seed, m, n)
    rows = parts.numpy()
    for align, slow in (("reverse_js", slow_reverse_js), ("js", slow_js)):
        pairs = itertools.combinations(range(m), 2)
        wanted = [slow(rows[a, i], rows[b, i]) for a, b in pairs for i in range(n)]
        assert_close(lfm.alignment(parts, align), np.mean(wanted))
