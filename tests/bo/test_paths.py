import math
from functools import partial

import pytest
import torch
from botorch.models.deterministic import MatheronPathModel
from botorch.sampling.pathwise import draw_kernel_feature_paths, draw_matheron_paths
from botorch.sampling.pathwise.features.generators import gen_kernel_features
from gpytorch.kernels import Kernel, ScaleKernel
from torch import Tensor
from torch.testing import assert_close

from kernelfield.bo.adapter import FieldModel, to_botorch
from kernelfield.bo.conditioned import Belief
from kernelfield.bo.paths import Rescaled
from kernelfield.core.contracts import Data
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.models.covariance import matrix
from kernelfield.models.neural.feature_kernel import FeatureKernel
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.spectral import Spectral
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf
from tests.bo.surrogates import fitted, points, rows

RELU = Dense((1.2, 0.8), 0.4) >> Relu() >> Dense(1.4, 0.3) >> Relu() >> Dense(0.9, 0.2)
FOUR = Affine(torch.zeros(1), torch.tensor([4.0]))
ERF = Dense(1.2, 0.4) >> Erf() >> Dense(1.3)


def ard(kernel: Kernel) -> Kernel:
    kernel.lengthscale, kernel.outputscale = torch.tensor([0.5, 0.9]), 1.7
    return kernel


def mixed(kernel: Kernel) -> Kernel:
    kernel.frequencies = torch.tensor([[0.3, 1.1], [0.8, 0.2], [0.0, 0.5]])
    kernel.lengthscales = torch.tensor([[0.6, 0.9], [1.5, 0.4], [0.7, 0.7]])
    shape = kernel.weights.shape
    kernel.weights = torch.tensor([0.6, 0.1, 0.9])[:, None].expand(3, 2) if len(shape) == 2 else [0.6, 0.1, 0.9]
    return kernel


def shaped(alpha: float) -> Kernel:
    kernel = ard(RationalQuadratic(ard_num_dims=2))
    kernel.alpha = alpha
    return kernel


def deep() -> Kernel:
    network = Network(multilayer((8,)), inputs=2, outputs=2)
    theta = network.draw(1, torch.Generator().manual_seed(0))[0]
    return FeatureKernel(ard(RBF(ard_num_dims=2)), network, theta, torch.zeros(2), torch.ones(2))


KERNELS = {
    "rbf": lambda: ard(RBF(ard_num_dims=2)),
    "matern12": lambda: ard(Matern(0.5, ard_num_dims=2)),
    "matern32": lambda: ard(Matern(1.5, ard_num_dims=2)),
    "matern52": lambda: ard(Matern(2.5, ard_num_dims=2)),
    "rational quadratic": lambda: shaped(0.7),
    "batch of rational quadratic": lambda: RationalQuadratic(batch_shape=torch.Size([2])),
    "one input": lambda: RBF(active_dims=[1]),
    "mixture": lambda: mixed(SpectralMixture(3, dims=2)),
    "student mixture": lambda: mixed(SpectralMixture(3, dims=2, density="student_t", nu=1.5)),
    "product": lambda: mixed(SpectralProduct(3, dims=2)),
    "student product": lambda: mixed(SpectralProduct(3, dims=2, density="student_t")),
    "relu nngp": lambda: NetworkKernel(RELU),
    "erf nngp": lambda: NetworkKernel(ERF),
    "relu ntk": lambda: NetworkKernel(RELU, "ntk"),
    "erf ntk": lambda: NetworkKernel(ERF, "ntk"),
    "deep kernel": deep,
    "sum": lambda: RBF() + mixed(SpectralMixture(3, dims=2)),
    "scaled": lambda: ScaleKernel(Matern(1.5)),
    "rescaled": lambda: Rescaled(Matern(1.5), Affine(torch.ones(2), torch.tensor([2.0, 3.0])), FOUR),
}


MARKS = {name: pytest.mark.slow for name in ("relu ntk", "erf ntk", "relu nngp", "batch of rational quadratic", "sum")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in KERNELS])
def test_features_have_the_kernel_on_average(name: str) -> None:
    kernel, x, draws, size = KERNELS[name]().requires_grad_(False), 2 * points(4) - 0.5, 120, 128
    found = []
    for _ in range(draws):
        phi = gen_kernel_features(kernel, num_inputs=2, num_outputs=size)
        features = phi(x)
        assert features.shape[-1] == phi.num_outputs
        found.append(features @ features.mT)
    found = torch.stack(found)
    error = 6 * found.std(0) / math.sqrt(draws)
    exact = matrix(kernel, x, x)
    # Waves have the variance exactly; finite networks are of a kernel 1 / width from their limit.
    bias = 4 / size * exact.abs().max() if isinstance(kernel, NetworkKernel) else 1e-9
    assert ((found.mean(0) - exact).abs() <= error + bias).all()
    assert (found.std(0) < 0.5 * exact.abs().max()).all()  # so that the test can fail


def test_components_of_a_mixture_are_as_frequent_as_they_weigh() -> None:
    kernel = mixed(SpectralMixture(3, dims=2))
    kernel.lengthscales = 1e6  # bumps without width: waves of the centres alone
    x = torch.tensor([[0.0, 0.0], [0.3, 0.8]])
    phi = gen_kernel_features(kernel, num_inputs=2, num_outputs=3200)
    # 1600 waves in shares of 0.375, 0.0625, 0.5625 are whole numbers of each, exact but for the width.
    assert_close(phi(x) @ phi(x).mT, matrix(kernel, x, x).detach(), atol=1e-4, rtol=0)


def test_features_of_networks_on_images_read_rows_of_their_shape() -> None:
    kernel = NetworkKernel(Dense(1.2, 0.4) >> Relu() >> Dense(1.3), shape=(4,))
    assert gen_kernel_features(kernel, num_inputs=4, num_outputs=32)(torch.rand(5, 4)).shape == (5, 31 + 0)


def test_features_of_a_network_with_missing_positions_are_refused() -> None:
    kernel = NetworkKernel(Dense() >> Relu() >> Dense(), missing=-1.0)
    with pytest.raises(ValueError, match="missing=-1.0"):
        gen_kernel_features(kernel, num_inputs=2, num_outputs=8)


FEW = partial(draw_kernel_feature_paths, num_features=256)


def moments(model, x: Tensor, maps: int = 40, paths: int = 100) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and covariance over paths of many feature maps at x (q, d), with their standard errors over maps."""
    means, squares = [], []
    centre = model.posterior(x).mean.detach()
    for _ in range(maps):
        path = draw_matheron_paths(model, torch.Size([paths]), prior_sampler=FEW)
        values = path(x)[..., None] if model.num_outputs == 1 else path(x[None]).mT
        flat = (values.detach() - centre).flatten(1)
        means.append(flat.mean(0))
        squares.append(flat.mT @ flat / paths)
    mean, square = torch.stack(means), torch.stack(squares)
    return mean.mean(0), mean.std(0) / maps**0.5, square.mean(0), square.std(0) / maps**0.5


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("name", ["gp", "spectral", "nngp", "last layer"])
def test_paths_have_the_mean_and_covariance_of_the_posterior(name: str, outputs: int) -> None:
    model, x = to_botorch(fitted(name, outputs)), points(3, seed=9)
    mean, mean_error, square, error = moments(model, x)
    law = fitted(name, outputs).posterior(x)
    # The finite networks behind the features of nngp have a kernel some 4 / width from that of its limit.
    slack = 4 / 256 * fitted(name, outputs).to_model_y.scale.max() ** 2 if name == "nngp" else 1e-9
    assert (mean.abs() <= 6 * mean_error + 1e-6).all()
    assert ((square - law.covariance).abs() <= 6 * error + slack).all()
    assert (error < 0.25 * law.covariance.diagonal().max()).all()


def test_paths_pass_through_data_without_noise_and_carry_the_uncertain_mean() -> None:
    X = torch.linspace(0, 1, 6)[:, None].expand(-1, 2).contiguous()
    kernel = ard(Matern(2.5, ard_num_dims=2))
    data = Data(X, torch.sin(4 * X[:, :1]) + 100)
    process = Process(kernel, noise=1e-10, steps=0).fit(data, generator=torch.Generator())
    path = draw_matheron_paths(to_botorch(process), torch.Size([32]))
    assert_close(path(X), data.Y.mT.expand(32, -1), atol=1e-3, rtol=0)
    far = torch.full((1, 2), 50.0)
    # Far away, values are the mean and the prior: the variance is that of universal kriging, beyond the prior's 1.7.
    variance = process.posterior(far).variance.item()
    values = torch.cat([draw_matheron_paths(to_botorch(process), torch.Size([64]))(far)[:, 0] for _ in range(20)])
    assert variance > 1.72
    assert abs(values.var().item() / variance - 1) < 6 * math.sqrt(2 / len(values))


def test_paths_of_a_process_with_fantasies_pass_through_each_of_them() -> None:
    model = to_botorch(fitted("gp"))
    new, Y = points(2, seed=11), torch.tensor([[[12.0], [9.0]], [[8.0], [10.0]], [[11.0], [11.0]]])
    told = model.condition_on_observations(new, Y, noise=torch.full((2, 1), 1e-10))
    paths = draw_matheron_paths(told, torch.Size([5]))
    assert_close(paths(new.expand(3, 2, 2)), Y.squeeze(-1).expand(5, 3, 2), atol=1e-3, rtol=0)


def test_weights_of_rows_count_in_paths() -> None:
    data = rows()
    weight = torch.full((len(data.X),), 1e-6)
    weight[0] = 1e6
    process = Process("rbf", noise=1.0, steps=0).fit(Data(data.X, data.Y, weight), generator=torch.Generator())
    path = draw_matheron_paths(to_botorch(process), torch.Size([64]))
    assert_close(path(data.X[:1]), data.Y[:1].expand(64, 1), atol=0.01, rtol=0)
    assert path(data.X[1:]).std(0).min() > 0.1


def test_a_path_of_an_ensemble_is_a_member() -> None:
    model, x = to_botorch(fitted("ensemble")), points(7, seed=9)
    values = fitted("ensemble").posterior(x).values[..., 0]
    drawn = draw_matheron_paths(model, torch.Size([200]))(x)
    gap = (drawn[:, None] - values).abs().amax(-1)
    assert gap.amin(1).max() < 1e-12
    assert len(gap.argmin(1).unique()) == len(values)
    path = draw_matheron_paths(model, torch.Size([4]))
    assert torch.equal(path(x), path(x))


def test_a_path_of_an_ensemble_with_two_outputs_keeps_them_together() -> None:
    model, x = to_botorch(fitted("ensemble", 2)), points(7, seed=9)
    values = fitted("ensemble", 2).posterior(x).values
    drawn = MatheronPathModel(model, sample_shape=torch.Size([50]))(x.expand(50, 7, 2))
    assert (drawn[:, None] - values).abs().flatten(2).amax(-1).amin(1).max() < 1e-12


def test_random_features_have_paths_of_their_own() -> None:
    data = rows()
    surrogate = RandomFeatureProcess(count=64, steps=0).fit(data, generator=torch.Generator().manual_seed(0))
    model, x = to_botorch(surrogate), points(3, seed=9)
    mean, mean_error, square, error = moments(model, x)
    law = surrogate.posterior(x)
    assert (mean.abs() <= 6 * mean_error).all()
    assert ((square - law.covariance).abs() <= 6 * error).all()


def test_a_spectral_model_in_the_users_units_has_paths() -> None:
    data = rows()
    x_map, y_map = Affine.standardising(data.X), Affine.standardising(data.Y)
    inside = Spectral(2, steps=0).fit(Data(x_map(data.X), y_map(data.Y)), generator=torch.Generator())
    path = draw_matheron_paths(to_botorch(Scaled(inside, x_map, y_map)), torch.Size([3]))
    assert path(data.X).shape == (3, len(data.X))


@pytest.mark.parametrize("name", ["sparse", "student"])
def test_a_law_without_functions_of_its_own_says_so(name: str) -> None:
    with pytest.raises(NotImplementedError, match="whole functions cannot be drawn"):
        draw_matheron_paths(FieldModel(Belief(fitted(name))), torch.Size([2]))(points(3))
