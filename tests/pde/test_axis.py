"""Bases of an axis against the spectral mixture kernel that they come from."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.spectral import SpectralMixture
from kernelfield.pde.axis import Axis, AxisBasis, Bands, Condition, WaveFeatures, end_rows

BANDS = Bands((0.0, 2.0, 7.5), (0.4, 0.9, 0.3))


def kernel(bands):
    """The same mixture as a kernel in its own right."""
    made = SpectralMixture(len(bands.frequencies))
    made.frequencies = torch.tensor(bands.frequencies)[:, None]
    made.lengthscales = torch.tensor(bands.lengthscales)[:, None]
    made.weights = torch.full((len(bands.frequencies),), 1 / len(bands.frequencies))
    return made.requires_grad_(False)


@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (1, 1), (2, 0), (2, 2), (3, 1)])
def test_features_multiply_to_the_kernel_and_its_derivatives(orders):
    x, z = torch.linspace(-0.5, 1.5, 30), torch.linspace(-0.5, 1.5, 17)
    features = WaveFeatures.of(BANDS, -0.5, 1.5)
    got = features.at(x, orders[0]) @ features.at(z, orders[1]).mT
    expect = kernel(BANDS).derivative(x[:, None], z[:, None], [orders[0]], [orders[1]])
    assert_close(got, expect, rtol=0, atol=1e-11 * float(expect.abs().max()))


@pytest.mark.parametrize("order", range(5))
def test_derivatives_of_features_are_those_of_autograd(order):
    features = WaveFeatures.of(BANDS, 0.0, 1.0)
    x = torch.linspace(0, 1, 7, requires_grad=True)
    column = 11
    value = features.at(x)[:, column]
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert_close(features.at(x, order)[:, column], value)


def test_differentiation_is_that_of_conditional_means():
    x = torch.linspace(0, 1, 12)  # few nodes, so that the kernel matrix may be inverted
    bands = Bands((0.0, 6.0), (0.1, 0.2))
    basis, k = AxisBasis.of(x, bands), kernel(bands)
    assert basis.rank == 12
    for order in (1, 2):
        expect = torch.linalg.solve(
            k(x[:, None]).to_dense(), k.derivative(x[:, None], x[:, None], [0], [order])
        ).mT  # symmetric: the derivative in the second argument, transposed, is that in the first
        assert_close(basis.differentiation(order), expect, rtol=0, atol=1e-6 * float(expect.abs().max()))


def test_the_spectrum_of_the_basis_is_that_of_the_kernel_matrix():
    x = torch.linspace(0, 1, 40)
    basis = AxisBasis.of(x, BANDS)
    eigenvalues = torch.linalg.eigvalsh(kernel(BANDS)(x[:, None]).to_dense()).flip(0)
    assert_close(basis.singular.square()[:15], eigenvalues[:15], rtol=1e-8, atol=1e-10)
    assert_close(basis.values.mT @ basis.values, torch.eye(basis.rank), rtol=0, atol=1e-13)
    assert basis.condition == pytest.approx(float(basis.singular[0] / basis.singular[-1]) ** 2)


def test_waves_within_a_band_are_differentiated_to_many_digits():
    x = torch.linspace(0, 2 * math.pi, 200)
    basis = AxisBasis.of(x, Bands((0.0, 50 / (2 * math.pi)), (0.6, 0.6)))
    error = basis.differentiation(2) @ (50 * x).sin() + 2500 * (50 * x).sin()
    assert error.abs().max() < 1e-4 * 2500
    assert error[20:-20].abs().max() < 1e-6 * 2500


@pytest.mark.parametrize("kinds", [[], [(0, 0)], [(0, 0), (1, 0)], [(0, 0), (1, 1)], [(0, 0), (1, 0), (0, 1), (1, 1)]])
def test_free_functions_have_no_boundary_values_and_lifts_have_each_one(kinds):
    conditions = [Condition(f"x{'-+'[end]}", end, order) for end, order in kinds]
    basis = AxisBasis.of(torch.linspace(0, 1, 40), Bands((0.0, 3.0), (0.2, 0.2)))
    axis = Axis.of(basis, conditions)
    b = len(conditions)
    size = float(axis.rows.abs().max()) if b else 1.0
    assert axis.free.shape == (axis.basis.rank, axis.basis.rank - b)
    assert_close(axis.rows @ axis.free / size, torch.zeros(b, axis.basis.rank - b), rtol=0, atol=1e-9)
    assert_close(axis.rows @ axis.lift, torch.eye(b), rtol=0, atol=1e-9)
    values = axis.basis.values[axis.inner] @ axis.free
    assert_close(values, axis.test, rtol=0, atol=1e-9)
    assert_close(end_rows(axis.basis.at, basis.nodes, conditions), axis.rows)


def test_a_basis_with_a_function_for_each_node_is_cut_to_as_many_as_there_are_equations():
    basis = AxisBasis.of(torch.linspace(0, 1, 20), Bands((0.0,), (0.01,)))
    assert basis.rank == 20
    axis = Axis.of(basis, [Condition("x-", 0, 0)])
    assert axis.test.shape == (19, 19)
