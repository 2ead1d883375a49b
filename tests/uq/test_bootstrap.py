"""Intervals against scipy's bootstrap, exact laws and simulation."""

import math
import time

import numpy as np
import pytest
import torch
from scipy import stats

from kernelfield.core.posterior import Draws
from kernelfield.uq.bootstrap import (
    UNITS,
    Resampling,
    _Units,
    bootstrap,
    difference_intervals,
    score_intervals,
    skill_intervals,
)
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.scores import Evaluation, baseline, evaluate

mean = lambda means: means  # noqa: E731
ratio = lambda means: means[..., :1] / means[..., 1:]  # noqa: E731


def regression(n: int, *, outputs: int = 1, bias: float = 0.0, seed: int = 0) -> Evaluation:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, outputs, generator=generator)
    y = x + 0.5 * torch.randn(n, outputs, generator=generator)
    return evaluate(Draws((x + bias)[None], torch.ones(1), torch.full((n, outputs), 0.3)), y)


def classes(n: int, seed: int = 0) -> ClassEvaluation:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet([1.0, 1.0, 1.0], n)
    return ClassEvaluation.of(p, (generator.random(n)[:, None] > p.cumsum(1)).sum(1).clip(max=2))


def test_a_mean_and_a_ratio_have_the_intervals_of_scipy_draw_by_draw():
    data = np.random.default_rng(3).exponential(size=(60, 2))
    found = bootstrap(data[:, :1], mean, Resampling(seed=5))[0]
    options = dict(n_resamples=1000, method="BCa", vectorized=True, axis=0)
    expected = stats.bootstrap((data[:, 0],), np.mean, rng=np.random.default_rng(5), **options).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)
    share = lambda a, b, axis: a.mean(axis) / b.mean(axis)  # noqa: E731
    other = stats.bootstrap((data[:, 0], data[:, 1]), share, paired=True, rng=np.random.default_rng(5), **options)
    found = bootstrap(data, ratio, Resampling(seed=5))[0]
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval), rel=1e-12)


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_scores_are_those_of_the_evaluation_and_lie_in_their_intervals(outputs):
    evaluation = regression(300, outputs=outputs)
    found = score_intervals(evaluation)
    for name, value in evaluation.scores().items():
        if name in found:
            assert found[name].value == pytest.approx(value, rel=1e-12), name
            assert found[name].low <= found[name].value <= found[name].high, name
    names = {"rmse", "mae", "r2", "nll", "crps", "interval90", "coverage90"}
    assert names <= set(found) & set(evaluation.scores())
    loss = stats.norm.ppf(0.05) * 0.3**0.5  # of the 5% quantile
    below = evaluation.y - evaluation.mean - loss
    assert found["quantile05"].value == pytest.approx(np.mean(np.maximum(0.05 * below, -0.95 * below)), rel=1e-9)
    # Together, the two pinball losses are the interval score.
    both = found["quantile05"].value + found["quantile95"].value
    assert both == pytest.approx(found["interval90"].value * 0.05, rel=1e-9)


@pytest.mark.parametrize("name", ["rmse", "r2"])
def test_functions_of_means_have_the_intervals_of_scipy_on_the_rows_themselves(name):
    evaluation = regression(80)
    y, error = evaluation.y[:, 0], (evaluation.y - evaluation.mean)[:, 0]
    statistic = {
        "rmse": lambda y, e, axis: np.sqrt(np.mean(e**2, axis)),
        "r2": lambda y, e, axis: 1 - np.mean(e**2, axis) / np.var(y, axis),
    }[name]
    options = dict(n_resamples=1000, method="BCa", paired=True, rng=np.random.default_rng(0))
    expected = stats.bootstrap((y, error), statistic, **options).confidence_interval
    found = score_intervals(evaluation)[name]
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-10)


def test_scores_of_classes_have_intervals_too():
    evaluation = classes(200)
    found = score_intervals(evaluation)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {"log_loss": evaluation.log_loss, "brier": evaluation.brier, "accuracy": evaluation.accuracy}
    )
    options = dict(n_resamples=1000, method="BCa", rng=np.random.default_rng(0))
    expected = stats.bootstrap((evaluation.losses,), np.mean, **options).confidence_interval
    assert (found["log_loss"].low, found["log_loss"].high) == pytest.approx(tuple(expected), rel=1e-10)


def test_skill_is_paired_with_the_baseline_s_rows():
    evaluation = regression(150)
    rule = baseline(evaluation.y, evaluation.y)
    found = skill_intervals(evaluation, rule)
    assert found["crps"].value == pytest.approx(1 - evaluation.scores()["crps"] / rule.scores()["crps"])
    share = lambda a, b, axis: 1 - a.mean(axis) / b.mean(axis)  # noqa: E731
    data = (evaluation.crps[:, 0], rule.crps[:, 0])
    expected = stats.bootstrap(data, share, paired=True, n_resamples=1000, rng=np.random.default_rng(0))
    assert (found["crps"].low, found["crps"].high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-10)
    assert "nll" not in found and "coverage90" not in found


def test_differences_are_paired_so_that_what_rows_share_is_left_out():
    one, other = regression(200), regression(200, bias=0.1)
    gap, alone = difference_intervals(one, other)["rmse"], score_intervals(one)["rmse"]
    assert gap.value == pytest.approx(one.scores()["rmse"] - other.scores()["rmse"])
    assert gap.high - gap.low < 0.6 * (alone.high - alone.low)
    same = difference_intervals(one, one)["crps"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("n", [40, 200])
def test_95_percent_intervals_hold_the_truth_about_95_times_in_100(n):
    generator, times = np.random.default_rng(0), 200
    held = 0
    for seed in range(times):
        found = bootstrap(generator.exponential(size=(n, 1)), mean, Resampling(seed=seed))[0]
        held += found.low <= 1 <= found.high
    # BCa is right to order 1 / n: an exponential mean of 40 rows is held 93% of the time.
    assert abs(held / times - 0.95) < 3 * math.sqrt(0.95 * 0.05 / times) + 0.8 / n


def test_more_rows_than_units_are_merged_and_their_intervals_stay_those_of_rows():
    n = 4 * UNITS + 3
    data = np.random.default_rng(1).exponential(size=(n, 1))
    found = bootstrap(data, mean, Resampling(draws=4000))[0]
    error = data.std() / math.sqrt(n)
    assert found.value == pytest.approx(data.mean(), rel=1e-12)
    for end, side in ((found.low, -1), (found.high, 1)):
        # 4000 draws leave 3% of a standard error, and the merging 1% of 1.96 of them.
        assert (end - found.value) / error == pytest.approx(side * 1.96, abs=6 * 0.035)


def test_the_merged_standard_error_is_that_of_rows_within_one_percent():
    ends = []
    for seed in range(12):
        data = np.random.default_rng(seed).normal(size=(3 * UNITS, 1))
        found = bootstrap(data, mean, Resampling(seed=seed))[0]
        ends.append((found.high - found.low) / (2 * 1.96 * data.std() / math.sqrt(len(data))))
    # Each has 1% of merging and 3.4% of 1000 draws at two ends.
    assert np.mean(ends) == pytest.approx(1, abs=6 * 0.035 / math.sqrt(12))
    assert np.std(ends) < 0.08


def test_groups_that_are_alike_widen_the_interval_as_their_number_says():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 20)
    data = (generator.normal(size=60)[groups] + 0.1 * generator.normal(size=1200))[:, None]
    found = bootstrap(data, mean, Resampling(groups=groups, draws=4000))[0]
    centres = data.reshape(60, 20).mean(1)
    direct = stats.bootstrap((centres,), np.mean, n_resamples=4000, rng=np.random.default_rng(0)).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(direct), rel=1e-10)  # equal groups are rows themselves
    rows = bootstrap(data, mean)[0]
    assert found.high - found.low > 3 * (rows.high - rows.low)


def test_groups_of_unequal_size_are_ratios_of_sums():
    generator = np.random.default_rng(0)
    groups = np.array(list("aabbbcddddd" * 8)) + np.repeat(np.arange(8), 11).astype(str)
    data = generator.exponential(size=(88, 1))
    names = np.unique(groups)
    pairs = np.array([[data[groups == g].sum(), (groups == g).sum()] for g in names])
    share = lambda a, b, axis: a.sum(axis) / b.sum(axis)  # noqa: E731
    options = dict(paired=True, n_resamples=1000, rng=np.random.default_rng(0))
    expected = stats.bootstrap((pairs[:, 0], pairs[:, 1]), share, **options).confidence_interval
    found = bootstrap(data, mean, Resampling(groups=groups))[0]
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-10)


def test_blocks_of_a_series_find_the_standard_error_that_rows_alone_miss():
    generator, n, phi = np.random.default_rng(0), 6000, 0.8
    noise, series = generator.normal(size=n), np.zeros(n)
    for t in range(1, n):
        series[t] = phi * series[t - 1] + noise[t]
    true = 1 / (1 - phi) / math.sqrt(n)  # of the mean of an autoregression
    found = bootstrap(series[:, None], mean, Resampling(block=60))[0]
    assert (found.high - found.low) / (2 * 1.96 * true) == pytest.approx(1, abs=0.25)
    rows = bootstrap(series[:, None], mean)[0]
    assert (rows.high - rows.low) / (2 * 1.96 * true) < 0.45
    # Blocks wrap around: the mean of all draws is the mean of the rows, here of a trend.
    trend = bootstrap(np.arange(1000.0)[:, None], mean, Resampling(block=30))[0]
    assert (trend.low + trend.high) / 2 == pytest.approx(trend.value, abs=0.1 * (trend.high - trend.low))


def test_draws_of_blocks_are_the_means_of_rows_that_follow_each_other_around_the_end():
    data = np.random.default_rng(1).normal(size=(20, 2))
    drawn = np.concatenate(list(_Units.of(data.T, Resampling(block=3), None)[0].drawn(50, np.random.default_rng(4))))
    starts = np.random.default_rng(4).integers(20, size=(50, 7))
    rows = (starts[:, :, None] + np.arange(3)) % 20
    np.testing.assert_allclose(drawn, data[rows.reshape(50, -1)].mean(1), rtol=1e-10)


def test_there_are_no_more_units_than_the_rule_says_and_they_are_of_equal_size():
    data = np.random.default_rng(1).normal(size=(3 * UNITS + 7, 1))
    for groups in (None, np.arange(len(data)) // 2):
        units, _ = _Units.of(data.T, Resampling(groups=groups), np.random.default_rng(0))
        assert len(units.sums) == units.count == UNITS
        assert units.sizes.max() - units.sizes.min() <= 2 and units.sizes.sum() == len(data)
        assert units.sums.sum() == pytest.approx(data.sum())
    assert _Units.of(data.T, Resampling(block=2), None)[0].count <= UNITS


def test_a_share_of_all_rows_has_the_exact_interval_where_no_draw_differs():
    sure = ClassEvaluation.of(np.tile([0.9, 0.1], (30, 1)), np.zeros(30, dtype=int))
    found = score_intervals(sure)["accuracy"]
    exact = stats.binomtest(30, 30).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_a_score_that_is_unknown_or_infinite_has_no_interval_and_spoils_no_other():
    evaluation = regression(50)
    lost = Evaluation(
        **evaluation.arrays()
        | {"nll": np.full((50, 1), np.nan), "crps": np.where(np.arange(50) == 3, np.inf, 1.0)[:, None]}
    )
    found = score_intervals(lost)
    assert math.isnan(found["nll"].value) and math.isnan(found["nll"].low)
    assert math.isinf(found["crps"].value) and math.isnan(found["crps"].high)
    assert found["rmse"] == score_intervals(evaluation)["rmse"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (dict(groups=[0, 1], block=2), "got both; choose one"),
        (dict(confidence=95), "must lie between 0 and 1, got 95"),
        (dict(draws=0), "draws must be at least 1"),
        (dict(block=0), "a block holds at least 1 row, got 0"),
        (dict(groups=[1, 2, 3]), r"the group of each of 5 rows, got labels of shape \(3,\)"),
        (dict(groups=[7] * 5), "nothing varies among 1 group"),
        (dict(block=3), "nothing varies among 1 block of 3 rows"),
    ],
)
def test_bad_plans_are_refused_with_the_remedy(plan, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(np.arange(5.0)[:, None], mean, Resampling(**plan))


def test_one_row_or_other_rows_are_refused():
    with pytest.raises(ValueError, match="nothing varies among 1 row"):
        bootstrap(np.ones((1, 1)), mean)
    with pytest.raises(ValueError, match="the same rows"):
        skill_intervals(regression(20), regression(20, seed=1))
    with pytest.raises(ValueError, match="the same rows"):
        difference_intervals(regression(20), classes(20))


@pytest.mark.slow
def test_a_million_rows_take_a_second_or_two():
    small = regression(2)
    column = np.random.default_rng(0).random((1_000_000, 1))
    evaluation = Evaluation(**{name: column for name in small.arrays()})
    start = time.perf_counter()
    score_intervals(evaluation)
    assert time.perf_counter() - start < 5


def test_the_unit_of_a_loss_however_large_is_that_of_its_interval():
    losses = np.random.default_rng(0).exponential(size=(50, 1))
    one, large = (bootstrap(scale * losses, lambda means: means)[0] for scale in (1.0, 1e200))
    assert (large.low / 1e200, large.high / 1e200) == pytest.approx((one.low, one.high), rel=1e-12)
