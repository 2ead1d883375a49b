import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.curvature import Tangent
from kernelfield.models.neural.last_layer import (
    SPREAD,
    Evidence,
    Features,
    FittedLastLayer,
    Judge,
    LastLayer,
    conjugate,
    target_sizes,
)
from kernelfield.models.neural.likelihoods import SHARE
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training
from kernelfield.nets.quadrature import Tanh
from tests import laws

EXACT = {"rtol": 1e-9, "atol": 1e-10}
QUICK = Training(steps=150, learning_rate=1e-2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(n: int = 30, units: int = 6, *, weighted: bool = False) -> tuple[Features, Data]:
    network = Network(multilayer((units,), Tanh()), 2, 2)
    features = Features(Tangent(network, network.draw(1, generator(1))[0], last=True))
    X = torch.randn(n, 2, generator=generator(2))
    Y = torch.stack([torch.sin(X[:, 0]), X[:, 1] ** 2], 1) + 0.1 * torch.randn(n, 2, generator=generator(3))
    return features, Data(X, Y, torch.rand(n, generator=generator(4)) + 0.5 if weighted else None)


def of_all(features: Features, data: Data) -> FittedLastLayer:
    return conjugate(features, data)


@pytest.mark.parametrize("n", [4, 30])  # fewer rows than features, and more
@pytest.mark.parametrize("weighted", [False, True])
def test_predictions_and_evidence_are_those_of_a_process_with_the_kernel_of_the_features(n, weighted):
    features, data = problem(n, weighted=weighted)
    fitted = of_all(features, data)
    new = torch.randn(3, 2, generator=generator(5))
    Phi, phi = features(data.X), features(new)
    law, evidence = fitted.posterior(new), 0.0
    joint = law.covariance.reshape(3, 2, 3, 2)
    assert joint[:, 0, :, 1].abs().max() == 0
    for j, (a, v) in enumerate(zip(fitted.precision, fitted.noise, strict=True)):
        spread = v * torch.ones(n) if data.weight is None else v / data.weight
        A = Phi @ Phi.mT / a + torch.diag(spread)
        gain = torch.linalg.solve(A, Phi @ phi.mT / a).mT
        # The noise may be as small as 1e-6 of the targets' size, which is the condition of A.
        close = {"rtol": 1e-6, "atol": 1e-7}
        assert_close(law.mean[:, j], gain @ data.Y[:, j], **close)
        assert_close(joint[:, j, :, j], phi @ phi.mT / a - gain @ Phi @ phi.mT / a, **close)
        evidence += MultivariateNormal(torch.zeros(n), A).log_prob(data.Y[:, j]).item()
    assert math.isclose(fitted.log_evidence, evidence, rel_tol=1e-6)
    assert_close(fitted.posterior(new, noise=True).variance, law.variance + fitted.noise)


def test_learned_numbers_maximise_the_evidence():
    fitted = of_all(*problem())
    moments = fitted.moments
    for j in range(2):
        for factor in (0.9, 1.1):
            for name in ("precision", "noise"):
                values = {"precision": fitted.precision[j], "noise": fitted.noise[j]}
                evidence = Evidence.of(moments, j)
                best = evidence(**values)
                values[name] = factor * values[name]
                assert evidence(**values) < best


@pytest.mark.parametrize("n", [4, 30])
def test_conditioning_is_fitting_all_rows_at_once(n):
    features, data = problem(n, weighted=True)
    half = n // 2
    first, second = (Data(data.X[s], data.Y[s], data.weight[s]) for s in (slice(half), slice(half, n)))
    whole = of_all(features, data)
    part = of_all(features, first)
    joined = FittedLastLayer(features, part.moments, whole.precision, whole.noise).condition(second)
    new = torch.randn(2, 3, 2, generator=generator(5))
    assert_close(joined.posterior(new).mean, whole.posterior(new).mean, **EXACT)
    assert_close(joined.posterior(new).covariance, whole.posterior(new).covariance, **EXACT)
    assert math.isclose(joined.log_evidence, whole.log_evidence, rel_tol=1e-9)


def test_held_out_rows_and_priors_of_precision_and_noise_judge():
    features, data = problem()
    held = torch.arange(30) % 3 == 0
    fitted = conjugate(features, data, [Judge(features, held)])
    seen = of_all(features, Data(data.X[~held], data.Y[~held]))

    def density(precision, noise):
        at = FittedLastLayer(features, seen.moments, precision, noise)
        size = target_sizes(data)
        prior = Normal(-size.log(), SPREAD).log_prob(precision.log())
        prior += Normal((SHARE * size).log(), SPREAD).log_prob(noise.log())
        return prior + at.posterior(data.X[held], noise=True).log_prob(data.Y[held]).sum(0)

    best = density(fitted.precision, fitted.noise)
    for factor in (0.8, 1.25):
        assert (density(factor * fitted.precision, fitted.noise) <= best + 1e-4).all()
        assert (density(fitted.precision, factor * fitted.noise) < best).all()
    # All rows are in the law.
    factor, whole = fitted.moments.factor, of_all(features, data).moments.factor
    assert_close(factor.mT @ factor, whole.mT @ whole)


def test_a_fit_finds_the_function_and_widens_away_from_it():
    x = torch.linspace(-1, 1, 60)[:, None]
    y = torch.sin(3 * x) + 0.1 * torch.randn(60, 1, generator=generator(1))
    fitted = LastLayer(training=QUICK).fit(Data(x, y), generator=generator())
    new = torch.linspace(-0.9, 0.9, 7)[:, None]
    law = fitted.posterior(new, noise=True)
    assert ((law.mean - torch.sin(3 * new)).abs() < 4 * law.variance.sqrt()).all()
    far = fitted.posterior(torch.tensor([[6.0]]))
    assert far.variance > 10 * fitted.posterior(new).variance.max()
    laws.obeys_posterior_laws(law)


@pytest.mark.parametrize("rows", [1, 2, 25])
def test_few_rows_and_constant_targets_have_a_law(rows):
    X = torch.randn(rows, 2)
    for Y in (torch.zeros(rows, 1), torch.randn(rows, 1)):
        fitted = LastLayer(training=Training(steps=20)).fit(Data(X, Y), generator=generator())
        law = fitted.posterior(X, noise=True)
        assert law.mean.isfinite().all() and (law.variance > 0).all()


def test_a_network_that_does_not_end_in_a_dense_layer_is_refused():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Softplus())
    X = torch.randn(5, 2)
    with pytest.raises(ValueError, match="Sequential ends otherwise"):
        LastLayer(network, training=Training(steps=2)).fit(Data(X, X[:, :1]), generator=generator())


def test_a_share_beyond_one_is_refused():
    X = torch.randn(5, 2)
    with pytest.raises(ValueError, match="held_out must be a share of the rows below 1, got 1.5"):
        LastLayer(held_out=1.5).fit(Data(X, X[:, :1]), generator=generator())
