"""Class weights and label smoothing: the meaning of torch.nn.CrossEntropyLoss."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug.targets import ClassIndex, Distribution, MultiLabel, resolve_target
from tests.helpers.target_cases import MeanOfScores

C, LABELS = 3, torch.tensor([0, 1, 2, -1, 1, 0])
N = len(LABELS)
WEIGHT = torch.tensor([1.0, 4.0, 0.5])
SETTINGS = [
    {},
    {"class_weight": WEIGHT},
    {"label_smoothing": 0.2},
    {"class_weight": WEIGHT, "label_smoothing": 0.2},
]


def step(target, labels=LABELS, **options):
    torch.manual_seed(0)
    features = {"a": torch.rand(N, 4), "b": torch.rand(N, 5)}
    unimodal = [torch.randn(N, C), torch.randn(N, C)]
    augment = MisalignAugment(("a", "b"), target=target, seed=0, **options)
    out = augment(features, labels, unimodal_logits=unimodal)
    return out, torch.randn(3 * N, C), unimodal


def stock(target):
    weighting = target.weighting
    return {
        "weight": weighting.class_weight,
        "label_smoothing": weighting.label_smoothing,
    }


@pytest.mark.parametrize("settings", SETTINGS)
def test_on_aligned_rows_and_unimodal_heads_it_is_the_loss_of_torch(settings):
    target = ClassIndex(C, **settings)
    out, logits, unimodal = step(target)
    terms = MidasLoss(2).compute(logits, out, unimodal)
    theirs = torch.nn.CrossEntropyLoss(ignore_index=-1, **stock(target))
    torch.testing.assert_close(terms.aligned, theirs(logits[:N], LABELS))
    wanted = sum(theirs(rows, LABELS) for rows in unimodal)
    torch.testing.assert_close(terms.unimodal, wanted)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", [ClassIndex, Distribution])
def test_a_stock_loss_on_soft_targets_is_the_whole_loss(settings, kind):
    target = kind(C, **settings)
    labels = LABELS
    if kind is Distribution:
        labels = torch.rand(N, C).softmax(dim=1)
        labels[3] = -1
    out, logits, _ = step(target, labels, misaligned_weight=0.7)
    terms = MidasLoss(2, weak_modality=None, unimodal_weight=0).compute(logits, out)
    rows = F.cross_entropy(logits, out.targets, reduction="none", **stock(target))
    torch.testing.assert_close((out.weights * rows).mean(), terms.total)
    folded = F.cross_entropy(logits, out.folded_targets())
    torch.testing.assert_close(folded, terms.total)


def test_shares_and_alpha_know_nothing_of_class_weights_and_smoothing():
    plain, weighed = (step(ClassIndex(C, **settings))[0] for settings in (SETTINGS[0], SETTINGS[3]))
    assert torch.equal(plain.shares, weighed.shares)
    assert torch.equal(plain.confidence, weighed.confidence)
    alphas = []
    for target in (ClassIndex(C), ClassIndex(C, **SETTINGS[3])):
        out, logits, unimodal = step(target)
        criterion = MidasLoss(2)
        criterion(logits, out, unimodal)
        alphas.append(criterion.alpha)
    assert torch.equal(*alphas)


def test_classes_that_weigh_nothing_make_no_nan():
    out, logits, unimodal = step(ClassIndex(C, class_weight=[0.0, 0.0, 0.0]))
    logits.requires_grad_()
    loss = MidasLoss(2)(logits, out, unimodal)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassIndex(0), ["positive integer", "0"]),
        (lambda: ClassIndex(3, class_weight=[1.0]), ["class_weight", "(3)", "(1,)"]),
        (lambda: ClassIndex(2, class_weight=[1.0, -1.0]), ["at least 0", "-1.0"]),
        (lambda: ClassIndex(2, class_weight=np.array([1.0, np.nan])), ["finite", "nan"]),
        (lambda: ClassIndex(2, label_smoothing=1.0), ["[0, 1)", "1.0"]),
        (lambda: resolve_target(None, None), ["num_classes or target", "neither"]),
        (lambda: resolve_target(3, MultiLabel(3)), ["both"]),
        (lambda: resolve_target(MultiLabel(3), None), ["target=..."]),
        (lambda: resolve_target(None, MultiLabel), ["built", "MultiLabel"]),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(MidasAugError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)


class Sharp(ClassIndex):
    """A target of one's own, by one method."""

    def log_likelihoods(self, scores, labels):
        return super().log_likelihoods(3 * scores, labels)


def test_confidence_is_that_of_a_subclass():
    out, _, unimodal = step(Sharp(C))
    plain = MisalignAugment(("a", "b"), C, seed=0)
    features = {"a": torch.rand(N, 4), "b": torch.rand(N, 5)}
    want = plain(features, LABELS, unimodal_logits=[3 * logits for logits in unimodal])
    torch.testing.assert_close(out.confidence, want.confidence)


class Double(ClassIndex):
    def loss_terms(self, scores, labels):
        terms, found = super().loss_terms(scores, labels)
        return 2 * terms, found


@pytest.mark.parametrize("present", [None, torch.arange(2 * N).view(N, 2) % 3 > 0])
def test_every_term_is_the_loss_of_a_subclass(present):
    (out, logits, unimodal), found = step(ClassIndex(C)), []
    for target in (ClassIndex(C), Double(C)):
        augment = MisalignAugment(("a", "b"), target=target, hardness=None)
        batch = {"a": torch.rand(N, 4), "b": torch.rand(N, 5)}
        again = augment(batch, LABELS, unimodal_logits=unimodal, present=present, plan=out.plan)
        found.append(MidasLoss(2).compute(logits, again, unimodal))
    for once, twice in zip(*found, strict=True):
        torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("present", [None, torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]]).bool()])
def test_heads_of_a_target_of_ones_own_may_differ_in_width(present):
    unimodal = [torch.randn(4, 2), torch.randn(4, 3, requires_grad=True)]
    given = [logits.detach().clone() for logits in unimodal]
    batch, labels = {"a": torch.rand(4, 4), "b": torch.rand(4, 5)}, torch.tensor([0, 1, -1, 3])
    augment = MisalignAugment(("a", "b"), target=MeanOfScores())
    out = augment(batch, labels, unimodal_logits=unimodal, present=present)
    has = torch.ones(4, 2).bool() if present is None else present
    has = has & (labels >= 0)[:, None]
    errors = [(logits.mean(dim=1) - labels).abs() for logits in unimodal]
    wanted = torch.stack(errors, dim=1).neg().exp().masked_fill(~has, 0.0)
    torch.testing.assert_close(out.confidence, wanted.detach())
    loss = MidasLoss(2).compute(torch.randn(len(out.source), 5), out, unimodal).unimodal
    means = [error[rows].mean() for error, rows in zip(errors, has.T, strict=True)]
    torch.testing.assert_close(loss, means[0] + means[1])
    loss.backward()
    assert (unimodal[1].grad[~has[:, 1]] == 0).all()
    assert all(map(torch.equal, unimodal, given))  # nothing was filled in place


@pytest.mark.parametrize("kind", [ClassIndex, Distribution])
def test_class_weights_that_were_used_in_inference_mode_train_afterwards(kind):
    """The meta device stands for an accelerator, for which a copy is kept."""
    weighting = kind(3, class_weight=[1.0, 2.0, 3.0]).weighting
    like = torch.empty(1, device="meta")
    with torch.inference_mode():
        weighting.on(like)
    weight = weighting.on(like)
    assert not weight.is_inference()
    scores = torch.empty(3, device="meta", requires_grad=True)
    (scores * weight).sum().backward()
    assert weighting.on(like) is weight
