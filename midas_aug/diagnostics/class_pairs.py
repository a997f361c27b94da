"""Misaligned accuracy by the pair of classes that a row was mixed of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["ClassPair", "ClassPairs"]

MOST_CLASSES = 1000  # 16 MB of counts; with more, pairs are rare anyway
FEWEST_ROWS = 20  # of a pair that is shown
SHOWN_PAIRS = 10


class ClassPair(NamedTuple):
    """Two classes whose rows traded modalities.

    Attributes:
        classes: Their indices, the lower first.
        accuracy: How often both were the top two of the prediction.
        n_rows: Of how many misaligned rows.
    """

    classes: tuple[int, int]
    accuracy: float
    n_rows: int

    def to_dict(self) -> dict[str, Any]:
        """The three fields by name."""
        return {**self._asdict(), "classes": list(self.classes)}


class ClassPairs:
    """Counts of misaligned rows and of hits among them, for each pair of classes.

    Args:
        n_classes: C; with more than 1000 nothing is counted.
    """

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes if n_classes <= MOST_CLASSES else 0
        self.counts = torch.zeros(2, self.n_classes**2, dtype=torch.float32)

    def add(self, hits: Tensor, source_labels: Tensor, counted: Tensor) -> None:
        """Add rows: ``(S,)`` hits of those ``counted``, and the classes ``(S, M)`` of the sources.

        Rows of more than two classes count for the lowest and the highest.
        """
        if self.n_classes == 0:
            return
        low, high = source_labels.clamp(min=0).aminmax(dim=1)
        place = (low * self.n_classes + high).cpu()
        rows = torch.stack([counted.cpu(), counted.cpu() & hits.cpu().bool()]).float()
        self.counts.index_add_(1, place, rows)

    def joined(self, others: Sequence["ClassPairs"]) -> "ClassPairs":
        """The counts of these rows and of others."""
        found = ClassPairs(self.n_classes)
        found.counts = torch.stack([part.counts for part in (self, *others)]).sum(dim=0)
        return found

    def hardest(self) -> tuple[ClassPair, ...]:
        """The pairs that are told apart worst, of those with 20 rows or more; ten at most."""
        n_rows, hits = self.counts
        accuracy = torch.where(n_rows >= FEWEST_ROWS, hits / n_rows.clamp(min=1), 2.0)
        order = accuracy.argsort(stable=True)[:SHOWN_PAIRS]
        return tuple(
            ClassPair(
                (int(place) // self.n_classes, int(place) % self.n_classes),
                float(accuracy[place]),
                int(n_rows[place]),
            )
            for place in order
            if accuracy[place] <= 1
        )
