"""One class index a row, under a softmax cross-entropy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from midas_aug._arrays import Array, as_tensor, check_no_wrap, is_integer, may_read_values
from midas_aug.errors import MidasAugError
from midas_aug.functional.shares import check_logit_width, soft_targets
from midas_aug.functional.skill import count_classes, entropy_of_counts
from midas_aug.targets.base import Target
from midas_aug.targets.weighting import Weighting

__all__ = ["ClassIndex", "check_num_classes"]

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


class ClassIndex(Target):
    r"""One class index a row; a negative one is an ignored row.

    .. math:: \ell = -\log softmax(z)_y

    Args:
        num_classes: C.
        class_weight: ``(C,)`` factors of the loss by class, as ``weight`` of
            ``torch.nn.CrossEntropyLoss``: a mean is divided by the sum of the aligned rows'
            weights. Confidence and credit are measured without.
        label_smoothing: As in ``torch.nn.CrossEntropyLoss``.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug.targets import ClassIndex
        >>> target = ClassIndex(3)
        >>> labels = target.check(torch.tensor([2, -1], dtype=torch.int32))
        >>> target.dense(labels[:, None], torch.ones(2, 1))
        tensor([[0.0000, 0.0000, 1.0000],
                [0.3333, 0.3333, 0.3333]])
    """

    takes_temperature = True
    num_classes: int

    def __init__(
        self,
        num_classes: int,
        *,
        class_weight: Array | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.num_classes = self.n_outputs = self.num_ids = check_num_classes(num_classes)
        self.weighting = Weighting(self.num_classes, class_weight, label_smoothing)

    def check(self, labels: Any, *, force: bool = False) -> Tensor:
        """View ``labels`` as ``(N,)`` int64, checked.

        Args:
            labels: ``(N,)`` integers.
            force: Also look at values on an accelerator, which waits for it.

        Raises:
            MidasAugError: They are no class indices below C.
        """
        plain = type(labels) is Tensor and labels.layout is torch.strided and not labels.is_nested
        given = labels if plain else as_tensor(labels, "the labels")
        if given.dtype not in INTEGERS:
            raise MidasAugError(_no_index(given))
        if given.ndim != 1:
            raise MidasAugError(
                f"expected the labels with 1 axis, one class index per row, got shape "
                f"{tuple(given.shape)}"
                + (
                    "; for several labels per row pass target=midas_aug.targets.MultiLabel(C), "
                    "for one-hot or soft labels target=midas_aug.targets.Distribution(C)"
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
            if given.dtype is torch.uint64:
                check_no_wrap(classes, "the labels")
        return classes

    def label_ids(self, labels: Tensor) -> Tensor:
        """The labels."""
        return labels

    def filled(self, labels: Tensor) -> Tensor:
        """Class 0 in ignored rows."""
        return labels.clamp(min=0)

    def log_likelihoods(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Log-probability of each of K labels, ``(R, K)``.

        Args:
            scores: ``(R, C)`` float logits.
            labels: ``(R, K)`` int64 of at least 0.
        """
        return scores.log_softmax(dim=1).gather(1, labels)

    def loss_terms(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the weighed, smoothed loss, and the log-probability, both ``(R, K)``."""
        log_p = scores.log_softmax(dim=1)
        found = log_p.gather(1, labels)
        if self.weighting.is_plain:
            return found, found
        weight = self.weighting.on(log_p)
        picked = found if weight is None else found * weight.take(labels)
        return self.weighting.smoothed(picked, log_p), found.detach()

    def losses(self, scores: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
        """The cross-entropy of K logits of each row, ``(K, N)``; 0 where it does not count."""
        if type(self).loss_terms is not ClassIndex.loss_terms:  # a subclass's own
            return super().losses(scores, labels, ignored)
        return self._cross_entropy(scores, labels, ignored, "none").view(scores.shape[:2])

    def loss_sum(self, scores: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
        """The sum of `losses`, in one kernel."""
        if type(self).loss_terms is not ClassIndex.loss_terms:  # a subclass's own
            return super().loss_sum(scores, labels, ignored)
        return self._cross_entropy(scores, labels, ignored, "sum")

    def _cross_entropy(
        self, scores: Tensor, labels: Tensor, ignored: Tensor, reduction: str
    ) -> Tensor:
        weight = self.weighting.on(labels)
        return F.cross_entropy(
            scores.flatten(0, 1),
            labels.expand(scores.shape[:2]).masked_fill(ignored, -1).view(-1),
            None if weight is None else weight.to(scores.dtype),
            ignore_index=-1,
            reduction=reduction,
            label_smoothing=self.weighting.label_smoothing,
        )

    def head_log_likelihoods(self, scores: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Log-probability of each row's own label by M heads, ``(M, N)``, without gradient."""
        if type(self).log_likelihoods is not ClassIndex.log_likelihoods:  # a subclass's own
            return super().head_log_likelihoods(scores, labels)
        log_p = torch.stack(list(map(Tensor.detach, scores))).log_softmax(dim=2)
        at = labels.expand(log_p.shape[0], labels.shape[0])
        return log_p.gather(2, at[:, :, None])[:, :, 0]

    def row_weights(self, labels: Tensor) -> Tensor | None:
        """The weight of each row's class, ``(N,)``; None without class weights."""
        if self.weighting.class_weight is None:
            return None
        weight: Tensor | None = self.weighting.on(labels)
        return None if weight is None else weight.take(labels.clamp(min=0))

    def check_width(self, scores: Tensor, labels: Tensor, name: str) -> None:
        """Raise unless logits have one column per class."""
        if scores.shape[1] != self.num_classes:
            check_logit_width(labels, scores.shape[1], name, self.num_classes)

    def dense(self, source_labels: Tensor, shares: Tensor) -> Tensor:
        """Soft targets ``(R, C)``: each share on the label of its source (Eq. 3)."""
        return soft_targets(source_labels, shares, self.num_classes)

    def folded(self, targets: Tensor, weights: Tensor) -> Tensor:
        """Targets times weights, class weights and smoothing included, ``(R, C)``."""
        return self.weighting.folded(targets, weights)

    def unlabelled(self, n_rows: int, device: Any) -> Tensor:
        """The label −1, ``(N,)``."""
        return torch.full((n_rows,), -1, dtype=torch.int64, device=device)

    def statistics(self, labels: Tensor, counted: Tensor) -> Tensor:
        """Rows a class, ``(C,)`` int64."""
        return count_classes(labels.masked_fill(~counted, -1), self.num_classes)

    def best_constant(self, statistics: Tensor, n_rows: Tensor) -> tuple[Tensor, Tensor]:
        """The entropy of the class frequencies, and 0."""
        entropy = entropy_of_counts(statistics)
        return entropy, torch.zeros_like(entropy)

    def __repr__(self) -> str:
        return f"ClassIndex({self.num_classes}{self.weighting!r})"


def check_num_classes(num_classes: Any) -> int:
    """C as an int."""
    if not is_integer(num_classes) or num_classes < 1:
        raise MidasAugError(f"expected num_classes to be a positive integer, got {num_classes!r}")
    return int(num_classes)


def _no_index(labels: Tensor) -> str:
    start = f"expected the labels as class indices of an integer dtype, got {labels.dtype}"
    if labels.dtype is torch.bool and labels.ndim == 1:
        return f"{start}; for two classes, no and yes, pass labels.long() and num_classes=2"
    return (
        f"{start} of shape {tuple(labels.shape)}; for other labels pass target=..., one of "
        "midas_aug.targets: Continuous(width) for real numbers, as in regression, "
        "MultiLabel(C) for zeros and ones (multi-label), Distribution(C) for rows that sum to 1"
    )
