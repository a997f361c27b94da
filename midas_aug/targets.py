"""What a label is: the checks of labels, and the loss of a prediction for them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import as_scores, as_tensor, is_integer, may_read_values
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width, soft_targets

__all__ = ["ClassIndex"]

INTEGERS = frozenset(
    {
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)


class ClassIndex:
    """One class index per row; a negative one is an ignored row.

    Args:
        num_classes: C.

    Raises:
        MidasAugError: ``num_classes`` is no positive integer.

    Example:
        >>> import torch
        >>> from midas_aug.targets import ClassIndex
        >>> target = ClassIndex(3)
        >>> labels = target.check(torch.tensor([2, -1], dtype=torch.int32))
        >>> target.dense(labels[:, None], torch.ones(2, 1))
        tensor([[0.0000, 0.0000, 1.0000],
                [0.3333, 0.3333, 0.3333]])
    """

    def __init__(self, num_classes: int) -> None:
        if not is_integer(num_classes) or num_classes < 1:
            raise MidasAugError(
                f"expected num_classes to be a positive integer, got {num_classes!r}"
            )
        self.num_classes = int(num_classes)

    def check(self, labels: Any, *, force: bool = False) -> Tensor:
        """View ``labels`` as ``(N,)`` int64, checked.

        Args:
            labels: ``(N,)`` integers.
            force: Also look at values on an accelerator, which waits for it.

        Raises:
            MidasAugError: They are no class indices below C.
        """
        given = labels if type(labels) is Tensor else as_tensor(labels, "the labels")
        if given.dtype not in INTEGERS:
            raise MidasAugError(_no_index(given))
        if given.ndim != 1:
            raise MidasAugError(
                f"expected the labels with 1 axis, one class index per row, got shape "
                f"{tuple(given.shape)}"
                + (
                    "; several labels per row (multi-label, one-hot) are not supported: the "
                    "method here pairs rows by one class"
                    if given.ndim == 2 and given.shape[1] > 1
                    else "; pass labels.reshape(-1)"
                )
            )
        classes = given.long()
        if classes.shape[0] and (force or may_read_values(classes)):
            high = int(classes.max())
            if high >= self.num_classes:
                raise MidasAugError(
                    f"expected labels below num_classes={self.num_classes}, got {high}; "
                    "num_classes is the highest label plus one"
                )
            if given.dtype is torch.uint64 and int(classes.min()) < 0:
                raise MidasAugError(
                    f"expected labels below num_classes={self.num_classes}, got one above 2^63; "
                    "a negative label was probably cast to uint64: keep labels in a signed dtype"
                )
        return classes

    def log_likelihoods(self, scores: Tensor, source_labels: Tensor) -> Tensor:
        """Log-probability of the label of each modality's source, ``(R, M)``.

        Args:
            scores: ``(R, C)`` float logits.
            source_labels: ``(R, M)`` int64; a negative one is read as class 0.
        """
        return scores.log_softmax(dim=1).gather(1, source_labels.clamp(min=0))

    def log_confidences(self, logits: Sequence[Any], labels: Tensor, ignored: Tensor) -> Tensor:
        """Log-probability of each row's own label in each modality's logits, ``(N, M)`` (Eq. 2).

        Args:
            logits: ``(N, C)`` float of each modality. No gradient flows.
            labels: ``(N,)`` int64.
            ignored: ``(N,)`` bool, rows without a label; they get 0.
        """
        slot = labels.clamp(min=0)[:, None]
        columns = []
        for number, given in enumerate(logits):
            scores = as_scores(given, f"unimodal_logits[{number}]").detach()
            if scores.shape[1] < self.num_classes:
                check_logit_width(labels, scores.shape[1], f"unimodal_logits[{number}]")
            columns.append(scores.log_softmax(dim=1).gather(1, slot))
        found = torch.cat(columns, dim=1).float()
        # Not −∞, whose softmax over modalities would be NaN where all of them are.
        return found.masked_fill(ignored[:, None], 0.0).clamp_(min=-1e30)

    def check_width(self, scores: Tensor, source_labels: Tensor, name: str) -> None:
        """Raise unless logits have one column per class."""
        if scores.shape[1] != self.num_classes:
            check_logit_width(source_labels, scores.shape[1], name)

    def dense(self, source_labels: Tensor, shares: Tensor) -> Tensor:
        """Soft targets ``(R, C)``: each share on the label of its source (Eq. 3)."""
        return soft_targets(source_labels, shares, self.num_classes)

    def __repr__(self) -> str:
        return f"ClassIndex({self.num_classes})"


def _no_index(labels: Tensor) -> str:
    if labels.ndim == 2 and labels.shape[1] > 1:
        what = (
            "of shape (N, C), as for multi-label (several labels per row) or soft labels; "
            "these are not supported: the method here pairs rows by one class"
        )
    elif labels.dtype is torch.bool:
        return (
            "expected the labels as class indices of an integer dtype, got torch.bool; for two "
            "classes, no and yes, pass labels.long() and num_classes=2"
        )
    else:
        what = (
            "real-valued, as for regression, which is not supported: the method here pairs "
            "rows by one class"
        )
    return f"expected the labels as class indices of an integer dtype, got {labels.dtype} {what}"
