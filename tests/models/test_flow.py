"""Gradient flow against golden values, the Bayesian process, repeated rows and trained finite networks."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.mixing_laws import BurrXII
from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.network import NetworkKernel
from kernelfield.models.flow import GradientFlow, Modes
from kernelfield.models.process import Process
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu
from tests.laws import obeys_posterior_laws

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "infinite_width.json").read_text())["predict"]
DEEP = Dense(2**0.5, 0.1) >> Relu() >> Dense(2**0.5, 0.1) >> Relu() >> Dense(2**0.5, 0.1) >> Relu() >> Dense(1.0)
NET = Dense(1.5, 0.5) >> Relu() >> Dense(1.2)
KINDS = pytest.mark.parametrize("kind", ["nngp", "ntk"])
TIMES = (0.0, 0.7, 20.0, math.inf)


def golden(name):
    return torch.tensor(GOLDEN[name])


@pytest.fixture
def data():
    X = torch.randn(7, 3)
    return Data(X, torch.stack([torch.sin(2 * X[:, 0]), X[:, 1]], -1))


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def kernel_matrix(net, kind, x, z):
    with torch.no_grad():
        return NetworkKernel(net, kind)(x, z).to_dense()


@KINDS
@pytest.mark.parametrize("time", ["None", "0.5"])
def test_an_ensemble_is_that_of_the_reference(kind, time):
    X = golden("x_train")
    # Its ridge is relative to the mean of the diagonal.
    ridge = GOLDEN["diag_reg"] * kernel_matrix(DEEP, kind, X, X).diagonal().mean().item()
    when = math.inf if time == "None" else float(time)
    model = GradientFlow(DEEP, kind, when, rate=GOLDEN["learning_rate"], noise=ridge)
    law = fit(model, Data(X, golden("y_train"))).posterior(golden("x_test"))
    expect = GOLDEN[f"{kind}_t{time}"]
    assert_close(law.mean, torch.tensor(expect["mean"]), rtol=1e-10, atol=1e-12)
    assert_close(law.covariance[::2, ::2], torch.tensor(expect["cov"]), rtol=1e-10, atol=1e-12)


@KINDS
def test_the_end_of_training_is_that_of_the_reference_with_a_ridge_in_absolute_units(kind):
    model = GradientFlow(DEEP, kind, noise=1e-2)
    law = fit(model, Data(golden("x_train"), golden("y_train"))).posterior(golden("x_test"))
    expect = GOLDEN[f"gp_inference_abs1e-2_{kind}"]
    assert_close(law.mean, torch.tensor(expect["mean"]), rtol=1e-10, atol=1e-12)
    assert_close(law.covariance[::2, ::2], torch.tensor(expect["cov"]), rtol=1e-10, atol=1e-12)


def test_the_mean_and_the_largest_rate_are_those_of_one_linearised_network_of_the_reference():
    model = GradientFlow(DEEP, time=3.0, rate=GOLDEN["learning_rate"], noise=0.0)
    fitted = fit(model, Data(golden("x_train"), golden("y_train")))
    expect = GOLDEN["gradient_descent_mse_t3"]
    assert_close(fitted.posterior(golden("x_test")).mean, torch.tensor(expect["test"]), rtol=1e-10, atol=1e-12)
    assert_close(fitted.posterior(golden("x_train")).mean, torch.tensor(expect["train"]), rtol=1e-10, atol=1e-12)
    assert fitted.largest_rate() == pytest.approx(GOLDEN["max_learning_rate"], rel=1e-10)
    assert fitted.largest_rate(momentum=0.9) == pytest.approx(1.9 * fitted.largest_rate())


@KINDS
@pytest.mark.parametrize("time", [0.3, 40.0])
def test_moments_at_a_time_are_those_of_the_matrix_exponential(kind, time, data):
    X, noise, n = torch.randn(4, 3), 0.05, 7
    law = fit(GradientFlow(NET, kind, time, rate=2.0, noise=noise), data).posterior(X)
    T, cross = kernel_matrix(NET, kind, data.X, data.X) + noise * torch.eye(n), kernel_matrix(NET, kind, X, data.X)
    left = torch.linalg.matrix_exp(-2.0 * time / (2 * n) * T)
    A = cross @ torch.linalg.solve(T, torch.eye(n) - left)
    K = kernel_matrix(NET, "nngp", torch.cat([data.X, X]), torch.cat([data.X, X]))
    K[:n, :n] += noise * torch.eye(n) if kind == "nngp" else 0  # where the offsets are random at the start
    change = torch.cat([-A, torch.eye(4)], 1)
    assert_close(law.mean, A @ data.Y)
    assert_close(law.covariance[::2, ::2], change @ K @ change.mT)


def test_training_the_last_layer_to_the_end_is_bayesian_inference(data):
    X = torch.randn(5, 3)
    bayes = fit(Process(NetworkKernel(NET), "zero", noise=0.05, steps=0), data)
    flow = fit(GradientFlow(NET, "nngp", noise=0.05), data)
    for noise in (False, True):
        one, other = bayes.posterior(X, noise=noise), flow.posterior(X, noise=noise)
        assert_close(one.mean, other.mean)
        assert_close(one.covariance, other.covariance)


@KINDS
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_an_ensemble_starts_at_the_prior_and_ends_at_kernel_regression(kind, noise, data):
    X = torch.randn(4, 3)
    fitted = fit(GradientFlow(NET, kind, noise=noise), data)
    start = fitted.at(0.0).posterior(X)
    assert_close(start.mean, torch.zeros(4, 2), atol=0, rtol=0)
    assert_close(start.covariance[::2, ::2], kernel_matrix(NET, "nngp", X, X))
    system = kernel_matrix(NET, kind, data.X, data.X) + noise * torch.eye(7)
    expect = kernel_matrix(NET, kind, X, data.X) @ torch.linalg.solve(system, data.Y)
    assert_close(fitted.posterior(X).mean, expect)
    assert_close(fitted.at(1e6).posterior(X).covariance, fitted.posterior(X).covariance)


@KINDS
def test_without_noise_the_trained_networks_agree_on_the_data(kind, data):
    law = fit(GradientFlow(NET, kind, noise=0.0), data).posterior(data.X)
    assert_close(law.mean, data.Y)
    assert law.variance.max() < 1e-12


@KINDS
@pytest.mark.parametrize("time", TIMES)
def test_the_law_of_an_ensemble_obeys_the_laws_of_posteriors(kind, time, data):
    fitted = fit(GradientFlow(NET, kind, time), data)
    obeys_posterior_laws(fitted.posterior(torch.randn(3, 3), noise=True), samples=10_000)
    batch = torch.randn(2, 3, 3)
    each = [fitted.posterior(x).covariance for x in batch]
    assert_close(fitted.posterior(batch).covariance, torch.stack(each))


def test_means_over_time_are_those_of_the_posteriors(data):
    fitted, X = fit(GradientFlow(NET), data), torch.randn(2, 4, 3)
    means = fitted.means(X, TIMES)
    assert_close(means, torch.stack([fitted.at(t).posterior(X).mean for t in TIMES]))


@KINDS
@pytest.mark.parametrize("time", [2.0, math.inf])
def test_a_weight_counts_as_copies_of_its_row(kind, time):
    X, Y, weight = torch.randn(4, 2), torch.randn(4, 1), torch.tensor([1.0, 3.0, 2.0, 1.0])
    rows = torch.arange(4).repeat_interleave(weight.long())
    model = GradientFlow(NET, kind, time, noise=0.2)
    weighted, repeated = fit(model, Data(X, Y, weight)), fit(model, Data(X[rows], Y[rows]))
    XS = torch.randn(5, 2)
    assert_close(weighted.posterior(XS).mean, repeated.posterior(XS).mean)
    assert_close(weighted.posterior(XS).covariance, repeated.posterior(XS).covariance)


@KINDS
def test_conditioning_is_a_fit_to_all_rows(kind, data):
    model, X = GradientFlow(NET, kind, 4.0), torch.randn(3, 3)
    more = Data(torch.randn(2, 3), torch.randn(2, 2))
    one, other = fit(model, data).condition(more).posterior(X), fit(model, data.joined(more)).posterior(X)
    assert_close(one.mean, other.mean, atol=0, rtol=0)
    assert_close(one.covariance, other.covariance, atol=0, rtol=0)


@KINDS
def test_contradicting_copies_of_a_row_without_noise_end_at_their_mean(kind):
    X = torch.randn(3, 2)[[0, 1, 2, 2]]
    Y = torch.tensor([[1.0], [-1.0], [0.0], [4.0]])
    law = fit(GradientFlow(NET, kind, noise=0.0), Data(X, Y)).posterior(X)
    assert_close(law.mean[:, 0], torch.tensor([1.0, -1.0, 2.0, 2.0]))
    assert law.variance.max() < 1e-12


@KINDS
def test_scales_of_a_learned_kernel_are_those_of_the_ensemble(kind, data):
    kernel = NetworkKernel(NET)
    kernel.scales = torch.tensor([0.7, 0.2, 1.9])
    before = copy.deepcopy(kernel.state_dict())
    X = torch.randn(4, 3)
    one = fit(GradientFlow(kernel, kind), data).posterior(X)
    other = fit(GradientFlow(Dense(0.7, 0.2) >> Relu() >> Dense(1.9), kind), data).posterior(X)
    assert_close(one.covariance, other.covariance)
    assert_close(one.mean, other.mean)
    assert kernel.kind == "nngp" and kernel.raw_scales.requires_grad
    assert_close(kernel.state_dict(), before)


def trained(kind, X, Y, width, members, time, steps):
    """Outputs (members, n, 1) at X of networks trained on its first rows by gradient descent."""
    modules = [NET.module(X.shape[1], width, 1)[0] for _ in range(members)]
    with torch.no_grad():
        parameters, buffers = stack_module_state(modules)
    parameters = {name: value.detach() for name, value in parameters.items()}
    free = set(parameters) if kind == "ntk" else {name for name in parameters if name.startswith("2.")}

    def loss(moving, fixed, b):
        output = functional_call(modules[0], ({**fixed, **moving}, b), (X[: len(Y)],))
        return (output - Y).square().mean() / 2

    moving = {name: parameters[name] for name in free}
    fixed = {name: value for name, value in parameters.items() if name not in free}
    slope = vmap(grad(loss))
    for _ in range(steps):
        slopes = slope(moving, fixed, buffers)
        moving = {name: value - time / steps * slopes[name] for name, value in moving.items()}
    return vmap(lambda p, b: functional_call(modules[0], (p, b), (X,)))({**fixed, **moving}, buffers)


@KINDS
def test_trained_finite_networks_have_the_law_of_the_ensemble(kind):
    X = torch.tensor([[1.0, 0.2], [-0.5, 1.0], [0.3, -1.2], [1.5, 1.0], [-1.0, -1.0]])
    Y = torch.tensor([[1.0], [-1.0], [0.5]])
    members, time = 600, 3.0
    law = fit(GradientFlow(NET, kind, time, noise=0.0), Data(X[:3], Y)).posterior(X)
    found = trained(kind, X, Y, 512, members, time, 60)[..., 0]
    std = law.variance[:, 0].sqrt()
    assert ((found.mean(0) - law.mean[:, 0]).abs() < 6 * std / members**0.5).all()
    error = (found.T.cov() - law.covariance) / (std[:, None] * std)
    assert error.abs().max() < 6 * (2 / members) ** 0.5


@KINDS
def test_an_ensemble_predicts_through_the_estimator(kind):
    X = np.random.default_rng(0).uniform(-2, 2, (60, 2))
    y = 100 + 10 * np.sin(2 * X[:, 0]) + X[:, 1]
    regressor = FieldRegressor(GradientFlow(Dense(2**0.5, 1.0) >> Relu() >> Dense(2**0.5), kind, noise=1e-3))
    mean, std = clone(regressor).fit(X[:50], y[:50]).predict(X[50:], return_std=True)
    assert np.abs(mean - y[50:]).mean() < 2.5
    assert (np.abs(mean - y[50:]) < 6 * std).all()
    assert clone(regressor).set_params(model__time=0.0).fit(X, y).predict(X[:1]) == pytest.approx(y.mean())


def test_what_was_chosen_is_reported(data):
    values = fit(GradientFlow(NET, time=2.0, rate=0.5, noise=0.3), data).hyperparameters()
    assert values["scales"] == pytest.approx([1.5, 0.5, 1.2])
    assert (values["time"], values["rate"], values["noise"]) == (2.0, 0.5, 0.3)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"time": -1.0}, "time must be zero or more, .*, got -1"),
        ({"time": math.nan}, "time must be .*, got nan"),
        ({"rate": 0.0}, "rate must be a positive learning rate, got 0; give"),
        ({"rate": math.inf}, "rate must be .*, got inf"),
        ({"noise": -0.1}, "noise must be a variance, zero or more, got -0.1"),
        ({"kind": "cnn"}, "kind must be 'ntk' to train all layers or 'nngp' to train the last, got 'cnn'"),
        ({"network": 3}, "network must be an architecture such as .*, got 3"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(choice, words, data):
    with pytest.raises(ValueError, match=words):
        fit(GradientFlow(**{"network": NET, **choice}), data)


def test_a_negative_time_is_refused_after_the_fit_as_before(data):
    fitted = fit(GradientFlow(NET), data)
    with pytest.raises(ValueError, match="got -2"):
        fitted.at(-2.0)
    with pytest.raises(ValueError, match="got -2"):
        fitted.means(data.X, [1.0, -2.0])


def test_a_matrix_that_is_no_covariance_is_refused():
    with pytest.raises(NotPositiveDefinite, match=r"eigenvalue -1, its largest one being 2"):
        Modes.of(torch.diag(torch.tensor([-1.0, 2.0])))


@KINDS
def test_a_random_variance_of_the_last_layer_multiplies_the_covariance_and_keeps_the_mean(kind, data):
    X, law = torch.randn(4, 3), BurrXII(2.0, 1.5)
    for noise in (False, True):
        plain = fit(GradientFlow(NET, kind), data).posterior(X, noise=noise)
        mixed = fit(GradientFlow(NET, kind, mixing=law), data).posterior(X, noise=noise)
        assert mixed.mixing == law  # the prior's: training on the squared loss tells nothing of s
        assert_close(mixed.mean, plain.mean)
        assert_close(mixed.covariance, law.mean * plain.covariance)


def test_trained_networks_of_any_variance_of_the_last_layer_agree_in_the_mean(data):
    X, s = torch.randn(4, 3), 3.0
    one, other = (
        fit(GradientFlow(Dense(1.5, 0.5) >> Relu() >> Dense(w), noise=ridge), data).posterior(X)
        for w, ridge in ((1.2, 0.02), (1.2 * s**0.5, 0.02 * s))
    )
    assert_close(other.mean, one.mean)
    assert_close(other.covariance, s * one.covariance)


def test_networks_that_learn_at_different_speeds_are_no_scale_mixture(data):
    law = InverseGamma.student(5.0)
    with pytest.raises(ValueError, match="learn at different speeds .* got 3; leave time out"):
        fit(GradientFlow(NET, time=3.0, mixing=law), data)
    with pytest.raises(ValueError, match="learn at different speeds"):
        fit(GradientFlow(NET, mixing=law), data).at(0.0)
    early = fit(GradientFlow(NET, "nngp", time=3.0, mixing=law), data)
    assert early.condition(data).mixing == early.at(1.0).mixing == law
