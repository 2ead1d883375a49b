"""Processes that are observed together, against dense algebra."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.state_space import StateSpace
from kernelfield.linalg.state_space_vector import VectorStateSpace

ORDERS = {1: 0.5, 2: 1.5, 3: 2.5}
LENGTHS = torch.tensor([0.7, 2.0, 0.3])
SCALES = torch.tensor([1.0, 0.2, 3.0])


def terms(n: int, r: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sorted times, precisions of any rank from none to full, linear terms."""
    times = torch.sort(10 * torch.rand(n)).values
    if n > 3:
        times[2] = times[1] + 1e-9
    rank = torch.randint(0, r + 1, (n,))
    half = torch.randn(n, r, r) * (torch.arange(r) < rank[:, None])[:, None]
    precision = half @ half.mT * 10 ** (4 * torch.rand(n, 1, 1) - 2)
    return times, precision, (precision @ torch.randn(n, r, 1))[..., 0]


def dense(size: int, times: torch.Tensor, precision: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K (n r, n r) and the terms' precision, the times before the processes."""
    n, r, _ = precision.shape
    K = torch.zeros(n, r, n, r)
    for j in range(r):
        kernel = Matern(ORDERS[size])
        kernel.lengthscale, kernel.outputscale = LENGTHS[j], SCALES[j]
        with torch.no_grad():
            K[:, j, :, j] = kernel(times[:, None]).to_dense()
    return K.reshape(n * r, n * r), torch.block_diag(*precision)


@pytest.mark.parametrize("size", ORDERS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 100])
def test_every_answer_is_that_of_dense_algebra(size, n):
    times, precision, linear = terms(n)
    system = VectorStateSpace.of(times, size, LENGTHS, SCALES, precision)
    K, L = dense(size, times, precision)
    M = torch.eye(len(K)) + K @ L
    covariance = torch.linalg.solve(M, K)
    mean = covariance @ linear.flatten()
    assert_close(system.logdet(), torch.linalg.slogdet(M)[1], rtol=1e-9, atol=1e-9)
    assert_close(system.means(linear[..., None])[..., 0].flatten(), mean, rtol=1e-9, atol=1e-9)
    blocks = covariance.reshape(n, 3, n, 3).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    assert_close(system.covariances, blocks, rtol=1e-9, atol=1e-9)
    expected = 0.5 * (linear.flatten() @ mean - torch.linalg.slogdet(M)[1])
    assert_close(system.log_normaliser(linear), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", ORDERS)
def test_one_process_is_that_of_scalar_observations_at_300_irregular_times(size):
    times, noise, y = torch.sort(10 * torch.rand(300)).values, 0.01 + torch.rand(300), torch.randn(300, 1)
    vector = VectorStateSpace.of(times, size, LENGTHS[:1], SCALES[:1], 1 / noise[:, None, None])
    scalar = StateSpace.of(times, size, LENGTHS[0], torch.tensor(1.0), noise)
    mean, variance = scalar.smooth(y)
    assert_close(vector.means((y / noise[:, None])[..., None])[..., 0], mean, rtol=1e-9, atol=1e-9)
    assert_close(vector.covariances[:, 0, 0], variance, rtol=1e-9, atol=1e-9)
    assert_close(vector.logdet() + noise.log().sum(), scalar.logdet(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("size", ORDERS)
def test_draws_have_the_joint_law(size):
    """A draw is linear in z, so that its covariance is known without simulation."""
    times, precision, linear = terms(5)
    system = VectorStateSpace.of(times, size, LENGTHS, SCALES, precision)
    K, L = dense(size, times, precision)
    rows = 3 * size + 3
    count = 5 * rows
    units = torch.eye(count).reshape(5, rows, count)
    centre = system.draw(linear, torch.zeros(5, rows, 1))
    assert_close(centre, system.means(linear[..., None]))
    jacobian = (system.draw(linear, units) - centre).reshape(15, count)
    assert_close(jacobian @ jacobian.mT, torch.linalg.solve(torch.eye(15) + K @ L, K), rtol=1e-7, atol=1e-7)
    prior = system.prior(torch.eye(15 * size).reshape(5, 3 * size, -1)).reshape(15, -1)
    assert_close(prior @ prior.mT, K, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("size", ORDERS)
def test_gradients_in_the_scales(size):
    times, precision, linear = terms(6)
    times[2] += 0.1  # differences would cancel between times so close
    times = torch.sort(times).values

    def value(log_lengths, log_scales):
        return VectorStateSpace.of(times, size, log_lengths.exp(), log_scales.exp(), precision).log_normaliser(linear)

    assert torch.autograd.gradcheck(value, (LENGTHS.log().requires_grad_(), SCALES.log().requires_grad_()))


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match="a state of 1, 2 or 3 numbers here, got 4"):
        VectorStateSpace.of(torch.rand(2), 4, LENGTHS, SCALES, torch.zeros(2, 3, 3))
