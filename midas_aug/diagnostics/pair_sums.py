"""Sums over rows that were mixed of two."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from midas_aug.diagnostics import bootstrap
from midas_aug.diagnostics.bootstrap import Statistic

__all__ = ["PairSums"]


class PairSums:
    """Sums over mixed rows: of each row as the anchor, and as the partner that an anchor met.

    A pair (i, j) weighs w_i w_j in a bootstrap sample with counts w, which is w_i + w_j − 1 to
    first order: both rows of a pair are random, and an interval from the anchors alone would be too
    narrow.
    """

    def __init__(self) -> None:
        self.anchored: dict[Hashable, Tensor] = {}
        self.met: dict[Hashable, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.anchored)

    def __contains__(self, key: Hashable) -> bool:
        return key in self.anchored

    def add(self, key: Hashable, values: Tensor, partner: Tensor | None = None) -> None:
        """Add one draw: ``(N,)`` values of the anchors, which met the rows ``partner``."""
        values = values.float()
        _accumulate(self.anchored, key, values)
        if partner is not None:
            met = torch.zeros_like(values).index_add_(0, partner, values)
            _accumulate(self.met, key, met)

    def column(self, key: Hashable) -> Tensor:
        """A column whose sum, weighted by the rows' counts, is that over the pairs."""
        anchored, met = self.anchored[key], self.met.get(key)
        return anchored if met is None else anchored + met - anchored.double().mean()

    def ratio(self, numerator: Hashable, denominator: Hashable) -> Statistic:
        """Sum of one column over the sum of another."""
        return bootstrap.ratio(self.column(numerator), self.column(denominator))

    def followed_by(
        self, others: Sequence["PairSums"], take: Callable[[list[Tensor]], Tensor]
    ) -> "PairSums":
        """The sums of these rows and, behind them, of the rows of others."""
        joined = PairSums()
        for name in ("anchored", "met"):
            parts = [getattr(part, name) for part in (self, *others)]
            getattr(joined, name).update({k: take([p[k] for p in parts]) for k in parts[0]})
        return joined


def _accumulate(sums: dict[Hashable, Tensor], key: Hashable, values: Tensor) -> None:
    sums[key] = sums[key] + values if key in sums else values
