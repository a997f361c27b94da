"""Zero-ablated losses, DGL and ARL, by hand."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.zero_ablated import ARL, DGL, ZeroAblated, ablated_logits, arl_weights
from tests.benchmarks.methods.helpers import encoded, encoder_gradients, set_up, tiny_model


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_ablated_logits_are_those_of_the_fusion_with_zeros(num_modalities):
    model = tiny_model(num_modalities)
    features, _ = encoded(model)
    found = ablated_logits(model, features)
    for number, kept in enumerate(model.modalities):
        zeros = {name: torch.zeros_like(f) if name != kept else f for name, f in features.items()}
        torch.testing.assert_close(found[number], model.fuse(zeros))


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_zero_ablated_losses_are_added(weight):
    model = tiny_model(2)
    method = set_up(ZeroAblated(weight), model)
    features, labels = encoded(model)
    alone = sum(F.cross_entropy(z, labels) for z in ablated_logits(model, features))
    expected = F.cross_entropy(model.fuse(features), labels) + weight * alone
    torch.testing.assert_close(method.loss(features, labels), expected)


def test_dgl_trains_the_head_jointly_and_the_encoders_apart():
    model = tiny_model(2)
    method = set_up(DGL(alpha=5.0), model)
    features, labels = encoded(model)
    loss = method.loss(features, labels)
    joint = F.cross_entropy(model.fuse(features), labels)
    alone = sum(F.cross_entropy(z, labels) for z in ablated_logits(model, features))
    torch.testing.assert_close(loss, joint + 5 * alone)
    for found, of_alone in zip(
        encoder_gradients(model, loss), encoder_gradients(model, alone), strict=True
    ):
        torch.testing.assert_close(found, 5 * of_alone)
    head = [model.fusion.weight, model.fusion.bias]
    for found, of_joint in zip(
        torch.autograd.grad(loss, head, retain_graph=True),
        torch.autograd.grad(joint, head, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(found, of_joint)


def test_arl_weights_by_hand():
    """Certain and twice as strong against uniform: shares of the entropy 0 (so 0.3) and 1."""
    sure = torch.tensor([[[60.0, -60.0]]])
    unsure = torch.tensor([[[30.0, 30.0]]])
    found = arl_weights(torch.cat([sure, unsure]), temperature=8.0, floor=0.3)
    certainty = torch.tensor([1 / 0.3, 1.0])
    certainty /= certainty.sum()
    strength = torch.tensor([2 / 3, 1 / 3])
    expected = torch.softmax(8 * torch.stack([strength[1], strength[0]]) * certainty, dim=0)
    torch.testing.assert_close(found, expected)


def test_arl_weights_of_equals_are_equal_and_finite_without_entropy():
    logits = torch.tensor([[[500.0, -500.0]]]).repeat(3, 4, 1)
    torch.testing.assert_close(arl_weights(logits, 8.0, 0.3), torch.full((3,), 1 / 3))
    nothing = arl_weights(torch.zeros(2, 4, 3), 8.0, 0.3)
    torch.testing.assert_close(nothing, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("printed", "epoch", "factors"), [(True, 0, (1, 1)), (False, 0, (1.5, 1.5)), (True, 9, None)]
)
def test_arl_scales_the_gradients_of_each_encoder(printed, epoch, factors):
    model = tiny_model(2)
    method = set_up(ARL(start=0.5, printed=printed), model, epochs=10)
    method.on_epoch_start(epoch)
    features, labels = encoded(model)
    if factors is None:
        weights = arl_weights(ablated_logits(model, features).detach(), 8.0, 0.3)
        factors = (1 + weights).tolist()
        assert factors[0] != factors[1]
    loss = method.loss(features, labels)
    plain = dict(
        zip(map(id, model.encoders.parameters()), encoder_gradients(model, loss), strict=True)
    )
    loss.backward()
    method.after_backward()
    for name, factor in zip(model.modalities, factors, strict=True):
        for parameter in model.encoders[name].parameters():
            torch.testing.assert_close(parameter.grad, factor * plain[id(parameter)])
