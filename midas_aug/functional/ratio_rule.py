"""The public code's step of α, from ratios of means, in place of the paper's."""

from typing import NamedTuple

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
from midas_aug.functional.losses import log_probability_at
from midas_aug.functional.shares import check_logit_width
from midas_aug.functional.weak_modality import check_alpha

__all__ = [
    "RatioSums",
    "confidence_sums",
    "ratio_sums",
    "ratio_weak_modality_step",
    "step_from_ratios",
]


class RatioSums(NamedTuple):
    """What the public code's step needs of a batch; sums, so that ranks can add theirs up.

    Attributes:
        confidence: ``(2,)`` sum over valid rows of the raw confidences.
        received: ``(2, 2)`` sum over the valid rows of a block (one a swap) of p̃[label of m's
            source]; zeros where there is no such block.
    """

    confidence: Tensor
    received: Tensor


def confidence_sums(source_confidence: Tensor, valid: Tensor) -> Tensor:
    """Sum over valid misaligned rows of each modality's raw confidence, ``(M,)``."""
    return source_confidence.masked_fill(~valid[:, None], 0.0).sum(dim=0)


def ratio_sums(source_confidence: Tensor, n_rows: int, log_p: Tensor, valid: Tensor) -> RatioSums:
    """Sum raw confidences, and the model's probabilities at the source labels block by block."""
    counted = log_p.detach().exp().masked_fill(~valid[:, None], 0.0)
    return RatioSums(
        confidence=confidence_sums(source_confidence, valid).to(counted.dtype),
        received=torch.stack([counted[:n_rows].sum(dim=0), counted[n_rows:].sum(dim=0)]),
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
    # A mean of 0 gives no ratio, on whichever side of it: the modalities count alike.
    both = (sums.received > 0).all(dim=1) | ~counted
    usable = (expected > 0) & expected.isfinite() & both.all() & received.isfinite()
    limit = torch.finfo(alpha.dtype).max if max_alpha is None else max_alpha
    stepped = (alpha + step).clamp(min=1.0, max=limit)
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
        source_labels: ``(S, 2)`` integers; rows with a negative one do not count.
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
    mask = (classes >= 0).all(dim=1)
    if valid is not None:
        given = as_tensor(valid, "valid").bool()
        check_shape(given, (len(scores),), "valid", "one flag a row of logits")
        mask = mask & given
    check_logit_width(classes, scores.shape[1], "logits")
    check_rows(rows, len(raw), "source")
    log_p = log_probability_at(scores, classes)
    sums = ratio_sums(raw.gather(0, rows), raw.shape[0], log_p, mask)
    current = check_alpha(alpha, step_size, max_alpha)
    return like(step_from_ratios(current, sums, step_size=step_size, max_alpha=max_alpha), alpha)
