"""A tiny model, and a method set up on it, for the tests of the methods."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks.common.model import LateFusion
from benchmarks.methods.base import EncodedRows, Method, Setting

MethodT = TypeVar("MethodT", bound=Method)

INPUT_WIDTH = 5


def tiny_model(num_modalities: int, width: int = 4, num_classes: int = 3) -> LateFusion:
    """Encoders Linear -> Tanh of ``(N, INPUT_WIDTH)``, named "m0", "m1", …; seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(num_modalities)
        encoders = {
            f"m{number}": nn.Sequential(nn.Linear(INPUT_WIDTH, width), nn.Tanh())
            for number in range(num_modalities)
        }
        return LateFusion(encoders, width, num_classes)


def tiny_rows(model: LateFusion, num_rows: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of every modality, and labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: torch.randn(num_rows, INPUT_WIDTH, generator=generator) for name in model.modalities
    }
    return inputs, torch.randint(model.num_classes, (num_rows,), generator=generator)


def set_up(
    method: MethodT, model: LateFusion, num_rows: int = 12, epochs: int = 4, seed: int = 0
) -> MethodT:
    """`method`, set up for a run on ``tiny_rows(model, num_rows)``."""
    inputs, labels = tiny_rows(model, num_rows)

    @torch.no_grad()
    def encode_training() -> EncodedRows:
        return EncodedRows(model.encode(inputs), labels)

    setting = Setting(labels, epochs, encode_training=encode_training)
    method.setup(model, setting, torch.Generator().manual_seed(seed))
    return method
