"""LeMDA, against worked numbers and slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion
from benchmarks.methods import lemda
from benchmarks.methods.base import Method
from benchmarks.methods.lemda import LeMDA
from tests.benchmarks.methods.helpers import (
    all_close,
    assert_close,
    generator,
    gradients_of,
    loss_of,
    started,
    tiny_model,
    tiny_rows,
)


def test_lemda_worked_example() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    reference = torch.tensor([[2.0, 0.0], [0.1, 0.0]])
    assert_close(lemda.consistency(logits, reference, 0.5), 0.0419287, atol=1e-7)
    assert_close(lemda.consistency(logits, reference, 0.6), 0.0413039, atol=1e-7)
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(2)]])
    assert_close(lemda.latent_divergence(mean, log_variance), 0.326713)
    assert_close(lemda.latent_divergence(mean.repeat(3, 1), log_variance.repeat(3, 1)), 0.326713)


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (16, [15, 14, 13, 12, 11, 10]),
        (128, [104, 80, 56]),
        (1024, [821, 618, 415, 212]),
        (10, []),
        (8, []),
        (4, []),
    ],
)
def test_lemda_hidden_widths(width: int, widths: list[int]) -> None:
    assert lemda.hidden_widths(width, 8, 4) == widths
    augmenter = lemda.Augmenter(width, 8, 4, generator())
    linears = [layer for layer in augmenter.modules() if isinstance(layer, nn.Linear)]
    inner = [*widths, 16, *widths[::-1], width]  # 16: mean and log-variance
    assert [layer.out_features for layer in linears] == inner
    augmented, mean, log_variance = augmenter(torch.ones(3, width))
    assert augmented.shape == (3, width)
    assert mean.shape == log_variance.shape == (3, 8)


def test_lemda_reverses_the_gradient() -> None:
    values, head = torch.tensor([3.0], requires_grad=True), torch.tensor(2.0, requires_grad=True)
    out = lemda.reverse_gradient(values, 1e-4)
    assert torch.equal(out, values)
    (out * head).sum().backward()
    assert values.grad is not None
    assert head.grad is not None
    assert_close(values.grad, [-2e-4], atol=1e-9)
    assert_close(head.grad, 3.0)


def test_lemda_network_is_the_autoencoder_of_the_public_code_with_a_linear_end() -> None:
    augmenter = lemda.Augmenter(16, 8, 4, generator(3))
    with torch.no_grad():
        augmenter.noise.weight.normal_(generator=generator(1))
    features = 3 * torch.randn(5, 16, generator=generator(2))
    state = augmenter.generator.get_state()
    found = augmenter(features)

    augmenter.generator.set_state(state)
    weights = iter([m.weight for m in augmenter.modules() if isinstance(m, nn.Linear)])
    biases = iter([m.bias for m in augmenter.modules() if isinstance(m, nn.Linear)])

    def unit(values: Tensor) -> Tensor:
        values = F.layer_norm(values, values.shape[1:])
        values = (values @ next(weights).T + next(biases)).clamp(min=0)
        return 2 * values * (torch.rand(values.shape, generator=augmenter.generator) >= 0.5)

    hidden = features
    for _ in range(6):
        hidden = unit(hidden)
    moments = hidden @ next(weights).T + next(biases)
    mean, log_variance = moments[:, :8], moments[:, 8:]
    deviation = log_variance.exp().sqrt()
    hidden = mean + deviation * torch.randn(mean.shape, generator=augmenter.generator)
    for _ in range(6):
        hidden = unit(hidden)
    noise = F.layer_norm(hidden, hidden.shape[1:]) @ next(weights).T + next(biases)
    for actual, wanted in zip(found, (features + noise, mean, log_variance), strict=True):
        assert_close(actual, wanted.detach().numpy())
    assert noise.min() < 0 < noise.max()


def bare_lemda(**weights: float) -> LeMDA:
    """LeMDA with all weights 0 but the given ones."""
    names = ("consistency", "size", "latent", "adversarial")
    return LeMDA(**{"unimodal": 0.0, **{f"{name}_weight": 0.0 for name in names}, **weights})


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_lemda_without_noise_duplicates_the_batch_for_the_head_only(num_modalities: int) -> None:
    model = tiny_model(num_modalities, width=8)
    loss = loss_of(started(bare_lemda(), model))
    loss.backward()
    encoders, head = gradients_of(model.encoders), gradients_of(model.fusion)
    joint = loss_of(started(Method(), model))
    joint.backward()
    assert_close(loss, joint.item(), atol=1e-7)
    assert all_close(head, gradients_of(model.fusion))
    assert all_close(encoders, gradients_of(model.encoders), factor=0.5)


def noisy(method: LeMDA, model: ConcatFusion) -> LeMDA:
    """`method`, set up, with a last layer of G that is not 0."""
    started(method, model)
    with torch.no_grad():
        method.augmenter.noise.weight.normal_(generator=generator(1))
    return method


def test_lemda_is_the_sum_of_its_terms() -> None:
    model = tiny_model(3, width=8)
    inputs, labels = tiny_rows(model, 12)
    features = model.encode(inputs)
    method = noisy(
        LeMDA(
            consistency_weight=0.7,
            size_weight=0.3,
            latent_weight=0.2,
            unimodal=0.4,
            confidence=0.45,
        ),
        model,
    )
    state = method.generator.get_state()
    found = method.loss(features, labels)
    method.generator.set_state(state)
    joined = torch.cat(list(features.values()), dim=1)
    augmented, mean, log_variance = method.augmenter(joined)
    assert (augmented - joined).abs().max() > 0.1
    clean, other = model.fusion(joined), model.fusion(augmented)
    p, q = other.softmax(dim=1), clean.softmax(dim=1)
    sure = q.amax(dim=1) > 0.45
    assert 0 < sure.sum() < 12
    task = 0.5 * (F.cross_entropy(clean, labels) + F.cross_entropy(other, labels))
    heads = [F.cross_entropy(logits, labels) for logits in model.classify(features).values()]
    keep = (sure * (p * (p / q).log()).sum(dim=1)).mean()
    size = (augmented - joined).square().mean()
    variance = log_variance.exp()
    latent = -0.5 * (1 + log_variance - mean.square() - variance).sum() / 12 / 8
    wanted = task + 0.4 * sum(heads) + 0.7 * keep + 0.3 * size + 0.2 * latent
    assert_close(found, wanted.item())


def test_lemda_network_ascends_the_task_loss_that_the_head_descends() -> None:
    model = tiny_model(2, width=8)
    inputs, labels = tiny_rows(model, 12)
    features = {name: values.detach() for name, values in model.encode(inputs).items()}
    method = noisy(bare_lemda(adversarial_weight=0.01), model)
    state = method.generator.get_state()
    method.loss(features, labels).backward()
    augmenter, head = gradients_of(method.augmenter), gradients_of(model.fusion)
    method.generator.set_state(state)
    joined = torch.cat(list(features.values()), dim=1)
    rows = torch.cat([joined, method.augmenter(joined)[0]])
    F.cross_entropy(model.fusion(rows), labels.repeat(2)).backward()
    assert all_close(augmenter, gradients_of(method.augmenter), factor=-0.01)
    assert all_close(head, gradients_of(model.fusion))
    assert max(grad.abs().max().item() for grad in augmenter) > 1e-5


def test_lemda_network_learns_consistency() -> None:
    model = tiny_model(2, width=8)
    inputs, labels = tiny_rows(model, 12)
    features = {name: values.detach() for name, values in model.encode(inputs).items()}
    method = noisy(bare_lemda(consistency_weight=0.5), model)
    state = method.generator.get_state()
    method.loss(features, labels).backward()
    found = gradients_of(method.augmenter)
    method.generator.set_state(state)
    joined = torch.cat(list(features.values()), dim=1)
    other = model.fusion(method.augmenter(joined)[0])
    (0.5 * lemda.consistency(other, model.fusion(joined), 0.5)).backward()
    wanted = gradients_of(method.augmenter)
    assert all_close(found, wanted)
    assert max(grad.abs().max().item() for grad in wanted) > 1e-4


@pytest.mark.parametrize("weights", [{"consistency_weight": 1.0}, {"size_weight": 1.0}])
def test_lemda_encoders_learn_from_the_clean_rows_alone(weights: dict[str, float]) -> None:
    model = tiny_model(2, width=8)
    loss_of(noisy(bare_lemda(**weights), model)).backward()
    found = gradients_of(model.encoders)
    loss_of(started(Method(), model)).backward()
    assert all_close(found, gradients_of(model.encoders), factor=0.5)


def test_lemda_network_learns_although_it_starts_at_zero() -> None:
    model = tiny_model(2, width=8)
    method = LeMDA(augmenter_lr=1e-2)
    started(method, model)
    inputs, _ = tiny_rows(model, 12)
    joined = torch.cat(list(model.encode(inputs).values()), dim=1).detach()
    assert torch.equal(method.augmenter(joined)[0], joined)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(20):
        loss_of(method).backward()
        method.after_backward()
        method.after_step()
        assert all(p.grad is None for p in method.augmenter.parameters())
    assert (method.augmenter(joined)[0] - joined).abs().max() > 0.01
    # Its own optimiser steps its own parameters, which the run's optimiser does not get.
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not list(method.extra_modules())


def test_lemda_clips_model_and_network_together() -> None:
    model = tiny_model(2, width=8)
    method = noisy(LeMDA(max_norm=0.5), model)
    (1000 * loss_of(method)).backward()
    method.after_backward()
    parts = [torch.cat([g.flatten() for g in gradients_of(m)]) for m in (model, method.augmenter)]
    assert all(part.norm() > 0.001 for part in parts)
    assert_close(torch.cat(parts).norm(), 0.5)


def test_lemda_network_starts_as_pytorch_would() -> None:
    layer = lemda.seeded_linear(16, 5000, generator())
    for parameter in layer.parameters():
        assert_close(parameter.abs().max(), 0.25, atol=1e-3)
        assert_close(parameter.std(), 0.25 / math.sqrt(3), atol=5e-3)
