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


def p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided, of the corrected t test that the interval of `margin` belongs to.

    One seed decides nothing: 1. Differences that are all the same and not 0 give 0.
    """
    differences = np.subtract(ours, theirs)
    count, mean = len(differences), float(differences.mean())
    if count < 2 or mean == 0:
        return 1.0
    scale = np.sqrt(1 / count + TEST_TO_TRAINING) * _deviation(differences.tolist())
    return float(2 * stats.t.sf(abs(mean) / scale, count - 1)) if scale > 0 else 0.0


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which differences remain when all are tested together, by Holm's step-down procedure.

    The chance of one false difference or more among them is at most 1 − `LEVEL`.
    """
    kept = [False] * len(p_values)
    ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(ranked):
        if p_values[place] > (1 - LEVEL) / (len(p_values) - rank):
            break
        kept[place] = True
    return kept


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
