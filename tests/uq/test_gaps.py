"""Intervals of calibration errors hold the truth, none included, where quantiles of a bootstrap would not."""

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.bootstrap import UNITS
from kernelfield.uq.calibration import Calibration
from kernelfield.uq.gaps import Sums, area_interval, largest_interval, mean_modulus, size_interval


def held(gap: np.ndarray, interval, truth: float, seeds: int = 200) -> tuple[float, float]:
    """Shares of intervals that hold the size of gaps seen with standard normal noise, and that reach down to zero."""
    rng = np.random.default_rng(7)
    noise = rng.normal(size=(400, len(gap)))
    found = [interval(gap + rng.normal(size=len(gap)), noise) for _ in range(seeds)]
    return np.mean([one.low <= truth <= one.high for one in found]), np.mean([one.low == 0 for one in found])


MEASURES = {"mean": lambda gaps, noise: size_interval(gaps, noise, mean_modulus), "largest": largest_interval}


@pytest.mark.parametrize("interval", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 2.0, 10.0])
def test_intervals_hold_gaps_of_any_size_95_times_in_100(gap, interval):
    share, zero = held(np.full(10, gap) * np.resize([1, -1], 10), interval, gap)
    assert share >= 0.95 - 3 * (0.05 * 0.95 / 200) ** 0.5
    if gap == 0:
        assert zero >= 0.95 - 3 * (0.05 * 0.95 / 200) ** 0.5
    if gap == 10:
        assert zero == 0


def test_what_chance_gives_is_the_mean_size_of_noise():
    noise = np.random.default_rng(0).normal(size=(4000, 10))
    found = size_interval(np.zeros(10), noise, mean_modulus)
    assert found.chance == pytest.approx((2 / np.pi) ** 0.5, abs=6 * 0.6 / 40_000**0.5)


def test_noise_that_is_not_known_has_no_interval():
    found = size_interval(np.ones(2), np.full((5, 2), np.nan), mean_modulus)
    assert found.value == 1.0 and np.isnan([found.low, found.high, found.chance]).all()


def test_the_area_has_its_value_and_its_truth_is_held():
    truth = 0.0704  # of deviations wrong by a factor of 1.25
    held = []
    for seed in range(40):
        z = np.random.default_rng(seed).normal(size=400)
        one = Calibration(np.sort(stats.norm.cdf(1.25 * z)))
        found = area_interval(one, seed=seed)
        assert found.value == one.area and found.chance == one.area_by_chance
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.95 - 3 * (0.05 * 0.95 / 40) ** 0.5


def test_the_draws_of_the_area_are_those_of_rows():
    rng = np.random.default_rng(0)
    one = Calibration(np.sort(rng.random(300) ** 1.4))
    drawn = [Calibration(np.sort(rng.choice(one.pit, 300))).area for _ in range(600)]
    found = area_interval(one)
    # Far above chance the interval is about the Gaussian one, whose half width is 1.96 deviations of the draws.
    assert (found.high - found.low) / 3.92 == pytest.approx(np.std(drawn), rel=0.15)


@pytest.mark.parametrize("n", [200, 3 * UNITS])
def test_sums_have_the_means_and_the_noise_of_rows(n):
    rng = np.random.default_rng(1)
    column, bin = rng.exponential(size=n), rng.integers(3, size=n)
    sums = Sums.of([column], [bin])
    assert len(sums.sizes) == min(n, UNITS) and sums.sizes.sum() == n
    expected = [column[bin == k].sum() / n for k in range(3)]
    np.testing.assert_allclose(sums.means()[0], expected, rtol=1e-12)
    drawn = sums.drawn()[0]
    each = np.stack([column * (bin == k) for k in range(3)])
    np.testing.assert_allclose(drawn.std(0), each.std(1) / n**0.5, rtol=6 / 2000**0.5)
    np.testing.assert_allclose(drawn.mean(0), expected, atol=6 * each.std() / (n * 1000) ** 0.5)
