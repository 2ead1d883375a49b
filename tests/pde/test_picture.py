"""A picture shows what a table holds, and a part of it where the whole cannot be seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from kernelfield.pde.benchmarks import manufactured
from kernelfield.pde.picture import BLOCK, MANY, SHOWN, draw_solution, swings
from kernelfield.pde.problem import Term
from kernelfield.pde.solution import Solution
from kernelfield.pde.tabulated import Tabulated, tabulate


class _Known:
    """A representation whose mean is a function and whose law is not asked for."""

    def __init__(self, function):
        self.function = function

    def mean(self, X, orders):
        return self.function(X)

    def posterior(self, X, orders):
        raise NotImplementedError


def made(function, dims: int, places: int) -> tuple[Solution, Tabulated]:
    """A solution that errs by 1e-3 everywhere, with a band that says so."""
    terms = [Term(1.0, tuple(2 * (a == b) for b in range(dims))) for a in range(dims)]
    problem = manufactured("made", function, ((0.0, 1.0),) * dims, terms)
    solution = Solution(problem, _Known(lambda X: function(X) + 1e-3), "by hand", {}, 0.0, 0.0)
    table = tabulate(solution, places)
    return solution, replace(table, std=np.full_like(table.mean, 1e-3))


def drawn(function, dims: int, places: int) -> tuple[Figure, Tabulated]:
    figure, (solution, table) = Figure(), made(function, dims, places)
    draw_solution(figure, solution, table, "words")
    figure.canvas.draw()
    return figure, table


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def test_a_line_is_drawn_with_its_band_and_its_error():
    figure, table = drawn(lambda X: (5 * X[:, 0]).sin(), 1, 300)
    whole, error = figure.axes
    assert figure.get_suptitle() == "made:  u_xx = f\nwords"
    np.testing.assert_array_equal(whole.lines[0].get_ydata(), table.mean)
    np.testing.assert_array_equal(whole.lines[1].get_ydata(), table.exact)
    band = whole.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((table.mean + 1.96e-3).max())
    assert error.get_yscale() == "log"
    np.testing.assert_allclose(error.lines[0].get_ydata(), 1e-3, rtol=1e-9)
    np.testing.assert_allclose(error.lines[1].get_ydata(), 1.96e-3, rtol=1e-9)


def test_of_a_line_that_swings_often_a_part_is_drawn_with_a_few_swings():
    figure, table = drawn(lambda X: (500 * X[:, 0]).sin(), 1, 3000)
    assert swings(table) == (160,)  # 500 / pi, and the one at 0
    whole, part, _ = figure.axes
    low, high = part.get_xlim()
    assert whole.get_xlim() == (0, 1)
    assert (high - low) * 500 / np.pi == pytest.approx(SHOWN, rel=0.02)
    np.testing.assert_allclose(part.lines[0].get_ydata(), np.sin(500 * part.lines[0].get_xdata()) + 1e-3, atol=1e-12)


def test_a_plane_is_drawn_as_maps_with_colour_bars_and_labels():
    figure, table = drawn(lambda X: (3 * X[:, 0]).sin() * (4 * X[:, 1]).cos(), 2, 30)
    assert titles(figure) == ["mean", "standard deviation", "error"]
    mean = figure.axes[0]
    np.testing.assert_array_equal(mean.images[0].get_array(), table.mean.T)  # x runs to the right
    assert (mean.get_xlabel(), mean.get_ylabel()) == ("x", "y")
    assert mean.images[0].colorbar is not None
    low, high = mean.images[0].get_clim()
    assert low == -high  # white is zero


def test_of_a_plane_that_swings_often_the_largest_near_by_and_a_part_are_drawn():
    figure, table = drawn(lambda X: (300 * X[:, 0]).sin() * (200 * X[:, 1]).sin(), 2, 300)
    assert max(swings(table)) > MANY
    size, part, _, error = [axis for axis in figure.axes if axis.images]
    blocks = np.abs(table.mean).reshape(300 // BLOCK, BLOCK, -1, BLOCK).max((1, 3))
    np.testing.assert_array_equal(size.images[0].get_array(), blocks.T)
    np.testing.assert_allclose(error.images[0].get_array(), 1e-3, rtol=1e-9)
    assert part.get_xlim()[1] - part.get_xlim()[0] < 0.2
    assert "in the frame" in part.get_title()


def test_sizes_that_spread_are_drawn_on_a_logarithmic_scale_and_zeros_among_them():
    figure, (solution, table) = Figure(), made(lambda X: X[:, 0] * X[:, 1], 2, 30)
    std = np.logspace(-8, -1, 900).reshape(30, 30)
    std[0, 0] = 0
    draw_solution(figure, solution, replace(table, std=std))
    figure.canvas.draw()
    norm = figure.axes[1].images[0].norm
    assert (norm.vmin, norm.vmax) == pytest.approx((1e-5, 0.1))
    assert figure.axes[0].images[0].get_cmap().name == "cividis"  # a mean of one sign


def test_of_three_axes_the_plane_through_the_middle_of_the_last_is_drawn():
    figure, table = drawn(lambda X: X[:, 0] + torch.exp(X[:, 1] * X[:, 2]), 3, 9)
    assert titles(figure)[0] == "mean at z = 0.5"
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), table.mean[:, :, 4].T)
