"""Real numbers, under a squared error."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import (
    as_labels,
    as_tensor,
    check_shape,
    is_integer,
    may_read_values,
)
from midas_aug._checks import check_number
from midas_aug.errors import MidasAugError
from midas_aug.targets.base import ID_MASK, Target, hash_rows

__all__ = ["Continuous"]

# Of an error a million times as large, the square is finite in float32.
SMALLEST_SCALE = 1e-12


class Continuous(Target):
    r"""Real numbers, as in regression: ``(N,)`` or ``(N, width)`` floats.

    .. math:: \ell = \frac{1}{width} \sum_w \frac{(z_w - y_w)^2}{2 \cdot scale^2}

    This is minus the log-likelihood of a Gaussian of standard deviation ``scale``, but for what all
    labels have in common: an error of one ``scale`` multiplies a confidence by e^(−1/2), 0.61. A
    row with a NaN is an ignored row. There are no dense targets: a squared error is not linear in
    them.

    Args:
        width: Numbers per label.
        scale: Positive, in units of the label; start with the labels' standard deviation.
        same: Which labels are the same and therefore no partners, a callable ``(N, …) -> (N,)``
            integers of tensors, such as one that rounds. None: those that are equal.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug import MidasLoss, MisalignAugment
        >>> from midas_aug.targets import Continuous
        >>> augment = MisalignAugment(("a", "b"), target=Continuous(), hardness=None)
        >>> batch = {"a": torch.ones(2, 4), "b": torch.ones(2, 4)}
        >>> heads = [torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]])]
        >>> out = augment(batch, torch.tensor([1.0, 3.0]), unimodal_logits=heads)
        >>> out.shares[3]  # a is right about its source, b is off by one scale
        tensor([0.6225, 0.3775])
        >>> MidasLoss(2)(torch.full((6, 1), 2.0), out, unimodal_logits=heads)  # 0.5 + 0.5 + 0.25
        tensor(1.2500)
    """

    def __init__(
        self,
        width: int = 1,
        scale: float = 1.0,
        same: Callable[[Any], Any] | None = None,
    ) -> None:
        if not is_integer(width) or width < 1:
            raise MidasAugError(f"expected width to be a positive integer, got {width!r}")
        why = "it is an error in units of the label, such as float(labels.std())"
        checked = check_number(scale, "scale", SMALLEST_SCALE, why)
        if same is not None and not callable(same):
            raise MidasAugError(
                f"expected same to be a callable (N, …) -> (N,) integers, or None, got {same!r}"
            )
        self.width = self.n_outputs = int(width)
        self.scale = checked
        self.same = same

    def check(self, labels: Any, *, force: bool = False) -> Tensor:
        """View ``labels`` as floats ``(N,)`` or ``(N, width)``, checked.

        Raises:
            MidasAugError: They have another shape or no float dtype.
        """
        given = as_tensor(labels, "the labels")
        if not given.is_floating_point():
            raise MidasAugError(
                f"expected real-valued labels of a float dtype, got {given.dtype}; convert numbers "
                "with labels.float(), or pass num_classes=... for class indices"
            )
        if given.ndim != 1 or self.width != 1:
            check_shape(
                given, (None, self.width), "the labels", f"width={self.width}, as announced"
            )
        rows = given if given.dtype in (torch.float32, torch.float64) else given.float()
        if (force or may_read_values(rows)) and bool(rows.isinf().any()):
            raise MidasAugError(
                "expected finite labels, or NaN for a row without one, got infinity in "
                f"{int(rows.isinf().view(len(rows), -1).any(dim=1).sum())} of {len(rows)} rows; "
                "clip them, or mark these rows with NaN"
            )
        return rows

    def label_ids(self, labels: Tensor) -> Tensor:
        """What ``same`` says, or a hash of the numbers, ``(N,)``; −1 for an ignored row."""
        rows = labels[:, None] if labels.ndim == 1 else labels
        if self.same is not None:
            ids = as_labels(self.same(labels), "what same(labels) returns")
            check_shape(ids, (labels.shape[0],), "what same(labels) returns", "one integer a row")
            ids = ids.bitwise_and(ID_MASK)
        else:
            bits = torch.int64 if rows.dtype is torch.float64 else torch.int32
            ids = hash_rows((rows + 0.0).contiguous().view(bits).long())  # −0 is 0
        return ids.masked_fill(~rows.isfinite().all(dim=1), -1)

    def filled(self, labels: Tensor) -> Tensor:
        """Zeros in place of NaN."""
        return torch.where(labels.isfinite(), labels, 0.0)

    def log_likelihoods(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Minus the scaled squared error to each of K labels, ``(R, K)``.

        Args:
            scores: ``(R, width)`` float.
            labels: ``(R, K)`` or ``(R, K, width)``.
        """
        numbers = labels[:, :, None] if labels.ndim == 2 else labels
        error = (scores[:, None] - numbers.to(scores.dtype)) / self.scale
        return -0.5 * error.square().mean(dim=2)

    def unlabelled(self, n_rows: int, device: Any) -> Tensor:
        """NaN, ``(N,)`` or ``(N, width)``."""
        shape = (n_rows,) if self.width == 1 else (n_rows, self.width)
        return torch.full(shape, torch.nan, dtype=torch.float32, device=device)

    def statistics(self, labels: Tensor, counted: Tensor) -> Tensor:
        """The sums of the numbers and of their squares, ``(2 · width,)`` float64."""
        numbers = self.filled(labels).view(-1, self.width)
        exact = torch.float32 if labels.device.type == "mps" else torch.float64
        numbers = numbers.masked_fill(~counted[:, None], 0.0).to(exact)
        return torch.cat([numbers.sum(dim=0), numbers.square().sum(dim=0)])

    def best_constant(self, statistics: Tensor, n_rows: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled variance around the mean label, and 0."""
        means = statistics / n_rows.clamp(min=1)[..., None]
        mean, square = means[..., : self.width], means[..., self.width :]
        variance = (square - mean.square()).clamp(min=0).mean(dim=-1)
        chance = (variance / (2 * self.scale**2)).float()
        return chance, torch.zeros_like(chance)

    def __repr__(self) -> str:
        same = "" if self.same is None else f", same={self.same!r}"
        return f"Continuous({self.width}, scale={self.scale}{same})"
