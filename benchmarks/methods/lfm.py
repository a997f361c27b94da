"""LFM: classification, and alignment of the modalities' predictions (NeurIPS 2024)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import Features
from benchmarks.methods.divergence import jensen_shannon, reverse_jensen_shannon
from benchmarks.methods.shared import ComparingMethod, stack

Align = Literal["reverse_js", "js"]

DIVERGENCES = {"reverse_js": reverse_jensen_shannon, "js": jensen_shannon}
SCHEDULE_EPOCHS = 200
# Coefficients of the public code's polynomial in the epoch, from the power 0 on.
SCHEDULE = (
    0.204623704,
    3.35472727e-3,
    1.22989557e-4,
    -2.92947416e-6,
    2.23835486e-8,
    -5.39717505e-11,
)


def fitted_weight(epoch: int, epochs: int) -> float:
    """Weight of the classification loss: the public code's schedule, stretched to ``epochs``.

    It was fitted for 200 epochs of CREMA-D: from 0.20 up to 1.01 at epoch 183, and down to 0.92.
    Cut off at 1, lest the alignment get a negative weight.
    """
    scaled = min(epoch * SCHEDULE_EPOCHS / epochs, SCHEDULE_EPOCHS - 1)
    return min(1.0, sum(factor * scaled**power for power, factor in enumerate(SCHEDULE)))


def alignment(parts: Tensor, align: Align = "reverse_js") -> Tensor:
    """Divergence between the predictions of two modalities, averaged over pairs and rows.

    Args:
        parts: ``(M, N, C)`` logits.
        align: The divergence.
    """
    log_p = parts.log_softmax(dim=-1)
    first, second = torch.combinations(torch.arange(len(parts))).unbind(dim=1)
    return DIVERGENCES[align](log_p[first], log_p[second]).mean()


def lfm_loss(
    logits: Tensor, parts: Tensor, labels: Tensor, weight: float, align: Align = "reverse_js"
) -> Tensor:
    """2 [w · cross-entropy of the joint ``logits`` + (1 - w) · alignment of ``parts``]."""
    classification = F.cross_entropy(logits, labels)
    return 2 * (weight * classification + (1 - weight) * alignment(parts, align))


@dataclass
class LFM(ComparingMethod):
    """LFM for a concatenation head: the public code's losses on the additive parts of its logits.

    Not confirmed by any source at hand, and chosen here: the paper speaks of a contrastive loss,
    its public code has none and aligns predictions, as done here; the official model has one head
    a modality, and BalanceBenchmark's form for a joint head is taken; the schedule is the fitted
    one of the public code, stretched to the epochs of the run. The factor 2 is the code's.

    Attributes:
        align: What pulls predictions together: the code's reversed Jensen-Shannon divergence, or
            the true one.
        classification_weight: A constant weight in [0, 1] of the classification loss (the
            alignment's is 1 minus it); None for the fitted schedule.
    """

    align: Align = "reverse_js"
    classification_weight: float | None = None

    def on_epoch_start(self, epoch: int) -> None:
        fitted = fitted_weight(epoch, self.setting.epochs)
        self.weight = fitted if self.classification_weight is None else self.classification_weight

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        parts = stack(self.model.parts(features))
        return lfm_loss(self.model.fuse(features), parts, labels, self.weight, self.align)
