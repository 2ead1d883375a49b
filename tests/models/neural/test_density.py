import math

import torch
from torch.distributions import Normal
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.density import NOISE_SPREAD, SCALE_SPREAD, NetworkDensity
from kernelfield.models.neural.likelihoods import Gaussian, Softmax
from kernelfield.models.neural.network import Network
from kernelfield.nets.dense import Dense
from kernelfield.nets.quadrature import Tanh
from tests.models.neural.posteriors import generator

NETWORK = Network(Dense(1.3, 0.0, 5) >> Tanh() >> Dense(0.9, 0.4), 2, 2)


def data(weight: torch.Tensor | None = None) -> Data:
    return Data(torch.randn(9, 2), torch.randn(9, 2), weight)


def test_it_is_the_sum_of_log_prior_and_log_likelihood():
    weight = torch.rand(9) + 0.5
    rows = data(weight)
    density = NetworkDensity.of(NETWORK, rows, Gaussian(), scale=2.0, dtype=torch.float64)
    z = density.draw(3, generator())
    centre = (0.1 * _weighted_variance(rows.Y, weight)).log()
    expected = []
    for row in z:
        noise = (centre + NOISE_SPREAD * row[-2:]).exp()
        f = NETWORK.values(2 * NETWORK.prior_std * row[:-2], rows.X)
        likelihood = Normal(f, (noise / weight[:, None]).sqrt()).log_prob(rows.Y).sum()
        expected.append(likelihood + Normal(0.0, 1.0).log_prob(row).sum() + density.size / 2 * math.log(2 * math.pi))
    assert density.size == NETWORK.size + 2
    assert_close(density(z), torch.stack(expected))


def _weighted_variance(Y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    share = (weight / weight.sum())[:, None]
    return (share * (Y - (share * Y).sum(0)).square()).sum(0)


def test_mini_batches_are_right_on_average_and_each_chain_has_its_own():
    rows = data()
    density = NetworkDensity.of(NETWORK, rows, Gaussian(0.3), dtype=torch.float64)
    z = density.draw(1, generator())
    parts = torch.arange(9).reshape(3, 3)
    mean = density.at_rows(z.expand(3, -1), parts).mean()
    assert_close(mean, density(z)[0])
    assert density.at_rows(z.expand(3, -1), parts).std() > 0.1


def test_positions_and_parameters_belong_together():
    density = NetworkDensity.of(NETWORK, data(), Gaussian(), dtype=torch.float64)
    z = density.draw(2, generator())
    again = density.position(density.parameters(z), density.noise(z))
    assert_close(density.parameters(again), density.parameters(z))
    assert_close(density.noise(again), density.noise(z))
    assert_close(density.parameters(z)[:, 10:15], torch.zeros(2, 5))  # biases of scale zero


def test_scales_are_sampled_beside_the_parameters_they_multiply():
    rows = data()
    density = NetworkDensity.of(NETWORK, rows, Gaussian(0.3), learn_scales=True, dtype=torch.float64)
    z = density.draw(3, generator())
    assert density.size == NETWORK.size + 4
    named = {name: NETWORK.named(NETWORK.prior_std * z[:, : NETWORK.size])[name] for name in NETWORK.shapes}
    factors = (SCALE_SPREAD * z[:, NETWORK.size :]).exp().unbind(-1)
    parts = [(part.flatten(1) * factor[:, None]) for part, factor in zip(named.values(), factors, strict=True)]
    theta = torch.cat(parts, -1)
    assert_close(density.parameters(z), theta)
    likelihood = Normal(NETWORK.values(theta, rows.X), 0.3**0.5).log_prob(rows.Y).sum((-1, -2))
    expected = likelihood - z.square().sum(-1) / 2
    assert_close(density(z), expected)
    again = density.position(theta, None)
    assert_close(density.parameters(again), theta)


def test_classes_have_no_noise():
    labels = Data(torch.randn(4, 2), torch.eye(2)[[0, 1, 1, 0]])
    density = NetworkDensity.of(NETWORK, labels, Softmax(), dtype=torch.float32)
    z = density.draw(2, generator())
    assert density.size == NETWORK.size and density.noise(z) is None and z.dtype == torch.float32
    f = NETWORK.values(density.parameters(z), labels.X.float())
    expected = (f.log_softmax(-1) * labels.Y.float()).sum((-1, -2)) - z.square().sum(-1) / 2
    assert_close(density(z), expected)
