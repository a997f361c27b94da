"""Data Remixing: each row trains the one modality that knows least about it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import EpochRows, Setting
from benchmarks.methods.shared import ComparingMethod, stack, summed_cross_entropy


def divergence_from_uniform(logits: Tensor) -> Tensor:
    """KL(softmax(h) ‖ uniform) = log C − entropy, ``(M, N)`` of logits ``(M, N, C)``."""
    entropy: Tensor = torch.special.entr(logits.softmax(dim=2)).sum(dim=2)
    return math.log(logits.shape[2]) - entropy


@dataclass
class DataRemixing(ComparingMethod):
    """Data Remixing (ICML 2025): a row keeps the modality with the least certain prediction.

    Warm-up: CE(z, y) + ½ Σ_m CE(h_m, y), on all rows. Then, from the model of the epoch's start in
    eval mode, each row goes to argmin_m KL(softmax(h_m) ‖ uniform). Batches are of one modality,
    the others' features are 0, and the loss is CE(z, y) + γ CE(h_m, y); first all batches of the
    first modality, then those of the next.

    The optimiser and the schedule are those of the run, not the original's Adam. As there, a row is
    in one batch an epoch. Encoders of features that are set to 0 still run, and go on updating
    their batch norm statistics.

    Attributes:
        warmup: Fraction of the epochs; 10 of 60 in the source.
        warmup_weight: ½.
        gamma: γ.
    """

    warmup: float = 1 / 6
    warmup_weight: float = 0.5
    gamma: float = 1.0

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._assigned: Tensor | None = None  # (N,) the modality of each row; None in the warm-up

    def epoch_rows(self, epoch: int) -> EpochRows:
        every = super().epoch_rows(epoch)
        if self._assigned is None:
            return every
        keep = F.one_hot(self._assigned, self.num_modalities).bool()
        return EpochRows(every.rows, keep, self._assigned)

    def on_batch(self, rows: Tensor) -> None:
        super().on_batch(rows)
        self._rows = rows

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        joint = super().loss(features, labels)
        heads = stack(self.model.classify(features))
        if self._assigned is None:
            return joint + self.warmup_weight * summed_cross_entropy(heads, labels)
        own = heads[self._assigned[self._rows], torch.arange(len(labels))]
        return joint + self.gamma * F.cross_entropy(own, labels)

    @torch.no_grad()
    def on_epoch_end(self, epoch: int) -> None:
        if epoch + 1 < round(self.warmup * self.setting.epochs):
            return
        features, _ = self.setting.encode_training()
        heads = stack(self.model.classify(features))
        self._assigned = divergence_from_uniform(heads).argmin(dim=0)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"assigned": self._assigned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._assigned = state["assigned"]
