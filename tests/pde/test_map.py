"""The published method: its trajectory, its loss against a dense normal law, and what it refuses."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.pde.map import _Loss, _Mixture, _State, solve_map
from kernelfield.pde.problem import Problem, Term

LAPLACE = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))


def fast_sine():
    """P1: u_xx = f, u = sin(100 x)."""

    def exact(X):
        return (100 * X[:, 0]).sin()

    def source(X):
        return -1e4 * (100 * X[:, 0]).sin()

    return Problem("P1", ((0.0, 2 * math.pi),), (Term(1.0, (2,)),), source, exact, exact=exact)


# The published code names the state after k + 1 updates "step k".
@pytest.mark.parametrize(
    ("step", "error"),
    [(20, 0.755879376), (40, 0.571455014), pytest.param(95, 0.275620655, marks=pytest.mark.slow)],
)
def test_the_trajectory_is_the_published_one(step, error):
    solution = solve_map(fast_sine(), nodes=400, frequency=20.0, steps=step + 1)
    assert solution.relative_l2() == pytest.approx(error, abs=1e-6)
    assert solution.history[0] == pytest.approx(9.97500e9, rel=1e-6)


@pytest.mark.parametrize("density", ["student_t", "gaussian"])
@pytest.mark.parametrize("order", range(5))
def test_derivatives_of_the_mixture_are_those_of_autograd(density, order):
    mixture = _Mixture.of(4, 3.0, density)
    r = torch.tensor([-1.0, -0.2, 0.3, 0.9], requires_grad=True)
    value = mixture(r, 0)
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    assert_close(mixture(r, order), value)


def test_the_loss_is_minus_the_log_density_written_out():
    """On a small plane, against the normal law of all values with its Kronecker product formed."""

    def edge(X):
        return X.sum(1)

    problem = Problem("p", ((0.0, 1.0), (0.0, 2.0)), LAPLACE, lambda X: X[:, 0] * X[:, 1], edge)
    state = _State.of(problem, (6, 7), 1.5, 3, "student_t")
    with torch.no_grad():
        state.values.copy_(torch.randn(6, 7))
        state.log_tau.fill_(0.3)
        state.log_v.fill_(-0.4)
        got = float(_Loss.of(problem, state, 5.0)(state))
        K = [m.toeplitz(x, 0) + 1e-6 * torch.eye(len(x)) for m, x in zip(state.mixtures, state.nodes, strict=True)]
        D = [m.toeplitz(x, 2) @ C.inverse() for m, x, C in zip(state.mixtures, state.nodes, K, strict=True)]
        U = state.values
        law = torch.distributions.MultivariateNormal(torch.zeros(42), torch.kron(K[0], K[1]))
        prior = law.log_prob(U.flatten()) + 21 * math.log(2 * math.pi)
        x, y = state.nodes
        gaps = [U[0] - y, U[-1] - (1 + y), U[:, 0] - x, U[:, -1] - (x + 2)]
        square = sum(gap.square().sum() for gap in gaps)
        residual = D[0] @ U + U @ D[1].mT - x[:, None] * y
        edges = 13 * 0.3 - 0.5 * math.exp(0.3) * square
        equation = 21 * -0.4 - 0.5 * math.exp(-0.4) * residual.square().sum()
    assert got == pytest.approx(-float(prior + 5.0 * edges + equation), rel=1e-6)


def test_it_has_no_variance_and_says_so():
    solution = solve_map(fast_sine(), nodes=300, steps=1)
    with pytest.raises(NotImplementedError, match="has no variances; use solve_on_grid"):
        solution.variance(torch.zeros(1, 1))
    assert not solution.converged and "no criterion" in solution.message


def test_what_it_cannot_solve_is_refused():
    line = ((0.0, 1.0),)
    slope = Problem(
        "p", line, (Term(1.0, (2,)),), lambda X: X[:, 0], {"x-": lambda X: X[:, 0]}, slopes={"x+": lambda X: X[:, 0]}
    )
    with pytest.raises(ValueError, match="takes a box, values at its boundary"):
        solve_map(slope)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        solve_map(fast_sine(), steps=0)
