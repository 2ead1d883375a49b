"""Ranks, the rows that a level needs, and the law of coverage."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.conformal.ranks import CoverageLaw, rank, rows_needed


@pytest.mark.parametrize("percent", range(1, 100))
def test_ranks_are_those_of_exact_arithmetic(percent):
    """Whatever binary fractions make of the level."""
    for rows in range(rows_needed(percent / 100), 300):
        assert rank(rows, percent / 100) == ceil(Fraction((rows + 1) * percent, 100))


@pytest.mark.parametrize("percent", range(1, 100))
def test_the_rows_needed_are_the_first_for_which_the_rank_exists(percent):
    needed = rows_needed(percent / 100)
    exists = [n for n in range(1, 200) if ceil(Fraction((n + 1) * percent, 100)) <= n]
    assert needed == exists[0]


def test_too_few_rows_are_counted_and_the_best_level_is_named():
    with pytest.raises(ValueError, match=r"level 0.99 needs at least 99 calibration rows, got 50; .* ask for 0.9803"):
        rank(50, 0.99)
    assert rank(50, 0.9803) == 50


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90, float("nan")])
def test_a_level_is_between_zero_and_one(level):
    with pytest.raises(ValueError, match="must lie between 0 and 1, got"):
        rank(100, level)


def test_the_band_of_coverage_is_that_of_uniform_order_statistics():
    law = CoverageLaw(91, 100)
    shares = np.sort(np.random.default_rng(0).uniform(size=(20_000, 100)), axis=1)[:, 90]
    low, high = law.band(0.9)
    assert np.mean(shares) == pytest.approx(law.mean, abs=6 * np.std(shares) / 20_000**0.5)
    assert np.mean((low < shares) & (shares < high)) == pytest.approx(0.9, abs=6 * (0.09 / 20_000) ** 0.5)
    assert np.quantile(shares, [0.05, 0.95]) == pytest.approx([low, high], abs=0.002)


def test_the_band_of_few_new_rows_is_beta_binomial():
    law = CoverageLaw(91, 100)
    low, high = law.of_test(50, 0.9)
    mass = stats.betabinom.cdf(high * 50, 50, 91, 10) - stats.betabinom.cdf(low * 50 - 1, 50, 91, 10)
    assert mass >= 0.9 and low < law.band(0.9)[0] and high > law.band(0.9)[1]
