"""Newton's method on grids against manufactured solutions and closed forms."""

import math

import pytest
import torch

from kernelfield.core.numerics import NotConverged
from kernelfield.pde.benchmarks import benchmarks
from kernelfield.pde.grid_newton import newton_on_grid
from kernelfield.pde.problem import Nonlinear, Problem, Term

LAPLACE = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))
SQUARE = ((0.0, 1.0), (0.0, 1.0))


def cubic(strength):
    """u_xx + u_yy - strength u^3 = f with u = 2 sin 7x cos 5y."""

    def exact(X):
        return 2 * (7 * X[:, 0]).sin() * (5 * X[:, 1]).cos()

    def source(X):
        return -74 * exact(X) - strength * exact(X) ** 3

    return Problem("cubic", SQUARE, LAPLACE, source, exact, nonlinear=lambda u: -strength * u**3, exact=exact)


def test_a_strong_nonlinearity_is_solved_with_quadratic_convergence():
    solution = newton_on_grid(cubic(20.0))
    assert solution.converged and solution.message == ""
    assert solution.relative_l2() < 1e-6
    last = [h for h in solution.history if h < 0.1]
    assert last[1] < 5 * last[0] ** 1.5 + 1e-9


def test_allen_cahn_of_high_frequency():
    solution = newton_on_grid(benchmarks()["A3"].problem)
    assert solution.converged
    assert solution.relative_l2() < 1e-5


def test_burgers_equation_has_its_travelling_front():
    """u = c - a tanh(a (x - c t - x0) / 2 nu) is a solution of u_t + u u_x = nu u_xx without any source."""
    nu, a, c = 0.05, 0.5, 0.5

    def exact(X):
        return c - a * torch.tanh(a * (X[:, 0] - c * X[:, 1] - 0.2) / (2 * nu))

    transport = Nonlinear(lambda X, u, u_x: u * u_x, ((0, 0), (1, 0)))
    sides = dict.fromkeys(("x-", "x+", "t-"), exact)
    operator = (Term(1.0, (0, 1)), Term(-nu, (2, 0)))
    problem = Problem("front", SQUARE, operator, lambda X: 0 * X[:, 0], sides, transport, exact, axes=("x", "t"))
    solution = newton_on_grid(problem, widths=((0.3, 0.3),), nodes=40)
    assert solution.converged
    assert solution.relative_l2() < 1e-4


def test_a_problem_without_solution_stops_with_the_last_good_state_and_says_so():
    """u'' + rate exp(u) = 0 with u = 0 at both ends of [0, 1] has none above Bratu's limit, a rate of 3.51."""
    problem = Problem(
        "Bratu",
        ((0.0, 1.0),),
        (Term(1.0, (2,)),),
        lambda X: 0 * X[:, 0],
        lambda X: 0 * X[:, 0],
        nonlinear=lambda u: 8.0 * u.exp(),
    )
    with pytest.warns(NotConverged, match="Newton's method"):
        solution = newton_on_grid(problem, steps=30)
    assert not solution.converged
    assert "Newton's method" in solution.message and "relative residual" in solution.message
    assert solution.mean(torch.linspace(0, 1, 9)[:, None]).isfinite().all()
    assert solution.history[-1] == min(solution.history)


def test_bratus_equation_below_its_limit_has_its_closed_form():
    """u = -2 log(cosh((x - 1/2) theta / 2) / cosh(theta / 4)), theta = sqrt(2 rate) cosh(theta / 4)."""
    theta = 1.0
    for _ in range(200):
        theta = math.sqrt(2.0) * math.cosh(theta / 4)

    def exact(X):
        return -2 * (((X[:, 0] - 0.5) * theta / 2).cosh() / math.cosh(theta / 4)).log()

    problem = Problem(
        "Bratu",
        ((0.0, 1.0),),
        (Term(1.0, (2,)),),
        lambda X: 0 * X[:, 0],
        lambda X: 0 * X[:, 0],
        nonlinear=lambda u: u.exp(),
        exact=exact,
    )
    solution = newton_on_grid(problem)
    assert solution.converged
    assert solution.relative_l2() < 1e-6


def test_a_linear_problem_is_sent_elsewhere():
    with pytest.raises(ValueError, match="is linear, .* use solve_on_grid"):
        newton_on_grid(Problem("p", SQUARE, LAPLACE, lambda X: X[:, 0], lambda X: X[:, 0]))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        newton_on_grid(cubic(1.0), steps=0)
