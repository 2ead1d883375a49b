"""Linear problems on grids against manufactured solutions, series and refusals."""

import math

import pytest
import torch

from kernelfield.pde.benchmarks import benchmarks, manufactured
from kernelfield.pde.discretisation import conditions
from kernelfield.pde.problem import Problem, Term, Unknown
from kernelfield.pde.separable import solve_on_grid

LAPLACE = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))
SQUARE = ((0.0, 1.0), (0.0, 1.0))
WIDE = ((0.0, 2 * math.pi), (0.0, 2 * math.pi))


def zero(X):
    return 0 * X[:, 0]


def wave(a, b):
    """sin(a x + b y)."""
    return lambda X: (a * X[:, 0] + b * X[:, 1]).sin()


CASES = {
    "other frequencies": (
        manufactured("p", lambda X: (37 * X[:, 0]).sin() * (73 * X[:, 1]).cos(), WIDE, LAPLACE),
        1e-7,
    ),
    "anisotropic, with drift and decay": (
        manufactured(
            "p",
            wave(30, 11),
            ((0.0, 1.0), (0.0, 3.0)),
            [Term(1.0, (2, 0)), Term(50.0, (0, 2)), Term(3.0, (1, 0)), Term(-7.0, (0, 0))],
        ),
        1e-6,
    ),
    "Helmholtz without a source": (manufactured("p", wave(18, 24), SQUARE, [*LAPLACE, Term(900.0, (0, 0))]), 1e-6),
    "coefficients of all axes and a mixed derivative": (
        manufactured(
            "p",
            lambda X: (20 * X[:, 0]).sin() * (13 * X[:, 1]).cos(),
            SQUARE,
            [
                Term(lambda X: 1 + 0.5 * (5 * X[:, 0] + 3 * X[:, 1]).sin(), (2, 0)),
                Term(lambda X: X[:, 0].exp(), (0, 2)),
                Term(0.5, (1, 1)),
            ],
        ),
        1e-6,
    ),
    "a boundary layer": (
        manufactured("p", lambda X: (40 * X[:, 0]).sin() * (-40 * X[:, 1]).exp(), SQUARE, LAPLACE),
        1e-4,
    ),
    "polynomials": (manufactured("p", lambda X: X[:, 0] ** 3 * X[:, 1] + 5 * X[:, 1] ** 4, SQUARE, LAPLACE), 1e-6),
    "three axes": (
        manufactured(
            "p",
            lambda X: (12 * X[:, 0]).sin() * (9 * X[:, 1]).cos() * (5 * X[:, 2] + 1).sin(),
            ((0.0, 1.0),) * 3,
            [Term(1.0, (2, 0, 0)), Term(1.0, (0, 2, 0)), Term(1.0, (0, 0, 2))],
        ),
        1e-5,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_manufactured_solution_is_found_with_default_settings(name):
    problem, limit = CASES[name]
    solution = solve_on_grid(problem)
    assert solution.converged
    assert solution.relative_l2() < limit
    assert solution.offset_residual < 1e-2
    assert all(math.isfinite(value) for value in solution.condition.values())


# The targets of the published comparison are 1e-5, 1e-4, 1e-3, 5e-6 and 5e-6.
@pytest.mark.parametrize(("name", "limit"), [("P6", 1e-8), ("P7", 1e-5), ("T1", 1e-6), ("P1", 1e-8), ("P4", 5e-6)])
def test_published_problems_are_solved_with_default_settings(name, limit):
    assert solve_on_grid(benchmarks()[name].problem).relative_l2() < limit


def test_corner_singularities_are_borne():
    """-u_xx - u_yy = 1, zero on the square's edges: u has r^2 log r at the corners; against its Fourier series."""

    def exact(X):
        total = X[:, 0] * (1 - X[:, 0]) / 2
        for k in range(1, 400, 2):
            a = k * math.pi
            rise = ((-a * X[:, 1]).exp() + (-a * (1 - X[:, 1])).exp()) / (1 + math.exp(-a))
            total -= 4 / a**3 * (a * X[:, 0]).sin() * rise
        return total

    problem = Problem("torsion", SQUARE, LAPLACE, lambda X: -torch.ones(len(X)), zero, exact=exact)
    solution = solve_on_grid(problem)
    assert solution.relative_l2(problem.test_points(60)) < 1e-6
    assert solution.coverage(problem.test_points(60)) > 0.9


def test_time_is_an_axis_and_its_end_is_not_asked_for():
    problem = benchmarks()["heat"].problem
    solution = solve_on_grid(problem)
    assert solution.relative_l2() < 1e-4
    kinds = {c.side for axis in conditions(problem) for c in axis}
    assert "t-" in kinds and "t+" not in kinds


def test_the_wave_equation_takes_value_and_speed_at_the_start():
    def exact(X):
        return (3 * math.pi * X[:, 0]).sin() * (6 * math.pi * X[:, 1]).cos()

    operator = (Term(1.0, (0, 2)), Term(-4.0, (2, 0)))
    sides = dict.fromkeys(("x-", "x+", "t-"), exact)
    problem = Problem("string", SQUARE, operator, zero, sides, exact=exact, axes=("x", "t"), slopes={"t-": zero})
    assert solve_on_grid(problem).relative_l2() < 1e-4


def test_slopes_at_the_boundary_are_met():
    def exact(X):
        return (7 * X[:, 0]).cos() * (5 * X[:, 1]).sin()

    def slope(X):
        return -7 * (7 * X[:, 0]).sin() * (5 * X[:, 1]).sin()

    sides = dict.fromkeys(("x-", "y-", "y+"), exact)
    problem = Problem("p", SQUARE, LAPLACE, lambda X: -74 * exact(X), sides, exact=exact, slopes={"x+": slope})
    solution = solve_on_grid(problem)
    assert solution.relative_l2() < 1e-5
    edge = torch.tensor([[1.0, 0.3], [1.0, 0.8]])
    assert (solution.mean(edge, (1, 0)) - slope(edge)).abs().max() < 1e-4


@pytest.mark.parametrize(("speed", "side"), [(2.0, "y-"), (-2.0, "y+")])
def test_transport_takes_values_where_the_flow_comes_in(speed, side):
    def exact(X):
        return (X[:, 0] * 3 - X[:, 1] * 3 / speed).sin()

    problem = Problem("flow", SQUARE, (Term(1.0, (1, 0)), Term(speed, (0, 1))), zero, exact, exact=exact)
    assert [[c.side for c in axis] for axis in conditions(problem)] == [["x-"], [side]]
    solution = solve_on_grid(problem)
    assert solution.relative_l2() < 1e-4
    assert "were not used" in solution.message


def test_widths_are_chosen_without_the_exact_solution():
    problem, _ = CASES["a boundary layer"]
    blind = Problem(problem.name, problem.domain, problem.operator, problem.source, problem.boundary)
    assert solve_on_grid(blind).method == solve_on_grid(problem).method


def test_what_a_grid_cannot_do_is_refused():
    source, boundary = lambda X: X[:, 0], lambda X: X[:, 0]
    given = {"source": source, "boundary": boundary}
    with pytest.raises(ValueError, match="is nonlinear, .* use newton_on_grid"):
        solve_on_grid(Problem("p", SQUARE, LAPLACE, **given, nonlinear=lambda u: u**2))
    with pytest.raises(ValueError, match="is no box, .* use collocation"):
        solve_on_grid(Problem("p", SQUARE, LAPLACE, **given, inside=lambda X: X[:, 0] < 2))
    with pytest.raises(ValueError, match=r"unknown coefficients \(k\)"):
        solve_on_grid(Problem("p", SQUARE, (*LAPLACE, Term(Unknown("k", 1.0), (0, 0))), **given))
    with pytest.raises(ValueError, match="order 2 along y and 1 boundary conditions"):
        solve_on_grid(Problem("p", SQUARE, LAPLACE, source, {s: boundary for s in ("x-", "x+", "y-")}))
    with pytest.raises(ValueError, match=r"at least 8 for each of 2 axes, got 5"):
        solve_on_grid(Problem("p", SQUARE, LAPLACE, **given), nodes=5)
    with pytest.raises(ValueError, match="noise must be a variance, .* got -1"):
        solve_on_grid(Problem("p", SQUARE, LAPLACE, **given), noise=-1.0)
    with pytest.raises(ValueError, match="widths must hold at least one pair"):
        solve_on_grid(Problem("p", SQUARE, LAPLACE, **given), widths=())
