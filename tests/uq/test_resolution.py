"""Resolution against brute force, closed forms and simulation."""

import math
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.resolution import (
    correlation,
    crps_parts,
    crps_parts_of,
    dispersion,
    risk,
    sparsified,
    spread,
    widths,
)
from kernelfield.uq.scores import Evaluation, evaluate


def made(error: np.ndarray, std: np.ndarray) -> Evaluation:
    """Of predicted zeros."""
    columns = dict(y=error, mean=np.zeros_like(error), std=std, low=-1.645 * std, high=1.645 * std)
    rest = {field.name: np.zeros_like(error) for field in fields(Evaluation) if field.name not in {*columns, "levels"}}
    return Evaluation(**{name: value[:, None] for name, value in (columns | rest).items()})


def heteroscedastic(n: int, *, factor: float = 1.0, seed: int = 0) -> Evaluation:
    """Deviations of 0.5 to 2, of which the predicted ones are a factor."""
    generator = np.random.default_rng(seed)
    std = 0.5 + 1.5 * generator.random(n)
    return made(std * generator.normal(size=n), factor * std)


def test_the_ence_is_that_of_loops_over_bins():
    evaluation = heteroscedastic(203)
    error, std = evaluation.y[:, 0], evaluation.std[:, 0]
    order = np.argsort(std)
    edges = np.linspace(0, 203, 8).astype(int)
    gaps = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):  # noqa: RUF007
        part = order[start:stop]
        rms, said = math.sqrt(np.mean(error[part] ** 2)), math.sqrt(np.mean(std[part] ** 2))
        gaps.append(abs(rms - said) / said)
    assert spread(evaluation, bins=7).ence == pytest.approx(np.mean(gaps))


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_ence_of_deviations_wrong_by_a_factor_is_known(factor):
    found = spread(heteroscedastic(40_000, factor=factor))
    assert found.ence == pytest.approx(abs(1 / factor - 1), abs=6 / math.sqrt(2 * 4000))
    assert not np.any((found.low < found.predicted) & (found.predicted < found.high))


def test_the_ence_by_chance_is_that_of_calibrated_laws_and_bins_hold_theirs_95_times_in_100():
    results = [spread(heteroscedastic(1000, seed=seed)) for seed in range(200)]
    gap = np.array([result.ence for result in results])
    chance = np.mean([result.ence_by_chance for result in results])
    assert chance == pytest.approx(1 / math.sqrt(math.pi * 100), rel=0.05)  # of Gaussians, 100 rows a bin
    assert gap.mean() == pytest.approx(chance, rel=0.05)
    held = np.mean([(one.low <= one.predicted) & (one.predicted <= one.high) for one in results])
    assert held == pytest.approx(0.95, abs=0.02)


def test_the_correlation_is_spearman_s_and_its_interval_holds_the_truth_95_times_in_100():
    evaluation = heteroscedastic(300)
    expected = stats.spearmanr(np.abs(evaluation.y[:, 0]), evaluation.std[:, 0]).statistic
    assert correlation(evaluation).value == pytest.approx(expected, rel=1e-12)
    truth = correlation(heteroscedastic(400_000, seed=10**6)).value
    intervals = [correlation(heteroscedastic(150, seed=seed)) for seed in range(600)]
    held = np.mean([one.low <= truth <= one.high for one in intervals])
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 600))
    perfect = correlation(made(np.arange(1.0, 9.0), np.arange(1.0, 9.0)))
    assert perfect.value == pytest.approx(1) and perfect.low > 0.99
    assert math.isnan(correlation(made(np.arange(1.0, 9.0), np.ones(8))).value)


def test_the_areas_of_perfect_reversed_and_no_order_are_known():
    """Errors uniform on (0, 1]: the share q of least errors has the mean q / 2, that of the largest 1 - q / 2."""
    error = (np.arange(20_000) + 0.5) / 20_000
    perfect, reversed_, none = (sparsified(made(error, std), power=1) for std in (error, 1 - error, np.ones(20_000)))
    for found, ause, gain in ((perfect, 0, 0.5), (reversed_, 1, -0.5), (none, 0.5, 0)):
        assert (found.ause, found.gain) == (pytest.approx(ause, abs=1e-3), pytest.approx(gain, abs=1e-3))
        assert found.whole == pytest.approx(0.5)
    assert perfect.oracle == pytest.approx(1 - perfect.removed, abs=1e-3)
    assert none.error == pytest.approx(np.ones(101), abs=1e-12)
    # The root mean square of the least q is q / sqrt(3).
    assert sparsified(made(error, np.ones(20_000))).ause == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("power", [1, 2])
def test_the_sparsification_curve_is_that_of_removing_rows(power):
    evaluation = heteroscedastic(500)
    error, std = np.abs(evaluation.y[:, 0]), evaluation.std[:, 0]
    found = sparsified(evaluation, power=power)
    measure = lambda e: np.mean(e**power) ** (1 / power)  # noqa: E731
    for removed, left, best in zip(found.removed, found.error, found.oracle, strict=True):
        kept = round((1 - removed) * 500)
        assert left == pytest.approx(measure(error[np.argsort(std)[:kept]]) / measure(error))
        assert best == pytest.approx(measure(np.sort(error)[:kept]) / measure(error))
    assert 0 < found.gain and 0 < found.ause


def test_rows_of_equal_doubt_share_their_loss_whatever_their_order_in_the_file():
    loss, doubt = np.array([0.0, 4.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0, 2.0])
    found = risk(loss, doubt)
    assert found.risk == pytest.approx([1, 3 / 2, 5 / 3, 7 / 4])
    order = np.array([1, 3, 0, 2])
    assert risk(loss[order], doubt[order]).aurc == pytest.approx(found.aurc)
    assert found.oracle == pytest.approx([0, 1 / 2, 1, 7 / 4])
    orders = [np.mean(np.cumsum(np.random.default_rng(s).permutation(loss)) / [1, 2, 3, 4]) for s in range(4000)]
    assert risk(loss, np.zeros(4)).aurc == pytest.approx(np.mean(orders), abs=6 * np.std(orders) / math.sqrt(4000))


def test_widths_and_their_dispersion_are_those_of_numpy_and_scipy():
    evaluation = heteroscedastic(100)
    assert widths(evaluation, [0.5])[0] == pytest.approx(2 * 1.645 * np.median(evaluation.std))
    assert dispersion(evaluation) == pytest.approx(stats.variation(evaluation.std[:, 0], ddof=1))
    assert dispersion(made(np.ones(5), np.full(5, 0.1))) == pytest.approx(0, abs=1e-15)


def empirical_crps(members: np.ndarray, y: np.ndarray) -> float:
    near = np.abs(members - y[:, None]).mean(1)
    return float(np.mean(near - np.abs(members[:, :, None] - members[:, None]).mean((1, 2)) / 2))


@pytest.mark.parametrize("k", [1, 2, 7])
def test_the_parts_of_the_crps_add_up_to_that_of_the_ensemble(k):
    generator = np.random.default_rng(k)
    members, y = generator.normal(size=(60, k)), generator.normal(0.5, 2, size=60)
    parts = crps_parts(members, y)
    assert parts.crps == pytest.approx(empirical_crps(members, y), rel=1e-12)
    assert parts.reliability - parts.resolution + parts.uncertainty == pytest.approx(parts.crps, rel=1e-12)
    assert parts.uncertainty == pytest.approx(empirical_crps(np.tile(y, (60, 1)), y), rel=1e-12)
    assert parts.reliability > 0


def test_always_predicting_the_values_that_came_is_reliable_and_resolves_nothing():
    y = np.random.default_rng(0).exponential(size=80)
    parts = crps_parts(np.tile(y, (80, 1)), y)
    assert parts.resolution == pytest.approx(-parts.reliability, abs=1e-12)
    assert parts.reliability == pytest.approx(0, abs=2e-3 * parts.uncertainty)
    perfect = crps_parts(np.tile(y[:, None], 5), y)
    assert (perfect.crps, perfect.reliability) == (0, pytest.approx(0, abs=1e-12))
    assert perfect.resolution == pytest.approx(perfect.uncertainty)


def test_the_parts_of_calibrated_gaussians_are_known():
    """y = x + z with x known and z not: the crps is s / sqrt(pi), that of the climatology has both variances."""
    n = 100_000
    generator = torch.Generator().manual_seed(0)
    x, z = 2 * torch.randn(n, 1, generator=generator), torch.randn(n, 1, generator=generator)
    law = Draws(x[None], torch.ones(1), torch.tensor(1.0))
    (parts,) = crps_parts_of(law, x + z)
    own = evaluate(law, x + z).crps.mean()
    assert parts.crps == pytest.approx(own, rel=0.001) and parts.crps >= own
    error = 6 * 0.4 / math.sqrt(n)
    assert parts.crps - parts.reliability == pytest.approx(1 / math.sqrt(math.pi), abs=error)
    assert parts.uncertainty == pytest.approx(math.sqrt(5 / math.pi), abs=3 * error)
    assert parts.reliability < 0.003
    wrong = Draws(x[None], torch.ones(1), torch.tensor(0.25))
    (narrow,) = crps_parts_of(wrong, x + z)
    t = 0.5  # E|y - f| - E|f - f'| / 2 with deviations 1 and t
    known = math.sqrt(2 / math.pi) * math.sqrt(1 + t**2) - t / math.sqrt(math.pi)
    assert narrow.crps == pytest.approx(known, rel=0.01)
    assert narrow.reliability == pytest.approx(known - 1 / math.sqrt(math.pi), abs=0.01)


def test_every_output_of_a_law_has_its_parts():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(200, 2, generator=generator)
    law = Elliptical(torch.zeros(200, 2), torch.eye(400), InverseGamma.student(5.0))
    both = crps_parts_of(law, y, members=9)
    quantiles = np.array([[float(law.quantile((i + 0.5) / 9)[0, 0]) for i in range(9)]] * 200)
    for parts, column in zip(both, y.T, strict=True):
        assert parts.crps == pytest.approx(crps_parts(quantiles, column.numpy()).crps)
        assert parts.resolution == pytest.approx(crps_parts(quantiles, column.numpy()).resolution)


def test_bad_input_is_refused():
    few = heteroscedastic(3)
    two = Evaluation(**{name: np.repeat(value, 2, 1) for name, value in few.arrays().items()})
    with pytest.raises(ValueError, match="10 bins need at least 20 rows and one bin, got 3 rows; take fewer bins"):
        spread(few)
    with pytest.raises(ValueError, match="at least 4 rows, got 3"):
        correlation(few)
    with pytest.raises(ValueError, match="one output, got 2"):
        sparsified(two)
    with pytest.raises(ValueError, match="power must be 1 .* got 3"):
        sparsified(few, power=3)
    with pytest.raises(ValueError, match="a loss and a doubt"):
        risk(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match=r"members \(n, k\)"):
        crps_parts(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="at least 2 quantiles"):
        crps_parts_of(Draws(torch.zeros(1, 3, 1), torch.ones(1), torch.tensor(1.0)), torch.zeros(3, 1), members=1)


@pytest.mark.slow
def test_a_million_rows_take_seconds():
    evaluation = heteroscedastic(1_000_000)
    start = time.perf_counter()
    for measure in (spread, correlation, sparsified, widths, dispersion):
        measure(evaluation)
    assert time.perf_counter() - start < 10
