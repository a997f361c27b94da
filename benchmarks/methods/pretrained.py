"""Unimodal pretraining, then joint fine-tuning."""

from dataclasses import dataclass

from torch import Tensor

from benchmarks.common.model import Features
from benchmarks.methods.shared import ComparingMethod, stack, summed_cross_entropy


@dataclass
class Pretrained(ComparingMethod):
    """First Σ_m CE(h_m, y) alone, which trains the encoders apart; then CE(z, y) alone.

    Both take their part of the same epochs, so the budget is that of joint training. Epochs of the
    first part cannot be selected: the fusion layer is as it began.

    Attributes:
        fraction: Of the epochs, for the first part.
    """

    fraction: float = 0.5

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        if self.trained(self.epoch):
            return super().loss(features, labels)
        return summed_cross_entropy(stack(self.model.classify(features)), labels)

    def trained(self, epoch: int) -> bool:
        return epoch >= round(self.fraction * self.setting.epochs)
