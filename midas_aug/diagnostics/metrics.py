"""The measures as metrics that accumulate: ``torchmetrics.Metric`` classes.

States are sums, added up over batches and, in a distributed run, over ranks; nothing waits for the
device before ``compute()``. Import them from `midas_aug.diagnostics`; they need the extra
``pip install 'midas-aug[diagnostics]'``.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from midas_aug._arrays import as_scores
from midas_aug.diagnostics.measures import (
    NEAR_EVEN,
    check_logits,
    check_misaligned,
    discrepancy_ratio,
    has_two_labels,
    row_collapsed,
    row_entropy,
    source_probability,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional.labels import true_class_confidence
from midas_aug.functional.metrics import top_set_matches

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise MidasAugError(
        "expected torchmetrics for the accumulating metrics; run: "
        "pip install 'midas-aug[diagnostics]' (the functions of midas_aug.diagnostics need none)"
    ) from error

__all__ = [
    "DiscrepancyRatio",
    "MisalignedAccuracy",
    "MisalignedConfidence",
    "ShareCollapse",
    "ShareEntropy",
]


class _Sums(Metric):
    """A metric of two sums."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self, shape: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, counted: Tensor) -> None:
        mask = counted if values.ndim == 1 else counted[:, None]
        self.total = self.total + torch.where(mask, values, 0.0).sum(dim=0).float()
        self.rows = self.rows + counted.sum()

    def compute(self) -> Tensor:
        """Mean over all rows that counted; 0 when none did."""
        return self.total / self.rows.clamp(min=1)


class MisalignedAccuracy(_Sums):
    """`misaligned_accuracy` over many batches.

    Args:
        same_label: As in `misaligned_accuracy`.
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

    def __init__(self, *, same_label: Literal["skip", "wrong"] = "skip", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if same_label not in ("skip", "wrong"):
            raise MidasAugError(f"expected same_label 'skip' or 'wrong', got {same_label!r}")
        self.same_label = same_label

    def update(self, logits: Tensor, source_labels: Tensor, valid: Tensor | None = None) -> None:
        """Add misaligned rows: ``(S, C)`` logits, ``(S, M)`` labels, ``(S,)`` which count."""
        scores, classes, counted = check_misaligned(logits, source_labels, valid)
        mixed = has_two_labels(classes)
        hits = (top_set_matches(scores, classes) & mixed).to(scores.dtype)
        self._add(hits, counted & mixed if self.same_label == "skip" else counted)


class MisalignedConfidence(_Sums):
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
        super().__init__((check_modalities(num_modalities),), **kwargs)
        self.normalized = normalized

    def update(self, logits: Tensor, source_labels: Tensor, valid: Tensor | None = None) -> None:
        """Add misaligned rows: ``(S, C)`` logits, ``(S, M)`` labels, ``(S,)`` which count."""
        scores, classes, counted = check_misaligned(logits, source_labels, valid)
        check_columns(classes, len(self.total), "source_labels")
        self._add(source_probability(scores, classes, normalized=self.normalized), counted)


class ShareEntropy(_Sums):
    """`share_entropy` over many batches: 1 where all shares are 1/M.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import ShareEntropy
        >>> metric = ShareEntropy()
        >>> metric.update(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def update(self, shares: Tensor, valid: Tensor | None = None) -> None:
        """Add ``(S, M)`` shares of misaligned rows; ``(S,)`` which count."""
        values = as_scores(shares, "shares").detach()
        self._add(row_entropy(values), _mask(values, valid))


class ShareCollapse(_Sums):
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
        super().__init__(**kwargs)
        self.tolerance = tolerance

    def update(self, shares: Tensor, valid: Tensor | None = None) -> None:
        """Add ``(S, M)`` shares of misaligned rows; ``(S,)`` which count."""
        values = as_scores(shares, "shares").detach()
        self._add(row_collapsed(values, self.tolerance), _mask(values, valid))


class DiscrepancyRatio(_Sums):
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
        super().__init__((check_modalities(num_modalities),), **kwargs)

    def update(self, unimodal_logits: Any, labels: Tensor) -> None:
        """Add rows: ``(N, C)`` logits for each modality in order (or a dict of them), labels.

        OGM's are the parts of the joint head's logits that come from each modality alone.
        """
        given = unimodal_logits
        logits = list(given.values()) if hasattr(given, "values") else list(given)
        if len(logits) != len(self.total):
            raise MidasAugError(
                f"expected unimodal_logits of {len(self.total)} modalities, got {len(logits)}"
            )
        for each in logits:
            check_logits(each, labels)
        confidences = torch.stack([true_class_confidence(each, labels) for each in logits], dim=1)
        self._add(confidences, labels >= 0)

    def compute(self) -> Tensor:
        """The ratios of the sums."""
        return discrepancy_ratio(self.total)


def check_modalities(count: int) -> int:
    """At least two."""
    if count < 2:
        raise MidasAugError(f"expected num_modalities of at least 2, got {count}")
    return count


def check_columns(labels: Tensor, count: int, name: str) -> None:
    """One column a modality."""
    if labels.shape[1] != count:
        raise MidasAugError(
            f"expected {name} of {count} modalities, got shape {tuple(labels.shape)}; one column "
            "a modality"
        )


def _mask(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    return valid.bool()
