"""AGM: adaptive gradient modulation (Li et al., ICCV 2023)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import ComparingMethod, in_window, stack

LARGEST_SCORE = -math.log(1e-8)


def cross_entropies(parts: Tensor, labels: Tensor) -> Tensor:
    """s_m = mean_i −log max(softmax(u_m)_{i, y_i}, 1e-8), ``(M,)`` of parts ``(M, B, C)``."""
    rows = torch.arange(len(labels), device=labels.device)
    return (-parts.log_softmax(dim=2)[:, rows, labels]).clamp(max=LARGEST_SCORE).mean(dim=1)


def discrepancies(scores: Tensor) -> Tensor:
    """r_m = exp(M/(M − 1) · (mean_j s_j − s_m)), ``(M,)``; above 1 where m does better."""
    count = len(scores)
    return torch.exp(count / (count - 1) * (scores.mean() - scores))


def coefficients(scores: Tensor, means: Tensor, alpha: float, cap: float = 10.0) -> Tensor:
    """c_m = exp(α · min(τ_m − r_m, cap)), with r of this batch's scores and τ of their means."""
    return torch.exp(alpha * (discrepancies(means) - discrepancies(scores)).clamp(max=cap))


def running_mean(means: Tensor, scores: Tensor, count: int) -> Tensor:
    """The mean of `count` scores, of which `scores` is the last."""
    return means * ((count - 1) / count) + scores / count


def scale_gradient(values: Tensor, factors: Tensor) -> Tensor:
    """The values as they are; their gradient is multiplied by the factors on its way back."""
    scaled: Tensor = _ScaleGradient.apply(values, factors)  # type: ignore[no-untyped-call]
    return scaled


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factors,) = ctx.saved_tensors
        return gradients[0] * factors, None


@dataclass
class AGM(ComparingMethod):
    """AGM in its exact form for a linear fusion head with features set to 0.

    The Shapley part of modality m in the joint logits is then u_m, and the official backward hooks
    scale the gradient into encoder m and W_m by c_m, and that of the bias by the mean of c: one
    forward pass does it. The official code sets *inputs* to 0 instead, at three forward passes.

    The window is the whole run: with the official defaults (epochs 1..20, of 10) it is as well.
    Outside it the factors are 1; the official code keeps the last ones. Unconfirmed by the paper:
    that the running mean is over all iterations (so in the code), and the formula for more than two
    modalities (that of two other public implementations).

    Attributes:
        alpha: α. 1 is the code's default; 0.5 to 3 have been used.
        start: First epoch of the modulation, as a fraction of the epochs.
        end: Last epoch of it, included.
        cap: Upper bound of τ − r.
        clip: If an entry of the fusion head's weight gradient exceeds this, all gradients are
            clipped to this norm, in and out of the window. Infinity switches it off.
    """

    alpha: float = 1.0
    start: float = 0.0
    end: float = 1.0
    cap: float = 10.0
    clip: float = 1.0

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._means = model.fusion.weight.new_zeros(self.num_modalities)  # τ starts at 1
        self._count = 0
        self._parameters = list(model.parameters())

    def on_epoch_start(self, epoch: int) -> None:
        super().on_epoch_start(epoch)
        self._modulates = in_window(epoch, self.setting.epochs, self.start, self.end)

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        parts = stack(self.model.parts(features))
        scores = cross_entropies(parts.detach(), labels)
        if self._modulates:
            factors = coefficients(scores, self._means, self.alpha, self.cap)
            parts = scale_gradient(parts, factors[:, None, None])
        self._count += 1
        self._means = running_mean(self._means, scores, self._count)
        return F.cross_entropy(parts.sum(dim=0), labels)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"means": self._means, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._means, self._count = state["means"], state["count"]

    def after_backward(self) -> None:
        gradient = self.model.fusion.weight.grad
        if gradient is not None and gradient.abs().max() > self.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.clip)
