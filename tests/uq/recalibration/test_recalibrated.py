"""A recalibrated law is a law: its moments, densities, quantiles and draws agree, in every family."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.recalibration.curves import BetaCurve, PiecewiseCurve
from kernelfield.uq.recalibration.normal_scores import normal_score
from kernelfield.uq.recalibration.recalibrated import Recalibrated
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws
from tests.uq.recalibration.laws_of_families import FAMILIES, law_of

BENT = PiecewiseCurve(torch.tensor([-1.0, 0.0, 0.4]), torch.tensor([-1.2, 0.1, 0.3]), torch.tensor([0.7, 0.9]))
CURVES = (BENT, BetaCurve(0.7, 1.4, 0.3))
LINE = PiecewiseCurve(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0.5, 0.5]))  # h(t) = (t - 1) / 2


@pytest.mark.parametrize("name", ["gaussian", "student", "pathwise", "members", "histogram", "warped"])
def test_a_recalibrated_law_obeys_the_laws_of_posteriors(name):
    obeys_posterior_laws(Recalibrated(law_of(name), CURVES), samples=3000)


@pytest.mark.parametrize("name", FAMILIES)
def test_its_density_is_the_derivative_of_its_distribution_function(name):
    density_integrates_to_cdf(Recalibrated(law_of(name), CURVES))


def test_a_line_makes_another_gaussian_of_a_gaussian():
    """h(t) = (t - 1) / 2 is the shift by one deviation and the factor two."""
    inner = law_of("gaussian")
    std = inner.variance.sqrt()
    law, oracle = Recalibrated(inner, (LINE, LINE)), stats.norm(inner.mean + std, 2 * std)
    y = inner.mean + 12 * std * torch.randn_like(std)
    assert_close(law.mean, inner.mean + std, rtol=1e-9, atol=1e-9)
    assert_close(law.variance, 4 * inner.variance, rtol=1e-9, atol=0)
    assert_close(law.log_prob(y), torch.from_numpy(oracle.logpdf(y)), rtol=1e-9, atol=1e-9)
    assert_close(law.quantile(0.01), torch.from_numpy(oracle.ppf(0.01)))
    z = torch.randn(5, inner.width)
    assert_close(law.draw(z), inner.mean + std + 2 * (inner.draw(z) - inner.mean))


@pytest.mark.parametrize("name", ["student", "members", "histogram"])
def test_moments_are_those_of_the_density(name):
    law = Recalibrated(law_of(name), CURVES)
    low, high = law.quantile(1e-9), law.quantile(1 - 1e-9)
    y = low + torch.linspace(0, 1, 40_001)[:, None, None] * (high - low)
    density = law.log_prob(y).exp() * (high - low)
    mass, first, second = (torch.trapezoid(y**k * density, dx=1 / 40_000, dim=0) for k in range(3))
    std = law.variance.sqrt()
    assert_close(mass, torch.ones_like(mass), atol=1e-3, rtol=0)
    first, second = first / mass, second / mass
    assert ((law.mean - first).abs() < 5e-4 * std).all()
    assert_close(law.variance, second - first.square(), rtol=3e-3, atol=0)


def test_draws_keep_the_dependence_of_the_law_below():
    """Ranks of a point's draws are those of the inner law's draws, so that rank correlations are equal."""
    inner = law_of("student")
    z = torch.randn(400, inner.width)
    before, after = inner.draw(z).flatten(1), Recalibrated(inner, CURVES).draw(z).flatten(1)
    assert (before.argsort(0) == after.argsort(0)).all()
    np.testing.assert_allclose(stats.spearmanr(before).statistic, stats.spearmanr(after).statistic)


def test_recalibrations_compose():
    inner = law_of("members")
    law = Recalibrated(Recalibrated(inner, (LINE, LINE)), (BENT, BENT))
    y = inner.mean + 3
    assert_close(law.normal_score(y), BENT.forward(LINE.forward(normal_score(inner, y))))
    assert_close(
        law.quantile(0.3),
        Recalibrated(inner, (LINE, LINE)).at_normal_score(BENT.inverse(torch.special.ndtri(torch.full_like(y, 0.3)))),
    )


def test_batches_and_single_precision_pass_through():
    inner = Draws(torch.randn(3, 4, 5, 2), torch.full((4,), 0.25), torch.tensor(0.5))
    law = Recalibrated(inner, CURVES)
    assert law.mean.shape == law.quantile(0.2).shape == (3, 5, 2)
    assert law.draw(torch.randn(7, 3, inner.width)).shape == (7, 3, 5, 2)
    single = Recalibrated(Elliptical(torch.zeros(3, 2).float(), torch.eye(6).float()), CURVES)
    assert (
        single.mean.dtype == single.quantile(0.2).dtype == single.cdf(torch.zeros(3, 2).float()).dtype == torch.float32
    )


def test_draws_of_a_gaussian_are_differentiable():
    loc, z = torch.randn(3, 2).requires_grad_(), torch.randn(6)
    assert torch.autograd.gradcheck(lambda m: Recalibrated(Elliptical(m, torch.eye(6)), CURVES).draw(z), (loc,))
