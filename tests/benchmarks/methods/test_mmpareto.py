"""MMPareto, by hand."""

import math

import torch
from torch.nn import functional as F

from benchmarks.methods.mmpareto import MMPareto, pareto_gradient
from tests.benchmarks.methods.helpers import (
    encoded,
    encoder_gradients,
    set_up,
    tiny_model,
)


def test_gradients_that_agree_are_summed():
    found = pareto_gradient(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]), gamma=1.5)
    assert found.tolist() == [3.0, 3.0]


def test_gradients_that_conflict_become_the_shortest_mixture_at_the_length_of_their_sum():
    """(1, 0) and (−1, 1): the nearest point to 0 on the line between them is (0.2, 0.4)."""
    joint, alone = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    found = pareto_gradient(joint, alone, gamma=1.0)
    direction = torch.tensor([0.2, 0.4]) / math.sqrt(0.2)
    doubled, length = 2 * math.sqrt(0.2), 1.0  # |(0, 1)|
    assert doubled < length
    torch.testing.assert_close(found, length * direction)
    assert float(found @ joint) > 0
    assert float(found @ alone) > 0


def test_opposite_gradients_are_no_step_and_no_nan():
    joint = torch.tensor([2.0, 0.0])
    assert pareto_gradient(joint, -joint, gamma=1.5).tolist() == [0.0, 0.0]


def test_mmpareto_mixes_encoder_by_encoder_and_leaves_the_heads():
    model = tiny_model(2)
    method = set_up(MMPareto(), model)
    features, labels = encoded(model)
    joint = F.cross_entropy(model.fuse(features), labels)
    heads = sum(F.cross_entropy(z, labels) for z in model.classify(features).values())
    of_joint, of_heads = (
        dict(zip(map(id, model.encoders.parameters()), encoder_gradients(model, one), strict=True))
        for one in (joint, heads)
    )
    own = torch.autograd.grad(heads, [*model.heads.parameters()], retain_graph=True)
    loss = method.loss(features, labels)
    torch.testing.assert_close(loss, joint + heads)
    loss.backward()
    method.after_backward()
    for name in model.modalities:
        parameters = [*model.encoders[name].parameters()]
        flat = [
            torch.cat([found[id(parameter)].flatten() for parameter in parameters])
            for found in (of_joint, of_heads)
        ]
        grads = torch.cat([parameter.grad.flatten() for parameter in parameters])
        torch.testing.assert_close(grads, pareto_gradient(*flat, gamma=1.5), atol=1e-6, rtol=1e-4)
    for parameter, gradient in zip(model.heads.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
