"""Dirichlet classification: its targets are moments of log-normals, its fits those of GPyTorch's own likelihood."""

import gpytorch
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF
from kernelfield.models.dirichlet import DirichletClassifier, transformed
from tests.laws import obeys_posterior_laws

X = torch.randn(24, 2, generator=torch.Generator().manual_seed(3), dtype=torch.double)
LABELS = (X[:, 0] > 0.3).long() + (X[:, 1] > 0).long()


def data():
    return Data(X, torch.nn.functional.one_hot(LABELS, 3).double())


def fit(model=None):
    return (model or DirichletClassifier(steps=10)).fit(data(), generator=torch.Generator().manual_seed(0))


def test_the_log_normal_has_the_mean_and_variance_of_the_gamma_law():
    targets, noise = transformed(data().Y, 0.01)
    alpha = data().Y + 0.01
    assert_close((targets + noise / 2).exp(), alpha)
    assert_close(noise.expm1() * (2 * targets + noise).exp(), alpha)


def test_targets_and_predictions_are_those_of_gpytorch():
    likelihood = gpytorch.likelihoods.DirichletClassificationLikelihood(
        LABELS, alpha_epsilon=0.01, learn_additional_noise=False, dtype=torch.double
    )
    targets, noise = transformed(data().Y, 0.01)
    assert_close(likelihood.transformed_targets, targets.mT)
    assert_close(likelihood.noise, noise.mT)
    kernel = RBF()
    law = fit(DirichletClassifier(kernel, steps=0)).posterior(X[:5] + 0.1)
    for c in range(3):
        A = kernel(X).to_dense() + torch.diag(noise[:, c])
        one = torch.ones(24, 1)
        trend = torch.linalg.solve(one.mT @ torch.linalg.solve(A, one), one.mT @ torch.linalg.solve(A, targets[:, [c]]))
        mean = trend + kernel(X[:5] + 0.1, X).to_dense() @ torch.linalg.solve(A, targets[:, [c]] - trend)
        assert_close(law.mean[:, [c]], mean)


def test_the_law_of_the_latent_functions_obeys_the_laws_of_posteriors():
    obeys_posterior_laws(fit().posterior(X[:4] + 0.1))


def test_a_label_counts_the_more_the_smaller_least_is():
    sure, unsure = (fit(DirichletClassifier(least=least, steps=0)).probabilities(X) for least in (0.001, 0.5))
    assert sure.amax(-1).mean() > unsure.amax(-1).mean() + 0.1
    assert (sure.argmax(-1) == LABELS).double().mean() > 0.9


def test_hyperparameters_are_named_by_class():
    assert set(fit().hyperparameters()) == {
        f"class {c}: {name}" for c in range(3) for name in ("lengthscale", "outputscale")
    }


@pytest.mark.parametrize("least", [0.0, -1.0, float("nan")])
def test_a_least_that_is_not_positive_is_refused(least):
    with pytest.raises(ValueError, match="least must be positive"):
        fit(DirichletClassifier(least=least))
