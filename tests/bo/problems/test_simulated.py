"""Simulators: against other steps, closed forms and slow loops."""

import math

import numpy as np
import pytest

from kernelfield.bo.problems.catalogue import problem
from kernelfield.bo.problems.simulated import BLOWN_UP, brusselator_spread, pest_cost, visibility


@pytest.mark.slow
def test_steps_of_the_brusselator_are_fine_enough_for_four_digits() -> None:
    coarse, fine = (brusselator_spread(1.0, 3.0, 1.0, 0.1, step=step) for step in (1e-2, 1e-3))
    assert coarse == pytest.approx(fine, rel=2e-4)  # the error of explicit Euler is of first order
    assert coarse == pytest.approx(0.5669, abs=5e-5)


def test_a_brusselator_at_rest_stays_there() -> None:
    """For b < 1 + a^2 the noise dies out: u = a, v = b / a, of which the weights leave a variance."""
    a, b = 2.0, 0.4
    weight = np.full((64, 64), 0.1)
    weight[:2], weight[-2:], weight[:, :2], weight[:, -2:] = 1.0, 1.0, 1.0, 1.0
    expected = np.stack([a * weight, b / a * weight]).var(ddof=1)
    assert brusselator_spread(a, b, 4.0, 4.0) == pytest.approx(expected, rel=1e-4)


def test_a_reaction_that_blows_up_has_a_value_that_no_other_has() -> None:
    value = brusselator_spread(5.0, 0.1, 0.01, 0.01, step=0.5)
    assert math.isfinite(value)
    assert value > 0.01 * BLOWN_UP**2


def test_pests_that_are_left_alone_spread_by_a_formula() -> None:
    fraction = np.random.RandomState(1).beta(1, 30, size=100)
    spread = np.random.RandomState(1).beta(1, 17 / 3, size=100)
    expected = sum(np.mean(1 - (1 - fraction) * (1 - spread) ** stage > 0.1) for stage in range(25))
    nothing = dict.fromkeys(problem("pest-control").space.parameters, 0)
    assert problem("pest-control")(nothing).values[0] == pytest.approx(expected)


def test_pests_under_control_are_those_of_a_loop_over_farms() -> None:
    actions = np.random.default_rng(0).integers(0, 5, 25).tolist()
    seed, above, price = 4, 0.0, 0.0
    used = [0] * 5
    price_of, discount = [0, 1.0, 0.8, 0.7, 0.5], [0, 0.2, 0.3, 0.3, 0.0]
    beta, learns = [0, 2 / 7, 3 / 7, 3 / 7, 5 / 7], [0, 1 / 7, 2.5 / 7, 2 / 7, 0.5 / 7]
    rates = []
    for action in actions:
        second = beta[action] + used[action] * learns[action] / 25 if action else 1.0
        rates.append(np.random.RandomState(seed).beta(1, second, size=100))
        used[action] += 1
    for farm in range(100):
        pests = np.random.RandomState(seed).beta(1, 30, size=100)[farm]
        spread = np.random.RandomState(seed).beta(1, 17 / 3, size=100)[farm]
        for action, rate in zip(actions, rates, strict=True):
            above += (pests > 0.1) / 100
            pests = (1 - rate[farm]) * pests if action else spread * (1 - pests) + pests
    for action in actions:
        price += price_of[action] * (1 - discount[action] / 25 * actions.count(action))
    assert pest_cost(actions, seed) == pytest.approx(above + price, rel=1e-12)


def test_the_interferometer_is_the_sum_over_pixels_of_two_beams() -> None:
    """The product over the axes against all 64 x 64 pixels, by complex amplitudes."""
    first, second = np.array([0.1, -0.2]), np.array([0.05, 0.15])
    axis = np.linspace(-1, 1, 64)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    window = np.exp(-((x / 2) ** 2 + (y / 2) ** 2) / 0.95**2)
    shift, wave = 0.6 * first + 0.3 * second, 12.0 * (first + second)
    one = np.exp(-(x**2 + y**2) / 0.25)
    other = np.exp(-((x - shift[0]) ** 2 + (y - shift[1]) ** 2) / 0.25) * np.exp(1j * (wave[0] * x + wave[1] * y))
    unit = 100.0 / (window * one**2).sum()
    seen = np.array([unit * (window * abs(one + other * np.exp(2j * np.pi * k / 16)) ** 2).sum() for k in range(16)])
    high, low = np.log(np.exp(seen - 400).sum()) + 400, -np.log(np.exp(-seen).sum())
    assert visibility(first, second) == pytest.approx((high - low) / (high + low), rel=1e-10)
    assert visibility(first, second) < visibility(np.zeros(2), np.zeros(2)) == pytest.approx(1.0, abs=1e-6)
