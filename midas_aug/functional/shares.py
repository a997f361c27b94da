"""Soft labels from unimodal confidence (Sec. 3.3, Eq. 2-3)."""

import math
from typing import Any

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
    may_read_values,
)
from midas_aug._checks import check_count, is_real
from midas_aug._rows import count_rows, take_rows
from midas_aug.errors import MidasAugError

__all__ = [
    "gather_rows",
    "label_shares",
    "soft_targets",
    "true_class_confidence",
]


SMALLEST = 1.5e-45  # the smallest positive number of float32


def gather_rows(tree: Any, index: Array) -> Any:
    """Take the rows ``index`` of every array in a nested structure.

    Args:
        tree: An array or any nesting of mappings, sequences, named tuples and dataclasses of
            arrays with N rows each.
        index: ``(R,)`` integer rows, for instance one column of a plan's ``source``.

    Returns:
        The same structure with R rows a leaf; tensors keep their gradient.

    Raises:
        MidasAugError: A leaf has another number of rows, or lies on another device than ``index``.

    Example:
        >>> import torch
        >>> from midas_aug.functional import gather_rows
        >>> gather_rows({"ids": torch.tensor([[1], [2]])}, torch.tensor([1, 1, 0]))["ids"].tolist()
        [[2], [2], [1]]
    """
    rows, n_rows = as_labels(index, "index"), count_rows(tree)
    if n_rows is None:
        raise MidasAugError(
            f"expected an array with rows, got {type(tree).__name__}; pass tensors or NumPy arrays "
            "whose first axis is the batch"
        )
    check_rows(rows, n_rows, "index")
    return take_rows(tree, rows, n_rows, path="tree", modality=True)


def true_class_confidence(
    logits: ArrayT, labels: Array, *, temperature: float | Tensor = 1.0
) -> ArrayT:
    """Softmax probability of the true class: a unimodal classifier's confidence (Eq. 2).

    Carries no gradient. Computed in float32 (float64 for float64 logits) whatever the logits are.

    Args:
        logits: ``(N, C)`` float, of one modality.
        labels: ``(N,)`` integers; a row with a negative label gets 0.
        temperature: Positive and finite divisor of the logits; above 1 makes the confidences
            milder.

    Returns:
        ``(N,)`` in [0, 1].

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.functional import true_class_confidence
        >>> true_class_confidence(torch.tensor([[0.0, 0.0], [30.0, 0.0]]), torch.tensor([0, 1]))
        tensor([5.0000e-01, 9.3576e-14])
    """
    classes = as_labels(labels, "labels")
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise MidasAugError(
            f"expected one temperature, got {temperature.numel()} numbers; call once a modality"
        )
    if isinstance(temperature, Tensor) and may_read_values(temperature):
        temperature = float(temperature)  # to be looked at
    log_p = true_class_log_probability(as_tensor(logits, "logits"), classes, temperature)
    return like(log_p.exp().masked_fill(classes < 0, 0.0), logits)


def true_class_log_probability(
    logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    num_classes: int | None = None,
) -> Tensor:
    """Log-softmax at the label, without gradient; that of class 0 where the label is negative.

    ``num_classes`` is a number that the labels are known to be below.
    """
    scores = as_scores(logits, "logits").detach()
    check_shape(scores, (labels.shape[0], None), "logits", "one row a label, one column a class")
    if scores.shape[1] != num_classes:
        check_logit_width(labels, scores.shape[1], "logits")
    if not isinstance(temperature, Tensor) and not (
        is_real(temperature) and SMALLEST <= temperature < math.inf
    ):
        raise MidasAugError(
            f"expected a finite temperature above 0 in float32, got {temperature!r}; 1 is neutral"
        )
    if isinstance(temperature, Tensor) or temperature != 1:
        # The largest becomes 0 first: divided by a small temperature it would be infinite.
        scores = (scores - scores.amax(dim=1, keepdim=True)) / temperature
    return scores.log_softmax(dim=1).gather(1, labels.clamp(min=0)[:, None])[:, 0]


def label_shares(confidence: ArrayT, source: Array) -> ArrayT:
    r"""Share of each modality in the label of a misaligned sample (Eq. 2-3).

    .. math:: \tilde c_s^m = c_{source[s, m]}^m / \sum_l c_{source[s, l]}^l

    Carries no gradient.

    Args:
        confidence: ``(N, M)`` non-negative: the confidence of each modality's classifier in each
            row's own label. Numbers of any size will do; an infinite one counts as the largest.
        source: ``(S, M)`` integers, the batch row of each modality.

    Returns:
        ``(S, M)``, each row sums to 1. A row whose confidences are all 0 gets 1/M each.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or a confidence is negative (looked at on the
            CPU only).

    Example:
        >>> import torch
        >>> from midas_aug.functional import label_shares
        >>> label_shares(torch.tensor([[0.9, 0.5], [0.5, 0.3]]), torch.tensor([[0, 1]]))
        tensor([[0.7500, 0.2500]])
    """
    scores = as_scores(confidence, "confidence").detach()
    rows = as_labels(source, "source", ndim=2)
    check_shape(rows, (None, scores.shape[1]), "source", "one column a modality, as in confidence")
    check_rows(rows, scores.shape[0], "source")
    check_not_negative(scores)
    limits = torch.finfo(scores.dtype)
    chosen = scores.gather(0, rows)
    # In parts of the largest one, or the sum of large ones is infinite. The smallest number in
    # place of 0 makes nothing but zeros even, and keeps a NaN one.
    largest = chosen.amax(dim=1, keepdim=True).clamp_(limits.tiny, limits.max)
    chosen = (chosen / largest).clamp_(limits.tiny, 1.0)
    return like(chosen / chosen.sum(dim=1, keepdim=True), confidence)


def check_not_negative(confidence: Tensor) -> None:
    """Raise if a confidence is negative, where looking is free; NaN stays NaN."""
    if may_read_values(confidence) and bool((confidence < 0).any()):
        lowest = float(confidence.nan_to_num(0.0).min())
        raise MidasAugError(
            f"expected confidence of 0 or more, got {lowest:.4g}; pass probabilities, such as "
            "logits.softmax(dim=1) at the label, not logits or log-probabilities"
        )


def soft_targets(source_labels: Array, shares: ArrayT, num_classes: int) -> ArrayT:
    """Dense soft label: each modality's share on the label of its source (Eq. 3).

    For losses that take class probabilities. `misaligned_cross_entropy` needs no dense targets.

    Args:
        source_labels: ``(S, M)`` integers below ``num_classes``. A row with a negative one is an
            ignored row: it gets the uniform distribution (and weight 0 from the caller).
        shares: ``(S, M)``, each row sums to 1.
        num_classes: C.

    Returns:
        ``(S, C)``, each row sums to 1.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or a label is not below ``num_classes``
            (looked at on the CPU only).

    Example:
        >>> import torch
        >>> from midas_aug.functional import soft_targets
        >>> soft_targets(torch.tensor([[2, 0]]), torch.tensor([[0.75, 0.25]]), 3)
        tensor([[0.2500, 0.0000, 0.7500]])
    """
    check_count(num_classes, "num_classes")
    classes = as_labels(source_labels, "source_labels", ndim=2)
    weights = as_scores(shares, "shares").detach()
    check_shape(weights, tuple(classes.shape), "shares", "one share a source label")
    check_label_range(classes, num_classes)
    targets = weights.new_zeros(classes.shape[0], num_classes)
    targets = targets.scatter_add(1, classes.clamp(min=0), weights)
    ignored = (classes < 0).any(dim=1, keepdim=True)
    return like(targets.masked_fill(ignored, 1 / num_classes), shares)


def check_logit_width(
    labels: Tensor, width: int, name: str, num_classes: int | None = None
) -> None:
    """Raise if logits have no column for a label, where looking is free, or for a known class."""
    if num_classes is not None and width < num_classes:
        one_logit = "; one logit is for binary cross-entropy, while this takes a softmax"
        raise MidasAugError(
            f"expected {name} with a column for each of the {num_classes} classes, got {width}"
            f"{one_logit if width == 1 else ''}: build that head with {num_classes} outputs"
        )
    if not may_read_values(labels) or labels.numel() == 0:
        return
    highest = int(labels.max())
    if highest < width:
        return
    if width == 1:
        raise MidasAugError(
            f"expected {name} with a column for each class, got one column and the label "
            f"{highest}; one logit is for binary cross-entropy, while this takes the softmax over "
            f"the classes: build that head with {highest + 1} outputs, two for two classes"
        )
    raise MidasAugError(
        f"expected {name} with a column for each class, got {width} columns and the label "
        f"{highest}; build that head with at least {highest + 1} outputs"
    )


def check_label_range(labels: Tensor, num_classes: int, *, force: bool = False) -> None:
    """Raise if a label is not below ``num_classes``, where looking is free (or ``force``)."""
    check_count(num_classes, "num_classes")
    if not (force or may_read_values(labels)) or labels.numel() == 0:
        return
    highest = int(labels.max())
    if highest >= num_classes:
        raise MidasAugError(
            f"expected labels below num_classes={num_classes}, got {highest}; num_classes is the "
            "highest label plus one"
        )
