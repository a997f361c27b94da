"""Means and paired differences over seeds, with intervals that know that splits overlap."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

TEST_TO_TRAINING = 1 / 3  # rows: 20 % to 60 %
LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over seeds, the half width of its interval, and the deviation between seeds."""

    mean: float
    margin: float
    std: float


class Difference(NamedTuple):
    """Ours minus theirs on the same seeds (so the same splits and initial weights)."""

    mean: float
    margin: float  # of the 95 % interval
    won: int  # seeds with a positive difference
    seeds: int

    @property
    def verdict(self) -> int:
        """1 or −1 where the interval is clear of 0, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.margin else 0


def estimate(values: Sequence[float]) -> Estimate:
    """Mean over repeated splits with the corrected interval of `margin`."""
    return Estimate(float(np.mean(values)), margin(values), _deviation(values))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compare two methods seed by seed."""
    differences = np.subtract(ours, theirs)
    return Difference(
        mean=float(differences.mean()),
        margin=margin(differences.tolist()),
        won=int((differences > 0).sum()),
        seeds=len(differences),
    )


def margin(values: Sequence[float]) -> float:
    r"""Half the width of a 95 % interval for the mean over n random splits.

    Splits share rows, so their scores are not independent: the variance is taken
    :math:`1/n + n_{test}/n_{train}` times instead of :math:`1/n` (Nadeau and Bengio, *Inference for
    the Generalization Error*, Machine Learning 52, 2003), with n − 1 degrees of freedom. One value
    has no interval: infinity.
    """
    count = len(values)
    if count < 2:
        return float("inf")
    scale = np.sqrt(1 / count + TEST_TO_TRAINING) * _deviation(values)
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * scale)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
