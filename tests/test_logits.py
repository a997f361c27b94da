"""Softmax outputs that are given as logits are told so once, where a look is free."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from midas_aug import MidasLoss, MisalignAugment
from midas_aug._logits import looked_at, warn_of_probabilities
from midas_aug.confidence import (
    CalibratedConfidence,
    HeadConfidence,
    LogitConfidence,
    SkillConfidence,
)
from midas_aug.targets import ClassIndex, MultiLabel, Target
from tests.helpers.operators import OperatorCount

N, C = 12, 3
LABELS = torch.arange(N) % C
NAMES = ("a", "b")
SAID = "look like probabilities"


def logits() -> dict[str, Tensor]:
    return {name: 3 * torch.randn(N, C) for name in NAMES}


def softmax() -> dict[str, Tensor]:
    return {name: each.softmax(dim=1) for name, each in logits().items()}


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if SAID in str(one.message)]


def augmented(given: Any, confidence: Any = "logits", **options: Any) -> Callable[[], Any]:
    features = {name: torch.randn(N, 4) for name in NAMES}
    augment = MisalignAugment(NAMES, C, confidence=confidence)
    return lambda: augment(features, LABELS, unimodal_logits=given, **options)


WAYS: dict[str, Callable[[Any], Any]] = {
    "augment": lambda given: augmented(given),
    "augment, in order": lambda given: augmented(list(given.values())),
    "provider": lambda given: augmented(given, HeadConfidence({"a": 4, "b": 4}, C)),
    "uniform": lambda given: augmented(given, "uniform"),
    "LogitConfidence": lambda given: lambda: LogitConfidence(NAMES)(given, LABELS),
    "SkillConfidence": lambda given: lambda: SkillConfidence(NAMES, C).update(given, LABELS),
    "CalibratedConfidence": lambda given: (
        lambda: CalibratedConfidence(LogitConfidence(NAMES)).fit(given, LABELS)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_probabilities_are_told_and_logits_are_not(way):
    found = said(WAYS[way](softmax()))
    assert len(found) == 1
    assert "unimodal_logits['a']" in found[0]
    assert said(WAYS[way](logits())) == []
    log_p = {name: each.log_softmax(dim=1) for name, each in logits().items()}
    assert said(WAYS[way](log_p)) == []
    relu = {name: each.relu() for name, each in logits().items()}
    assert said(WAYS[way](relu)) == []


def test_it_is_told_once_per_augmentation_and_in_a_copy_of_it_not_again_and_again():
    call = augmented(softmax())
    assert len(said(call)) == 1
    assert said(call) == []
    assert len(said(augmented(softmax()))) == 1


def test_only_one_modality_is_enough():
    given = logits() | {"b": softmax()["b"]}
    assert "unimodal_logits['b']" in said(augmented(given))[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_probabilities_of_every_precision_are_seen(dtype, classes):
    rows = torch.randn(64, classes, dtype=torch.float64).softmax(dim=1).to(dtype)
    assert len(said(lambda: warn_of_probabilities(copy, [rows], ["x"], stacklevel=1))) == 1
    given = rows * 1.1
    owner = LogitConfidence(NAMES)
    assert said(lambda: warn_of_probabilities(owner, [given], ["x"], stacklevel=1)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmaxes_in_half_precision_are_told_though_they_are_computed_with_in_float32(dtype):
    narrow = {name: each.to(dtype) for name, each in softmax().items()}
    assert len(said(augmented(narrow))) == 1
    turn = partial(torch.softmax, dim=1)
    given = 3 * torch.randn(3 * N, C)
    assert len(said(step(ClassIndex(C), given, lambda each: turn(each).to(dtype)))) == 1
    for head in (torch.relu, torch.sigmoid, torch.abs, lambda each: 1.03 * turn(each)):
        near = {name: head(each).to(dtype) for name, each in logits().items()}
        assert said(augmented(near)) == []
        assert said(step(ClassIndex(C), given, lambda each, head=head: head(each).to(dtype))) == []
    # A row or two that sum to about 1 may do so by chance.
    few = [torch.tensor([[0.75, 0.2578]], dtype=dtype)]
    assert said(lambda: warn_of_probabilities(copy, few, ["x"], stacklevel=1)) == []


def test_a_sum_near_1_is_none_in_float32():
    rows = softmax()["a"]
    rows = rows + 1e-3 * torch.randn(N, C).abs()
    assert said(lambda: warn_of_probabilities(copy, [rows], ["x"], stacklevel=1)) == []


@pytest.fixture(autouse=True)
def _forget():
    looked_at.clear()


def test_arrays_of_numpy_are_looked_at_and_an_ignored_row_is_not():
    given = {name: each.numpy() for name, each in softmax().items()}
    features = {name: np.ones((N, 4)) for name in NAMES}
    labels = LABELS.numpy().copy()
    labels[3] = -1
    given["a"][3] = np.nan
    augment = MisalignAugment(NAMES, C)
    assert len(said(lambda: augment(features, labels, unimodal_logits=given))) == 1


@pytest.mark.parametrize(
    "given",
    [
        torch.ones(N, 1),  # one class: there is nothing that a softmax could do to it
        torch.zeros(0, C),
        torch.full((N, C), float("nan")),
        torch.zeros(N, C),
        torch.eye(3).repeat(4, 1) * 2,
        torch.tensor([[2.0, -1.0, 0.0]]).repeat(N, 1),
        torch.rand(N, C),
    ],
)
def test_what_cannot_be_told_apart_or_is_something_else_is_silent(given):
    assert said(lambda: warn_of_probabilities(copy, [given], ["x"], stacklevel=1)) == []


def test_an_empty_batch_does_not_count_as_a_look():
    owner = LogitConfidence(NAMES)
    rows = softmax()["a"]
    assert said(lambda: warn_of_probabilities(owner, [rows[:0]], ["x"], stacklevel=1)) == []
    assert len(said(lambda: warn_of_probabilities(owner, [rows], ["x"], stacklevel=1))) == 1


def test_nothing_is_looked_at_on_a_device_and_later_batches_cost_nothing():
    with OperatorCount() as log:
        rows = torch.empty(N, C, device="meta")
        warn_of_probabilities(copy, [rows], ["x"], stacklevel=1)
    assert log.waiting == []
    given = logits()["a"]
    warn_of_probabilities(copy, [given], ["x"], stacklevel=1)
    with OperatorCount() as log:
        warn_of_probabilities(copy, [given], ["x"], stacklevel=1)
    assert log.operators == 0


def test_the_warning_points_at_the_call():
    for way in ("augment", "LogitConfidence", "SkillConfidence", "CalibratedConfidence"):
        call = WAYS[way](softmax())
        with pytest.warns(UserWarning, match=SAID) as caught:
            call()
        assert caught[0].filename == __file__, way


def step(target: Target, given: Tensor, head: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
    """A loss of the fusion's logits, which ``head`` has turned into something else."""
    labels = torch.eye(C)[LABELS] if several(target) else LABELS
    augment = MisalignAugment(NAMES, target=target, confidence="uniform")
    out = augment({name: torch.randn(N, 4) for name in NAMES}, labels)
    criterion = MidasLoss(2)
    return lambda: [criterion(head(given), out) for _ in range(3)]


def several(target: Target) -> bool:
    return isinstance(target, MultiLabel)


@pytest.mark.parametrize("target", [ClassIndex(C), MultiLabel(C)])
def test_probabilities_of_the_fusion_are_told_once_and_its_logits_are_not(target):
    given = 3 * torch.randn(3 * N, C)
    turn = torch.sigmoid if several(target) else partial(torch.softmax, dim=1)
    name = "sigmoid" if several(target) else "softmax"
    (told,) = said(step(target, given, turn))
    assert f"the logits {SAID}" in told
    assert f"takes their {name} again" in told
    assert said(step(target, given, lambda logits: logits)) == []
    assert said(step(target, given, torch.nn.functional.relu)) == []
    assert said(step(target, given, torch.zeros_like)) == []  # a head that starts at 0


def test_sigmoids_as_unimodal_logits_are_told_where_a_row_may_have_several_classes():
    labels = (torch.randn(N, C) > 0).float()
    features = {name: torch.randn(N, 4) for name in NAMES}

    def augmented(given: Any) -> Callable[[], Any]:
        augment = MisalignAugment(NAMES, target=MultiLabel(C))
        return lambda: augment(features, labels, unimodal_logits=given)

    (told,) = said(augmented({name: each.sigmoid() for name, each in logits().items()}))
    assert "unimodal_logits['a']" in told
    assert "as after a sigmoid" in told
    assert said(augmented(logits())) == []
    assert said(augmented({name: torch.zeros(N, C) for name in NAMES})) == []
    few = {name: torch.rand(2, C) for name in NAMES}  # may be logits that all happen to be small
    augment = MisalignAugment(NAMES, target=MultiLabel(C))
    short = {name: rows[:2] for name, rows in features.items()}
    assert said(lambda: augment(short, labels[:2], unimodal_logits=few)) == []
