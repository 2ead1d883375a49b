"""The optimiser: finds minima, respects bounds, says how it went, and survives failures."""

import logging
import math

import numpy as np
import pytest

from kernelfield.core.numerics import NotConverged, NotPositiveDefinite
from kernelfield.models.fit import minimise

BOX = [(-5.0, 5.0)] * 2


def bowl(theta):
    gap = theta - np.array([1.0, -2.0])
    return float(gap @ gap), 2 * gap


def test_a_bowl_is_solved_and_recorded():
    end, searches = minimise(bowl, [np.zeros(2), np.array([4.0, 4.0])], BOX, 100, label="bowl")
    np.testing.assert_allclose(end, [1.0, -2.0], atol=1e-5)
    assert [s.converged for s in searches] == [True, True]
    assert searches[0].first == 5.0
    assert searches[1].last < 1e-9


def test_the_best_of_several_ends_is_returned():
    def two_wells(theta):
        x = theta[0]
        return float(x**4 - 2 * x**2 + 0.3 * x), np.array([4 * x**3 - 4 * x + 0.3])

    end, searches = minimise(two_wells, [np.array([0.95]), np.array([-1.2])], [(-3.0, 3.0)], 100, label="wells")
    assert end[0] < 0
    assert searches[1].last < searches[0].last - 0.1


def test_a_minimum_outside_is_sought_at_the_bound_and_counts_as_converged():
    end, searches = minimise(bowl, [np.zeros(2)], [(-5.0, 0.5), (-1.0, 5.0)], 100, label="bound")
    np.testing.assert_allclose(end, [0.5, -1.0])
    assert searches[0].slope < 1e-8


def test_a_wall_where_the_objective_fails_is_walked_around():
    def walled(theta):
        if theta[0] > 1.5:
            raise NotPositiveDefinite("too far")
        return bowl(theta)

    end, _ = minimise(walled, [np.array([-4.0, 0.0])], BOX, 100, label="wall")
    np.testing.assert_allclose(end, [1.0, -2.0], atol=1e-4)


def test_a_start_that_fails_gives_way_to_one_that_does_not():
    def half(theta):
        return (math.nan, theta) if theta[0] < -3 else bowl(theta)

    end, searches = minimise(half, [np.array([-4.0, 0.0]), np.zeros(2)], BOX, 100, label="half")
    np.testing.assert_allclose(end, [1.0, -2.0], atol=1e-5)
    assert not searches[0].converged


def test_no_start_at_all_is_an_error_with_the_reason_and_the_remedy():
    def never(theta):
        raise NotPositiveDefinite("smallest eigenvalue -3")

    with pytest.raises(NotPositiveDefinite, match="any of 1 starts .*eigenvalue -3.*raise the noise"):
        minimise(never, [np.zeros(2)], BOX, 100, label="never")


def rosenbrock(theta):
    x, y = theta
    slope = np.array([-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)])
    return float(100 * (y - x**2) ** 2 + (1 - x) ** 2), slope


def test_a_budget_that_ran_out_far_from_the_goal_is_warned_of(monkeypatch):
    monkeypatch.setattr("kernelfield.models.fit.EARLY", 5)
    with pytest.warns(NotConverged, match="stopped after 5 steps with a slope of .* left; raise steps"):
        minimise(rosenbrock, [np.array([-1.2, 1.0])], BOX, 5, label="short")


def test_a_small_budget_is_a_wish_and_not_warned_of():
    _, searches = minimise(rosenbrock, [np.array([-1.2, 1.0])], BOX, 3, label="short")
    assert not searches[0].converged


def test_progress_is_logged(caplog):
    with caplog.at_level(logging.INFO, "kernelfield.models.fit"):
        minimise(rosenbrock, [np.array([-1.2, 1.0])], BOX, 50, label="valley")
    assert "valley, start 1 of 1, step 10: log posterior" in caplog.text
