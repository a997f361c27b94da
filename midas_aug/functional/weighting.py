"""Weights of misaligned samples: weak modality (Sec. 3.4) and hard samples (Sec. 3.5)."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from midas_aug._arrays import (
    Array,
    ArrayT,
    as_labels,
    as_scores,
    as_tensor,
    check_rows,
    check_shape,
    like,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.labels import check_label_range
from midas_aug.functional.losses import log_probability_at
from midas_aug.functional.plan import SwapPlan

__all__ = [
    "Similarity",
    "hard_sample_weights",
    "ratio_weak_modality_step",
    "weak_modality_step",
]

Similarity: TypeAlias = Literal["cosine"] | Callable[[Tensor, Tensor], Tensor]


def hard_sample_weights(
    features: Sequence[ArrayT], plan: SwapPlan, *, similarity: Similarity = "cosine"
) -> ArrayT:
    r"""Weigh up samples whose replaced modality looks like the one it replaces (Eq. 8).

    .. math:: 1 + (s_s + 1) / 2, \quad
        s_s = \text{mean over replaced } m \text{ of } \cos(f^m_{anchor}, f^m_{source})

    Carries no gradient. The cosine with a zero vector is 0.

    Args:
        features: M arrays ``(N, D_m)`` of floats.
        plan: The draws, as from `plan_swaps`.
        similarity: ``"cosine"``, or a callable of two ``(S, D_m)`` tensors that gives ``(S,)`` in
            [−1, 1].

    Returns:
        ``(S,)`` in [1, 2]; a sample with nothing replaced gets 2.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.functional import SwapPlan, hard_sample_weights
        >>> plan = SwapPlan(torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([True]))
        >>> ears = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> eyes = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> hard_sample_weights([ears, eyes], plan)  # the eyes are replaced by their likes
        tensor([2.])
    """
    source = as_labels(plan.source, "plan.source", ndim=2)
    anchor = as_labels(plan.anchor, "plan.anchor")
    if len(features) != source.shape[1]:
        raise MidasAugError(
            f"expected {source.shape[1]} feature arrays (one a column of plan.source), got "
            f"{len(features)}; pass one (N, D) array a modality"
        )
    if similarity != "cosine" and not callable(similarity):
        raise MidasAugError(
            f"expected similarity to be 'cosine' or a callable of two (S, D), got {similarity!r}"
        )
    check_shape(anchor, (len(source),), "plan.anchor", "one anchor a row of plan.source")
    check_rows(source, len(features[0]), "plan.source")
    check_rows(anchor, len(features[0]), "plan.anchor")
    replaced = source != anchor[:, None]
    similarities = []
    for number, rows in enumerate(_feature_rows(features)):
        # One pass over N rows instead of two over S.
        vectors = torch.nn.functional.normalize(rows, dim=1) if similarity == "cosine" else rows
        here = vectors.index_select(0, anchor)
        there = vectors.index_select(0, source[:, number])
        similarities.append(
            (here * there).sum(dim=1) if similarity == "cosine" else similarity(here, there)
        )
    total = torch.stack(similarities, dim=1).masked_fill(~replaced, 0.0).sum(dim=1)
    count = replaced.sum(dim=1)
    # Nothing is more alike than a row that a pairing swapped with itself.
    mean = (total / count.clamp(min=1)).masked_fill(count == 0, 1.0)
    return like(_hardness_of(mean), features[0])


def each_block_weights(features: Sequence[Tensor], plan: SwapPlan) -> Tensor:
    """`hard_sample_weights` of a ``swap="each"`` plan, by the one modality that a block replaces.

    Saves M − 1 of M comparisons, and the anchors need no gather: they are the batch in order.
    """
    checked = _feature_rows(features)
    partner = torch.as_tensor(plan.source)[: len(checked[0]), 0]
    cosines = []
    for rows in checked:
        vectors = torch.nn.functional.normalize(rows, dim=1)
        cosines.append((vectors * vectors.index_select(0, partner)).sum(dim=1))
    return _hardness_of(torch.cat(cosines))


def _hardness_of(cosine: Tensor) -> Tensor:
    """1 + (s + 1) / 2, also where rounding took s beyond ±1 (Eq. 8)."""
    return cosine.clamp(-1, 1).mul_(0.5).add_(1.5)


def _feature_rows(features: Sequence[Array]) -> list[Tensor]:
    """The features as float tensors without gradient, checked to have the same rows."""
    checked = []
    for number, feature in enumerate(features):
        name = f"features[{number}]"
        rows = as_scores(feature, name).detach()
        check_shape(rows, (len(features[0]), None), name, "the same batch rows in each modality")
        checked.append(rows)
    return checked


def credit_sums(shares: Tensor, log_p: Tensor, valid: Tensor | None) -> Tensor:
    """Expected and received credit of each modality, summed over the valid rows: ``(2, M)``.

    Sums, so that ranks can add theirs up. ``log_p`` is the multimodal head's log-probability at
    the label of each modality's source (or the logit: what a row has in common cancels).
    """
    # p̃[label of m] over its sum over modalities is a softmax over modalities.
    credit = log_p.detach().softmax(dim=1)
    both = torch.stack([shares.detach().to(credit.dtype), credit])
    if valid is not None:
        both = both.masked_fill(~valid[:, None], 0.0)
    return both.sum(dim=1)


def step_from_sums(
    alpha: Tensor, sums: Tensor, *, step_size: float, max_alpha: float | None
) -> Tensor:
    """The new α (Eq. 5-7): up where the weak modality gets less credit than it should."""
    expected, received = sums.unbind()
    is_strong = torch.arange(len(alpha), device=alpha.device) != expected.argmin()
    stepped = alpha + step_size * (expected - received).sign()
    stepped = stepped.clamp(min=1.0, max=max_alpha).masked_fill(is_strong, 1.0)
    # No valid row; or a batch that overflowed in half precision, which must not stay in α for ever.
    return torch.where(sums.sum() > 0, stepped, alpha).to(alpha.dtype)


def weak_modality_step(
    alpha: ArrayT,
    shares: Array,
    logits: Array,
    source_labels: Array,
    *,
    valid: Array | None = None,
    step_size: float = 0.05,
    max_alpha: float | None = None,
) -> ArrayT:
    r"""One update of the weak-modality weights (Eq. 5-7).

    The weak modality is the one with the smallest mean share. Its α rises by ``step_size`` when
    the multimodal model credits it less than its share, falls when more, never below 1; every
    other α is 1.

    Args:
        alpha: ``(M,)`` float.
        shares: ``(S, M)``, as from `label_shares`.
        logits: ``(S, C)`` of the multimodal head on the misaligned samples.
        source_labels: ``(S, M)`` integers.
        valid: ``(S,)`` bool, rows that count; None counts all. No valid row: α stays as it is.
        step_size: η.
        max_alpha: Upper clamp; None for none, as in the paper.

    Returns:
        The new ``(M,)`` α.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.functional import weak_modality_step
        >>> shares = torch.tensor([[0.7, 0.3]])
        >>> logits = torch.tensor([[4.0, 0.0]])  # the model listens to modality 1 alone
        >>> weak_modality_step(torch.ones(2), shares, logits, torch.tensor([[0, 1]]))
        tensor([1.0000, 1.0500])
    """
    scores = as_scores(logits, "logits")
    classes = as_labels(source_labels, "source_labels", ndim=2)
    weights = as_scores(shares, "shares")
    check_shape(classes, (len(scores), None), "source_labels", "one row a row of logits")
    check_shape(weights, tuple(classes.shape), "shares", "one share a source label")
    check_label_range(classes, scores.shape[1])
    current = _check_alpha(alpha, max_alpha)
    check_shape(current, (weights.shape[1],), "alpha", "one weak-modality weight a modality")
    mask = None if valid is None else as_tensor(valid, "valid").bool()
    if mask is not None:
        check_shape(mask, (len(scores),), "valid", "one flag a row of logits")
    sums = credit_sums(weights, scores.gather(1, classes.clamp(min=0)), mask)
    return like(step_from_sums(current, sums, step_size=step_size, max_alpha=max_alpha), alpha)


class RatioSums(NamedTuple):
    """What the public code's step needs of a batch; sums, so that ranks can add theirs up.

    Attributes:
        confidence: ``(2,)`` sum over valid rows of the raw confidences.
        received: ``(2, 2)`` sum over the valid rows of a block (one a swap) of p̃[label of m's
            source]; zeros where there is no such block.
    """

    confidence: Tensor
    received: Tensor


def confidence_sums(confidence: Tensor, source: Tensor, valid: Tensor) -> Tensor:
    """Sum over valid misaligned rows of each modality's raw confidence, ``(M,)``."""
    return confidence.gather(0, source).masked_fill(~valid[:, None], 0.0).sum(dim=0)


def ratio_sums(confidence: Tensor, source: Tensor, log_p: Tensor, valid: Tensor) -> RatioSums:
    """Sum raw confidences, and the model's probabilities at the source labels block by block."""
    rows = len(confidence)
    counted = log_p.detach().exp().masked_fill(~valid[:, None], 0.0)
    return RatioSums(
        confidence=confidence_sums(confidence, source, valid).to(counted.dtype),
        received=torch.stack([counted[:rows].sum(dim=0), counted[rows:].sum(dim=0)]),
    )


def step_from_ratios(
    alpha: Tensor, sums: RatioSums, *, step_size: float, max_alpha: float | None
) -> Tensor:
    """The new shared α: up where the weak modality gets less credit than its confidence."""
    expected = sums.confidence[0] / sums.confidence[1]
    counted = sums.received.sum(dim=1) > 0
    ratios = torch.where(counted, sums.received[:, 0] / sums.received[:, 1], 0.0)
    received = ratios.sum() / counted.sum()
    first_is_weak = sums.confidence[0] <= sums.confidence[1]
    underrated = torch.where(first_is_weak, received < expected, received > expected)
    step = torch.where(underrated, step_size, -step_size)
    usable = expected.isfinite() & received.isfinite()
    stepped = (alpha + step).clamp(min=1.0, max=max_alpha)
    return torch.where(usable, stepped, alpha).to(alpha.dtype)


def ratio_weak_modality_step(
    alpha: ArrayT,
    confidence: Array,
    source: Array,
    logits: Array,
    source_labels: Array,
    *,
    valid: Array | None = None,
    step_size: float = 0.05,
    max_alpha: float | None = None,
) -> ArrayT:
    r"""The public code's update: one α for whichever modality is weak, from ratios of means.

    The weak modality has the smaller mean *raw* confidence. The ratio of the mean probabilities
    that the model gives to the labels of modalities 1 and 2, averaged over the two swaps, is held
    against the ratio of the mean confidences. Equality counts as a decrease. Two modalities only.

    Args:
        alpha: ``(2,)``, the shared number in both places (or any shape that is to be stepped).
        confidence: ``(N, 2)`` raw confidences of the batch rows.
        source: ``(S, 2)`` integers, the plan's source; S = N or 2N in blocks of N.
        logits: ``(S, C)`` of the multimodal head on the misaligned samples.
        source_labels: ``(S, 2)`` integers.
        valid: ``(S,)`` bool, rows that count; None counts all. Without a finite ratio (no valid
            row, or a mean of exactly 0) α stays as it is.
        step_size: η.
        max_alpha: Upper clamp (the public code's Kinetics-Sounds file has 10).

    Returns:
        The new α.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or there are not two modalities.

    Example:
        >>> import torch
        >>> from midas_aug.functional import ratio_weak_modality_step
        >>> confidence = torch.tensor([[0.8, 0.4], [0.8, 0.4]])
        >>> source = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]])
        >>> labels = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]])
        >>> logits = 3.0 * torch.nn.functional.one_hot(labels[:, 0], 2)  # modality 1 rules
        >>> ratio_weak_modality_step(torch.ones(2), confidence, source, logits, labels)
        tensor([1.0500, 1.0500])
    """
    scores = as_scores(logits, "logits")
    rows = as_labels(source, "source", ndim=2)
    classes = as_labels(source_labels, "source_labels", ndim=2)
    raw = as_scores(confidence, "confidence").detach()
    check_shape(raw, (None, 2), "confidence", "the public code's rule knows two modalities")
    check_shape(rows, (len(scores), 2), "source", "one row a row of logits")
    check_shape(classes, (len(scores), 2), "source_labels", "one row a row of logits")
    mask = as_tensor(valid, "valid") if valid is not None else (classes >= 0).all(dim=1)
    check_shape(mask, (len(scores),), "valid", "one flag a row of logits")
    check_label_range(classes, scores.shape[1])
    check_rows(rows, len(raw), "source")
    sums = ratio_sums(raw, rows, log_probability_at(scores, classes), mask.bool())
    current = _check_alpha(alpha, max_alpha)
    return like(step_from_ratios(current, sums, step_size=step_size, max_alpha=max_alpha), alpha)


def _check_alpha(alpha: Array, max_alpha: float | None) -> Tensor:
    current = as_tensor(alpha, "alpha")
    if not current.is_floating_point():
        raise MidasAugError(
            f"expected alpha to have a float dtype, got {current.dtype}; a step of 0.05 is lost in "
            "integers"
        )
    if max_alpha is not None and not max_alpha >= 1:
        raise MidasAugError(f"expected max_alpha of at least 1 or None, got {max_alpha}")
    return current
