"""Gaussian bumps: their derivatives, their weights in closed form, and problems solved by training them."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.pde.benchmarks import manufactured
from kernelfield.pde.gaussian_features import GaussianFeatures, solve_by_features, spread
from kernelfield.pde.problem import Problem, Term, Unknown

SQUARE = ((-1.0, 1.0), (-1.0, 1.0))
IDENTITY = [Term(1.0, (0, 0))]
HELMHOLTZ = [Term(1.0, (2, 0)), Term(1.0, (0, 2)), Term(1.0, (0, 0))]


def waves(one: float, two: float) -> Problem:
    def exact(X):
        return (one * math.pi * X[:, 0]).sin() * (two * math.pi * X[:, 1]).sin()

    return manufactured("helmholtz", exact, SQUARE, HELMHOLTZ)


def bumps(count: int) -> GaussianFeatures:
    return GaussianFeatures(2 * torch.rand(count, 2) - 1, 0.3 + 0.4 * torch.rand(count, 2))


@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (0, 2), (3, 1), (2, 2), (4, 0), (1, 4), (4, 4)])
def test_derivatives_are_those_of_automatic_differentiation(orders):
    features, X = bumps(3), (2 * torch.rand(6, 2) - 1).requires_grad_()
    for j in range(3):
        value = features(X)[:, j]
        for axis, order in enumerate(orders):
            for _ in range(order):
                value = torch.autograd.grad(value.sum(), X, create_graph=True)[0][:, axis]
        assert_close(features(X, orders)[:, j], value, rtol=1e-10, atol=1e-10)


def test_a_sum_of_five_bumps_is_recovered():
    """Weights, centres and widths of bumps that hardly overlap, from places and widths that are wrong by a tenth."""
    places = torch.tensor([[0.0, 0.0], [0.6, 0.6], [-0.6, 0.6], [0.6, -0.6], [-0.6, -0.6]])
    true = GaussianFeatures(places, 0.2 + 0.1 * torch.rand(5, 2))
    weights = 0.5 + torch.rand(5)
    problem = manufactured(
        "bumps",
        lambda X: (-0.5 * ((X[:, None] - true.centres) / true.widths).square().sum(-1)).exp() @ weights,
        SQUARE,
        IDENTITY,
    )
    start = GaussianFeatures(true.centres + 0.05 * torch.randn(5, 2), true.widths * (1 + 0.1 * torch.randn(5, 2)))
    assert solve_by_features(problem, features=start, steps=0).relative_l2() > 1e-3
    solution = solve_by_features(problem, features=start, points=15, steps=300)
    X = problem.test_points()
    assert (solution.mean(X) - problem.exact(X)).abs().max() < 1e-6


@pytest.mark.slow
def test_helmholtz_in_500_steps():
    solution = solve_by_features(waves(1, 1), features=40, steps=500)
    assert "after 500 steps" in solution.message
    assert solution.relative_l2() < 1e-3
    assert solution.history[1] < solution.history[0]
    assert 0.85 < solution.coverage() <= 1.0


def test_weights_and_their_law_are_those_of_ridge_regression():
    """Observations of u alone: the dense formula for the weights, and derivatives of the law."""
    problem = manufactured("wave", lambda X: X[:, 0].sin() * X[:, 1].cos(), SQUARE, IDENTITY)
    features = bumps(6)
    solution = solve_by_features(problem, features=features, points=8, steps=0)
    X = torch.rand(5, 2)
    law = solution.posterior(X, (1, 0))
    phi = features(X, (1, 0))
    given = solution.representation
    covariance = given.noise * torch.linalg.inv(given.factor @ given.factor.mT)
    assert_close(law.scale.to_dense(), phi @ covariance @ phi.mT, rtol=1e-6, atol=1e-12)
    assert_close(law.variance[:, 0], (phi @ covariance @ phi.mT).diagonal(), rtol=1e-6, atol=1e-12)
    assert_close(solution.mean(X, (1, 0)), phi @ given.weights)


def test_slopes_at_a_side_are_kept():
    line = ((0.0, 1.0),)
    even = GaussianFeatures(torch.linspace(-0.2, 1.2, 12)[:, None], torch.full((12, 1), 0.25))
    problem = Problem(
        "slope", line, (Term(1.0, (2,)),), lambda X: -X[:, 0].sin(), {"x-": lambda X: 0 * X[:, 0]},
        exact=lambda X: X[:, 0].sin(), slopes={"x+": lambda X: X[:, 0].cos()},
    )  # fmt: skip
    assert solve_by_features(problem, features=even, points=40, steps=40).relative_l2() < 1e-4


def test_bumps_at_random_come_from_the_generator():
    one, two = (spread(waves(1, 1), 7, torch.Generator().manual_seed(seed)) for seed in (0, 0))
    assert (one.centres == two.centres).all() and one.widths.shape == (7, 2)


@pytest.mark.parametrize(
    ("problem", "options", "words"),
    [
        (waves(1, 1), {"features": 0}, "features must be at least 1"),
        (waves(1, 1), {"steps": -1}, "steps at least 0, got 100 and -1"),
        (
            Problem("cubic", SQUARE, tuple(HELMHOLTZ), lambda X: X[:, 0], lambda X: 0 * X[:, 0], lambda u: u**3),
            {},
            "cubic is nonlinear; take",
        ),
        (
            Problem("lost", SQUARE, (Term(Unknown("k", 1.0), (2, 0)),), lambda X: X[:, 0], lambda X: 0 * X[:, 0]),
            {},
            "unknown coefficients",
        ),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(problem, options, words):
    with pytest.raises(ValueError, match=words):
        solve_by_features(problem, **options)
