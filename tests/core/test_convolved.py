"""The law of a Gaussian plus Student-t noise against SciPy's quadrature, its limits and simulation."""

import itertools
import math

import pytest
import torch
from scipy import integrate, stats
from torch.testing import assert_close

from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.posterior import Elliptical
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws


def law(nu=5.0, m=1, batch=(), noise=0.7):
    root = torch.randn(*batch, 3 * m, 3 * m)
    latent = Elliptical(torch.randn(*batch, 3, m), root @ root.mT + torch.eye(3 * m))
    return Convolved(latent, noise, nu)


def marginal(variance, noise, nu):
    return Convolved(Elliptical(torch.zeros(1, 1), torch.full((1, 1), variance)), noise, nu)


@pytest.mark.parametrize("shape", [{}, {"m": 2}, {"m": 2, "batch": (2,)}], ids=str)
def test_laws(shape):
    obeys_posterior_laws(law(9.0, **shape))
    density_integrates_to_cdf(law(9.0, **shape))


@pytest.mark.parametrize("nu", [1.0, 3.0, 80.0])
@pytest.mark.parametrize("variance", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("distance", [0.6, 40.0])
def test_density_and_levels_are_the_convolution(nu, variance, distance):
    """Convolved over the Gaussian, where the code sums over scales."""
    std, at = math.sqrt(variance), distance * math.sqrt(variance + 0.5)

    def convolved(function):
        def integrand(z):
            return function((at - std * z) / math.sqrt(0.5)) * stats.norm.pdf(z)

        peak = min(at / std, 30.0)
        cuts = sorted({-9.0, 0.0, 9.0, peak, *(max(peak - w * math.sqrt(0.5) / std, -9.0) for w in (1, 8, 90))})
        ends = [c for c in cuts if -9.0 <= c <= 9.0]
        parts = itertools.pairwise(ends)
        return math.fsum(integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13, limit=400)[0] for a, b in parts)

    y, t = torch.tensor([[at]]), stats.t(nu)
    density = convolved(t.pdf) / math.sqrt(0.5)
    assert marginal(variance, 0.5, nu).log_prob(y).exp().item() == pytest.approx(density, rel=1e-9, abs=1e-13)
    assert marginal(variance, 0.5, nu).cdf(y).item() == pytest.approx(convolved(t.cdf), abs=1e-10)


@pytest.mark.parametrize("nu", [1.0, 4.0, 60.0])
def test_without_a_latent_variance_it_is_the_student_t_far_into_the_tails(nu):
    y = torch.tensor([0.0, 1e-3, 1.0, 7.0, 30.0, 1e3])[:, None]
    found = Convolved(Elliptical(torch.zeros(6, 1), torch.zeros(6, 6)), 0.25, nu)
    expect = stats.t(nu, scale=0.5)
    assert_close(found.log_prob(y), torch.as_tensor(expect.logpdf(y)), rtol=1e-12, atol=1e-12)
    assert_close(found.cdf(-y).log(), torch.as_tensor(expect.logcdf(-y.numpy())), rtol=1e-10, atol=1e-10)


def test_many_degrees_of_freedom_are_a_gaussian():
    found, y = law(1e10), torch.randn(3, 1) * 3
    gaussian = Elliptical(found.latent.loc, found.latent.scale + 0.7 * torch.eye(3))
    assert_close(found.log_prob(y), gaussian.log_prob(y), rtol=1e-8, atol=1e-8)
    assert_close(found.cdf(y), gaussian.cdf(y), rtol=0, atol=1e-9)
    assert_close(found.quantile(0.03), gaussian.quantile(0.03), rtol=1e-8, atol=1e-8)
    assert_close(found.covariance, gaussian.covariance)


@pytest.mark.parametrize("nu", [0.8, 3.0, 200.0])
@pytest.mark.parametrize("variance", [1e-8, 1.0, 1e6])
def test_quantiles_invert_levels_to_rounding(nu, variance):
    found = marginal(variance, 0.5, nu)
    for p in (1e-9, 0.01, 0.3, 0.5, 0.6, 0.95, 1 - 1e-9):
        level = found.cdf(found.quantile(p)).item()
        assert level == pytest.approx(p, rel=1e-11)
    assert_close(found.quantile(0.2), -found.quantile(0.8))


def test_the_variance_is_infinite_up_to_two_degrees_of_freedom():
    assert law(2.0).variance.isinf().all()
    with pytest.raises(ValueError, match="infinite for nu = 2"):
        _ = law(2.0).covariance
    found = law(4.0, m=2)
    assert_close(found.covariance.diagonal().reshape(3, 2), found.variance)
    assert_close(found.variance, found.latent.variance + 1.4)


def test_the_outputs_of_a_row_share_their_scale_and_rows_do_not():
    """Squares of the noise of one row are correlated, (E w^-2 - (E w^-1)^2) / (3 E w^-2 - (E w^-1)^2)."""
    nu = 20.0
    found = Convolved(Elliptical(torch.zeros(2, 2), 1e-20 * torch.eye(4)), 1.0, nu)
    squares = found.rsample((200_000,), torch.Generator().manual_seed(0)).flatten(1).square()
    mean, second = nu / (nu - 2), nu**2 / ((nu - 2) * (nu - 4))
    expect = (second - mean**2) / (3 * second - mean**2)
    correlation = torch.corrcoef(squares.mT)
    assert correlation[0, 1].item() == pytest.approx(expect, abs=0.02)
    assert correlation[0, 2].abs().item() < 0.012


def test_draws_have_the_marginal_law():
    found = law(2.5)
    levels = found.cdf(found.rsample((20_000,), torch.Generator().manual_seed(3)))
    for column in levels.flatten(1).mT:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-4


def test_draws_of_a_prefix_do_not_change_when_points_are_added():
    found, z = law(3.0, m=2), torch.randn(5, 15)
    part = Convolved(Elliptical(found.latent.loc[:2], found.latent.scale[:4, :4]), found.noise, 3.0)
    assert_close(part.draw(z[:, :10]), found.draw(z)[:, :2])


def test_scaling_each_output_scales_its_law():
    found, units = law(3.0, m=2), torch.tensor([2.0, 5.0])
    moved = found.affine(units, torch.tensor([1.0, 0.0]))
    y = torch.randn(3, 2)
    assert_close(moved.log_prob(units * y + torch.tensor([1.0, 0.0])), found.log_prob(y) - units.log())
    assert_close(moved.quantile(0.9), units * found.quantile(0.9) + torch.tensor([1.0, 0.0]))


def test_densities_are_differentiable_in_what_they_are_made_of():
    loc, noise, y = torch.randn(3, 1).requires_grad_(), torch.tensor(0.6).requires_grad_(), torch.randn(3, 1)
    scale = torch.eye(3)
    for function in ("log_prob", "cdf"):
        assert torch.autograd.gradcheck(
            lambda loc, noise, f=function: getattr(Convolved(Elliptical(loc, scale), noise, 3.0), f)(y), (loc, noise)
        )


def test_bad_parts_are_refused():
    gaussian = Elliptical(torch.zeros(1, 1), torch.eye(1))
    with pytest.raises(ValueError, match="must be Gaussian"):
        Convolved(Elliptical(torch.zeros(1, 1), torch.eye(1), InverseGamma(2.0, 2.0)), 1.0, 3.0)
    with pytest.raises(ValueError, match="least is -1"):
        Convolved(gaussian, torch.tensor([1.0, -1.0]), 3.0)
    with pytest.raises(ValueError, match="degrees of freedom, got nan"):
        Convolved(gaussian, 1.0, math.nan)
    assert gaussian.mixing == Unit()
