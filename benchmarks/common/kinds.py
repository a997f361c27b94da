"""What the label of a row is: one of C classes, any of C tags, or a number.

A kind tells the loss that all methods share, the score by which the epoch and the learning rate are
chosen, and what the package calls it.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multilabel_average_precision

from benchmarks.common import metrics
from midas_aug.targets import ClassIndex, Continuous, MultiLabel, Target


class Kind(ABC):
    """Of labels. Outputs are what a model gives, before any softmax or sigmoid."""

    main: ClassVar[str]  # the score that chooses
    title: ClassVar[str]  # of that score, as printed
    rate: ClassVar[float] = 1.0  # what learning rates are multiplied by

    @abstractmethod
    def num_outputs(self, labels: Tensor) -> int:
        """Columns of the outputs, from the labels of all rows."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """A scalar, the mean over the rows: outputs ``(N, K)``, labels ``(N, ...)``."""

    @abstractmethod
    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """The main score; higher is better."""

    @abstractmethod
    def target(self, num_outputs: int) -> Target:
        """For `midas_aug`."""

    def scores(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """The main score and ``nll``, the loss."""
        return {self.main: self.score(outputs, labels), "nll": float(self.loss(outputs, labels))}


class Classes(Kind):
    """One of C classes, ``(N,)`` int64: cross-entropy, accuracy."""

    main = "accuracy"
    title = "accuracy"

    def num_outputs(self, labels: Tensor) -> int:
        return int(labels.max()) + 1

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        return metrics.accuracy(outputs, labels)

    def target(self, num_outputs: int) -> Target:
        return ClassIndex(num_outputs)

    def scores(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        f1 = metrics.macro_f1(outputs, labels)
        return super().scores(outputs, labels) | {"macro_f1": f1}


class Tags(Kind):
    """Any of C tags, ``(N, C)`` zeros and ones: binary cross-entropy, mean average precision.

    The average precision is the mean over those tags that one of the scored rows has. The loss is a
    mean over tags as well, which makes its gradients small: learning rates are ten times as high.
    """

    rate = 10.0
    main = "mean_average_precision"
    title = "mean average precision"

    def num_outputs(self, labels: Tensor) -> int:
        return labels.shape[1]

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, labels)

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        seen = labels.sum(dim=0) > 0
        precision = multilabel_average_precision(
            outputs[:, seen].sigmoid(), labels[:, seen].long(), int(seen.sum()), average="macro"
        )
        return float(precision)

    def target(self, num_outputs: int) -> Target:
        return MultiLabel(num_outputs)


class Number(Kind):
    """A number, ``(N,)`` float32, standardised: half the squared error, R²."""

    main = "r2"
    title = "R²"

    def num_outputs(self, labels: Tensor) -> int:
        return 1

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, 0] - labels).square().mean() / 2

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        missed = (outputs[:, 0] - labels).square().sum()
        told = float(1 - missed / (labels - labels.mean()).square().sum())
        return told if math.isfinite(told) else -math.inf  # a diverged run is the worst

    def target(self, num_outputs: int) -> Target:
        return Continuous()


CLASSES, TAGS, NUMBER = Classes(), Tags(), Number()
MAIN_SCORES = tuple(kind.main for kind in (CLASSES, TAGS, NUMBER))
