"""Expectation propagation against integrals, and what its probabilities gain over the mode's."""

import mpmath
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import log_loss
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotConverged, cholesky, schur
from kernelfield.kernels.stationary import RBF
from kernelfield.models import propagation
from kernelfield.models.classify import sigmoid_average
from kernelfield.models.covariance import matrix
from kernelfield.models.laplace import LaplaceClassifier
from kernelfield.models.logistic import Logistic
from kernelfield.models.mode import climb
from kernelfield.models.propagation import propagated, tilted


@pytest.mark.parametrize("std", [1e-3, 3.0, 19.9, 20.1, 300.0])
@pytest.mark.parametrize("ratio", [-8.0, -0.5, 0.0, 2.0])
def test_the_moments_of_a_tilted_law_are_those_of_mpmath(ratio, std):
    m = ratio * std
    cuts = sorted({*(m + k * std for k in range(-16, 17, 2)), *((-20.0, -5.0, 0.0, 5.0, 20.0) if std > 1 else ())})
    scale = mpmath.exp(0.5 * min(ratio, 0) ** 2)  # mpmath's integrals have an absolute error
    Z, first, second = (
        mpmath.quad(lambda f, k=k: scale * f**k * mpmath.npdf(f, m, std) / (1 + mpmath.exp(-f)), cuts, maxdegree=10)
        for k in range(3)
    )
    log_Z, mean, variance = (t.item() for t in tilted(*(torch.tensor([t], dtype=torch.double) for t in (m, std**2))))
    assert log_Z == pytest.approx(float(mpmath.log(Z / scale)), abs=1e-7)
    assert mean == pytest.approx(float(first / Z), abs=1e-7 * std)
    assert variance == pytest.approx(float(second / Z - (first / Z) ** 2), rel=1e-6)


def test_one_row_is_answered_exactly():
    """The evidence of one label is a half, whatever the prior, and its posterior is the tilted prior."""
    K, Y = torch.tensor([[400.0]], dtype=torch.double), torch.ones(1, 1, dtype=torch.double)
    law, log_q = propagated(climb(Logistic, K, Y)[0], Y)
    assert log_q.item() == pytest.approx(-0.6931471805599453, abs=1e-8)
    mean, variance = (t.item() for t in tilted(torch.zeros(1).double(), K[0])[1:])
    assert law.f.item() == pytest.approx(mean, rel=2e-4)  # the last move was of 1e-4 deviations
    own, _ = law.explained(K)
    assert K.item() - own.square().sum().item() == pytest.approx(variance, rel=1e-3)


@pytest.mark.parametrize(("correlation", "size"), [(0.7, 3.0), (0.9, 100.0), (-0.5, 900.0)])
def test_the_mean_and_the_evidence_of_two_rows_are_those_of_quadrature(correlation, size):
    K = size * torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.double)
    Y = torch.tensor([[1.0], [0.0]], dtype=torch.double)
    local, at_mode = climb(Logistic, K, Y)
    law, log_q = propagated(local, Y)
    z = torch.cartesian_prod(*[torch.linspace(-8, 8, 1601, dtype=torch.double)] * 2)
    f = z @ torch.linalg.cholesky(K).mT
    logs = -0.5 * z.square().sum(-1) + torch.nn.functional.logsigmoid((2 * Y[:, 0] - 1) * f).sum(-1)
    evidence = logs.logsumexp(0) + 2 * torch.tensor(0.01).log() - torch.tensor(2 * torch.pi).log()
    mean = logs.softmax(0) @ f
    assert abs(log_q - evidence) < 0.01 < abs(at_mode - evidence)
    assert_close(law.f[:, 0], mean, rtol=0.01, atol=0)
    assert (law.f[:, 0] - mean).abs().max() < 0.1 * (local.f[:, 0] - mean).abs().max()


def test_the_weights_give_the_mean():
    X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    K = 50 * torch.exp(-torch.cdist(X, X).square() / 2)
    Y = (X[:, :1] > 0).double()
    law, _ = propagated(climb(Logistic, K, Y)[0], Y)
    assert_close(K @ law.gradient, law.f)


def test_many_rows_that_say_the_same_do_not_swing():
    """With steps that are never cut the means still move by 0.04 deviations after 200 sweeps."""
    X = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    K = 600 * torch.exp(-torch.cdist(X, X).square() / 2 / 0.54**2)
    Y = (X > 0).double()
    law, _ = propagated(climb(Logistic, K, Y)[0], Y)
    assert law.f.isfinite().all()


def test_terms_that_still_move_are_told(monkeypatch):
    monkeypatch.setattr(propagation, "SWEEPS", 1)
    K, Y = torch.tensor([[400.0]], dtype=torch.double), torch.ones(1, 1, dtype=torch.double)
    with pytest.warns(NotConverged, match="deviations after 1 sweeps; law='mode' needs none"):
        propagated(climb(Logistic, K, Y)[0], Y)


def breast_cancer(rows):
    X, y = (torch.tensor(part) for part in load_breast_cancer(return_X_y=True))
    X = (X - X[rows].mean(0)) / X[rows].std(0)
    rest = torch.ones(len(X), dtype=torch.bool)
    rest[rows] = False
    Y = torch.nn.functional.one_hot(y).double()
    return Data(X[rows], Y[rows]), X[rest], y[rest]


def loss(model, rows):
    data, X, y = breast_cancer(rows)
    fitted = model.fit(data, generator=torch.Generator().manual_seed(0))
    return log_loss(y, fitted.probabilities(X).numpy())


def test_a_posterior_around_the_mean_has_the_confidence_that_the_mode_lacks():
    rows = torch.arange(0, 569, 4)
    kernel = RBF()
    kernel.lengthscale, kernel.outputscale = 8.0, 400.0
    at_mode, at_mean = (loss(LaplaceClassifier(kernel, steps=0, law=law), rows) for law in ("mode", "moments"))
    assert at_mean < 0.9 * at_mode


@pytest.mark.slow
def test_probabilities_are_those_of_long_sampling():
    """At the fitted hyperparameters: means over rows of 0.001 from expectation propagation, 0.02 from the mode."""
    data, X, _ = breast_cancer(torch.arange(0, 569, 4))
    X = X[::7]
    fits = [
        LaplaceClassifier(law=law).fit(data, generator=torch.Generator().manual_seed(0)) for law in ("mode", "moments")
    ]
    local, kernel = fits[1].local, fits[1].kernel
    f = sampled(local, data.Y[:, 1:])
    weights = torch.cholesky_solve(matrix(kernel, data.X, X), cholesky(local.K))
    left = (kernel(X, diag=True) - (weights * matrix(kernel, data.X, X)).sum(0)).clamp_min(0)
    chains = torch.stack([sigmoid_average(weights.mT @ draw, left[:, None]) for draw in f]).mean(0)
    error = chains.std(1) / chains.shape[1] ** 0.5
    of_mode, of_moments = ((fit.probabilities(X)[:, 1] - chains.mean(1)).abs() for fit in fits)
    assert of_moments.mean() < 0.002 < 0.01 < of_mode.mean()
    assert (of_moments < 0.015 + 6 * error).all()


def sampled(local, Y, chains=100, steps=300, every=10):
    """Draws of latent values (steps / every, n, chains) by elliptical slices of the Gaussian, which miss no law.

    Source: Nishihara, Murray & Adams (2014), "Parallel MCMC with Generalized Elliptical Slice Sampling".
    """
    generator = torch.Generator().manual_seed(0)
    tau = local.root.square()[:, None]
    nu = local.gradient + tau * local.f
    half = cholesky(schur(local.K, local.explained(local.K)[0][0]))

    def log_ratio(g):
        f = local.f + g
        return (torch.nn.functional.logsigmoid((2 * Y - 1) * f) - nu * f + 0.5 * tau * f.square()).sum(0)

    def normals():
        return half @ torch.randn(len(Y), chains, generator=generator, dtype=Y.dtype)

    def uniform(count):
        return torch.rand(count, generator=generator, dtype=Y.dtype)

    g, draws = normals(), []
    for step in range(steps):
        other, level = normals(), log_ratio(g) + uniform(chains).log()
        angle = 2 * torch.pi * uniform(chains)
        low, high, left = angle - 2 * torch.pi, angle.clone(), torch.arange(chains)
        moved = g.clone()
        while len(left):
            tried = g[:, left] * angle[left].cos() + other[:, left] * angle[left].sin()
            good = log_ratio(tried) > level[left]
            moved[:, left[good]] = tried[:, good]
            left = left[~good]
            below = angle[left] < 0
            low[left] = torch.where(below, angle[left], low[left])
            high[left] = torch.where(below, high[left], angle[left])
            angle[left] = low[left] + (high[left] - low[left]) * uniform(len(left))
        g = moved
        if step % every == every - 1:
            draws.append(local.f + g)
    return draws


def test_a_dozen_rows_of_thirty_inputs_say_more_than_the_shares_of_the_classes():
    for start in range(3):
        rows = torch.arange(start, 569, 49)
        share = breast_cancer(rows)[0].Y.mean(0)
        y = breast_cancer(rows)[2]
        assert loss(LaplaceClassifier(), rows) < 0.8 * log_loss(y, share.expand(len(y), 2).numpy())
