"""The mean row of a modality over many batches, and over many ranks."""

from typing import Any

import torch
from torch import Tensor

from midas_aug.diagnostics.blocks import check_finite, leaves_of, rebuilt
from midas_aug.diagnostics.removal import mean_of
from midas_aug.errors import MidasAugError

__all__ = ["RowMean"]


class RowMean:
    """The mean row of a modality over many batches."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self.n_rows = 0
        self.sample: Any = None  # a row, for its structure
        self.leaves: list[Tensor] = []

    @classmethod
    def of_all(cls, key: Any, value: Any) -> "RowMean":
        """That of one batch with all rows, as exact as they are."""
        mean = cls(key)
        mean.n_rows = len(leaves_of(value, key)[0])
        mean.sample = mean_of(value, key)
        mean.leaves = leaves_of(mean.sample, key)
        return mean

    def add(self, value: Any) -> None:
        """Take in the rows of a batch."""
        n_rows = len(leaves_of(value, self.key)[0])
        if n_rows == 0:
            return
        mean = mean_of(value, str(self.key))
        self._add(mean, [leaf.float() for leaf in leaves_of(mean, self.key)], n_rows)

    def include(self, other: "RowMean") -> None:
        """Take in the rows of another mean."""
        if other.n_rows > 0:
            self._add(other.sample, other.leaves, other.n_rows)

    def _add(self, sample: Any, added: list[Tensor], n_rows: int) -> None:
        if self.n_rows == 0:
            self.sample, self.leaves = sample, [torch.zeros_like(leaf) for leaf in added]
        shapes = [[tuple(leaf.shape) for leaf in leaves] for leaves in (self.leaves, added)]
        if shapes[0] != shapes[1]:
            raise MidasAugError(
                f"expected {self.key!r} of one shape in all batches, got rows of {shapes[0][0]} "
                f"and {shapes[1][0]}; use removal='permute', or work at feature level"
            )
        self.n_rows += n_rows
        part = n_rows / self.n_rows
        self.leaves = [a + part * (b - a) for a, b in zip(self.leaves, added, strict=True)]

    def result(self) -> Any:
        """The mean row.

        Raises:
            MidasAugError: There were no training rows, or some rows were not finite.
        """
        if self.n_rows == 0:  # of diagnosed rows nobody asks for a mean, see Examination
            raise MidasAugError("expected training batches with rows, got none; check training=")
        return check_finite(rebuilt(self.sample, self.leaves), self.key)
