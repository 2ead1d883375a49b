"""NetworkKernel obeys the kernel laws, in GPyTorch and in BoTorch, and refuses what it cannot read."""

import gpytorch
import pytest
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.priors import LogNormalPrior
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.named import NETWORKS, named
from kernelfield.kernels.network import NetworkKernel
from kernelfield.models.process import Process
from kernelfield.nets.algebra import Product, Residual
from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.graph import GraphAggregate
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import Flatten, GlobalAvgPool
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf
from tests.laws import obeys_kernel_laws

DEEP = Dense(w=1.4, b=0.3) >> Relu() >> Dense(w=1.4, b=0.3) >> Relu() >> Dense(w=1.2)
GENERAL = Dense(w=1.4, b=0.3) >> Residual(Erf() >> Dense(w=1.4, b=0.3)) >> Relu() >> Dense(w=1.2)
IMAGES = Conv((3, 3), 1.4, 0.1) >> Relu() >> GlobalAvgPool() >> Dense(1.2)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", [DEEP, GENERAL], ids=["stack", "general"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_laws(arch, kind, batch):
    kernel = NetworkKernel(arch, kind, batch_shape=torch.Size(batch)).double()
    x, y = torch.randn(6, 3), torch.randn(4, 3)
    if batch:
        assert_close(kernel(x, diag=True), kernel(x).to_dense().diagonal(dim1=-2, dim2=-1))
        assert kernel(x, y).to_dense().shape == (2, 6, 4)
    else:
        obeys_kernel_laws(kernel, x, y)


def test_orthogonal_inputs_by_hand():
    kernel = NetworkKernel(Dense(w=2**0.5) >> Relu() >> Dense(w=2**0.5)).double()
    # d = 2: variances 2/2 = 1 and covariance 0 enter the ReLU; 2 / (2 pi) leaves.
    expect = torch.tensor([[1.0, 0.3183098862], [0.3183098862, 1.0]])
    assert_close(kernel(torch.eye(2)).to_dense(), expect, atol=1e-6, rtol=0)


def test_the_ntk_adds_the_kernels_of_all_layers():
    arch = Dense(w=1.0) >> Relu() >> Dense(w=1.0)
    # At one unit input, d = 1: layer kernels 1 and 1/2; ReLU slope 1/2; so 1/2 + 1/2 * 1.
    assert_close(NetworkKernel(arch, "ntk").double()(torch.ones(1, 1)).to_dense(), torch.ones(1, 1))


def test_scales_start_at_the_architecture_and_rebuild_it():
    kernel = NetworkKernel(DEEP).double()
    kernel.scales = torch.tensor(DEEP.scales())
    assert_close(kernel.scales, torch.tensor(DEEP.scales()))
    assert_close(torch.tensor(kernel.fitted.scales()), kernel.scales)
    kernel.scales = 0.5
    assert kernel.fitted.scales() == pytest.approx([0.5] * 5)


def test_images_arrive_as_rows():
    x = torch.randn(3, 4, 5, 2)
    for kind in ("nngp", "ntk"):
        kernel = NetworkKernel(IMAGES, kind, shape=(4, 5, 2)).double()
        kernel.scales = torch.tensor(IMAGES.scales())
        assert_close(kernel(x.flatten(1)).to_dense(), gram(IMAGES, Points(x, 2), kind=kind))


def test_missing_positions_do_not_count():
    arch = Conv((1,), 1.4, 0.1) >> Relu() >> GlobalAvgPool() >> Dense(1.2)
    whole = torch.randn(2, 4, 3)
    padded = torch.cat([whole, torch.full((2, 2, 3), -99.0)], 1)
    short = NetworkKernel(arch, shape=(4, 3)).double()(whole.flatten(1)).to_dense()
    masked = NetworkKernel(arch, shape=(6, 3), missing=-99.0).double()(padded.flatten(1)).to_dense()
    assert_close(masked, short)


def test_graphs_follow_their_nodes():
    arch = Dense(1.4, 0.1) >> Relu() >> GraphAggregate() >> Dense(1.1) >> Flatten() >> Dense()
    x, graph = torch.randn(3, 4, 2), torch.rand(3, 4, 4)
    kernel = NetworkKernel(arch, shape=(4, 2), graph=True).double()
    kernel.scales = torch.tensor(arch.scales())
    rows = torch.cat([x.flatten(1), graph.flatten(1)], 1)
    assert_close(kernel(rows).to_dense(), gram(arch, Points(x, 1, graph=graph)))


def test_a_gpytorch_model_trains_with_it():
    x = torch.linspace(-2, 2, 15)[:, None]
    y = torch.sin(2 * x[:, 0])

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = NetworkKernel(DEEP)

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    model = Model(gpytorch.likelihoods.GaussianLikelihood().double()).double()
    evidence = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = -evidence(model(x), y)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.1


# A line search may try scales so large that the noise is below their rounding error.
TRIED = pytest.mark.filterwarnings("ignore::linear_operator.utils.warnings.NumericalWarning")


@TRIED
def test_botorch_fits_it_in_place_of_its_own_kernel():
    x = torch.rand(60, 4)
    y = torch.sin(3 * x).sum(-1, keepdim=True)
    model = SingleTaskGP(x, y, covar_module=NetworkKernel(DEEP).double())
    fit_gpytorch_mll(gpytorch.ExactMarginalLogLikelihood(model.likelihood, model))
    error = (model.posterior(x).mean - y).square().mean() / y.var()
    assert error < 0.05
    upper = model.posterior(x[:3, None]).mean + model.posterior(x[:3, None]).variance.sqrt()
    assert upper.shape == (3, 1, 1) and upper.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_processes_learn_with_the_kernels_by_name(name):
    X = torch.rand(60, 2) * torch.tensor([1.0, 50.0])
    Y = torch.sin(4 * X[:, :1]) + 0.02 * X[:, 1:]
    fitted = Process(name, restarts=2, steps=60).fit(Data(X[:40], Y[:40]), generator=torch.Generator().manual_seed(0))
    error = (fitted.posterior(X[40:]).mean - Y[40:]).square().mean() / Y.var()
    assert error < 0.05


@TRIED
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_noiseless_data_are_fitted_where_rounded_variances_fail(seed):
    """BoTorch's own infinite-width kernel loses definiteness in about half of these fits."""
    torch.manual_seed(seed)
    x = torch.rand(300, 10)
    y = torch.sin(3 * x).sum(-1, keepdim=True)
    arch = Dense(1.4, 0.3) >> Relu() >> Dense(1.4, 0.3) >> Relu() >> Dense(1.4, 0.3) >> Relu() >> Dense(1.4, 0.3)
    model = SingleTaskGP(x, y, covar_module=NetworkKernel(arch).double())
    fit_gpytorch_mll(gpytorch.ExactMarginalLogLikelihood(model.likelihood, model))
    assert (model.posterior(x).mean - y).square().mean() < 1e-3 * y.var()


def test_priors_have_a_say():
    kernel = named("nngp", torch.ones(2), torch.tensor(1.0))
    assert isinstance(kernel.scales_prior, LogNormalPrior)
    assert kernel.scales_prior.log_prob(kernel.scales).shape == kernel.scales.shape


@pytest.mark.parametrize("d", [1, 16, 400])
def test_networks_start_at_the_mode_of_their_prior_which_is_tighter_the_more_inputs_there_are(d):
    kernel = named("nngp", torch.linspace(0.5, 2, d), torch.tensor(3.0))
    prior, scales = kernel.scales_prior, kernel.scales.detach().requires_grad_()
    (slope,) = torch.autograd.grad(prior.log_prob(scales).sum(), scales)
    assert_close(slope * scales, torch.zeros_like(scales), atol=1e-9, rtol=0)
    assert_close(prior.scale.square()[:d].sum(), torch.tensor(3 * d**0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NetworkKernel(DEEP, "cnn"), "kind must be 'nngp' or 'ntk', got 'cnn'"),
        (lambda: NetworkKernel("relu"), "arch must be a network of layers.*got 'relu'"),
        (lambda: NetworkKernel(Dense(1) >> Relu() >> Dense(2)), "no positive float field to learn"),
        (lambda: NetworkKernel(Dense() >> Residual(Product((Dense(), Dense())))), "not Gaussian with mean zero"),
        (lambda: NetworkKernel(DEEP, graph=True), "needs the shape"),
        (lambda: setattr(NetworkKernel(DEEP), "scales", -1.0), "must be positive and finite, got -1"),
        (lambda: NetworkKernel(IMAGES, shape=(4, 5, 2))(torch.ones(2, 39)).to_dense(), "rows of 40 numbers, got 39"),
        (lambda: NetworkKernel(IMAGES)(torch.ones(2, 40)).to_dense(), "shape"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
