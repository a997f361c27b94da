"""Late fusion of unimodal models that are trained on their own."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.model import Features
from benchmarks.methods.base import Method
from benchmarks.methods.shared import stack, summed_cross_entropy


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities: the mean of the modalities' softmax, ``(N, C)`` of ``(M, N, C)``."""
    return torch.logsumexp(logits.log_softmax(dim=2), dim=0) - math.log(len(logits))


@dataclass
class LateFusionOfUnimodal(Method):
    """Unimodal models, whose class probabilities are averaged at evaluation.

    Their losses are summed, and they share no parameter: with an optimiser that treats each entry
    by itself (SGD, Adam) this is separate training. They share the order of the rows, the learning
    rate and the selected epoch, which is the ensemble's best and not each model's own.
    """

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        return summed_cross_entropy(stack(self.model.classify(features)), labels)

    def predict(self, features: Features) -> Tensor:
        return log_mean_softmax(stack(self.model.classify(features)))

    def parts(self, features: Features) -> Features:
        """Log-probabilities of each model; their weighted sum is a product of experts."""
        return {name: z.log_softmax(dim=1) for name, z in self.model.classify(features).items()}
