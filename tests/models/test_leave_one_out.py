"""What is predicted without a row, in closed form, is what a refit without that row predicts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gpytorch.kernels import LinearKernel, RBFKernel
from sklearn.kernel_ridge import KernelRidge
from torch.testing import assert_close

from kernelfield.core.contracts import Data, LeavesOneOut
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.mixing_laws import Gamma
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.kernels.stationary import RBF
from kernelfield.models.collapsed import Rows
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.flow import GradientFlow
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import SparseProcess
from kernelfield.models.student_noise import RobustProcess
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

N = 14
XS = torch.linspace(-3, 3, 5)[:, None] * torch.tensor([1.0, -0.4])
NETWORK = Dense(1.3, 0.4) >> Relu() >> Dense(1.1)
HELD = {"noise": 0.07, "steps": 0}
MODELS = {
    "gp": Process(**HELD),
    "zero mean": Process("rbf", mean="zero", **HELD),
    "linear mean": Process("rbf", mean="linear", **HELD),
    "rq": Process("rq", **HELD),
    "nngp": Process("nngp", **HELD),
    "ntk": Process("ntk", **HELD),
    "linear in features": Process(LinearKernel(), mean="zero", **HELD),
    "a kernel of gpytorch": Process(RBFKernel(), **HELD),
    "student-t": Process(mixing=InverseGamma.student(4.0), **HELD),
    "scale mixture": Process(mixing=Gamma(2.0, 1.5), mean="linear", **HELD),
    "trained ntk": GradientFlow(NETWORK, noise=0.07),
    "trained nngp": GradientFlow(NETWORK, kind="nngp", noise=0.07, mixing=InverseGamma.student(4.0)),
}
EXPANSIONS = {
    "fourier": RandomFeatureProcess(count=20, **HELD),
    "network": RandomFeatureProcess(features="network", count=16, mean="linear", **HELD),
    "inducing": SparseProcess(inducing=6, **HELD),
    "no mean": RandomFeatureProcess(count=40, mean="zero", **HELD),
}


def table(outputs: int = 1, *, weighted: bool = False) -> Data:
    X = torch.randn(N, 2)
    Y = torch.stack([torch.sin(2 * X[:, 0]) + X[:, 1], X[:, 0] ** 2, 5 + X[:, 1]], -1)[:, :outputs]
    return Data(X, Y + 0.2 * torch.randn(N, outputs), 0.3 + torch.rand(N) if weighted else None)


def without(data: Data, i: int) -> Data:
    rest = torch.arange(N) != i
    return Data(data.X[rest], data.Y[rest], None if data.weight is None else data.weight[rest])


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("outputs", "weighted"), [(1, False), (3, False), (2, True)])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_closed_form_is_the_refit_without_the_row(model, outputs, weighted) -> None:
    data = table(outputs, weighted=weighted)
    kernel = fit(model, data).kernel if isinstance(model, Process) else None
    held = model if kernel is None else replace(model, kernel=kernel)  # defaults depend on the data
    fitted = fit(held, data)
    assert isinstance(fitted, LeavesOneOut)
    means, variances = fitted.leave_one_out()
    elsewhere = fitted.without_each(XS)
    assert elsewhere.shape == (5, N, outputs)
    for i in range(N):
        refit = fit(held, without(data, i))
        law = refit.posterior(data.X[i : i + 1])
        weight = 1.0 if data.weight is None else data.weight[i].item()
        unit = refit.scale_law.mean if isinstance(model, Process) else model.mixing.mean  # multiplies the noise too
        assert_close(means[i], law.mean[0], rtol=1e-8, atol=1e-8)
        assert_close(variances[i], law.variance[0] + unit * 0.07 / weight, rtol=1e-8, atol=1e-8)
        assert_close(elsewhere[:, i], refit.posterior(XS).mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", EXPANSIONS.values(), ids=EXPANSIONS)
def test_expansions_need_the_rows_that_they_did_not_keep(model, weighted) -> None:
    data = table(2, weighted=weighted)
    fitted = fit(model, data)
    assert not isinstance(fitted, LeavesOneOut)
    rows = fitted.leaving_out(data)
    assert isinstance(rows, LeavesOneOut)
    means, variances = rows.leave_one_out()
    elsewhere = rows.without_each(XS)
    for i in range(N):
        others = Rows.of(without(data, i), fitted.trend, fitted.centre)
        refit = FittedExpansion.of(fitted.basis, fitted.noise, fitted.trend, fitted.centre, others)
        law = refit.posterior(data.X[i : i + 1])
        weight = 1.0 if data.weight is None else data.weight[i].item()
        assert_close(means[i], law.mean[0], rtol=1e-8, atol=1e-8)
        assert_close(variances[i], law.variance[0] + fitted.noise / weight, rtol=1e-8, atol=1e-8)
        assert_close(elsewhere[:, i], refit.posterior(XS).mean, rtol=1e-8, atol=1e-8)


def test_kernel_ridge_regression_of_scikit_learn_agrees() -> None:
    data = table()
    kernel = RBF()
    kernel.lengthscale = 0.8
    fitted = fit(Process(kernel, mean="zero", **HELD), data)
    elsewhere = fitted.without_each(XS)[..., 0].numpy()
    gamma = 1 / (2 * 0.8**2)
    for i in range(N):
        rest = without(data, i)
        theirs = KernelRidge(alpha=0.07, kernel="rbf", gamma=gamma).fit(rest.X.numpy(), rest.Y[:, 0].numpy())
        np.testing.assert_allclose(elsewhere[:, i], theirs.predict(XS.numpy()), rtol=1e-9, atol=1e-10)


def test_scaling_leaves_rows_out_in_the_units_of_the_user() -> None:
    data = table(2)
    to_X, to_y = Affine.standardising(data.X), Affine(torch.tensor([3.0, -1.0]), torch.tensor([10.0, 0.1]))
    inner = fit(Process(**HELD), data)
    outer = Scaled(inner, to_X, to_y)
    inside, seen = inner.leave_one_out(), outer.leave_one_out()
    assert_close(seen[0], inside[0] * to_y.scale + to_y.shift)
    assert_close(seen[1].sqrt(), inside[1].sqrt() * to_y.scale)
    at = XS * to_X.scale + to_X.shift
    assert_close(outer.without_each(at), inner.without_each(XS) * to_y.scale + to_y.shift)


class TestRefusals:
    """What has no closed form says so."""

    def test_a_row_that_alone_determines_a_coefficient(self) -> None:
        X = torch.cat([torch.zeros(N - 1, 1), torch.ones(1, 1)])
        fitted = fit(Process("rbf", mean="linear", **HELD), Data(X, torch.randn(N, 1)))
        for ask in (fitted.leave_one_out, lambda: fitted.without_each(X)):
            with pytest.raises(ValueError, match=f"row {N - 1} alone determines a coefficient of the mean"):
                ask()

    def test_a_flow_at_a_finite_time(self) -> None:
        fitted = fit(GradientFlow(NETWORK, time=3.0), table())
        with pytest.raises(NotImplementedError, match="for the time 3 is no linear smoother"):
            fitted.without_each(XS)
        assert fitted.at(math.inf).without_each(XS).shape == (5, N, 1)

    def test_a_flow_without_noise_on_repeated_inputs(self) -> None:
        data = table()
        twice = data.joined(data)
        with pytest.raises(NotImplementedError, match="raise noise above 0"):
            fit(GradientFlow(NETWORK, noise=0.0), twice).leave_one_out()

    def test_a_model_that_is_no_smoother(self) -> None:
        fitted = fit(RobustProcess(steps=0), table())
        with pytest.raises(NotImplementedError, match="FittedRobustProcess leaves no row out"):
            Scaled(fitted, *(Affine(torch.zeros(k), torch.ones(k)) for k in (2, 1))).without_each(XS)
