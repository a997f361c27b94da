"""Losses of the joint logits with all modalities but one set to zero; DGL and ARL have them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import (
    ComparingMethod,
    scale_encoder_gradients,
    summed_cross_entropy,
)


def ablated_logits(model: ConcatFusion, features: Features, *, detach: bool = False) -> Tensor:
    """F(0, …, f_m, …, 0) for each modality: ``(M, B, C)``, each with the whole bias.

    ``detach`` takes the fusion head's weights as constants.
    """
    head: tuple[Tensor, Tensor] = (model.fusion.weight, model.fusion.bias)
    weight, bias = (part.detach() for part in head) if detach else head
    blocks = torch.split(weight, model.width, dim=1)
    return torch.stack(
        [
            F.linear(features[name], block, bias)
            for name, block in zip(model.modalities, blocks, strict=True)
        ]
    )


@dataclass
class ZeroAblated(ComparingMethod):
    """CE(z, y) + γ Σ_m CE(F(0, …, f_m, …, 0), y).

    What ARL's released code trains, since its two weights stay ½ and ½; as a control, without the
    factor 1.5 on the encoders' gradients.

    Attributes:
        weight: γ: 4 in that code, 3 on Kinetics-Sounds.
    """

    weight: float = 4.0

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        alone = summed_cross_entropy(ablated_logits(self.model, features), labels)
        return super().loss(features, labels) + self.weight * alone


@dataclass
class DGL(ComparingMethod):
    """Disentangled gradient learning (ICCV 2025): encoders and fusion head never train each other.

    The head learns from the joint loss of detached features. The encoders learn from
    α Σ_m CE(F(0, …, f_m, …, 0), y), whose gradient the head does not get.

    Attributes:
        alpha: α: 4 to 5 in the source.
    """

    alpha: float = 4.0

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        constant = {name: feature.detach() for name, feature in features.items()}
        alone = summed_cross_entropy(ablated_logits(self.model, features, detach=True), labels)
        return super().loss(constant, labels) + self.alpha * alone


def arl_weights(logits: Tensor, temperature: float, floor: float) -> Tensor:
    """Weights w ``(M,)`` of unimodal logits ``(M, B, C)``; they sum to 1.

    H_m is a modality's share of the mean entropies, ``floor`` or more; r_m is 1 / H_m and s_m the
    mean of abs(z_m), both normalised. w = softmax(T (1 − s_m) r_m), with two modalities s of the
    other one times r.
    """
    entropy = torch.special.entr(logits.softmax(dim=2)).sum(dim=2).mean(dim=1)
    share = (entropy / entropy.sum().clamp(min=torch.finfo(entropy.dtype).tiny)).clamp(min=floor)
    certainty = (1 / share) / (1 / share).sum()
    size = logits.abs().mean(dim=(1, 2))
    strength = size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)
    return torch.softmax(temperature * (1 - strength) * certainty, dim=0)


@dataclass
class ARL(ZeroAblated):
    """ARL as printed: the gradient of each encoder times 1 + w_m (see `arl_weights`).

    The released code prints w and trains with ½ and ½; with ``printed=False`` so does this. Its
    unimodal logits are those with the other features zero. With three modalities or more, the
    other modalities' strength is 1 − s_m.

    Attributes:
        temperature: T: 8 on CREMA-D, otherwise 4.
        floor: Of the entropy share.
        start: The weights begin after this fraction of the epochs; before, gradients are as they
            are. The source has epoch 5 of 100.
        printed: See above.
    """

    temperature: float = 8.0
    floor: float = 0.3
    start: float = 0.05
    printed: bool = True

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._factors = [1.0] * self.num_modalities

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        weights = torch.full((self.num_modalities,), 1 / self.num_modalities)
        if self.printed:
            if self.epoch < round(self.start * self.setting.epochs):
                weights = torch.zeros(self.num_modalities)
            else:
                with torch.no_grad():
                    logits = ablated_logits(self.model, features)
                    weights = arl_weights(logits, self.temperature, self.floor)
        self._factors = (1 + weights).tolist()
        return super().loss(features, labels)

    def after_backward(self) -> None:
        scale_encoder_gradients(self.model, self._factors)
