"""Joint training with a loss for each modality."""

from dataclasses import dataclass

from torch import Tensor

from benchmarks.common.model import Features
from benchmarks.methods.base import Method
from benchmarks.methods.shared import stack, summed_cross_entropy


@dataclass
class UnimodalLosses(Method):
    """CE(z, y) + weight · Σ_m CE(h_m, y), with a linear head h_m on each modality's features.

    The heads train their encoders too, and are not used at evaluation.

    Attributes:
        weight: Of the sum.
    """

    weight: float = 1.0

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        heads = summed_cross_entropy(stack(self.model.classify(features)), labels)
        return super().loss(features, labels) + self.weight * heads
