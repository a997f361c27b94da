"""Unimodal pretraining."""

import pytest
from torch.nn import functional as F

from benchmarks.methods.pretrained import Pretrained
from tests.benchmarks.methods.helpers import (
    encoded,
    set_up,
    tiny_model,
)


def test_pretraining_trains_the_heads_first_and_then_the_fusion_alone():
    model = tiny_model(2)
    method = set_up(Pretrained(0.5), model, epochs=4)
    features, labels = encoded(model)
    heads = sum(F.cross_entropy(z, labels) for z in model.classify(features).values())
    joint = F.cross_entropy(model.fuse(features), labels)
    found = []
    for epoch in range(4):
        method.on_epoch_start(epoch)
        found.append(method.loss(features, labels).item())
    assert found[:2] == [pytest.approx(heads.item())] * 2
    assert found[2:] == [pytest.approx(joint.item())] * 2
    assert [method.trained(epoch) for epoch in range(4)] == [False, False, True, True]
