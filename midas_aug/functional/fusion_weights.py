"""Fitted fusion weights: one number a modality, fitted on held-out rows. Not in the paper."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from midas_aug._arrays import (
    Array,
    ArrayT,
    as_labels,
    as_scores,
    as_tensor,
    check_in_order,
    check_shape,
    like,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width

__all__ = ["fit_fusion_weights", "influence_on", "newton_weights"]

PULL = 1e-4  # towards 1, so that rows which are all told apart have finite weights
NEWTON_STEPS = 50
SMALLEST_STEP = 1e-6
ROWS = 4096  # at a time, so that float64 copies stay small


def fit_fusion_weights(parts: ArrayT | Sequence[ArrayT], labels: Array) -> ArrayT:
    r"""The weight of each modality with which the weighted sum of the parts predicts best.

    .. math:: \min_w \frac1N \sum_n CE\big(\sum_m w_m u_{n,m},\ y_n\big)
        + \frac{10^{-4}}{2} \sum_m (w_m - 1)^2

    With the additive parts u of a model's joint logits this mends a fusion layer that trusts a
    memorised modality too much; w = 1 is the model as it is (`midas_aug.FusionWeights` fits a
    layer). With the log-probabilities of models that were trained apart it is late fusion by a
    logarithmic opinion pool (Heskes, "Selecting weighting factors in logarithmic opinion pools",
    NeurIPS 1997). Use rows that nothing was trained on: training rows are told apart by what the
    model knows by heart.

    The problem is convex, and the last term makes its answer unique; it is found by Newton's method
    with halved steps, in float64. A weight may be negative: a part that is worse than none is
    subtracted. Carries no gradient.

    Args:
        parts: ``(N, M, C)`` float, or M of ``(N, C)``. What all modalities share, such as a bias,
            is in them once, divided in any way.
        labels: ``(N,)`` integers; rows with a negative one are left out. Without any row the
            weights are 1.

    Returns:
        ``(M,)``, in the library and on the device of the parts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or a part is not finite.

    Example:
        >>> import torch
        >>> from midas_aug.functional import fit_fusion_weights
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(600) % 3
        >>> knows = torch.eye(3)[labels] + torch.randn(600, 3)
        >>> guesses = 3 * torch.randn(600, 3)
        >>> fit_fusion_weights([knows, guesses], labels).round(decimals=1)
        tensor([0.9000, 0.0000])
    """
    first: ArrayT = parts[0] if isinstance(parts, Sequence) and parts else parts  # type: ignore[assignment]
    scores = _stacked(parts)
    classes = as_labels(labels, "labels").to(scores.device)
    check_shape(classes, (len(scores),), "labels", "one a row of the parts, (N, M, C)")
    check_logit_width(classes, scores.shape[2], "parts")
    kept = classes >= 0
    scores, classes = scores[kept], classes[kept]
    if not bool(scores.isfinite().all()):
        raise MidasAugError(
            "expected finite parts, got infinite ones or NaN; pass logits or log_softmax, not the "
            "logarithm of probabilities that were rounded to 0"
        )
    weights = newton_weights(scores, classes)
    return like(weights.to(scores.dtype), first)


@torch.no_grad()
def newton_weights(scores: Tensor, labels: Tensor) -> Tensor:
    """The weights ``(M,)`` of finite parts ``(N, M, C)``, as wide as they are computed."""
    weights = torch.ones(scores.shape[1], dtype=_wide(scores), device=scores.device)
    if len(scores) == 0:
        return weights
    for _ in range(NEWTON_STEPS):
        before, gradient, curvature = _around(weights, scores, labels)
        step: Tensor = torch.linalg.solve(curvature, gradient)
        while float(step.abs().max()) > SMALLEST_STEP:
            if _loss(weights - step, scores, labels) <= before:
                break
            step = step / 2
        else:
            break
        weights = weights - step
    return weights


@torch.no_grad()
def influence_on(weights: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """What each row adds to fitted weights, ``(N, M)``.

    With rows drawn c_i times the weights are, to first order, w + Σ_i c_i influence_i / Σ_i c_i.
    """
    gradients = []
    for rows, classes in _chunks(scores, labels, weights.dtype):
        shares = torch.einsum("m,nmc->nc", weights, rows).softmax(dim=1)
        means, truth = _means(shares, rows, classes)
        gradients.append(means - truth)
    slope = torch.cat(gradients)
    _, _, curvature = _around(weights, scores, labels)
    moved: Tensor = torch.linalg.solve(curvature, (slope - slope.mean(dim=0)).T)
    return -moved.T


def _means(shares: Tensor, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each part, its mean by the predicted shares and its number of the label, ``(N, M)``."""
    truth = rows.gather(2, labels[:, None, None].expand(-1, rows.shape[1], 1))[:, :, 0]
    return torch.einsum("nmc,nc->nm", rows, shares), truth


def _around(weights: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss at the weights, its gradient ``(M,)`` and its curvature ``(M, M)``."""
    loss = _pull(weights)
    gradient = PULL * (weights - 1)
    curvature = PULL * torch.eye(len(weights), dtype=weights.dtype, device=weights.device)
    for rows, classes in _chunks(scores, labels, weights.dtype):
        logits = torch.einsum("m,nmc->nc", weights, rows)
        shares = logits.softmax(dim=1)
        means, truth = _means(shares, rows, classes)
        squares = torch.einsum("nkc,nmc,nc->km", rows, rows, shares)
        loss = loss + F.cross_entropy(logits, classes, reduction="sum") / len(labels)
        gradient = gradient + (means - truth).sum(dim=0) / len(labels)
        curvature = curvature + (squares - means.T @ means) / len(labels)
    return loss, gradient, curvature


def _loss(weights: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """What is minimised."""
    loss = _pull(weights)
    for rows, classes in _chunks(scores, labels, weights.dtype):
        logits = torch.einsum("m,nmc->nc", weights, rows)
        loss = loss + F.cross_entropy(logits, classes, reduction="sum") / len(labels)
    return loss


def _pull(weights: Tensor) -> Tensor:
    return PULL / 2 * (weights - 1).square().sum()


def _chunks(scores: Tensor, labels: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their labels, a few thousand at a time."""
    for rows, classes in zip(torch.split(scores, ROWS), torch.split(labels, ROWS), strict=True):
        yield rows.to(dtype), classes


def _wide(scores: Tensor) -> torch.dtype:
    """Float64, or what the device has of it."""
    return torch.float32 if scores.device.type == "mps" else torch.float64


def _stacked(parts: Array | Sequence[Array]) -> Tensor:
    """The parts as one finite tensor ``(N, M, C)``."""
    check_in_order(parts, "parts")
    if isinstance(parts, Sequence):
        if not parts:
            raise MidasAugError("expected a part for each modality, got none; pass M of (N, C)")
        tensors = [as_scores(part, f"parts[{m}]").detach() for m, part in enumerate(parts)]
        for number, tensor in enumerate(tensors):
            why = "all parts have the rows and the classes of the first"
            check_shape(tensor, tuple(tensors[0].shape), f"parts[{number}]", why)
        return torch.stack(tensors, dim=1)
    return as_scores(as_tensor(parts, "parts"), "parts", ndim=3).detach()
