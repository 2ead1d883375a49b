import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.spherical import SphericalKernel, count, spherical_kernel
from kernelfield.kernels.zonal import multiplicities, zonal
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu
from tests.laws import obeys_kernel_laws

KINDS = [{"family": "arc-cosine"}, {"family": "arc-cosine", "depth": 3}, {"family": "matern", "nu": 2.5}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("d", [1, 4])
def test_it_obeys_the_laws(kind, d):
    kernel = spherical_kernel(spread=torch.ones(d), size=torch.tensor(2.0), **kind)
    obeys_kernel_laws(kernel, torch.randn(7, d), torch.randn(5, d))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_arc_cosine_kernel_is_that_of_a_wide_network_with_biases_in_its_first_layer(depth):
    arch = Dense(tuple((3**0.5 / torch.tensor([0.5, 1.0, 2.0])).tolist()), 1.0)
    for _ in range(depth):
        arch = arch >> Relu() >> Dense(2**0.5)
    kernel = SphericalKernel(depth=depth, ard_num_dims=3)
    kernel.lengthscale = torch.tensor([0.5, 1.0, 2.0])
    x, y = torch.randn(6, 3), torch.randn(4, 3)
    assert_close(kernel(x, y).to_dense(), NetworkKernel(arch)(x, y).to_dense())


@pytest.mark.parametrize("d", [2, 3, 7])
def test_levels_sum_to_the_kernel(d):
    # What is cut falls as a power of the level: the masses beyond are what the sum at one lacks.
    kernel, t = SphericalKernel(), torch.linspace(-1, 1, 21)
    levels = kernel.levels(d)
    lost = 1 - (levels * multiplicities(d, count(d))).sum()
    assert 0 < lost < 3e-3
    assert ((zonal(t, levels, d) - kernel.kappa(t, d)).abs() <= lost + 1e-12).all()


def test_one_layer_lacks_odd_levels_and_two_have_all():
    one, two = (SphericalKernel(depth=depth).levels(4) for depth in (1, 2))
    assert (one[3::2] == 0).all()
    assert (one[[0, 1, 2, 4, 6, 8]] > 0).all()
    assert (two > 0).all()


def test_half_of_the_circle_has_the_known_arc_cosine_levels():
    # kappa(cos a) = (sin a + (pi - a) cos a) / pi has the mean 4 / pi^2 over the circle.
    assert SphericalKernel().levels(2)[0].item() == pytest.approx(4 / math.pi**2, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SphericalKernel("rbf"), "family must be 'arc-cosine' or 'matern', got 'rbf'"),
        (lambda: SphericalKernel(depth=0), "depth must be at least one layer, got 0"),
        (lambda: SphericalKernel("matern", nu=0.0), "nu must be positive, got 0"),
        (lambda: setattr(SphericalKernel(), "outputscale", -1.0), "outputscale must be positive and finite, got -1"),
    ],
)
def test_a_wrong_choice_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
