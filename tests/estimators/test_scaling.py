"""Scaled answers in the user's units whatever the model's are."""

import math

import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.kernels.stationary import Matern
from kernelfield.models.process import Process
from kernelfield.models.quantile import QuantileProcess
from kernelfield.models.random_features import RandomFeatureProcess


@pytest.mark.parametrize("size", [1e-300, 1e-3, 1.0, 1e300])
def test_standardised_columns_have_mean_zero_and_variance_one(size: float) -> None:
    x = size * torch.tensor([[1.0, -3.0], [2.0, 5.0], [4.0, 0.5]])
    u = Affine.standardising(x)(x)
    assert_close(u.mean(0), torch.zeros(2))
    assert_close(u.var(0, correction=0), torch.ones(2))


def test_the_least_number_there_is_stays_finite() -> None:
    x = torch.tensor([[0.0], [5e-324], [0.0]], dtype=torch.double)
    assert Affine.standardising(x)(x).isfinite().all()


def test_a_constant_column_becomes_exactly_zero() -> None:
    x = torch.tensor([0.1, 1e300, 0.0]).expand(7, 3)
    standard = Affine.standardising(x, torch.arange(1.0, 8.0))
    assert (standard(x) == 0).all()
    assert (standard.scale == 1).all()


def test_weights_count_as_copies() -> None:
    x = torch.randn(5, 2)
    weight = torch.tensor([1, 2, 3, 1, 4])
    weighted, repeated = Affine.standardising(x, weight.double()), Affine.standardising(x.repeat_interleave(weight, 0))
    assert_close(weighted.shift, repeated.shift)
    assert_close(weighted.scale, repeated.scale)


def scaled(model: Model, data: Data) -> Scaled:
    x_map, y_map = Affine.standardising(data.X, data.weight), Affine.standardising(data.Y, data.weight)
    inside = Data(x_map(data.X), y_map(data.Y), data.weight)
    return Scaled(model.fit(inside, generator=torch.Generator()), x_map, y_map)


def data(outputs: int = 1, rows: int = 12) -> Data:
    X = torch.rand(rows, 2) * torch.tensor([100.0, 0.01]) + 3.0
    Y = 50 * torch.randn(rows, outputs) * torch.arange(1.0, outputs + 1) - 20.0
    return Data(X, Y, torch.rand(rows) + 0.5)


@pytest.mark.parametrize("mixing", [Process().mixing, InverseGamma.student(4.0)], ids=["gaussian", "student-t"])
def test_conditioning_carries_weights_and_units(mixing) -> None:
    """Taking in rows later equals having had them, with the scaling held."""
    all_rows = data()
    first = Data(all_rows.X[:8], all_rows.Y[:8], all_rows.weight[:8])
    more = Data(all_rows.X[8:], all_rows.Y[8:], all_rows.weight[8:])
    model = Process(Matern(2.5, ard_num_dims=2), mean="zero", mixing=mixing, steps=0)
    early = scaled(model, first)
    inside = Data(early.to_model_X(all_rows.X), early.to_model_y(all_rows.Y), all_rows.weight)
    expected = Scaled(model.fit(inside, generator=torch.Generator()), early.to_model_X, early.to_model_y)
    at = all_rows.X
    got = early.condition(more).posterior(at, noise=True)
    assert_close(got.mean, expected.posterior(at, noise=True).mean, rtol=1e-9, atol=1e-9)
    assert_close(got.variance, expected.posterior(at, noise=True).variance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("outputs", [1, 3])
def test_evidence_is_the_density_of_the_targets_as_the_user_gave_them(outputs: int) -> None:
    """Oracle: the joint Gaussian density of Y with kernel and noise in the user's units."""
    seen = data(outputs)
    surrogate = scaled(Process(Matern(2.5, ard_num_dims=2), mean="zero", noise=0.3, steps=0), seen)
    x_scale, y_map = surrogate.to_model_X.scale, surrogate.to_model_y
    kernel = Matern(2.5, ard_num_dims=2)
    kernel.lengthscale = surrogate.inner.kernel.lengthscale * x_scale
    A = (kernel(seen.X).to_dense() + torch.diag(0.3 / seen.weight)).detach()
    expected = 0.0
    for j in range(outputs):
        law = torch.distributions.MultivariateNormal(y_map.shift[j].expand(12), y_map.scale[j].square() * A)
        expected += law.log_prob(seen.Y[:, j]).item()
    assert surrogate.log_evidence == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_bound_of_basis_functions_is_in_the_units_of_the_user(outputs: int) -> None:
    """Oracle: the joint Gaussian density of Y with the covariance phi'phi of the basis in the user's units."""
    seen = data(outputs)
    surrogate = scaled(RandomFeatureProcess(count=8, mean="zero", noise=0.3, steps=0), seen)
    y_map = surrogate.to_model_y
    phi = surrogate.inner.features(surrogate.to_model_X(seen.X)).detach()
    expected = 0.0
    for j in range(outputs):
        A = y_map.scale[j].square() * (phi.mT @ phi + torch.diag(0.3 / seen.weight))
        law = torch.distributions.MultivariateNormal(y_map.shift[j].expand(12), A)
        expected += law.log_prob(seen.Y[:, j]).item()
    assert surrogate.log_bound == pytest.approx(expected, rel=1e-10)
    with pytest.raises(NotImplementedError, match="FittedExpansion has no evidence; log_bound is a lower bound of it"):
        _ = surrogate.log_evidence


def test_a_model_without_a_bound_says_so() -> None:
    with pytest.raises(NotImplementedError, match="FittedProcess has no bound of its evidence"):
        _ = scaled(Process(steps=0), data()).log_bound


def test_hyperparameters_in_the_units_of_the_user_make_the_same_process() -> None:
    seen = data()
    standard = scaled(Process(Matern(1.5, ard_num_dims=2), mean="zero", noise=0.2, steps=30), seen)
    found = standard.hyperparameters()
    kernel = Matern(1.5, ard_num_dims=2)
    kernel.lengthscale, kernel.outputscale = torch.tensor(found["lengthscale"]), found["outputscale"]
    shift = standard.to_model_y.shift
    plain = Process(kernel, mean="zero", noise=found["noise"], steps=0)
    direct = plain.fit(Data(seen.X, seen.Y - shift, seen.weight), generator=torch.Generator())
    at = seen.X + 0.001
    assert_close(direct.posterior(at).mean + shift, standard.posterior(at).mean, rtol=1e-8, atol=1e-8)
    assert_close(direct.posterior(at).variance, standard.posterior(at).variance, rtol=1e-6, atol=1e-6)


def test_lengthscales_of_quantiles_are_in_the_units_of_the_user() -> None:
    kernel = RBFKernel(ard_num_dims=2)
    kernel.lengthscale = torch.tensor([0.5, 2.0])
    surrogate = scaled(QuantileProcess(kernel, ridge=1.0, similarity=1.0), data())
    found, expected = surrogate.hyperparameters(), torch.tensor([0.5, 2.0]) * surrogate.to_model_X.scale
    assert found["lengthscale"] == pytest.approx(expected.tolist())
    assert (found["ridge"], found["similarity"]) == (1.0, 1.0)


def test_noise_has_a_value_for_each_output() -> None:
    surrogate = scaled(Process(noise=0.5, steps=0), data(3))
    assert surrogate.hyperparameters()["noise"] == pytest.approx((0.5 * surrogate.to_model_y.scale**2).tolist())


def test_lengthscales_take_the_units_of_their_own_inputs() -> None:
    kernel = ScaleKernel(MaternKernel(active_dims=(1,))) + ScaleKernel(RBFKernel())
    surrogate = scaled(Process(kernel, steps=0), data())
    found = surrogate.hyperparameters()
    softplus = math.log(2)  # where GPyTorch's parameters start
    expected = softplus * surrogate.to_model_X.scale[1].item()
    assert found["kernels.0.base_kernel.lengthscale"] == pytest.approx(expected)
    assert found["kernels.1.base_kernel.lengthscale"] == pytest.approx(softplus)  # one for two inputs: standardised
