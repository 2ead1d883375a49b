"""Refinement by the residual between the nodes: fronts that no data shows, and failures that are told."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from kernelfield.core.numerics import NotConverged
from kernelfield.pde.attempt import COARSE, _finer, _refined, best_attempt
from kernelfield.pde.benchmarks import manufactured, viscous_burgers
from kernelfield.pde.grid_newton import newton_on_grid
from kernelfield.pde.problem import Problem, Term
from kernelfield.pde.separable import _attempt, solve_on_grid

SQUARE = ((0.0, 1.0), (0.0, 1.0))
LAPLACE = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))


def test_a_layer_that_source_and_boundary_do_not_show_is_found():
    """u' - e u'' = 1 between zeros: u = x - (exp((x - 1) / e) - exp(-1 / e)) / (1 - exp(-1 / e))."""
    thin = 0.005

    def exact(X):
        return X[:, 0] - ((X[:, 0] - 1) / thin).exp()

    operator = (Term(-thin, (2,)), Term(1.0, (1,)))
    problem = Problem("p", ((0.0, 1.0),), operator, lambda X: torch.ones(len(X)), lambda X: 0 * X[:, 0], exact=exact)
    solution = solve_on_grid(problem)
    assert solution.converged and solution.offset_residual < COARSE
    assert solution.relative_l2() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("viscosity", [0.01, 0.02, 0.05])
def test_the_front_of_burgers_is_resolved_and_banded(viscosity):
    problem = viscous_burgers(viscosity)
    solution = newton_on_grid(problem)
    assert solution.converged
    assert solution.relative_l2(problem.test_points(80)) < 1e-5
    assert solution.coverage(problem.test_points(80)) > 0.9


def test_rounds_that_see_nothing_of_a_front_are_no_reason_to_stop(monkeypatch):
    """Scores of order one go on up to the last round, smaller ones that stall do not."""
    monkeypatch.setattr("kernelfield.pde.attempt._finer", lambda attempt: attempt.layout)

    def search(*scores):
        rest = [SimpleNamespace(score=score, problem=None, layout=0, law=None, converged=True) for score in scores]
        return _refined(rest.pop(0), lambda *_: rest.pop(0)).score

    assert search(1.0, 1.3, 0.85, 0.9, 0.05, 1e-4) == 1e-4
    assert search(0.1, 0.2, 0.1, 1e-4) == 0.1
    assert search(1.0, *[0.9] * 6, 1e-4) == 0.9


def test_only_the_axis_that_is_to_blame_is_refined():
    problem = manufactured("p", lambda X: ((X[:, 0] - 0.4) / 0.04).tanh() * X[:, 1].sin(), SQUARE, LAPLACE)
    attempt = best_attempt(problem, 100, ((0.1, 0.1),), _attempt)
    layout = _finer(attempt)
    assert layout.counts == (160, 100)
    assert layout.widths[1] == (0.1, 0.1) and layout.widths[0][0] < 0.1


def test_numbers_of_nodes_that_are_given_stay_and_a_poor_solution_is_told():
    problem = manufactured("p", lambda X: ((X[:, 0] - 0.4) / 0.02).tanh() * X[:, 1].sin(), SQUARE, LAPLACE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = solve_on_grid(problem, nodes=30)
    assert any(issubclass(one.category, NotConverged) and "does not resolve" in str(one.message) for one in caught)
    assert not solution.converged and "does not resolve" in solution.message
    assert "30 x 30" in solution.method


def test_a_regular_problem_is_solved_on_its_first_grid():
    problem = manufactured("p", lambda X: (9 * X[:, 0]).sin() * (14 * X[:, 1]).cos(), SQUARE, LAPLACE)
    assert "100 x 100" in solve_on_grid(problem).method


@pytest.mark.parametrize(
    ("u", "scale"),
    [(lambda x, y: 2 + 0 * x, 1.0), (lambda x, y: x + 2 * y + 5, 1.0), (lambda x, y: x * y, 1e-9)],
    ids=["constant", "plane", "saddle"],
)
def test_a_solution_whose_terms_all_vanish_is_solved_and_says_so(u, scale):
    """The residual is then rounding, and so is every term that it could be compared with."""
    problem = Problem(
        "Laplace",
        ((0.0, 1.0), (0.0, 3.0)),
        (Term(1.0, (2, 0)), Term(1.0, (0, 2))),
        source=lambda X: 0 * X[:, 0],
        boundary=lambda X: scale * u(*X.mT),
    )
    solution, X = solve_on_grid(problem), torch.rand(200, 2, dtype=torch.double) * torch.tensor([1.0, 3.0])
    assert solution.converged and not solution.message and solution.offset_residual < 1e-2
    gap = solution.mean(X).flatten() - scale * u(*X.mT)
    assert gap.norm() < 1e-6 * (scale * u(*X.mT)).norm()
