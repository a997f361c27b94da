"""The measures as metrics that accumulate: ``torchmetrics.Metric`` classes.

States are sums, added up over batches and, in a distributed run, over ranks; nothing waits for the
device before ``compute()``. Import them from `midas_aug.diagnostics`; they need ``torchmetrics``,
of the extra ``diagnostics``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midas_aug._arrays import Array
from midas_aug._checks import check_count, check_switch
from midas_aug._extras import require
from midas_aug.diagnostics.measures import (
    NEAR_EVEN,
    check_logits,
    check_shares,
    check_tolerance,
    discrepancy_ratio,
    row_collapsed,
    row_entropy,
    source_probability,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.metrics import (
    SameLabel,
    check_misaligned,
    check_same_label,
    misaligned_hits,
)
from midas_aug.functional.shares import true_class_confidence

require(
    "torchmetrics",
    "the accumulating metrics (the functions of midas_aug.diagnostics need none)",
    "diagnostics",
)
from torchmetrics import Metric  # noqa: E402

__all__ = [
    "DiscrepancyRatio",
    "MisalignedAccuracy",
    "MisalignedConfidence",
    "ShareCollapse",
    "ShareEntropy",
]


class _Mean(Metric):
    """A sum over rows, and how many rows it is of.

    The names of the states tell apart what is measured, and how: a ``MetricCollection`` takes
    metrics whose states have the same names and, after the first batch, the same values for one.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, measured: str, shape: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.total_name, self.n_rows_name = f"total_{measured}", f"n_rows_{measured}"
        count = torch.zeros((), dtype=torch.int64)
        self.add_state(self.total_name, torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state(self.n_rows_name, count, dist_reduce_fx="sum")

    @property
    def total(self) -> Tensor:
        """The sum so far."""
        total: Tensor = getattr(self, self.total_name)
        return total

    @property
    def n_rows(self) -> Tensor:
        """How many rows it is of."""
        n_rows: Tensor = getattr(self, self.n_rows_name)
        return n_rows

    def add(self, values: Tensor, counted: Tensor) -> None:
        """Add the rows that count."""
        mask = counted if values.ndim == 1 else counted[:, None]
        added = torch.where(mask, values, 0.0).sum(dim=0).float()
        setattr(self, self.total_name, self.total + added)
        setattr(self, self.n_rows_name, self.n_rows + counted.sum())

    def compute(self) -> Tensor:
        """Mean over all rows that counted; 0 when none did."""
        return self.total / self.n_rows.clamp(min=1)


class MisalignedAccuracy(_Mean):
    """`misaligned_accuracy` over many batches.

    Args:
        same_label: As in `misaligned_accuracy`: what becomes of rows of one label.
        kwargs: For ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import MisalignedAccuracy
        >>> metric = MisalignedAccuracy()
        >>> metric.update(torch.tensor([[3.0, 2.0, 0.0]]), torch.tensor([[0, 1]]))
        >>> metric.update(torch.tensor([[3.0, 0.0, 2.0]]), torch.tensor([[0, 1]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, *, same_label: SameLabel = "count", **kwargs: Any) -> None:
        check_same_label(same_label)
        super().__init__(f"hits_{same_label}", **kwargs)
        self.same_label = same_label

    def update(self, logits: Array, source_labels: Array, valid: Array | None = None) -> None:
        """Add misaligned rows: ``(S, C)`` logits, ``(S, M)`` labels, ``(S,)`` which count."""
        scores, classes, counted = check_misaligned(logits, source_labels, valid)
        hits, counted = misaligned_hits(scores, classes, counted, self.same_label)
        self.add(hits.to(scores.dtype), counted)


class MisalignedConfidence(_Mean):
    """`misaligned_confidence` over many batches: ``(M,)``.

    Args:
        num_modalities: M.
        normalized: As in `misaligned_confidence`.
        kwargs: For ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import MisalignedConfidence
        >>> metric = MisalignedConfidence(2)
        >>> metric.update(torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0, 1]]))
        >>> metric.compute()
        tensor([0.6000, 0.3000])
    """

    def __init__(self, num_modalities: int, *, normalized: bool = False, **kwargs: Any) -> None:
        check_switch(normalized, "normalized")
        measured = "normalized_confidence" if normalized else "confidence"
        super().__init__(measured, (_n_modalities(num_modalities),), **kwargs)
        self.normalized = normalized

    def update(self, logits: Array, source_labels: Array, valid: Array | None = None) -> None:
        """Add misaligned rows: ``(S, C)`` logits, ``(S, M)`` labels, ``(S,)`` which count."""
        scores, classes, counted = check_misaligned(logits, source_labels, valid)
        check_columns(classes, len(self.total), "source_labels")
        self.add(source_probability(scores, classes, normalized=self.normalized), counted)


class ShareEntropy(_Mean):
    """`share_entropy` over many batches: 1 where all shares are 1/M.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import ShareEntropy
        >>> metric = ShareEntropy()
        >>> metric.update(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("entropy", **kwargs)

    def update(self, shares: Array, valid: Array | None = None) -> None:
        """Add ``(S, M)`` shares of misaligned rows; ``(S,)`` which count."""
        values, counted = check_shares(shares, valid)
        self.add(row_entropy(values), counted)


class ShareCollapse(_Mean):
    """`collapsed_share_fraction` over many batches: how many shares are next to 1/M.

    Args:
        tolerance: How near is near.
        kwargs: For ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import ShareCollapse
        >>> metric = ShareCollapse()
        >>> metric.update(torch.tensor([[0.52, 0.48], [0.9, 0.1]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, *, tolerance: float = NEAR_EVEN, **kwargs: Any) -> None:
        check_tolerance(tolerance)
        super().__init__(f"collapsed_{re.sub('[^0-9a-z]', '_', repr(float(tolerance)))}", **kwargs)
        self.tolerance = tolerance

    def update(self, shares: Array, valid: Array | None = None) -> None:
        """Add ``(S, M)`` shares of misaligned rows; ``(S,)`` which count."""
        values, counted = check_shares(shares, valid)
        self.add(row_collapsed(values, self.tolerance), counted)


class DiscrepancyRatio(_Mean):
    """`discrepancy_ratio` of the sums over an epoch: ``(M,)``, balanced is 1.

    Args:
        num_modalities: M.
        kwargs: For ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import DiscrepancyRatio
        >>> metric, labels = DiscrepancyRatio(2), torch.tensor([0, 1])
        >>> audio = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> video = torch.tensor([[0.5, 0.0], [0.0, -0.5]])
        >>> metric.update([audio, video], labels)
        >>> metric.compute()
        tensor([1.6119, 0.6204])
    """

    def __init__(self, num_modalities: int, **kwargs: Any) -> None:
        super().__init__("discrepancy", (_n_modalities(num_modalities),), **kwargs)

    def update(self, unimodal_logits: Mapping[Any, Array] | Sequence[Array], labels: Array) -> None:
        """Add rows: ``(N, C)`` logits for each modality in order (or a dict of them), labels.

        OGM's are the parts of the joint head's logits that come from each modality alone.
        """
        given = unimodal_logits
        logits = list(given.values()) if isinstance(given, Mapping) else list(given)
        if len(logits) != len(self.total):
            raise MidasAugError(
                f"expected unimodal_logits of {len(self.total)} modalities, got {len(logits)}"
            )
        checked = [check_logits(each, labels) for each in logits]
        columns = [true_class_confidence(scores, classes) for scores, classes in checked]
        self.add(torch.stack(columns, dim=1), checked[0][1] >= 0)

    def compute(self) -> Tensor:
        """The ratios of the sums."""
        return discrepancy_ratio(self.total)


def _n_modalities(num_modalities: int) -> int:
    """At least two."""
    why = "it is the number of columns of source_labels, or of the heads"
    return check_count(num_modalities, "num_modalities", 2, why)


def check_columns(labels: Tensor, num_modalities: int, name: str) -> None:
    """One column a modality."""
    if labels.shape[1] != num_modalities:
        raise MidasAugError(
            f"expected {name} of {num_modalities} modalities, got shape {tuple(labels.shape)}; one "
            "column a modality"
        )
