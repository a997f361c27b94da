"""Fusion on detached features: the encoders learn from their own heads alone."""

from dataclasses import dataclass

from torch import Tensor

from benchmarks.common.model import Features
from benchmarks.methods.base import Method
from benchmarks.methods.shared import stack, summed_cross_entropy


@dataclass
class Detached(Method):
    """CE of the fused logits of detached features + Σ_m CE(h_m, y).

    The control that tells encoders from fusion: encoders as trained apart, the fusion head as
    trained jointly. (DGL has the same split, with the fusion head's zero-ablated logits as h_m.)
    """

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        constant = {name: feature.detach() for name, feature in features.items()}
        heads = summed_cross_entropy(stack(self.model.classify(features)), labels)
        return super().loss(constant, labels) + heads
