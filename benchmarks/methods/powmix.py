"""PowMix: mixtures of many samples before the fusion (arXiv 2312.12334)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import Features
from benchmarks.methods.base import Method
from benchmarks.methods.draws import dirichlet
from benchmarks.methods.shared import stack

EPS = 1e-5


def gap_attention(features: Tensor) -> Tensor:
    """Share of each modality in a row's mean activations; negative means count as 0.

    Args:
        features: ``(M, B, D)``.

    Returns:
        ``(M, B)``; sums to 1 over modalities.
    """
    score = features.mean(dim=2).clamp(min=0) + EPS
    return score / score.sum(dim=0)


def normalize(weights: Tensor) -> Tensor:
    """Divide by the sum along the last dimension, made a little larger."""
    return weights / (weights.sum(dim=-1, keepdim=True) + EPS)


def mixing_weights(draw: Tensor, mask: Tensor, attention: Tensor) -> Tensor:
    """Weights of the B rows in each of N mixtures, for each modality; they sum to nearly 1.

    Args:
        draw: ``(M, N, B)``, or ``(1, N, B)`` for the same in all modalities.
        mask: ``(N, B)`` bool: which rows a mixture has.
        attention: ``(M, B)``.

    Returns:
        ``(M, N, B)``; all 0 for a mixture without rows.
    """
    return normalize(normalize(draw * mask) * attention[:, None])


def draw_mask(num_mixes: int, num_rows: int, keep: float, generator: torch.Generator) -> Tensor:
    """Which rows each mixture has: ``(N, B)`` bool, each with probability ``keep``.

    A mixture of fewer than two rows is drawn again, once, and may be empty still.
    """
    mask, again = torch.rand(2, num_mixes, num_rows, generator=generator) < keep
    return torch.where(mask.sum(dim=1, keepdim=True) < 2, again, mask)


def mix(features: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mixtures, and their labels as the mean over the modalities' own mixtures of labels.

    Args:
        features: ``(M, B, D)``.
        labels: ``(B, C)`` class probabilities.
        weights: ``(M, N, B)``.

    Returns:
        ``(M, N, D)`` and ``(N, C)``.
    """
    return weights @ features, weights.mean(dim=0) @ labels


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-Σ_c y_c log p_c, averaged over rows; the targets of a row need not sum to 1."""
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


@dataclass
class PowMix(Method):
    """PowMix with all five parts of its abstract, after the one public class that has them.

    There is no official code, and the paper's hyper-parameters are not confirmed. Chosen here: a
    cross-entropy (the class regresses), a draw for each modality ("anisotropic") and the
    re-weighting by activations, which the abstract names and the class has switched off, and 256
    mixtures a step instead of its 1000: four a row of a batch of 64, and a step of a few
    milliseconds. As in that class the mixtures replace the clean batch.

    Attributes:
        num_mixes: N.
        reweight: "gap" weighs a row, in each modality, by that modality's share of its mean
            activations, which should be non-negative; "uniform" does not.
        iid_mixes: A Dirichlet draw for each modality; otherwise one for all.
        clean_weight: Weight of the loss of the clean batch, added to that of the mixtures.
        concentration: Range of the Dirichlet concentrations, drawn for each row of the batch.
        keep: Probability with which a mixture has a row. (The class draws it for every entry from
            0.5 … 1, which comes to its mean.)
    """

    num_mixes: int = 256
    reweight: Literal["gap", "uniform"] = "gap"
    iid_mixes: bool = True
    clean_weight: float = 0.0
    concentration: tuple[float, float] = (0.5, 1.5)
    keep: float = 0.75

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        stacked = stack(features)
        one_hot = F.one_hot(labels, self.model.num_classes).to(stacked.dtype)
        mixed, targets = mix(stacked, one_hot, self.draw_weights(stacked))
        logits = self.model.fuse(dict(zip(self.model.modalities, mixed, strict=True)))
        loss = soft_cross_entropy(logits, targets)
        if self.clean_weight:
            loss = loss + self.clean_weight * super().loss(features, labels)
        return loss

    @torch.no_grad()
    def draw_weights(self, features: Tensor) -> Tensor:
        """Mixing weights ``(M, N, B)`` for features ``(M, B, D)``."""
        num_modalities, num_rows, _ = features.shape
        low, high = self.concentration
        rows = low + (high - low) * torch.rand(num_rows, generator=self.generator)
        draws = num_modalities if self.iid_mixes else 1
        draw = dirichlet(rows.expand(draws, self.num_mixes, -1), self.generator)
        mask = draw_mask(self.num_mixes, num_rows, self.keep, self.generator)
        uniform = torch.full((num_modalities, num_rows), 1 / num_modalities)
        attention = gap_attention(features) if self.reweight == "gap" else uniform
        return mixing_weights(draw, mask, attention)
