import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.models.neural import stacked as module
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.stacked import stacked
from kernelfield.nets.algebra import Residual
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.quadrature import Sigmoid, Tanh
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

MULTILAYERS = {
    "standard": multilayer((8, 6)),
    "ntk": Dense(1.4, 0.3) >> Tanh() >> Dense(0.7, 0.0) >> Sigmoid() >> Dense(1.0),
    "scales of inputs": Dense((1.0, 0.5, 2.0), 0.3) >> Relu() >> Dropout(0.9) >> Dense(1.0),
    "torch": nn.Sequential(nn.Sequential(nn.Linear(3, 5), nn.Tanh()), nn.Identity(), nn.Linear(5, 2, bias=False)),
    "error function": Dense(1.4, 0.3) >> Erf() >> Dense(1.0) >> Tanh() >> Dense(1.0) >> Erf(),
    "linear": nn.Linear(3, 2),
    "ends in an activation": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid()),
}
OTHERS = {
    "residual": Dense(1.0) >> Residual(Relu() >> Dense(1.0)) >> Dense(1.0),
    "another activation": nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)),
    "a scaled error function": Dense(1.0) >> Erf(b=2.0) >> Dense(1.0),
    "frozen": nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 2)),
    "activation first": nn.Sequential(nn.Tanh(), nn.Linear(3, 2)),
    "two activations": nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Tanh()),
}


def network(name: str) -> Network:
    return Network({**MULTILAYERS, **OTHERS}[name], 3, 2, width=7)


@pytest.mark.parametrize("name", [*MULTILAYERS, *OTHERS])
def test_values_and_gradients_are_those_of_single_networks(name):
    net, X, pull = network(name), torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    theta = net.draw(4, torch.Generator().manual_seed(0)).requires_grad_()
    values = stacked(net)(theta, X)
    expected = torch.stack([net.call(own, rows) for own, rows in zip(theta, X, strict=True)])
    assert_close(values, expected)
    found, wanted = (torch.autograd.grad((v * pull).sum(), theta)[0] for v in (values, expected))
    assert_close(found, wanted)
    shared = stacked(net)(theta, X[:1].expand(4, -1, -1))
    assert_close(shared, net.values(theta, X[0]))


@pytest.mark.parametrize("name", MULTILAYERS)
def test_multilayers_do_without_maps(name):
    assert module._blocks(network(name).skeleton) is not None


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_mapped(name):
    assert module._blocks(network(name).skeleton) is None


def test_a_step_that_occurs_twice_has_one_place_for_two_uses():
    shared = nn.Linear(3, 3)
    assert module._blocks(nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(3, 2))) is None


FUNCTIONS = {
    "relu": (module.RELU, torch.relu),
    "tanh": (module.TANH, torch.tanh),
    "sigmoid": (module.SIGMOID, torch.sigmoid),
    "erf": (module.ERF, torch.erf),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_and_slopes_are_right_to_rounding_from_one_end_to_the_other(name, dtype):
    ours, theirs = FUNCTIONS[name]
    ends = torch.tensor([-torch.inf, -1e30, -1e-30, 0.0, 1e-9, 1e3, torch.inf], dtype=dtype)
    u = torch.cat([torch.linspace(-30, 30, 601, dtype=dtype), ends]).requires_grad_()
    expected = theirs(u)
    (slope,) = torch.autograd.grad(expected.sum(), u)
    kept = u.detach().clone()
    rounding = 4 * torch.finfo(dtype).eps  # of one, the largest value and slope but for a rectifier, which is exact
    values = ours.value(kept)
    assert_close(values, expected.detach(), atol=rounding, rtol=rounding)
    assert_close(ours.pull(torch.ones_like(kept), kept), slope, atol=rounding, rtol=rounding)
