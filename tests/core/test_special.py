"""Logarithms of Bessel functions against mpmath, closed forms, recurrences and differences."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import ive, kve
from torch.testing import assert_close

from kernelfield.core.special import log_bessel_i, log_bessel_k

mp = mpmath.mp.clone()
mp.dps = 50
ORDERS = (0.0, 1e-3, 0.3, 0.5, 1.0, 2.5, 7.3, 31.0, 100.0, 444.4, 1000.0)
ARGUMENTS = (1e-4, 3e-3, 0.1, 0.9, 3.0, 19.9, 20.1, 77.0, 410.0, 3e3)
# Near the ray on which log K and log I are zero for large orders, and its two terms cancel.
RAY = [(nu, nu * 0.66274342 + shift) for nu in (30.0, 333.3, 1000.0) for shift in (-40.0, -0.3, 0.0, 1.0, 30.0)]
GRID = [(nu, x) for nu in ORDERS for x in ARGUMENTS] + [pair for pair in RAY if pair[1] > 0]


def exact_k(nu, x):
    """K by its integral: a sum with so fine a step, over so wide a range, that 40 digits are right."""
    nu, x = mp.mpf(nu), mp.mpf(x)
    peak, width = mp.asinh(nu / x), mp.sqrt(2 * 120 / mp.hypot(nu, x))
    high = peak + min(width, mp.acosh(1 + 120 / x))
    low = max(-mp.acosh(1 + 120 / x), peak - 2 * width - 120 / nu) if nu else -mp.acosh(1 + 120 / x)
    step = min(mp.mpf(1) / 12, 1 / mp.sqrt(8 * mp.hypot(nu, x)))
    count = int((high - low) / step) + 1
    return step / 2 * mp.fsum(mp.exp(nu * t - x * mp.cosh(t)) for t in (low + j * step for j in range(count + 1)))


def exact_i(nu, x):
    """I by its series."""
    nu, x = mp.mpf(nu), mp.mpf(x)
    term = total = mp.mpf(1)
    k = 0
    while term > total * mp.mpf(10) ** -45 or 2 * k < x:
        k += 1
        term *= x * x / 4 / (k * (nu + k))
        total += term
    return mp.exp(nu * mp.log(x / 2) - mp.loggamma(nu + 1)) * total


def gap(value, exact):
    """Relative, or absolute where the exact value is within one of zero."""
    return float(abs(mp.mpf(value) - exact) / max(1, abs(exact)))


@pytest.mark.parametrize(("nu", "x"), [(0.3, 0.01), (2.5, 1.7), (31.0, 12.0), (200.3, 350.0)])
def test_the_references_are_those_of_mpmath(nu, x):
    assert abs(exact_k(nu, x) / mp.besselk(mp.mpf(nu), mp.mpf(x)) - 1) < 1e-38
    assert abs(exact_i(nu, x) / mp.besseli(mp.mpf(nu), mp.mpf(x)) - 1) < 1e-38


@pytest.mark.parametrize(("ours", "exact"), [(log_bessel_k, exact_k), (log_bessel_i, exact_i)], ids="ki")
def test_values_have_thirteen_digits(ours, exact):
    nu, x = torch.tensor(GRID).unbind(-1)
    values = ours(nu, x).tolist()
    gaps = [gap(value, mp.log(exact(*pair))) for value, pair in zip(values, GRID, strict=True)]
    assert max(gaps) < 2e-14, GRID[int(np.argmax(gaps))]
    alone = torch.stack([ours(*pair) for pair in zip(nu, x, strict=True)])
    assert_close(alone, ours(nu, x), rtol=1e-14, atol=1e-14)  # and do not depend on their neighbours


@pytest.mark.parametrize(("ours", "exact"), [(log_bessel_k, exact_k), (log_bessel_i, exact_i)], ids="ki")
def test_derivatives_have_thirteen_digits(ours, exact):
    few = [(nu, x) for nu, x in GRID[3::7] if nu > 0]
    nu, x = (t.requires_grad_() for t in torch.tensor(few).unbind(-1))
    slopes = torch.autograd.grad(ours(nu, x).sum(), (nu, x))
    h = mp.mpf(10) ** -14
    for place, (order, argument) in enumerate(few):
        n, a = mp.mpf(order), mp.mpf(argument)
        by_order = (mp.log(exact(n + h, a)) - mp.log(exact(n - h, a))) / (2 * h)
        by_argument = (mp.log(exact(n, a * (1 + h))) - mp.log(exact(n, a * (1 - h)))) / (2 * h * a)
        assert gap(slopes[0][place].item(), by_order) < 1e-13
        assert gap(slopes[1][place].item(), by_argument) < 1e-13


@pytest.mark.parametrize("ours", [log_bessel_k, log_bessel_i], ids="ki")
def test_derivatives_are_those_of_differences_over_broadcast_shapes(ours):
    nu = torch.tensor([[0.2], [3.0]], requires_grad=True)
    x = torch.tensor([0.5, 4.0, 25.0], requires_grad=True)
    assert ours(nu, x).shape == (2, 3)
    assert torch.autograd.gradcheck(ours, (nu, x))


def test_the_recurrences_in_the_order_hold():
    x = torch.logspace(-4, 3.4, 40)
    for nu in (1.0, 1.7, 250.0):
        up, here, down = (log_bessel_k(order, x) for order in (nu + 1, nu, nu - 1))
        assert_close(torch.logaddexp(down, here + (2 * nu / x).log()), up, rtol=1e-13, atol=1e-12)
        up, here, down = (log_bessel_i(order, x) for order in (nu + 1, nu, nu - 1))
        assert_close(torch.logaddexp(up, here + (2 * nu / x).log()), down, rtol=1e-13, atol=1e-12)


def test_the_wronskian_joins_the_two():
    # I_nu K_{nu+1} + I_{nu+1} K_nu = 1 / x, DLMF 10.28.2.
    x, nu = torch.logspace(-4, 3.4, 60), torch.logspace(-3, 3, 30)[:, None]
    first = log_bessel_i(nu, x) + log_bessel_k(nu + 1, x)
    second = log_bessel_i(nu + 1, x) + log_bessel_k(nu, x)
    assert_close(torch.logaddexp(first, second), -x.log().expand(30, 60), rtol=0, atol=3e-11)  # of terms up to 1e4


def test_many_values_at_one_order_are_those_of_scipy():
    x = np.random.default_rng(0).uniform(1e-3, 30, 20_000)
    for nu in (0.3, 12.0):
        assert_close(log_bessel_k(nu, torch.tensor(x)), torch.tensor(np.log(kve(nu, x)) - x), rtol=1e-12, atol=1e-12)
        assert_close(log_bessel_i(nu, torch.tensor(x)), torch.tensor(np.log(ive(nu, x)) + x), rtol=1e-12, atol=1e-12)


def test_ends_of_the_range_and_missing_values():
    x = torch.tensor([0.0, -1.0, torch.nan, torch.inf, 1e-200])
    assert_close(log_bessel_k(0.7, x)[:4], torch.tensor([torch.inf, torch.nan, torch.nan, -torch.inf]), equal_nan=True)
    assert gap(log_bessel_k(0.7, x)[4].item(), mp.log(mp.besselk(mp.mpf(0.7), mp.mpf(1e-200)))) < 1e-14
    assert log_bessel_i(0.0, x)[0] == 0 and log_bessel_i(0.7, x)[0] == -torch.inf
    assert log_bessel_k(1.0, torch.empty(0, 3)).shape == (0, 3)


def test_k_is_even_in_its_order_and_i_refuses_a_negative_one():
    x = torch.tensor([0.1, 2.0])
    assert_close(log_bessel_k(-1.3, x), log_bessel_k(1.3, x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="must not be negative, got -1.3"):
        log_bessel_i(-1.3, x)


def test_single_precision_is_the_rounded_double():
    x = torch.logspace(-4, 3, 20, dtype=torch.float32)
    value = log_bessel_k(2.3, x)
    assert value.dtype == torch.float32
    assert_close(value, log_bessel_k(2.3, x.double()).float(), rtol=0, atol=0)


@pytest.mark.parametrize("n", range(12))
def test_half_integers_are_finite_sums_with_the_same_derivatives(n):
    x = torch.logspace(-4, 3.4, 30, dtype=torch.double).requires_grad_()
    order = torch.tensor(n + 0.5, dtype=torch.double)
    quick = log_bessel_k(-n - 0.5, x)
    whole = log_bessel_k(order.requires_grad_(), x)  # a learned order goes the long way
    assert_close(quick, whole, rtol=1e-13, atol=1e-13)
    slopes = [torch.autograd.grad(value.sum(), x)[0] for value in (quick, whole)]
    assert_close(*slopes, rtol=1e-12, atol=1e-12)
    exact = torch.tensor([float(mp.log(mp.besselk(n + 0.5, one))) for one in x.tolist()], dtype=torch.double)
    assert_close(quick.detach(), exact, rtol=1e-13, atol=1e-13)
    assert log_bessel_k(n + 0.5, torch.tensor([0.0, 1.0], dtype=torch.float32)).tolist()[0] == math.inf
