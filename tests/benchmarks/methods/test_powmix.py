"""PowMix, against worked numbers and slow loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.methods import powmix
from benchmarks.methods.base import Method
from benchmarks.methods.powmix import PowMix
from tests.benchmarks.methods.helpers import (
    assert_close,
    generator,
    loss_of,
    random_parts,
    seeds,
    started,
    tiny_model,
    tiny_rows,
)


def test_powmix_worked_example() -> None:
    draw, mask = torch.tensor([[[0.5, 0.3, 0.2]]]), torch.tensor([[True, False, True]])
    assert_close(powmix.normalize(draw * mask), [[[0.714275, 0, 0.285710]]])
    f_1 = torch.tensor([[1.0, 3.0], [0.0, 2.0], [2.0, -1.0]])
    f_2 = torch.tensor([[1.0], [4.0], [0.5]]).expand(3, 2)  # one column, twice
    features = torch.stack([f_1, f_2])
    attention = powmix.gap_attention(features)
    assert_close(attention.T, [[0.666666, 0.333334], [0.200001, 0.799999], [0.5, 0.5]])
    weights = powmix.mixing_weights(draw, mask, attention)
    assert_close(weights[0], [[0.769218, 0, 0.230766]])
    assert_close(weights[1], [[0.624984, 0, 0.374989]])
    mixed, targets = powmix.mix(features, F.one_hot(torch.tensor([0, 1, 1])).float(), weights)
    assert_close(mixed[0], [[1.230750, 2.076888]])
    assert_close(mixed[1], [[0.812479, 0.812479]])
    assert_close(targets, [[0.697101, 0.302878]])


def test_powmix_soft_cross_entropy_of_labels_is_cross_entropy() -> None:
    logits, labels = random_parts(0, 1, 5)[0], torch.tensor([0, 2, 1, 1, 0])
    found = powmix.soft_cross_entropy(logits, F.one_hot(labels, 3).double())
    assert_close(found, F.cross_entropy(logits, labels).item())


@given(seeds, st.integers(2, 4), st.integers(1, 6), st.booleans())
def test_powmix_weights_and_mixtures(seed: int, m: int, b: int, isotropic: bool) -> None:
    rng = np.random.default_rng(seed)
    n, d = 3, 2
    draw = rng.dirichlet(np.ones(b), size=(1 if isotropic else m, n))
    mask = rng.random((n, b)) < 0.6
    features = rng.standard_normal((m, b, d)) + 0.5
    one_hot = np.eye(3)[rng.integers(3, size=b)]

    attention = np.zeros((m, b))
    for i in range(b):
        scores = [max(features[k, i].mean(), 0) + 1e-5 for k in range(m)]
        attention[:, i] = np.array(scores) / math.fsum(scores)
    mixed, targets = np.zeros((m, n, d)), np.zeros((n, 3))
    for k, s in itertools.product(range(m), range(n)):
        row = [draw[0 if isotropic else k, s, i] * mask[s, i] for i in range(b)]
        row = [w / (math.fsum(row) + 1e-5) * attention[k, i] for i, w in enumerate(row)]
        row = [w / (math.fsum(row) + 1e-5) for w in row]
        for i, w in enumerate(row):
            mixed[k, s] += w * features[k, i]
            targets[s] += w * one_hot[i] / m

    tensor = torch.tensor(features)
    found_attention = powmix.gap_attention(tensor)
    assert_close(found_attention, attention)
    weights = powmix.mixing_weights(torch.tensor(draw), torch.tensor(mask), found_attention)
    found = powmix.mix(tensor, torch.tensor(one_hot), weights)
    assert_close(found[0], mixed)
    assert_close(found[1], targets)


def test_powmix_masks_are_drawn_again_once() -> None:
    masks = powmix.draw_mask(20_000, 2, 0.5, generator())
    # Both rows: at once (1/4), or in the second draw (3/4 of 1/4).
    assert_close(masks.all(dim=1).float().mean(), 0.25 + 0.75 * 0.25, atol=0.01)
    assert_close(powmix.draw_mask(5_000, 40, 0.75, generator()).float().mean(), 0.75, atol=0.01)


@pytest.mark.parametrize("iid_mixes", [False, True])
def test_powmix_draws_for_each_modality(iid_mixes: bool) -> None:
    method = PowMix(iid_mixes=iid_mixes, reweight="uniform", num_mixes=20)
    started(method, tiny_model(3))
    weights = method.draw_weights(torch.rand(3, 8, 4, generator=generator()))
    assert weights.shape == (3, 20, 8)
    assert torch.equal(weights[0], weights[1]) != iid_mixes
    assert torch.equal(weights[0] == 0, weights[1] == 0)  # the mask is shared
    assert_close(weights.sum(dim=2), np.ones((3, 20)), atol=1e-3)


def test_powmix_concentration_sets_how_many_rows_count() -> None:
    largest = []
    for concentration in ((0.01, 0.01), (0.01, 200.0), (200.0, 200.0)):
        method = PowMix(concentration=concentration, keep=1.0, reweight="uniform")
        started(method, tiny_model(2))
        weights = method.draw_weights(torch.rand(2, 10, 4))
        assert (weights >= 0).all()
        largest.append(weights.amax(dim=2).mean().item())
    assert largest[0] > 0.9
    assert 0.12 < largest[1] < 0.5
    assert largest[2] < 0.12


def test_powmix_keeps_rows_with_the_given_probability() -> None:
    for keep in (0.75, 1.0):
        method = PowMix(keep=keep, reweight="uniform", concentration=(5.0, 5.0))
        started(method, tiny_model(2))
        weights = method.draw_weights(torch.rand(2, 40, 4))
        assert_close((weights > 0).float().mean(), keep, atol=0.01)


@pytest.mark.parametrize("reweight", ["gap", "uniform"])
def test_powmix_gap_prefers_the_rows_in_which_a_modality_is_active(reweight: Any) -> None:
    method = PowMix(reweight=reweight, iid_mixes=False)
    started(method, tiny_model(2))
    features = torch.ones(2, 8, 4)
    features[0, :4] = 9.0
    features.requires_grad_()
    assert not method.draw_weights(features).requires_grad
    first, second = method.draw_weights(features)[:, :, :4].sum(dim=2)
    mixed = (first > 0.01) & (first < 0.99)
    assert mixed.float().mean() > 0.9
    assert ((first > 1.01 * second) == (reweight == "gap"))[mixed].all()
    assert torch.equal(first, second) == (reweight == "uniform")


def test_powmix_adds_the_clean_loss() -> None:
    model = tiny_model(3)
    mixed = loss_of(started(PowMix(), model))
    both = loss_of(started(PowMix(clean_weight=0.5), model))
    joint = loss_of(started(Method(), model))
    assert_close(both - mixed, 0.5 * joint.item())


def test_powmix_mixes_what_it_drew() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    found = started(PowMix(), model, 4).loss(features, labels)
    method = PowMix()
    started(method, model, 4)
    stacked = torch.stack(list(features.values()))
    mixed, targets = powmix.mix(stacked, F.one_hot(labels, 3).float(), method.draw_weights(stacked))
    logits = model.fusion(torch.cat(list(mixed), dim=1))
    assert logits.shape == (256, 3)
    assert_close(found, F.cross_entropy(logits, targets).item())
