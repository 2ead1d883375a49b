"""Joint quantile regressions are optimal: by their conditions, by a quadratic program, by a linear one."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import QuantileRegressor
from torch.testing import assert_close

from kernelfield.models.pinball import Spectrum, pinball, solve
from kernelfield.models.quantile import closeness

LEVELS = torch.tensor([0.1, 0.5, 0.8])


def problem(n=40, similarity=5.0):
    X = torch.rand(n, 1) * 4
    Y = torch.stack([torch.sin(X[:, 0]), X[:, 0]], 1) + (0.3 + 0.3 * X) * torch.randn(n, 2)
    return (-(X - X.mT).square() / 2).exp(), closeness(LEVELS, similarity), Y, 0.5 + torch.rand(n)


def solved(K, B, Y, weight, ridge, levels=LEVELS, tolerance=1e-8, sweeps=20_000):
    found = solve(Spectrum.of(K), Spectrum.of(B), levels, Y, weight, ridge, tolerance=tolerance, sweeps=sweeps)
    return found, K @ found.coefficients @ B / ridge + found.offsets[:, None]


@pytest.mark.parametrize("ridge", [10.0, 0.3, 0.01])
def test_the_conditions_of_the_optimum_hold(ridge):
    K, B, Y, weight = problem()
    found, values = solved(K, B, Y, weight, ridge)
    A, residual = found.coefficients, Y.mT.unsqueeze(-1) - values
    low, high = weight[:, None] * (LEVELS - 1), weight[:, None] * LEVELS
    assert A.sum(1).abs().max() < 1e-9
    assert (A > low - 1e-6).all() and (A < high + 1e-6).all()
    above, below = residual > 1e-6, residual < -1e-6
    assert above.any() and below.any() and (residual.abs() < 1e-6).any()
    assert ((A - high).abs()[above] < 1e-6).all() and ((A - low).abs()[below] < 1e-6).all()


@pytest.mark.parametrize("ridge", [3.0, 0.1])
def test_the_dual_has_the_same_value(ridge):
    K, B, Y, weight = problem()
    found, values = solved(K, B, Y, weight, ridge)
    A = found.coefficients
    norm = (A * (K @ A @ B)).sum() / ridge
    primal = (weight[:, None] * pinball(Y.mT.unsqueeze(-1) - values, LEVELS)).sum() + norm / 2
    dual = (A * Y.mT.unsqueeze(-1)).sum() - norm / 2
    assert_close(primal, dual, rtol=1e-6, atol=0)


def test_a_quadratic_program_by_another_solver_agrees():
    K, B, Y, weight = problem(n=9)
    Y, ridge = Y[:, :1], 0.5
    found, _ = solved(K, B, Y, weight, ridge)
    H, y = torch.kron(K, B).numpy() / ridge, Y.repeat(1, 3).flatten().numpy()
    low, high = (weight[:, None] * (LEVELS - 1)).flatten().numpy(), (weight[:, None] * LEVELS).flatten().numpy()
    sums = np.kron(np.ones((1, 9)), np.eye(3))
    best = minimize(
        lambda a: a @ H @ a / 2 - a @ y,
        np.zeros(27),
        jac=lambda a: H @ a - y,
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda a: sums @ a, "jac": lambda a: sums},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    a = found.coefficients[0].flatten().numpy()
    assert best.success
    assert a @ H @ a / 2 - a @ y == pytest.approx(best.fun, rel=1e-7)
    np.testing.assert_allclose(H @ a, H @ best.x, atol=1e-4)


def test_a_linear_kernel_without_a_ridge_is_the_linear_program_of_scikit_learn():
    X = torch.rand(60, 2)
    Y = (X @ torch.tensor([[1.0], [-2.0]])) + (0.2 + X[:, :1]) * torch.randn(60, 1)
    _, values = solved(X @ X.mT, torch.eye(3), Y, torch.ones(60), 1e-5, tolerance=1e-5)
    for j, level in enumerate(LEVELS.tolist()):
        linear = QuantileRegressor(quantile=level, alpha=0, solver="highs").fit(X.numpy(), Y[:, 0].numpy())
        best = pinball(Y[:, 0] - torch.from_numpy(linear.predict(X.numpy())), level).sum()
        assert_close(pinball(Y[:, 0] - values[0, :, j], level).sum(), best, rtol=1e-4, atol=0)


def test_weights_are_repetitions():
    K, B, Y, _ = problem(n=12)
    twice = torch.cat([torch.arange(12), torch.arange(4)])
    weight = torch.ones(12)
    weight[:4] = 2
    _, one = solved(K, B, Y, weight, 0.3)
    _, other = solved(K[twice][:, twice], B, Y[twice], torch.ones(16), 0.3)
    assert_close(one, other[:, :12], atol=1e-5, rtol=0)


def test_the_share_below_a_quantile_is_its_level():
    K, B, Y, _ = problem()
    _, values = solved(K, B, Y, torch.ones(40), 0.3)
    gap = Y.mT.unsqueeze(-1) - values
    below, at_most = (gap < -1e-6).double().sum(1), (gap < 1e-6).double().sum(1)
    assert (below <= 40 * LEVELS + 1e-9).all() and (at_most >= 40 * LEVELS - 1e-9).all()


def test_alike_levels_are_parallel_and_unlike_ones_are_alone():
    K, _, Y, weight = problem()
    _, parallel = solved(K, torch.ones(3, 3), Y, weight, 0.3)
    apart = parallel.diff(dim=-1)
    assert_close(apart, apart[:, :1].expand_as(apart), atol=1e-6, rtol=0)
    _, alone = solved(K, torch.eye(3), Y, weight, 0.3)
    for j in range(3):
        _, single = solved(K, torch.ones(1, 1), Y, weight, 0.3, levels=LEVELS[j : j + 1])
        assert_close(alone[..., j], single[..., 0], atol=1e-5, rtol=0)
