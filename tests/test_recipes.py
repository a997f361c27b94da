"""Recipes: every part is set as its source says, and no_harm keeps the better run."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from midas_aug import MidasAugError, recipes
from midas_aug import functional as F

C = 3
NAMES = ("a", "b", "c")
LABELS = torch.arange(12) % C


def features(count: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(12, 4) for name in NAMES[:count]}


@pytest.mark.parametrize("count", [2, 3])
def test_the_papers_recipe_is_algorithm_1(count):
    augment, criterion = recipes.paper(
        NAMES[:count], C, warmup_epochs=2, misaligned_weight=5, seed=0
    )
    given, unimodal = features(count), [torch.randn(12, C) for _ in range(count)]
    out = augment(given, LABELS, unimodal_logits=unimodal)
    assert len(out.source) == 12 + (24 if count == 2 else 12)  # A.2
    torch.testing.assert_close(out.shares[12:], F.label_shares(out.confidence, out.source[12:]))
    hard = F.hard_sample_weights(list(given.values()), out.plan)
    torch.testing.assert_close(out.hard_weights, hard)
    assert criterion.warming_up
    criterion.set_epoch(2)
    logits = torch.randn(len(out.source), C)
    terms = criterion.compute(logits, out, unimodal)
    expected = sum(cross_entropy(head, LABELS) for head in unimodal)
    torch.testing.assert_close(terms.unimodal, expected)
    torch.testing.assert_close(terms.aligned, cross_entropy(logits[:12], LABELS))
    assert augment.misaligned_weight == 5
    assert criterion.weak_modality.step_size == 0.05


@pytest.mark.parametrize("count", [2, 3])
def test_the_skill_recipe_has_no_weights_and_no_warm_up(count):
    augment, criterion = recipes.skill(NAMES[:count], C, seed=0)
    confidence = augment.confidence
    heads = {name: torch.zeros(12, C) for name in NAMES[:count]}
    heads["a"] = 60 * one_hot(LABELS).float()
    confidence.update(dict(reversed(heads.items())), LABELS)  # by name, in any order
    confidence.step()
    assert confidence.skill.tolist() == pytest.approx([1.0] + [0.0] * (count - 1), abs=1e-6)
    out = augment(features(count), LABELS, unimodal_logits=heads)
    assert len(out.source) == 12 * (count + 1)
    assert torch.equal(out.shares[12:], F.shares_by_source(out.confidence, out.source[12:]))
    assert out.hard_weights is None
    logits = torch.randn(len(out.source), C)
    criterion.set_epoch(0)
    terms = criterion.compute(logits, out, heads)
    soft = cross_entropy(logits[12:], out.targets[12:])
    torch.testing.assert_close(terms.misaligned, soft)
    assert terms.unimodal > 0
    assert criterion.weak_modality is None


def test_the_skill_recipe_may_weigh_its_heads_more():
    augment, criterion = recipes.skill(NAMES, C, unimodal_weight=3)
    out = augment(features(3), LABELS)
    logits, heads = torch.randn(len(out.source), C), [torch.randn(12, C) for _ in NAMES]
    terms = criterion.compute(logits, out, heads)
    weighed = 3 * sum(cross_entropy(z, LABELS) for z in heads)
    torch.testing.assert_close(terms.total, terms.aligned + terms.misaligned + weighed)
    with pytest.raises(MidasAugError, match="unimodal_weight"):
        recipes.skill(NAMES, C, unimodal_weight=-1)


def test_the_plain_swap_shares_equally_and_trains_no_heads():
    augment, criterion = recipes.plain_swap(NAMES, C, misaligned_weight=0.5)
    out = augment(features(3), LABELS)
    assert torch.equal(out.shares, torch.full((24, 3), 1 / 3))
    logits = torch.randn(24, C)
    terms = criterion.compute(logits, out, [torch.randn(12, C)] * 3)
    torch.testing.assert_close(terms.misaligned, 0.5 * cross_entropy(logits[12:], out.targets[12:]))
    assert terms.total == terms.aligned + terms.misaligned
    assert criterion.weak_modality is None


def test_no_harm_keeps_the_better_run_and_the_plainer_one_of_equals():
    nan = math.nan
    for without, augmented, kept in [(0.8, 0.7, 0), (0.7, 0.8, 2), (0.7, 0.7, 0), (nan, 0.1, 2)]:
        ran = []

        def train(weight, ran=ran, scores=(without, augmented)):
            ran.append(weight)
            return f"model {weight}", scores[weight > 0]

        choice = recipes.no_harm(train, 2)
        assert ran == [0, 2]
        assert choice.misaligned_weight == kept
        assert choice.kept == f"model {float(kept)}"
        assert choice.augmented == augmented
    assert recipes.no_harm(lambda weight: (weight, nan if weight else 0.5)).kept == 0
    with pytest.raises(MidasAugError, match="NaN twice"):
        recipes.no_harm(lambda weight: (weight, nan))
    with pytest.raises(MidasAugError, match=r"above 0 in float32, got 0"):
        recipes.no_harm(lambda weight: (weight, 1.0), 0)
    for arguments, words in (
        ((lambda weight: (weight, 1.0), "1"), ["above 0", "'1'"]),
        (("fit.py",), ["function", "str"]),
        ((lambda weight: 1.0,), ["validation score", "got 1.0"]),
        ((lambda weight: ("model", "good"),), ["validation score", "'good'"]),
    ):
        with pytest.raises(MidasAugError) as error:
            recipes.no_harm(*arguments)
        assert all(word in str(error.value) for word in words), str(error.value)


def test_a_score_may_be_a_tensor():
    choice = recipes.no_harm(lambda weight: (weight, torch.tensor(0.5 + weight / 10)))
    assert (choice.kept, type(choice.augmented)) == (1.0, float)


@pytest.mark.parametrize("modalities", [None, 5, "ab", ("a",)])
@pytest.mark.parametrize("name", ["paper", "skill", "plain_swap"])
def test_modalities_that_are_none_are_refused_by_every_recipe(name, modalities):
    more = {"warmup_epochs": 0} if name == "paper" else {}
    with pytest.raises(MidasAugError, match="expected modalities to be"):
        getattr(recipes, name)(modalities, C, **more)
