"""The choice of a solver."""

import pytest
import torch

from kernelfield.core.contracts import Data
from kernelfield.pde.benchmarks import benchmarks
from kernelfield.pde.problem import Problem, Term
from kernelfield.pde.solve import solve, suitable

ALL = benchmarks()


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("P1", "separable"),
        ("A1", "grid_newton"),
        ("P6", "separable"),
        ("A3", "grid_newton"),
        ("L-shape", "collocation"),
    ],
)
def test_the_first_choice_suits_the_problem(name, first):
    assert suitable(ALL[name].problem)[0] == first


def test_observations_need_scattered_points():
    assert suitable(ALL["P6"].problem, Data(torch.rand(3, 2), torch.rand(3, 1))) == ["collocation"]


@pytest.mark.parametrize(
    ("name", "solver", "sentence"),
    [
        ("A1", "collocation", "'collocation' cannot do A1, which has a nonlinear equation; take 'grid_newton'"),
        ("L-shape", "separable", "a linear equation and a domain that is no box; take 'collocation'"),
        ("P1", "galerkin", "solver must be 'auto', 'collocation'.* got 'galerkin'"),
    ],
)
def test_a_solver_that_cannot_is_refused_with_one_that_can(name, solver, sentence):
    with pytest.raises(ValueError, match=sentence):
        solve(ALL[name].problem, solver=solver)


def test_solvers_agree_and_name_themselves():
    def exact(X):
        return (9 * X[:, 0]).sin()

    problem = Problem("s", ((0.0, 1.0),), (Term(1.0, (2,)),), lambda X: -81 * exact(X), exact, exact=exact)
    one, two = solve(problem, solver="collocation", grid=32), solve(problem, grid=32)
    X = problem.test_points(20)
    assert torch.allclose(one.mean(X), two.mean(X), atol=1e-4)
    assert one.method.startswith("collocation")
    assert two.method.startswith("grid")
    with pytest.raises(ValueError, match="chooses its own kernel"):
        solve(problem, solver="separable", kernel="spectral")
