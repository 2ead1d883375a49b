"""Calibrated laws stay in the bands as often as they say; others leave them."""

import math
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import integrate, stats

from kernelfield.core.posterior import Draws
from kernelfield.uq.calibration import (
    LEVELS,
    Calibration,
    band,
    conformal_band,
    curve,
    histogram,
    simultaneous_band,
)
from kernelfield.uq.scores import Evaluation, evaluate


def gaussian(n: int, factor: float = 1.0) -> Evaluation:
    """Standard normal values under a Gaussian whose deviation is wrong by a factor."""
    law = Draws(torch.zeros(1, n, 1), torch.ones(1), torch.tensor(factor**2))
    return evaluate(law, torch.randn(n, 1, generator=torch.Generator().manual_seed(7)))


def uniform(n: int, seed: int) -> Calibration:
    return Calibration(np.sort(np.random.default_rng(seed).random(n)))


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


def test_the_curve_and_histogram_are_those_of_counting():
    evaluation = gaussian(700, 0.8)
    assert_allclose(curve(evaluation).coverage, evaluation.coverage(LEVELS)[:, 0], rtol=0, atol=0)
    found = histogram(evaluation)
    assert_allclose(found.share, np.histogram(evaluation.pit, found.edges)[0] / 700, rtol=0, atol=0)
    edge = Calibration(np.array([0.0, 0.5, 1.0])).histogram()
    assert_allclose(edge.share[[0, 5, 9]], 1 / 3)  # 0.5 belongs to the bin that it begins


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
    assert min(narrow.share[[0, -1]]) > narrow.ceiling > narrow.high


def area_of_gaussian(factor: float) -> float:
    gap = lambda p: abs(2 * stats.norm.cdf(factor * stats.norm.ppf((1 + p) / 2)) - 1 - p)  # noqa: E731
    return integrate.quad(gap, 0, 1, epsabs=1e-10)[0]


@pytest.mark.parametrize(("factor", "known"), [(0.5, 0.2048), (0.8, 0.0704), (1.0, 0.0), (1.25, 0.0704), (2.0, 0.2048)])
def test_the_area_of_a_gaussian_of_wrong_deviation_is_an_arctangent(factor, known):
    exact = abs(0.5 - 2 / math.pi * math.atan(factor))
    assert exact == pytest.approx(area_of_gaussian(factor), abs=1e-9)
    assert round(exact, 4) == known
    # A grid in place of a sample, so that the area is that of the law up to 1 / n.
    z = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    assert Calibration(stats.norm.cdf(z / factor)).area == pytest.approx(exact, abs=1e-4)


def test_the_area_is_the_integral_of_the_steps():
    found = uniform(13, 3)
    distance = np.abs(2 * found.pit - 1)
    gap = lambda p: abs(np.mean(distance <= p) - p)  # noqa: E731
    expected = integrate.quad(gap, 0, 1, points=np.sort(distance), limit=200)[0]
    assert found.area == pytest.approx(expected, abs=1e-8)


def test_the_area_that_chance_gives_is_that_of_a_brownian_bridge():
    areas = [uniform(400, seed).area for seed in range(2000)]
    error = np.std(areas) / math.sqrt(2000)
    assert np.mean(areas) == pytest.approx(uniform(400, 0).area_by_chance, abs=6 * error + 0.3133 / 400)


@pytest.mark.parametrize("n", [40, 1000])
def test_the_simultaneous_band_holds_the_whole_curve_95_times_in_100(n):
    draws, grid = 2000, np.linspace(0, 1, 2001)[1:-1]
    floor, ceiling = simultaneous_band(n, grid)
    inside = 0
    for seed in range(draws):
        share = np.searchsorted(uniform(n, seed).pit, grid, side="right") / n
        inside += bool(np.all((floor <= share + 1e-12) & (share <= ceiling + 1e-12)))
    # The grid misses what lies between its points, at most 1 / 2000 of a level.
    assert -6 * math.sqrt(0.95 * 0.05 / draws) < inside / draws - 0.95 < 6 * math.sqrt(0.95 * 0.05 / draws) + 0.005


def test_the_simultaneous_band_is_a_little_narrower_than_that_of_the_inequality_of_dvoretzky_kiefer_and_wolfowitz():
    for n in (20, 200, 20_000):
        floor, ceiling = simultaneous_band(n, np.array([0.5]))
        bound = math.sqrt(math.log(2 / 0.05) / (2 * n))
        assert 0.93 * bound < (ceiling[0] - floor[0]) / 2 < bound


def test_all_bins_of_a_histogram_lie_in_their_common_band_at_least_95_times_in_100():
    draws = 400
    inside = [(h := uniform(600, seed).histogram()).floor <= h.share.min() and h.share.max() <= h.ceiling
              for seed in range(draws)]  # fmt: skip
    assert 0.95 - 6 * math.sqrt(0.95 * 0.05 / draws) < np.mean(inside) < 0.995


def test_shares_below_quantiles_are_counted_and_the_tails_are_four_of_them():
    evaluation = gaussian(5000, 0.8)
    found = Calibration.of(evaluation)
    for level, share, low, high in zip(*(getattr(found.tails(), name) for name in ("levels", "share", "low", "high"))):  # noqa: B905
        quantile = 0.8 * stats.norm.ppf(level)
        assert share == np.mean(evaluation.y <= quantile)
        assert (low, high) == band(5000, level)
        assert not low <= share <= high  # too narrow by a fifth, so that tails hold too much
    assert found.quantiles().share[49] == np.mean(evaluation.y <= 0)


def test_the_tests_of_uniformity_have_their_p_values():
    pvalues = np.array([[(c := uniform(200, seed)).kolmogorov.p_value, c.cramer.p_value] for seed in range(400)])
    for level in (0.05, 0.5):
        assert_allclose((pvalues <= level).mean(0), level, atol=6 * math.sqrt(level * (1 - level) / 400))
    wrong = Calibration.of(gaussian(1000, 0.75))
    assert wrong.kolmogorov.p_value < 1e-3 and wrong.cramer.p_value < 1e-3


def test_the_coverage_of_split_conformal_intervals_stays_in_its_band():
    generator = np.random.default_rng(0)
    n, level, draws = 100, 0.9, 20_000
    k = math.ceil((n + 1) * level)
    covered = np.sort(generator.random((draws, n)))[:, k - 1]  # of uniform scores, the k-th is the coverage
    low, high = conformal_band(n, level, confidence=0.9)
    assert (round(low, 3), round(high, 3), round(k / (n + 1), 4)) == (0.848, 0.945, 0.901)
    assert np.mean((low <= covered) & (covered <= high)) == pytest.approx(0.9, abs=6 * math.sqrt(0.09 / draws))
    counts = generator.binomial(50, covered) / 50
    low, high = conformal_band(n, level, rows=50)
    assert 0.95 - 6 * math.sqrt(0.05 / draws) < np.mean((low <= counts) & (counts <= high)) < 0.99


def test_a_level_that_the_rows_cannot_give_names_the_rows_that_can():
    assert conformal_band(99, 0.99)[0] > 0.9
    with pytest.raises(ValueError, match="98 calibration rows give no interval of level 0.99; it takes at least 99"):
        conformal_band(98, 0.99)
    with pytest.raises(ValueError, match="level 1.2; take a level between 0 and 1"):
        conformal_band(98, 1.2)


def test_several_outputs_or_missing_pit_values_are_refused():
    two = Evaluation(**{name: np.repeat(value, 2, 1) for name, value in gaussian(5).arrays().items()})
    with pytest.raises(ValueError, match=r"of one output, got 2; take evaluation.output\(i\)"):
        curve(two)
    lost = gaussian(5)
    lost.pit[1:3] = np.nan
    with pytest.raises(ValueError, match="2 PIT values are not in"):
        Calibration.of(lost)


@pytest.mark.slow
def test_a_million_rows_take_no_second():
    pit = np.random.default_rng(0).random((1_000_000, 1))
    evaluation = Evaluation(**{name: pit for name in gaussian(2).arrays()})
    start = time.perf_counter()
    found = Calibration.of(evaluation)
    found.curve(), found.histogram(), found.tails(), found.area, found.kolmogorov, found.cramer
    assert time.perf_counter() - start < 2
