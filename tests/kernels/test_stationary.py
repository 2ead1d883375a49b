"""Stationary kernels against GPyTorch's own, and in GPyTorch's own test suite."""

import pickle
import unittest

import gpytorch
import pytest
import torch
from gpytorch.constraints import Interval
from gpytorch.priors import GammaPrior
from gpytorch.test.base_kernel_test_case import BaseKernelTestCase
from torch.testing import assert_close

from kernelfield.kernels.named import named
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic, dimension_scaled
from tests.laws import obeys_kernel_laws

KERNELS = {
    "rbf": (RBF, {}, lambda **k: gpytorch.kernels.RBFKernel(**k)),
    "matern12": (Matern, {"nu": 0.5}, lambda **k: gpytorch.kernels.MaternKernel(0.5, **k)),
    "matern32": (Matern, {"nu": 1.5}, lambda **k: gpytorch.kernels.MaternKernel(1.5, **k)),
    "matern52": (Matern, {"nu": 2.5}, lambda **k: gpytorch.kernels.MaternKernel(2.5, **k)),
    "rq": (RationalQuadratic, {}, lambda **k: gpytorch.kernels.RQKernel(**k)),
}
ALL = pytest.mark.parametrize("name", KERNELS)


def made(name, **kwargs):
    cls, fixed, _ = KERNELS[name]
    return cls(**fixed, **kwargs)


class Suite:
    """GPyTorch's suite for one kernel."""

    name: str

    def create_kernel_no_ard(self, **kwargs):
        return made(self.name, **kwargs)

    def create_kernel_ard(self, num_dims, **kwargs):
        return made(self.name, ard_num_dims=num_dims, **kwargs)


class TestRbf(Suite, BaseKernelTestCase, unittest.TestCase):
    name = "rbf"


class TestMatern12(Suite, BaseKernelTestCase, unittest.TestCase):
    name = "matern12"


class TestMatern32(Suite, BaseKernelTestCase, unittest.TestCase):
    name = "matern32"


class TestMatern52(Suite, BaseKernelTestCase, unittest.TestCase):
    name = "matern52"


class TestRationalQuadratic(Suite, BaseKernelTestCase, unittest.TestCase):
    name = "rq"


del BaseKernelTestCase  # or pytest collects the abstract suite


@ALL
def test_laws(name):
    kernel = made(name, ard_num_dims=3)
    kernel.lengthscale = torch.tensor([0.5, 1.0, 2.0])
    obeys_kernel_laws(kernel, torch.randn(6, 3), torch.randn(4, 3))


@ALL
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_values_are_those_of_gpytorch(name, batch):
    lengthscale, outputscale = 0.5 + torch.rand(*batch, 1, 3), 0.5 + torch.rand(batch)
    ours = made(name, ard_num_dims=3, batch_shape=torch.Size(batch))
    ours.lengthscale, ours.outputscale = lengthscale, outputscale
    base = KERNELS[name][2](ard_num_dims=3, batch_shape=torch.Size(batch))
    theirs = gpytorch.kernels.ScaleKernel(base, batch_shape=torch.Size(batch))
    base.lengthscale, theirs.outputscale = lengthscale, outputscale
    if name == "rq":
        ours.alpha = 0.7
        base.alpha = torch.full((*batch, 1), 0.7)
    x, y = torch.randn(*batch, 7, 3), torch.randn(*batch, 4, 3)
    for points in ((x,), (x, y)):
        assert_close(ours(*points).to_dense(), theirs(*points).to_dense(), atol=1e-10, rtol=1e-7)
    assert_close(ours(x, x.flip(-2), diag=True), theirs(x, x.flip(-2), diag=True), atol=1e-10, rtol=1e-7)


@ALL
def test_a_kernel_trains_in_a_gpytorch_model(name):
    class Model(gpytorch.models.ExactGP):
        def __init__(self, X, y):
            super().__init__(X, y, gpytorch.likelihoods.GaussianLikelihood())
            self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), made(name)

        def forward(self, X):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(X), self.covar_module(X))

    X = torch.linspace(0, 1, 12)[:, None]
    model = Model(X, torch.sin(6 * X[:, 0]))
    evidence = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)
    first = -evidence(model(X), model.train_targets)
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_product_of_a_kernel_with_gpytorch_s_own_is_the_product_of_their_matrices():
    x = torch.randn(5, 2)
    ours, other = Matern(active_dims=(0,)), gpytorch.kernels.PeriodicKernel(active_dims=(1,))
    assert_close((ours * other)(x).to_dense(), ours(x).to_dense() * other(x).to_dense())
    assert_close((ours + other)(x).to_dense(), ours(x).to_dense() + other(x).to_dense())


@pytest.mark.parametrize("value", [-1.0, 0.0, torch.nan, torch.inf])
def test_a_lengthscale_that_is_none_is_refused_with_its_value(value):
    kernel = RBF()
    with pytest.raises(ValueError, match=f"lengthscale must be positive and finite, got {value:g}"):
        kernel.lengthscale = value
    with pytest.raises(ValueError, match="outputscale must be positive"):
        kernel.outputscale = value


def test_an_unknown_smoothness_or_name_is_refused():
    with pytest.raises(ValueError, match="nu must be 0.5, 1.5 or 2.5, got 2"):
        Matern(nu=2)
    with pytest.raises(ValueError, match="one of matern12, .*, nngp, .*, got 'matern'"):
        named("matern", torch.ones(2), torch.tensor(1.0))


def test_the_lengthscale_prior_is_that_of_the_paper_on_uniform_inputs():
    d, spread = 6, torch.full((6,), 12**-0.5)  # the standard deviation of a uniform input
    prior = dimension_scaled("matern52", spread).lengthscale_prior
    assert_close(prior.loc, torch.full((d,), 2**0.5 + torch.tensor(6.0).log().item() / 2))
    assert_close(prior.scale, torch.full((d,), 3**0.5))


def test_a_kernel_with_priors_and_constraints_survives_pickling():
    kernel = RationalQuadratic(outputscale_prior=GammaPrior(2.0, 1.0), lengthscale_constraint=Interval(0.1, 3.0))
    kernel.alpha = 0.3
    x = torch.randn(4, 1)
    copy = pickle.loads(pickle.dumps(kernel))
    assert_close(copy(x).to_dense(), kernel(x).to_dense(), atol=0, rtol=0)
    assert copy.outputscale_prior.concentration == 2.0


def test_the_workspace_is_offered_where_it_is_exact_and_nowhere_else():
    X = torch.randn(5, 3)
    assert RBF(active_dims=(0, 2)).gram(X).X.shape == (5, 2)
    assert RBF(lengthscale_constraint=Interval(0.1, 3.0)).gram(X) is None
    assert RBF(batch_shape=torch.Size([2])).gram(X) is None
