"""Martingales are those of their recursions, p-values uniform, and capital is seldom large by chance."""

import numpy as np
from scipy import stats

from kernelfield.uq.diagnosis.martingale import BETS, BINS, JUMP, capital, conformal, exceeded, histogram, jumper


def test_ranks_are_counted_as_by_a_double_loop():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 64, 257):
        ranks = rng.permutation(n)
        assert exceeded(ranks).tolist() == [int((ranks[:i] > ranks[i]).sum()) for i in range(n)]


def test_p_values_of_exchangeable_scores_are_uniform_and_independent_with_ties_too():
    rng = np.random.default_rng(1)
    for scores in (rng.standard_normal(5000), rng.integers(0, 4, 5000).astype(float), np.zeros(5000)):
        p = conformal(scores, rng)
        assert stats.kstest(p, "uniform").pvalue > 1e-3
        assert abs(stats.spearmanr(p[1:], p[:-1]).statistic) < 4 / 5000**0.5


def test_the_jumper_is_its_recursion():
    p = np.random.default_rng(2).random(1300) ** 1.4
    held, expected = np.full(3, 1 / 3), []
    for one in p:
        held = ((1 - JUMP) * held + JUMP * held.mean()) * (1 + BETS * (one - 0.5))
        expected.append(np.log(held.sum()))
    np.testing.assert_allclose(jumper(p), expected, atol=1e-9)


def test_the_histogram_is_its_recursion():
    p = np.random.default_rng(3).random(300)
    counts, total, expected = np.ones(BINS), 0.0, []
    for one in p:
        place = int(one * BINS)
        total += np.log(BINS * counts[place] / counts.sum())
        counts[place] += 1
        expected.append(total)
    np.testing.assert_allclose(histogram(p), expected, atol=1e-9)


def test_capital_is_one_on_average():
    rng = np.random.default_rng(4)
    last = np.exp([capital(rng.random(20))[-1] for _ in range(4000)])
    assert abs(last.mean() - 1) < 6 * last.std() / 4000**0.5
