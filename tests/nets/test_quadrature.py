"""Series duals against closed forms, and their estimate of error."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.activation import Pair
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.polynomials import RectifiedMonomial
from kernelfield.nets.quadrature import Elementwise, Tanh
from kernelfield.nets.rectifiers import ABRelu
from kernelfield.nets.smooth import Erf, Gelu

KNOWN = [
    (Elementwise(torch.erf), Erf()),
    (Elementwise(torch.nn.functional.gelu), Gelu()),
    (Elementwise(lambda u: 1.2 * u.clamp_min(0) - 0.5 * u.clamp_max(0)), ABRelu(-0.5, 1.2)),
    (Elementwise(lambda u: u.clamp_min(0) ** 2), RectifiedMonomial(2)),
]


@pytest.mark.parametrize(("series", "closed"), KNOWN, ids=lambda phi: str(phi)[:20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_series_agree_with_closed_forms(series, closed, dtype):
    """Also behind kinks, between nearly coincident inputs, and where the correlation is near one."""
    x = torch.randn(4, 3)
    x = Points(torch.cat([x, x[:1] + 1e-6, 1.3 * x[1:2], -x[2:3]]).to(dtype))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for kind in ("nngp", "ntk"):
        first, second = (
            gram(Dense(1.4, 0.1) >> phi >> Dense(1.3, 0.1) >> phi >> Dense(), x, kind=kind) for phi in (series, closed)
        )
        assert_close(first, second, rtol=tolerance, atol=tolerance * float(second.max()))
        assert first.equal(first.mT)


def test_the_estimate_bounds_the_error():
    a = torch.full((1, 1), 2.0)
    exact, found = Erf(), Elementwise(torch.erf, digits=5)
    for e in (0.0, 0.01, 0.3):
        pair = Pair(torch.full((1, 1), e), a, a)
        bound = found.error(2.0, found.order(a))
        assert 1e-13 < bound <= 1e-5
        assert abs(float(found.slope(pair) - exact.slope(pair))) <= 1.001 * bound * float(
            exact.slope(Pair(0 * a, a, a))
        )


def test_a_series_that_does_not_converge_says_so():
    with pytest.raises(ValueError, match=r"leaves out a share of .* standard deviation of 200, .* fewer"):
        gram(Dense(200.0) >> Tanh() >> Dense(), Points(torch.ones(1, 3)))
    with pytest.raises(ValueError, match="a kink away from zero"):
        gram(Dense() >> Elementwise(lambda u: u.clamp(-1, 1)) >> Dense(), Points(torch.ones(1, 3)))


def test_mehlers_series_is_reached_at_moderate_correlations():
    """tau = sum_n c_n(a) c_n(b) rho^n with c_n = E[tanh(a z) He_n(z)] / sqrt(n!), summed by brute force."""
    z, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(120))
    weights = weights / weights.sum()
    a, b, rho = 0.8, 1.1, 0.4
    before, now, tau = torch.zeros_like(z), torch.ones_like(z), 0.0
    for n in range(60):
        c, d = ((weights * torch.tanh(s * z) * now).sum() for s in (a, b))
        tau = tau + float(c * d) * rho**n
        before, now = now, (z * now - n**0.5 * before) / (n + 1) ** 0.5
    pair = Pair(torch.full((1, 1), (1 - rho) / 2), torch.full((1, 1), a), torch.full((1, 1), b))
    assert abs(float(Tanh().value(pair)) - tau) < 1e-9
