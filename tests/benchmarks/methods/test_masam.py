"""MASAM, against a model that is really moved."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.methods.masam import MASAM, cosine, perturbation
from benchmarks.methods.unimodal_losses import UnimodalLosses
from tests.benchmarks.methods.helpers import (
    assert_close,
    encoder_gradients,
    set_up,
    started,
    step_gradients,
    tiny_model,
    tiny_rows,
)


def test_the_perturbation_is_along_the_joint_gradient_with_the_cosine_in_its_radius():
    joint = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert_close(torch.cat([p.flatten() for p in perturbation(joint, 0.5, 0.2)]), [0.06, 0, 0.08])
    whole = perturbation(joint, -0.5, 0.2)
    assert_close(torch.cat([p.flatten() for p in whole]), [0.12, 0, 0.16])
    nothing = perturbation([torch.zeros(2)], 0.0, 0.2)
    assert nothing[0].tolist() == [0.0, 0.0]


def test_the_cosine_is_over_all_parameters():
    one = [torch.tensor([1.0, 0.0]), torch.tensor([1.0])]
    other = [torch.tensor([0.0, 2.0]), torch.tensor([2.0])]
    assert cosine(one, other) == pytest.approx(2 / (math.sqrt(2) * math.sqrt(8)))
    assert cosine(one, [torch.zeros(2), torch.zeros(1)]) == 0


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_encoders_take_the_gradient_of_a_model_whose_leader_was_moved(num_modalities):
    model = tiny_model(num_modalities)
    method = started(MASAM(rho=0.3), model)
    inputs, labels = tiny_rows(model, 12)

    def losses(one):
        features = one.encode(inputs)
        joint = F.cross_entropy(one.fuse(features), labels)
        return joint, sum(F.cross_entropy(z, labels) for z in one.classify(features).values())

    joint, heads = losses(model)
    found = [encoder_gradients(model, loss) for loss in (joint, heads)]
    by_name = [
        dict(zip([name for name, _ in model.encoders.named_parameters()], grads, strict=True))
        for grads in found
    ]
    alike = []
    for name in model.modalities:
        of_joint, of_heads = (
            torch.cat([g.flatten() for key, g in grads.items() if key.startswith(name)])
            for grads in by_name
        )
        alike.append(float(of_joint @ of_heads / (of_joint.norm() * of_heads.norm())))
    leader = max(range(num_modalities), key=lambda m: alike[m])  # first step: no loss fell yet
    name = model.modalities[leader]
    norm = math.sqrt(
        sum(float(g.square().sum()) for key, g in by_name[0].items() if key.startswith(name))
    )
    assert alike[leader] > 0
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for key, parameter in moved.encoders.named_parameters():
            if key.startswith(name):
                parameter += by_name[0][key] * (0.3 * alike[leader] / norm)
    wanted = encoder_gradients(moved, sum(losses(moved)))
    plain = step_gradients(set_up(UnimodalLosses(), model), model)
    given = step_gradients(method, model)
    keys = [f"encoders.{key}" for key, _ in model.encoders.named_parameters()]
    for key, gradient in zip(keys, wanted, strict=True):
        assert_close(given[key], gradient, atol=1e-6)
    assert any(float((given[key] - plain[key]).abs().max()) > 1e-4 for key in keys)
    for key in given.keys() - set(keys):
        assert_close(given[key], plain[key], atol=1e-7)


def test_without_a_radius_it_is_joint_training_with_unimodal_losses():
    model = tiny_model(2)
    plain = step_gradients(set_up(UnimodalLosses(), model), model)
    found = step_gradients(started(MASAM(rho=0.0), model), model)
    for name, gradient in plain.items():
        assert_close(found[name], gradient, atol=1e-7)


def test_the_fall_is_of_the_running_mean_below_the_last_loss():
    """Losses 2, 1, 3: means 2, 0.9·2 + 0.1 = 1.9 and 0.9·1.9 + 0.3 = 2.01; falls 0, 0.1 and 0."""
    method = started(MASAM(momentum=0.9), tiny_model(2))
    falls = []
    for value in (2.0, 1.0, 3.0):
        falls.append(method.follow(torch.tensor([value, 0.0]))[0].item())
    assert_close(falls, [0, 0.1, 0])


def test_the_model_is_not_moved_and_batch_norm_sees_a_batch_once():
    model = tiny_model(2)
    for name in model.modalities:
        model.encoders[name].append(torch.nn.BatchNorm1d(model.width))
    method = started(MASAM(), model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step_gradients(method, model)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])
    assert int(model.encoders["m0"][2].num_batches_tracked) == 1
