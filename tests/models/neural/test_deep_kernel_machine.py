import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.deep_kernel_machine import DeepKernelMachine
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws


def rows(n, d=2, m=1, weighted=False):
    X = torch.randn(n, d)
    Y = torch.sin(2 * X[:, :1]) * torch.arange(1, m + 1) + 0.1 * torch.randn(n, m)
    return Data(X, Y, 0.5 + torch.rand(n) if weighted else None)


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(2)
    return fit(DeepKernelMachine(inducing=15, steps=30), rows(50, m=2))


def test_its_posterior_obeys_the_laws_in_batches_too(fitted):
    obeys_posterior_laws(fitted.posterior(torch.randn(3, 2)))
    density_integrates_to_cdf(fitted.posterior(torch.randn(4, 2), noise=True))
    X = torch.randn(2, 3, 4, 2)
    assert_close(fitted.posterior(X).covariance[1, 2], fitted.posterior(X[1, 2]).covariance, atol=1e-9, rtol=1e-9)
    law = fitted.posterior(X[0, 0])
    assert_close(law.covariance.diagonal(), law.variance.flatten(), atol=1e-9, rtol=1e-6)


def test_predictions_have_gradients_in_the_inputs(fitted):
    X = torch.randn(3, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda X: (fitted.posterior(X).mean, fitted.posterior(X).variance), X)


def test_conditioning_in_two_parts_is_conditioning_once(fitted):
    one, two, X = rows(6, m=2), rows(5, m=2, weighted=True), torch.randn(4, 2)
    laws = [s.posterior(X) for s in (fitted.condition(one).condition(two), fitted.condition(one.joined(two)))]
    assert_close(laws[0].mean, laws[1].mean)
    assert_close(laws[0].covariance, laws[1].covariance, atol=1e-9, rtol=1e-9)


def test_without_hidden_layers_the_posterior_is_that_of_the_process():
    data, X = rows(10), torch.randn(4, 2)
    fitted = fit(DeepKernelMachine(layers=0, kernel="rbf", steps=0), data)
    noise = fitted.machine.noise
    weights = fitted.machine.weights / 2
    gap = torch.cat([data.X, X])[:, None] - torch.cat([data.X, X])
    K = fitted.machine.output * torch.exp(-0.5 * (weights * gap.square()).sum(-1))
    gain = torch.linalg.solve(K[:10, :10] + noise * torch.eye(10), K[:10, 10:]).mT
    law = fitted.posterior(X)
    assert_close(law.mean, data.Y.mean() + gain @ (data.Y - data.Y.mean()), atol=1e-4, rtol=0)  # the nugget
    assert_close(law.covariance, K[10:, 10:] - gain @ K[:10, 10:], atol=1e-4, rtol=0)


def test_few_rows_are_not_learned_by_heart():
    """The noise of 48 rows was lost in the Gram matrices: a ten-thousandth of it was left."""
    coverage = []
    for _ in range(3):
        X = torch.cartesian_prod(torch.linspace(-1.6, 1.6, 10), torch.linspace(-1.6, 1.6, 6))[torch.randperm(60)]
        Y = torch.sin(2 * X[:, :1]) + 0.5 * X[:, 1:].square() + 0.1 * torch.randn(60, 1)
        fitted = fit(DeepKernelMachine(), Data(X[:48], Y[:48]))
        assert 0.001 < fitted.machine.noise < 0.04  # 0.01
        law = fitted.posterior(X[48:], noise=True)
        coverage.append(((Y[48:] - law.mean).abs() < 1.645 * law.variance.sqrt()).double().mean())
    assert torch.stack(coverage).mean() > 0.65  # 0.9, less five standard errors of 36 rows


def test_held_out_rows_choose_the_noise(fitted):
    held = rows(40, m=2, weighted=True)
    best = fitted.judged(held)
    for ratio in (0.9, 1.1):
        assert fitted.noised(ratio * best.machine.noise.item()).density(held) < best.density(held)
    law = best.posterior(held.X)
    std = (law.variance + (best.machine.noise / held.weight)[:, None]).sqrt()
    assert_close(best.density(held), torch.distributions.Normal(law.mean, std).log_prob(held.Y).sum())


def test_another_noise_is_that_of_the_same_rows():
    data, X = rows(10, weighted=True), torch.randn(4, 2)
    quiet, loud = (fit(DeepKernelMachine(steps=0, noise=noise), data) for noise in (0.1, 0.3))
    moved = quiet.noised(loud.machine.noise.item()).posterior(X, noise=True)
    assert_close(moved.mean, loud.posterior(X, noise=True).mean)
    assert_close(moved.covariance, loud.posterior(X, noise=True).covariance)


def test_the_search_learns_and_departs_from_the_wide_network():
    data = rows(60)
    fitted = fit(DeepKernelMachine(inducing=20, steps=60, held_out=0.0), data)
    assert (fitted.posterior(data.X).mean - data.Y).square().mean() < 0.05
    assert min(fitted.hyperparameters()["divergences"]) > 1e-3
    assert fitted.notes()[0] == "Gram matrices are those of 20 inducing points"


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("d", [1, 50])
def test_few_rows_and_constant_targets_can_be_fitted(n, d):
    fitted = fit(DeepKernelMachine(), Data(torch.randn(n, d), torch.full((n, 2), 3.0)))
    law = fitted.posterior(torch.randn(4, d), noise=True)
    assert_close(law.mean, torch.full((4, 2), 3.0), atol=1e-3, rtol=0)
    assert (law.variance > 0).all()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"layers": -1}, "layers must be at least 0, got -1"),
        ({"inducing": 0}, "inducing must be at least 1, got 0"),
        ({"held_out": 1.0}, r"held_out must be a share of the rows in \[0, 1\), got 1"),
        ({"nu": 0.0}, "nu must be positive and finite, got 0"),
        ({"noise": math.inf}, "noise must be positive and finite, got inf"),
        ({"kernel": "matern"}, "kernel must be 'rbf', 'linear' or an activation such as Relu.., got 'matern'"),
        ({"learn": "some"}, "learn must be 'all' or 'grams', got 'some'"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(choice, words):
    with pytest.raises(ValueError, match=words):
        fit(DeepKernelMachine(**choice), rows(12))
