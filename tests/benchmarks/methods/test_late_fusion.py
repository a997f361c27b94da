"""Late fusion of unimodal models."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.methods import late_fusion
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from tests.benchmarks.methods.helpers import (
    assert_close,
    set_up,
    step_gradients,
    tiny_model,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_softmax


def test_late_fusion_trains_each_modality_as_if_alone() -> None:
    model = tiny_model(3)
    inputs, labels = tiny_rows(model, 12)
    together = step_gradients(set_up(LateFusionOfUnimodal(), model), model)
    assert together["fusion.weight"].abs().max() == 0
    for name in model.modalities:
        model.zero_grad()
        F.cross_entropy(model.heads[name](model.encoders[name](inputs[name])), labels).backward()
        for prefix, module in ((f"encoders.{name}", model.encoders[name]), (f"heads.{name}", None)):
            for suffix, weight in (module or model.heads[name]).named_parameters():
                assert weight.grad is not None
                assert_close(together[f"{prefix}.{suffix}"], weight.grad)


def test_late_fusion_averages_probabilities() -> None:
    model = tiny_model(3)
    features = model.encode(tiny_rows(model, 6)[0])
    logits = set_up(LateFusionOfUnimodal(), model).predict(features)
    probabilities = [
        [slow_softmax(row) for row in model.heads[name](features[name])] for name in features
    ]
    assert_close(logits.exp(), np.mean(probabilities, axis=0))
    far = late_fusion.log_mean_softmax(torch.tensor([[[900.0, 0.0]], [[0.0, 0.0]]]))
    assert_close(far.exp(), [[0.75, 0.25]])
