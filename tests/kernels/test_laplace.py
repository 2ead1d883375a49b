"""The matched Laplace kernel on spheres, where theory says that it can match, and off them."""

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import leggauss, legval
from torch.testing import assert_close

from kernelfield.kernels.laplace import matched_laplace
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.nets.algebra import Repeat
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu


def network(depth, b=0.3):
    return Dense(2**0.5, b) >> Repeat(Relu() >> Dense(2**0.5, b), depth - 1) >> Relu() >> Dense(1.0)


def sphere(n, d=3):
    x = torch.randn(n, d)
    return x / x.norm(dim=-1, keepdim=True)


def rough(x):
    return torch.sin(4 * x[:, :1]) + (x[:, 1:2] - 0.3).abs()


@pytest.mark.parametrize("depth", [2, 4])
def test_means_on_the_sphere_agree(depth):
    X, XS = sphere(120), sphere(200)
    match = matched_laplace(NetworkKernel(network(depth), "ntk"), X, rough(X), XS, noise=1e-4)
    assert match.correlation > 0.99


def test_a_laplace_kernel_is_its_own_match():
    kernel, X, XS = Matern(0.5), sphere(60), sphere(80)
    kernel.lengthscale, kernel.outputscale = 0.8, 3.0
    match = matched_laplace(kernel, X, torch.cat([rough(X), X[:, 2:]], 1), XS, noise=1e-2)
    assert match.correlation == pytest.approx(1, abs=1e-6)
    assert match.kernel.lengthscale.item() == pytest.approx(0.8, rel=1e-2)
    assert_close(match.kernel.outputscale, kernel.outputscale)


def test_a_smooth_kernel_is_matched_less_well_than_a_network():
    X, XS = sphere(80), sphere(200)
    smooth = RBF()
    smooth.lengthscale = 0.5
    ones, others = (matched_laplace(k, X, rough(X), XS, noise=1e-6) for k in (NetworkKernel(network(3), "ntk"), smooth))
    assert others.correlation < ones.correlation


@pytest.mark.parametrize(
    ("kernel", "slope"),
    [(NetworkKernel(network(3), "ntk"), -3), (Matern(0.5), -3), (NetworkKernel(network(3), "nngp"), -5)],
    ids=["ntk", "laplace", "nngp"],
)
def test_eigenvalues_on_the_sphere_fall_with_the_power_of_theory(kernel, slope):
    # Funk and Hecke: the eigenvalue of degree k is the integral of the kernel with Legendre's P_k.
    angle, weight = leggauss(400)
    angle = (angle + 1) * np.pi / 2  # in the angle, where the kernel is smooth at both ends
    t = torch.tensor(angle)
    points = torch.stack([t.cos(), t.sin(), torch.zeros_like(t)], -1)
    with torch.no_grad():
        values = kernel(points.new_tensor([[1.0, 0.0, 0.0]]), points).to_dense()[0].numpy()
    degrees = np.array([16, 32])
    found = [(weight * np.sin(angle) * values * legval(np.cos(angle), np.eye(k + 1)[k])).sum() for k in degrees]
    assert np.log2(found[1] / found[0]) == pytest.approx(slope, abs=0.3)


def test_a_constant_mean_has_no_match():
    with pytest.raises(ValueError, match="the mean to match is constant on XS"):
        matched_laplace(Matern(0.5), sphere(5), torch.zeros(5, 1), sphere(4), noise=0.1)
