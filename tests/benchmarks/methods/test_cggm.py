"""CGGM, against loops and autograd."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.base import Method
from benchmarks.methods.cggm import CGGM, coefficients, output_gradients
from tests.benchmarks.methods.helpers import (
    assert_close,
    encoded,
    set_up,
    started,
    step_gradients,
    tiny_model,
)


def test_who_gains_less_learns_more():
    assert_close(coefficients(torch.tensor([0.3, 0.1])), [0.25, 0.75])
    assert_close(coefficients(torch.tensor([0.1, 0.1, 0.2])), [0.75, 0.75, 0.5])
    assert_close(coefficients(torch.tensor([-0.3, -0.1])), [0.25, 0.75])


def test_gains_of_both_signs_are_clipped_and_none_is_even():
    assert coefficients(torch.tensor([0.5, -0.25])).tolist() == [0.0, 1.0]
    assert coefficients(torch.tensor([0.25, -0.25])).tolist() == [0.5, 0.5]
    assert_close(coefficients(torch.zeros(3)), [2 / 3] * 3)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_output_gradients_are_those_of_autograd(num_modalities):
    model = tiny_model(num_modalities)
    features, labels = encoded(model)
    logits = model.fuse(features)
    (whole,) = torch.autograd.grad(
        F.cross_entropy(logits, labels), model.fusion.weight, retain_graph=True
    )
    for number, name in enumerate(model.modalities):
        block = whole[:, number * model.width : (number + 1) * model.width]
        assert_close(output_gradients(logits, features[name], labels), block, atol=1e-6)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_the_loss_is_joint_heads_and_direction(num_modalities):
    model = tiny_model(num_modalities)
    method = started(CGGM(direction=0.2), model)
    features, labels = encoded(model)
    heads = model.classify(features)
    rows = len(labels)
    wanted = F.cross_entropy(model.fuse(features), labels).item()
    reached, cosines = [], []
    for number, name in enumerate(model.modalities):
        head = heads[name]
        wanted += F.cross_entropy(head, labels).item()
        right = [int(row.argmax()) == int(y) for row, y in zip(head, labels, strict=True)]
        reached.append(sum(right) / rows)
        gradients = []
        for logits, weight in (
            (model.fuse(features), model.fusion.weight),
            (head, model.heads[name].weight),
        ):
            (found,) = torch.autograd.grad(
                F.cross_entropy(logits, labels), weight, retain_graph=True
            )
            gradients.append(found)
        block = gradients[0][:, number * model.width : (number + 1) * model.width]
        dot = float((block * gradients[1]).sum())
        cosines.append(dot / float(block.norm() * gradients[1].norm()))
    shares = [(sum(reached) - own) / sum(reached) for own in reached]
    astray = [share - share * cosine for share, cosine in zip(shares, cosines, strict=True)]
    wanted += 0.2 * sum(astray) / num_modalities
    assert_close(method.loss(features, labels), wanted)


def test_without_direction_encoders_have_the_scaled_gradient_of_joint_training():
    model = tiny_model(2)
    joint = step_gradients(set_up(Method(), model), model)
    method = started(CGGM(rho=1.3, direction=0.0), model)
    features, labels = encoded(model)
    reached = [
        float((head.argmax(dim=1) == labels).float().mean())
        for head in model.classify(features).values()
    ]
    found = step_gradients(method, model)
    for number, name in enumerate(model.modalities):
        factor = 1.3 * (1 - reached[number] / sum(reached))
        for key in (f"encoders.{name}.0.weight", f"encoders.{name}.0.bias"):
            assert_close(found[key], factor * joint[key], atol=1e-6)
    assert_close(found["fusion.weight"], joint["fusion.weight"], atol=1e-7)
    assert found["heads.m0.weight"].abs().max() > 1e-3
    again = step_gradients(method, model)  # the same batch: no gain
    assert_close(again["encoders.m0.0.weight"], 1.3 / 2 * joint["encoders.m0.0.weight"], atol=1e-6)
