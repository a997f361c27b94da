"""PDMP: whose gradient is scaled by what."""

import pytest
import torch

from benchmarks.methods.base import Method
from benchmarks.methods.pdmp import PDMP
from tests.benchmarks.methods.helpers import assert_close, set_up, step_gradients, tiny_model


@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("best", [0, 1])
def test_encoder_gradients_are_those_of_joint_training_times_the_coefficient(num_modalities, best):
    model = tiny_model(num_modalities)
    joint = step_gradients(set_up(Method(), model), model)
    found = step_gradients(set_up(PDMP(best, prioritized=1.5, others=0.25), model), model)
    for name, gradient in joint.items():
        factor = 1.0
        for number, modality in enumerate(model.modalities):
            if name.startswith(f"encoders.{modality}."):
                factor = 1.5 if number == best else 0.25
        assert_close(found[name], factor * gradient, atol=1e-7)


def test_coefficients_of_one_are_joint_training():
    model = tiny_model(2)
    found = step_gradients(set_up(PDMP(0, 1.0, 1.0), model), model)
    for name, gradient in step_gradients(set_up(Method(), model), model).items():
        assert torch.equal(found[name], gradient)


@pytest.mark.parametrize("best", [-1, 2])
def test_a_modality_that_is_not_there_is_refused(best):
    with pytest.raises(ValueError, match=rf"its place in \['m0', 'm1'\], from 0, got {best}"):
        set_up(PDMP(best), tiny_model(2))
