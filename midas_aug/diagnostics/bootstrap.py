"""Bootstrap over rows: how far a score would move with another sample of rows.

A score is a function of sums over rows. Resampling rows with replacement gives every row a count,
so all replicates of all scores are one matrix product. The counts depend on the seed and the
number of rows alone: two reports over the same rows have paired replicates.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from midas_aug._arrays import NDArray, is_integer
from midas_aug.diagnostics.measures import discrepancy_ratio
from midas_aug.errors import MidasAugError

__all__ = ["Score", "Statistic", "bootstrap", "interval", "mean", "ratio", "skill", "summed"]

LEVEL = 0.95
MAX_COUNTS = 4_000_000  # counts in memory at a time


class Score(NamedTuple):
    """An estimate and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half the width of the interval: the number behind ±."""
        return (self.high - self.low) / 2

    def to_dict(self) -> dict[str, float]:
        """The three numbers by name."""
        return self._asdict()


class Statistic(NamedTuple):
    """A function of sums over rows."""

    columns: NDArray  # (N, K) float64
    of_sums: Callable[[NDArray], NDArray]  # (..., K) -> (...)


def ratio(numerator: Tensor, denominator: Tensor) -> Statistic:
    """Sum of one column over the sum of another; NaN where the latter is 0."""
    return Statistic(np.stack([as_column(numerator), as_column(denominator)], axis=1), _divide)


def mean(values: Tensor) -> Statistic:
    """Mean over rows."""
    column = as_column(values)
    return Statistic(np.stack([column, np.ones_like(column)], axis=1), _divide)


def summed(values: Tensor, of_sums: Callable[[NDArray], NDArray]) -> Statistic:
    """Any function of the sums of the columns of ``values`` (N, K)."""
    return Statistic(as_column(values), of_sums)


def calibration_error(gaps: Tensor) -> Statistic:
    """ECE from `measures.calibration_gaps` of rows that all count."""
    ones = gaps.new_ones(len(gaps), 1)

    def of_sums(sums: NDArray) -> NDArray:
        return np.asarray(np.abs(sums[..., 1:]).sum(axis=-1) / sums[..., 0])

    return summed(torch.cat([ones, gaps], dim=1), of_sums)


def discrepancy(confidences: Tensor, position: int) -> Statistic:
    """OGM's ratio of one modality, from (N, M) confidences in the true label."""

    def of_sums(sums: NDArray) -> NDArray:
        ratios: NDArray = discrepancy_ratio(torch.from_numpy(sums)).numpy()
        return np.asarray(ratios[..., position])

    return summed(confidences, of_sums)


def shared(wrong: Tensor) -> Statistic:
    """Rows that both columns ``(N, 2)`` of 0 and 1 mark, over those that the fuller one marks."""

    def of_sums(sums: NDArray) -> NDArray:
        return _divide(np.stack([sums[..., 2], sums[..., :2].max(axis=-1)], axis=-1))

    return summed(torch.cat([wrong, wrong.prod(dim=1, keepdim=True)], dim=1), of_sums)


def skill(losses: Tensor, entropy: float) -> Statistic:
    """Skill from (N,) losses; ``entropy`` is the loss of naming the class frequencies."""

    def of_sums(sums: NDArray) -> NDArray:
        return np.clip(1 - _divide(sums) / entropy, 0, 1)

    return summed(torch.stack([losses, torch.ones_like(losses)], dim=1), of_sums)


def bootstrap(
    statistics: Mapping[str, Statistic], *, resamples: int, seed: int
) -> dict[str, tuple[float, NDArray]]:
    """Each statistic of the rows as they are, and of ``resamples`` samples of them, ``(R,)``."""
    results: dict[str, tuple[float, NDArray]] = {}
    for n_rows in sorted({len(statistic.columns) for statistic in statistics.values()}):
        group = {k: s for k, s in statistics.items() if len(s.columns) == n_rows}
        columns = np.concatenate([s.columns for s in group.values()], axis=1)
        drawn = [counts @ columns for counts in resampled_counts(n_rows, resamples, seed)]
        sums = np.concatenate([columns.sum(axis=0, keepdims=True), *drawn])
        start = 0
        for key, statistic in group.items():
            stop = start + statistic.columns.shape[1]
            values = np.asarray(statistic.of_sums(sums[:, start:stop]))
            results[key] = float(values[0]), values[1:]
            start = stop
    return {key: results[key] for key in statistics}


def resampled_counts(n_rows: int, resamples: int, seed: int) -> Iterator[NDArray]:
    """How often each row was drawn, ``(≤ R, N)`` at a time."""
    generator = np.random.default_rng([seed, n_rows])
    step = max(1, MAX_COUNTS // max(n_rows, 1))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(n_rows, size=(size, n_rows))
        place = drawn + n_rows * np.arange(size)[:, None]
        counts = np.bincount(place.ravel(), minlength=size * n_rows)
        yield counts.reshape(size, n_rows).astype(float)


def check_numbers(**numbers: object) -> None:
    """Raise unless each is an integer of at least 1."""
    for name, number in numbers.items():
        if not is_integer(number) or number < 1:
            raise MidasAugError(f"expected {name} as an integer of at least 1, got {number!r}")


def check_seed(seed: object, name: str = "seed") -> None:
    """Raise unless NumPy and PyTorch take it as a seed."""
    if not is_integer(seed) or not 0 <= seed < 2**63:
        raise MidasAugError(f"expected {name} as an integer from 0 to 2^63 - 1, got {seed!r}")


def interval(value: float, replicates: NDArray) -> Score:
    """The estimate with the percentiles of its replicates; NaN ends where there are none."""
    known = replicates[np.isfinite(replicates)]
    if len(known) == 0:
        return Score(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(value, float(low), float(high))


def as_column(values: Tensor) -> NDArray:
    """A tensor as a float64 array."""
    column: NDArray = values.detach().cpu().double().numpy()
    return column


def _divide(sums: NDArray) -> NDArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: NDArray = sums[..., 0] / sums[..., 1]
    return np.where(np.isfinite(quotient), quotient, np.nan)
