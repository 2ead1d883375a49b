"""The quadrature over log s against integrals that are known."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.integration import GAUSS, KRONROD, NODES, rule_for


@pytest.mark.parametrize("degree", range(0, 32, 2))
def test_the_rules_are_exact_for_polynomials(degree):
    exact = torch.tensor(2 / (degree + 1))
    assert_close((KRONROD * NODES**degree).sum(), exact, atol=1e-15, rtol=1e-14)
    if degree < 20:
        assert_close((GAUSS * NODES**degree).sum(), exact, atol=1e-15, rtol=1e-14)
    assert_close(NODES, -NODES.flip(0), atol=0, rtol=0)


@pytest.mark.parametrize("std", [1e-4, 1e-2, 1.0, 40.0])
@pytest.mark.parametrize("centre", [-300.3, 0.0, 17.7])
def test_a_gaussian_of_any_width_is_found(std, centre):
    def log_f(u):
        return -0.5 * ((u - centre) / std).square()[:, None]

    rule = rule_for(log_f)
    assert rule.log_integral(log_f(rule.u)).item() == pytest.approx(math.log(std * math.sqrt(2 * math.pi)), abs=1e-12)
    assert rule.finite.all()


def test_integrands_of_different_places_share_their_points():
    centres = torch.tensor([-20.0, 0.3, 50.0])

    def log_f(u):
        return -((u[:, None] - centres) ** 2)

    rule = rule_for(log_f)
    assert_close(rule.log_integral(log_f(rule.u)), torch.full((3,), 0.5 * math.log(math.pi)), atol=1e-13, rtol=0)
    assert (rule.u.diff() > 0).all()


def test_two_peaks_far_apart_and_a_jump_are_integrated():
    def peaks(u):
        return torch.logaddexp(-100 * (u - 3.14).square(), -100 * (u + 210.7).square())[:, None]

    rule = rule_for(peaks)
    assert rule.log_integral(peaks(rule.u)).exp().item() == pytest.approx(2 * math.sqrt(math.pi / 100), rel=1e-12)

    def step(u):
        return torch.where((u > -1 / 3) & (u < 0.5), u, -math.inf)[:, None]

    rule = rule_for(step)
    assert rule.log_integral(step(rule.u)).exp().item() == pytest.approx(math.exp(0.5) - math.exp(-1 / 3), rel=1e-11)


def test_a_support_between_the_points_of_the_rule_is_found_from_the_scan():
    def log_f(u):
        return torch.where(u.abs() < 1e-3, 0.0, -math.inf)[:, None]

    rule = rule_for(log_f)
    assert rule.log_integral(log_f(rule.u)).exp().item() == pytest.approx(2e-3, rel=1e-10)


def test_an_integral_that_does_not_exist_is_told_from_its_neighbours():
    powers = torch.tensor([-0.5, 0.0, 0.5])
    rule = rule_for(lambda u: powers * u[:, None] - u.abs()[:, None] / 2)
    assert rule.finite.tolist() == [False, True, False]
