"""SMV: sample-level modality valuation and re-sampling (Wei et al., CVPR 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion
from benchmarks.methods.base import EpochRows, Setting
from benchmarks.methods.shared import ComparingMethod
from midas_aug.diagnostics import all_subsets, shapley


def subset_values(
    parts: Mapping[str, Tensor], bias: Tensor, labels: Tensor
) -> dict[frozenset[str], Tensor]:
    """v(S) = |S| where the head is right with the features outside S set to 0, else 0.

    Args:
        parts: The u_m = W_m f_m + b/M, ``(N, C)`` each.
        bias: ``(C,)``, b.
        labels: ``(N,)``.

    Returns:
        ``(N,)`` float64 for each of the 2^M subsets.
    """
    values = {}
    for subset in all_subsets(tuple(parts)):
        logits = bias * (1 - len(subset) / len(parts)) + sum(parts[name] for name in subset)
        values[subset] = len(subset) * (logits.argmax(dim=-1) == labels).double()
    return values


def num_copies(phi: Tensor) -> Tensor:
    """Copies of a row with only this modality: 0 from φ = 1, 1 from 0.4, 2 from −0.1, else 3.

    On a threshold below 1 it is the larger number; two to four modalities never meet one.
    """
    phi = phi.round(decimals=6)  # a φ of 1 is one, whatever the order of the sum
    return (phi < 1).long() + (phi <= 0.4) + (phi <= -0.1)


def enlarged(copies: Tensor) -> EpochRows:
    """All rows with all modalities, and the copies ``(M, N)`` of rows with one modality."""
    num_modalities, num_rows = copies.shape
    extra = torch.arange(copies.numel()).repeat_interleave(copies.flatten())
    whole = torch.ones(num_rows, num_modalities, dtype=torch.bool)
    single = F.one_hot(extra // num_rows, num_modalities).bool()
    return EpochRows(
        torch.cat([torch.arange(num_rows), extra % num_rows]), torch.cat([whole, single])
    )


@dataclass
class SMV(ComparingMethod):
    """The sample-level variant of SMV, as published (v(S) = |S| · 1[right], features set to 0).

    After each epoch from the last of the warm-up on, all training rows are valued by the Shapley
    value of each modality, and the next epoch trains on them *and* on copies that keep one modality
    only: the more, the less it contributes. An epoch has up to 5 times the steps (two modalities).

    The official code values the rows with their training transforms, here they are encoded in
    eval mode. The paper's own function for the number of copies could not be confirmed: the table
    is the official code's, written for two modalities and used here for any number.

    Attributes:
        warmup: Fraction of the epochs that train on the original rows; 5 of 60 officially. The
            first epoch always does.
    """

    warmup: float = 1 / 12

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._next = super().epoch_rows(0)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"next": self._next._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._next = EpochRows(**state["next"])

    def epoch_rows(self, epoch: int) -> EpochRows:
        return self._next

    @torch.no_grad()
    def on_epoch_end(self, epoch: int) -> None:
        warm = epoch + 1 >= round(self.warmup * self.setting.epochs)
        if not warm or epoch + 1 == self.setting.epochs:
            return
        features, labels = self.setting.encode_training()
        phi = shapley(subset_values(self.model.parts(features), self.model.fusion.bias, labels))
        in_order = torch.stack([phi[name] for name in self.model.modalities])
        self._next = enlarged(num_copies(in_order))
