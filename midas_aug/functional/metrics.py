"""Misaligned accuracy (Sec. 1, Fig. 1 and 6)."""

from typing import Literal, TypeAlias

from torch import Tensor

from midas_aug._arrays import Array, ArrayT, as_labels, as_scores, as_tensor, check_shape, like
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width

__all__ = ["misaligned_accuracy"]

SameLabel: TypeAlias = Literal["count", "skip", "wrong"]
SAME_LABEL = ("count", "skip", "wrong")


def misaligned_accuracy(
    logits: ArrayT,
    source_labels: Array,
    *,
    valid: Array | None = None,
    same_label: SameLabel = "count",
) -> ArrayT:
    """Fraction of rows whose top classes are exactly the labels of their sources.

    With k distinct labels among its sources, a row is right when these are the model's top-k
    classes, in any order (k = 2 for two modalities of different classes). A tie across the
    boundary is wrong, so a constant model scores 0; so is a NaN. Where k is C, as with two classes,
    every other row is right, and the fraction says nothing.

    Args:
        logits: ``(S, C)`` float.
        source_labels: ``(S, M)`` integers; rows with a negative one do not count.
        valid: ``(S,)`` bool, rows to count; None counts all.
        same_label: What becomes of rows whose sources all have one label, which are not misaligned.
            ``"count"``: they count, and are right when that label is the top class. ``"skip"``:
            they do not count. ``"wrong"``: they count and are never right, as where the public
            code permutes a batch (its ceiling is then below 1).

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit, or ``same_label`` is another word.

    Example:
        >>> import torch
        >>> from midas_aug.functional import misaligned_accuracy
        >>> logits = torch.tensor([[3.0, 2.0, 0.0], [3.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
        >>> labels = torch.tensor([[0, 1], [0, 1], [0, 0]])
        >>> [
        ...     round(misaligned_accuracy(logits, labels, same_label=way).item(), 2)
        ...     for way in ("count", "skip", "wrong")
        ... ]
        [0.67, 0.5, 0.33]
    """
    scores, classes, counted = check_misaligned(logits, source_labels, valid)
    right, counted = misaligned_hits(scores, classes, counted, same_label)
    return like(right.sum() / counted.sum().clamp(min=1), logits)


def check_misaligned(
    logits: Array, source_labels: Array, valid: Array | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (S, C) without gradient, source labels (S, M), and which rows count (S,)."""
    scores = as_scores(logits, "logits").detach()
    classes = as_labels(source_labels, "source_labels", ndim=2)
    check_shape(classes, (len(scores), None), "source_labels", "one row a row of logits")
    check_logit_width(classes, scores.shape[1], "logits")
    counted = (classes >= 0).all(dim=1)
    if valid is not None:
        mask = as_tensor(valid, "valid")
        check_shape(mask, (len(scores),), "valid", "one flag a row of logits")
        counted = counted & mask.bool()
    return scores, classes, counted


def check_same_label(same_label: str) -> None:
    """Raise unless ``same_label`` is one of the three words."""
    if same_label not in SAME_LABEL:
        raise MidasAugError(
            f"expected same_label to be one of {list(SAME_LABEL)!r}, got {same_label!r}; it says "
            "what becomes of rows whose sources have one label"
        )


def misaligned_hits(
    scores: Tensor, source_labels: Tensor, counted: Tensor, same_label: SameLabel
) -> tuple[Tensor, Tensor]:
    """Which rows are right, and which count, both (S,) bool; a row that is right counts."""
    check_same_label(same_label)
    right = top_set_matches(scores, source_labels)
    if same_label == "count":
        return right & counted, counted
    mixed = has_two_labels(source_labels)
    return right & mixed & counted, counted & mixed if same_label == "skip" else counted


def has_two_labels(source_labels: Tensor) -> Tensor:
    """Whether the sources of each row have at least two different labels, (S,) bool."""
    return (source_labels != source_labels[:, :1]).any(dim=1)


def top_set_matches(scores: Tensor, classes: Tensor) -> Tensor:
    """Whether each row's top-k classes are exactly its k distinct source labels, ``(S,)`` bool."""
    ordered = classes.sort(dim=1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
    lowest = scores.gather(1, classes.clamp(min=0)).amin(dim=1, keepdim=True)
    below = (scores < lowest).sum(dim=1)  # not >=: a NaN is wrong
    return (below == scores.shape[1] - distinct) & ~lowest.isnan()[:, 0]
