"""Posteriors whose law is known, for every sampler."""

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.models.neural.density import NetworkDensity
from kernelfield.models.neural.diagnostics import bulk_size
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network
from kernelfield.nets.dense import Dense
from kernelfield.nets.quadrature import Tanh


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def has_the_law_of_a_gaussian(sampler, *, chains: int, draws: int) -> None:
    """Mean and variance of a Gaussian with unlike scales, to one per cent and six standard errors."""
    std = torch.tensor([0.2, 1.0, 4.0])
    start = std * torch.randn(chains, 3)
    run = sampler(lambda q: -(q / std).square().sum(-1) / 2, start, generator=generator(), warmup=100, draws=draws)
    x = run.draws / std
    for values, expected, limit in ((x, 0.0, 1.0), (x.square(), 1.0, 0.01)):
        error = values.std((0, 1)) / bulk_size(values).sqrt()
        assert ((values.mean((0, 1)) - expected).abs() < (6 * error).clamp_max(limit)).all()


def small_network() -> tuple[NetworkDensity, Tensor]:
    """A network of one hidden unit, w2 tanh(w1 x) with standard normal weights, and where to look at it."""
    X = torch.tensor([[-1.0], [0.3], [0.8], [1.5]])
    Y = torch.tensor([[-0.8], [0.1], [0.9], [0.7]])
    network = Network(Dense(1.0) >> Tanh() >> Dense(1.0), 1, 1, width=1)
    density = NetworkDensity.of(network, Data(X, Y), Gaussian(0.2), dtype=torch.float64)
    return density, torch.tensor([[-2.0], [0.5], [1.0], [3.0]])


def agrees_with_quadrature(sampler, *, chains: int = 30, draws: int = 100) -> None:
    """Mean and mean square of predictions within six standard errors of sums over a fine grid."""
    density, X = small_network()
    line = torch.linspace(-8, 8, 201)
    grid = torch.cartesian_prod(line, line)
    weights = density(grid).softmax(0)
    run = sampler(density, density.draw(chains, generator(1)), generator=generator(), warmup=100, draws=draws)
    for power in (1, 2):
        exact = weights @ density.network.values(grid, X)[..., 0] ** power
        seen = density.network.values(run.draws, X)[..., 0] ** power
        error = seen.std((0, 1)) / bulk_size(seen).sqrt()
        assert ((seen.mean((0, 1)) - exact).abs() < 6 * error).all()
        assert (error < 0.05 * exact.abs().max()).all()
