"""MCR, against worked numbers and slow loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from benchmarks.methods import mcr
from benchmarks.methods.draws import permutations
from benchmarks.methods.mcr import MCR
from tests.benchmarks.methods.helpers import (
    all_close,
    assert_close,
    assert_joint_training,
    generator,
    gradients_of,
    loss_of,
    random_parts,
    seeds,
    started,
    tiny_model,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_js

ENCODED = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]])  # f_a, f_v
HEAD = torch.stack([torch.eye(2), 0.5 * torch.eye(2)])  # W_0, W_1
SWAP = torch.tensor([[[1, 0]], [[1, 0]]])  # one permutation for each of two modalities
PLUS_MINUS = np.array([[-1.0, 1.0], [1.0, -1.0]])


def test_mcr_worked_divergences() -> None:
    parts = ENCODED @ HEAD.mT
    base = parts.sum(dim=0)
    assert mcr.proper_subsets(2).tolist() == [[False, True], [True, False]]
    assert_close(mcr.joint_divergences(parts, base, SWAP), [0.012959, 0.315665])
    of_v, of_a = mcr.divergences(parts, base, SWAP)
    assert of_a[0] == of_a[1]
    assert of_v[0] == of_v[1]
    assert_close(of_a[0], 0.315665)
    assert_close(of_v[1], 0.012959)


@pytest.mark.parametrize("detach_base", [False, True])
def test_mcr_worked_greedy_game(detach_base: bool) -> None:
    encoded, head = ENCODED.clone().requires_grad_(), HEAD.clone().requires_grad_()
    parts = encoded @ head.mT
    base = parts.sum(dim=0)
    value = mcr.competition(parts, base.detach() if detach_base else base, SWAP)
    assert_close(value, 0.0)
    value.backward()
    assert encoded.grad is not None
    assert head.grad is not None
    assert_close(encoded.grad[0], 0.07914 * PLUS_MINUS)
    assert_close(encoded.grad[1], 0.03957 * PLUS_MINUS)
    # With a live head the contributions W_m f_m are detached, not the features.
    assert_close(head.grad[0], 0.15828 * PLUS_MINUS)
    assert_close(head.grad[1], 0.07914 * PLUS_MINUS)


@pytest.mark.parametrize(
    ("mode", "detach_base", "slope"),
    [
        ("independent", False, 0.11434),
        ("independent", True, 0.06391),
        ("collaborative", False, 0.09910),
        ("collaborative", True, 0.04867),
    ],
)
def test_mcr_worked_other_games(mode: mcr.Mode, detach_base: bool, slope: float) -> None:
    encoded = ENCODED.clone().requires_grad_()
    parts = encoded @ HEAD.mT
    base = parts.sum(dim=0)
    value = mcr.competition(parts, base.detach() if detach_base else base, SWAP, mode)
    assert_close(value, -0.328623)
    value.backward()
    assert encoded.grad is not None
    assert_close(encoded.grad[0, 0], [-slope, slope])


@given(seeds, st.integers(2, 4), st.integers(1, 6), st.integers(1, 3))
def test_mcr_divergence_of_every_subset(seed: int, m: int, n: int, r: int) -> None:
    parts = random_parts(seed, m, n)
    permutation = permutations(n, (m, r), generator(seed))
    found = mcr.joint_divergences(parts, parts.sum(dim=0), permutation)
    subsets = mcr.proper_subsets(m)
    assert len(subsets) == 2**m - 2
    assert len(subsets.unique(dim=0)) == len(subsets)
    assert ((subsets.sum(dim=1) > 0) & (subsets.sum(dim=1) < m)).all()
    rows, index = parts.numpy(), permutation.numpy()
    for subset, value in zip(subsets.tolist(), found, strict=True):
        wanted = [
            slow_js(
                sum(rows[j, index[j, k, i] if subset[j] else i] for j in range(m)),
                rows[:, i].sum(axis=0),
            )
            for k in range(r)
            for i in range(n)
        ]
        assert_close(value, np.mean(wanted))


@given(seeds, st.integers(2, 4), st.integers(2, 5), st.sampled_from(["greedy", "independent"]))
def test_mcr_moves_one_encoder_a_term(seed: int, m: int, n: int, mode: mcr.Mode) -> None:
    parts = random_parts(seed, m, n).requires_grad_()
    permutation = permutations(n, (m, 2), generator(seed))
    base = parts.sum(dim=0).detach()
    mcr.competition(parts, base, permutation, mode).backward()
    assert parts.grad is not None
    found = parts.grad.clone()

    slow: Tensor | float = 0.0
    for i, subset in itertools.product(range(m), itertools.product((0, 1), repeat=m)):
        if not 0 < sum(subset) < m or (mode == "independent" and not subset[i]):
            continue
        for k in range(2):
            logits: Tensor | float = 0.0
            for j in range(m):
                part = parts[j] if i == j else parts[j].detach()
                logits = logits + (part[permutation[j, k]] if subset[j] else part)
            assert isinstance(logits, Tensor)
            p, q = logits.softmax(dim=1), base.softmax(dim=1)
            middle = ((p + q) / 2).log()
            js = (p * (p.log() - middle) + q * (q.log() - middle)).sum(dim=1).mean() / 2
            slow = slow + (-js if subset[i] else js) / 2
    assert isinstance(slow, Tensor)
    parts.grad = None
    slow.backward()
    assert_close(found, parts.grad.numpy())
    assert_close(mcr.competition(parts, base, permutation, mode), slow.item())
    if m == 2 and mode == "greedy":
        assert_close(slow, 0.0)


def test_nt_xent_worked_example() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    labels = torch.tensor([0, 1]).repeat(2)
    assert_close(mcr.nt_xent(vectors, labels, 0.5), 0.527587)
    assert_close(mcr.nt_xent(vectors, labels, 0.1), 0.069151)
    assert_close(mcr.nt_xent(7 * vectors, labels, 0.5), 0.527587)


@given(seeds, st.integers(2, 4), st.integers(1, 6), st.sampled_from([0.1, 0.5]))
def test_nt_xent_is_the_mean_over_pairs_of_a_class(
    seed: int, m: int, n: int, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors, labels = rng.standard_normal((m * n, 3)), np.tile(rng.integers(3, size=n), m)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    losses = []
    for i, j in itertools.permutations(range(m * n), 2):
        if labels[i] == labels[j]:
            pair = math.exp(unit[i] @ unit[j] / temperature)
            others = [
                math.exp(unit[i] @ unit[k] / temperature)
                for k in range(m * n)
                if labels[k] != labels[i]
            ]
            losses.append(-math.log(pair / (pair + math.fsum(others))))
    found = mcr.nt_xent(torch.tensor(vectors), torch.tensor(labels), temperature)
    assert_close(found, np.mean(losses))


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_mcr_without_weights_is_joint_training(num_modalities: int) -> None:
    model = tiny_model(num_modalities)
    method = started(MCR(regularizer=0.0, unimodal=0.0, contrastive=0.0), model)
    assert_joint_training(loss_of(method), model)


@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("mode", ["greedy", "independent", "collaborative"])
def test_mcr_trains_the_head_in_the_collaborative_game_alone(
    num_modalities: int, mode: mcr.Mode
) -> None:
    model = tiny_model(num_modalities)
    method = MCR(mode=mode)
    started(method, model)
    inputs, _ = tiny_rows(model, 12)
    value = method.game(model.encode(inputs))
    value.backward()
    if mode == "greedy" and num_modalities == 2:
        assert_close(value, 0.0, atol=1e-7)
    assert all(
        p.grad is not None and p.grad.abs().max() > 1e-6 for p in model.encoders.parameters()
    )
    head = model.fusion.weight.grad
    assert (head is not None and head.abs().max() > 1e-6) == (mode == "collaborative")


@pytest.mark.parametrize("mode", ["greedy", "independent", "collaborative"])
def test_mcr_plays_the_game_of_the_model(mode: mcr.Mode) -> None:
    model = tiny_model(3)
    inputs, _ = tiny_rows(model, 12)
    method = MCR(mode=mode, num_permutations=5)
    started(method, model, seed=2)
    method.game(model.encode(inputs)).backward()
    found = gradients_of(model.encoders)
    parts = torch.stack(list(model.parts(model.encode(inputs)).values()))
    base = parts.sum(dim=0)
    permutation = permutations(12, (3, 5), generator(2))
    mcr.competition(
        parts, base.detach() if mode == "greedy" else base, permutation, mode
    ).backward()
    assert all_close(found, gradients_of(model.encoders))


def test_mcr_adds_its_weighted_terms() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = MCR(regularizer=5.0, unimodal=0.3, contrastive=0.2, temperature=0.25)
    started(method, model, seed=3)
    found = method.loss(features, labels)
    started(method, model, seed=3)
    heads = [F.cross_entropy(logits, labels) for logits in model.classify(features).values()]
    contrast = mcr.nt_xent(torch.cat(list(features.values())), labels.repeat(3), 0.25)
    joint = F.cross_entropy(model.fuse(features), labels)
    game = method.game(features)
    assert abs(game.item()) > 1e-4
    wanted = joint + 0.3 * sum(heads) + 0.2 * contrast + 5.0 * game
    assert_close(found, wanted.item())


def test_mcr_greedy_raises_own_sensitivity() -> None:
    parts = random_parts(1, 2, 16).requires_grad_()
    permutation = permutations(16, (2, 8), generator())
    base = parts.sum(dim=0).detach()
    mcr.competition(parts, base, permutation).backward()
    assert parts.grad is not None
    before = mcr.joint_divergences(parts, base, permutation)
    for moved, other in ((0, 1), (1, 0)):
        step = torch.zeros_like(parts)
        step[moved] = -0.1 * parts.grad[moved]
        after = mcr.joint_divergences((parts + step).detach(), base, permutation)
        own_row, other_row = 1 - moved, 1 - other  # the subsets are {1}, {0}
        rise = (after - before)[own_row] - (after - before)[other_row]
        assert rise > 0
