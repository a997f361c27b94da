"""What is no number, or too large a one, stays out of providers and of the labels they give."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug.confidence import (
    CalibratedConfidence,
    LogitConfidence,
    PrototypeConfidence,
    SkillConfidence,
    TableConfidence,
)
from midas_aug.confidence.calibration import fit_temperature
from tests.helpers import reference

N, C = 12, 4
LABELS = torch.arange(N) % C
DIMS = {"a": 5, "b": 3}
INF, NAN = float("inf"), float("nan")
NO_NUMBERS = (NAN, INF, -INF)


def features(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(N, dim, generator=generator) for key, dim in DIMS.items()}


def centroids(prototypes: PrototypeConfidence) -> list[torch.Tensor]:
    return [prototypes.get_buffer(f"centroids_{number}").clone() for number in range(2)]


# ---------------------------------------------------------------- prototypes


@pytest.mark.parametrize("bad", [*NO_NUMBERS, 1e300])
@pytest.mark.parametrize("label", [1, -1])
def test_a_row_with_a_feature_that_is_no_number_is_left_out_of_an_update(bad, label):
    """Of every modality: centroids of one class are means of the same rows."""
    given = {key: value.double() for key, value in features().items()}
    labels = LABELS.clone()
    labels[5] = label
    without = {key: torch.cat([value[:5], value[6:]]) for key, value in given.items()}
    expected = PrototypeConfidence(DIMS, C)
    expected.update(without, torch.cat([labels[:5], labels[6:]]))
    given["a"][5, 2] = bad
    prototypes = PrototypeConfidence(DIMS, C)
    prototypes.update(given, labels)
    for found, wanted in zip(centroids(prototypes), centroids(expected), strict=True):
        torch.testing.assert_close(found, wanted)
    assert prototypes(features(), LABELS).isfinite().all()


def test_a_class_whose_every_row_is_left_out_keeps_its_centroid_and_is_not_seen():
    prototypes = PrototypeConfidence(DIMS, C)
    first = features()
    first["b"][LABELS == 2] = NAN
    prototypes.update(first, LABELS)
    assert prototypes.seen.tolist() == [True, True, False, True]
    assert (prototypes(features(), LABELS)[LABELS == 2] == 0).all()
    prototypes.update(features(1), LABELS)
    before = centroids(prototypes)
    prototypes.update(first, LABELS)
    for found, kept in zip(centroids(prototypes), before, strict=True):
        assert torch.equal(found[2], kept[2])
        assert not torch.equal(found[0], kept[0])
    assert prototypes.seen.all()


def test_a_sum_that_overflows_moves_nothing_and_other_classes_move():
    prototypes = PrototypeConfidence(DIMS, C)
    prototypes.update(features(), LABELS)
    before = centroids(prototypes)
    large = features(1)
    large["a"][LABELS == 1] = 3e38  # each of them a number
    prototypes.update(large, LABELS)
    for found, kept in zip(centroids(prototypes), before, strict=True):
        assert torch.equal(found[1], kept[1])
        assert not torch.equal(found[0], kept[0])
    assert prototypes(features(), LABELS).isfinite().all()


def test_a_class_that_was_never_seen_has_no_say_in_the_others():
    """Its centroid of zeros would have the cosine 0, more than an opposite one."""
    prototypes = PrototypeConfidence({"a": 2, "b": 2}, 3, temperature=0.5)
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    prototypes.update({"a": rows, "b": rows}, torch.tensor([0, 2]))
    scores = prototypes({"a": rows, "b": rows}, torch.tensor([2, 1]))
    assert scores[0].tolist() == pytest.approx([1 / (1 + np.exp(4))] * 2)
    assert scores[1].tolist() == [0.0, 0.0]
    same = prototypes({"a": rows, "b": rows}, torch.tensor([0, 2]))
    assert same.tolist() == [pytest.approx([1 / (1 + np.exp(-4))] * 2)] * 2


@pytest.mark.parametrize("temperature", [1.2e-38, 1e-30, 1e30])
def test_prototypes_of_any_temperature_give_numbers(temperature):
    prototypes = PrototypeConfidence(DIMS, C, temperature=temperature)
    assert prototypes(features(), LABELS).isfinite().all()
    given = features()
    given["a"][LABELS == 3] = NAN  # class 3 is not seen
    prototypes.update(given, LABELS)
    scores = prototypes(features(), LABELS)
    assert scores.isfinite().all()
    if temperature < 1:  # all or nothing; nothing goes to the class that was not seen
        assert set(scores.flatten().tolist()) <= {0.0, 1.0}
        assert (scores[LABELS == 0] == 1).any()


def test_features_in_half_precision_move_centroids_in_float32():
    prototypes = PrototypeConfidence(DIMS, C)
    for seed in range(3):
        given = {key: value.bfloat16() for key, value in features(seed).items()}
        prototypes.update(given, LABELS)
    updates = [
        ([value.bfloat16().double().numpy() for value in features(seed).values()], LABELS.numpy())
        for seed in range(3)
    ]
    expected = reference.prototype_confidence(updates, updates[2][0], LABELS.numpy(), C, 0.1, 0.9)
    given = {key: value.bfloat16() for key, value in features(2).items()}
    np.testing.assert_allclose(prototypes(given, LABELS).numpy(), expected, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- calibration


@pytest.mark.parametrize("bad", [NAN, INF])
def test_calibration_on_what_is_no_number_is_refused_and_keeps_the_temperatures(bad):
    calibrated = CalibratedConfidence(LogitConfidence(("a", "b")))
    labels = torch.arange(60) % 3
    known = 2.0 * (labels[:, None] == torch.arange(3))
    logits = {key: known + 2 * torch.randn(60, 3) for key in "ab"}
    calibrated.fit(logits, labels)
    before = calibrated.temperatures.clone()
    logits["b"][7, 0] = bad
    with pytest.raises(MidasAugError, match=r"unimodal_logits\['b'\].*1 of 60 rows"):
        calibrated.fit(logits, labels)
    assert torch.equal(calibrated.temperatures, before)
    labels[7] = -1  # in an ignored row it may be anything
    calibrated.fit(logits, labels)
    torch.testing.assert_close(calibrated.temperatures, before, rtol=0.1, atol=0)


def test_calibration_takes_a_class_that_is_ruled_out_where_it_is_not_the_label():
    logits, labels = 2 * torch.randn(60, 3), torch.arange(60) % 3
    logits[labels == 0, 1] = -INF
    assert 0.05 < fit_temperature(logits, labels) < 20
    with pytest.raises(MidasAugError, match="finite likelihood"):
        fit_temperature(logits, (labels == 0).long())


@pytest.mark.parametrize(("width", "words"), [(1, "one column.*binary"), (2, "2 columns")])
def test_calibration_names_the_head_that_is_too_narrow(width, words):
    calibrated = CalibratedConfidence(LogitConfidence(("a", "b")))
    logits = {"a": torch.randn(6, 3), "b": torch.randn(6, width)}
    with pytest.raises(MidasAugError, match=rf"unimodal_logits\['b'\].*{words}") as error:
        calibrated.fit(logits, torch.arange(6) % 3)
    assert "num_classes" not in str(error.value)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("value", [NAN, INF, -INF, 0.0, -1.0, 1e39, 1e-46, True, "1", None])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("temperature", lambda value: LogitConfidence(("a", "b"), temperature=value)),
        ("temperature", lambda value: PrototypeConfidence(DIMS, C, temperature=value)),
        ("eps", lambda value: SkillConfidence(("a", "b"), C, eps=value)),
        ("ema", lambda value: SkillConfidence(("a", "b"), C, ema=value)),
    ],
)
def test_settings_that_are_no_positive_numbers_are_refused(name, make, value):
    with pytest.raises(MidasAugError, match=f"finite {name} above 0.*got {re.escape(repr(value))}"):
        make(value)


@pytest.mark.parametrize("value", [NAN, INF, -0.1, 1e39, True, "1", None])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("momentum", lambda value: PrototypeConfidence(DIMS, C, momentum=value)),
        ("initial confidence", lambda value: TableConfidence(("a", "b"), N, initial=value)),
    ],
)
def test_settings_that_are_no_numbers_from_0_on_are_refused(name, make, value):
    with pytest.raises(
        MidasAugError, match=f"finite {name} of at least 0.*got {re.escape(repr(value))}"
    ):
        make(value)
    make(0)
    make(np.float32(0.5))


@pytest.mark.parametrize("value", [1.0, 1.5])
def test_a_momentum_that_never_moves_and_an_ema_above_one_are_refused(value):
    with pytest.raises(MidasAugError, match=r"momentum in \[0, 1\)"):
        PrototypeConfidence(DIMS, C, momentum=value)
    if value > 1:
        with pytest.raises(MidasAugError, match=r"ema in \(0, 1\]"):
            SkillConfidence(("a", "b"), C, ema=value)


@pytest.mark.parametrize("bad", [NAN, INF, -1.0])
def test_class_counts_that_are_no_counts_are_refused(bad):
    counts = torch.tensor([1.0, bad, 2.0, 1.0])
    with pytest.raises(MidasAugError, match="finite class_counts"):
        SkillConfidence(("a", "b"), C, class_counts=counts)


# ---------------------------------------------------------------- what a provider returns


def label(scores: Any, library: str = "torch") -> Any:
    """A batch labelled with these confidences, by a provider, and in plain numbers."""
    batch: dict[str, Any] = features()
    labels: Any = LABELS
    if library == "numpy":
        batch, labels = {key: value.numpy() for key, value in batch.items()}, labels.numpy()
        scores = scores.numpy()
    augment = MisalignAugment(("a", "b"), C, confidence=lambda *_: scores)
    return augment(batch, labels)


@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF, -0.1])
def test_confidences_that_are_no_numbers_are_refused_where_a_look_is_free(library, bad):
    scores = torch.ones(N, 2)
    scores[4, 1] = bad
    with pytest.raises(MidasAugError, match="finite confidences of at least 0"):
        label(scores, library)
    with pytest.raises(MidasAugError, match="finite confidences of at least 0"):
        label(torch.ones(N, 2)).label(scores)


def test_a_confidence_that_is_infinite_in_float32_is_refused():
    with pytest.raises(MidasAugError, match="finite confidences"):
        label(torch.full((N, 2), 1e300, dtype=torch.float64))


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_the_largest_confidences_have_shares_and_a_finite_loss(library):
    scores = torch.tensor([[3e38, 3e38], [3e38, 1e-38]]).repeat(N // 2, 1)
    out = label(scores, library)
    assert np.isfinite(np.asarray(out.targets)).all()
    np.testing.assert_allclose(np.asarray(out.shares).sum(axis=1), 1, rtol=1e-6)
    assert MidasLoss(2)(torch.randn(3 * N, C), out).isfinite()


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_an_ignored_row_may_bring_anything_to_a_skill_and_to_prototypes(bad):
    labels = LABELS.clone()
    labels[::3] = -1
    given, logits = features(), [torch.randn(N, C) for _ in "ab"]
    clean, poisoned = (SkillConfidence(("a", "b"), C) for _ in range(2))
    prototypes = [PrototypeConfidence(DIMS, C) for _ in range(2)]
    for skill, centroid in zip((clean, poisoned), prototypes, strict=True):
        skill.update(logits, labels)
        skill.step()
        centroid.update(given, labels)
        logits = [torch.where(labels[:, None] < 0, bad, each) for each in logits]
        given = {key: torch.where(labels[:, None] < 0, bad, each) for key, each in given.items()}
    assert torch.equal(clean.skill, poisoned.skill)
    assert torch.equal(*(each(features(), LABELS) for each in prototypes))
    scores = prototypes[0](given, labels)
    assert scores.isfinite().all()
    assert (scores[labels < 0] == 0).all()
