"""The weights α of the modalities in the misaligned loss (Sec. 3.4, Eq. 5-7)."""

import torch
from torch import Tensor

from midas_aug._arrays import (
    Array,
    ArrayT,
    as_labels,
    as_scores,
    as_tensor,
    check_shape,
    like,
)
from midas_aug._checks import check_number
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width

__all__ = ["check_alpha", "check_step", "credit_sums", "step_from_sums", "weak_modality_step"]


def credit_sums(
    shares: Tensor, log_p: Tensor, ignored: Tensor | None, absent: Tensor | None = None
) -> Tensor:
    """Expected and received credit of each modality, summed over rows: ``(2, M)``.

    Sums, so that ranks can add theirs up. ``log_p`` is the multimodal head's log-probability at
    the label of each modality's source (or the logit: what a row has in common cancels).
    Rows that are ``ignored`` ``(S,)`` are left out; an ``absent`` modality ``(S, M)`` gets no
    credit.
    """
    if absent is not None:
        log_p = log_p.masked_fill(absent, torch.finfo(log_p.dtype).min)
    # p̃[label of m] over its sum over modalities is a softmax over modalities. Along the first axis:
    # a CPU takes seven times longer over rows of two numbers.
    credit = log_p.detach().t().softmax(dim=0).t()
    both = torch.stack([shares.detach().to(credit.dtype), credit])
    if ignored is not None:
        both = both.masked_fill(ignored[:, None], 0.0)
    return both.sum(dim=1)


def step_from_sums(
    alpha: Tensor, sums: Tensor, *, step_size: float, max_alpha: float | None
) -> Tensor:
    """The new α (Eq. 5-7): up where the weak modality gets less credit than it should."""
    expected, received = sums.unbind()
    is_strong = torch.arange(alpha.shape[0], device=alpha.device) != expected.argmin()
    stepped = alpha.add((expected - received).sign(), alpha=step_size)
    limit = torch.finfo(alpha.dtype).max if max_alpha is None else max_alpha
    stepped = stepped.clamp(min=1.0, max=limit).masked_fill(is_strong, 1.0)
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
        source_labels: ``(S, M)`` integers; rows with a negative one do not count.
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
    check_logit_width(classes, scores.shape[1], "logits")
    current = check_alpha(alpha, step_size, max_alpha)
    check_shape(current, (weights.shape[1],), "alpha", "one weak-modality weight a modality")
    counted = (classes >= 0).all(dim=1)
    if valid is not None:
        mask = as_tensor(valid, "valid").bool()
        check_shape(mask, (len(scores),), "valid", "one flag a row of logits")
        counted = counted & mask
    sums = credit_sums(weights, scores.gather(1, classes.clamp(min=0)), ~counted)
    return like(step_from_sums(current, sums, step_size=step_size, max_alpha=max_alpha), alpha)


def check_alpha(alpha: Array, step_size: float, max_alpha: float | None) -> Tensor:
    """α as a tensor that can be stepped, by a number that can be added."""
    current = as_tensor(alpha, "alpha")
    if not current.is_floating_point():
        raise MidasAugError(
            f"expected alpha to have a float dtype, got {current.dtype}; a step of 0.05 is lost in "
            "integers"
        )
    check_step(step_size, max_alpha)
    return current


def check_step(step_size: float, max_alpha: float | None) -> None:
    """Raise unless α can be stepped by ``step_size`` and held at ``max_alpha``."""
    check_number(step_size, "step_size (η)", 0, "the paper's is 0.05")
    if max_alpha is not None:
        check_number(max_alpha, "max_alpha", 1, "None sets no limit")
