"""The certificate against the kernel itself, dense sampling of boxes and attacks by gradient."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.testing import assert_close

from kernelfield.nets.certificate import LEAST_COSINE, TwoLayerMachine, profile
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import Relu


@pytest.fixture
def machine():
    return TwoLayerMachine(torch.randn(12, 5), torch.randn(12), 0.05)


def test_its_function_is_a_sum_of_tangent_kernels(machine):
    x = torch.randn(7, 5)
    T = gram(Dense() >> Relu() >> Dense(), Points(x), Points(machine.support), kind="ntk")
    assert_close(machine(x), T @ machine.coefficients + machine.offset)


def test_the_profile_is_least_where_the_paper_says():
    found = minimize_scalar(lambda u: profile(torch.tensor(u)).item(), bounds=(-1, 1), method="bounded")
    assert found.x == pytest.approx(LEAST_COSINE, abs=1e-5)
    assert found.x == pytest.approx(-0.7941, abs=1e-4)
    assert profile(torch.tensor(LEAST_COSINE)).item() == pytest.approx(-0.429738, abs=1e-6)


@pytest.mark.parametrize("delta", [0.01, 0.3, 2.0])
def test_the_margin_bounds_the_function_over_the_box(delta, machine):
    x = torch.randn(6, 5)
    z = x + delta * (2 * torch.rand(4000, 6, 5) - 1)
    z[::2] = x + delta * torch.randn(2000, 6, 5).sign()  # corners
    values = machine(z.flatten(0, 1)).unflatten(0, (4000, 6)) * machine(x).sign()
    assert (values >= machine.margin(x, delta) - 1e-12).all()


def test_no_attack_within_the_radius_changes_a_decision(machine):
    x = torch.randn(30, 5)
    radius, sign = machine.radius(x)[:, None], machine(x).sign()
    assert (radius > 0).all()
    for start in (0.0, 1.0):
        z = (x + start * radius * (2 * torch.rand_like(x) - 1)).requires_grad_()
        for _ in range(40):
            slope = torch.autograd.grad((sign * machine(z)).sum(), z)[0]
            moved = z.detach() - 0.1 * radius * slope.sign()
            z = torch.clamp(moved, x - radius, x + radius).requires_grad_()
        assert (machine(z) * sign > 0).all()


def test_a_radius_is_where_the_margin_ends_and_not_far_from_an_attack(machine):
    x = torch.randn(30, 5)
    radius = machine.radius(x)
    assert (machine.margin(x, radius * 0.999) > 0).all()
    assert (machine.margin(x, radius * 1.001) < 0).all()
    assert_close(machine.margin(x, 0.0), machine(x).abs())


def test_one_input_and_one_support_are_certified_as_by_hand():
    # g(z) = z - 0.1 for z > 0. Upwards the bound is attained. Downwards |z| and x'z count as two
    # numbers, and the least p h(c / p) at a given c is at p = sqrt(2) c, (3 pi / 2 + 1) c.
    machine = TwoLayerMachine(torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, 5.0]), -0.1)
    lowest = 0.1 * 2 * math.pi / (1.5 * math.pi + 1)
    assert_close(machine.radius(torch.tensor([[0.05], [0.5]])), torch.tensor([0.05, 0.5 - lowest]))


@pytest.mark.parametrize("delta", [0.1, 0.5, 3.0])
def test_the_bounds_are_attained_over_lengths_and_products(delta):
    machine, x = TwoLayerMachine(torch.randn(4, 3), torch.ones(4)), torch.randn(5, 3)
    low, high = machine._bounds(x, torch.full((5, 1), delta))
    near, far = (x.abs() - delta).clamp_min(0).norm(dim=-1), (x.abs() + delta).norm(dim=-1)
    for i in range(5):
        for j in range(4):
            r, center = machine.support[j].norm(), x[i] @ machine.support[j]
            reach = delta * machine.support[j].abs().sum()
            p = torch.linspace(near[i], far[i], 500)[:, None] * r
            c = torch.linspace(center - reach, center + reach, 500)
            value = torch.where(c.abs() <= p, p * profile((c / p).clamp(-1, 1)), torch.nan)
            found = value[~value.isnan()]
            width = found.max() - found.min()
            assert -1e-12 < found.min() - low[i, j] < 0.03 * width
            assert -1e-12 < high[i, j] - found.max() < 0.03 * width
