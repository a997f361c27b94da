"""AGM, against worked numbers and slow loops."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.common.model import ConcatFusion
from benchmarks.methods import agm, shared
from benchmarks.methods.agm import AGM
from benchmarks.methods.base import EncodedRows, Method, Setting
from tests.benchmarks.methods.helpers import (
    assert_close,
    assert_same_gradients,
    counts,
    draw_parts,
    lopsided_model,
    seeds,
    set_up,
    started,
    step_gradients,
    tiny_rows,
)
from tests.benchmarks.methods.slow_references import slow_softmax


def _agm_example() -> tuple[ConcatFusion, dict[str, Tensor], Tensor]:
    """Model, inputs and labels of the worked example."""
    encoders = {name: nn.Linear(2, 2, bias=False) for name in ("a", "v")}
    model = ConcatFusion(encoders, width=2, num_classes=2)
    with torch.no_grad():
        for encoder in encoders.values():
            encoder.weight.copy_(torch.eye(2))
        model.fusion.weight.copy_(torch.tensor([[1, -1, 0.5, 0], [-1, 1, 0, 0.5]]))
        model.fusion.bias.copy_(torch.tensor([0.2, -0.2]))
    inputs = {"a": torch.tensor([[1.0, 0.5]]), "v": torch.tensor([[0.5, -0.5]])}
    return model, inputs, torch.tensor([0])


def test_joint_training_worked_example() -> None:
    model, inputs, labels = _agm_example()
    assert_close(model.fuse(inputs), [[0.95, -0.95]])
    assert_close(_started_on(Method(), model).loss(inputs, labels), 0.139387)


def test_agm_worked_example() -> None:
    model, inputs, labels = _agm_example()
    parts = shared.stack(model.parts(inputs))
    assert_close(parts[:, 0], [[0.60, -0.60], [0.35, -0.35]])
    scores = agm.cross_entropies(parts, labels)
    assert_close(scores, [0.263282, 0.403186])
    assert_close(agm.discrepancies(scores), [1.150163, 0.869442])
    assert_close(agm.coefficients(scores, torch.zeros(2), 1.0), [0.860568, 1.139464])
    assert_close(agm.coefficients(scores, scores, 1.0), [1, 1])
    assert_close(agm.discrepancies(torch.tensor([0.5, 1, 1.5])), [2.117, 1, 0.472367])


def test_agm_gradients_of_the_worked_example() -> None:
    model, inputs, labels = _agm_example()

    def step(method: Method) -> dict[str, Tensor]:
        model.zero_grad()
        loss = method.loss(model.encode(inputs), labels)
        assert_close(loss, 0.139387)
        loss.backward()
        method.after_backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = step(_started_on(Method(), model))
    method = _started_on(AGM(alpha=1.0), model)
    first, second = step(method), step(method)
    factors = torch.tensor([0.860568, 0.860568, 1.139464, 1.139464])
    assert_close(first["encoders.a.weight"], 0.860568 * plain["encoders.a.weight"])
    assert_close(first["encoders.v.weight"], 1.139464 * plain["encoders.v.weight"])
    assert_close(first["fusion.weight"], factors * plain["fusion.weight"])
    assert_close(first["fusion.bias"], 1.000016 * plain["fusion.bias"])
    assert_same_gradients(second, plain, atol=1e-5)  # τ is r, of the same batch again


def _started_on(method: Method, model: ConcatFusion) -> Method:
    """Like `started`, for a model that `tiny_rows` do not fit."""
    setting = Setting(torch.zeros(1, dtype=torch.int64), 4, lambda: EncodedRows({}, torch.empty(0)))
    method.setup(model, setting, torch.Generator())
    method.on_epoch_start(0)
    return method


@given(counts, seeds, st.sampled_from([0.0, 0.5, 2.5]))
def test_agm_coefficients_match_slow_loops(
    count: tuple[int, int, int], seed: int, alpha: float
) -> None:
    modalities = count[0]
    means = np.zeros(modalities)
    state = torch.zeros(modalities, dtype=torch.float64)
    for iteration in (1, 2, 3):
        parts, labels = draw_parts(count, seed + iteration)
        parts[0] *= 30  # some probabilities below 1e-8, some differences above the cap
        wanted_scores = [
            np.mean(
                [
                    -math.log(max(slow_softmax(row)[int(label)], 1e-8))
                    for row, label in zip(part, labels, strict=True)
                ]
            )
            for part in parts
        ]
        factor = modalities / (modalities - 1)
        wanted = [
            math.exp(
                alpha
                * min(
                    math.exp(factor * (means.mean() - means[m]))
                    - math.exp(factor * (np.mean(wanted_scores) - wanted_scores[m])),
                    10.0,
                )
            )
            for m in range(modalities)
        ]
        scores = agm.cross_entropies(parts, labels)
        assert_close(scores, wanted_scores)
        np.testing.assert_allclose(agm.coefficients(scores, state, alpha), wanted, rtol=1e-5)
        state = agm.running_mean(state, scores, iteration)
        means = means * (iteration - 1) / iteration + np.array(wanted_scores) / iteration
        assert_close(state, means)


def test_agm_caps_the_exponent() -> None:
    scores, means = torch.tensor([9.0, 1.0]), torch.tensor([1.0, 9.0])
    assert_close(agm.coefficients(scores, means, 0.1, cap=4.0)[0], math.exp(0.4))
    assert_close(agm.coefficients(scores, means, 0.1)[0], math.exp(1.0))
    model = lopsided_model()
    plain = step_gradients(set_up(Method(), model), model)
    edited = step_gradients(started(AGM(alpha=0.1, cap=-20, clip=math.inf), model), model)
    assert_same_gradients(edited, {name: math.exp(-2) * g for name, g in plain.items()})


def test_agm_with_alpha_zero_is_joint_training() -> None:
    model = lopsided_model(3)
    plain = step_gradients(set_up(Method(), model), model)
    assert_same_gradients(step_gradients(started(AGM(alpha=0, clip=math.inf), model), model), plain)


def test_agm_scales_each_modality_of_three() -> None:
    model = lopsided_model(3)
    inputs, labels = tiny_rows(model, 12)
    parts = shared.stack(model.parts(model.encode(inputs)))
    factors = agm.coefficients(agm.cross_entropies(parts, labels), torch.zeros(3), 1.0)
    plain = step_gradients(set_up(Method(), model), model)
    edited = step_gradients(started(AGM(alpha=1.0, clip=math.inf), model), model)
    for number, factor in enumerate(factors.tolist()):
        assert abs(factor - 1) > 1e-3
        for suffix in ("weight", "bias"):
            name = f"encoders.m{number}.0.{suffix}"
            assert_close(edited[name], factor * plain[name])
    assert_close(edited["fusion.bias"], factors.mean() * plain["fusion.bias"])


def test_agm_outside_its_window_is_joint_training_but_keeps_its_means_going() -> None:
    model = lopsided_model()
    plain = step_gradients(set_up(Method(), model), model)
    method = set_up(AGM(start=0.25, end=0.5, clip=math.inf), model, epochs=8)
    labels = tiny_rows(model, 12)[1].flip(0)
    same = []
    for epoch in range(8):
        method.on_epoch_start(epoch)
        method.loss(model.encode(tiny_rows(model, 12)[0]), labels)  # so that τ is not r
        edited = step_gradients(method, model)
        same.append(all(torch.allclose(edited[n], plain[n], atol=1e-6) for n in plain))
    assert same == [True, True, False, False, False, True, True, True]
    assert method._count == 16
    parts = shared.stack(model.parts(model.encode(tiny_rows(model, 12)[0])))
    both = [agm.cross_entropies(parts, y) for y in (labels, tiny_rows(model, 12)[1])]
    assert_close(method._means, (both[0] + both[1]) / 2)


def test_agm_clips_all_gradients_once_the_head_has_a_large_one() -> None:
    model = lopsided_model()
    plain = step_gradients(started(AGM(alpha=0, clip=math.inf), model), model)
    largest = float(plain["fusion.weight"].abs().max())
    norm = math.sqrt(sum(float(g.square().sum()) for g in plain.values()))
    limit = 0.9 * largest
    clipped = step_gradients(started(AGM(alpha=0, clip=limit), model), model)
    assert norm > limit
    for name, gradient in plain.items():
        assert_close(clipped[name], gradient * limit / norm)
    untouched = step_gradients(started(AGM(alpha=0, clip=1.1 * largest), model), model)
    assert norm > 1.1 * largest
    assert_same_gradients(untouched, plain)
