"""Scores of an order: each draw is what the score itself says of the rows that were drawn."""

import numpy as np
import pytest

from kernelfield.uq.bootstrap import UNITS
from kernelfield.uq.ordered import _Kept, aurc_interval, ause_interval
from kernelfield.uq.resolution import risk, sparsified
from tests.uq.test_resolution import heteroscedastic


def test_the_score_of_weights_is_that_of_rows_repeated_as_often():
    rng = np.random.default_rng(0)
    loss, doubt, weight = rng.exponential(size=2000), rng.random(2000), rng.integers(0, 4, 2000).astype(float)
    rows = np.repeat(np.arange(2000), weight.astype(int))
    own = _Kept.of(loss, doubt).means(weight[None], lambda kept: kept)[0]
    assert own == pytest.approx(risk(loss[rows], doubt[rows]).aurc, rel=2e-3)  # repeated rows are ties there
    once = _Kept.of(loss, doubt).means(np.ones((1, 2000)), lambda kept: kept)[0]
    assert once == pytest.approx(risk(loss, doubt).aurc, rel=1e-12)


def test_rows_of_equal_doubt_share_their_losses_whatever_their_order():
    rng = np.random.default_rng(1)
    loss, doubt = rng.exponential(size=300), rng.integers(4, size=300).astype(float)
    weight = rng.integers(0, 3, (2, 300)).astype(float)
    order = rng.permutation(300)
    first = _Kept.of(loss, doubt).means(weight, np.sqrt)
    again = _Kept.of(loss[order], doubt[order]).means(weight[:, order], np.sqrt)
    np.testing.assert_allclose(first, again, rtol=1 / 300**2)  # a row that was drawn twice takes both steps at once
    assert _Kept.of(loss, doubt).means(np.ones((1, 300)), lambda kept: kept)[0] == pytest.approx(risk(loss, doubt).aurc)


def test_intervals_hold_the_truth_95_times_in_100():
    big = heteroscedastic(400_000, seed=10**6)
    truth = sparsified(big).ause
    risky = risk(np.square(big.y[:, 0]), big.std[:, 0]).aurc
    held = []
    for seed in range(60):
        one = heteroscedastic(250, seed=seed)
        error, std = one.y[:, 0], one.std[:, 0]
        first = ause_interval(sparsified(one), error, std, seed=seed)
        second = aurc_interval(risk(error**2, std), error**2, std, seed=seed)
        held.append((first.low <= truth <= first.high, second.low <= risky <= second.high))
    assert (np.mean(held, axis=0) >= 0.95 - 3.5 * (0.05 * 0.95 / 60) ** 0.5).all()


def test_many_rows_have_narrower_intervals_by_the_root_of_their_number():
    few, many = (heteroscedastic(n, seed=3) for n in (UNITS, 16 * UNITS))
    widths = []
    for one in (few, many):
        found = ause_interval(sparsified(one), one.y[:, 0], one.std[:, 0])
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.15)


def test_an_order_without_information_is_that_of_chance():
    one = heteroscedastic(400)
    std = np.full(400, 1.0)
    curve = sparsified(type(one)(**(one.arrays() | {"std": std[:, None]})))
    found = ause_interval(curve, one.y[:, 0], std)
    assert found.value == pytest.approx(found.chance) and found.low < found.chance < found.high


def test_three_rows_have_no_interval():
    found = aurc_interval(risk(np.array([0.0, 1.0, 0.0]), np.arange(3.0)), np.array([0.0, 1.0, 0.0]), np.arange(3.0))
    assert np.isnan([found.low, found.high]).all()
