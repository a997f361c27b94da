"""Several classes a row, under a binary cross-entropy."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from midas_aug._arrays import as_tensor, check_shape, may_read_values
from midas_aug.errors import MidasAugError
from midas_aug.targets.base import Target, hash_rows, share_rows
from midas_aug.targets.class_index import check_num_classes

__all__ = ["MultiLabel"]


class MultiLabel(Target):
    r"""Several classes a row: zeros and ones, ``(N, C)``.

    .. math:: \ell = -\frac{1}{C} \sum_c y_c \log \sigma(z_c) + (1 - y_c) \log \sigma(-z_c)

    Rows with the same set of classes have the same label. A row of −1 is an ignored row.

    Args:
        num_classes: C.

    Raises:
        MidasAugError: ``num_classes`` is no positive integer.

    Example:
        >>> import torch
        >>> from midas_aug import MisalignAugment
        >>> from midas_aug.targets import MultiLabel
        >>> augment = MisalignAugment(("a", "b"), target=MultiLabel(3), confidence="uniform")
        >>> labels = torch.tensor([[1, 1, 0], [0, 1, 0]])
        >>> out = augment({"a": torch.ones(2, 4), "b": torch.ones(2, 4)}, labels)
        >>> out.targets[2]  # for a binary cross-entropy
        tensor([0.5000, 1.0000, 0.0000])
    """

    takes_temperature = True
    num_classes: int

    def __init__(self, num_classes: int) -> None:
        self.num_classes = self.n_outputs = check_num_classes(num_classes)

    def check(self, labels: Any, *, force: bool = False) -> Tensor:
        """View ``labels`` as ``(N, C)`` float32 zeros and ones, checked.

        Raises:
            MidasAugError: They have another shape, or hold other numbers.
        """
        given = as_tensor(labels, "the labels")
        why = "zeros and ones, one per class; for class indices pass num_classes, not a target"
        check_shape(given, (None, self.num_classes), "the labels", why)
        rows = given.float()
        if rows.shape[0] and (force or may_read_values(rows)):
            is_one, ignored = rows == 1, rows < 0
            fits = ((rows == 0) | is_one).all(dim=1) | ignored.all(dim=1)
            if not bool(fits.all()):
                first = int((~fits).long().argmax())
                row = rows[first]
                bad = float(row[~((row == 0) | (row == 1))][0])
                raise MidasAugError(
                    f"expected multi-labels of zeros and ones, got {bad:g} in row {first}; mark a "
                    "row without labels with -1 in every class, or pass "
                    "target=midas_aug.targets.Distribution(C) for rows that sum to 1"
                )
        return rows

    def label_ids(self, labels: Tensor) -> Tensor:
        """A hash of the set of classes, ``(N,)``; negative for an ignored row."""
        return hash_rows(labels.long()).masked_fill((labels < 0).any(dim=1), -1)

    def filled(self, labels: Tensor) -> Tensor:
        """No class in ignored rows."""
        return labels.clamp(min=0)

    def log_likelihoods(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Minus the binary cross-entropy with each of K labels, mean over classes, ``(R, K)``.

        Args:
            scores: ``(R, C)`` float logits.
            labels: ``(R, K, C)`` zeros and ones.
        """
        yes, no = logsigmoid(scores)[:, None], logsigmoid(-scores)[:, None]
        return torch.where(labels > 0, yes, no).mean(dim=2)

    def dense(self, source_labels: Tensor, shares: Tensor) -> Tensor:
        """Soft targets ``(R, C)`` in [0, 1]: the labels of the sources, mixed by their shares."""
        return share_rows(self.filled(source_labels), shares)

    def unlabelled(self, n_rows: int, device: Any) -> Tensor:
        """Rows of −1, ``(N, C)``."""
        return torch.full((n_rows, self.num_classes), -1.0, dtype=torch.float32, device=device)

    def statistics(self, labels: Tensor, counted: Tensor) -> Tensor:
        """Rows with each class, ``(C,)`` float32."""
        return self.filled(labels).masked_fill(~counted[:, None], 0.0).sum(dim=0)

    def best_constant(self, statistics: Tensor, n_rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over classes of the entropy of yes and no, and 0."""
        often = statistics / n_rows.clamp(min=1)[..., None]
        entropy = torch.special.entr(often) + torch.special.entr(1 - often)
        chance = entropy.mean(dim=-1)
        return chance, torch.zeros_like(chance)

    def __repr__(self) -> str:
        return f"MultiLabel({self.num_classes})"
