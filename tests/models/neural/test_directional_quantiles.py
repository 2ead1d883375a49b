"""Directional quantiles: the region of a Gaussian is a ball in the latent space and an ellipse outside of it."""

import math

import pytest
import torch
from scipy import stats

from kernelfield.core.contracts import Data
from kernelfield.core.posterior import Elliptical
from kernelfield.models.neural.directional_quantiles import (
    DirectionalPinball,
    DirectionalQuantiles,
    ball,
    unit_vectors,
)
from kernelfield.models.neural.train import Training
from kernelfield.uq.conformal.clouds import CalibratedClouds, Cloud, calibrated, gap_of
from kernelfield.uq.conformal.regions import Ellipsoids

SPREAD = torch.tensor([[1.0, 0.6], [0.6, 1.0]])


@pytest.fixture(scope="module")
def gaussian():
    """A fit to Y = x (1, -1) + e, and new rows."""
    generator = torch.Generator().manual_seed(0)

    def rows(n):
        X = 2 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 1
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(SPREAD).T
        return X, X * torch.tensor([1.0, -1.0]) + noise

    training = Training(steps=1200, batch=128, learning_rate=1e-2)
    fitted = DirectionalQuantiles(width=24, training=training).fit(Data(*rows(2000)), generator=generator)
    return fitted, rows(1500)


def test_the_latent_law_is_round_and_its_region_holds_the_level(gaussian) -> None:
    fitted, (X, Y) = gaussian
    with torch.no_grad():
        mean, std = fitted.encoder.encode(X, Y)
    z = mean + std * torch.randn(mean.shape)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(2), rtol=0, atol=0.2)
    u = unit_vectors(64, 2)
    assert (z @ u.T <= fitted.quantiles(X, u)).all(1).double().mean().item() == pytest.approx(0.9, abs=0.06)
    radius = math.sqrt(stats.chi2.ppf(0.9, 2))
    assert (fitted.quantiles(X[:50], u) / radius - 1).abs().mean() < 0.15


def test_the_calibrated_region_of_a_gaussian_is_about_the_ellipse_of_mahalanobis(gaussian) -> None:
    fitted, (X, Y) = gaussian
    points, inside = fitted.cloud(X)
    cloud = Cloud(points, inside, gap_of(points, inside))
    region = calibrated(cloud[slice(0, 500)], Y[:500])
    held = region.contains(cloud[slice(500, 1500)], Y[500:], 0.9).double().mean().item()
    low, high = region.coverage_law(0.9).of_test(1000, 1 - 1e-6)
    assert low < held < high
    X_mean = X * torch.tensor([1.0, -1.0])
    exact = Elliptical(X_mean[:, None], SPREAD.expand(1500, 2, 2))
    ellipse = Ellipsoids().fit(exact, Y)
    some = slice(0, 5)
    ratio = region.volume(cloud[some], 0.9) / ellipse.volume(exact, 0.9)[some]
    assert (ratio > 0.9).all()
    assert (ratio < 1.5).all()
    probes = 6 * torch.rand(4000, 2) - 3
    for i in range(3):
        at = X_mean[i] + probes
        ours = cloud[slice(i, i + 1)].distance(at[None])[0] <= region.bound(0.9)
        law = Elliptical(X_mean[i].expand(4000, 1, 2), SPREAD.expand(4000, 2, 2))
        theirs = ellipse.contains(law, at, 0.9)
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.6


def test_the_coverage_of_200_splits_lies_in_the_band_of_the_theory(gaussian) -> None:
    fitted, (X, Y) = gaussian
    points, inside = fitted.cloud(X, 512, directions=64)
    scores = Cloud(points, inside, gap_of(points, inside)).distance(Y[:, None])[:, 0]
    n, test = 200, 300
    shares = []
    for _ in range(200):
        order = torch.randperm(len(scores))
        region = CalibratedClouds(scores[order[:n]].sort().values)
        shares.append((scores[order[n : n + test]] <= region.bound(0.9)).double().mean().item())
    shares = torch.tensor(shares)
    law = region.coverage_law(0.9)
    low, high = law.of_test(test, 0.95)
    assert abs(shares.mean() - law.mean) < 6 * shares.std() / 200**0.5
    assert ((low <= shares) & (shares <= high)).sum() >= stats.binom(200, 0.95).ppf(1e-6)


def test_the_law_of_a_fit_is_about_that_of_the_data(gaussian) -> None:
    fitted, (X, _) = gaussian
    law = fitted.posterior(X[:200], noise=True)
    assert (law.mean - X[:200] * torch.tensor([1.0, -1.0])).abs().mean() < 0.15
    torch.testing.assert_close(law.variance.mean(0), SPREAD.diagonal(), rtol=0.25, atol=0)
    latent = fitted.posterior(X[:200])
    torch.testing.assert_close(law.variance - latent.variance, fitted.encoder.noise.expand(200, 2))
    batch = fitted.posterior(X[:4, None], noise=True)
    torch.testing.assert_close(batch.mean[:, 0], law.mean[:4])


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    z, loss = torch.randn(100_000, 1), DirectionalPinball(0.9)
    targets = torch.cat([torch.zeros_like(z), torch.ones_like(z)], -1)
    exact = stats.norm.ppf(0.9)
    levels = torch.tensor([exact - 0.3, exact, exact + 0.3])
    values = [torch.cat([level.expand_as(z), torch.ones_like(z), z], -1)[None] for level in levels]
    low, best, high = (loss.loss(value, targets).item() for value in values)
    assert best < min(low, high)
    assert best == pytest.approx(stats.norm.pdf(exact), rel=0.02)  # the expected loss at the quantile of a normal


@pytest.mark.parametrize("r", [1, 2, 3, 5])
def test_directions_and_latent_points_are_spread_evenly(r) -> None:
    u, z = unit_vectors(512, r), ball(4000, r)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(len(u)))
    torch.testing.assert_close(u.T @ u / len(u), torch.eye(r) / r, rtol=0, atol=0.02)
    assert (z.norm(dim=1) <= 1).all()
    assert stats.kstest((z.norm(dim=1) ** r).numpy(), "uniform").pvalue > 1e-3


def test_the_same_generator_gives_the_same_region() -> None:
    X = torch.linspace(-1, 1, 30)[:, None]
    data = Data(X, torch.cat([X, X.square()], 1))
    model = DirectionalQuantiles(width=6, latent=3, training=Training(steps=10))
    first, second = (model.fit(data, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    for one, other in zip(first.cloud(X, 50), second.cloud(X, 50), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"level": 90}, "got 90"), ({"latent": 0}, "latent must be"), ({"width": 0}, "width must")]
)
def test_settings_out_of_range_are_refused(wrong, message) -> None:
    data = Data(torch.randn(10, 1), torch.randn(10, 2))
    with pytest.raises(ValueError, match=message):
        DirectionalQuantiles(**wrong).fit(data, generator=torch.Generator())
