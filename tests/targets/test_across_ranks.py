"""A rank's rows of the batch of all ranks: what holds of labels of every kind, in one process."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midas_aug import MidasLoss
from midas_aug.integrations.distributed import augment_across_ranks
from tests.helpers.target_cases import KINDS, cases

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
