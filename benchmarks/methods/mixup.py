"""Mixup of the features of two samples, in every modality."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import Features
from benchmarks.methods.base import Method
from benchmarks.methods.draws import dirichlet, permutations


def interpolate(values: Tensor, partner: Tensor, share: Tensor | float) -> Tensor:
    """λ v + (1 - λ) v[partner], row by row, for the share λ."""
    return torch.lerp(values[partner], values, share)


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, partner: Tensor, share: Tensor | float
) -> Tensor:
    """λ CE(z, y) + (1 - λ) CE(z, y[partner])."""
    own, other = F.cross_entropy(logits, labels), F.cross_entropy(logits, labels[partner])
    return share * own + (1 - share) * other


@dataclass
class Mixup(Method):
    """Mixup at the fusion point: all modalities of a row mix with those of one partner.

    Not confirmed by the MIDAS paper, which has this baseline, and chosen here: α, one λ for all
    modalities, and no loss on the clean batch.

    Attributes:
        alpha: λ ~ Beta(α, α), drawn for each batch.
        shared_lambda: One λ for all modalities; otherwise one each, and their mean for the label.
    """

    alpha: float = 1.0
    shared_lambda: bool = True

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        share = self.draw_shares()
        partner = permutations(len(labels), (), self.generator)
        mixed = {
            name: interpolate(features[name], partner, share[number])
            for number, name in enumerate(self.model.modalities)
        }
        return mixed_cross_entropy(self.model.fuse(mixed), labels, partner, share.mean())

    def draw_shares(self) -> Tensor:
        """λ of each modality ``(M,)``."""
        count = 1 if self.shared_lambda else self.num_modalities
        beta = dirichlet(torch.full((count, 2), float(self.alpha)), self.generator)[:, 0]
        return beta.expand(self.num_modalities)
