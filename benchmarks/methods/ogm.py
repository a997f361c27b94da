"""OGM and OGM-GE: on-the-fly gradient modulation (Peng et al., CVPR 2022)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import ComparingMethod, in_window, label_scores, mean_ratios, stack


def damping(scores: Tensor, alpha: float) -> Tensor:
    """k_m = 1 − tanh(α·ρ_m) where ρ_m > 1, else 1: ``(M,)`` of scores ``(M,)``."""
    ratios = mean_ratios(scores)
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios), 1.0)


def noise_scale(gradient: Tensor) -> Tensor:
    """σ of the noise of generalisation enhancement: the gradient's unbiased std, plus 1e-8."""
    if gradient.numel() == 1:  # which has none
        return gradient.new_tensor(1e-8)
    return gradient.std() + 1e-8


def modulated(
    gradient: Tensor, factor: float, noise_generator: torch.Generator | None = None
) -> Tensor:
    """k·g, plus N(0, σ²) with the σ of the unscaled g if a generator is given."""
    scaled = gradient * factor
    if noise_generator is None:
        return scaled
    noise = torch.empty_like(gradient, device=noise_generator.device)
    noise = noise.normal_(generator=noise_generator).to(gradient.device)
    return scaled.addcmul_(noise, noise_scale(gradient))


@dataclass
class OGM(ComparingMethod):
    """OGM (``noise=False``) and OGM-GE (``noise=True``).

    After each backward pass, the encoder gradients of a modality with ρ_m > 1 are multiplied by
    k_m, and with ``noise`` those of *every* modality get Gaussian noise. Scores come from the parts
    u_m of the joint logits in the same training forward.

    Not settled by the sources: with three or more modalities ρ is the mean of the pairwise ratios
    (the 2024 paper as others read it), and several encoders may be damped at once. The official
    code touches convolution weights only, which would leave other encoders alone: here it is every
    encoder parameter of two or more dimensions (not biases, not batch norm). At ρ = 1 exactly
    nothing is damped; the official code damps one of the two.

    Attributes:
        alpha: α. The README has 0.8 for CREMA-D, 0.1 for VGGSound.
        noise: Generalisation enhancement.
        start: First epoch of the modulation, as a fraction of the epochs.
        end: Last epoch of it, included. The official script has epochs 0..50 of 100.
    """

    alpha: float = 0.8
    noise: bool = True
    start: float = 0.0
    end: float = 0.5

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._weights = [
            [weight for weight in model.encoders[name].parameters() if weight.ndim >= 2]
            for name in model.modalities
        ]

    def on_epoch_start(self, epoch: int) -> None:
        super().on_epoch_start(epoch)
        self._modulates = in_window(epoch, self.setting.epochs, self.start, self.end)

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        if self._modulates:
            with torch.no_grad():
                parts = stack(self.model.parts(features, detach=True))
                self._factors = damping(label_scores(parts, labels), self.alpha).tolist()
        return super().loss(features, labels)

    def after_backward(self) -> None:
        if not self._modulates:
            return
        generator = self.generator if self.noise else None
        for weights, factor in zip(self._weights, self._factors, strict=True):
            if generator is None and factor == 1:
                continue
            for weight in weights:
                if weight.grad is not None:
                    weight.grad = modulated(weight.grad, factor, generator)
