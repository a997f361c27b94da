"""A rank's rows of the batch of all ranks: what holds of labels of every kind, in one process."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midas_aug import LossTerms, MidasLoss, MisalignAugment
from midas_aug.integrations.distributed import AllRanksBatch, augment_across_ranks
from midas_aug.targets import ClassIndex
from tests.helpers.operators import OperatorCount
from tests.helpers.target_cases import KINDS, MeanOfScores, cases

DENSE = ("class", "weighted class", "distribution", "weighted distribution", "multi-label")


@pytest.mark.parametrize("name", KINDS)
@given(st.data())
@settings(max_examples=8)
def test_one_rank_has_the_batch_of_its_augmentation(name, data):
    case = data.draw(cases([name], [None], sizes=(1, 10)))
    features, labels = case.given(case.features), case.given(case.labels)
    unimodal = case.given(case.unimodal)
    out = augment_across_ranks(case.augment(seed=3), features, labels, unimodal_logits=unimodal)
    want = case.augment(seed=3)(features, labels, unimodal_logits=unimodal)
    assert torch.equal(out.source, want.source)
    for key in ("labels", "source_labels", "shares", "weights", "valid", "is_misaligned"):
        assert torch.equal(getattr(out, key).nan_to_num(), getattr(want, key).nan_to_num()), key
    scores = case.scores(want)
    terms, twin = (MidasLoss(case.m).compute(scores, each, unimodal) for each in (want, out))
    for key in terms._fields:
        torch.testing.assert_close(getattr(twin, key), getattr(terms, key))
    if name in DENSE:
        torch.testing.assert_close(out.targets, want.targets)
    if name in DENSE and name != "multi-label":
        torch.testing.assert_close(out.folded_targets(), want.folded_targets())


def of_ranks(whole, n_ranks, scores, unimodal):
    """The terms of each rank's loss: each has the samples of its own anchors, all in one draw."""
    n_rows = len(whole.labels) // n_ranks
    found = []
    for rank in range(n_ranks):
        out = AllRanksBatch(whole, n_rows, rank)
        own = slice(rank * n_rows, (rank + 1) * n_rows)
        heads = {name: logits[own] for name, logits in unimodal.items()}
        found.append(MidasLoss(len(unimodal)).compute(scores[out.index], out, heads))
    return found


def mean_of(terms):
    return LossTerms(*(torch.stack(each).mean() for each in zip(*terms, strict=True)))


@pytest.mark.parametrize("name", KINDS)
@given(st.data(), st.integers(2, 3), st.integers(1, 4))
@settings(max_examples=25)
def test_the_mean_of_the_ranks_losses_is_the_loss_of_all_rows(name, data, n_ranks, n_rows):
    """However unevenly rows without a label, absent modalities and heavy classes are spread."""
    case = data.draw(cases([name], sizes=(n_ranks * n_rows,) * 2))
    whole = case.draw()
    scores = case.scores(whole).requires_grad_()
    unimodal = {key: logits.requires_grad_() for key, logits in case.given(case.unimodal).items()}
    inputs = [scores, *unimodal.values()]
    want = MidasLoss(case.m).compute(scores, whole, unimodal)
    have = mean_of(of_ranks(whole, n_ranks, scores, unimodal))
    for key in want._fields:
        torch.testing.assert_close(
            getattr(have, key), getattr(want, key), rtol=1e-4, atol=1e-5, msg=key
        )
    gradients = (torch.autograd.grad(terms.total, inputs) for terms in (have, want))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("present", [None, torch.arange(16).view(8, 2) % 3 > 0])
@pytest.mark.parametrize("class_weight", [None, (1.0, 5.0, 0.1)])
def test_a_unimodal_loss_divides_by_what_counts_on_all_ranks(class_weight, present):
    labels = torch.tensor([0, 1, 2, 0, 1, -1, -1, -1])  # ignored rows on the second rank alone
    weight = torch.tensor(class_weight or (1.0, 1.0, 1.0))
    augment = MisalignAugment(
        ("a", "b"), target=ClassIndex(3, class_weight=class_weight), confidence="uniform", seed=0
    )
    whole = augment({"a": torch.randn(8, 4), "b": torch.randn(8, 4)}, labels, present=present)
    unimodal = {"a": torch.randn(8, 3), "b": torch.randn(8, 3)}
    terms = of_ranks(whole, 2, torch.zeros(len(whole.source), 3), unimodal)
    want = 0.0
    for number, logits in enumerate(unimodal.values()):
        has = torch.ones(8).bool() if present is None else present[:, number]
        rows = [i for i in range(8) if labels[i] >= 0 and has[i]]
        losses = [-logits[i].log_softmax(0)[labels[i]] * weight[labels[i]] for i in rows]
        want += float(sum(losses) / sum(weight[labels[i]] for i in rows))
    assert float(mean_of(terms).unimodal) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("present", [None, torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]]).bool()])
def test_heads_of_several_widths_divide_by_what_counts_on_all_ranks(present):
    unimodal = {"a": torch.randn(4, 2), "b": torch.randn(4, 3)}
    batch, labels = {"a": torch.rand(4, 4), "b": torch.rand(4, 5)}, torch.tensor([0, 1, -1, 3])
    augment = MisalignAugment(("a", "b"), target=MeanOfScores())
    whole = augment(batch, labels, unimodal_logits=unimodal, present=present)
    scores = torch.randn(len(whole.source), 5)
    want = MidasLoss(2).compute(scores, whole, unimodal)
    have = mean_of(of_ranks(whole, 2, scores, unimodal))
    torch.testing.assert_close(have, want)


@pytest.mark.parametrize("with_present", [False, True])
def test_no_rank_waits_for_the_device(with_present):
    """Tensors on the meta device have no values: any look at one raises."""
    augment = MisalignAugment(("a", "b"), target=ClassIndex(3, class_weight=(1.0, 2.0, 3.0)))
    with torch.device("meta"):
        features = {"a": torch.zeros(8, 4), "b": torch.zeros(8, 4)}
        labels, scores = torch.zeros(8, dtype=torch.long), torch.zeros(24, 3)
        unimodal = {"a": torch.zeros(8, 3), "b": torch.zeros(8, 3)}
        present = torch.ones(8, 2, dtype=torch.bool) if with_present else None
    criterion = MidasLoss(2).to("meta")
    with OperatorCount() as count:
        whole = augment(features, labels, unimodal_logits=unimodal, present=present)
        out = AllRanksBatch(whole, 4, 1)
        criterion(scores[:12], out, {name: logits[:4] for name, logits in unimodal.items()})
    assert count.waiting == []
