"""MCR: a game between encoders over how much permuting a modality moves the prediction."""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import Features
from benchmarks.methods.divergence import jensen_shannon
from benchmarks.methods.draws import permutations
from benchmarks.methods.shared import ComparingMethod, stack, summed_cross_entropy

Mode = Literal["greedy", "independent", "collaborative"]


def proper_subsets(num_modalities: int) -> Tensor:
    """Every set of modalities but none and all, as ``(2^M - 2, M)`` bool."""
    subsets = itertools.product((False, True), repeat=num_modalities)
    return torch.tensor([subset for subset in subsets if any(subset) and not all(subset)])


def perturbed_parts(parts: Tensor, permutation: Tensor) -> Tensor:
    """The parts of the logits with the modalities of each proper subset permuted.

    Args:
        parts: ``(M, N, C)``; they sum to the joint logits.
        permutation: ``(M, R, N)`` rows that the modalities take in each of R repetitions.

    Returns:
        ``(S, M, R, N, C)`` for S subsets.
    """
    permuted = proper_subsets(len(parts))[:, :, None, None, None]
    moved = parts[torch.arange(len(parts))[:, None, None], permutation]
    return torch.where(permuted, moved, parts[:, None])


def joint_divergences(parts: Tensor, base: Tensor, permutation: Tensor) -> Tensor:
    """J(S) ``(S,)``: Jensen-Shannon divergence from ``base`` ``(N, C)`` if S is permuted."""
    logits = perturbed_parts(parts, permutation).sum(dim=1)
    return _divergence(logits, base)


def divergences(parts: Tensor, base: Tensor, permutation: Tensor) -> Tensor:
    """J_i(S) ``(S, M)``: in value J(S) for all i, with gradient to the part of modality i alone.

    (And to ``base``.)
    """
    own = perturbed_parts(parts, permutation)
    logits = own.sum(dim=1, keepdim=True).detach() + (own - own.detach())
    return _divergence(logits, base)


def _divergence(logits: Tensor, base: Tensor) -> Tensor:
    return jensen_shannon(logits.log_softmax(-1), base.log_softmax(-1)).mean(dim=(-2, -1))


def competition(parts: Tensor, base: Tensor, permutation: Tensor, mode: Mode = "greedy") -> Tensor:
    """The regulariser, to be minimised.

    Greedy: each modality raises the divergence when it is permuted and lowers that of the others,
    which sums to 0 in value for two modalities, but not in gradient. Independent: it raises its
    own. Collaborative: all raise all.

    Args:
        parts: ``(M, N, C)``; they sum to the joint logits.
        base: ``(N, C)`` joint logits.
        permutation: ``(M, R, N)``.
        mode: Who plays for what.
    """
    if mode == "collaborative":
        return -joint_divergences(parts, base, permutation).sum()
    of_others = 1.0 if mode == "greedy" else 0.0
    sign = torch.where(proper_subsets(len(parts)), -1.0, of_others)
    return (sign * divergences(parts, base, permutation)).sum()


def nt_xent(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss: the mean over ordered pairs of vectors of the same class.

    A pair's loss is its cross-entropy among itself and the first vector's pairs with other classes;
    the similarity is the cosine.

    Args:
        vectors: ``(V, D)``.
        labels: ``(V,)``.
        temperature: Divides the similarities.
    """
    directions = F.normalize(vectors)
    similarity = directions @ directions.T / temperature
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool)
    negatives = similarity.masked_fill(same, -torch.inf).logsumexp(dim=1, keepdim=True)
    losses = F.softplus(negatives - similarity)
    return (losses * positive).sum() / positive.sum().clamp(min=1)


@dataclass
class MCR(ComparingMethod):
    """MCR (arXiv 2411.07335) as in the paper: the official snapshot loses its regulariser.

    For two modalities this is the official greedy game, the fusion head taken as a constant. For
    three and more, the sets of 1 … M - 1 permuted modalities of the official code for three, with
    one permutation a modality. There the terms of head and base no longer cancel; following the
    paper (each term moves one encoder), the head stays constant and, if greedy, so does the base.

    Not confirmed by any source at hand, and chosen here: the weights (those of CREMA-D with
    ResNets), encoders without unimodal pre-training, the term L_CEB left out (the CREMA-D runs have
    it off). 8 permutations a step rather than 32: on a CPU they would dominate the step.

    Attributes:
        regularizer: l, the weight of the game.
        unimodal: Weight of each modality's own classification loss.
        contrastive: Weight of the contrastive loss over the features of all modalities.
        temperature: Of the contrastive loss.
        num_permutations: R.
        mode: The game. As in the paper's equations, only "collaborative" also trains the head.
    """

    regularizer: float = 0.1
    unimodal: float = 0.01
    contrastive: float = 1.0
    temperature: float = 0.5
    num_permutations: int = 8
    mode: Mode = "greedy"

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        unimodal = summed_cross_entropy(stack(self.model.classify(features)), labels)
        vectors = torch.cat(list(features.values()))
        contrast = nt_xent(vectors, labels.repeat(self.num_modalities), self.temperature)
        return (
            super().loss(features, labels)
            + self.unimodal * unimodal
            + self.contrastive * contrast
            + self.regularizer * self.game(features)
        )

    def game(self, features: Features) -> Tensor:
        """The regulariser of a batch."""
        constant_head = self.mode != "collaborative"
        parts = stack(self.model.parts(features, detach=constant_head))
        base = parts.sum(dim=0)
        if self.mode == "greedy":
            base = base.detach()
        shape = (self.num_modalities, self.num_permutations)
        permutation = permutations(parts.shape[1], shape, self.generator)
        return competition(parts, base, permutation, self.mode)
