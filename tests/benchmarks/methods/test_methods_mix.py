"""LFM, MCR, Mixup, PowMix and LeMDA: worked numbers, slow loops, equivalences, seeds, extremes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.model import LateFusion
from benchmarks.methods import lemda, lfm, mcr, mixup, powmix
from benchmarks.methods.base import Method
from benchmarks.methods.draws import dirichlet, dropout, permutations
from benchmarks.methods.lemda import LeMDA
from benchmarks.methods.lfm import LFM
from benchmarks.methods.mcr import MCR
from benchmarks.methods.mixup import Mixup
from benchmarks.methods.powmix import PowMix
from tests.benchmarks.methods.helpers import set_up, tiny_model, tiny_rows

Array = npt.NDArray[Any]

METHODS: dict[str, Callable[[], Method]] = {
    "lfm": LFM,
    "lfm, js, constant": lambda: LFM(align="js", classification_weight=0.5),
    "mcr": MCR,
    "mcr, independent": lambda: MCR(mode="independent"),
    "mcr, collaborative": lambda: MCR(mode="collaborative"),
    "mixup": Mixup,
    "mixup, λ each": lambda: Mixup(shared_lambda=False),
    "powmix": PowMix,
    "powmix, isotropic": lambda: PowMix(iid_mixes=False, reweight="uniform", clean_weight=1.0),
    "lemda": LeMDA,
}
DRAWING = [name for name in METHODS if not name.startswith("lfm")]

seeds = st.integers(0, 2**31 - 1)


def close(actual: Tensor | float, wanted: Any, atol: float = 1e-5) -> None:
    values = actual.detach().double().numpy() if isinstance(actual, Tensor) else actual
    np.testing.assert_allclose(values, np.asarray(wanted), rtol=0, atol=atol)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(method: Method, model: LateFusion, seed: int = 0) -> Method:
    set_up(method, model, seed=seed)
    method.on_epoch_start(0)
    return method


def loss_of(method: Method, num_rows: int = 12) -> Tensor:
    inputs, labels = tiny_rows(method.model, num_rows)
    return method.loss(method.model.encode(inputs), labels)


def gradients(module: nn.Module) -> list[Tensor]:
    """Gradients of all parameters, 0 where there is none; and forget them."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    module.zero_grad()
    return found


def all_close(first: list[Tensor], second: list[Tensor], factor: float = 1.0) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.allclose(a, factor * b, rtol=1e-5, atol=1e-7) for a, b in pairs)


def random_parts(seed: int, m: int, n: int, c: int = 3) -> Tensor:
    return 2 * torch.randn(m, n, c, generator=generator(seed), dtype=torch.float64)


def softmax(row: Array) -> Array:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def kl(p: Array, q: Array) -> float:
    return math.fsum(float(a * math.log(a / b)) for a, b in zip(p, q, strict=True))


def slow_js(first: Array, second: Array) -> float:
    p, q = softmax(first), softmax(second)
    return 0.5 * (kl(p, (p + q) / 2) + kl(q, (p + q) / 2))


def slow_reverse_js(first: Array, second: Array) -> float:
    p, q = softmax(first), softmax(second)
    return 0.5 * (kl((p + q) / 2, p) + kl((p + q) / 2, q))


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", METHODS)
def test_only_the_given_generator_is_drawn_from(name: str) -> None:
    model, before = tiny_model(3, width=16), torch.get_rng_state()
    losses = []
    for seed in (5, 5, 6):
        method = prepared(METHODS[name](), model, seed)
        loss = loss_of(method)
        loss.backward()
        method.after_backward()
        method.after_step()
        losses.append(loss.item())
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == (name in DRAWING)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("batch", ["one row", "one class", "dead", "huge"])
def test_extreme_batches_give_finite_losses_and_gradients(
    name: str, num_modalities: int, batch: str
) -> None:
    model = tiny_model(num_modalities, width=16)
    method = prepared(METHODS[name](), model)
    inputs, labels = tiny_rows(model, 1 if batch == "one row" else 7)
    if batch == "one class":
        labels = torch.ones_like(labels)
    features = model.encode(inputs)
    if batch in ("dead", "huge"):
        scale = 0.0 if batch == "dead" else 1e4
        features = {key: scale * values for key, values in features.items()}
    loss = method.loss(features, labels)
    loss.backward()
    method.after_backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in gradients(model))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_a_few_epochs_lower_the_joint_loss(name: str, num_modalities: int) -> None:
    model = tiny_model(num_modalities, width=16)
    method = set_up(METHODS[name](), model, num_rows=24)
    inputs, labels = tiny_rows(model, 24)
    parameters = [*model.parameters()]
    parameters += [p for module in method.extra_modules() for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.03)

    def clean_loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(method.predict(model.encode(inputs)), labels).item()

    at_first = clean_loss()
    for epoch in range(4):
        method.on_epoch_start(epoch)
        for rows in method.epoch_rows(epoch).rows.split(8):
            batch = {key: values[rows] for key, values in inputs.items()}
            optimizer.zero_grad()
            method.loss(model.encode(batch), labels[rows]).backward()
            method.after_backward()
            optimizer.step()
            method.after_step()
        method.on_epoch_end(epoch)
    assert clean_loss() < at_first


@pytest.mark.parametrize("method", [LFM(), MCR()])
def test_one_modality_is_refused(method: Method) -> None:
    with pytest.raises(ValueError, match="2 or more"):
        set_up(method, tiny_model(1))


@pytest.mark.parametrize("method", [Mixup(), PowMix(), LeMDA()])
def test_one_modality_will_do_where_nothing_is_compared(method: Method) -> None:
    assert loss_of(prepared(method, tiny_model(1))).isfinite()


# ---------------------------------------------------------------- draws


def test_permutations_have_every_row_once_and_differ() -> None:
    drawn = permutations(50, (2, 3), generator())
    assert drawn.shape == (2, 3, 50)
    assert (drawn.sort(dim=-1).values == torch.arange(50)).all()
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 6


def test_dropout_keeps_the_mean() -> None:
    dropped = dropout(torch.ones(100_000), 0.25, generator())
    assert set(dropped.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    close(dropped.mean(), 1.0, atol=0.01)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_two_dirichlet_shares_are_beta(alpha: float) -> None:
    share = dirichlet(torch.full((50_000, 2), alpha), generator())[:, 0]
    close(share.mean(), 0.5, atol=0.01)
    close(share.var(), 1 / (4 * (2 * alpha + 1)), atol=0.005)


# ---------------------------------------------------------------- LFM

O_A = torch.tensor([[2.0, 0.0, 0.0]])
O_V = torch.tensor([[0.0, 1.0, 0.0]])


def test_lfm_worked_example() -> None:
    parts = torch.stack([O_A, O_V])
    close(lfm.alignment(parts), 0.219176)
    close(lfm.alignment(parts, "js"), 0.185749)
    joint, label = (O_A + O_V) / 2, torch.tensor([0])
    close(lfm.lfm_loss(joint, parts, label, 1.0), 2 * 0.680270)
    close(lfm.lfm_loss(joint, parts, label, lfm.fitted_weight(0, 200)), 0.627053)


@pytest.mark.parametrize(
    ("epoch", "weight"),
    [(0, 0.204624), (25, 0.327804), (50, 0.436681), (100, 0.539155), (150, 0.821314)],
)
def test_lfm_schedule_is_stretched_to_the_run(epoch: int, weight: float) -> None:
    close(lfm.fitted_weight(epoch, 200), weight)
    close(lfm.fitted_weight(4 * epoch, 800), weight)
    if epoch % 25 == 0:
        close(lfm.fitted_weight(epoch // 25, 8), weight)


def test_lfm_schedule_ends_where_it_was_fitted() -> None:
    close(lfm.fitted_weight(199, 200), 0.915989)
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
        close(method.loss(features, labels), wanted.item())


@pytest.mark.parametrize("epoch", [0, 3])
def test_lfm_without_alignment_is_twice_joint_training(epoch: int) -> None:
    model = tiny_model(3)
    method = set_up(LFM(classification_weight=1.0), model)
    method.on_epoch_start(epoch)
    loss_of(method).backward()
    found = gradients(model)
    joint = loss_of(prepared(Method(), model))
    joint.backward()
    close(loss_of(method), 2 * joint.item())
    assert all_close(found, gradients(model), factor=2.0)


@given(seeds, st.integers(2, 4), st.integers(1, 6))
def test_lfm_alignment_is_the_mean_over_pairs_and_rows(seed: int, m: int, n: int) -> None:
    parts = random_parts(seed, m, n)
    rows = parts.numpy()
    for align, slow in (("reverse_js", slow_reverse_js), ("js", slow_js)):
        pairs = itertools.combinations(range(m), 2)
        wanted = [slow(rows[a, i], rows[b, i]) for a, b in pairs for i in range(n)]
        close(lfm.alignment(parts, align), np.mean(wanted))


# ---------------------------------------------------------------- MCR

ENCODED = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]])  # f_a, f_v
HEAD = torch.stack([torch.eye(2), 0.5 * torch.eye(2)])  # W_0, W_1
SWAP = torch.tensor([[[1, 0]], [[1, 0]]])  # one permutation for each of two modalities
PLUS_MINUS = np.array([[-1.0, 1.0], [1.0, -1.0]])


def test_mcr_worked_divergences() -> None:
    parts = ENCODED @ HEAD.mT
    base = parts.sum(dim=0)
    assert mcr.proper_subsets(2).tolist() == [[False, True], [True, False]]
    close(mcr.joint_divergences(parts, base, SWAP), [0.012959, 0.315665])
    of_v, of_a = mcr.divergences(parts, base, SWAP)
    assert of_a[0] == of_a[1]
    assert of_v[0] == of_v[1]
    close(of_a[0], 0.315665)
    close(of_v[1], 0.012959)


@pytest.mark.parametrize("detach_base", [False, True])
def test_mcr_worked_greedy_game(detach_base: bool) -> None:
    encoded, head = ENCODED.clone().requires_grad_(), HEAD.clone().requires_grad_()
    parts = encoded @ head.mT
    base = parts.sum(dim=0)
    value = mcr.competition(parts, base.detach() if detach_base else base, SWAP)
    close(value, 0.0)
    value.backward()
    assert encoded.grad is not None
    assert head.grad is not None
    close(encoded.grad[0], 0.07914 * PLUS_MINUS)
    close(encoded.grad[1], 0.03957 * PLUS_MINUS)
    # With a live head the contributions W_m f_m are detached, not the features.
    close(head.grad[0], 0.15828 * PLUS_MINUS)
    close(head.grad[1], 0.07914 * PLUS_MINUS)


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
    close(value, -0.328623)
    value.backward()
    assert encoded.grad is not None
    close(encoded.grad[0, 0], [-slope, slope])


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
        close(value, np.mean(wanted))


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
    close(found, parts.grad.numpy())
    close(mcr.competition(parts, base, permutation, mode), slow.item())
    if m == 2 and mode == "greedy":
        close(slow, 0.0)


def test_nt_xent_worked_example() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    labels = torch.tensor([0, 1]).repeat(2)
    close(mcr.nt_xent(vectors, labels, 0.5), 0.527587)
    close(mcr.nt_xent(vectors, labels, 0.1), 0.069151)
    close(mcr.nt_xent(7 * vectors, labels, 0.5), 0.527587)


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
    close(found, np.mean(losses))


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_mcr_without_weights_is_joint_training(num_modalities: int) -> None:
    model = tiny_model(num_modalities)
    loss = loss_of(prepared(MCR(regularizer=0.0, unimodal=0.0, contrastive=0.0), model))
    loss.backward()
    found = gradients(model)
    joint = loss_of(prepared(Method(), model))
    joint.backward()
    close(loss, joint.item(), atol=1e-7)
    assert all_close(found, gradients(model))


@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("mode", ["greedy", "independent", "collaborative"])
def test_mcr_trains_the_head_in_the_collaborative_game_alone(
    num_modalities: int, mode: mcr.Mode
) -> None:
    model = tiny_model(num_modalities)
    method = MCR(mode=mode)
    prepared(method, model)
    inputs, _ = tiny_rows(model, 12)
    value = method.game(model.encode(inputs))
    value.backward()
    if mode == "greedy" and num_modalities == 2:
        close(value, 0.0, atol=1e-7)
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
    prepared(method, model, seed=2)
    method.game(model.encode(inputs)).backward()
    found = gradients(model.encoders)
    parts = torch.stack(list(model.parts(model.encode(inputs)).values()))
    base = parts.sum(dim=0)
    permutation = permutations(12, (3, 5), generator(2))
    mcr.competition(
        parts, base.detach() if mode == "greedy" else base, permutation, mode
    ).backward()
    assert all_close(found, gradients(model.encoders))


def test_mcr_adds_its_weighted_terms() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = MCR(regularizer=5.0, unimodal=0.3, contrastive=0.2, temperature=0.25)
    prepared(method, model, seed=3)
    found = method.loss(features, labels)
    prepared(method, model, seed=3)
    heads = [F.cross_entropy(logits, labels) for logits in model.classify(features).values()]
    contrast = mcr.nt_xent(torch.cat(list(features.values())), labels.repeat(3), 0.25)
    joint = F.cross_entropy(model.fuse(features), labels)
    game = method.game(features)
    assert abs(game.item()) > 1e-4
    wanted = joint + 0.3 * sum(heads) + 0.2 * contrast + 5.0 * game
    close(found, wanted.item())


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


# ---------------------------------------------------------------- Mixup


def test_mixup_worked_example() -> None:
    partner = torch.tensor([1, 0])
    f_a, f_v = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0], [4.0]])
    close(mixup.interpolate(f_a, partner, 0.7), [[0.7, 0.3], [0.3, 0.7]])
    close(mixup.interpolate(f_v, partner, 0.7), [[2.6], [3.4]])
    logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    close(mixup.mixed_cross_entropy(logits, labels, torch.tensor([0]), 0.7), 0.313262)
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    close(mixup.mixed_cross_entropy(logits, labels, partner, 0.7), 0.613262)


@given(seeds, st.integers(2, 4), st.integers(1, 6), st.booleans())
def test_mixup_mixes_every_modality_with_one_partner(
    seed: int, m: int, n: int, shared: bool
) -> None:
    model = tiny_model(m)
    inputs, labels = tiny_rows(model, n, seed)
    with torch.no_grad():
        features = model.encode(inputs)
        found = prepared(Mixup(shared_lambda=shared), model, seed).loss(features, labels)
        again = Mixup(shared_lambda=shared)
        prepared(again, model, seed)
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
    close(found, np.mean(wanted))


def test_mixup_at_lambda_one_is_joint_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(3)
    method = prepared(Mixup(), model)
    monkeypatch.setattr(mixup, "dirichlet", lambda *_: torch.tensor([[1.0, 0.0]]))
    loss = loss_of(method)
    loss.backward()
    found = gradients(model)
    joint = loss_of(prepared(Method(), model))
    joint.backward()
    close(loss, joint.item(), atol=1e-7)
    assert all_close(found, gradients(model))


def test_mixup_gradient_reaches_both_samples() -> None:
    values = torch.ones(3, 2, requires_grad=True)
    mixup.interpolate(values, torch.tensor([1, 2, 0]), 0.7)[0].sum().backward()
    assert values.grad is not None
    close(values.grad[:, 0], [0.7, 0.3, 0.0])


def test_mixup_draws_alpha() -> None:
    method = Mixup(alpha=0.1)
    prepared(method, tiny_model(2))
    shares = torch.stack([method.draw_shares() for _ in range(2000)])[:, 0]
    close(shares.var(), 1 / (4 * 1.2), atol=0.01)


# ---------------------------------------------------------------- PowMix


def test_powmix_worked_example() -> None:
    draw, mask = torch.tensor([[[0.5, 0.3, 0.2]]]), torch.tensor([[True, False, True]])
    close(powmix.normalize(draw * mask), [[[0.714275, 0, 0.285710]]])
    f_1 = torch.tensor([[1.0, 3.0], [0.0, 2.0], [2.0, -1.0]])
    f_2 = torch.tensor([[1.0], [4.0], [0.5]]).expand(3, 2)  # one column, twice
    features = torch.stack([f_1, f_2])
    attention = powmix.gap_attention(features)
    close(attention.T, [[0.666666, 0.333334], [0.200001, 0.799999], [0.5, 0.5]])
    weights = powmix.mixing_weights(draw, mask, attention)
    close(weights[0], [[0.769218, 0, 0.230766]])
    close(weights[1], [[0.624984, 0, 0.374989]])
    mixed, targets = powmix.mix(features, F.one_hot(torch.tensor([0, 1, 1])).float(), weights)
    close(mixed[0], [[1.230750, 2.076888]])
    close(mixed[1], [[0.812479, 0.812479]])
    close(targets, [[0.697101, 0.302878]])


def test_powmix_soft_cross_entropy_of_labels_is_cross_entropy() -> None:
    logits, labels = random_parts(0, 1, 5)[0], torch.tensor([0, 2, 1, 1, 0])
    found = powmix.soft_cross_entropy(logits, F.one_hot(labels, 3).double())
    close(found, F.cross_entropy(logits, labels).item())


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
    close(found_attention, attention)
    weights = powmix.mixing_weights(torch.tensor(draw), torch.tensor(mask), found_attention)
    found = powmix.mix(tensor, torch.tensor(one_hot), weights)
    close(found[0], mixed)
    close(found[1], targets)


def test_powmix_masks_are_drawn_again_once() -> None:
    masks = powmix.draw_mask(20_000, 2, 0.5, generator())
    # Both rows: at once (1/4), or in the second draw (3/4 of 1/4).
    close(masks.all(dim=1).float().mean(), 0.25 + 0.75 * 0.25, atol=0.01)
    close(powmix.draw_mask(5_000, 40, 0.75, generator()).float().mean(), 0.75, atol=0.01)


@pytest.mark.parametrize("iid_mixes", [False, True])
def test_powmix_draws_for_each_modality(iid_mixes: bool) -> None:
    method = PowMix(iid_mixes=iid_mixes, reweight="uniform", num_mixes=20)
    prepared(method, tiny_model(3))
    weights = method.draw_weights(torch.rand(3, 8, 4, generator=generator()))
    assert weights.shape == (3, 20, 8)
    assert torch.equal(weights[0], weights[1]) != iid_mixes
    assert torch.equal(weights[0] == 0, weights[1] == 0)  # the mask is shared
    close(weights.sum(dim=2), np.ones((3, 20)), atol=1e-3)


def test_powmix_concentration_sets_how_many_rows_count() -> None:
    largest = []
    for concentration in ((0.01, 0.01), (0.01, 200.0), (200.0, 200.0)):
        method = PowMix(concentration=concentration, keep=1.0, reweight="uniform")
        prepared(method, tiny_model(2))
        weights = method.draw_weights(torch.rand(2, 10, 4))
        assert (weights >= 0).all()
        largest.append(weights.amax(dim=2).mean().item())
    assert largest[0] > 0.9
    assert 0.12 < largest[1] < 0.5
    assert largest[2] < 0.12


def test_powmix_keeps_rows_with_the_given_probability() -> None:
    for keep in (0.75, 1.0):
        method = PowMix(keep=keep, reweight="uniform", concentration=(5.0, 5.0))
        prepared(method, tiny_model(2))
        weights = method.draw_weights(torch.rand(2, 40, 4))
        close((weights > 0).float().mean(), keep, atol=0.01)


@pytest.mark.parametrize("reweight", ["gap", "uniform"])
def test_powmix_gap_prefers_the_rows_in_which_a_modality_is_active(reweight: Any) -> None:
    method = PowMix(reweight=reweight, iid_mixes=False)
    prepared(method, tiny_model(2))
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
    mixed = loss_of(prepared(PowMix(), model))
    both = loss_of(prepared(PowMix(clean_weight=0.5), model))
    joint = loss_of(prepared(Method(), model))
    close(both - mixed, 0.5 * joint.item())


def test_powmix_mixes_what_it_drew() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    found = prepared(PowMix(), model, 4).loss(features, labels)
    method = PowMix()
    prepared(method, model, 4)
    stacked = torch.stack(list(features.values()))
    mixed, targets = powmix.mix(stacked, F.one_hot(labels, 3).float(), method.draw_weights(stacked))
    logits = model.fusion(torch.cat(list(mixed), dim=1))
    assert logits.shape == (256, 3)
    close(found, F.cross_entropy(logits, targets).item())


# ---------------------------------------------------------------- LeMDA


def test_lemda_worked_example() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    reference = torch.tensor([[2.0, 0.0], [0.1, 0.0]])
    close(lemda.consistency(logits, reference, 0.5), 0.0419287, atol=1e-7)
    close(lemda.consistency(logits, reference, 0.6), 0.0413039, atol=1e-7)
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(2)]])
    close(lemda.latent_divergence(mean, log_variance), 0.326713)
    close(lemda.latent_divergence(mean.repeat(3, 1), log_variance.repeat(3, 1)), 0.326713)


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (16, [15, 14, 13, 12, 11, 10]),
        (128, [104, 80, 56]),
        (1024, [821, 618, 415, 212]),
        (10, []),
        (8, []),
        (4, []),
    ],
)
def test_lemda_hidden_widths(width: int, widths: list[int]) -> None:
    assert lemda.hidden_widths(width, 8, 4) == widths
    augmenter = lemda.Augmenter(width, 8, 4, generator())
    linears = [layer for layer in augmenter.modules() if isinstance(layer, nn.Linear)]
    inner = [*widths, 16, *widths[::-1], width]  # 16: mean and log-variance
    assert [layer.out_features for layer in linears] == inner
    augmented, mean, log_variance = augmenter(torch.ones(3, width))
    assert augmented.shape == (3, width)
    assert mean.shape == log_variance.shape == (3, 8)


def test_lemda_reverses_the_gradient() -> None:
    values, head = torch.tensor([3.0], requires_grad=True), torch.tensor(2.0, requires_grad=True)
    out = lemda.reverse_gradient(values, 1e-4)
    assert torch.equal(out, values)
    (out * head).sum().backward()
    assert values.grad is not None
    assert head.grad is not None
    close(values.grad, [-2e-4], atol=1e-9)
    close(head.grad, 3.0)


def test_lemda_network_is_the_autoencoder_of_the_public_code_with_a_linear_end() -> None:
    augmenter = lemda.Augmenter(16, 8, 4, generator(3))
    with torch.no_grad():
        augmenter.noise.weight.normal_(generator=generator(1))
    features = 3 * torch.randn(5, 16, generator=generator(2))
    state = augmenter.generator.get_state()
    found = augmenter(features)

    augmenter.generator.set_state(state)
    weights = iter([m.weight for m in augmenter.modules() if isinstance(m, nn.Linear)])
    biases = iter([m.bias for m in augmenter.modules() if isinstance(m, nn.Linear)])

    def unit(values: Tensor) -> Tensor:
        values = F.layer_norm(values, values.shape[1:])
        values = (values @ next(weights).T + next(biases)).clamp(min=0)
        return 2 * values * (torch.rand(values.shape, generator=augmenter.generator) >= 0.5)

    hidden = features
    for _ in range(6):
        hidden = unit(hidden)
    moments = hidden @ next(weights).T + next(biases)
    mean, log_variance = moments[:, :8], moments[:, 8:]
    deviation = log_variance.exp().sqrt()
    hidden = mean + deviation * torch.randn(mean.shape, generator=augmenter.generator)
    for _ in range(6):
        hidden = unit(hidden)
    noise = F.layer_norm(hidden, hidden.shape[1:]) @ next(weights).T + next(biases)
    for actual, wanted in zip(found, (features + noise, mean, log_variance), strict=True):
        close(actual, wanted.detach().numpy())
    assert noise.min() < 0 < noise.max()


def bare_lemda(**weights: float) -> LeMDA:
    """LeMDA with all weights 0 but the given ones."""
    names = ("consistency", "size", "latent", "adversarial")
    return LeMDA(**{"unimodal": 0.0, **{f"{name}_weight": 0.0 for name in names}, **weights})


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_lemda_without_noise_duplicates_the_batch_for_the_head_only(num_modalities: int) -> None:
    model = tiny_model(num_modalities, width=8)
    loss = loss_of(prepared(bare_lemda(), model))
    loss.backward()
    encoders, head = gradients(model.encoders), gradients(model.fusion)
    joint = loss_of(prepared(Method(), model))
    joint.backward()
    close(loss, joint.item(), atol=1e-7)
    assert all_close(head, gradients(model.fusion))
    assert all_close(encoders, gradients(model.encoders), factor=0.5)


def noisy(method: LeMDA, model: LateFusion) -> LeMDA:
    """`method`, set up, with a last layer of G that is not 0."""
    prepared(method, model)
    with torch.no_grad():
        method.augmenter.noise.weight.normal_(generator=generator(1))
    return method


def test_lemda_is_the_sum_of_its_terms() -> None:
    model = tiny_model(3, width=8)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = noisy(
        LeMDA(
            consistency_weight=0.7,
            size_weight=0.3,
            latent_weight=0.2,
            unimodal=0.4,
            confidence=0.45,
        ),
        model,
    )
    state = method.generator.get_state()
    found = method.loss(features, labels)
    method.generator.set_state(state)
    joined = torch.cat(list(features.values()), dim=1)
    augmented, mean, log_variance = method.augmenter(joined)
    assert (augmented - joined).abs().max() > 0.1
    clean, other = model.fusion(joined), model.fusion(augmented)
    p, q = other.softmax(dim=1), clean.softmax(dim=1)
    sure = q.amax(dim=1) > 0.45
    assert 0 < sure.sum() < 12
    task = 0.5 * (F.cross_entropy(clean, labels) + F.cross_entropy(other, labels))
    heads = [F.cross_entropy(logits, labels) for logits in model.classify(features).values()]
    keep = (sure * (p * (p / q).log()).sum(dim=1)).mean()
    size = (augmented - joined).square().mean()
    variance = log_variance.exp()
    latent = -0.5 * (1 + log_variance - mean.square() - variance).sum() / 12 / 8
    wanted = task + 0.4 * sum(heads) + 0.7 * keep + 0.3 * size + 0.2 * latent
    close(found, wanted.item())


def test_lemda_network_ascends_the_task_loss_that_the_head_descends() -> None:
    model = tiny_model(2, width=8)
    inputs, labels = tiny_rows(model, 12)
    features = {name: values.detach() for name, values in model.encode(inputs).items()}
    method = noisy(bare_lemda(adversarial_weight=0.01), model)
    state = method.generator.get_state()
    method.loss(features, labels).backward()
    augmenter, head = gradients(method.augmenter), gradients(model.fusion)
    method.generator.set_state(state)
    joined = torch.cat(list(features.values()), dim=1)
    rows = torch.cat([joined, method.augmenter(joined)[0]])
    F.cross_entropy(model.fusion(rows), labels.repeat(2)).backward()
    assert all_close(augmenter, gradients(method.augmenter), factor=-0.01)
    assert all_close(head, gradients(model.fusion))
    assert max(grad.abs().max().item() for grad in augmenter) > 1e-5


def test_lemda_network_learns_consistency() -> None:
    model = tiny_model(2, width=8)
    inputs, labels = tiny_rows(model, 12)
    features = {name: values.detach() for name, values in model.encode(inputs).items()}
    method = noisy(bare_lemda(consistency_weight=0.5), model)
    state = method.generator.get_state()
    method.loss(features, labels).backward()
    found = gradients(method.augmenter)
    method.generator.set_state(state)
    joined = torch.cat(list(features.values()), dim=1)
    other = model.fusion(method.augmenter(joined)[0])
    (0.5 * lemda.consistency(other, model.fusion(joined), 0.5)).backward()
    wanted = gradients(method.augmenter)
    assert all_close(found, wanted)
    assert max(grad.abs().max().item() for grad in wanted) > 1e-4


@pytest.mark.parametrize("weights", [{"consistency_weight": 1.0}, {"size_weight": 1.0}])
def test_lemda_encoders_learn_from_the_clean_rows_alone(weights: dict[str, float]) -> None:
    model = tiny_model(2, width=8)
    loss_of(noisy(bare_lemda(**weights), model)).backward()
    found = gradients(model.encoders)
    loss_of(prepared(Method(), model)).backward()
    assert all_close(found, gradients(model.encoders), factor=0.5)


def test_lemda_network_learns_although_it_starts_at_zero() -> None:
    model = tiny_model(2, width=8)
    method = LeMDA(augmenter_lr=1e-2)
    prepared(method, model)
    inputs, _ = tiny_rows(model, 12)
    joined = torch.cat(list(model.encode(inputs).values()), dim=1).detach()
    assert torch.equal(method.augmenter(joined)[0], joined)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(20):
        loss_of(method).backward()
        method.after_backward()
        method.after_step()
        assert all(p.grad is None for p in method.augmenter.parameters())
    assert (method.augmenter(joined)[0] - joined).abs().max() > 0.01
    # Its own optimiser steps its own parameters, which the run's optimiser does not get.
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not list(method.extra_modules())


def test_lemda_clips_model_and_network_together() -> None:
    model = tiny_model(2, width=8)
    method = noisy(LeMDA(max_norm=0.5), model)
    (1000 * loss_of(method)).backward()
    method.after_backward()
    parts = [torch.cat([g.flatten() for g in gradients(m)]) for m in (model, method.augmenter)]
    assert all(part.norm() > 0.001 for part in parts)
    close(torch.cat(parts).norm(), 0.5)


def test_lemda_network_starts_as_pytorch_would() -> None:
    layer = lemda.seeded_linear(16, 5000, generator())
    for parameter in layer.parameters():
        close(parameter.abs().max(), 0.25, atol=1e-3)
        close(parameter.std(), 0.25 / math.sqrt(3), atol=5e-3)
