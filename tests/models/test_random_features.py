import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.kernels.stationary import RBF, RationalQuadratic
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

KINDS = {
    "fourier": {},
    "network": {"features": "network"},
    "erf network": {"features": "network", "arch": Dense(1.4, 0.5) >> Erf() >> Dense()},
    "gaussian": {"features": "universal"},
    "cos": {"features": "universal", "function": "cos"},
    "sin": {"features": "universal", "function": "sin"},
    "relu": {"features": "universal", "function": "relu"},
}


@pytest.fixture
def data():
    X = torch.rand(200, 2) * 2 - 1
    return Data(X, torch.sin(3 * X[:, :1]) + X[:, 1:] ** 2 + 0.1 * torch.randn(200, 1), 0.5 + torch.rand(200))


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_a_smooth_function_and_its_noise(kind, data):
    fitted = fit(RandomFeatureProcess(count=100, restarts=1, steps=30, **KINDS[kind]), data)
    X = torch.rand(100, 2) * 1.6 - 0.8
    error = fitted.posterior(X).mean - (torch.sin(3 * X[:, :1]) + X[:, 1:] ** 2)
    assert error.square().mean().sqrt() < 0.08
    assert 0.005 < fitted.noise < 0.025  # 0.01 over weights about one
    assert fitted.basis.size in (100, 101)


def test_many_waves_have_the_posterior_of_the_process(data):
    kernel = RBF()
    exact = fit(Process(kernel, noise=0.05, steps=0), data)
    errors = []
    for count in (100, 3000):
        model = RandomFeatureProcess(count=count, kernel=kernel, noise=0.05, steps=0)
        law, expect = fit(model, data).posterior(data.X[:20]), exact.posterior(data.X[:20])
        errors.append((law.mean - expect.mean).square().mean().sqrt())
        assert_close(law.variance, expect.variance, rtol=0.5, atol=0)
    assert errors[1] < 0.01


@pytest.mark.parametrize("kind", ["network", "gaussian", "fourier"])
def test_learning_raises_the_evidence(kind, data):
    model = {"count": 60, "restarts": 2, **KINDS[kind]}
    before, after = (fit(RandomFeatureProcess(**model, steps=steps), data).log_bound for steps in (0, 100))
    assert after > before + 1


def test_the_prior_of_a_network_is_at_the_greatest_evidence(data):
    fitted = fit(RandomFeatureProcess("network", count=50), data)
    exact = fit(Process(fitted.basis.source, noise=0.1, steps=0), data).log_evidence
    assert fitted.log_bound > exact
    best = fitted.searches[0]
    assert best.converged
    held = fit(RandomFeatureProcess("network", count=50, noise=fitted.noise, learn_noise=False), data)
    assert held.noise == pytest.approx(fitted.noise)
    assert held.log_bound == pytest.approx(fitted.log_bound, abs=1e-3)


def test_units_of_the_inputs_make_no_difference(data):
    units = torch.tensor([1e4, 1e-3])
    for kind in ("network", "gaussian"):
        model = RandomFeatureProcess(count=40, **KINDS[kind])
        ones, others = fit(model, data), fit(model, Data(data.X * units, data.Y, data.weight))
        assert_close(ones.posterior(data.X).mean, others.posterior(data.X * units).mean, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 50])
@pytest.mark.parametrize("kind", ["fourier", "network", "gaussian"])
def test_few_rows_many_inputs_and_equal_targets_can_be_fitted(n, d, kind):
    X = torch.randn(n, d)
    if (kind, d, n) == ("gaussian", 50, 2):  # functions that grow as exp of 50 squares, which two rows do not scale
        with pytest.raises(NotPositiveDefinite, match="times the variance of the noise.*or use a Process"):
            fit(RandomFeatureProcess(restarts=1, steps=3, count=32, **KINDS[kind]), Data(X, X[:, :2]))
        return
    for Y in (torch.full((n, 2), 7.0), torch.randn(n, 2)):
        fitted = fit(RandomFeatureProcess(restarts=1, steps=3, count=32, **KINDS[kind]), Data(X, Y))
        assert fitted.posterior(X).mean.isfinite().all()
        assert (fitted.posterior(X).variance >= 0).all()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (RandomFeatureProcess("wavelet"), "features must be 'fourier', 'network' or 'universal', got 'wavelet'"),
        (RandomFeatureProcess(count=1), "count must be at least 2 features, got 1"),
        (RandomFeatureProcess(kernel=RationalQuadratic()), "RBF and Matern kernels, got RationalQuadratic"),
        (RandomFeatureProcess("universal", function="tanh"), "function must be one of cos, sin, gaussian, relu"),
        (RandomFeatureProcess("network", arch=Dense() >> Relu()), "arch must end in Dense"),
        (RandomFeatureProcess(noise=0.0), "noise must be a positive variance, got 0"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, words, data):
    with pytest.raises(ValueError, match=words):
        fit(model, data)


def test_too_few_waves_for_the_process_still_find_what_they_can():
    """The noise of the process is far too little for 200 waves, and a search from there explains nothing."""
    generator = torch.Generator().manual_seed(0)
    X = 2 * torch.rand(1000, 2, generator=generator, dtype=torch.float64) - 1
    f = torch.sin(9 * X[:, :1] * X[:, 1:]) + (X[:, :1] - 0.3).abs() + torch.cos(15 * X[:, 1:]) / 3
    y = f + 0.1 * torch.randn(1000, 1, generator=generator, dtype=torch.float64)
    model = RandomFeatureProcess(count=200, restarts=1, steps=15)
    fitted = model.fit(Data(X, y), generator=torch.Generator().manual_seed(0))
    assert (fitted.posterior(X).mean - f).square().mean().sqrt() < 0.15
