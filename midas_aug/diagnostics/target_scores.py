"""The score that fits a target, as a function of sums over rows: macro F1, or R²."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import NDArray
from midas_aug.diagnostics.bootstrap import Statistic, summed
from midas_aug.errors import MidasAugError
from midas_aug.targets import Continuous, MultiLabel, Target

__all__ = ["MacroF1", "Metric", "RSquared", "difference", "metric_of"]


class Metric(Protocol):
    """A score of predictions that is a function of sums over rows."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def columns(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """``(N, K)``, what to sum over rows."""
        ...

    def of_sums(self, sums: NDArray) -> NDArray:
        """``(..., K)`` sums to ``(...)`` scores."""
        ...


class MacroF1(NamedTuple):
    """Mean over classes of F1, where a probability of one half or more is a yes.

    Classes that no row has and no prediction names are left out, as torchmetrics does.
    """

    name: str = "macro F1"

    def columns(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Hits, and twice the hits plus all errors, of each class, ``(N, 2·C)``."""
        yes, wanted = (predictions >= 0).double(), (labels > 0).double()
        hits = yes * wanted
        return torch.cat([hits, yes + wanted], dim=1)

    def of_sums(self, sums: NDArray) -> NDArray:
        """2·hits / (yeses + wanted), the mean over classes."""
        hits, either = np.split(sums, 2, axis=-1)
        known = either > 0
        each = 2 * hits / np.where(known, either, 1)
        return np.asarray(each.sum(axis=-1) / np.maximum(known.sum(axis=-1), 1))


class RSquared(NamedTuple):
    """1 − squared error over the squared distance from the mean label, both summed over columns."""

    name: str = "R²"

    def columns(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Squared error, 1, labels and their squares, ``(N, 2 + 2·width)``."""
        wanted = labels.double().reshape(len(labels), -1)
        error = (predictions.double() - wanted).square().sum(dim=1, keepdim=True)
        return torch.cat([error, torch.ones_like(error), wanted, wanted.square()], dim=1)

    def of_sums(self, sums: NDArray) -> NDArray:
        """1 − error / spread; NaN where all labels are the same."""
        error, count = sums[..., 0], np.maximum(sums[..., 1], 1)
        total, squares = np.split(sums[..., 2:], 2, axis=-1)
        spread = (squares - total**2 / count[..., None]).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 0, 1 - error / spread, np.nan)


def metric_of(target: Target) -> Metric:
    """The score of a target.

    Raises:
        MidasAugError: None is known.
    """
    if isinstance(target, MultiLabel):
        return MacroF1()
    if isinstance(target, Continuous):
        return RSquared()
    raise MidasAugError(
        f"expected a target with a score that is known, ClassIndex, Distribution, MultiLabel or "
        f"Continuous, got {target!r}; diagnose with one of these, which says how good a "
        "prediction is"
    )


def difference(metric: Metric, ours: Tensor, theirs: Tensor) -> Statistic:
    """The score of one set of predictions minus that of another, of columns ``(N, K)`` each."""

    def of_sums(sums: NDArray) -> NDArray:
        first, second = np.split(sums, 2, axis=-1)
        return np.asarray(metric.of_sums(first) - metric.of_sums(second))

    return summed(torch.cat([ours, theirs], dim=1), of_sums)
