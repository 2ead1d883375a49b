"""Base kernels against gradients taken by hand and against the kernels themselves."""

import pytest
import torch
from gpytorch.kernels import MaternKernel
from torch import nn
from torch.testing import assert_close

from kernelfield.kernels.network import NetworkKernel
from kernelfield.models.active.features import Covariance, Gradients, LastLayer, Linear
from kernelfield.models.active.finite import FeatureKernel, FiniteKernel
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.nets.dense import Dense
from kernelfield.nets.empirical import empirical_ntk
from kernelfield.nets.rectifiers import Relu


def dense(kernel: FiniteKernel) -> torch.Tensor:
    return kernel.block(slice(None), torch.arange(kernel.size))


@pytest.mark.parametrize("o", [1, 3])
def test_the_last_layer_has_the_gradients_in_its_weights(o: int) -> None:
    for module in (
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, o)),
        (Dense(1.3, 0.2) >> Relu() >> Dense(0.8, 0.4)).module(4, 6, o)[0],
    ):
        X = torch.randn(7, 4)
        last = [p for p in module.parameters()][-2:]
        rows = []
        for x in X:
            y = module(x[None])[0]
            rows.append(
                torch.stack(
                    [torch.cat([g.flatten() for g in torch.autograd.grad(v, last, retain_graph=True)]) for v in y]
                )
            )
        J = torch.stack(rows)
        found = LastLayer(module).over(X)
        assert isinstance(found, FeatureKernel) and found.features.shape == (7, 7)
        assert_close(dense(found), torch.einsum("ikp,jkp->ij", J, J) / o)
        assert not found.features.requires_grad


def test_a_network_that_does_not_end_in_a_dense_layer_has_no_last_features() -> None:
    with pytest.raises(ValueError, match="Sequential does not end in a dense layer.*use Gradients"):
        LastLayer(nn.Sequential(nn.Linear(2, 3), nn.Tanh())).over(torch.randn(5, 2))


def test_gradients_are_the_tangent_kernel() -> None:
    network = Network(multilayer((6, 5)), 3, 2)
    module = network.module(network.draw(1, torch.Generator().manual_seed(0))[0])
    X = torch.randn(8, 3)
    kernel, K = Gradients(module).over(X), empirical_ntk(module, X).detach()
    assert_close(dense(kernel), K)
    assert_close(kernel.block(slice(2, 5), torch.tensor([7, 0])), K[2:5][:, [7, 0]])
    assert_close(kernel.diagonal(), K.diagonal())
    assert_close(kernel.total(3), K[:, :3].sum(1))
    assert not kernel.diagonal().requires_grad


def test_networks_in_single_precision_take_rows_in_double() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).float()
    X = torch.randn(5, 3, dtype=torch.float64)
    for base in (Gradients(module), LastLayer(module)):
        assert base.over(X).diagonal().dtype == torch.float32


def test_any_kernel_of_the_package_gives_its_columns() -> None:
    X = torch.randn(9, 2)
    for kernel in (MaternKernel(1.5), NetworkKernel(Dense(1.4, 0.3) >> Relu() >> Dense(1.2), "ntk")):
        kernel = kernel.double()
        found, K = Covariance(kernel).over(X), kernel(X).to_dense().detach()
        assert_close(dense(found), K)
        assert_close(found.diagonal(), K.diagonal())
        assert_close(found.total(4), K[:, :4].sum(1))
        assert not found.block(slice(None), torch.arange(2)).requires_grad


def test_the_plain_base_is_the_inputs() -> None:
    X = torch.randn(4, 2)
    assert_close(dense(Linear().over(X)), X @ X.mT)
