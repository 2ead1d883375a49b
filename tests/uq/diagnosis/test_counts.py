"""Laws of counts are those of scipy and of enumeration, and joint tests are exact."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import multitest

from kernelfield.uq.diagnosis import counts
from kernelfield.uq.diagnosis.counts import FLOOR, binomial, holm, joint_p_value, poisson_binomial, stated


@pytest.mark.parametrize(("n", "p"), [(7, 0.9), (400, 0.5), (100_000, 0.9)])
def test_a_binomial_has_the_tails_of_scipy(n, p):
    law, expected = binomial(n, p), stats.binom(n, p)
    for x in (int(expected.ppf(q)) for q in (1e-4, 0.3, 0.5, 0.99)):
        assert law.p_below(x) == pytest.approx(expected.cdf(x), rel=1e-9)
        assert law.p_above(x) == pytest.approx(expected.sf(x - 1), rel=1e-9)
    assert (law.mean, law.variance) == pytest.approx((n * p, n * p * (1 - p)))
    assert law.band(0.95) == (expected.ppf(0.025), expected.ppf(0.975))


def test_a_poisson_binomial_is_the_sum_over_all_outcomes():
    p = np.array([0.1, 0.35, 0.5, 0.8, 0.99, 1.0, 0.0])
    expected = np.zeros(8)
    for coins in product((0, 1), repeat=7):
        expected[sum(coins)] += np.prod(np.where(coins, p, 1 - p))
    np.testing.assert_allclose(poisson_binomial(p).mass, expected, atol=1e-15)


@pytest.mark.parametrize(("low", "tolerance"), [(0.999, 1e-6), (0.9, 1e-6), (0.3, 0.05)])
def test_many_coins_have_the_tail_of_as_many_convolutions(low, tolerance, monkeypatch):
    p = np.random.default_rng(0).uniform(low, 1, 20_000)
    law = poisson_binomial(p)
    monkeypatch.setattr(counts, "EXACT", 10**9)
    exact = poisson_binomial(p)
    for q in (-3.5, -2.0, 2.0, 3.0):
        x = int(p.sum() + q * exact.variance**0.5)
        assert law.p_below(x) == pytest.approx(exact.p_below(x), rel=tolerance)


def test_a_joint_test_is_the_sum_over_all_outcomes():
    coins, observed = ((12, 0.9), (5, 0.9), (9, 0.5)), (8, 4, 7)
    laws = [binomial(n, p) for n, p in coins]
    terms = [np.rint((np.arange(n + 1) - n * p) ** 2 / (n * p * (1 - p)) / 0.01) for n, p in coins]
    statistic = sum(term[x] for term, x in zip(terms, observed, strict=True))
    expected = sum(
        np.prod([law.mass[x] for law, x in zip(laws, xs, strict=True)])
        for xs in product(range(13), range(6), range(10))
        if sum(term[x] for term, x in zip(terms, xs, strict=True)) >= statistic
    )
    found = joint_p_value(observed, laws)
    assert found == (pytest.approx(statistic * 0.01), pytest.approx(expected, rel=1e-9))


def test_many_rows_give_the_chi_square_law():
    laws = [binomial(50_000, 0.9)] * 6
    statistic, p_value = joint_p_value([45_000 + 67 * sign for sign in (1, -1, 2, -2, 1, 0)], laws)
    assert p_value == pytest.approx(stats.chi2.sf(statistic, 6), rel=0.02)  # of a skewness of 0.01


def test_what_cannot_happen_has_no_probability_and_what_must_is_no_evidence():
    sure = poisson_binomial(np.ones(5))
    assert joint_p_value([5], [sure]) == (0.0, 1.0)
    assert joint_p_value([4], [sure])[1] == FLOOR


def test_holm_is_that_of_statsmodels():
    p = np.random.default_rng(0).random(20) ** 4
    np.testing.assert_allclose(holm(p.tolist()), multitest.multipletests(p, method="holm")[1])


def test_p_values_that_are_rounding_are_equal():
    laws = [binomial(400, 0.9)] * 3
    given = [joint_p_value([360, 360, x], laws)[1] for x in range(250, 310)]
    assert set(given[:40]) == {FLOOR}
    assert all(p == FLOOR or p >= 10 * FLOOR for p in given)
    assert {stated(p) for p in given[:40]} == {"p < 1e-14"}
