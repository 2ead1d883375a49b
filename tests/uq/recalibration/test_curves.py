"""Curves rise, invert themselves and have the slopes that they state; the Beta family is that of the paper."""

import numpy as np
import pytest
import torch
from scipy import special
from torch.testing import assert_close

from kernelfield.uq.recalibration.curves import BetaCurve, PiecewiseCurve, log_change

CURVES = {
    "piecewise": PiecewiseCurve(
        torch.tensor([-1.0, 0.0, 0.4]), torch.tensor([-2.0, 0.1, 0.2]), torch.tensor([0.5, 3.0])
    ),
    "one knot": PiecewiseCurve(torch.tensor([0.2]), torch.tensor([-0.1]), torch.tensor([2.0, 0.3])),
    "beta": BetaCurve(0.4, 2.5, 0.7),
    "narrow beta": BetaCurve(6.0, 5.0, -1.0),
    "identity": BetaCurve(1.0, 1.0, 0.0),
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES.keys())
def test_a_curve_rises_and_its_inverse_returns(curve):
    t = torch.linspace(-8, 8, 1001)
    s = curve.forward(t)
    assert (s.diff() > 0).all()
    inside = s.abs() < 30  # beyond it a level is no double
    assert_close(curve.inverse(s)[inside], t[inside], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES.keys())
def test_the_stated_slope_is_the_derivative(curve):
    t = torch.linspace(-6, 6, 97).requires_grad_()
    (slope,) = torch.autograd.grad(curve.forward(t).sum(), t)
    assert_close(curve.log_slope(t).exp(), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES.keys())
def test_the_density_of_levels_integrates_to_one(curve):
    """g du = exp(log g) phi(t) dt, over normal scores whose values reach both ends."""
    t = torch.linspace(-45, 45, 400_001)
    density = (log_change(curve, t) - t.square() / 2).exp() / (2 * torch.pi) ** 0.5
    assert torch.trapezoid(density, t).item() == pytest.approx(1, abs=3e-4)


def test_the_beta_curve_is_the_family_of_kull_silva_filho_and_flach():
    """Their map is 1 / (1 + 1 / (e^c u^a / (1 - u)^b))."""
    u = np.linspace(0.01, 0.99, 50)
    a, b, c = 0.4, 2.5, 0.7
    expect = 1 / (1 + 1 / (np.exp(c) * u**a / (1 - u) ** b))
    found = special.ndtr(BetaCurve(a, b, c).forward(torch.from_numpy(special.ndtri(u))).numpy())
    np.testing.assert_allclose(found, expect, rtol=1e-12)


def test_the_identity_changes_nothing_however_far_out():
    t = torch.linspace(-30, 30, 101)
    assert_close(BetaCurve(1.0, 1.0, 0.0).forward(t), t, rtol=1e-9, atol=1e-12)
    assert_close(log_change(BetaCurve(1.0, 1.0, 0.0), t), torch.zeros_like(t), rtol=0, atol=1e-7)
