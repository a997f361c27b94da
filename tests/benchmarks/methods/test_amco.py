"""AMCo, against worked numbers and slow loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional as F

from benchmarks.methods import amco
from benchmarks.methods.amco import AMCo
from benchmarks.methods.base import Method
from tests.benchmarks.methods.helpers import (
    assert_close,
    counts,
    draw_parts,
    lopsided_model,
    run,
    seeds,
    set_up,
    step_gradients,
    tiny_model,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_softmax


@pytest.mark.parametrize(
    ("epoch", "size", "wanted"),
    [
        (0, 6, [0, 0, 0, 0, 0]),
        (1, 6, [0, 3, 5, 6, 6]),
        (2, 6, [0, 5, 6, 6, 6]),
        (5, 6, [0, 6, 6, 6, 6]),
        (1, 31, [0, 15, 26, 31, 31]),
    ],
)
def test_amco_ramp_worked_example(epoch: int, size: int, wanted: list[int]) -> None:
    level, masked = 0.0, []
    for _ in range(5):
        masked.append(amco.num_masked(level, 0.3, size))
        level += epoch / 10
    assert masked == wanted


def test_amco_masses_worked_example() -> None:
    row = torch.tensor([[[2.0, 0, 0]], [[0.5, 0, 0]]])
    assert_close(amco.masses(row), [0.720142, 0.279858])


@given(counts, seeds)
def test_amco_masses_match_slow_loops(count: tuple[int, int, int], seed: int) -> None:
    parts, _ = draw_parts(count, seed)
    m, b, c = count
    wanted = np.zeros(m)
    for row in range(b):
        shares = slow_softmax([float(parts[k, row, j]) for k in range(m) for j in range(c)])
        for modality in range(m):
            wanted[modality] += sum(shares[modality * c : (modality + 1) * c]) / b
    assert_close(amco.masses(parts), wanted)


@pytest.mark.parametrize("masked", [0, 1, 3, 5])
def test_amco_masks_have_that_many_zeros_in_random_places(masked: int) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([amco.random_mask(5, masked, generator) for _ in range(600)])
    assert (masks.sum(dim=1) == 5 - masked).all()
    assert_close(masks.mean(dim=0), [1 - masked / 5] * 5, atol=0.07)


@pytest.mark.parametrize("space", ["logit", "feature"])
def test_amco_masks_the_flagged_modality_in_the_next_batch(space: Any) -> None:
    model = lopsided_model()
    with torch.no_grad():
        model.fusion.weight[:, model.width :] *= 20
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = set_up(AMCo(mask_space=space), model)

    def masked(flags: list[bool]) -> list[Tensor]:
        """The parts, with all of the flagged modalities masked."""
        scales = {name: 0.0 if flag else 1.0 for name, flag in zip(features, flags, strict=True)}
        if space == "feature":
            return list(model.parts({n: f * scales[n] for n, f in features.items()}).values())
        return [part * scales[name] for name, part in model.parts(features).items()]

    def total(parts: list[Tensor]) -> float:
        return sum(F.cross_entropy(part, labels).item() for part in [parts[0] + parts[1], *parts])

    method.on_epoch_start(0)  # never masks
    assert_close(
        [method.loss(features, labels).item() for _ in range(4)], [total(masked([False] * 2))] * 4
    )
    seen = []
    for _ in range(2):
        method.on_epoch_start(3)  # masks nothing in the first batch, and all after it
        flags = [False, False]
        for _ in range(4):
            assert_close(method.loss(features, labels), total(masked(flags)))
            flags = (amco.masses(torch.stack(masked(flags))) > 0.5).tolist()
            seen.append(flags)
    assert [True, False] in seen
    assert seen[1:4].count([True, False]) < 3  # the mask comes off again


def test_amco_masks_part_of_the_flagged_modality_on_the_ramp() -> None:
    model = lopsided_model()
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = set_up(AMCo(), model)
    method.on_epoch_start(3)
    method.loss(features, labels)
    method.on_epoch_start(1)  # the ramp begins again
    method.loss(features, labels)
    loss = method.loss(features, labels)
    mask = amco.random_mask(3, 1, torch.Generator().manual_seed(0))  # ⌊3 sin(π/6)⌋ zeros
    parts = model.parts(features)
    masked = [parts["m0"] * mask, parts["m1"]]
    wanted = sum(F.cross_entropy(part, labels) for part in [masked[0] + masked[1], *masked])
    assert_close(loss, wanted)


def test_amco_gives_a_masked_encoder_no_gradient() -> None:
    model = lopsided_model()
    method = set_up(AMCo(), model)
    method.on_epoch_start(3)
    assert step_gradients(method, model)["encoders.m0.0.weight"].abs().max() > 1e-3
    masked = step_gradients(method, model)
    assert masked["encoders.m0.0.weight"].abs().max() == 0
    assert masked["encoders.m1.0.weight"].abs().max() > 1e-5


def test_amco_layer_starts_as_the_identity_is_trained_and_stays_at_evaluation() -> None:
    model = tiny_model(2)
    features = model.encode(tiny_rows(model, 12)[0])
    method = AMCo()
    set_up(method, model)
    assert_close(method.predict(features), model.fuse(features))
    run(method, model)
    (layer,) = method.extra_modules()
    assert not torch.equal(layer.weight, torch.eye(3))
    features = model.encode(tiny_rows(model, 12)[0])
    assert_close(method.predict(features), layer(model.fuse(features)))


def test_amco_outside_its_window_is_joint_training_through_the_layer() -> None:
    model = lopsided_model()
    plain = step_gradients(set_up(Method(), model), model)
    method = set_up(AMCo(end=0.25), model, epochs=8)
    for epoch, inside in ((2, True), (3, False)):
        method.on_epoch_start(epoch)
        for _ in range(3):
            edited = step_gradients(method, model)
            same = all(torch.allclose(edited[name], plain[name], atol=1e-6) for name in plain)
            assert same != inside
    (layer,) = method.extra_modules()
    assert layer.weight.grad is not None
