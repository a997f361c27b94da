"""Measures of modality imbalance: pure functions of tensors that never wait for the device.

Everything is returned as a tensor without gradient, so that a training loop may call it. A
*misaligned* row takes its modalities from rows of different classes.
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from midas_aug._arrays import Array, as_labels, as_scores, as_tensor, check_shape
from midas_aug._checks import check_count, check_switch, is_real
from midas_aug.errors import MidasAugError
from midas_aug.functional.metrics import check_misaligned, has_two_labels
from midas_aug.functional.shares import check_logit_width

__all__ = [
    "accuracy",
    "collapsed_share_fraction",
    "discrepancy_ratio",
    "expected_calibration_error",
    "hardness_quantiles",
    "misaligned_confidence",
    "permutation_importance",
    "share_entropy",
]

CALIBRATION_BINS = 15  # as in most papers on calibration
NEAR_EVEN = 0.05  # a share this close to 1/M counts as collapsed


def accuracy(logits: Array, labels: Array) -> Tensor:
    """Fraction of rows whose highest logit is the label's.

    Args:
        logits: ``(N, C)`` float; a row with a NaN is wrong.
        labels: ``(N,)`` integers; rows with a negative one do not count.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import accuracy
        >>> accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
        tensor(0.5000)
    """
    scores, classes = check_logits(logits, labels)
    counted = classes >= 0
    right = row_correct(scores, classes) & counted
    return right.sum() / counted.sum().clamp(min=1)


def misaligned_confidence(
    logits: Array, source_labels: Array, *, valid: Array | None = None, normalized: bool = False
) -> Tensor:
    r"""Mean probability of the label of each modality's source row (MIDAS Fig. 1b).

    Imbalance shows as one modality's label being far more probable than the other's.

    Args:
        logits: ``(S, C)`` float, on misaligned rows.
        source_labels: ``(S, M)`` integers; rows with a negative one do not count.
        valid: ``(S,)`` bool, rows to count; None counts all.
        normalized: Divide each row's probabilities by their sum over the modalities, which makes
            the result comparable with the shares (Eq. 5-6).

    Returns:
        ``(M,)`` in [0, 1]; zeros when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import misaligned_confidence
        >>> logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
        >>> misaligned_confidence(logits, torch.tensor([[0, 1]]))
        tensor([0.6000, 0.3000])
        >>> misaligned_confidence(logits, torch.tensor([[0, 1]]), normalized=True)
        tensor([0.6667, 0.3333])
    """
    scores, classes, counted = check_misaligned(logits, source_labels, valid)
    check_switch(normalized, "normalized")
    probability = source_probability(scores, classes, normalized=normalized)
    total = torch.where(counted[:, None], probability, 0.0).sum(dim=0)
    return total / counted.sum().clamp(min=1)


def permutation_importance(clean: Array, permuted: Array, labels: Array) -> Tensor:
    """Accuracy with a modality permuted, over the clean accuracy (MCR).

    1: the model ignores the modality. Towards chance / accuracy: it relies on it.

    Args:
        clean: ``(N, C)`` logits of the rows as they are.
        permuted: ``(N, C)`` logits with the modality permuted among the rows.
        labels: ``(N,)`` integers; rows with a negative one do not count.

    Returns:
        A scalar, NaN when the clean accuracy is 0.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import permutation_importance
        >>> clean, labels = torch.eye(4), torch.arange(4)
        >>> permutation_importance(clean, clean[[0, 2, 1, 3]], labels)
        tensor(0.5000)
    """
    before = accuracy(clean, labels)
    return torch.where(before > 0, accuracy(permuted, labels) / before, float("nan"))


def discrepancy_ratio(sums: Tensor) -> Tensor:
    r"""OGM's ratio of each modality to the others: mean over j ≠ m of s_m / s_j. Balanced is 1.

    s_m sums the probabilities that modality m alone gives to the true labels. Sum over the whole
    epoch before the ratio: it is less noisy than a mean of batch ratios.

    Args:
        sums: ``(..., M)`` float: s. From logits of each modality alone:
            ``torch.stack([true_class_confidence(u, labels).sum() for u in alone])``.

    Returns:
        ``(..., M)``.

    Raises:
        MidasAugError: There are fewer than two modalities.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import discrepancy_ratio
        >>> discrepancy_ratio(torch.tensor([3.0, 2.0, 1.0]))
        tensor([2.2500, 1.3333, 0.4167])
    """
    values = as_tensor(sums, "sums").detach()
    values = values if values.is_floating_point() else values.float()
    if values.ndim == 0 or values.shape[-1] < 2:
        raise MidasAugError(
            f"expected sums of at least two modalities, got shape {tuple(values.shape)}; the ratio "
            "holds one against the others"
        )
    values = values.clamp(min=torch.finfo(values.dtype).tiny)  # makes zeros even
    inverse = 1 / values
    others = inverse.sum(dim=-1, keepdim=True) - inverse
    return values * others / (values.shape[-1] - 1)


def expected_calibration_error(
    logits: Array, labels: Array, *, bins: int = CALIBRATION_BINS
) -> Tensor:
    """Mean distance between confidence and accuracy over bins of equal width (ECE).

    A row falls into the bin (lower, upper] of its highest probability; each bin's |accuracy − mean
    confidence| weighs as much as its rows. As ``torchmetrics`` with ``norm="l1"`` but for
    confidences that lie on an edge, and no logits are ever taken for probabilities.

    Args:
        logits: ``(N, C)`` float.
        labels: ``(N,)`` integers; rows with a negative one do not count.
        bins: Number of bins.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import expected_calibration_error
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()  # 0.9 sure, half of them right
        >>> expected_calibration_error(logits, torch.tensor([0, 1]))
        tensor(0.4000)
    """
    check_count(bins, "bins")
    gaps, counted = calibration_gaps(logits, labels, bins=bins)
    return gaps.sum(dim=0).abs().sum() / counted.sum().clamp(min=1)


def share_entropy(shares: Array, *, valid: Array | None = None) -> Tensor:
    """Mean entropy of the shares over log M: 1 where every share is 1/M, 0 where one has it all.

    At 1 the soft labels say nothing about who is to be trusted.

    Args:
        shares: ``(S, M)``, rows sum to 1, as from `midas_aug.functional.label_shares`.
        valid: ``(S,)`` bool, rows to count; None counts all.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import share_entropy
        >>> share_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor(0.5000)
    """
    values, counted = check_shares(shares, valid)
    return torch.where(counted, row_entropy(values), 0.0).sum() / counted.sum().clamp(min=1)


def collapsed_share_fraction(
    shares: Array, *, valid: Array | None = None, tolerance: float = NEAR_EVEN
) -> Tensor:
    """Fraction of shares within ``tolerance`` of 1/M.

    Args:
        shares: ``(S, M)``, rows sum to 1, as from `midas_aug.functional.label_shares`.
        valid: ``(S,)`` bool, rows to count; None counts all.
        tolerance: How near is near.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or the tolerance is none.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import collapsed_share_fraction
        >>> collapsed_share_fraction(torch.tensor([[0.52, 0.48], [0.9, 0.1]]))
        tensor(0.5000)
    """
    check_tolerance(tolerance)
    values, counted = check_shares(shares, valid)
    near = row_collapsed(values, tolerance)
    return torch.where(counted, near, 0.0).sum() / counted.sum().clamp(min=1)


def hardness_quantiles(
    hardness: Array,
    *,
    valid: Array | None = None,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> Tensor:
    """Quantiles of the hard-sample weights of misaligned rows.

    The weight is 1 + (s + 1) / 2 with s the cosine of the feature and its replacement (Eq. 8). All
    near 2: every swap looks alike, as where features have not been centred, and the weights tell
    nothing apart.

    Args:
        hardness: ``(S,)`` float, as from `midas_aug.functional.hard_sample_weights`.
        valid: ``(S,)`` bool, rows to count; None counts all.
        quantiles: Which ones, in [0, 1].

    Returns:
        One number a quantile; NaN when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import hardness_quantiles
        >>> hardness_quantiles(torch.tensor([1.0, 1.5, 2.0]), quantiles=(0.0, 0.5, 1.0))
        tensor([1.0000, 1.5000, 2.0000])
    """
    values = as_scores(hardness, "hardness", ndim=1).detach()
    counted = _counted(values, valid)
    wanted = torch.tensor(list(quantiles), dtype=values.dtype, device=values.device)
    if len(values) == 0:
        return torch.full_like(wanted, float("nan"))
    return torch.where(counted, values, float("nan")).nanquantile(wanted)


# ---------------------------------------------------------------- shared with the other modules


def check_logits(logits: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """Logits (N, C) without gradient, and labels (N,)."""
    scores = as_scores(logits, "logits").detach()
    classes = as_labels(labels, "labels")
    check_shape(scores, (len(classes), None), "logits", "one row a label, one column a class")
    check_logit_width(classes, scores.shape[1], "logits")
    return scores, classes


def row_correct(scores: Tensor, classes: Tensor) -> Tensor:
    """Whether the label's logit is the highest of each row, (N,) bool; where there is a NaN, no."""
    highest, guess = scores.max(dim=1)
    return (guess == classes) & (highest == highest)  # NaN is the highest, and unequal to itself


def source_probability(scores: Tensor, source_labels: Tensor, *, normalized: bool) -> Tensor:
    """Probability (S, M) of the label of each modality's source."""
    chosen = source_labels.clamp(min=0)
    if normalized:  # p over its sum over modalities is a softmax of these logits
        return scores.gather(1, chosen).softmax(dim=1)
    return scores.softmax(dim=1).gather(1, chosen)


def odd_one_out(scores: Tensor, source_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whom the model follows: what it makes of a modality that disagrees with all others.

    Returns:
        Each (S, M): credit, the probability of the modality's label over that of all labels of the
        row; followed, 1 where its label ranks above the others' (1/k for k labels in a tie); and
        odd, bool, whether no other modality has this label. The first two are 0 where it is not.
    """
    classes = source_labels.clamp(min=0)
    same = classes[:, :, None] == classes[:, None, :]  # (S, M, M)
    repeated = same.tril(diagonal=-1).any(dim=2)  # a label that an earlier modality has, too
    odd = (same.sum(dim=2) == 1) & has_two_labels(classes)[:, None]
    logits = scores.gather(1, classes)
    distinct = logits.masked_fill(repeated, float("-inf"))
    first = (distinct == distinct.amax(dim=1, keepdim=True)).to(scores.dtype)
    followed = first / first.sum(dim=1, keepdim=True)
    return (
        torch.where(odd, distinct.softmax(dim=1), 0.0),
        torch.where(odd, followed, 0.0),
        odd,
    )


def calibration_gaps(
    logits: Array, labels: Array, *, bins: int = CALIBRATION_BINS
) -> tuple[Tensor, Tensor]:
    """Right − confidence, in the column of the row's bin (N, bins), and which rows count (N,)."""
    scores, classes = check_logits(logits, labels)
    counted = classes >= 0
    confidence, guess = scores.softmax(dim=1).max(dim=1)
    number = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.where(counted, (guess == classes).to(scores.dtype) - confidence, 0.0)
    return scores.new_zeros(len(scores), bins).scatter_(1, number[:, None], gap[:, None]), counted


def row_entropy(shares: Tensor) -> Tensor:
    """Entropy of each row over log M, (S,)."""
    return -torch.xlogy(shares, shares).sum(dim=1) / log(max(shares.shape[1], 2))


def row_collapsed(shares: Tensor, tolerance: float = NEAR_EVEN) -> Tensor:
    """Fraction of each row's shares that are within ``tolerance`` of 1/M, (S,)."""
    near = (shares - 1 / shares.shape[1]).abs() <= tolerance
    return near.to(shares.dtype).mean(dim=1)


def check_shares(shares: Array, valid: Array | None) -> tuple[Tensor, Tensor]:
    """Shares (S, M) without gradient, and which rows count (S,)."""
    values = as_scores(shares, "shares").detach()
    return values, _counted(values, valid)


def check_tolerance(tolerance: float) -> None:
    """Raise unless it says how near to 1/M a share may be."""
    if not is_real(tolerance) or not 0 <= tolerance <= 1:
        raise MidasAugError(
            f"expected tolerance as a number from 0 to 1, got {tolerance!r}; it is how near to "
            "1/M a share counts as collapsed"
        )


def _counted(values: Tensor, valid: Array | None) -> Tensor:
    if valid is None:
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    mask = as_tensor(valid, "valid")
    check_shape(mask, (len(values),), "valid", "one flag a row")
    return mask.bool()
