"""Polynomials and arc-cosine kernels against their known forms."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.activation import Pair
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.polynomials import Hermite, Monomial, Polynomial, RectifiedMonomial, ReQU
from kernelfield.nets.rectifiers import Relu, Step


@pytest.mark.parametrize("degree", range(9))
def test_hermite_polynomials_have_powers_of_the_correlation_at_unit_variance(degree):
    e, one = torch.tensor([0.0, 0.1, 0.5, 0.7, 1.0]), torch.ones(5)
    pair, rho = Pair(e, one, one), 1 - 2 * e
    assert_close(Hermite(degree).value(pair), rho**degree)
    slope = degree * rho ** (degree - 1) if degree else torch.zeros(5)
    assert_close(Hermite(degree).slope(pair), slope, rtol=1e-10, atol=1e-12)


def test_a_polynomial_is_the_sum_of_its_monomials():
    u = torch.randn(7)
    assert_close(Polynomial((0.3, -1.1, 0.4)).phi(u), 0.3 - 1.1 * u + 0.4 * u**2)
    a, b = torch.tensor(0.7), torch.tensor(1.3)
    pair = Pair(torch.tensor(0.2), a, b)
    q = 0.6 * a * b
    wanted = 0.3**2 + 0.3 * 0.4 * (a**2 + b**2) + 1.1**2 * q + 0.4**2 * (a**2 * b**2 + 2 * q**2)
    assert_close(Polynomial((0.3, -1.1, 0.4)).value(pair), wanted)


@pytest.mark.parametrize("degree", range(5))
def test_rectified_monomials_have_exact_limits_where_inputs_are_collinear(degree):
    """E[max(u, 0)^n max(c u, 0)^n] = c^n (2 n - 1)!! var(u)^n / 2 for c > 0, and 0 for c < 0."""
    x = torch.tensor([[0.3, -1.1, 0.8]])
    x = torch.cat([x, 2 * x, -x])
    p = float(x[0].square().mean())
    double = math.prod(range(1, 2 * degree, 2))
    K = gram(Dense() >> RectifiedMonomial(degree) >> Dense(), Points(x))
    wanted = double * p**degree / 2 * torch.tensor([[1, 2**degree, 0], [2**degree, 4**degree, 0], [0, 0, 1.0]])
    assert_close(K, wanted, rtol=1e-13, atol=1e-15)
    T = gram(Dense() >> RectifiedMonomial(degree) >> Dense(), Points(x), kind="ntk")
    inner = math.prod(range(1, 2 * degree - 2, 2)) * degree**2 / 2
    powers = torch.tensor([[1, 2**degree, 0], [2**degree, 4**degree, 0], [0, 0, 1.0]])
    assert_close(T, wanted + inner * p**degree * powers, rtol=1e-13, atol=1e-15)


def test_low_degrees_are_the_step_and_the_rectifier():
    x = Points(torch.randn(5, 3))
    for kind in ("nngp", "ntk"):
        for degree, same in ((0, Step()), (1, Relu())):
            archs = [Dense(1.2, 0.1) >> phi >> Dense() for phi in (RectifiedMonomial(degree), same)]
            assert_close(*(gram(arch, x, kind=kind) for arch in archs))
    assert ReQU() == RectifiedMonomial(2)


@pytest.mark.parametrize("wrong", [Monomial, Hermite, RectifiedMonomial])
def test_degrees_are_counts(wrong):
    for degree in (-1, 1.5):
        with pytest.raises(ValueError, match=f"the degree of a {wrong.__name__} is an integer from 0 upwards, got"):
            wrong(degree)
    with pytest.raises(ValueError, match="at least one coefficient"):
        Polynomial(())
