import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.models.neural.network import Network, flat, multilayer
from kernelfield.nets.algebra import Residual
from kernelfield.nets.dense import Dense
from kernelfield.nets.norm import LayerNorm
from kernelfield.nets.rectifiers import Relu

ARCHITECTURES = {
    "multilayer": multilayer((8, 6)),
    "ntk": Dense(1.4, 0.3) >> Relu() >> Dense(1.0),
    "residual": Dense(1.0) >> Residual(Relu() >> Dense(1.0)) >> LayerNorm() >> Dense(1.0),
    "torch": nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(name: str) -> Network:
    return Network(ARCHITECTURES[name], inputs=3, outputs=2, width=7)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_are_those_of_modules(name):
    net, X = network(name), torch.randn(4, 3)
    theta = net.draw(3, generator())
    assert theta.shape == (3, net.size)
    expected = torch.stack([net.module(row)(X) for row in theta])
    assert_close(net.values(theta, X), expected)
    assert_close(net.values(theta[None], X), expected[None])
    assert_close(net.values(theta[0], X), expected[0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_members_differ_and_a_seed_repeats_them(name):
    net = network(name)
    before = torch.random.get_rng_state()
    first, again = net.draw(2, generator(1)), net.draw(2, generator(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert (first[0] - first[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_prior_has_the_spread_of_the_draws(name):
    net = network(name)
    theta = net.draw(400, generator()) if name != "torch" else net.draw(2, generator())
    if name == "torch":
        expected = [1 / math.sqrt(3)] * 15 + [1.0] * 5 + [1 / math.sqrt(5)] * 10 + [1.0] * 2
        assert_close(net.prior_std, torch.tensor(expected))
    else:
        assert_close(theta.std(0), net.prior_std, rtol=6 / math.sqrt(2 * 400), atol=0)


def test_a_module_of_ones_own_keeps_its_weights_and_its_frozen_ones():
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    module[0].requires_grad_(False)
    net, X = Network(module, 3, 2), torch.randn(4, 3)
    assert net.size == 12
    assert_close(net.start(generator()), flat(module))
    assert_close(net.values(net.start(generator()), X), module(X))


def test_chunks_of_members_give_the_same(monkeypatch):
    net, X = network("multilayer"), torch.randn(4, 3)
    theta = net.draw(5, generator())
    whole = net.values(theta, X)
    monkeypatch.setattr("kernelfield.models.neural.network.CHUNK", 1)
    assert_close(net.values(theta, X), whole)


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        (nn.Linear(3, 1), "must give 2 outputs a row, shape .2, 2. for two rows, got .2, 1."),
        (nn.Linear(4, 2), "cannot take rows of 3 inputs"),
        (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double(), "layer '1' is a BatchNorm1d, which mixes"),
        (nn.Sequential(nn.Linear(3, 2).requires_grad_(False)), "no parameters to train"),
    ],
)
def test_a_network_that_cannot_serve_is_refused(architecture, sentence):
    with pytest.raises(ValueError, match=sentence):
        Network(architecture, 3, 2).draw(1, generator())


def test_hidden_layers_need_units():
    with pytest.raises(ValueError, match=r"at least one unit, got \(3, 0\)"):
        multilayer((3, 0))
