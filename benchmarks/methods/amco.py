"""AMCo: adaptive mask co-optimisation (Zhou et al., ICASSP 2023)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import ComparingMethod, in_window, stack, summed_cross_entropy


def num_masked(level: float, eps: float, size: int) -> int:
    """How many of `size` entries are masked: ⌊size · sin(π/2 · min(level, ε)/ε)⌋."""
    return int(math.sin(math.pi / 2 * min(level, eps) / eps) * size)


def random_mask(size: int, masked: int, generator: torch.Generator) -> Tensor:
    """``(size,)`` float, 0 in `masked` random places and 1 elsewhere."""
    return (torch.randperm(size, generator=generator) >= masked).float()


def masses(parts: Tensor) -> Tensor:
    """Share of each modality in the softmax over all modalities' logits ``(M, B, C)``: ``(M,)``."""
    num_modalities, num_rows, num_classes = parts.shape
    joint = parts.transpose(0, 1).reshape(num_rows, num_modalities * num_classes).softmax(dim=1)
    return joint.view(num_rows, num_modalities, num_classes).sum(dim=2).mean(dim=0)


def identity_linear(size: int) -> nn.Linear:
    """A linear layer that starts as the identity, and draws nothing for that."""
    layer = nn.Linear(size, size, device="meta").to_empty(device="cpu")
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass
class AMCo(ComparingMethod):
    """AMCo as in BalanceBenchmark; the paper itself could not be read.

    A modality that holds more than σ of the softmax mass in one batch is masked in the next. The
    mask is one 0/1 vector for all rows; the number of its zeros rises within the epoch, and after
    a few batches of a later epoch it masks all. A linear layer C -> C maps the sum of the parts u_m
    to the joint logits, also at evaluation. All losses have weight 1.

    Unconfirmed: what is masked (a modality's class logits in BalanceBenchmark, its features in the
    MIDAS paper's description), the ramp, and the weights of the unimodal losses. Chosen here: the
    layer C -> C starts as the identity, so that training starts from joint training's model
    (BalanceBenchmark: PyTorch's random default); outside the window there is neither mask nor
    unimodal loss; the ramp counts batches and epochs as they are, however long the run.

    Attributes:
        sigma: σ, the mass above which a modality is masked.
        eps: ε, where the ramp reaches its end.
        mask_space: Whether class logits or features are masked.
        start: First epoch with masks and unimodal losses, as a fraction of the epochs.
        end: Last one, included.
    """

    sigma: float = 0.5
    eps: float = 0.3
    mask_space: Literal["logit", "feature"] = "logit"
    start: float = 0.0
    end: float = 1.0

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self.layer = identity_linear(model.num_classes)
        self._mask_size = model.num_classes if self.mask_space == "logit" else model.width

    def extra_modules(self) -> Iterable[nn.Module]:
        return (self.layer,)

    def on_epoch_start(self, epoch: int) -> None:
        super().on_epoch_start(epoch)
        self._modulates = in_window(epoch, self.setting.epochs, self.start, self.end)
        self._flags = torch.zeros(self.num_modalities, dtype=torch.bool)
        self._level = 0.0

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        if not self._modulates:
            return F.cross_entropy(self.predict(features), labels)
        mask = self._draw_mask()
        if mask is not None and self.mask_space == "feature":
            features = {
                name: features[name] * of_modality
                for name, of_modality in zip(self.model.modalities, mask, strict=True)
            }
        parts = stack(self.model.parts(features))
        if mask is not None and self.mask_space == "logit":
            parts = parts * mask[:, None]
        self._flags = masses(parts.detach()) > self.sigma
        joint = F.cross_entropy(self.layer(parts.sum(dim=0)), labels)
        return joint + summed_cross_entropy(parts, labels)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"flags": self._flags, "level": self._level}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._flags, self._level = state["flags"], state["level"]

    def predict(self, features: Features) -> Tensor:
        logits: Tensor = self.layer(super().predict(features))
        return logits

    def _draw_mask(self) -> Tensor | None:
        """``(M, size)``, ones for modalities that are not flagged; None if it were ones alone."""
        masked = num_masked(self._level, self.eps, self._mask_size)
        self._level += self.epoch / 10
        if masked == 0 or not self._flags.any():
            return None
        drawn = random_mask(self._mask_size, masked, self.generator)
        return torch.where(self._flags[:, None], drawn, 1.0)
