"""Nonlinear problems: manufactured solutions, and an iteration that cannot succeed."""

import pytest
import torch

from kernelfield.core.numerics import NotConverged
from kernelfield.pde.benchmarks import benchmarks, manufactured
from kernelfield.pde.newton import solve_newton
from kernelfield.pde.problem import Nonlinear, Problem, Term


def exact(X):
    return 2 * (3 * X[:, 0]).sin()


FORMS = {
    "cubic": ([Term(1.0, (2,))], lambda u: -(u**3)),
    "exponential": ([Term(1.0, (2,))], lambda u: -u.exp()),
    "transport": ([Term(-0.5, (2,))], Nonlinear(lambda X, u, u_x: u * u_x, ((0,), (1,)))),
    "slope alone": ([Term(1.0, (2,))], Nonlinear(lambda X, u_x: X[:, 0] * u_x**2, ((1,),))),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_manufactured_solutions_are_found(form):
    operator, nonlinear = form
    problem = manufactured("m", exact, ((0.0, 2.0),), operator, nonlinear=nonlinear)
    solution = solve_newton(problem, grid=64, steps=10)
    assert solution.converged
    assert solution.relative_l2() < 1e-5
    assert solution.history[-1] < 1e-5 < solution.history[0]
    assert solution.coverage() > 0.9


def test_a_problem_without_solution_stops_and_says_so():
    # Bratu's equation: none beyond 3.51 exp(u).
    problem = Problem(
        "bratu", ((0.0, 1.0),), (Term(1.0, (2,)),), lambda X: 0 * X[:, 0], lambda X: 0 * X[:, 0], lambda u: 40 * u.exp()
    )
    with pytest.warns(NotConverged, match="bratu stopped after .* keeps the iterate"):
        solution = solve_newton(problem, kernel="spectral", grid=32, steps=5)
    assert not solution.converged
    assert torch.isfinite(solution.mean(problem.test_points(20))).all()


def test_a_linear_problem_is_sent_to_collocation():
    with pytest.raises(ValueError, match="linear .* solver='collocation'"):
        solve_newton(benchmarks()["P1"].problem)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A1", "A2"])
def test_allen_cahn_on_a_line_is_solved_to_its_target(name):
    assert solve_newton(benchmarks()[name].problem).relative_l2() < 1e-4
