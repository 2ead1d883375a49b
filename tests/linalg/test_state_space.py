"""The filter on a line against dense algebra."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.state_space import StateSpace, scan

ORDERS = {1: 0.5, 2: 1.5, 3: 2.5}


def dense(size: int, times: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    kernel = Matern(ORDERS[size])
    kernel.lengthscale, kernel.outputscale = 0.7, 1.9
    with torch.no_grad():
        return kernel(times[:, None]).to_dense() + noise.diag()


def line(size: int, times: torch.Tensor, noise: torch.Tensor) -> StateSpace:
    return StateSpace.of(times, size, torch.tensor(0.7), torch.tensor(1.9), noise)


@pytest.mark.parametrize("size", ORDERS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 300])
def test_every_answer_is_that_of_dense_algebra(size, n):
    times, noise, B = 10 * torch.rand(n), 0.01 + torch.rand(n), torch.randn(n, 3)
    if n > 3:
        times[3], times[2] = times[1], times[0] + 1e-9
    A, system = dense(size, times, noise), line(size, times, noise)
    assert_close(system.logdet(), torch.logdet(A), rtol=1e-12, atol=1e-12)
    assert_close(system.solve(B), torch.linalg.solve(A, B), rtol=1e-9, atol=1e-9)
    assert_close(system.inverse_diagonal(), torch.linalg.inv(A).diagonal(), rtol=1e-9, atol=0)
    whitened = system.whiten(B)
    assert_close(whitened.mT @ whitened, B.mT @ torch.linalg.solve(A, B), rtol=1e-9, atol=1e-9)
    # L^-T is the adjoint of L^-1.
    W = torch.randn(n, 3)
    assert_close((system.unwhiten(W) * B).sum(0), (W * whitened).sum(0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", ORDERS)
def test_points_that_are_not_observed_are_smoothed(size):
    times, noise, B = 10 * torch.rand(300), 0.001 + 0.1 * torch.rand(300), torch.randn(300, 2)
    seen = torch.rand(300) < 0.7
    system = line(size, times, torch.where(seen, noise, torch.inf))
    K, A = dense(size, times, torch.zeros(300)), dense(size, times[seen], noise[seen])
    values, variance = system.smooth(torch.where(seen[:, None], B, 0.0))
    C = K[:, seen]
    assert_close(values, C @ torch.linalg.solve(A, B[seen]), rtol=1e-9, atol=1e-9)
    assert_close(variance, K.diagonal() - (C.mT * torch.linalg.solve(A, C.mT)).sum(0), rtol=1e-9, atol=1e-12)
    assert_close(system.logdet(), torch.logdet(A), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", ORDERS)
def test_gradients(size):
    times, noise, B = torch.rand(7), 0.1 + torch.rand(7), torch.randn(7, 2)

    def answers(lengthscale, outputscale, noise, B):
        system = StateSpace.of(times, size, lengthscale, outputscale, noise)
        return system.logdet(), system.whiten(B), system.solve(B)

    values = (torch.tensor(0.7), torch.tensor(1.9), noise, B)
    assert torch.autograd.gradcheck(answers, tuple(v.requires_grad_() for v in values))


@pytest.mark.parametrize("n", range(1, 18))
def test_prefix_sums_of_an_operation_that_does_not_commute(n):
    factors = torch.randn(n, 2, 2)
    (products,) = scan(lambda i, j: (j[0] @ i[0],), (factors,))
    expected = torch.eye(2)
    for k in range(n):
        expected = factors[k] @ expected
        assert_close(products[k], expected)


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match="a state of 1, 2 or 3 numbers here, got 4"):
        line(4, torch.rand(3), torch.ones(3))
