"""Derivatives of mixtures against automatic differentiation and the spectral kernels, and tables on lattices."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.bumps import GaussianBump, StudentBump
from kernelfield.kernels.derived import CHUNK, Differences, Mixture
from kernelfield.kernels.spectral import SpectralMixture

BUMPS = [GaussianBump(), StudentBump(2.5), StudentBump(4.5)]


def mixture(bump) -> Mixture:
    return Mixture(bump, torch.tensor([0.3, -1.0]), torch.tensor([-0.4, 0.2]), torch.tensor([0.0, 1.3]))


@pytest.mark.parametrize("bump", BUMPS, ids=str)
def test_derivatives_to_four_in_each_point_are_those_of_autograd(bump):
    tau = torch.tensor([-0.7, 0.2, 1.1], requires_grad=True)
    value = mixture(bump).derivatives(tau, [0])[0]
    for order in range(1, 1 + int(min(8, bump.smoothness))):
        (value,) = torch.autograd.grad(value.sum(), tau, create_graph=True)
        assert_close(mixture(bump).derivatives(tau.detach(), [order])[0], value.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bump", BUMPS[:2], ids=str)
def test_it_is_the_spectral_mixture_of_the_same_parameters(bump):
    one = mixture(bump)
    kernel = SpectralMixture(2, density="gaussian" if isinstance(bump, GaussianBump) else "student_t")
    kernel.weights, kernel.lengthscales = one.log_weights.exp(), one.log_lengths.exp()[:, None]
    kernel.frequencies = one.frequencies[:, None]
    x = torch.randn(5, 1)
    for i, j in itertools.product(range(3), repeat=2):
        expect = kernel.derivative(x, x, [i], [j]).detach()
        tau = (x - x.mT).flatten()
        assert_close((-1) ** j * one.derivatives(tau, [i + j])[0].view(5, 5), expect)


def test_a_table_has_the_values_and_slopes_of_the_formula_across_chunks():
    leaves = [p.clone().requires_grad_(True) for p in mixture(GaussianBump()).parameters]
    tau = torch.linspace(-2, 2, CHUNK + 7)
    one = Mixture(GaussianBump(), *leaves)
    pull = torch.randn(2, len(tau))
    table, plain = one.table(tau, [0, 4]), one.derivatives(tau, [0, 4])
    assert_close(table, plain)
    assert_close(torch.autograd.grad(table, leaves, pull), torch.autograd.grad(plain, leaves, pull))


@pytest.mark.parametrize(
    ("a", "b", "size"),
    [
        (torch.linspace(0, 6.28, 40), torch.linspace(0, 6.28, 40), 79),
        (torch.linspace(-1, 1, 21), torch.tensor([-1.0, 1.0]), 41),
        (torch.linspace(0, 1, 20), torch.rand(7), 140),
        (torch.zeros(3), torch.zeros(2), 1),
    ],
    ids=["lattice", "sides", "scattered", "one place"],
)
def test_differences_are_those_of_the_coordinates_and_each_once_on_a_lattice(a, b, size):
    found = Differences.of(a, b)
    assert len(found.tau) == size
    assert_close(found.tau[found.left[:, None] + found.right], a[:, None] - b, rtol=0, atol=1e-14)
