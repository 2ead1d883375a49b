"""Product kernels: one function on and off the grid, with its Kronecker structure, and what is refused."""

import math

import gpytorch
import pytest
import torch
from gpytorch import priors
from gpytorch.kernels import PeriodicKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from tests.laws import obeys_kernel_laws

A, B = torch.randn(7, 1), torch.linspace(-1, 2, 5)[:, None]
GRID = torch.cat([A.repeat_interleave(5, 0), B.repeat(7, 1)], -1)


def long(kernel, lengthscale):
    kernel.lengthscale = lengthscale
    return kernel


KERNELS = {
    "matern by rational quadratic": lambda: GridKernel([Matern(1.5), RationalQuadratic()]),
    "sums inside": lambda: GridKernel([RBF() + ScaleKernel(Matern()), PeriodicKernel()]),
    "scales inside": lambda: GridKernel([ScaleKernel(Matern(0.5)), RBF()]),
    "spectral": lambda: GridKernel.of(SpectralProduct(3, density="student_t", dims=2)),
    "columns swapped": lambda: GridKernel([Matern(), RBF()], columns=[(1,), (0,)]),
    "one axis of two columns": lambda: GridKernel([Matern(ard_num_dims=2)], columns=[(0, 1)]),
}


@pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)
def test_laws_on_and_off_the_grid(make):
    kernel = make()
    for p in kernel.parameters():
        p.requires_grad_(True)
    obeys_kernel_laws(kernel, torch.cat([GRID, torch.randn(30, 2)]), torch.randn(4, 2))


@pytest.mark.parametrize("make", [KERNELS[k] for k in ("matern by rational quadratic", "sums inside", "spectral")])
def test_the_matrix_on_a_grid_is_a_kronecker_product(make):
    kernel = make()
    kernel.outputscale = 1.7
    first, second = (k(x).to_dense() for k, x in zip(kernel.axes, (A, B), strict=True))
    assert_close(kernel(GRID).to_dense(), 1.7 * torch.kron(first, second))


def test_the_value_is_a_product_written_by_hand():
    kernel = GridKernel([long(RBF(), 2.0), long(Matern(0.5), 3.0)])
    kernel.outputscale = 0.4
    x = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    assert kernel(x).to_dense()[0, 1].item() == pytest.approx(0.4 * math.exp(-1 / 8) * math.exp(-2 / 3), rel=1e-13)


def test_a_product_of_rbf_is_the_radial_one_and_of_matern_is_not():
    radial, product = RBF(ard_num_dims=2), GridKernel([RBF(), RBF()])
    radial.lengthscale = torch.tensor([0.7, 1.3])
    product.axes[0].lengthscale, product.axes[1].lengthscale = 0.7, 1.3
    assert_close(product(GRID).to_dense(), radial(GRID).to_dense())
    apart = GridKernel([Matern(), Matern()])(GRID).to_dense() - Matern()(GRID).to_dense()
    assert apart.abs().max() > 0.03


def test_mixing_a_radial_and_a_product_kernel_would_not_be_positive_definite():
    """What the refusal is for: GPyTorch's GridKernel takes products on the grid and distances off it."""
    x = torch.linspace(0, 1, 6)
    theirs = gpytorch.kernels.GridKernel(long(gpytorch.kernels.MaternKernel(2.5), 0.5), [x, x])
    grid = theirs.full_grid
    off = grid + 0.03
    ours = GridKernel([long(Matern(), 0.5), long(Matern(), 0.5)])
    with torch.no_grad():
        joint = torch.cat([grid, off])
        theirs_joint = torch.cat(
            [
                torch.cat([theirs(grid).to_dense(), theirs(grid, off).to_dense()], 1),
                torch.cat([theirs(off, grid).to_dense(), theirs(off).to_dense()], 1),
            ]
        )
        assert torch.linalg.eigvalsh(theirs_joint).min() < -1e-2
        assert torch.linalg.eigvalsh(ours(joint).to_dense()).min() > -1e-12


def test_scales_of_the_axes_become_one():
    first, second = Matern(), ScaleKernel(RBF())
    first.outputscale, second.outputscale = 2.0, 3.0
    kernel = GridKernel([first, second])
    assert kernel.outputscale.item() == pytest.approx(6.0)
    assert_close(kernel(GRID, diag=True), torch.full((35,), 6.0))
    learned = [name for name, p in kernel.named_parameters() if p.requires_grad]
    assert learned == ["raw_outputscale", "axes.0.raw_lengthscale", "axes.1.raw_lengthscale"]
    assert first.outputscale.item() == pytest.approx(2.0)  # the user's kernel is a copy


def test_a_spectral_product_keeps_its_values():
    product = SpectralProduct(3, dims=2)
    product.frequencies, product.outputscale = torch.rand(3, 2), 1.4
    product.weights = torch.rand(3, 2)
    kernel = GridKernel.of(product)
    assert_close(kernel(GRID).to_dense(), product(GRID).to_dense())
    assert_close(kernel.axes[1](B).to_dense(), product.factor(B, B, 1))


REFUSED = {
    "a kernel and no list": (lambda: GridKernel(Matern(ard_num_dims=2)), "list of one kernel an axis"),
    "radial over two axes": (lambda: GridKernel([Matern(ard_num_dims=2), RBF()]), "made for 2 columns.*one distance"),
    "radial inside a sum": (lambda: GridKernel([RBF() + RBF(ard_num_dims=3), RBF()]), "made for 3 columns"),
    "spectral over two axes": (lambda: GridKernel([SpectralMixture(2, dims=2), RBF()]), "made for 2 columns"),
    "another column": (lambda: GridKernel([RBF(active_dims=[1]), RBF()]), "names column 1"),
    "a column twice": (lambda: GridKernel([RBF(), RBF()], columns=[(0, 1), (1,)]), "disjoint"),
    "more axes than kernels": (lambda: GridKernel([RBF()], columns=[(0,), (1,)]), "1 kernels for 2 axes"),
    "no axis": (lambda: GridKernel([]), "at least one axis"),
    "a prior on a scale": (
        lambda: GridKernel([RBF(outputscale_prior=priors.GammaPrior(1.0, 1.0))]),
        "outputscale_prior",
    ),
    "too few columns": (lambda: GridKernel([RBF(), RBF()])(A).to_dense(), "inputs have 1 columns"),
    "a scale of zero": (lambda: setattr(GridKernel([RBF()]), "outputscale", 0.0), "positive and finite, got 0"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_product_is_refused_with_the_reason(make, words):
    with pytest.raises(ValueError, match=words):
        make()
