"""Late fusion: what classifiers of each modality say together, with and without fitted weights."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from midas_aug._arrays import Array, as_labels, as_scores, check_shape
from midas_aug.diagnostics.bootstrap import check_numbers, check_seed
from midas_aug.errors import MidasAugError
from midas_aug.functional.fusion_weights import influence_on, newton_weights
from midas_aug.functional.shares import check_logit_width

__all__ = ["CrossFitted", "cross_fitted_fusion", "late_fusion"]

FOLDS = 5
LOWEST = -1e4  # of a log-probability: no classifier has an infinite veto, and no 0 · ∞


class CrossFitted(NamedTuple):
    """Late fusion with fitted weights, without looking at the rows that it predicts.

    Attributes:
        logits: ``(N, C)``, those of each fold with weights from all others.
        weights: ``(M,)``, fitted on all rows: those to use from now on.
        influence: ``(N, M)``, what each row adds to the weights: with rows drawn c_i times they
            are, to first order, w + Σ_i c_i influence_i / Σ_i c_i. 0 for rows without a label.
    """

    logits: Tensor
    weights: Tensor
    influence: Tensor


def late_fusion(logits: Array, weights: Array | None = None) -> Tensor:
    """Log-probabilities of the modalities' classifiers together.

    Args:
        logits: ``(M, N, C)``, of each modality's own classifier.
        weights: ``(M,)``, as from `midas_aug.functional.fit_fusion_weights`: the weighted sum of
            the log-probabilities. None: the logarithm of their mean probability.

    Returns:
        ``(N, C)``; with weights they are not normalised.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import late_fusion
        >>> logits = torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]]]).log()
        >>> late_fusion(logits).exp()
        tensor([[0.6000, 0.4000]])
        >>> late_fusion(logits, torch.tensor([1.0, 0.0])).exp()
        tensor([[0.9000, 0.1000]])
    """
    parts = _log_probabilities(logits)
    if weights is None:
        return parts.logsumexp(dim=0) - math.log(len(parts))
    given = as_scores(weights, "weights", ndim=1).to(parts)
    check_shape(given, (len(parts),), "weights", "one number a modality, as in logits")
    return torch.einsum("m,mnc->nc", given, parts)


@torch.no_grad()
def cross_fitted_fusion(
    logits: Array, labels: Array, *, folds: int = FOLDS, seed: int = 0
) -> CrossFitted:
    """Late fusion with weights fitted on other rows than those that they predict.

    Rows are dealt to the folds at random; each fold is predicted with the weights of all others.

    Args:
        logits: ``(M, N, C)``, of each modality's own classifier, on held-out rows.
        labels: ``(N,)`` integers; those of rows with a negative one are predicted, not fitted to.
        folds: How many, at least two.
        seed: Seed for dealing the rows.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or rows with a label are fewer than folds.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import cross_fitted_fusion
        >>> labels = torch.arange(40) % 2
        >>> hint = 2.0 * torch.nn.functional.one_hot(labels)
        >>> fitted = cross_fitted_fusion(torch.stack([hint, -hint]), labels)
        >>> (fitted.logits.argmax(dim=1) == labels).all()
        tensor(True)
    """
    check_numbers(folds=folds)
    check_seed(seed)
    given = as_scores(logits, "logits", ndim=3)
    parts = _log_probabilities(given)
    classes = as_labels(labels, "labels")
    _, labelled = _labelled(parts, classes)
    if folds < 2 or len(labelled) < folds:
        raise MidasAugError(
            f"expected two folds or more and a row with a label for each, got {folds} folds and "
            f"{len(labelled)} rows"
        )
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % folds
    fold = fold.to(classes.device)
    fused = torch.empty_like(parts[0])
    for number in range(folds):
        here, others = fold == number, (fold != number) & (classes >= 0)
        weights = newton_weights(parts[:, others].transpose(0, 1), classes[others])
        fused[here] = torch.einsum("m,mnc->nc", weights.to(parts.dtype), parts[:, here])
    kept = parts[:, classes >= 0].transpose(0, 1)
    weights = newton_weights(kept, labelled)
    of_labelled = influence_on(weights, kept, labelled)
    influence = of_labelled.new_zeros(len(classes), len(weights))
    influence[classes >= 0] = of_labelled
    return CrossFitted(fused, weights.to(given.dtype), influence.to(given.dtype))


def _log_probabilities(logits: Array) -> Tensor:
    scores = as_scores(logits, "logits", ndim=3).detach()
    if len(scores) == 0 or scores.shape[2] < 2:
        raise MidasAugError(
            f"expected logits of shape (M, N, C), of one modality and two classes or more, got "
            f"{tuple(scores.shape)}"
        )
    return scores.log_softmax(dim=2).clamp(min=LOWEST)


def _labelled(parts: Tensor, labels: Array) -> tuple[Tensor, Tensor]:
    classes = as_labels(labels, "labels")
    check_shape(parts, (None, len(classes), None), "logits", "one row a label in each modality")
    check_logit_width(classes, parts.shape[2], "logits")
    counted = classes >= 0
    if not bool(parts[:, counted].isfinite().all()):
        raise MidasAugError("expected finite logits to fit weights to, got some with NaN")
    return parts[:, counted], classes[counted]
