"""Calibrated laws stay in the band as often as it says; others leave it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats

from kernelfield.core.posterior import Draws
from kernelfield.uq.calibration import LEVELS, band, curve, histogram
from kernelfield.uq.scores import Evaluation, evaluate


def gaussian(n: int, factor: float = 1.0) -> Evaluation:
    """Standard normal values under a Gaussian whose deviation is wrong by a factor."""
    law = Draws(torch.zeros(1, n, 1), torch.ones(1), torch.tensor(factor**2))
    return evaluate(law, torch.randn(n, 1, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("n", [30, 1000])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_band_holds_95_percent_of_binomial_shares_and_no_narrower_one_would(n, p):
    low, high = (np.round(end * n) for end in band(n, p))
    law = stats.binom(n, p)
    assert law.cdf(high) - law.cdf(low - 1) >= 0.95
    assert law.cdf(low - 1) <= 0.025 < law.cdf(low)
    assert law.sf(high) <= 0.025 < law.sf(high - 1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_curve_of_a_gaussian_of_wrong_deviation_is_known(factor):
    found = curve(gaussian(20_000, factor))
    expected = 2 * stats.norm.cdf(factor * stats.norm.ppf((1 + LEVELS) / 2)) - 1
    assert_allclose(found.coverage, expected, atol=6 * 0.5 / 20_000**0.5)


def test_only_calibrated_laws_stay_in_their_band():
    inside = lambda c: np.mean((c.low <= c.coverage) & (c.coverage <= c.high))  # noqa: E731
    assert inside(curve(gaussian(2000))) > 0.9
    assert inside(curve(gaussian(2000, 0.7))) < 0.1


@pytest.mark.parametrize(("n", "bins"), [(400, 10), (2000, 20)])
def test_the_histogram_is_level_if_laws_are_right_and_a_u_if_they_are_narrow(n, bins):
    right, narrow = histogram(gaussian(n)), histogram(gaussian(n, 0.5))
    assert len(right.share) == len(right.edges) - 1 == bins
    assert right.share.sum() == pytest.approx(1)
    assert np.mean((right.low <= right.share) & (right.share <= right.high)) >= 0.85
    assert min(narrow.share[[0, -1]]) > narrow.high
