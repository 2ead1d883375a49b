import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.density import NetworkDensity
from kernelfield.models.neural.hamiltonian import hmc
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.no_u_turn import nuts
from kernelfield.nets.dense import Dense
from tests.models.neural.posteriors import agrees_with_quadrature, generator, has_the_law_of_a_gaussian

SAMPLERS = {"hmc": hmc, "nuts": nuts}


def test_the_variance_of_a_quadratic_is_right_to_one_per_cent():
    has_the_law_of_a_gaussian(hmc, chains=4000, draws=150)


def test_a_network_agrees_with_quadrature():
    agrees_with_quadrature(hmc)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_linear_network_is_conjugate_regression(name):
    X, noise = torch.randn(12, 2), 0.3
    Y = X @ torch.tensor([[1.0], [-2.0]]) + 0.5 * torch.randn(12, 1)
    network = Network(Dense(1.5, 0.7), 2, 1)
    density = NetworkDensity.of(network, Data(X, Y), Gaussian(noise), dtype=torch.float64)
    chains = SAMPLERS[name](density, density.draw(40, generator()), generator=generator(), warmup=100, draws=100)
    parameters = density.parameters(chains.draws).flatten(0, 1)
    # In the NTK parameterisation f = 1.5 x.w / sqrt(2) + 0.7 b with standard normal w and b.
    H = torch.cat([1.5 * X / 2**0.5, 0.7 * torch.ones(12, 1)], 1)
    precision = torch.eye(3) + H.mT @ H / noise
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    mean = (covariance @ H.mT @ Y / noise)[:, 0]
    count = len(parameters) / 3
    std = covariance.diagonal().sqrt()
    assert ((parameters.mean(0) - mean).abs() < 6 * std / count**0.5).all()
    error = (parameters.mT.cov() - covariance) / (std[:, None] * std)
    assert error.abs().max() < 6 * (2 / count) ** 0.5


def test_a_seed_repeats_the_draws():
    runs = [
        hmc(lambda q: -q.square().sum(-1) / 2, torch.zeros(2, 2), generator=generator(seed), warmup=20, draws=10)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0].draws, runs[1].draws) and not torch.equal(runs[0].draws, runs[2].draws)


def test_a_step_that_is_too_long_is_rejected_and_reported():
    std = torch.tensor([1e-4, 1.0])
    chains = hmc(
        lambda q: -((q / std) ** 4).sum(-1),
        1e-4 * torch.ones(2, 2),
        generator=generator(),
        warmup=0,
        draws=50,
        path=1.0,
        longest=4,
    )
    assert chains.draws.isfinite().all() and chains.accepted.max() <= 1


def test_paths_must_be_positive():
    with pytest.raises(ValueError, match="path and longest must be positive, got 0.0"):
        hmc(lambda q: -q.square().sum(-1), torch.zeros(1, 1), generator=generator(), path=0.0)


def test_single_precision_draws_from_the_same_law():
    draws = [
        hmc(
            lambda q: -q.square().sum(-1) / 2,
            torch.zeros(200, 2, dtype=dtype),
            generator=generator(),
            warmup=50,
            draws=50,
        ).draws
        for dtype in (torch.float32, torch.float64)
    ]
    assert draws[0].dtype == torch.float32
    assert_close(draws[0].var().double(), draws[1].var(), rtol=0.1, atol=0)
