"""CGGM: classifiers on the side tell each encoder how fast, and which way, to learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import (
    ComparingMethod,
    scale_encoder_gradients,
    stack,
    summed_cross_entropy,
)


def coefficients(gains: Tensor) -> Tensor:
    """c_m = (Σ_j d_j − d_m) / Σ_j d_j of gains d ``(M,)``, in [0, 1]; (M − 1)/M where Σ d is 0."""
    total = gains.sum()
    if float(total) == 0:
        return torch.full_like(gains, (len(gains) - 1) / len(gains))
    return ((total - gains) / total).clamp(0, 1)


def output_gradients(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross-entropy in the weight of a linear output layer.

    That is (softmax(z) − Y)ᵀ f / B: logits ``(B, C)``, features ``(B, D)``, result ``(C, D)``.
    """
    errors = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
    return errors.T @ features / len(labels)


@dataclass
class CGGM(ComparingMethod):
    """CGGM (NeurIPS 2024): L = CE(z, y) + λ · direction, encoder gradients times ρ c_m.

    A linear classifier a modality, on detached features, is trained beside the model. d_m is by how
    much its accuracy on this batch exceeds that on the batch before (0 before the first). The
    direction loss is mean_m (c_m − c_m cos(G_m, g_m)), of the gradients of the loss in W_m and in
    the classifier's weight.

    Ours: c is clipped to [0, 1], where it lies if all modalities gain, since the difference of two
    batches may have either sign; the released code divides by any sum and clips the norm of the
    gradient. c and the cosines are those of the same batch, not of the one before. In that code the
    direction loss is a number and moves no weight; here the encoders and the fusion layer learn
    from it through G_m, which linear layers have in closed form. One optimiser and one learning
    rate for all, and linear classifiers where it has small transformers.

    Attributes:
        rho: ρ, factor of the encoders' gradients.
        direction: λ, weight of the direction loss.
    """

    rho: float = 1.3
    direction: float = 0.2

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._accuracies = torch.zeros(self.num_modalities)
        self._factors = [1.0] * self.num_modalities

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        logits = self.model.fuse(features)
        constant = {name: feature.detach() for name, feature in features.items()}
        heads = stack(self.model.classify(constant))
        with torch.no_grad():
            reached = (heads.argmax(dim=2) == labels).float().mean(dim=1)
            shares = coefficients(reached - self._accuracies)
        self._accuracies = reached
        self._factors = (self.rho * shares).tolist()
        cosines = torch.stack(
            [
                F.cosine_similarity(
                    output_gradients(logits, features[name], labels).flatten(),
                    output_gradients(head.detach(), constant[name], labels).flatten(),
                    dim=0,
                )
                for name, head in zip(self.model.modalities, heads, strict=True)
            ]
        )
        astray = (shares * (1 - cosines)).mean()
        joint = F.cross_entropy(logits, labels)
        return joint + self.direction * astray + summed_cross_entropy(heads, labels)

    def after_backward(self) -> None:
        scale_encoder_gradients(self.model, self._factors)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"accuracies": self._accuracies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._accuracies = state["accuracies"]
