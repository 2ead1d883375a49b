"""Envelopes against the transforms of their bumps and against automatic differentiation."""

import math

import mpmath
import pytest
import torch
from scipy import integrate
from torch.testing import assert_close

from kernelfield.kernels.bumps import GaussianBump, StudentBump

BUMPS = [GaussianBump(), *(StudentBump(nu) for nu in (0.5, 1.5, 2.5, 3.5, 4.5))]
ALL = pytest.mark.parametrize("bump", BUMPS, ids=str)


def envelope(bump, r, lengths):
    """At points (n, d) and the origin."""
    return bump.envelope(r, torch.zeros(1, r.shape[-1], dtype=r.dtype))(lengths)


@ALL
def test_an_envelope_is_the_cosine_transform_of_its_density(bump):
    length, r = 0.7, 0.4

    def density(f: float) -> float:
        unit = 2 * math.pi * length
        return 2 * unit * bump.log_density(torch.tensor(unit * f)).exp().item()

    mass, _ = integrate.quad(density, 0, math.inf, epsabs=1e-11)
    value, _ = integrate.quad(density, 0, math.inf, weight="cos", wvar=2 * math.pi * r, epsabs=1e-10)
    assert mass == pytest.approx(1, abs=1e-8)
    got = envelope(bump, torch.full((1, 1), r), torch.tensor([length]))
    assert got.item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, 3.5, 4.5])
def test_the_polynomials_are_the_bessel_functions_of_the_formula(nu):
    for r in (0.01, 0.5, 3.0, 20.0):
        x = mpmath.sqrt(2 * nu) * r
        expect = 2 ** (1 - nu) / mpmath.gamma(nu) * x**nu * mpmath.besselk(nu, x)
        assert StudentBump(nu).derivative(torch.tensor(r), torch.tensor(1.0), 0).item() == pytest.approx(
            float(expect), rel=1e-13
        )


@ALL
def test_several_inputs_multiply(bump):
    r, lengths = torch.randn(3, 4, 2), torch.tensor([0.5, 2.0])
    one_by_one = [bump.derivative(r[..., d], lengths[d], 0) for d in range(2)]
    assert_close(envelope(bump, r, lengths)[..., 0], one_by_one[0] * one_by_one[1])


# Squares of up to 2000 lengths round by 1e-9 in double precision; differences of these points do not round.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 2e-9)])
@pytest.mark.parametrize("far", [450.0, 900.0, 2.0**20])
@ALL
def test_an_envelope_keeps_its_digits_however_many_lengths_from_the_centre(bump, far, dtype, tolerance):
    tail = [0.0, 0.5] if far < 1e4 else [0.0, 0.0]  # single precision has no more digits there
    a, b = (torch.tensor(v, dtype=dtype)[:, None] for v in ([far, far + tail[1]], [far + 0.25, far + 1.0, -far]))
    expected = bump.derivative(a.double() - b.double().mT, torch.tensor(0.5).double(), 0)
    got = bump.envelope(a, b)(torch.tensor([0.5], dtype=dtype))
    assert_close(got.double(), expected, atol=tolerance, rtol=0)


@ALL
def test_no_points_have_no_envelopes(bump):
    lengths = torch.ones(2)
    for n, k in ((0, 3), (3, 0), (0, 0)):
        assert bump.envelope(torch.ones(n, 2), torch.ones(k, 2))(lengths).shape == (n, k)


@ALL
def test_derivatives_are_those_of_autograd_on_both_sides_of_zero(bump):
    r = torch.tensor([-2.0, -0.3, 0.2, 1.5], requires_grad=True)
    length = torch.tensor(0.6)
    value = bump.derivative(r, length, 0)
    for order in range(1, 1 + int(min(8, bump.smoothness))):
        (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
        assert_close(bump.derivative(r.detach(), length, order), value.detach())


@ALL
def test_derivatives_at_zero_are_the_moments_of_the_bump(bump):
    """Order 2j is (-1)^j E[(2 pi f)^2j]: 1 and 3 for a normal, those of a t law with 2 nu degrees of freedom."""
    zero, one = torch.zeros(()), torch.ones(())
    df = math.inf if isinstance(bump, GaussianBump) else 2 * bump.nu
    second = 1.0 if math.isinf(df) else df / (df - 2) if df > 2 else None
    fourth = 3.0 if math.isinf(df) else 3 * df**2 / ((df - 2) * (df - 4)) if df > 4 else None
    for order, expect in ((2, second and -second), (4, fourth)):
        if expect is not None:
            assert bump.derivative(zero, one, order).item() == pytest.approx(expect, rel=1e-12)
            assert bump.derivative(zero, one, order - 1).item() == 0


@pytest.mark.parametrize(("nu", "order", "remedy"), [(0.5, 1, "1.5"), (1.5, 3, "2.5"), (1.5, 4, "2.5")])
def test_a_derivative_that_does_not_exist_at_zero_is_refused_with_the_remedy(nu, order, remedy):
    with pytest.raises(ValueError, match=f"up to order {2 * nu - 1:g} and {order} was asked for; take nu = {remedy}"):
        StudentBump(nu).derivative(torch.zeros(()), torch.ones(()), order)


def test_orders_beyond_eight_and_other_smoothnesses_are_refused():
    with pytest.raises(ValueError, match="orders 0 to 8 in each input, got 9"):
        GaussianBump().require(9)
    with pytest.raises(ValueError, match="nu must be 0.5, .* got 2"):
        StudentBump(2)
