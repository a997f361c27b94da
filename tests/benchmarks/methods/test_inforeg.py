"""InfoReg, against loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.inforeg import InfoReg, pull, window_growth
from benchmarks.methods.unimodal_losses import UnimodalLosses
from tests.benchmarks.methods.helpers import (
    assert_close,
    assert_same_gradients,
    encoded,
    set_up,
    started,
    step_gradients,
    tiny_model,
)
from tests.benchmarks.methods.slow_references import slow_softmax


def test_growth_is_that_of_a_mean_over_the_last_epochs():
    """Traces 4, 8, 4, 8 with a mean of two: (4 + 8) / 2 both times, so no growth."""
    assert window_growth([4.0, 8.0, 4.0, 8.0], span=2) == 0
    assert window_growth([4.0, 8.0], span=2) == pytest.approx((12 - 4) / 12)
    assert window_growth([4.0, 8.0, 16.0], span=2) == pytest.approx((24 - 12) / 24)
    assert window_growth([8.0, 4.0], span=1) == pytest.approx((4 - 8) / 4)


def test_without_any_trace_the_window_is_open():
    assert window_growth([], span=3) == math.inf
    assert window_growth([0.0], span=3) == math.inf


def test_the_pull_is_by_the_gap_to_the_mean_of_the_others():
    ahead, factor = pull(torch.tensor([1.0, 1.5, 0.0]), beta=0.9)
    assert ahead == 1
    assert factor == pytest.approx(math.exp(0.9 * math.tanh(1.5 - 0.5)))


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_only_the_encoder_ahead_is_pulled_and_by_what_it_has_moved(num_modalities):
    model = tiny_model(num_modalities)
    method = started(InfoReg(beta=0.9), model)
    starts = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.sin(torch.arange(parameter.numel())).view_as(parameter)
    features, labels = encoded(model)
    scores = [
        sum(slow_softmax(row)[label] for row, label in zip(head, labels.tolist(), strict=True))
        for head in model.classify(features).values()
    ]
    ahead = max(range(num_modalities), key=lambda number: scores[number])
    others = [score for number, score in enumerate(scores) if number != ahead]
    gap = scores[ahead] - sum(others) / len(others)
    factor = math.exp(0.9 * math.tanh(gap))
    plain = step_gradients(set_up(UnimodalLosses(), model), model)
    found = step_gradients(method, model)
    moved = 0
    for name, value in model.named_parameters():
        pulled = factor * (value.detach() - starts[name])
        is_ahead = name.startswith(f"encoders.m{ahead}.")
        assert_close(found[name], plain[name] + (pulled if is_ahead else 0), atol=1e-5)
        moved += is_ahead
    assert moved == 2


def test_outside_the_window_it_is_joint_training_with_unimodal_losses():
    model = tiny_model(2)
    method = set_up(InfoReg(threshold=0.5, span=1 / 4), model, epochs=4)
    method.on_epoch_start(0)
    step_gradients(method, model)
    method.on_epoch_end(0)
    method.on_epoch_start(1)  # of the traces x: growth 1, since epoch -1 counts as 0
    step_gradients(method, model)
    method.on_epoch_end(1)
    method.on_epoch_start(2)  # of x and x: no growth
    with torch.no_grad():
        model.encoders["m0"][0].weight += 0.1
        model.encoders["m1"][0].weight += 0.1
    plain = step_gradients(set_up(UnimodalLosses(), model), model)
    assert_same_gradients(step_gradients(method, model), plain)


def test_the_trace_is_the_mean_squared_norm_of_the_gradient():
    model = tiny_model(2)
    method = started(InfoReg(), model)
    features, labels = encoded(model)
    loss = F.cross_entropy(model.fuse(features), labels)
    loss = loss + sum(F.cross_entropy(head, labels) for head in model.classify(features).values())
    wanted = [
        sum(
            float(gradient.square().sum())
            for gradient in torch.autograd.grad(
                loss, [*model.encoders[name].parameters()], retain_graph=True
            )
        )
        for name in model.modalities
    ]
    for _ in range(3):
        step_gradients(method, model)
    method.on_epoch_end(0)
    found = method.state_dict()["traces"]
    assert_close(torch.tensor(found), torch.tensor([[value] for value in wanted]), atol=1e-6)
