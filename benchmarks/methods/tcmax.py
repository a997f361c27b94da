"""TCMax: every misaligned combination of the batch is a negative."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.model import Features
from benchmarks.methods.shared import ComparingMethod, stack


def tcmax_loss(parts: Tensor, labels: Tensor) -> Tensor:
    """The negative log-probability of (row, row, label) among all combinations and classes.

    With additive logits the sum over the B^M combinations is a product over modalities, so it costs
    O(M B C): log Σ_y Π_m Σ_j exp u_m[j, y]. The constant (M − 1) log B makes it 0-based: a batch of
    one row has the ordinary cross-entropy.

    Args:
        parts: ``(M, B, C)`` additive parts of the joint logits.
        labels: ``(B,)``.
    """
    modalities, rows, _ = parts.shape
    aligned = parts.sum(dim=0)[torch.arange(rows), labels]
    everything = torch.logsumexp(torch.logsumexp(parts, dim=1).sum(dim=0), dim=0)
    return everything - aligned.mean() - (modalities - 1) * math.log(rows)


@dataclass
class TCMax(ComparingMethod):
    """TCMax (ICLR 2026) with its linear fusion; no hyper-parameter.

    The authors' code builds the cube of all pairs and subtracts its mean before exp; the factored
    form here is the same number. At evaluation the joint logits serve as they are.
    """

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        return tcmax_loss(stack(self.model.parts(features)), labels)
