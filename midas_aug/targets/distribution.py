"""A probability for every class, under a softmax cross-entropy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import Array, as_tensor, check_shape, may_read_values
from midas_aug.errors import MidasAugError
from midas_aug.functional.skill import entropy_of_counts
from midas_aug.targets.base import Target, share_rows
from midas_aug.targets.class_index import check_num_classes
from midas_aug.targets.weighting import Weighting

__all__ = ["Distribution"]


class Distribution(Target):
    r"""A probability for every class: smoothed or distilled labels, or labels mixed before.

    .. math:: \ell = -\sum_c q_c \log softmax(z)_c

    Rows whose most probable class is the same have the same label. A row with a −1 or a NaN is an
    ignored row. Other negative numbers are refused where a look is free, and ignored elsewhere.

    Args:
        num_classes: C.
        class_weight: ``(C,)`` factors of the classes' terms, as ``weight`` of
            ``torch.nn.CrossEntropyLoss``: with probabilities, a mean is divided by the number of
            rows. Confidence and credit are measured without.
        label_smoothing: As in ``torch.nn.CrossEntropyLoss``.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment
        >>> from midas_aug.targets import Distribution
        >>> augment = MisalignAugment(("a", "b"), target=Distribution(3), confidence="uniform")
        >>> labels = torch.tensor([[0.8, 0.1, 0.1], [0.0, 0.2, 0.8]])
        >>> augment({"a": torch.ones(2, 4), "b": torch.ones(2, 4)}, labels).targets[2]
        tensor([0.4000, 0.1500, 0.4500])
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
        """View ``labels`` as ``(N, C)`` floats, checked.

        Raises:
            MidasAugError: They have another shape, or a row does not sum to 1 or has a negative
                number.
        """
        given = as_tensor(labels, "the labels")
        why = "one probability per class; for class indices pass num_classes instead of a target"
        check_shape(given, (None, self.num_classes), "the labels", why)
        rows = given if given.dtype in (torch.float32, torch.float64) else given.float()
        if rows.shape[0] and (force or may_read_values(rows)):
            rounding = 1e-3
            if given.is_floating_point():
                rounding += torch.finfo(given.dtype).eps * self.num_classes
            _refuse_negative(rows)
            odd = ((rows.sum(dim=1) - 1).abs() > rounding) & ~_is_ignored(rows)
            if bool(odd.any()):
                first = int(odd.long().argmax())
                raise MidasAugError(
                    f"expected labels whose rows sum to 1, got {float(rows[first].sum()):.4g} in "
                    f"row {first} and {int(odd.sum())} such rows; divide by the sum, mark rows "
                    "without a label with -1, or pass target=midas_aug.targets.MultiLabel(C) for "
                    "several labels per row"
                )
        return rows

    def label_ids(self, labels: Tensor) -> Tensor:
        """The most probable class, ``(N,)``; −1 for an ignored row."""
        return labels.argmax(dim=1).masked_fill(_is_ignored(labels), -1)

    def filled(self, labels: Tensor) -> Tensor:
        """Zeros in place of what is negative or NaN."""
        return torch.where(labels > 0, labels, 0.0)

    def log_likelihoods(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Minus the cross-entropy with each of K labels, ``(R, K)``.

        Args:
            scores: ``(R, C)`` float logits.
            labels: ``(R, K, C)``, non-negative.
        """
        return _expected(scores.log_softmax(dim=1), labels)

    def loss_terms(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the weighed, smoothed cross-entropy, and minus the plain one, both ``(R, K)``."""
        log_p = scores.log_softmax(dim=1)
        weight = self.weighting.on(log_p)
        picked = _expected(log_p if weight is None else log_p * weight, labels)
        found = picked if weight is None else _expected(log_p.detach(), labels)
        return self.weighting.smoothed(picked, log_p), found.detach()

    def dense(self, source_labels: Tensor, shares: Tensor) -> Tensor:
        """Soft targets ``(R, C)``: the labels of the sources, mixed by their shares."""
        ignored = _is_ignored(source_labels).any(dim=1, keepdim=True)
        mixed = share_rows(self.filled(source_labels), shares)
        return mixed.masked_fill(ignored, 1 / self.num_classes)

    def folded(self, targets: Tensor, weights: Tensor) -> Tensor:
        """Targets times weights, class weights and smoothing included, ``(R, C)``."""
        return self.weighting.folded(targets, weights)

    def unlabelled(self, n_rows: int, device: Any) -> Tensor:
        """Rows of −1, ``(N, C)``."""
        return torch.full((n_rows, self.num_classes), -1.0, dtype=torch.float32, device=device)

    def statistics(self, labels: Tensor, counted: Tensor) -> Tensor:
        """The sum of the labels and, last, of their entropies, ``(C + 1,)`` float32."""
        rows = self.filled(labels).masked_fill(~counted[:, None], 0.0).float()
        entropy = torch.special.entr(rows).sum()
        return torch.cat([rows.sum(dim=0), entropy[None]])

    def best_constant(self, statistics: Tensor, n_rows: Tensor) -> tuple[Tensor, Tensor]:
        """The entropy of the mean label, and the mean entropy of the labels."""
        return entropy_of_counts(statistics[..., :-1]), statistics[..., -1] / n_rows.clamp(min=1)

    def __repr__(self) -> str:
        return f"Distribution({self.num_classes}{self.weighting!r})"


def _is_ignored(labels: Tensor) -> Tensor:
    """Rows ``(..., C)`` with a number that is negative or NaN."""
    return ~(labels >= 0).all(dim=-1)


def _expected(log_p: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``(R, C)`` over classes by each of the distributions ``(R, K, C)``."""
    terms = labels.to(log_p.dtype) * log_p[:, None]
    # Not 0 · −∞: a class that is masked out is no evidence where the label has none of it.
    return torch.where(labels > 0, terms, 0.0).sum(dim=2)


def _refuse_negative(rows: Tensor) -> None:
    """Raise for rows that would be ignored by mistake: with negative numbers, and no −1."""
    odd = (rows < 0).any(dim=1) & (rows != -1).all(dim=1) & ~rows.isnan().any(dim=1)
    if bool(odd.any()):
        first = int(odd.long().argmax())
        raise MidasAugError(
            f"expected probabilities as labels, got {float(rows[first].min()):.4g} in row {first} "
            f"and {int(odd.sum())} rows with negative numbers; pass log-probabilities as "
            "labels.exp() and logits as labels.softmax(dim=1), and mark a row without a label with "
            "-1"
        )
