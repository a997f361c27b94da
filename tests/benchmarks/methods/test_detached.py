"""Fusion on detached features."""

import torch
from torch.nn import functional as F

from benchmarks.methods.detached import Detached
from tests.benchmarks.methods.helpers import encoded, set_up, tiny_model


def test_fusion_on_detached_features_trains_encoders_by_their_heads_alone():
    model = tiny_model(2)
    method = set_up(Detached(), model)
    features, labels = encoded(model)
    heads = sum(F.cross_entropy(z, labels) for z in model.classify(features).values())
    loss = method.loss(features, labels)
    torch.testing.assert_close(loss, heads + F.cross_entropy(model.fuse(features), labels))
    encoders = [*model.encoders.parameters()]
    found = torch.autograd.grad(loss, encoders, retain_graph=True)
    expected = torch.autograd.grad(heads, encoders, retain_graph=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert float(torch.autograd.grad(loss, model.fusion.weight)[0].abs().max()) > 0
