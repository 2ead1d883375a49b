"""A table of a solution holds what the solution says at its points."""

import numpy as np
import pytest
import torch

from kernelfield.pde.benchmarks import benchmarks, in_the_l
from kernelfield.pde.problem import Problem, Term
from kernelfield.pde.solve import solve
from kernelfield.pde.tabulated import tabulate


def sine(**changes) -> Problem:
    given = {"exact": lambda X: X[:, 0].sin()} | changes
    return Problem(
        "sine", ((0.0, 3.0),), (Term(1.0, (2,)),), lambda X: -X[:, 0].sin(), lambda X: X[:, 0].sin(), **given
    )


def test_a_table_holds_mean_deviation_and_exact_value_at_its_places():
    solution = solve(benchmarks()["heat"].problem)
    table = tabulate(solution, 7)
    assert table.names == ("x", "t")
    np.testing.assert_allclose(table.places[1], np.linspace(0, 0.5, 7))
    at = torch.tensor([[table.places[0][2], table.places[1][5]]])
    assert table.mean[2, 5] == pytest.approx(solution.mean(at).item(), abs=1e-12)
    assert table.std[2, 5] == pytest.approx(solution.variance(at).sqrt().item(), rel=1e-6)
    assert table.exact[2, 5] == pytest.approx(solution.problem.exact(at).item())
    assert table.error[2, 5] == abs(table.mean[2, 5] - table.exact[2, 5])
    assert set(table.arrays()) == {"x", "t", "mean", "std", "exact"}


def test_a_part_and_an_unknown_solution_have_what_there_is():
    table = tabulate(solve(sine(exact=None)), 5, box=[(1.0, 2.0)], spread=False)
    np.testing.assert_allclose(table.places[0], [1, 1.25, 1.5, 1.75, 2])
    np.testing.assert_allclose(table.mean, np.sin(table.places[0]), atol=1e-6)
    assert table.std is None
    assert table.error is None
    assert set(table.arrays()) == {"x", "mean"}


def test_a_solver_without_variances_gives_none():
    assert tabulate(solve(sine(), solver="map", grid=12, steps=3), 5).std is None


def test_outside_the_domain_is_nothing():
    def ramp(X):
        return X[:, 0] + 2 * X[:, 1]

    laplacian = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))
    box = ((-1.0, 1.0),) * 2
    problem = Problem("ramp", box, laplacian, lambda X: 0 * X[:, 0], ramp, exact=ramp, inside=in_the_l)
    table = tabulate(solve(problem, grid=6), 9, spread=False)
    x, y = np.meshgrid(*table.places, indexing="ij")
    outside = (x > 0) & (y < 0)
    assert (np.isnan(table.mean) == outside).all()
    np.testing.assert_allclose(table.exact[~outside], (x + 2 * y)[~outside])
