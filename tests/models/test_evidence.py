"""The gradient of the evidence against finite differences, for every way a kernel is held."""

import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.constraints import Interval
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import GammaPrior, LogNormalPrior
from scipy.optimize import approx_fprime

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.kernels.stationary import NAMES, RBF, Matern, RationalQuadratic, dimension_scaled
from kernelfield.models.covariance import General, Radial, covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.process import Process

X, Y = torch.randn(14, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double), None
Y = torch.stack([torch.sin(X[:, 0]), X[:, 1] ** 2], 1)

KERNELS = {
    **{name: (lambda name=name: dimension_scaled(name, torch.ones(3))) for name in NAMES},
    "isotropic": lambda: Matern(1.5),
    "some inputs": lambda: RBF(active_dims=(0, 2), ard_num_dims=2),
    "other priors": lambda: RationalQuadratic(
        lengthscale_prior=GammaPrior(2.0, 1.0),
        outputscale_prior=LogNormalPrior(0.0, 1.0),
        alpha_prior=GammaPrior(2.0, 1.0),
    ),
    "softplus": lambda: gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(2.5, ard_num_dims=3)),
    "sum with priors": lambda: RBF(lengthscale_prior=GammaPrior(2.0, 1.0)) + gpytorch.kernels.LinearKernel(),
}


def objective(name, *, mean="constant", mixing=None, weight=None, learn=True, **options):
    kernel = KERNELS[name]().double()
    data = Data(X, Y, weight)
    return Objective(covariance(kernel, X), data, Trend.of(mean, X), mixing or Unit(), 0.3, learn=learn, **options)


def check(target):
    theta = target.given() + 0.1
    # Central differences of step h err by h^2, and by rounding over h.
    h = 1e-5
    steps = h * np.eye(len(theta))
    differences = [(target(theta + s)[0] - target(theta - s)[0]) / (2 * h) for s in steps]
    np.testing.assert_allclose(target(theta)[1], differences, atol=2e-9, rtol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_the_gradient_is_the_slope(name):
    check(objective(name))


@pytest.mark.parametrize("mean", ["zero", "linear"])
@pytest.mark.parametrize("name", ["matern52", "softplus"])
def test_the_gradient_is_the_slope_whatever_the_mean(name, mean):
    check(objective(name, mean=mean))


@pytest.mark.parametrize("name", ["matern52", "softplus"])
def test_the_gradient_is_the_slope_with_weights_heavy_tails_and_known_noise(name):
    check(objective(name, mixing=InverseGamma(2.0, 1.5), weight=torch.linspace(0.5, 2.0, 14)))
    check(objective(name, learn=False))


def test_both_ways_of_holding_a_kernel_agree():
    kernel = dimension_scaled("rq", torch.ones(3))
    quick = covariance(kernel, X)
    assert isinstance(quick, Radial)
    results = []
    for way in (quick, General(kernel, X)):
        target = Objective(way, Data(X, Y), Trend.of("constant", X), Unit(), 0.3, learn=True)
        theta = Objective(quick, Data(X, Y), Trend.of("constant", X), Unit(), 0.3, learn=True).given()
        # GPyTorch lists parameters in the order of registration, as `Radial` does.
        results.append(target(theta))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-12)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


def test_the_value_is_the_log_density_of_gpytorch_with_its_priors():
    name = "other priors"
    target = objective(name, mean="zero")
    kernel = KERNELS[name]().double()
    law = torch.distributions.MultivariateNormal(
        torch.zeros(14, dtype=torch.double), kernel(X).to_dense() + 0.3 * torch.eye(14)
    )
    priors = sum(prior.log_prob(get(module)).sum() for _, module, prior, get, _ in kernel.named_priors())
    expect = -(law.log_prob(Y.mT).sum() + priors) / 28
    assert target(target.given())[0] == pytest.approx(expect.item(), rel=1e-12)


@pytest.mark.parametrize("prior", [GammaPrior(1.0, 15.0), LogNormalPrior(-4.0, 1.0)])
def test_a_prior_of_the_noise_counts_as_in_gpytorch(prior):
    shapes = {"mixing": InverseGamma(2.0, 1.5), "learn_mixing": True}
    for name in ("other priors", "softplus"):
        check(objective(name, noise_prior=prior))
        check(objective(name, noise_prior=prior, **shapes))
    kernel = KERNELS["other priors"]().double()
    likelihood = GaussianLikelihood(noise_prior=prior).double()
    likelihood.noise = 0.3
    y = Y[:, 0] - Y[:, 0].mean()
    model = SingleTaskGP(X, y[:, None], likelihood=likelihood, covar_module=kernel, outcome_transform=None)
    model.mean_module = gpytorch.means.ZeroMean()
    model.train()
    theirs = gpytorch.ExactMarginalLogLikelihood(likelihood, model)(model(X), y).item()
    ours = Objective(
        covariance(kernel, X), Data(X, y[:, None]), Trend.of("zero", X), Unit(), 0.3, learn=True, noise_prior=prior
    )
    assert -ours(ours.given())[0] == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize("kind", ["zero", "constant", "linear"])
def test_the_basis_is_orthonormal_and_drops_what_the_data_leave_open(kind):
    inputs = torch.cat([X * torch.tensor([1e6, 1.0, 1e-6]), torch.ones(14, 1), X[:, :1]], 1)
    H = Trend.of(kind, inputs)(inputs)
    rank = {"zero": 0, "constant": 1, "linear": 4}[kind]
    assert H.shape == (14, rank)
    np.testing.assert_allclose(H.mT @ H, np.eye(rank), atol=1e-9)


def test_a_start_outside_of_the_usual_bounds_is_respected():
    kernel = RBF().double()
    kernel.lengthscale = 1e9
    bounds = covariance(kernel, X).bounds(1.0)
    assert bounds[0][1] == pytest.approx(np.log(1e9))


def test_scipy_s_own_difference_quotient_agrees():
    target = objective("matern32")
    theta = target.given()
    np.testing.assert_allclose(target(theta)[1], approx_fprime(theta, lambda t: target(t)[0]), atol=1e-6)


def test_a_value_on_the_end_of_its_interval_is_where_a_search_can_start():
    kernel = ScaleKernel(RBFKernel(lengthscale_constraint=Interval(0.1, 2.0)))
    kernel.base_kernel.lengthscale = 2.0
    start = covariance(kernel, X).start()
    assert np.isfinite(start).all()
    fitted = Process(kernel, restarts=1).fit(Data(X, Y), generator=torch.Generator())
    assert 0.1 < fitted.kernel.base_kernel.lengthscale.item() < 2.0
