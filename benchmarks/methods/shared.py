"""What the methods share that watch how well each modality does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion
from benchmarks.methods.base import Method, Setting

SMALLEST_SCORE = 1e-8  # a denominator, where every softmax has underflowed


def in_window(epoch: int, epochs: int, start: float, end: float) -> bool:
    """Whether the epoch lies between two fractions of all epochs, both ends included.

    Epochs 0..50 of 100 are the fractions 0 and 0.5; an end of 1 never comes.
    """
    return round(start * epochs) <= epoch <= round(end * epochs)


def stack(by_modality: Mapping[str, Tensor]) -> Tensor:
    """``(M, N, ...)``, in the model's order of modalities."""
    return torch.stack(list(by_modality.values()))


def label_scores(parts: Tensor, labels: Tensor) -> Tensor:
    """s_m = Σ_i softmax(u_m)_{i, y_i}, ``(M,)`` of parts ``(M, B, C)``."""
    rows = torch.arange(len(labels), device=labels.device)
    return parts.softmax(dim=2)[:, rows, labels].sum(dim=1)


def mean_ratios(scores: Tensor) -> Tensor:
    """ρ_m = 1/(M − 1) · Σ_{j≠m} s_m / s_j, ``(M,)``; of two modalities simply s_m / s_j.

    The weakest modality never exceeds 1, rounding included.
    """
    scores = scores.clamp(min=SMALLEST_SCORE)
    return ((scores[:, None] / scores).sum(dim=1) - 1) / (len(scores) - 1)


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_m CE(h_m, y), each a mean over the rows, of logits ``(M, B, C)``."""
    return len(logits) * F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))


def scale_encoder_gradients(model: ConcatFusion, factors: Sequence[float]) -> None:
    """Multiply what each encoder has for gradients by the factor of its modality."""
    for name, factor in zip(model.modalities, factors, strict=True):
        for parameter in model.encoders[name].parameters():
            if parameter.grad is not None:
                parameter.grad *= factor


@dataclass
class ComparingMethod(Method):
    """A method that needs two modalities, and knows the epoch."""

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        if len(model.modalities) < 2:
            raise ValueError(
                f"{type(self).__name__} balances modalities: expected a model of 2 or more, got "
                f"{list(model.modalities)}"
            )
        super().setup(model, setting, generator)

    def on_epoch_start(self, epoch: int) -> None:
        self.epoch = epoch
