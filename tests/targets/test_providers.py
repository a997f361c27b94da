"""Providers of confidence and skill, for every kind of label and with missing modalities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from midas_aug import MidasAugError, MidasLoss, MisalignAugment, recipes
from midas_aug.confidence import (
    CalibratedConfidence,
    FrozenConfidence,
    HeadConfidence,
    LogitConfidence,
    PrototypeConfidence,
    SkillConfidence,
)
from midas_aug.targets import ClassIndex, Continuous, Distribution, MultiLabel
from tests.helpers import target_reference as slow
from tests.helpers.target_cases import KINDS, PATTERNS, cases, target_of
from tests.helpers.target_expectations import exact

TEMPERATURES = [0.3 * (20 / 0.3) ** (k / 59) for k in range(60)]
NAMES = ("a", "b")
MEASURED = tuple(name for name in KINDS if name != "own")

every_kind = pytest.mark.parametrize("name", KINDS)


@every_kind
@given(st.data())
@settings(max_examples=10)
def test_logits_of_a_batch_are_confident_as_the_reference_says(name, data):
    case = data.draw(cases([name], [None]))
    target = target_of(case.kind)
    unimodal = [exact(values) for values in case.unimodal.values()]
    want = slow.confidence(case.kind, unimodal, case.labels, None)
    logits = case.given(case.unimodal)
    for library in ("torch", "numpy"):
        provider = LogitConfidence(case.names, target=target)
        found = provider(case.given(case.unimodal, library), case.given(case.labels, library))
        assert isinstance(found, np.ndarray if library == "numpy" else torch.Tensor)
        counted = np.isin(np.arange(case.n), case.counted)
        np.testing.assert_allclose(np.asarray(found)[counted], want[counted], rtol=1e-3, atol=1e-6)
        assert not np.asarray(found)[~counted].any()
    # A provider that is asked through an augmentation labels as the logits themselves do.
    out = case.draw()
    provider = LogitConfidence(case.names, target=target)
    drawn = case.augment(confidence=provider).draw(
        case.given(case.features), case.given(case.labels), plan=out.plan
    )
    twin = drawn.label(provider, unimodal_logits=logits)
    torch.testing.assert_close(twin.shares[out.valid], out.shares[out.valid], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("target", "labels", "width"),
    [
        (ClassIndex(3), torch.tensor([0, 1, 2, 1]), 3),
        (Distribution(3), torch.eye(3)[[0, 1, 2, 1]], 3),
        (MultiLabel(3), torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]), 3),
        (Continuous(), torch.tensor([0.5, -1.0, 2.0, 0.0]), 1),
        (Continuous(2), torch.rand(4, 2), 2),
    ],
)
def test_heads_have_the_width_of_the_target_and_train(target, labels, width):
    heads = HeadConfidence({"a": 4, "b": 5}, target=target)
    batch = {"a": torch.rand(4, 4), "b": torch.rand(4, 5)}
    unimodal = heads.unimodal_logits(batch)
    assert {value.shape for value in unimodal.values()} == {(4, width)}
    augment = MisalignAugment(NAMES, target=target, confidence=heads)
    out = augment(batch, labels, unimodal_logits=unimodal)
    plain = MisalignAugment(NAMES, target=target)
    want = plain(batch, labels, unimodal_logits=unimodal, plan=out.plan)
    torch.testing.assert_close(out.shares, want.shares, rtol=1e-4, atol=1e-5)
    scores = torch.randn(len(out.source), width)
    MidasLoss(2)(scores, out, unimodal).backward()
    assert all(parameter.grad.isfinite().all() for parameter in heads.parameters())
    assert all(parameter.grad.any() for parameter in heads.parameters())

    frozen = FrozenConfidence(
        dict(zip(NAMES, map(nn.Sequential, heads.heads), strict=True)), target=target
    )
    torch.testing.assert_close(frozen(batch, labels), heads(batch, labels))


def test_calibration_follows_the_target_of_its_base():
    """A temperature makes the loss of held-out rows smallest; of sure heads it is above 1."""
    torch.manual_seed(0)
    labels = torch.randint(2, (400, 3))
    noise = torch.randn(400, 3)
    sure = {"a": 30 * (labels - 0.5 + noise), "b": (2 * labels - 1) * 1.0 + noise}
    calibrated = CalibratedConfidence(LogitConfidence(NAMES, target=MultiLabel(3)))
    calibrated.fit(sure, labels)
    tried = torch.logspace(-1.3, 1.3, 400, base=10)
    for number, value in enumerate(sure.values()):
        losses = [
            nn.functional.binary_cross_entropy_with_logits(value / t, labels.float()) for t in tried
        ]
        best = min(float(loss) for loss in losses)
        temperature = float(calibrated.temperatures[number])
        found = nn.functional.binary_cross_entropy_with_logits(value / temperature, labels.float())
        assert float(found) <= best + 1e-5
    assert float(calibrated.temperatures[0]) > 5


@pytest.mark.parametrize("target", [Distribution(3), MultiLabel(3), Continuous()])
def test_prototypes_are_of_class_indices_alone(target):
    prototypes = PrototypeConfidence({"a": 4, "b": 4}, 3)
    with pytest.raises(MidasAugError, match=f"{type(target).__name__}.*PrototypeConfidence"):
        MisalignAugment(NAMES, target=target, confidence=prototypes)


@pytest.mark.parametrize(
    ("built", "wanted"),
    [
        (MultiLabel(3), Distribution(3)),
        (ClassIndex(3), MultiLabel(3)),
        (Continuous(), ClassIndex(3)),
        (ClassIndex(4), ClassIndex(3)),
    ],
)
def test_a_provider_of_another_target_is_refused(built, wanted):
    for provider in (
        HeadConfidence({"a": 4, "b": 4}, target=built),
        SkillConfidence(NAMES, target=built),
        LogitConfidence(NAMES, target=built),
    ):
        with pytest.raises(MidasAugError) as error:
            MisalignAugment(NAMES, target=wanted, confidence=provider)
        message = str(error.value)
        assert "expected" in message
        assert type(built).__name__ in message
        assert type(wanted).__name__ in message


def test_a_provider_of_a_number_of_classes_is_one_of_class_indices():
    for provider in (HeadConfidence({"a": 4, "b": 4}, 3), SkillConfidence(NAMES, 3)):
        MisalignAugment(NAMES, target=ClassIndex(3, label_smoothing=0.1), confidence=provider)
        with pytest.raises(MidasAugError, match="MultiLabel"):
            MisalignAugment(NAMES, target=MultiLabel(3), confidence=provider)


@pytest.mark.parametrize("provider", [HeadConfidence, SkillConfidence])
def test_providers_take_a_number_of_classes_or_a_target(provider):
    modalities = {"a": 4, "b": 4}
    with pytest.raises(MidasAugError, match=r"(?s)num_classes.*target|target.*num_classes"):
        provider(modalities, 3, target=ClassIndex(3))
    with pytest.raises(MidasAugError, match=r"(?s)num_classes.*target|target.*num_classes"):
        provider(modalities)


# ---------------------------------------------------------------- skill


@pytest.mark.parametrize("name", MEASURED)
@given(st.data())
@settings(max_examples=12)
def test_skill_is_that_of_the_reference(name, data):
    case = data.draw(cases([name], sizes=(1, 12)))
    kind = case.kind
    provider = SkillConfidence(case.names, target=target_of(kind), ema=1.0)
    logits, labels = case.given(case.unimodal), case.given(case.labels)
    half = case.n // 2
    for rows in (slice(None, half), slice(half, None)):  # any number of batches is one
        provider.update(
            {key: value[rows] for key, value in logits.items()},
            labels[rows],
            present=None if case.present is None else case.given(case.present)[rows],
        )
    before = provider.skill.clone()
    provider.step()
    for number, values in enumerate(case.unimodal.values()):
        rows = [i for i in range(case.n) if slow.has(case.present, i, number)]
        want = slow.skill(kind, exact(values), case.labels, TEMPERATURES, rows)
        used = [i for i in rows if not slow.is_ignored(kind, case.labels[i])]
        found = float(provider.skill[number])
        if used:
            assert found == pytest.approx(want, rel=1e-3, abs=1e-4)
        else:
            assert found in (0.0, float(before[number]))


def test_skill_of_each_target_by_hand():
    numbers = torch.tensor([1.0, 3.0, torch.nan])
    skill = SkillConfidence(NAMES, target=Continuous(scale=4.0), ema=1.0)
    skill.update({"a": numbers[:, None] + 0.5, "b": torch.full((3, 1), 2.0)}, numbers)
    skill.step()
    torch.testing.assert_close(skill.skill, torch.tensor([0.75, 0.0]))

    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    skill = SkillConfidence(NAMES, target=Distribution(2), ema=1.0)
    skill.update({"a": soft.log(), "b": soft.mean(dim=0).log().expand(2, 2)}, soft)
    skill.step()
    torch.testing.assert_close(skill.skill, torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)

    several = torch.tensor([[0, 1], [1, 1], [-1, -1]])
    skill = SkillConfidence(NAMES, target=MultiLabel(2), ema=1.0)
    knows = 60.0 * (2 * several - 1)
    skill.update({"a": knows, "b": torch.tensor([[0.0, 60.0]]).expand(3, 2)}, several)
    skill.step()
    torch.testing.assert_close(skill.skill, torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)


@given(st.data())
@settings(max_examples=20)
def test_weights_and_smoothing_play_no_part_in_skill_and_shares(data):
    case = data.draw(cases(["smoothed class", "weighted distribution"], sizes=(1, 12)))
    plain_kind = slow.Kind(case.kind.name, case.kind.width)
    found = []
    for kind in (case.kind, plain_kind):
        provider = SkillConfidence(case.names, target=target_of(kind), ema=1.0)
        present = case.given(case.present)
        provider.update(case.given(case.unimodal), case.given(case.labels), present=present)
        provider.step()
        found.append(provider.skill.clone())
    assert torch.equal(*found)


@given(st.data())
@settings(max_examples=15)
def test_nothing_absent_moves_the_skill(data):
    """The nonsense in absent places is there or not: the same skill, never NaN."""
    case = data.draw(cases(MEASURED, PATTERNS, sizes=(1, 10), poisoned=True))
    clean = {key: np.nan_to_num(value, posinf=0, neginf=0) for key, value in case.unimodal.items()}
    found = []
    for values in (case.unimodal, clean):
        provider = SkillConfidence(case.names, target=target_of(case.kind), ema=1.0)
        provider.update(
            case.given(values), case.given(case.labels), present=case.given(case.present)
        )
        provider.step()
        found.append(provider.skill.clone())
    assert torch.isfinite(found[0]).all()
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (Distribution(3), torch.eye(3)[[0, 1, 2, 1]]),
        (MultiLabel(3), torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])),
        (Continuous(3), torch.rand(4, 3)),
    ],
)
def test_recipes_take_every_target(target, labels):
    batch = {"a": torch.rand(4, 4), "b": torch.rand(4, 5)}
    unimodal = {"a": torch.randn(4, 3), "b": torch.randn(4, 3)}
    for recipe in (
        recipes.paper(NAMES, target=target, warmup_epochs=0),
        recipes.skill(NAMES, target=target),
        recipes.plain_swap(NAMES, target=target),
    ):
        assert recipe.augment.target is target
        out = recipe.augment(batch, labels, unimodal_logits=unimodal)
        assert torch.isfinite(recipe.criterion(torch.randn(len(out.source), 3), out, unimodal))
