"""A tiny model, a method set up on it, and comparisons, for the tests of the methods."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion
from benchmarks.methods.base import EncodedRows, Method, Setting

MethodT = TypeVar("MethodT", bound=Method)

INPUT_WIDTH = 5

counts = st.tuples(st.integers(2, 4), st.integers(1, 6), st.integers(2, 4))  # M, B, C
seeds = st.integers(0, 2**16)


def tiny_model(num_modalities: int, width: int = 4, num_classes: int = 3) -> ConcatFusion:
    """Encoders Linear -> Tanh of ``(N, INPUT_WIDTH)``, named "m0", "m1", …; seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(num_modalities)
        encoders = {
            f"m{number}": nn.Sequential(nn.Linear(INPUT_WIDTH, width), nn.Tanh())
            for number in range(num_modalities)
        }
        return ConcatFusion(encoders, width, num_classes)


def tiny_rows(
    model: ConcatFusion, num_rows: int, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of every modality, and labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: torch.randn(num_rows, INPUT_WIDTH, generator=generator) for name in model.modalities
    }
    return inputs, torch.randint(model.num_classes, (num_rows,), generator=generator)


def set_up(
    method: MethodT, model: ConcatFusion, num_rows: int = 12, epochs: int = 4, seed: int = 0
) -> MethodT:
    """`method`, set up for a run on ``tiny_rows(model, num_rows)``."""
    inputs, labels = tiny_rows(model, num_rows)

    @torch.no_grad()
    def encode_training() -> EncodedRows:
        return EncodedRows(model.encode(inputs), labels)

    setting = Setting(labels, epochs, encode_training=encode_training)
    method.setup(model, setting, torch.Generator().manual_seed(seed))
    return method


def assert_close(actual: Any, expected: Any, atol: float = 1e-5) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual).double(), torch.as_tensor(expected).double(), rtol=0, atol=atol
    )


def lopsided_model(num_modalities: int = 2) -> ConcatFusion:
    """A model whose first modality is ahead of the others on `tiny_rows` and holds most mass."""
    model = tiny_model(num_modalities)
    inputs, labels = tiny_rows(model, 12)
    with torch.no_grad():
        first = model.encode(inputs)["m0"]
        targets = F.one_hot(labels, model.num_classes) * 2.0 - 0.5
        model.fusion.weight[:, : model.width] = torch.linalg.lstsq(first, targets).solution.T * 3
        model.fusion.weight[:, model.width :] *= 0.1
    return model


def step_gradients(
    method: Method, model: ConcatFusion, labels: Tensor | None = None, num_rows: int = 12
) -> dict[str, Tensor]:
    """Gradients of one step on `tiny_rows`; 0 where there is none."""
    inputs, true_labels = tiny_rows(model, num_rows)
    model.zero_grad()
    method.loss(model.encode(inputs), true_labels if labels is None else labels).backward()
    method.after_backward()
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


def assert_same_gradients(
    actual: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-6
) -> None:
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name in expected:
        assert_close(actual[name], expected[name], atol)


def run(method: Method, model: ConcatFusion, epochs: int = 3, num_rows: int = 20) -> list[float]:
    """The hooks of a run in their order; the losses."""
    set_up(method, model, num_rows, epochs)
    inputs, labels = tiny_rows(model, num_rows)
    parameters = [*model.parameters()]
    for module in method.extra_modules():
        parameters += module.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for epoch in range(epochs):
        method.on_epoch_start(epoch)
        rows, keep, group = method.epoch_rows(epoch)
        group = torch.zeros(len(rows)) if group is None else group
        apart = [(group == number).nonzero().squeeze(1) for number in sorted(set(group.tolist()))]
        for places in (places for one in apart for places in one.split(8)):
            method.on_batch(rows[places])
            features = model.encode({name: values[rows[places]] for name, values in inputs.items()})
            if keep is not None:
                features = {
                    name: feature * keep[places, number, None]
                    for number, (name, feature) in enumerate(features.items())
                }
            loss = method.loss(features, labels[rows[places]])
            optimizer.zero_grad()
            loss.backward()
            method.after_backward()
            optimizer.step()
            method.after_step()
            losses.append(loss.item())
        method.on_epoch_end(epoch)
    return losses


def draw_parts(count: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Parts (M, B, C) and labels."""
    m, b, c = count
    rng = np.random.default_rng(seed)
    parts = torch.from_numpy(rng.normal(scale=3, size=(m, b, c)))
    return parts, torch.from_numpy(rng.integers(c, size=b))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss_of(method: Method, num_rows: int = 12) -> Tensor:
    inputs, labels = tiny_rows(method.model, num_rows)
    return method.loss(method.model.encode(inputs), labels)


def gradients_of(module: nn.Module) -> list[Tensor]:
    """Gradients of all parameters, 0 where there is none; and forget them."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    module.zero_grad()
    return found


def all_close(first: list[Tensor], second: list[Tensor], factor: float = 1.0) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.allclose(a, factor * b, rtol=1e-5, atol=1e-7) for a, b in pairs)


def random_parts(seed: int, m: int, n: int, c: int = 3) -> Tensor:
    return 2 * torch.randn(m, n, c, generator=generator(seed), dtype=torch.float64)


def started(method: MethodT, model: ConcatFusion, seed: int = 0) -> MethodT:
    """The method in its first epoch."""
    set_up(method, model, seed=seed)
    method.on_epoch_start(0)
    return method


def assert_joint_training(loss: Tensor, model: ConcatFusion) -> None:
    """A loss of the rows of `loss_of`, and its gradients, are those of joint training."""
    loss.backward()
    found = gradients_of(model)
    joint = loss_of(started(Method(), model))
    joint.backward()
    assert_close(loss, joint.item(), atol=1e-7)
    assert all_close(found, gradients_of(model))


def encoded(model: ConcatFusion, num_rows: int = 12) -> tuple[dict[str, Tensor], Tensor]:
    """Features of `tiny_rows`, and their labels."""
    inputs, labels = tiny_rows(model, num_rows)
    return model.encode(inputs), labels


def encoder_gradients(model, loss, retain=True):
    parameters = [*model.encoders.parameters()]
    return torch.autograd.grad(loss, parameters, retain_graph=retain, materialize_grads=True)
