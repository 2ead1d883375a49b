import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF
from kernelfield.models.neural.deep_kernel import DeepKernel, Evidence
from kernelfield.models.neural.feature_kernel import FeatureKernel, residual_map
from kernelfield.models.neural.network import Network
from kernelfield.models.process import Process
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws


def fit(model, data, seed=0):
    return model.fit(data, generator=torch.Generator().manual_seed(seed))


def wave(n, d=2, m=1):
    X = torch.rand(n, d)
    return Data(X, torch.sin(4 * X[:, :1]) * torch.arange(1, m + 1) + 0.1 * torch.randn(n, m))


def evidence_of(weighted):
    data = wave(9)
    if weighted:
        data = Data(data.X, data.Y, 0.5 + torch.rand(9))
    network = Network(residual_map(2, width=4), 2, 2)
    start = network.start(torch.Generator().manual_seed(0))
    start = start + 0.5 * torch.randn(len(start))
    kernel = FeatureKernel(RBF(ard_num_dims=2), network, start, torch.zeros(2), torch.ones(2), bound=0.9)
    return Evidence(kernel, 0.05, "zero"), data


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_and_its_slopes_are_those_of_the_gaussian_density(weighted):
    evidence, data = evidence_of(weighted)
    weight = torch.ones(9) if data.weight is None else data.weight
    K = evidence.kernel(data.X).to_dense() + torch.diag(evidence.log_noise.exp() / weight)
    loss = -MultivariateNormal(torch.zeros(9), K).log_prob(data.Y[:, 0]) / 9
    slopes = torch.autograd.grad(loss, evidence.parameters)
    assert evidence.differentiate(data) == pytest.approx(loss.item(), rel=1e-10)
    for parameter, slope in zip(evidence.parameters, slopes, strict=True):
        assert_close(parameter.grad, slope, atol=1e-9, rtol=1e-6)


def test_the_held_out_density_is_that_of_the_conditioned_process():
    evidence, data = evidence_of(True)
    seen, held = (Data(data.X[part], data.Y[part], data.weight[part]) for part in (slice(6), slice(6, 9)))
    K = evidence.kernel(data.X).to_dense().detach()
    A = K[:6, :6] + 0.05 * torch.diag(1 / seen.weight)
    gain = torch.linalg.solve(A, K[:6, 6:]).mT
    spread = (K[6:, 6:] - gain @ K[:6, 6:]).diagonal() + 0.05 / held.weight
    gap = held.Y[:, 0] - (gain @ seen.Y)[:, 0]
    expect = -0.5 * (gap.square() / spread + (2 * math.pi * spread).log()).mean()
    assert evidence.density(seen, held) == pytest.approx(expect.item(), rel=1e-8)


def test_without_steps_it_is_the_ordinary_process():
    data = wave(25)
    deep = fit(DeepKernel(steps=0), data)
    scaled = Data((data.X - data.X.mean(0)) / data.X.std(0, correction=0), data.Y)
    kernel = deep.kernel.base_kernel
    plain = fit(Process(kernel, noise=deep.noise, steps=0), scaled)
    assert deep.log_evidence == pytest.approx(plain.log_evidence, rel=1e-9)
    X = torch.rand(6, 2)
    there = (X - data.X.mean(0)) / data.X.std(0, correction=0)
    assert_close(deep.posterior(X).mean, plain.posterior(there).mean, atol=1e-8, rtol=1e-8)
    assert deep.notes() == ["the network stayed as it started: too few rows for a held-out part, or no steps"]


@pytest.mark.slow
def test_a_step_between_plateaus_is_learned_better_than_by_a_stationary_kernel():
    X = torch.rand(250, 1) * 2 - 1
    data = Data(X[:150], (X[:150] > 0.1).double() + 0.02 * torch.randn(150, 1))
    target = (X[150:] > 0.1).double()
    deep, plain = (fit(model, data) for model in (DeepKernel(lipschitz=None), Process()))
    errors = [(s.posterior(X[150:]).mean - target).abs().mean() for s in (deep, plain)]
    assert deep.course.kept > 0 and deep.course.best > deep.course.first + 0.1
    assert errors[0] < 0.8 * errors[1]


def test_batches_of_rows_train_the_network_too():
    data = wave(120)
    fitted = fit(DeepKernel(batch=32, steps=40), data)
    assert fitted.course.steps == 40 and fitted.course.held == 24
    law = fitted.posterior(data.X)
    assert (law.mean - data.Y).square().mean() < 0.03


def test_its_posterior_obeys_the_laws_in_batches_too():
    fitted = fit(DeepKernel(steps=20), wave(40, m=2))
    obeys_posterior_laws(fitted.posterior(torch.rand(3, 2)))
    density_integrates_to_cdf(fitted.posterior(torch.rand(2, 4, 2), noise=True))
    X = torch.rand(2, 3, 4, 2)
    assert_close(fitted.posterior(X).covariance[1, 2], fitted.posterior(X[1, 2]).covariance, atol=1e-9, rtol=1e-9)


def test_conditioning_is_a_process_of_all_rows_with_the_same_kernel():
    data, more = wave(30), wave(7)
    fitted = fit(DeepKernel(steps=20), data).condition(more)
    everything = fit(Process(fitted.kernel, noise=fitted.noise, steps=0), data.joined(more))
    X = torch.rand(5, 2)
    assert_close(fitted.posterior(X).mean, everything.posterior(X).mean, atol=1e-8, rtol=1e-8)
    assert fitted.log_evidence == pytest.approx(everything.log_evidence, rel=1e-8)


def test_predictions_have_gradients_in_the_inputs():
    fitted = fit(DeepKernel(steps=20), wave(30))
    X = torch.rand(3, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda X: (fitted.posterior(X).mean, fitted.posterior(X).variance), X)


def test_the_same_seed_gives_the_same_numbers():
    data = wave(30)
    one, other = (fit(DeepKernel(steps=20), data) for _ in range(2))
    assert one.log_evidence == other.log_evidence


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("d", [1, 50])
def test_few_rows_and_constant_targets_can_be_fitted(n, d):
    law = fit(DeepKernel(), Data(torch.randn(n, d), torch.full((n, 2), 3.0))).posterior(torch.randn(4, d), noise=True)
    assert_close(law.mean, torch.full((4, 2), 3.0), atol=1e-3, rtol=0)
    assert (law.variance > 0).all()


def test_a_module_of_the_users_gives_the_features():
    module = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    fitted = fit(DeepKernel(module, features=3, steps=30), wave(60))
    assert fitted.kernel.map(torch.rand(4, 2)).shape == (4, 3)
    assert set(fitted.hyperparameters()) == {"lengthscale", "outputscale", "noise"}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"lipschitz": 0.0}, "bound of spectral norms must be positive, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"features": 0}, "features must be at least 1, got 0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
        ({"held_out": 1.0}, "held_out must be a share of the rows between 0 and 1, got 1"),
        ({"network": nn.Linear(2, 5)}, "must give 2 outputs"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(choice, words):
    with pytest.raises(ValueError, match=words):
        fit(DeepKernel(**choice), wave(12))
