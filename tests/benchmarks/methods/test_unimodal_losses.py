"""Joint training with unimodal losses."""

from __future__ import annotations

import pytest
from torch.nn import functional as F

from benchmarks.methods.unimodal_losses import UnimodalLosses
from tests.benchmarks.methods.helpers import assert_close, set_up, tiny_model, tiny_rows


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_unimodal_losses_are_added(weight: float) -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    heads = [F.cross_entropy(model.heads[name](f), labels) for name, f in features.items()]
    wanted = F.cross_entropy(model.fuse(features), labels) + weight * sum(heads)
    assert_close(set_up(UnimodalLosses(weight), model).loss(features, labels), wanted)
