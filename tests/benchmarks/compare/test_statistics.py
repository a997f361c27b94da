"""Intervals of the comparison."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.compare.report.statistics import (
    estimate,
    holm,
    margin,
    p_value,
    paired_difference,
)


def test_the_margin_is_the_corrected_t_interval():
    values = [1.0, 2.0, 4.0, 5.0]
    scale = math.sqrt((1 / 4 + 1 / 3) * np.var(values, ddof=1))
    assert margin(values) == pytest.approx(3.182446 * scale, rel=1e-5)
    assert margin(values) > stats.t.ppf(0.975, 3) * stats.sem(values)  # the uncorrected one


def test_differences_are_paired():
    ours, theirs = [10.0, 50.0, 90.0], [9.0, 49.0, 88.0]
    found = paired_difference(ours, theirs)
    assert found.mean == pytest.approx(4 / 3)
    assert (found.won, found.seeds) == (3, 3)
    assert found.margin == pytest.approx(margin([1.0, 1.0, 2.0]))


def test_verdicts():
    assert paired_difference([2.0, 2.1, 1.9], [1.0, 1.0, 1.0]).verdict == 1
    assert paired_difference([1.0, 1.0, 1.0], [2.0, 2.1, 1.9]).verdict == -1
    assert paired_difference([1.0, 3.0, 2.0], [2.0, 2.0, 2.0]).verdict == 0
    assert paired_difference([1.0, 1.0], [1.0, 1.0]).verdict == 0
    assert paired_difference([2.0], [1.0]).verdict == 0  # one seed decides nothing


def test_one_seed_has_no_interval():
    found = estimate([3.0])
    assert (found.mean, found.std) == (3.0, 0.0)
    assert found.margin == math.inf


@pytest.mark.parametrize("seed", range(20))
def test_the_p_value_is_below_five_per_cent_where_the_interval_is_clear_of_zero(seed):
    ours, theirs = np.random.default_rng(seed).normal([[1.5], [0]], size=(2, 5))
    found = paired_difference(ours, theirs)
    assert (p_value(ours, theirs) < 0.05) == (found.verdict != 0)


def test_a_p_value_by_hand():
    """Differences 1, 2, 3: t = 2 / sqrt(2/3) with two degrees of freedom."""
    t = 2 / math.sqrt(2 / 3)
    by_hand = 1 - t / math.sqrt(2 + t * t)  # the closed form of two degrees
    assert p_value([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == pytest.approx(by_hand)


def test_p_values_at_the_ends():
    assert p_value([2.0], [1.0]) == 1.0
    assert p_value([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert p_value([2.0, 2.0], [1.0, 1.0]) == 0.0


def test_holm_stops_at_the_first_that_is_too_large():
    """Against 0.05 / 4, / 3, / 2, / 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.04]) == [True]
    assert holm([0.03, 0.03]) == [False, False]
    assert holm([]) == []
