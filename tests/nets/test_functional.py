import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.nets.empirical import empirical_ntk
from kernelfield.nets.functional import called


class Tied(nn.Module):
    """Two layers with one tensor of weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


def test_a_layer_that_stands_in_two_places_is_replaced_once_and_put_back():
    layer = nn.Linear(3, 3)
    module, x = nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(3, 1)), torch.randn(4, 3)
    before, own = dict(module.named_parameters()), module(x)
    others = {name: torch.randn_like(p) for name, p in before.items()}
    hidden = nn.functional.linear(x, others["0.weight"], others["0.bias"]).tanh()
    hidden = nn.functional.linear(hidden, others["0.weight"], others["0.bias"])
    assert_close(called(module, others, x), nn.functional.linear(hidden, others["3.weight"], others["3.bias"]))
    assert all(p is before[name] for name, p in module.named_parameters())
    rows = [torch.autograd.grad(value, list(before.values()), retain_graph=True) for value in own[:, 0]]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    assert_close(empirical_ntk(module, x), J @ J.mT)
    assert layer.weight is before["0.weight"]


def test_a_tensor_that_layers_share_is_replaced_in_all():
    module, x = Tied(), torch.randn(4, 3)
    others = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    hidden = nn.functional.linear(x, others["first.weight"], others["first.bias"]).tanh()
    expected = nn.functional.linear(hidden, others["first.weight"], others["second.bias"])
    assert_close(called(module, others, x), expected)
    assert module.first.weight is module.second.weight and isinstance(module.first.weight, nn.Parameter)
