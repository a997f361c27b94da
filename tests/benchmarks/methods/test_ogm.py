"""OGM, against worked numbers and slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.methods import ogm, shared
from benchmarks.methods.base import Method
from benchmarks.methods.ogm import OGM
from tests.benchmarks.methods.helpers import (
    assert_close,
    assert_same_gradients,
    lopsided_model,
    set_up,
    started,
    step_gradients,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_ratios, slow_softmax


def test_ogm_worked_example() -> None:
    parts = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, -0.5]]])
    scores = shared.label_scores(parts, torch.tensor([0, 1]))
    assert_close(scores, [1.611856, 1.0])
    assert_close(shared.mean_ratios(scores), [1.611856, 0.620403])
    for alpha, damped in ((0.1, 0.840196), (0.3, 0.550912), (0.8, 0.141009)):
        assert_close(ogm.damping(scores, alpha), [damped, 1.0])


def test_ogm_worked_example_of_three_modalities() -> None:
    scores = torch.tensor([3.0, 2.0, 1.0])
    assert_close(shared.mean_ratios(scores), [2.25, 1.333333, 0.416667])
    wanted = [1 - math.tanh(0.3 * 2.25), 1 - math.tanh(0.3 * 4 / 3), 1]
    assert_close(ogm.damping(scores, 0.3), wanted)


def test_ogm_damps_nothing_at_a_ratio_of_exactly_one() -> None:
    assert ogm.damping(torch.tensor([2.0, 2.0]), 0.8).tolist() == [1, 1]


def test_ge_noise_scale_worked_example() -> None:
    assert_close(ogm.noise_scale(torch.tensor([[0.1, -0.2], [0.3, 0.0]])), 0.208167)
    assert_close(ogm.noise_scale(torch.tensor([[5.0]])), 1e-8, atol=1e-12)


def test_ge_noise_has_the_std_of_the_unscaled_gradient() -> None:
    gradient = torch.randn(100, 100, generator=torch.Generator().manual_seed(1)) * 3 + 1
    edited = ogm.modulated(gradient, 0.25, torch.Generator().manual_seed(2))
    noise = edited - 0.25 * gradient
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std() / gradient.std()) - 1) < 0.03
    assert_close(ogm.modulated(gradient, 0.25), 0.25 * gradient)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_ogm_scales_weights_of_encoders_that_are_ahead_and_nothing_else(
    num_modalities: int,
) -> None:
    model = lopsided_model(num_modalities)
    plain = step_gradients(set_up(Method(), model), model)
    method = set_up(OGM(alpha=0.3, noise=False), model)
    method.on_epoch_start(0)
    edited = step_gradients(method, model)
    inputs, labels = tiny_rows(model, 12)
    parts = model.parts(model.encode(inputs))
    scores = [
        sum(slow_softmax(row)[int(label)] for row, label in zip(part, labels, strict=True))
        for part in parts.values()
    ]
    ratios = slow_ratios(scores)
    assert ratios[0] > 1 > min(ratios)
    for name, gradient in plain.items():
        kind = name.split(".")
        ratio = ratios[int(kind[1][1:])] if kind[0] == "encoders" else 0
        damped = ratio > 1 and kind[-1] == "weight"
        assert_close(edited[name], gradient * (1 - math.tanh(0.3 * ratio) if damped else 1))


def test_ogm_ge_adds_noise_to_every_encoder_and_nothing_else() -> None:
    model = lopsided_model()
    without, with_noise = (
        step_gradients(started(OGM(noise=noise), model), model) for noise in (False, True)
    )
    for name, gradient in without.items():
        noisy = name.startswith("encoders") and name.endswith("weight")
        assert torch.equal(with_noise[name], gradient) != noisy, name


def test_ogm_with_alpha_zero_is_joint_training() -> None:
    model = lopsided_model()
    edited = step_gradients(started(OGM(alpha=0, noise=False), model), model)
    assert_same_gradients(edited, step_gradients(set_up(Method(), model), model))


def test_ogm_outside_its_window_is_joint_training() -> None:
    model = lopsided_model()
    method = set_up(OGM(alpha=0.8, start=0.2, end=0.5), model, epochs=10)
    plain = step_gradients(set_up(Method(), model), model)
    for epoch in range(10):
        method.on_epoch_start(epoch)
        edited = step_gradients(method, model)
        same = all(torch.equal(edited[name], plain[name]) for name in plain)
        assert same == (epoch not in (2, 3, 4, 5)), epoch
