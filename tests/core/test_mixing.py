"""Mixing laws against SciPy's distributions and quadrature."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma, Unit

LAWS = {
    "unit": (Unit(), stats.norm()),
    "student": (InverseGamma.student(4.0), stats.t(4.0)),
    "scaled student": (InverseGamma(2.5, 0.4), stats.t(5.0, scale=math.sqrt(0.4 / 2.5))),
    "heavy": (InverseGamma(0.75, 2.0), stats.t(1.5, scale=math.sqrt(2.0 / 0.75))),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_marginal_is_scipys(name):
    law, oracle = LAWS[name]
    t = torch.linspace(-6, 6, 25)
    p = torch.linspace(0.01, 0.99, 25)
    assert_close(law.cdf(t), torch.as_tensor(oracle.cdf(t)), atol=1e-12, rtol=1e-10)
    assert_close(law.log_density(t), torch.as_tensor(oracle.logpdf(t)), atol=1e-12, rtol=1e-10)
    assert_close(law.quantile(p), torch.as_tensor(oracle.ppf(p)), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_the_slope_of_the_cdf_is_the_density(name):
    law, _ = LAWS[name]
    t = torch.linspace(-3, 3, 7, requires_grad=True)
    (slope,) = torch.autograd.grad(law.cdf(t).sum(), t)
    assert_close(slope, law.log_density(t).exp().detach(), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", ["student", "scaled student", "heavy"])
def test_the_square_root_of_s_times_a_normal_has_the_marginal(name):
    law, oracle = LAWS[name]
    z = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(2))
    assert stats.kstest((law.scale(z[0]) * z[1]).numpy(), oracle.cdf).pvalue > 1e-3


def test_the_mean_of_s_is_infinite_where_the_variance_is():
    assert InverseGamma(0.75, 2.0).mean == math.inf
    assert InverseGamma(3.0, 4.0).mean == pytest.approx(stats.invgamma(3.0, scale=4.0).mean())


@pytest.mark.parametrize(("S", "N"), [(0.7, 3), (25.0, 12)])
def test_the_expectation_is_that_of_quadrature(S, N):
    law, prior = InverseGamma(2.5, 0.4), stats.invgamma(2.5, scale=0.4)
    weight = lambda s: s ** (-N / 2) * math.exp(-S / (2 * s)) * prior.pdf(s)  # noqa: E731
    total, _ = integrate.quad(weight, 0, math.inf, epsabs=0, epsrel=1e-11)
    value, slope = law.log_expectation(S, N)
    assert value == pytest.approx(math.log(total), rel=1e-9)
    step = 1e-5 * S
    rise = law.log_expectation(S + step, N)[0] - law.log_expectation(S - step, N)[0]
    assert slope == pytest.approx(rise / (2 * step), rel=1e-7)
    mean, _ = integrate.quad(lambda s: s * weight(s) / total, 0, math.inf, epsabs=0, epsrel=1e-10)
    assert law.condition(S, N).mean == pytest.approx(mean, rel=1e-8)


def test_the_expectation_under_the_unit_law_is_the_gaussian_exponent():
    assert Unit().log_expectation(3.0, 7) == (-1.5, -0.5)
    assert Unit().condition(3.0, 7) == Unit()


@pytest.mark.parametrize(("alpha", "beta", "word"), [(0.0, 1.0, "alpha"), (1.0, -2.0, "-2"), (math.inf, 1.0, "inf")])
def test_a_law_that_is_none_is_refused(alpha, beta, word):
    with pytest.raises(ValueError, match=word):
        InverseGamma(alpha, beta)
