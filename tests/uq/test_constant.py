"""One width for all rows is learned from rows it is not measured on, and is no worse than spreads that say nothing."""

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.constant import constant_spread
from tests.uq.diagnosis.worlds import gaussian


def simulated(n: int, varies: bool, seed: int = 0):
    rng = np.random.default_rng(seed)
    said = rng.uniform(0.3, 2, n)
    true = said if varies else np.full(n, np.sqrt(np.mean(said**2)))
    return gaussian(true * rng.normal(size=n), np.zeros(n), said)


def test_each_half_has_the_deviation_of_the_other():
    one = simulated(200, True)
    found = constant_spread(one, seed=4)
    first = np.zeros(200, dtype=bool)
    first[np.random.default_rng(4).permutation(200)[:100]] = True
    error = one.y[:, 0]
    std = np.where(first, np.sqrt(np.mean(error[~first] ** 2)), np.sqrt(np.mean(error[first] ** 2)))
    oracle = gaussian(error, np.zeros(200), std)
    assert found.std == pytest.approx((std[first][0], std[~first][0]))
    for name, value in oracle.scores().items():
        assert found.scores[name] == pytest.approx(value, rel=1e-6), name
    assert found.skill["crps"].value == pytest.approx(1 - one.crps.mean() / oracle.crps.mean(), rel=1e-6)
    ranked = [np.sort(np.abs(error[half]))[90] for half in (~first, first)]  # the 91st of 100
    reach = np.where(first, *ranked)
    score = 2 * reach + 20 * np.maximum(np.abs(error) - reach, 0)
    assert found.skill["conformal90"].value == pytest.approx(1 - one.interval.mean() / score.mean())


def test_spreads_that_know_are_worth_something_and_those_that_do_not_are_not():
    knows, not_knows = (constant_spread(simulated(2000, varies)) for varies in (True, False))
    assert all(gain.low > 0 for gain in knows.skill.values())
    assert all(gain.high < 0 for gain in not_knows.skill.values())
    assert "worth something" in knows.sentence and "lower" in knows.sentence
    assert "are worse than one" in not_knows.sentence and "higher" in not_knows.sentence


def test_few_rows_and_no_errors_have_none():
    assert constant_spread(simulated(19, True)) is None
    assert constant_spread(simulated(20, True)) is not None
    assert constant_spread(gaussian(np.zeros(50), np.zeros(50), stats.uniform.rvs(1, 1, 50, random_state=0))) is None
