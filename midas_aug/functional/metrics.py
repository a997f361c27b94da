"""Misaligned accuracy (Sec. 1, Fig. 1 and 6)."""

from torch import Tensor

from midas_aug._arrays import Array, ArrayT, as_labels, as_scores, as_tensor, check_shape, like
from midas_aug.functional.labels import check_label_range

__all__ = ["misaligned_accuracy"]


def misaligned_accuracy(
    logits: ArrayT, source_labels: Array, *, valid: Array | None = None
) -> ArrayT:
    """Fraction of rows whose top classes are exactly the labels of their sources.

    With k distinct labels among its sources, a row is right when these are the model's top-k
    classes, in any order (k = 2 for two modalities of different classes). A tie across the
    boundary is wrong, so a constant model scores 0.

    Args:
        logits: ``(S, C)`` float.
        source_labels: ``(S, M)`` integers; rows with a negative one do not count.
        valid: ``(S,)`` bool, rows to count; None counts all.

    Returns:
        A scalar in [0, 1]; 0 when no row counts.

    Raises:
        MidasAugError: Shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.functional import misaligned_accuracy
        >>> logits = torch.tensor([[3.0, 2.0, 0.0], [3.0, 0.0, 2.0]])
        >>> misaligned_accuracy(logits, torch.tensor([[0, 1], [0, 1]]))
        tensor(0.5000)
    """
    scores = as_scores(logits, "logits").detach()
    classes = as_labels(source_labels, "source_labels", ndim=2)
    check_shape(classes, (len(scores), None), "source_labels", "one row a row of logits")
    check_label_range(classes, scores.shape[1])
    counted = (classes >= 0).all(dim=1)
    if valid is not None:
        mask = as_tensor(valid, "valid")
        check_shape(mask, (len(scores),), "valid", "one flag a row of logits")
        counted = counted & mask.bool()

    right = top_set_matches(scores, classes)
    return like((right & counted).sum() / counted.sum().clamp(min=1), logits)


def top_set_matches(scores: Tensor, classes: Tensor) -> Tensor:
    """Whether each row's top-k classes are exactly its k distinct source labels, ``(S,)`` bool."""
    ordered = classes.sort(dim=1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
    lowest = scores.gather(1, classes.clamp(min=0)).amin(dim=1, keepdim=True)
    return (scores >= lowest).sum(dim=1) == distinct
