"""Bands on grids against true errors, and noise in the source against simulation and dense algebra."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.pde.attempt import WIDTHS, best_attempt
from kernelfield.pde.benchmarks import benchmarks, manufactured
from kernelfield.pde.discretisation import mesh
from kernelfield.pde.grid_error import band, estimated_error, noise_draws
from kernelfield.pde.grid_newton import newton_on_grid
from kernelfield.pde.problem import Problem, Term
from kernelfield.pde.separable import _attempt, solve_on_grid

LAPLACE = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))
SQUARE = ((0.0, 1.0), (0.0, 1.0))
PROBLEMS = {
    "waves": manufactured("p", lambda X: (9 * X[:, 0]).sin() * (14 * X[:, 1]).cos(), SQUARE, LAPLACE),
    "polynomial": manufactured("p", lambda X: X[:, 0] ** 3 * X[:, 1] + 5 * X[:, 1] ** 4, SQUARE, LAPLACE),
    "layer": manufactured("p", lambda X: (40 * X[:, 0]).sin() * (-40 * X[:, 1]).exp(), SQUARE, LAPLACE),
    "variable": manufactured(
        "p",
        lambda X: (11 * X[:, 0] + 5 * X[:, 1]).sin(),
        SQUARE,
        [Term(lambda X: 1 + X[:, 0] * X[:, 1], (2, 0)), Term(1.0, (0, 2)), Term(3.0, (0, 1))],
    ),
    **{name: benchmarks()[name].problem for name in ("heat", "helmholtz", "T1", "P7", "A3")},
}


def solved(problem):
    return (solve_on_grid if problem.nonlinearity is None else newton_on_grid)(problem)


@pytest.mark.parametrize("name", PROBLEMS)
def test_bands_of_95_percent_hold_the_truth_at_so_many_points(name):
    problem = PROBLEMS[name]
    solution = solved(problem)
    X = problem.test_points(80)
    assert 0.9 <= solution.coverage(X) <= 1.0
    error = (solution.mean(X) - problem.exact(X)).square().mean().sqrt()
    # Not by being wide. A wave, its peak calibrated to 1.96 standard deviations, has a ratio up to 1.4.
    assert 0.3 < float(error / solution.variance(X).mean().sqrt()) < 1.96


@pytest.mark.parametrize("name", ["waves", "variable", "heat"])
def test_the_error_is_estimated_to_a_quarter_of_itself_at_every_scale(name):
    problem = PROBLEMS[name]
    attempt = best_attempt(problem, None, WIDTHS[:1], _attempt)
    X = problem.test_points(40)
    error = problem.exact(X) - attempt.law.mean(X, (0, 0))
    estimate = estimated_error(problem, attempt.law, attempt.layout).mean(X, (0, 0))
    assert (error - estimate).norm() < 0.25 * error.norm()


def test_derivatives_of_the_root_are_those_of_differences_also_across_the_fold():
    problem = PROBLEMS["waves"]
    attempt = best_attempt(problem, 30, WIDTHS[:1], _attempt)
    spread = band(problem, attempt.law, attempt.layout, 8, torch.Generator().manual_seed(0))
    X, h = torch.tensor([[0.013, 0.5], [0.4, 0.97], [0.6, 0.31]]), 1e-5
    step = torch.tensor([h, 0.0])
    slope = (spread.root(X + step, (0, 0)) - spread.root(X - step, (0, 0))) / (2 * h)
    assert_close(spread.root(X, (1, 0)), slope, rtol=1e-5, atol=1e-6 * float(slope.abs().max()))


def test_draws_of_the_solution_vary_as_the_variance_says_and_are_reproducible():
    problem = PROBLEMS["waves"]
    solution = solve_on_grid(problem, widths=((0.3, 0.3),))
    X = torch.tensor([[0.3, 0.2], [0.8, 0.55]])
    law = solution.posterior(X)
    samples = law.rsample((4000,), torch.Generator().manual_seed(0))[..., 0]
    share = (samples - law.mean[:, 0]).square().mean(0) / solution.variance(X)
    assert (share - 1).abs().max() < 6 * math.sqrt(2 / 4000)
    assert_close(solve_on_grid(problem, widths=((0.3, 0.3),)).variance(X), solution.variance(X))


@pytest.mark.parametrize("direct", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_noise_draws_have_the_covariance_of_the_solution_map_times_its_transpose(direct):
    coefficient = 1.0 if direct else lambda X: 1 + X.prod(1)
    problem = manufactured("p", lambda X: (4 * X[:, 0]).sin(), SQUARE, [Term(coefficient, (2, 0)), LAPLACE[1]])
    operator = best_attempt(problem, 12, ((0.3, 0.3),), _attempt).operator
    assert operator.direct is direct
    draws = 400
    spread = noise_draws(operator, 0.25, draws, torch.Generator().manual_seed(1))
    X = torch.tensor([[0.5, 0.5], [0.2, 0.7]])
    grid = operator.grid
    F = torch.eye(100).reshape(10, 10, 100)  # a source of one at each inner node in turn
    columns = [grid.free(operator.correct(grid.project(f))[0]) for f in F.unbind(-1)]
    values = [torch.stack([a.basis.at(x, 0) for a, x in zip(grid.axes, pair[:, None], strict=True)]) for pair in X]
    S = torch.stack([torch.stack([torch.einsum("ai,bj,ij->", v[0], v[1], c) for c in columns]) for v in values])
    expect = 0.25 * S.square().sum(1)
    found = spread.root(X, (0, 0)).square().sum(1)
    assert (found / expect - 1).abs().max() < 6 * math.sqrt(2 / draws)


@pytest.mark.slow
def test_bands_cover_where_the_source_is_noisy():
    """Over thirty problems with noise of their own, so that points of one solution need not be independent."""
    std, shares = 30.0, []
    clean = PROBLEMS["waves"]
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)

        def source(X, generator=generator):
            return clean.source(X) + std * torch.randn(len(X), generator=generator)

        noisy = Problem("noisy", SQUARE, LAPLACE, source, clean.exact, exact=clean.exact)
        solution = solve_on_grid(noisy, nodes=24, widths=((0.1, 0.1),), noise=std**2)
        shares.append(solution.coverage(mesh([torch.linspace(0.1, 0.9, 9)] * 2)))
    assert 0.9 < sum(shares) / len(shares) < 0.99
