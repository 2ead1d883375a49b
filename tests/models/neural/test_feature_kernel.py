import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.neural.feature_kernel import FeatureKernel, bounded, residual_map
from kernelfield.models.neural.network import Network, multilayer
from tests.laws import obeys_kernel_laws

GELU_SLOPE = 1.129  # the largest of u Phi(u), at the root of two


def generator():
    return torch.Generator().manual_seed(0)


def network_and_parameters(size=3, width=16):
    network = Network(residual_map(size, width=width), size, size)
    start = network.start(generator())
    return network, start + 0.7 * torch.randn(len(start), generator=generator())


@pytest.mark.parametrize("bound", [None, 0.9])
def test_a_kernel_of_features_obeys_the_kernel_laws(bound):
    network, parameters = network_and_parameters()
    kernel = FeatureKernel(Matern(ard_num_dims=3), network, parameters, torch.zeros(3), torch.ones(3), bound=bound)
    obeys_kernel_laws(kernel, torch.randn(5, 3), torch.randn(4, 3))


def test_a_network_at_its_start_leaves_the_kernel_of_the_scaled_inputs():
    network = Network(residual_map(2), 2, 2)
    centre, spread, X = torch.tensor([1.0, -3.0]), torch.tensor([2.0, 0.5]), torch.randn(6, 2)
    kernel = FeatureKernel(RBF(ard_num_dims=2), network, network.start(generator()), centre, spread)
    gap = (X[:, None] - X) / spread
    assert_close(kernel(X).to_dense(), torch.exp(-0.5 * gap.square().sum(-1)))


def test_bounded_layers_have_at_most_that_norm_and_smaller_ones_are_left_alone():
    network = Network(nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 4)), 3, 4)
    parameters = network.start(generator())
    parameters[: network.size // 2] *= 10
    before, after = network.named(parameters), network.named(bounded(network, parameters, 0.9))
    for name in ("0.weight", "2.weight"):
        norm = torch.linalg.svdvals(before[name])[0]
        assert_close(torch.linalg.svdvals(after[name])[0], norm.clamp_max(0.9))
        assert_close(after[name] * norm.clamp_min(0.9) / 0.9, before[name])
    assert_close(after["0.bias"], before["0.bias"], atol=0, rtol=0)


def test_gains_of_the_ntk_parameterisation_count_in_the_norm():
    network = Network(multilayer((30, 30)), 3, 2)
    parameters = bounded(network, 5 * network.start(generator()), 0.5)
    for layer in network.module(parameters).modules():
        if hasattr(layer, "gains"):
            assert torch.linalg.svdvals(layer.gains[0] * layer.weight)[0] <= 0.5 + 1e-12


def test_bounded_residual_blocks_keep_distances_within_the_product_of_their_bounds():
    network, parameters = network_and_parameters(size=4, width=32)
    X = 3 * torch.randn(40, 4)
    Z = network.values(bounded(network, 3 * parameters, 0.8), X)
    ratio = torch.pdist(Z) / torch.pdist(X)
    slope = GELU_SLOPE * 0.8**2
    assert ratio.min() >= (1 - slope) ** 2 and ratio.max() <= (1 + slope) ** 2
    assert ratio.max() / ratio.min() > 1.05  # and the map is not the identity


def test_slopes_in_the_features_are_those_of_differences():
    network, parameters = network_and_parameters(size=2, width=3)
    X = torch.randn(4, 2)

    def matrix(features):
        kernel = FeatureKernel(RBF(), network, features, torch.zeros(2), torch.ones(2), bound=0.7)
        del kernel._parameters["features"]
        kernel.features = features
        return kernel(X, X + 0.1).to_dense()

    assert torch.autograd.gradcheck(matrix, parameters.clone().requires_grad_())


def test_a_settled_kernel_is_the_same_function_without_a_bound():
    network, parameters = network_and_parameters()
    kernel = FeatureKernel(RBF(), network, 3 * parameters, torch.zeros(3), torch.ones(3), bound=0.9)
    X = torch.randn(5, 3)
    assert_close(kernel.settled()(X).to_dense(), kernel(X).to_dense())
    assert not any(p.requires_grad for p in kernel.settled().parameters())


def test_a_bound_that_is_not_positive_is_refused():
    network, parameters = network_and_parameters()
    with pytest.raises(ValueError, match="bound of spectral norms must be positive, got -1"):
        FeatureKernel(RBF(), network, parameters, torch.zeros(3), torch.ones(3), bound=-1.0)


def test_a_residual_map_needs_sizes_of_one_at_least():
    with pytest.raises(ValueError, match="at least 1, got 3, 0 and 2"):
        residual_map(3, width=0)
