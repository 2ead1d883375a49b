"""Random fields have the covariance of their kernel: of the map from noise where it is linear, of samples elsewhere."""

import pytest
import torch
from gpytorch.kernels import PeriodicKernel
from torch.testing import assert_close

from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.spectral import SpectralProduct
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models import fields
from kernelfield.models.fields import root, sample_field

A, B = torch.linspace(0, 1, 5), torch.tensor([0.0, 0.4, 3.0])


def short(kernel, lengthscale, outputscale=1.0):
    kernel.lengthscale, kernel.outputscale = lengthscale, outputscale
    return kernel


def covariance_of(monkeypatch, draw, width):
    """The covariance of a linear sampler, from what it makes of each unit vector of noise."""
    monkeypatch.setattr(fields, "_normals", lambda shape, like, generator: torch.eye(width).reshape(shape))
    values = draw().flatten(1)
    return values.mT @ values


@pytest.mark.parametrize(
    "kernel",
    [
        [short(Matern(1.5), 0.3, 2.0), PeriodicKernel()],
        GridKernel([short(RBF(), 0.5), short(Matern(0.5), 1.0, 0.7)]),
        SpectralProduct(2, dims=2),
    ],
    ids=["a list", "a grid kernel", "a spectral product"],
)
def test_product_fields_have_the_kernel_as_their_covariance(kernel, monkeypatch):
    found = covariance_of(monkeypatch, lambda: sample_field([A, B], kernel, 15), 15)
    whole = GridKernel(kernel) if isinstance(kernel, list) else kernel
    assert_close(found, whole(torch.cartesian_prod(A, B)).to_dense().detach(), atol=1e-12, rtol=1e-12)


def test_small_radial_fields_have_the_kernel_as_their_covariance(monkeypatch):
    kernel = short(Matern(2.5, ard_num_dims=2), torch.tensor([0.4, 1.0]))
    found = covariance_of(monkeypatch, lambda: sample_field([A, B], kernel, 15), 15)
    assert_close(found, kernel(torch.cartesian_prod(A, B)).to_dense().detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shape", [(40,), (9, 6)], ids=str)
def test_a_circulant_embedding_is_exact(shape, monkeypatch):
    """Its covariance is read off both halves of the transform: real and imaginary parts are independent fields."""
    monkeypatch.setattr(fields, "SMALL", 0)
    axes = [torch.linspace(0, 1, m) for m in shape]
    kernel = short(Matern(1.5), 0.15, 1.3)
    spectrum = fields._embedded(kernel, list(shape), torch.stack([axis[1] for axis in axes]))
    width, total = spectrum.numel(), 0.0
    for part in (0, 1):
        noise = torch.zeros(2, width, width)
        noise[part] = torch.eye(width)
        monkeypatch.setattr(fields, "_normals", lambda shape, like, generator, z=noise: z.reshape(shape))
        real, imaginary = sample_field(axes, kernel, 2 * width).flatten(1).unflatten(0, (width, 2)).unbind(1)
        total = total + torch.stack([real.mT @ real, imaginary.mT @ imaginary, real.mT @ imaginary])
    rows = torch.cartesian_prod(*axes).reshape(-1, len(shape))
    exact = kernel(rows).to_dense().detach()
    assert_close(total, torch.stack([exact, exact, torch.zeros_like(exact)]), atol=1e-10, rtol=0)


def test_long_lengthscales_need_a_longer_embedding_and_endless_ones_are_refused(monkeypatch):
    monkeypatch.setattr(fields, "SMALL", 0)
    x = torch.linspace(0, 1, 20)
    spectrum = fields._embedded(short(RBF(), 0.3), [20], x[1:2])
    assert spectrum.numel() > 38 and (spectrum >= 0).all()
    with pytest.raises(ValueError, match="does not vanish at the ends"):
        sample_field([x, x], short(RBF(), 50.0))


def test_draws_are_those_of_the_generator():
    x = torch.linspace(0, 1, 40)
    for kernel in ([Matern(), Matern()], short(Matern(), 0.1)):
        seeds = (torch.Generator().manual_seed(s) for s in (1, 1, 2))
        one, two, other = (sample_field([x, x], kernel, 3, generator=seed) for seed in seeds)
        assert torch.equal(one, two) and not torch.equal(one, other) and one.shape == (3, 40, 40)


def test_a_large_radial_field_has_the_moments_of_its_kernel():
    x = torch.linspace(0, 1, 64)
    draws = sample_field([x, x], short(Matern(0.5), 0.05, 2.0), 400, generator=torch.Generator().manual_seed(0))
    lag = x[4] / 0.05
    products = (draws[:, :, 4:] * draws[:, :, :-4]).flatten(1).mean(1)
    error = 6 * products.std() / 400**0.5
    assert abs(products.mean() - 2.0 * torch.exp(-lag)) < error


def test_a_root_is_one_without_jitter():
    K = short(RBF(), 5.0)(torch.linspace(0, 1, 60)[:, None]).to_dense().detach()  # of rank six or so
    assert_close(root(K) @ root(K).mT, K, atol=1e-13, rtol=0)


REFUSED = {
    "no draw": (lambda: sample_field([A], [RBF()], 0), "size must be at least 1"),
    "an axis too many": (lambda: sample_field([A, B, A], GridKernel([RBF(), RBF()])), "axes of"),
    "uneven steps": (lambda: sample_field([torch.rand(2000)], Matern()), "axis 0 is not evenly spaced"),
    "two columns": (lambda: sample_field([torch.rand(2000, 2)], Matern()), "axis 0 has 2 columns"),
    "no structure": (lambda: sample_field([torch.arange(2000.0)], PeriodicKernel()), "PeriodicKernel has no structure"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_fields_without_structure_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
