"""MIDAS and the plain swap as methods of the comparison."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.entries import ENTRIES
from benchmarks.methods.midas import Midas, MidasPublicCode
from midas_aug.functional import plan_swaps
from tests.benchmarks.methods.helpers import encoded, set_up, tiny_model

PLAIN = ENTRIES["plain-swap"]


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_the_plain_swap_is_the_mean_cross_entropy_of_both_labels(weight):
    model = tiny_model(2)
    method = set_up(PLAIN.build({"misaligned_weight": weight}), model)
    method.on_epoch_start(0)
    features, labels = encoded(model)
    found = method.loss(features, labels)

    plan = plan_swaps(labels, 2, generator=torch.Generator().manual_seed(0))
    aligned = F.cross_entropy(model.fuse(features), labels)
    losses = []
    for (one, other), valid in zip(plan.source.tolist(), plan.valid.tolist(), strict=True):
        assert valid
        mixed = {"m0": features["m0"][[one]], "m1": features["m1"][[other]]}
        logits = model.fuse(mixed)
        first = F.cross_entropy(logits, labels[[one]])
        second = F.cross_entropy(logits, labels[[other]])
        losses.append((first + second) / 2)
    torch.testing.assert_close(found, aligned + weight * torch.stack(losses).mean())
    found.backward()
    assert all(weight.grad is None for weight in model.heads.parameters())


def test_the_plain_swap_with_warmup_trains_the_heads_alone_at_first():
    model = tiny_model(2)
    method = set_up(ENTRIES["plain-swap-warmup"].build({}), model, epochs=7)
    features, labels = encoded(model)
    method.on_epoch_start(0)
    assert not method.trained(0)
    expected = sum(F.cross_entropy(z, labels) for z in model.classify(features).values())
    torch.testing.assert_close(method.loss(features, labels), expected)
    method.on_epoch_start(1)
    assert method.trained(1)
    method.loss(features, labels).backward()
    assert model.fusion.weight.grad is not None


def test_eight_combinations_and_what_they_switch():
    midas = {key: entry for key, entry in ENTRIES.items() if key.startswith("midas")}
    combinations = {key for key in midas if key != "midas-public-code"}
    assert len(combinations) == 8
    for key in combinations - {"midas"}:
        warmup, weak, hard = (letter == "1" for letter in key[-3:])
        method = midas[key].build({"misaligned_weight": 5})
        assert isinstance(method, Midas)
        assert method.misaligned_weight == 5
        assert (method.warmup > 0, method.weak_modality, method.hard_samples) == (
            warmup,
            weak,
            hard,
        )
        assert method.soft_labels
        assert method.unimodal_weight


def test_parts_act():
    """Each part changes the loss, or alpha."""
    features, labels = encoded(tiny_model(2))
    losses = {}
    for off in ("none", "hard_samples", "soft_labels"):
        method = set_up(Midas(warmup=0, **({} if off == "none" else {off: False})), tiny_model(2))
        method.on_epoch_start(0)
        losses[off] = method.loss(features, labels).item()
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("moves", [True, False])
def test_alpha_moves_where_a_modality_is_ignored(moves):
    model = tiny_model(2)
    with torch.no_grad():
        model.heads["m1"].weight *= 5
        model.fusion.weight.zero_()
        model.fusion.weight[:, 4:] = 5 * model.heads["m1"].weight  # m1 alone is listened to
    features, _ = encoded(model, 60)
    labels = model.classify(features)["m1"].argmax(dim=1)  # and m1 alone knows
    method = set_up(Midas(warmup=0, weak_modality=moves), model)
    method.on_epoch_start(0)
    method.loss(features, labels)
    rule = method.criterion.weak_modality
    if moves:
        torch.testing.assert_close(rule.alpha, torch.tensor([1.05, 1.0]))
    else:
        assert rule is None  # α is 1


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_public_codes_choices(modalities):
    model = tiny_model(modalities)
    method = set_up(MidasPublicCode(warmup=0), model)
    assert method.criterion.unimodal_weight == pytest.approx(1 / modalities)
    method.on_epoch_start(0)
    features, labels = encoded(model)
    same = torch.zeros_like(labels)  # one class: the paper has no partners, the public code has
    out = method.augment(features, same, unimodal_logits=model.classify(features))
    assert bool(out.valid.all())
    loss = method.loss(features, labels)
    loss.backward()
    assert torch.isfinite(loss)


def test_draws_come_from_the_runs_generator():
    losses = []
    for seed in (0, 0, 1):
        model = tiny_model(3)
        method = set_up(Midas(warmup=0), model, seed=seed)
        method.on_epoch_start(0)
        state = torch.get_rng_state()
        losses.append(method.loss(*encoded(model)).item())
        assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]


def test_every_third_batch_has_misaligned_samples_and_a_resumed_run_goes_on_counting():
    model = tiny_model(2)
    method = set_up(Midas(warmup=0, every=3), model)
    features, labels = encoded(model)
    method.on_epoch_start(0)
    sizes = []
    for _ in range(4):
        method.loss(features, labels)
        sizes.append(method.augment.enabled)
    assert sizes == [True, False, False, True]
    resumed = set_up(Midas(warmup=0, every=3), model)
    resumed.on_epoch_start(1)
    resumed.load_state_dict(method.state_dict())
    losses = [[one.loss(features, labels).item() for _ in range(4)] for one in (method, resumed)]
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][2]


def test_one_misaligned_sample_a_row():
    model = tiny_model(2)
    method = set_up(Midas(warmup=0, weak_modality=False, hard_samples=False, one=True), model)
    method.on_epoch_start(0)
    features, labels = encoded(model)
    found = method.loss(features, labels)
    plan = plan_swaps(labels, 2, swap="one", generator=torch.Generator().manual_seed(0))
    assert len(plan.source) == len(labels)
    heads = list(model.classify(features).values())
    aligned = F.cross_entropy(model.fuse(features), labels)
    losses = []
    for one, other in plan.source.tolist():
        mixed = {"m0": features["m0"][[one]], "m1": features["m1"][[other]]}
        own = [heads[m][row].softmax(0)[labels[row]] for m, row in enumerate((one, other))]
        shares = torch.stack(own) / sum(own)
        both = [F.cross_entropy(model.fuse(mixed), labels[[row]]) for row in (one, other)]
        losses.append((shares.detach() * torch.stack(both)).sum())
    expected = aligned + torch.stack(losses).mean()
    expected += sum(F.cross_entropy(z, labels) for z in heads)
    torch.testing.assert_close(found, expected)
