"""Laplace's approximation against numerical integration, differences and its own symmetries."""

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.priors import GammaPrior
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF, RationalQuadratic
from kernelfield.models.classify import classification_kernel
from kernelfield.models.covariance import covariance
from kernelfield.models.laplace import LaplaceClassifier, Objective
from tests.laws import obeys_posterior_laws

X = torch.randn(24, 2, generator=torch.Generator().manual_seed(3), dtype=torch.double)
CLASSES = {
    2: (X[:, 0] + 0.3 * X[:, 1].square() > 0.2).long(),
    3: (X[:, 0] > 0.3).long() + (X[:, 1] > 0).long(),
}
KERNELS = {
    "by name": lambda: classification_kernel("matern52", X),
    "shaped": lambda: RationalQuadratic(lengthscale_prior=GammaPrior(2.0, 1.0), ard_num_dims=2),
    "softplus": lambda: gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=2)),
    "network": lambda: classification_kernel("nngp", X),
}
counts = pytest.mark.parametrize("k", CLASSES)


def one_hot(k):
    return torch.nn.functional.one_hot(CLASSES[k], k).double()


def fit(k, model=None):
    return (model or LaplaceClassifier(steps=30)).fit(Data(X, one_hot(k)), generator=torch.Generator().manual_seed(0))


@counts
@pytest.mark.parametrize("name", KERNELS)
def test_the_gradient_is_the_slope_of_the_evidence_with_its_priors(name, k):
    target = Objective(covariance(KERNELS[name]().double(), X), one_hot(k))
    theta = target.given() + 0.1
    h = 1e-4  # the mode is right to about 1e-8 nats, so that smaller steps would show it
    differences = [(target(theta + s)[0] - target(theta - s)[0]) / (2 * h) for s in h * np.eye(len(theta))]
    np.testing.assert_allclose(target(theta)[1], differences, atol=1e-6, rtol=1e-5)


@counts
def test_learning_raises_the_evidence_and_finds_the_classes(k):
    start, end = fit(k, LaplaceClassifier(steps=0)), fit(k)
    assert end.log_evidence > start.log_evidence
    assert not start.searches and end.searches[0].converged
    assert (end.probabilities(X).argmax(-1) == CLASSES[k]).double().mean() > 0.8


def test_the_evidence_of_one_row_is_that_of_quadrature_to_the_error_of_laplace():
    """Of a narrow prior the approximation is nearly exact: p(y = 1) is a half for any variance."""
    kernel = RBF()
    kernel.outputscale = 0.01
    kernel = kernel.double()
    data = Data(torch.zeros(1, 1), torch.tensor([[0.0, 1.0]]))
    fitted = LaplaceClassifier(kernel, steps=0).fit(data, generator=torch.Generator())
    assert fitted.log_evidence == pytest.approx(np.log(0.5), abs=1e-5)


@counts
def test_the_law_of_the_latent_functions_obeys_the_laws_of_posteriors(k):
    law = fit(k).posterior(X[:4] + 0.1)
    obeys_posterior_laws(law)
    scale = law.scale
    assert_close(scale.diagonal(), scale.to_dense().diagonal(dim1=-2, dim2=-1), rtol=1e-7, atol=1e-9)
    m = law.mean.shape[-1]
    squares = torch.stack([scale.to_dense()[i * m : i * m + m, i * m : i * m + m] for i in range(4)])
    assert_close(scale.blocks(), squares, rtol=1e-7, atol=1e-9)


@counts
def test_batches_are_answered_as_their_members(k):
    fitted = fit(k, LaplaceClassifier(steps=0))
    batch = X[:12].unflatten(0, (3, 4)) + 0.1
    laws = fitted.posterior(batch)
    for i in range(3):
        alone = fitted.posterior(batch[i])
        assert_close(laws.mean[i], alone.mean)
        assert_close(laws.scale.to_dense()[i], alone.scale.to_dense())
        assert_close(laws.variance[i], alone.variance)


def test_two_classes_change_places_with_their_labels():
    Y = one_hot(2)
    fits = [LaplaceClassifier(steps=0).fit(Data(X, y), generator=torch.Generator()) for y in (Y, Y.flip(-1))]
    first, second = (f.probabilities(X + 0.2) for f in fits)
    assert_close(first, second.flip(-1), rtol=1e-10, atol=1e-12)


def test_probabilities_are_even_far_from_the_data():
    for k in CLASSES:
        far = fit(k).probabilities(X[:2] + 1e3)
        assert_close(far, torch.full_like(far, 1 / k), atol=2e-3, rtol=0)


def test_many_rows_race_on_a_sample_first():
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(800, 1, generator=generator, dtype=torch.double)
    Y = torch.nn.functional.one_hot((many[:, 0] > 0).long()).double()
    fitted = LaplaceClassifier(restarts=2, steps=3).fit(Data(many, Y), generator=generator)
    assert len(fitted.searches) == 3
    assert (fitted.probabilities(many).argmax(-1) == (many[:, 0] > 0)).double().mean() > 0.97


def test_parameters_that_are_held_stay():
    kernel = RBF().requires_grad_(False)
    assert fit(2, LaplaceClassifier(kernel)).hyperparameters() == {"lengthscale": 1.0, "outputscale": 1.0}


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="restarts must be at least 1, got 0"):
        fit(2, LaplaceClassifier(restarts=0))
    with pytest.raises(ValueError, match="law must be 'moments' or 'mode', got 'ep'"):
        fit(2, LaplaceClassifier(law="ep"))
    with pytest.raises(ValueError, match="3 lengthscales and the data 2 inputs"):
        fit(2, LaplaceClassifier(RBF(ard_num_dims=3)))
    with pytest.raises(NotImplementedError, match="labels have probabilities"):
        fit(2).posterior(X, noise=True)
