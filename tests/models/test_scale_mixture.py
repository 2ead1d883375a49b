"""The kernel of a scale mixture in GPyTorch's models, and the process that it stands for."""

import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.optim.fit import fit_gpytorch_mll_torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.mixing_laws import BurrXII, HalfCauchy
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF
from kernelfield.models.process import Process
from kernelfield.models.scale_mixture import ScaleMixtureKernel
from tests.laws import obeys_kernel_laws

STUDENT, BURR = InverseGamma.student(4.0), BurrXII(2.0, 1.5)
BASES = {
    "ours": lambda: RBF(),
    "gpytorch's": lambda: ScaleKernel(MaternKernel(2.5, ard_num_dims=2)),
    "some inputs": lambda: RBFKernel(active_dims=(1,)),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("law", [STUDENT, BURR], ids=["student", "burr"])
def test_the_covariance_is_the_mean_of_s_times_the_kernel(base, law):
    kernel, base = ScaleMixtureKernel(base(), law), base()
    x, y = torch.randn(5, 2), torch.randn(4, 2)
    obeys_kernel_laws(kernel, x, y)
    assert_close(kernel(x, y).to_dense(), law.mean * base(x, y).to_dense())
    assert kernel.is_stationary == base.is_stationary
    assert kernel.num_outputs_per_input(x, y) == 1


def test_a_model_of_gpytorch_learns_under_it_and_hands_the_law_over():
    class Model(gpytorch.models.ExactGP):
        def __init__(self, X, y, likelihood, kernel):
            super().__init__(X, y, likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), kernel

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    X, y = torch.linspace(-2, 2, 8)[:, None], torch.sin(torch.linspace(-4, 4, 8))
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = Model(X, y, likelihood, ScaleMixtureKernel(ScaleKernel(RBFKernel()), STUDENT))
    (slope,) = torch.autograd.grad(
        gpytorch.ExactMarginalLogLikelihood(likelihood, model)(model(X), y),
        model.covar_module.base_kernel.raw_outputscale,
    )
    assert slope.abs() > 1e-6
    process = model.covar_module.process(mean="zero", noise=likelihood.noise.item() / STUDENT.mean, steps=0)
    assert process.kernel is not model.covar_module.base_kernel
    fitted = process.fit(Data(X, y[:, None]), generator=torch.Generator())
    model.eval()
    assert_close(fitted.posterior(X + 0.1).mean[:, 0], model(X + 0.1).mean, atol=1e-6, rtol=1e-6)
    same = Process(model.covar_module.base_kernel, "zero", process.noise, STUDENT, steps=0)
    assert fitted.log_evidence == same.fit(Data(X, y[:, None]), generator=torch.Generator()).log_evidence


@pytest.mark.parametrize("law", [STUDENT, BURR], ids=["student", "burr"])
def test_a_model_of_botorch_learns_under_it(law):
    """Its fit is that under K itself, whose output scale is E[s] times as large."""
    X = torch.rand(20, 2)
    y = (torch.sin(6 * X[:, :1]) + 0.1 * torch.randn(20, 1)) / 0.7
    new = torch.rand(5, 2)

    def fitted(kernel, steps):
        model = SingleTaskGP(X, y, covar_module=kernel, outcome_transform=None)
        objective = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)
        start = objective(model(X), y[:, 0]).item()
        fit_gpytorch_mll_torch(objective, step_limit=steps)
        model.train()
        return model, start, objective(model(X), y[:, 0]).item()

    model, start, end = fitted(ScaleMixtureKernel(ScaleKernel(RBFKernel(ard_num_dims=2)), law), 30)
    assert end > start + 0.05
    model.eval()
    inside = model.covar_module.base_kernel
    own = ScaleKernel(RBFKernel(ard_num_dims=2))
    own.outputscale, own.base_kernel.lengthscale = law.mean * inside.outputscale, inside.base_kernel.lengthscale
    plain = SingleTaskGP(X, y, covar_module=own, outcome_transform=None)
    plain.likelihood.load_state_dict(model.likelihood.state_dict())
    plain.mean_module.load_state_dict(model.mean_module.state_dict())
    ours, theirs = model.posterior(new, observation_noise=True), plain.posterior(new, observation_noise=True)
    assert_close(ours.mean, theirs.mean, rtol=1e-9, atol=1e-9)
    assert_close(ours.variance, theirs.variance, rtol=1e-9, atol=1e-9)
    assert_close(model.covar_module(X).to_dense(), law.mean * inside(X).to_dense())
    assert ours.rsample(torch.Size([3])).shape == (3, 5, 1)


def test_a_law_without_a_mean_has_no_covariance():
    with pytest.raises(ValueError, match=r"E\[s\] is inf under HalfCauchy.*use Process\(kernel, mixing="):
        ScaleMixtureKernel(RBFKernel(), HalfCauchy())


def test_it_is_kept_in_a_file(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12.0)
    estimator = FieldRegressor(Process(ScaleMixtureKernel(ScaleKernel(RBFKernel()), BURR), steps=2)).fit(X, y)
    save(estimator, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(X), estimator.predict(X))
