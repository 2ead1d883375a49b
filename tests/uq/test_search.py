"""A course says what its trials amount to: best values, regret, fronts, and how right the surrogate was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from botorch.utils.multi_objective.hypervolume import Hypervolume
from botorch.utils.multi_objective.pareto import is_non_dominated
from scipy import stats

from kernelfield.uq.search import Course, Parameter
from tests.uq.courses import SPACE, course


def plain(values, directions, **more) -> Course:
    """Of trials that are all complete unless said otherwise."""
    n = len(values)
    given = {"states": ["complete"] * n} | more
    return Course([SPACE[0]], [{"x<1>": 0.5}] * n, np.reshape(values, (n, -1)), directions, **given)


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_the_best_so_far_is_of_finished_and_feasible_trials(direction, sign):
    made = plain(
        sign * np.array([np.nan, 5.0, 1.0, 4.0, -np.inf, 3.0, 0.0, 2.0]),
        [direction],
        states=["failed", "complete", "complete", "complete", "complete", "complete", "pruned", "complete"],
        constraints=np.array([[0.0], [0.0], [0.1], [0.0], [0.0], [-1.0], [0.0], [np.nan]]),
        optimum=sign * 2.5,
    )
    assert made.best_so_far == pytest.approx(sign * np.array([np.nan, 5, 5, 4, 4, 3, 3, 3]), nan_ok=True)
    assert made.regret == pytest.approx(np.array([np.nan, 2.5, 2.5, 1.5, 1.5, 0.5, 0.5, 0.5]), nan_ok=True)
    assert made.best == 5
    assert made.order.tolist() == [5, 3, 1]
    assert made.counts == {"complete": 6, "failed": 1, "pruned": 1}


def test_of_equal_trials_the_first_is_the_best():
    assert plain([2.0, 1.0, 1.0], ["minimize"]).best == 1


@pytest.mark.parametrize("m", [2, 3, 4])
def test_front_and_hypervolume_are_those_of_botorch(m):
    made = course(60, m=m, constrained=True)
    signs = torch.from_numpy(made.signs)
    counted = np.flatnonzero(made.counted)
    values = signs * torch.from_numpy(made.values[counted])
    assert sorted(made.front) == counted[is_non_dominated(values, deduplicate=False).numpy()].tolist()
    volume = Hypervolume(signs * torch.from_numpy(made.corner))
    for trial in (4, 30, 59):
        so_far = values[torch.from_numpy(counted) <= trial]
        expected = volume.compute(so_far[is_non_dominated(so_far)])
        assert made.hypervolume[trial] == pytest.approx(expected, rel=1e-10)


def test_regret_of_several_objectives_is_the_volume_that_is_missing():
    made = plain([[1.0, 2.0], [2.0, 1.0]], ["maximize", "maximize"], reference=np.zeros(2), optimum=4.0)
    assert made.hypervolume.tolist() == [2.0, 3.0]
    assert made.regret.tolist() == [2.0, 1.0]


def test_five_objectives_have_a_front_and_no_hypervolume():
    made = plain([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [0, 0, 0, 0, 0]], ["maximize"] * 5, optimum=1.0)
    assert sorted(made.front) == [0, 1]
    assert made.hypervolume is None and made.regret is None


def test_scores_are_those_of_gaussians():
    made = course(40)
    rows = made.predicted(0)
    mean, std, y = made.means[rows, 0], made.stds[rows, 0], made.values[rows, 0]
    scored = made.evaluations[0]
    assert scored.nll[:, 0] == pytest.approx(-stats.norm.logpdf(y, mean, std), rel=1e-12)
    assert scored.pit[:, 0] == pytest.approx(stats.norm.cdf(y, mean, std), rel=1e-9)
    z = (y - mean) / std
    closed = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert scored.crps[:, 0] == pytest.approx(closed, rel=1e-9)
    inside = np.abs(z) <= stats.norm.ppf(0.95)
    over_time = made.coverage(0)
    assert over_time.trials.tolist() == rows.tolist()
    assert over_time.share == pytest.approx(np.cumsum(inside) / np.arange(1, len(rows) + 1))
    last = stats.binom(len(rows), 0.9)
    assert (over_time.low[-1], over_time.high[-1]) == (last.ppf(0.025) / len(rows), last.ppf(0.975) / len(rows))


def test_the_baseline_knows_only_the_trials_before():
    made = plain([4.0, 6.0, np.nan, 8.0, 7.0, 1.0], ["minimize"], means=np.full((6, 1), 5.0), stds=np.ones((6, 1)))
    heard, rule = made.baseline(0)
    assert heard.tolist() == [False, False, False, True, True]
    assert rule.mean[:, 0] == pytest.approx([6.0, 6.25])
    assert rule.std[:, 0] == pytest.approx([np.std([4, 6, 8]), np.std([4, 6, 8, 7])])


def test_a_deviation_of_zero_is_taken_as_a_small_one():
    made = plain([1.0, 2.0], ["minimize"], means=np.array([[1.0], [1.0]]), stds=np.zeros((2, 1)))
    scored = made.evaluations[0]
    assert (scored.std > 0).all()
    assert scored.coverage([0.9])[0, 0] == 0.5
    tiny = plain([1e-300, 2e-300], ["minimize"], means=np.array([[1e-300], [1e-300]]), stds=np.full((2, 1), 1e-300))
    assert (tiny.evaluations[0].std > 0).all()


def test_what_is_too_large_to_be_squared_is_not_scored():
    made = plain([1e300, 2e300], ["minimize"], means=np.array([[1e300], [1.0]]), stds=np.full((2, 1), 1e299))
    assert made.evaluations == [None]
    apart = 0.9 * np.finfo(float).max ** 0.5  # the square of either is a number, that of their difference none
    made = plain([-apart, -apart], ["minimize"], means=np.full((2, 1), apart), stds=np.ones((2, 1)))
    assert made.evaluations == [None]


def test_an_acquisition_that_chooses_the_trials_does_not_spoil_the_calibration_of_a_right_surrogate():
    """Forty arms with standard normal means, noise 0.5, chosen by an upper confidence bound: the laws are exact."""
    rng = np.random.default_rng(5)
    pit = []
    for _ in range(100):
        truth, mean, precision = rng.standard_normal(40), np.zeros(40), np.ones(40)
        means, stds, values = [], [], []
        for _ in range(30):
            arm = int(np.argmax(mean + 2 / np.sqrt(precision)))
            y = truth[arm] + 0.5 * rng.standard_normal()
            means.append(mean[arm]), stds.append(np.sqrt(1 / precision[arm] + 0.25)), values.append(y)
            mean[arm] = (precision[arm] * mean[arm] + y / 0.25) / (precision[arm] + 4)
            precision[arm] += 4
        made = plain(values, ["maximize"], means=np.array(means)[:, None], stds=np.array(stds)[:, None])
        pit.append(made.evaluations[0].pit[:, 0])
    assert stats.kstest(np.concatenate(pit), "uniform").pvalue > 1e-3
    held = np.mean(np.abs(2 * np.concatenate(pit) - 1) <= 0.9)
    assert held == pytest.approx(0.9, abs=6 * np.sqrt(0.09 / 3000))


@pytest.mark.parametrize(
    ("parameter", "value", "place"),
    [
        (SPACE[0], -5.0, 0.0),
        (SPACE[0], 2.5, 0.5),
        (SPACE[1], 0.01, 0.5),
        (SPACE[1], 0.0, np.nan),
        (SPACE[2], 64, 1.0),
        (SPACE[3], "relu", 0.0),
        (SPACE[3], None, 2 / 3),
        (SPACE[3], True, 1.0),
        (SPACE[3], 1, np.nan),
        (SPACE[3], "other", np.nan),
        (SPACE[0], None, np.nan),
        (Parameter("x", "real", 2.0, 2.0), 2.0, 0.5),
        (Parameter("x", "categorical", choices=("a",)), "a", 0.0),
    ],
)
def test_values_have_places_between_the_ends(parameter, value, place):
    assert parameter.place(value) == pytest.approx(place, nan_ok=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x", "float", 0, 1), "must be one of real, log, integer, categorical, got 'float'"),
        (("x", "real", 1, 0), "from a lower to a higher end, got 1 to 0"),
        (("x", "log", 0, 1), "must begin above 0, got 0"),
        (("x", "categorical"), "'x' needs its choices"),
    ],
)
def test_a_parameter_has_a_kind_and_ends(arguments, words):
    with pytest.raises(ValueError, match=words):
        Parameter(*arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": np.zeros((3, 1))}, r"values must have the shape \(8, 1\) of 8 trials, got \(3, 1\)"),
        ({"states": ["done"] * 8}, "must be one of complete, failed, pruned, running, got 'done'"),
        ({"directions": ["down"]}, "must be one of minimize, maximize, got 'down'"),
        ({"stds": None}, "together or not at all"),
        ({"stds": -np.ones((8, 1))}, "stds must not be negative, got -1"),
        ({"messages": ["a"]}, "need 8 states, 8 messages and 1 names of objectives, got 8, 1 and 1"),
        ({"constraints": np.zeros(8)}, r"constraints must have a row for each of 8 trials, got \(8,\)"),
        ({"seconds": np.zeros(2)}, "seconds must have the shape"),
    ],
)
def test_a_course_whose_parts_disagree_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(course(8), **change)
