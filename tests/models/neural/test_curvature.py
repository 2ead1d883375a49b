import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.testing import assert_close

from kernelfield.models.neural.curvature import (
    Tangent,
    class_root,
    explicit,
    kernel,
    kernel_blocks,
    kernels,
    prior_std,
    weighed,
)
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.nets.algebra import Residual
from kernelfield.nets.dense import Dense
from kernelfield.nets.norm import LayerNorm
from kernelfield.nets.rectifiers import Relu

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
ARCHITECTURES = {
    "multilayer": multilayer((5, 4)),
    "ntk": Dense((1.0, 0.5, 2.0), 0.3) >> Relu() >> Dense(1.0),
    "zero": Dense(1.0, 0.0, 4) >> Relu() >> Dense(1.0),
    "residual": Dense(1.0) >> Residual(Relu() >> Dense(1.0)) >> LayerNorm() >> Dense(1.0),
    "torch": nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)),
    "conv": nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)),
}


def tangent(name: str, *, last: bool = False) -> Tangent:
    network = Network(ARCHITECTURES[name], 3, 2, width=4)
    return Tangent(network, network.draw(1, torch.Generator().manual_seed(0))[0], last)


def jacobian(tangent: Tangent, X: torch.Tensor) -> torch.Tensor:
    """By automatic differentiation, in units of the prior, in the order of the flat parameters."""
    network = tangent.network
    assert network.skeleton is not None  # made before any transform, inside of which modules cannot be
    return jacrev(network.call)(tangent.parameters, X) * prior_std(network)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shares_are_the_jacobian_in_units_of_the_prior(name):
    linear = tangent(name)
    J = jacobian(linear, X)
    parts = explicit(linear.shares(X)).split(linear.sizes, -1)
    grams = kernels(linear.shares(X), linear.shares(X[:2]))
    for i, part in enumerate(parts):
        own = J[..., linear.labels == i]
        flat = own.flatten(0, 1)
        assert_close(part.flatten(0, 1) @ part.flatten(0, 1).mT, flat @ flat.mT)
        # The same numbers in another order.
        assert_close(part.sort(-1).values, own.sort(-1).values)
        assert_close(grams[i], flat @ own[:2].flatten(0, 1).mT)
        length = (linear.parameters / prior_std(linear.network)).square()[linear.labels == i].sum()
        assert_close(linear.squares()[i], length)
    assert (linear.labels >= 0).all()
    shares = linear.shares(X)
    assert_close(kernel(shares, shares), J.flatten(0, 1) @ J.flatten(0, 1).mT)
    assert_close(kernel_blocks(shares, shares), J @ J.mT)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_last_layer_has_its_own_part_alone(name):
    whole, last = tangent(name), tangent(name, last=True)
    kept = last.labels >= 0
    assert 0 < kept.sum() < len(kept) and len(last.sizes) == 1
    J = jacobian(whole, X)[..., kept].flatten(0, 1)
    assert_close(kernel(last.shares(X), last.shares(X)), J @ J.mT)


def test_pieces_and_large_groups_give_the_same(monkeypatch):
    linear = tangent("torch")
    expected, root = explicit(linear.shares(X)), torch.rand(6, 1, 1)
    monkeypatch.setattr("kernelfield.models.neural.curvature.LIMIT", 100)
    found = torch.cat([explicit(shares) for shares in linear.pieces(X, root)])
    assert len(list(linear.pieces(X, root))) > 1
    assert_close(found, root * expected)


def test_the_root_of_classes_is_one_of_the_curvature():
    f = torch.randn(5, 3)
    root = class_root(f)
    for row, own in zip(f, root, strict=True):
        curvature = -torch.autograd.functional.hessian(lambda z: z.log_softmax(-1)[0], row)
        assert_close(own @ own.mT, curvature)


def test_weighing_multiplies_by_the_transposed_root():
    linear, root = tangent("ntk"), torch.randn(6, 2, 2)
    expected = root.mT @ explicit(linear.shares(X))
    assert_close(explicit(weighed(linear.shares(X), root)), expected)
