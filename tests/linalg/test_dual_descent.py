"""Dual descent against the direct solve, and against its own update written out for the whole matrix."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotConverged
from kernelfield.linalg import dual_descent as module
from kernelfield.linalg.dual_descent import dual_descent


def problem(n, noise=0.3):
    X = torch.rand(n, 4)
    K = torch.exp(-torch.cdist(X, X) / 0.8)
    A = K + torch.diag(torch.as_tensor(noise).expand(n))
    return K, A, torch.cat([X.sum(1, keepdim=True).sin(), torch.randn(n, 1)], 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [30, 300, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("uneven", [False, True])
def test_it_ends_at_the_direct_solution(n, uneven):
    noise = torch.rand(n) + 0.2 if uneven else 0.3
    K, A, B = problem(n, noise)
    found = dual_descent(lambda index: K[index], B, noise, batch=20, tolerance=1e-5, generator=seeded())
    assert found.converged
    assert_close(found.residual, (B - A @ found.X).norm(dim=0) / B.norm(dim=0), rtol=1e-6, atol=1e-12)
    assert (found.residual <= 1e-5).all()
    expected = torch.linalg.solve(A, B)
    # An error is at most the residual over the least eigenvalue.
    assert ((found.X - expected).norm(dim=0) <= 1e-5 * B.norm(dim=0) / torch.linalg.eigvalsh(A)[0]).all()


def test_a_step_is_that_of_the_paper(monkeypatch):
    K, A, B = problem(12)
    step, momentum = 0.01, module.MOMENTUM
    X = V = mean = torch.zeros_like(B)
    share = min(1.0, module.WINDOW / (7 * 1))
    for _ in range(7):
        V = momentum * V - step * (A @ (X + momentum * V) - B)
        X = X + V
        mean = share * X + (1 - share) * mean
    with pytest.warns(NotConverged):
        found = dual_descent(lambda index: K[index], B, 0.3, batch=12, epochs=7, step=step, tolerance=1e-12)
    assert_close(found.X, mean)
    monkeypatch.setattr(module, "WINDOW", 1)
    monkeypatch.setattr(module, "CHECKS", 1)
    with pytest.warns(NotConverged):
        averaged = dual_descent(lambda index: K[index], B, 0.3, batch=12, epochs=7, step=step, tolerance=1e-12)
    assert (averaged.X.norm(dim=0) < 0.9 * found.X.norm(dim=0)).all()  # it lags behind


def test_a_step_that_is_too_long_is_shortened():
    K, _, B = problem(200)
    found = dual_descent(lambda index: K[index], B, 0.3, batch=20, step=0.05, tolerance=1e-3, generator=seeded())
    assert found.converged


def test_a_short_last_batch_does_not_overshoot():
    X = torch.rand(257, 2)
    K = torch.exp(-torch.cdist(X, X).square() / 0.02)
    found = dual_descent(lambda index: K[index], torch.randn(257, 1), 0.5, batch=64, generator=seeded())
    assert found.converged and found.iterations <= 100


def test_a_start_is_used_and_the_generator_decides():
    K, A, B = problem(100)
    exact = torch.linalg.solve(A, B)
    warm = dual_descent(lambda index: K[index], B, 0.3, start=exact, tolerance=1e-6)
    assert warm.iterations == 1 and torch.equal(warm.X, exact)

    def run(seed):
        return dual_descent(lambda index: K[index], B, 0.3, batch=20, tolerance=1e-3, generator=seeded(seed)).X

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def test_a_descent_that_stops_short_warns_with_its_residual():
    K, A, B = problem(200, 1e-4)
    with pytest.warns(NotConverged, match=r"stopped after \d+ passes over the rows at a relative residual of"):
        found = dual_descent(lambda index: K[index], B, 1e-4, epochs=3, tolerance=1e-8, generator=seeded())
    assert not found.converged
    assert_close(found.residual, (B - A @ found.X).norm(dim=0) / B.norm(dim=0))


def test_bad_input_is_refused_with_a_reason():
    K, _, B = problem(10)
    with pytest.raises(ValueError, match="batch must be at least one row, got 0"):
        dual_descent(lambda index: K[index], B, 0.3, batch=0)
    with pytest.raises(ValueError, match="noise must be positive, got 0"):
        dual_descent(lambda index: K[index], B, 0.0)
