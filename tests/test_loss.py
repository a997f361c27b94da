"""MidasLoss is Eq. 9-11; α steps after the loss, in a buffer, and only when it should."""

import copy
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from midas_aug import (
    LossTerms,
    MidasAugError,
    MidasLoss,
    MisalignAugment,
    MisalignedBatch,
    RatioWeakModalityWeight,
    WeakModalityWeight,
)
from midas_aug import functional as F
from midas_aug.targets import Target
from tests.helpers import reference, strategies


class Step(SimpleNamespace):
    """One training step's tensors."""

    out: MisalignedBatch
    logits: torch.Tensor
    unimodal: dict[str, torch.Tensor]
    features: dict[str, torch.Tensor]


def make_step(
    labels: Any,
    modalities: int = 2,
    num_classes: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    **options: Any,
) -> Step:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.as_tensor(labels)
    names = [f"m{number}" for number in range(modalities)]

    def normal(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    features = {name: normal(len(labels), 3 + number) for number, name in enumerate(names)}
    unimodal = {name: normal(len(labels), num_classes).requires_grad_() for name in names}
    augment = MisalignAugment(names, num_classes, **options)
    out = augment(features, labels, unimodal_logits=unimodal, generator=generator)
    logits = normal(len(out.source), num_classes).requires_grad_()
    return Step(out=out, logits=logits, unimodal=unimodal, features=features)


def expected_terms(step: Step, alpha: Any, lam: float, unimodal_weight: float) -> dict[str, float]:
    out = step.out
    rows = len(out.labels)
    source, anchor, valid = (np.asarray(part) for part in out.plan)
    features = [feature.double().numpy() for feature in step.features.values()]
    unimodal = [logits.detach().double().numpy() for logits in step.unimodal.values()]
    labels = np.asarray(out.labels)
    logits = step.logits.detach().double().numpy()
    terms: dict[str, float] = reference.eq11_loss(
        logits[:rows],
        logits[rows:],
        unimodal,
        labels,
        source,
        anchor,
        valid,
        np.stack([reference.true_class_confidence(each, labels) for each in unimodal], axis=1),
        reference.cosine_hardness(features, source, anchor),
        np.asarray(alpha),
        lam,
        unimodal_weight,
    )
    return terms


@given(
    st.data(),
    st.integers(2, 9),
    st.integers(2, 4),
    st.sampled_from(["each", "one", "permute"]),
    st.floats(0, 5),
    st.floats(0, 2),
)
def test_the_loss_is_equation_11(data, num_classes, modalities, swap, lam, unimodal_weight):
    labels = data.draw(strategies.labels_arrays(num_classes=num_classes, dtype="int64"))
    step = make_step(labels, modalities, num_classes, swap=swap, misaligned_weight=lam)
    criterion = MidasLoss(modalities, unimodal_weight=unimodal_weight)
    criterion.weak_modality.alpha.copy_(1 + torch.arange(modalities) / 3)
    alpha = criterion.weak_modality.alpha.clone()
    terms = criterion.compute(step.logits, step.out, step.unimodal)
    expected = expected_terms(step, alpha, lam, unimodal_weight)
    assert float(terms.total.detach()) == pytest.approx(expected["total"], rel=1e-4, abs=1e-5)
    assert float(terms.aligned.detach()) == pytest.approx(expected["aligned"], rel=1e-4, abs=1e-5)
    assert float(terms.misaligned.detach()) == pytest.approx(
        lam * expected["misaligned"], rel=1e-4, abs=1e-5
    )
    unimodal = expected["unimodal"] if unimodal_weight else 0.0
    assert float(terms.unimodal.detach()) == pytest.approx(unimodal, rel=1e-4, abs=1e-5)


@given(st.data(), st.integers(2, 9), st.integers(2, 4))
def test_targets_and_weights_of_a_stock_loss_give_the_same_number(data, num_classes, modalities):
    """(weights · CE(targets)).mean() is L_align + λ·L_mis, with α by WeakModalityWeight.fold."""
    labels = data.draw(strategies.labels_arrays(num_classes=num_classes, dtype="int64").filter(len))
    step = make_step(labels, modalities, num_classes, misaligned_weight=2.0)
    criterion = MidasLoss(modalities, unimodal_weight=0)
    criterion.eval()
    logits = step.logits.detach()
    stock = cross_entropy(logits, step.out.targets, reduction="none") * step.out.weights
    plain = criterion.compute(logits, step.out)
    assert float(stock.mean()) == pytest.approx(float(plain.total), rel=1e-4, abs=1e-5)
    folded = cross_entropy(logits, step.out.folded_targets())
    assert float(folded) == pytest.approx(float(plain.total), rel=1e-4, abs=1e-5)

    criterion.weak_modality.alpha.copy_(1 + torch.rand(modalities))
    targets, weights = criterion.weak_modality.fold(step.out)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(targets)))
    stock = (cross_entropy(logits, targets, reduction="none") * weights).mean()
    with_alpha = criterion.compute(logits, step.out)
    assert float(stock) == pytest.approx(float(with_alpha.total), rel=1e-4, abs=1e-5)


def test_gradients_are_those_of_the_dense_form():
    step = make_step(torch.arange(12) % 4, 3)
    criterion = MidasLoss(3)
    criterion.weak_modality.alpha.copy_(torch.tensor([1.0, 1.7, 1.0]))
    targets, weights = criterion.weak_modality.fold(step.out)
    dense = (cross_entropy(step.logits, targets, reduction="none") * weights).mean()
    labels = step.out.labels
    dense = dense + sum(cross_entropy(logits, labels) for logits in step.unimodal.values())
    inputs = [step.logits, *step.unimodal.values()]
    expected = torch.autograd.grad(dense, inputs)
    found = torch.autograd.grad(criterion(step.logits, step.out, step.unimodal), inputs)
    for have, want in zip(found, expected, strict=True):
        torch.testing.assert_close(have, want)


def test_alpha_of_the_step_is_used_before_it_is_updated():
    step = make_step(torch.arange(30) % 5)
    criterion = MidasLoss(2, weak_modality=WeakModalityWeight(2, step_size=0.5))
    criterion.weak_modality.alpha.copy_(torch.tensor([1.0, 2.0]))
    before = criterion.weak_modality.alpha.clone()
    total = float(criterion(step.logits, step.out, step.unimodal).detach())
    assert total == pytest.approx(expected_terms(step, before, 1.0, 1.0)["total"], rel=1e-5)
    rows = step.out.misaligned
    expected = reference.weak_modality_step(
        before.numpy(),
        step.out.shares[rows].numpy(),
        step.logits.detach()[rows].numpy(),
        step.out.source_labels[rows].numpy(),
        step.out.valid[rows].numpy(),
        0.5,
    )
    assert not torch.equal(criterion.weak_modality.alpha, before)
    np.testing.assert_allclose(criterion.weak_modality.alpha.numpy(), expected, rtol=1e-6)


def test_alpha_rests_in_eval_mode_and_without_a_valid_misaligned_row():
    criterion = MidasLoss(2)
    criterion.weak_modality.alpha.copy_(torch.tensor([1.0, 1.3]))
    before = criterion.weak_modality.alpha.clone()
    for labels in ([2, 2, 2], [], [3], [-1, -1, 0]):
        step = make_step(torch.tensor(labels, dtype=torch.int64))
        criterion(step.logits, step.out, step.unimodal)
        assert torch.equal(criterion.weak_modality.alpha, before)
    criterion.eval()
    step = make_step(torch.arange(20) % 5)
    criterion(step.logits, step.out, step.unimodal)
    assert torch.equal(criterion.weak_modality.alpha, before)


def test_alpha_climbs_for_a_neglected_modality_and_stops_at_the_clamp():
    step = make_step(torch.arange(40) % 5)
    rows = step.out.misaligned
    labels = step.out.source_labels
    weakest = int(step.out.shares[rows].mean(dim=0).argmin())
    deaf = 8.0 * torch.nn.functional.one_hot(labels[:, 1 - weakest], 5).float()
    criterion = MidasLoss(2, weak_modality=WeakModalityWeight(2, step_size=0.25, max_alpha=1.6))
    seen = []
    for _ in range(4):
        criterion(deaf, step.out, step.unimodal)
        seen.append(float(criterion.weak_modality.alpha[weakest]))
    assert seen == pytest.approx([1.25, 1.5, 1.6, 1.6])
    assert float(criterion.weak_modality.alpha[1 - weakest]) == 1.0
    fair = deaf.flip(0) * 0  # every class alike: the weak modality gets more than its share
    for _ in range(4):
        criterion(fair, step.out, step.unimodal)
    assert float(criterion.weak_modality.alpha[weakest]) == 1.0


def test_a_batch_that_overflows_does_not_stay_in_alpha():
    step = make_step(torch.arange(20) % 5)
    criterion = MidasLoss(2)
    before = criterion.weak_modality.alpha.clone()
    criterion(step.logits.detach() * torch.inf, step.out, step.unimodal)
    assert torch.equal(criterion.weak_modality.alpha, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_underflowing_confidences_give_no_nan_in_any_dtype(dtype):
    step = make_step(torch.arange(16) % 5, dtype=dtype, scale=200.0)
    criterion = MidasLoss(2)
    terms = criterion.compute(step.logits, step.out, step.unimodal)
    assert all(torch.isfinite(term) for term in terms)
    assert torch.isfinite(step.out.targets).all()
    assert torch.isfinite(criterion.weak_modality.alpha).all()
    gradients = torch.autograd.grad(terms.total, [step.logits, *step.unimodal.values()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert gradients[0].dtype == dtype


def test_autocast_computes_the_loss_in_float32():
    step = make_step(torch.arange(16) % 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = MidasLoss(2)(step.logits, step.out, step.unimodal)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, MidasLoss(2)(step.logits, step.out, step.unimodal))


@pytest.mark.parametrize("labels", [[], [1], [2, 2, 2], [-1, -100], [-1, 3]])
def test_batches_with_nothing_to_swap_train_on_what_there_is(labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    step = make_step(labels)
    criterion = MidasLoss(2)
    terms = criterion.compute(step.logits, step.out, step.unimodal)
    assert float(terms.misaligned.detach()) == 0
    if bool((labels >= 0).any()):
        aligned = step.logits[step.out.aligned]
        ignoring = torch.where(labels >= 0, labels, -100)
        torch.testing.assert_close(terms.aligned, cross_entropy(aligned, ignoring))
    else:
        assert float(terms.total.detach()) == 0
    terms.total.backward()  # the graph is there
    assert torch.isfinite(step.logits.grad).all()


def test_an_ignored_row_is_the_same_as_no_row():
    labels = torch.tensor([0, 1, 2, 0, 1])
    step = make_step(labels)
    keep = torch.tensor([0, 1, 3, 4])
    ignored = labels.clone()
    ignored[2] = -100
    augment = MisalignAugment(("m0", "m1"), 5)
    generator = torch.Generator().manual_seed(3)
    full = augment(step.features, ignored, unimodal_logits=step.unimodal, generator=generator)
    place = torch.tensor([0, 1, -1, 2, 3])
    rows = torch.cat([keep, 5 + keep])
    plan = type(full.plan)(
        place[full.plan.source[rows]], place[full.plan.anchor[rows]], full.plan.valid[rows]
    )
    unimodal = {key: value[keep] for key, value in step.unimodal.items()}
    short = augment(
        {key: value[keep] for key, value in step.features.items()},
        labels[keep],
        unimodal_logits=unimodal,
        plan=plan,
    )
    both = [
        MidasLoss(2)(step.logits, full, step.unimodal),
        MidasLoss(2)(step.logits[torch.cat([keep, 5 + rows])], short, unimodal),
    ]
    torch.testing.assert_close(*both)


def test_the_warm_up_trains_the_unimodal_heads_alone():
    step = make_step(torch.arange(16) % 5)
    criterion = MidasLoss(2, warmup_epochs=2, unimodal_weight=0.5)
    assert criterion.warming_up
    for epoch in (0, 1):
        criterion.set_epoch(epoch)
        terms = criterion.compute(step.logits, step.out, step.unimodal)
        expected = sum(cross_entropy(u, step.out.labels) for u in step.unimodal.values())
        torch.testing.assert_close(terms.unimodal, expected)
        torch.testing.assert_close(terms.total, 0.5 * expected)
        assert terms.aligned == terms.misaligned == 0
    terms.total.backward()
    assert step.logits.grad is None  # not zero: an optimiser must leave the fusion head alone
    assert torch.equal(criterion.weak_modality.alpha, torch.ones(2))
    criterion.set_epoch(2)
    assert not criterion.warming_up
    after = criterion.compute(step.logits, step.out, step.unimodal)
    assert float(after.misaligned.detach()) > 0
    criterion.set_epoch(1)
    with pytest.raises(MidasAugError, match="warm-up"):
        criterion(step.logits, step.out)


def test_a_warm_up_that_is_never_told_the_epoch_warns_once():
    step = make_step(torch.arange(16) % 5)
    criterion = MidasLoss(2, warmup_epochs=2)
    with pytest.warns(UserWarning, match="set_epoch"):
        criterion(step.logits, step.out, step.unimodal)
    criterion(step.logits, step.out, step.unimodal)  # a second warning would be an error here
    told = MidasLoss(2, warmup_epochs=2)
    told.load_state_dict(criterion.state_dict())
    told(step.logits, step.out, step.unimodal)


def test_unimodal_logits_of_an_unnamed_batch_come_in_order():
    step = make_step(torch.arange(16) % 5)
    names = ("labels", "source_labels", "shares", "weights", "valid")
    bare = SimpleNamespace(**{name: getattr(step.out, name) for name in names})
    both = [MidasLoss(2)(step.logits, out, step.unimodal) for out in (bare, step.out)]
    assert torch.equal(*both)
    with pytest.raises(MidasAugError, match="2 modalities, got 1"):
        MidasLoss(2)(step.logits, bare, [step.logits[:16]])


def test_a_numpy_batch_has_the_unimodal_term_of_a_torch_one():
    step = make_step([0, 1, -1, 2], confidence="uniform", seed=3)
    features = {name: feature.numpy() for name, feature in step.features.items()}
    twin = MisalignAugment(list(features), 5, confidence="uniform")(
        features, np.asarray(step.out.labels), plan=step.out.plan
    )
    expected, found = (
        MidasLoss(2).compute(step.logits, x, step.unimodal) for x in (step.out, twin)
    )
    torch.testing.assert_close(found.unimodal, expected.unimodal)


def test_no_unimodal_logits_means_no_unimodal_term():
    step = make_step(torch.arange(16) % 5)
    criterion = MidasLoss(2)
    with pytest.warns(UserWarning, match="no unimodal_logits"):
        terms = criterion.compute(step.logits, step.out)
    criterion.compute(step.logits, step.out)  # a second warning would be an error here
    assert float(terms.unimodal) == 0
    torch.testing.assert_close(terms.total, terms.aligned + terms.misaligned)


def test_a_unimodal_weight_of_zero_leaves_the_heads_out():
    step = make_step(torch.arange(16) % 5)
    diverged = {name: logits * torch.inf for name, logits in step.unimodal.items()}
    total = MidasLoss(2, unimodal_weight=0)(step.logits, step.out, diverged)
    assert torch.equal(total, MidasLoss(2, unimodal_weight=0)(step.logits, step.out))


def test_the_mean_of_unimodal_losses_is_a_weight_of_one_over_m():
    step = make_step(torch.arange(16) % 5)
    terms = MidasLoss(2, unimodal_weight=1 / 2).compute(step.logits, step.out, step.unimodal)
    losses = [cross_entropy(logits, step.out.labels) for logits in step.unimodal.values()]
    expected = terms.aligned + terms.misaligned + torch.stack(losses).mean()
    torch.testing.assert_close(terms.total, expected)


def test_a_resumed_criterion_goes_on_bit_for_bit():
    def steps(criterion: MidasLoss, numbers: range) -> list[float]:
        losses = []
        for number in numbers:
            criterion.set_epoch(number // 3)
            step = make_step(torch.arange(20) % 5, seed=number)
            losses.append(float(criterion(step.logits, step.out, step.unimodal).detach()))
        return losses

    def rule() -> WeakModalityWeight:
        return WeakModalityWeight(2, step_size=0.3)

    whole = MidasLoss(2, weak_modality=rule(), warmup_epochs=1)
    expected = steps(whole, range(9))
    first = MidasLoss(2, weak_modality=rule(), warmup_epochs=1)
    begun = steps(first, range(5))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = MidasLoss(2, weak_modality=rule(), warmup_epochs=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert not resumed.warming_up  # known from the checkpoint, before any set_epoch
    assert begun + steps(resumed, range(5, 9)) == expected
    assert torch.equal(whole.weak_modality.alpha, resumed.weak_modality.alpha)
    assert set(whole.state_dict()) == {"epoch", "steps", "weak_modality.alpha"}
    assert copy.deepcopy(resumed).warming_up == resumed.warming_up


def test_any_object_with_the_fields_will_do():
    step = make_step(torch.arange(16) % 5)
    out = step.out
    bare = SimpleNamespace(
        labels=out.labels.numpy(),
        source_labels=out.source_labels,
        shares=out.shares,
        weights=out.weights.numpy(),
        valid=out.valid,
    )
    both = [MidasLoss(2)(step.logits, given_out, step.unimodal) for given_out in (out, bare)]
    assert torch.equal(*both)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_alpha_stays_float32_when_the_model_changes_its_dtype(dtype):
    criterion = MidasLoss(3)
    criterion.weak_modality.alpha.fill_(21.05)
    criterion.to(dtype)
    assert torch.equal(criterion.weak_modality.alpha, torch.full((3,), 21.05))
    assert criterion.to("meta").weak_modality.alpha.device.type == "meta"
    assert criterion.to_empty(device="cpu").weak_modality.alpha.dtype == torch.float32
    assert copy.deepcopy(criterion).state_dict().keys() == criterion.state_dict().keys()


def test_apply_still_applies_a_function_as_modules_do():
    criterion = MidasLoss(2)
    seen: list[str] = []
    parent = nn.Sequential(nn.Linear(2, 2), criterion)
    returned = parent.apply(lambda module: seen.append(type(module).__name__))
    assert returned is parent
    assert seen == ["Linear", "WeakModalityWeight", "MidasLoss", "Sequential"]


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_the_weights_alone_serve_a_stock_loss_in_either_library(library):
    step = make_step(torch.arange(20) % 5)
    weak = WeakModalityWeight(2, step_size=0.4)
    out: Any = step.out
    logits: Any = step.logits
    if library == "numpy":
        augment = MisalignAugment(("m0", "m1"), 5)
        arrays = {key: value.numpy() for key, value in step.features.items()}
        out = augment(
            arrays,
            out.labels.numpy(),
            unimodal_logits={key: u.detach().numpy() for key, u in step.unimodal.items()},
            plan=type(out.plan)(*(part.numpy() for part in out.plan)),
        )
        logits = logits.detach().numpy()
    weak.update(logits, out)
    rows = step.out.misaligned
    expected = F.weak_modality_step(
        torch.ones(2),
        step.out.shares[rows],
        step.logits[rows],
        step.out.source_labels[rows],
        step_size=0.4,
    )
    assert torch.equal(weak.alpha, expected)
    targets, weights = weak.fold(out)
    assert type(targets) is type(weights) is type(out.targets)
    alpha = torch.cat([torch.ones(20, 2), expected.expand(40, 2)])
    mass = (step.out.shares * alpha).sum(dim=1)
    torch.testing.assert_close(torch.as_tensor(weights), step.out.weights * mass)


def test_the_public_codes_rule_is_one_number_for_the_weak_modality_of_the_batch():
    step = make_step(torch.arange(24) % 5, pairing=F.permutation_partners)
    criterion = MidasLoss(2, unimodal_weight=1 / 2)
    criterion.weak_modality = RatioWeakModalityWeight(2, step_size=0.5, max_alpha=10)
    criterion.weak_modality.alpha.fill_(2.0)
    confidence = step.out.confidence
    weak = int(confidence.mean(dim=0).argmin())
    alpha = torch.ones(2)
    alpha[weak] = 2.0
    assert torch.equal(criterion.weak_modality.coefficients(step.out), alpha)
    total = float(criterion(step.logits, step.out, step.unimodal).detach())
    assert total == pytest.approx(expected_terms(step, alpha, 1.0, 0.5)["total"], rel=1e-5)
    rows = step.out.misaligned
    expected = reference.ratio_weak_step(
        2.0,
        confidence.numpy(),
        step.out.source[rows].numpy(),
        step.logits.detach()[rows].numpy(),
        step.out.source_labels[rows].numpy(),
        24,
        0.5,
        10.0,
    )
    assert criterion.weak_modality.alpha.tolist() == pytest.approx([expected] * 2)
    targets, weights = criterion.weak_modality.fold(step.out)
    assert torch.isfinite(targets).all()
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c, s: c(s.logits[:-1], s.out, s.unimodal), ["logits", "(48, any)", "(47, 5)"]),
        (lambda c, s: c(s.logits.long(), s.out, s.unimodal), ["float dtype", "int64"]),
        (lambda c, s: c(s.logits, s.out, [s.logits[:16]]), ["unimodal_logits", "got 1"]),
        (lambda c, s: c(s.logits, s.out, {"m0": 0, "video": 0}), ["'m1'", "['m0', 'video']"]),
        (lambda c, s: c(s.out, s.logits), ["second argument", "Tensor", "criterion(logits, out"]),
        (lambda c, s: c(s.logits[:16], s.out, s.unimodal), ["fuse what out[...]"]),
        (lambda c, s: c(s.logits, s.out, [s.logits, s.logits]), ["(16, any)", "(48, 5)"]),
        (lambda c, s: c(s.logits[:, :2], s.out, s.unimodal), ["logits", "5 classes", "got 2"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(call, words):
    step = make_step(torch.arange(16) % 5)
    with pytest.raises(MidasAugError) as error:
        call(MidasLoss(2), step)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_modalities": 1}, ["at least 2", "1"]),
        ({"unimodal_weight": -1.0}, ["unimodal_weight", "-1.0"]),
        ({"weak_modality": "paper code"}, ["'paper'", "'paper code'"]),
        ({"weak_modality": WeakModalityWeight(3)}, ["2 modalities", "3"]),
        ({"unimodal_weight": float("inf")}, ["unimodal_weight", "inf"]),
        ({"warmup_steps": -1}, ["warmup_steps", "-1"]),
        ({"warmup_steps": 5, "warmup_epochs": 1}, ["epochs or in steps"]),
        ({"warmup_epochs": -1}, ["warmup_epochs", "-1"]),
        ({"warmup_epochs": 1.5}, ["warmup_epochs", "1.5"]),
        (
            {"warmup_epochs": 2, "unimodal_weight": 0},
            ["unimodal_weight above 0"],
        ),
        ({"num_modalities": ("a", "b")}, ["num_modalities", "integer", "('a', 'b')"]),
        ({"num_modalities": 2.0}, ["num_modalities", "integer", "2.0"]),
        ({"unimodal_weight": "1"}, ["unimodal_weight", "'1'"]),
        ({"unimodal_weight": None}, ["unimodal_weight", "None"]),
        ({"warmup_epochs": None}, ["warmup_epochs", "integer", "None"]),
        ({"warmup_epochs": True}, ["warmup_epochs", "integer", "True"]),
        ({"warmup_steps": "9"}, ["warmup_steps", "integer", "'9'"]),
    ],
)
def test_bad_options_are_named_at_construction(options, words):
    with pytest.raises(MidasAugError) as error:
        MidasLoss(**({"num_modalities": 2} | options))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step_size": float("nan")}, ["η", "nan"]),
        ({"step_size": float("inf")}, ["η", "inf"]),
        ({"step_size": -0.5}, ["η", "-0.5"]),
        ({"max_alpha": 0.5}, ["max_alpha", "0.5"]),
        ({"step_size": "0.05"}, ["η", "'0.05'"]),
        ({"step_size": None}, ["η", "None"]),
        ({"max_alpha": "10"}, ["max_alpha", "'10'"]),
        ({"sync": "no"}, ["sync", "True or False", "'no'"]),
    ],
)
def test_bad_options_of_the_weights_are_named_at_construction(options, words):
    with pytest.raises(MidasAugError) as error:
        WeakModalityWeight(2, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("epoch", [-1, 0.5, "1", None, True])
def test_an_epoch_that_is_none_is_refused_and_changes_nothing(epoch):
    criterion = MidasLoss(2, warmup_epochs=2)
    criterion.set_epoch(2)
    with pytest.raises(MidasAugError, match="epoch to be an integer of at least 0"):
        criterion.set_epoch(epoch)
    assert int(criterion.epoch) == 2
    assert criterion.warming_up is False


def test_an_epoch_of_numpy_or_in_a_tensor_is_one():
    criterion = MidasLoss(2, warmup_epochs=2)
    criterion.set_epoch(np.int64(2))
    assert criterion.warming_up is False
    criterion.set_epoch(torch.tensor(1))
    assert criterion.warming_up is True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weak_modality.alpha", torch.tensor([1.0, float("nan")])),
        ("weak_modality.alpha", torch.tensor([1.0, float("inf")])),
        ("weak_modality.alpha", torch.tensor([1.0, -1.0])),
        ("epoch", torch.tensor(-3)),
        ("steps", torch.tensor(-3)),
    ],
)
def test_a_checkpoint_of_a_run_that_cannot_have_been_is_refused(key, value):
    criterion = MidasLoss(2)
    with pytest.raises(MidasAugError, match=f"{key} in the checkpoint"):
        criterion.load_state_dict(criterion.state_dict() | {key: value})
    assert torch.equal(criterion.alpha, torch.ones(2))
    assert int(criterion.epoch) == int(criterion.steps) == 0


def away(tensors):
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda loss, s: loss(s.logits.to("meta"), s.out, s.unimodal), ["logits", "out.to('meta'"]),
        (
            lambda loss, s: loss(s.logits, s.out, away(s.unimodal)),
            ["unimodal_logits[0]", "out.to("],
        ),
        (lambda loss, s: loss.to("meta")(s.logits, s.out, s.unimodal), ["criterion.to(device)"]),
        (lambda loss, s: loss.weak_modality.update(s.logits.to("meta"), s.out), ["logits"]),
        (lambda _, s: s.out.label(unimodal_logits=away(s.unimodal)), ["unimodal_logits['m0']"]),
        (
            lambda _, s: s.out.label(unimodal_logits=s.unimodal, features=away(s.features)),
            ["features of 'm0'"],
        ),
    ],
)
def test_a_batch_that_was_not_moved_to_the_model_is_named(call, words):
    step = make_step(torch.arange(6) % 5)
    with pytest.raises(MidasAugError) as error:
        call(MidasLoss(2), step)
    said = str(error.value)
    assert all(word in said for word in [*words, "device of the batch, cpu", "meta"]), said


@pytest.mark.parametrize("call", ["fold", "update"])
def test_what_is_no_batch_is_named_by_the_weights_too(call):
    step, weak = make_step(torch.arange(6) % 5), WeakModalityWeight(2)
    with pytest.raises(MidasAugError, match="expected a MisalignedBatch, got dict"):
        weak.fold(step.features) if call == "fold" else weak.update(step.logits, step.features)


def test_terms_have_names():
    assert LossTerms._fields == ("total", "aligned", "misaligned", "unimodal")


def test_ignored_rows_and_masked_classes_give_no_nan():
    """A class that is masked out with −∞ must not meet the weight 0 of an ignored row."""
    labels = torch.tensor([1, 2, -1, 1])
    step = make_step(labels)
    masked = step.logits.detach().clone()
    masked[:, 0] = -torch.inf
    masked.requires_grad_()
    unimodal = {key: logits.detach().clone() for key, logits in step.unimodal.items()}
    for logits in unimodal.values():
        logits[:, 0] = -torch.inf
    terms = MidasLoss(2).compute(masked, step.out, unimodal)
    assert all(torch.isfinite(term) for term in terms)
    torch.testing.assert_close(terms.aligned, cross_entropy(masked[:4], labels, ignore_index=-1))
    terms.total.backward()
    assert torch.isfinite(masked.grad).all()


@pytest.mark.parametrize(("rule", "sums"), [(WeakModalityWeight, 1), (RatioWeakModalityWeight, 2)])
def test_sums_over_processes_are_made_in_training_alone_and_where_sync_is_on(
    rule, sums, monkeypatch
):
    """One rank may validate by itself: a sum over ranks would wait for the others forever."""
    groups = []

    def alone(tensors, process_group=None):
        groups.append(process_group)
        return list(tensors)

    monkeypatch.setattr("midas_aug.weak_modality.add_up", alone)
    step = make_step(torch.arange(8) % 5)
    for sync in (True, False):
        criterion = MidasLoss(2, weak_modality=rule(2, sync=sync, process_group="mine"))
        for training in (True, False):
            groups.clear()
            criterion.train(training)(step.logits, step.out, step.unimodal)
            assert groups == ["mine"] * (sums if sync and training else 0)


def test_the_public_codes_rule_takes_batches_with_nothing_swapped():
    augment = MisalignAugment(("a", "b"), 5)
    augment.enabled = False
    data = {"a": torch.rand(4, 2), "b": torch.rand(4, 2)}
    for labels in (torch.tensor([0, 1, 2, 3]), torch.tensor([], dtype=torch.int64)):
        criterion = MidasLoss(2)
        criterion.weak_modality = RatioWeakModalityWeight()
        criterion.weak_modality.alpha.fill_(1.4)
        rows = len(labels)
        out = augment({key: value[:rows] for key, value in data.items()}, labels)
        loss = criterion(torch.randn(rows, 5), out)
        assert torch.isfinite(loss)
        assert torch.equal(criterion.weak_modality.alpha, torch.full((2,), 1.4))
        assert torch.equal(criterion.weak_modality.coefficients(out), torch.ones(2))
    with pytest.raises(MidasAugError, match="num_modalities of 2"):
        RatioWeakModalityWeight(3)


def test_modules_show_their_arguments():
    shown = repr(MidasLoss(2, weak_modality=WeakModalityWeight(2, max_alpha=10), warmup_epochs=3))
    assert "2, unimodal_weight=1.0, warmup_epochs=3" in shown
    assert "WeakModalityWeight(2, step_size=0.05, max_alpha=10, sync=True)" in shown


def test_fields_of_another_shape_are_named_not_broadcast():
    step = make_step(torch.arange(16) % 5)
    out = step.out
    fields = {
        name: getattr(out, name)
        for name in ("labels", "source_labels", "shares", "weights", "valid")
    }
    column = SimpleNamespace(**fields | {"weights": out.weights[:, None]})
    with pytest.raises(MidasAugError, match=r"weights of shape \(48\), got \(48, 1\)"):
        MidasLoss(2)(step.logits, column, step.unimodal)
    with pytest.raises(MidasAugError, match=r"3 modalities this loss was built for"):
        MidasLoss(3, unimodal_weight=0)(step.logits, out)
    with pytest.raises(MidasAugError, match=r"logits of shape \(48, any\), got \(32, 5\)"):
        WeakModalityWeight(2).update(step.logits[16:], out)
    with pytest.raises(MidasAugError, match=r"unimodal_logits\[0\].*5 classes, got 3"):
        MidasLoss(2)(step.logits, out, [torch.zeros(16, 3)] * 2)


def test_a_loss_that_autocast_made_narrow_is_added_up_in_float32():
    class Far(Target):
        def check(self, labels, *, force=False):
            return labels

        def label_ids(self, labels):
            return labels

        def log_likelihoods(self, scores, labels):
            return (scores @ torch.ones(4, 1) - labels).abs().neg()

    features, labels = {"a": torch.rand(5, 3), "b": torch.rand(5, 3)}, torch.arange(5)
    augment = MisalignAugment(("a", "b"), target=Far(), confidence="uniform")
    out, logits = augment(features, labels), torch.randn(15, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = MidasLoss(2, weak_modality=None)(logits, out)
        terms = Far().log_likelihoods(logits, out.source_labels)
    assert (loss.dtype, terms.dtype) == (torch.float32, torch.bfloat16)
    rows = -(out.shares * terms).sum(dim=1)
    torch.testing.assert_close(loss, (out.weights * rows).mean())
