"""Spectral mixtures against GPyTorch, their Fourier transforms, autograd and an explicit double sum."""

import math
import pickle

import gpytorch
import pytest
import torch
from matplotlib.figure import Figure
from torch.testing import assert_close

from kernelfield.kernels import waves
from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
from kernelfield.kernels.spectrum import plot_spectrum
from tests.laws import obeys_kernel_laws

SHAPES = {
    "gaussian": {},
    "matern12": {"density": "student_t", "nu": 0.5},
    "matern52": {"density": "student_t", "nu": 2.5},
}
BOTH = pytest.mark.parametrize("made", [SpectralMixture, SpectralProduct])
BUMPS = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def scattered(kernel):
    """The kernel with random frequencies of both signs, lengthscales and weights."""
    with torch.no_grad():
        kernel.frequencies = torch.randn(kernel.raw_frequencies.shape)
        kernel.lengthscales = 0.5 + torch.rand(kernel.raw_lengthscales.shape)
        kernel.weights = 0.2 + torch.rand(kernel.raw_weights.shape)
        if isinstance(kernel, SpectralProduct):
            kernel.outputscale = 1.7
    return kernel


@BOTH
@BUMPS
def test_laws(made, shape):
    obeys_kernel_laws(scattered(made(3, dims=2, **shape)), torch.randn(6, 2), torch.randn(4, 2))


@BUMPS
@pytest.mark.parametrize("d", [1, 2])
def test_a_mixture_is_its_formula_entry_by_entry(shape, d):
    kernel = scattered(SpectralMixture(3, dims=d, **shape))
    x, y = torch.randn(5, d), torch.randn(4, d)
    K = kernel(x, y).to_dense()
    for i in range(5):
        for j in range(4):
            tau, total = x[i] - y[j], 0.0
            for w, mu, length in zip(kernel.weights, kernel.frequencies, kernel.lengthscales, strict=True):
                g = [kernel.bump.derivative(tau[c], length[c], 0) for c in range(d)]
                total += w * torch.cos(2 * math.pi * mu @ tau) * math.prod(g)
            assert_close(K[i, j], total)


def test_the_transform_of_the_symmetrised_spectrum_is_the_kernel_in_two_inputs():
    """Monte Carlo over S(f), the only object of the definition: six standard errors."""
    kernel = scattered(SpectralMixture(3, dims=2))
    weights, samples = kernel.weights.detach(), 400_000
    which = torch.multinomial(weights, samples, replacement=True)
    spread = 1 / (2 * math.pi * kernel.lengthscales.detach())
    f = kernel.frequencies.detach()[which] + spread[which] * torch.randn(samples, 2)
    f = f * torch.where(torch.rand(samples, 1) < 0.5, -1.0, 1.0)
    tau = torch.tensor([[0.3, -0.2], [0.1, 0.4]])
    estimate = weights.sum() * torch.cos(2 * math.pi * f @ tau.mT).mean(0)
    K = kernel(tau, torch.zeros(1, 2)).to_dense()[:, 0]
    assert ((estimate - K).abs() < 6 * weights.sum() / samples**0.5).all()


def test_a_product_is_what_gpytorch_calls_a_spectral_mixture_and_a_mixture_is_not():
    d, Q = 2, 3
    x = torch.randn(6, d)
    theirs = gpytorch.kernels.SpectralMixtureKernel(num_mixtures=Q, ard_num_dims=d)
    means, scales, weights = torch.rand(Q, 1, d), 0.1 + torch.rand(Q, 1, d), 0.2 + torch.rand(Q)
    theirs.mixture_means, theirs.mixture_scales, theirs.mixture_weights = means, scales, weights
    product, mixture = SpectralProduct(Q, dims=d), SpectralMixture(Q, dims=d)
    for ours in (product, mixture):
        ours.frequencies, ours.lengthscales = means[:, 0], 1 / (2 * math.pi * scales[:, 0])
    product.weights, product.outputscale = weights[:, None].expand(Q, d), float(weights.sum() ** d)
    mixture.weights = weights
    assert_close(product(x).to_dense(), theirs(x).to_dense())
    assert (mixture(x).to_dense() - theirs(x).to_dense()).abs().max() > 0.1


@BUMPS
def test_the_two_agree_in_one_input(shape):
    mixture, product = SpectralMixture(3, **shape), SpectralProduct(3, **shape)
    scattered(mixture)
    product.frequencies, product.lengthscales = mixture.frequencies.detach(), mixture.lengthscales.detach()
    product.weights, product.outputscale = mixture.weights.detach()[:, None], mixture.weights.detach().sum()
    x = torch.randn(6, 1)
    assert_close(product(x).to_dense(), mixture(x).to_dense())


def test_a_product_on_a_grid_is_a_kronecker_product_of_its_factors():
    kernel = scattered(SpectralProduct(2, dims=2))
    a, b = torch.randn(4, 1), torch.randn(3, 1)
    grid = torch.cartesian_prod(a[:, 0], b[:, 0])
    expect = kernel.outputscale * torch.kron(kernel.factor(a, a, 0), kernel.factor(b, b, 1))
    assert_close(kernel(grid).to_dense(), expect)


@BOTH
@BUMPS
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_gradients_in_parameters_and_points(made, shape, batch, monkeypatch):
    monkeypatch.setattr(waves, "TILE", 4)  # several tiles
    kernel = scattered(made(2, dims=2, batch_shape=torch.Size(batch), **shape))
    x, y = torch.randn(*batch, 3, 2).requires_grad_(), torch.randn(*batch, 2, 2).requires_grad_()
    values = [v.detach().requires_grad_() for v in kernel._values()]

    def tiled(*args):
        return waves.Tiled.apply(kernel._formula, kernel._slopes(), *args)

    assert torch.autograd.gradcheck(tiled, (x, y, *values), fast_mode=True)
    assert_close(tiled(x, y, *values), kernel._formula(x, y, *values))


def test_slopes_in_single_precision_lose_no_digits_where_lengthscales_are_short():
    kernel, x, G = scattered(SpectralMixture(3)), torch.rand(400, 1), torch.randn(400, 400)
    kernel.lengthscales = 0.01
    slopes = []
    for dtype in (torch.float64, torch.float32):
        kernel.to(dtype)
        (kernel(x.to(dtype)).to_dense() * (G + G.mT).to(dtype)).sum().backward()
        slopes.append(kernel.raw_lengthscales.grad.double().clone())
        kernel.zero_grad()
    assert_close(slopes[1], slopes[0], rtol=0, atol=1e-4 * slopes[0].abs().max().item())


@pytest.mark.parametrize("length", [1e-3, 0.3, 30.0])
def test_slopes_in_closed_form_are_those_of_autograd(length):
    kernel, x, G = scattered(SpectralMixture(3, dims=2)), torch.rand(40, 2), torch.randn(40, 40)
    kernel.lengthscales = length
    slopes = []
    for closed in (kernel._slopes(), None):
        points, values = x.clone().requires_grad_(), [v.detach().requires_grad_() for v in kernel._values()]
        K = waves.Tiled.apply(kernel._formula, closed, points, x, *values)
        slopes.append(torch.autograd.grad(K, [points, *values], G))
    for ours, theirs in zip(*slopes, strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())


def test_the_lower_triangle_of_a_symmetric_matrix_serves_the_whole(monkeypatch):
    monkeypatch.setattr(waves, "LEAST_ROWS", 2)
    kernel, x, G = scattered(SpectralMixture(2, dims=2)), torch.randn(9, 2), torch.randn(9, 9)
    values = kernel._values()
    K, whole = kernel(x).to_dense(), kernel._formula(x, x, *values)
    assert_close(K, whole)
    slopes = [torch.autograd.grad(A, list(kernel.parameters()), G, retain_graph=True) for A in (K, whole)]
    assert_close(*slopes)


@BOTH
def test_a_batch_of_kernels_is_each_of_them(made):
    kernel = scattered(made(2, dims=2, batch_shape=torch.Size([3])))
    x = torch.randn(5, 2)
    single = made(2, dims=2)
    for i in range(3):
        for name, value in kernel.named_parameters():
            single.get_parameter(name).data = value[i].detach()
        assert_close(kernel(x).to_dense()[i], single(x).to_dense())
        assert_close(kernel(x, x.flip(0), diag=True)[i], single(x, x.flip(0)).to_dense().diagonal())


@BOTH
@pytest.mark.parametrize("shape", [SHAPES["gaussian"], SHAPES["matern52"]], ids=["gaussian", "matern52"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0), (0, 0)),
        ((1, 0), (0, 0)),
        ((0, 1), (0, 1)),
        ((2, 1), (1, 0)),
        ((2, 0), (2, 0)),
        ((0, 3), (1, 1)),
    ],
)
def test_derivatives_are_those_of_autograd(made, shape, first, second):
    kernel = scattered(made(2, dims=2, **shape))
    x, y = torch.randn(3, 2), torch.randn(2, 2)
    got = kernel.derivative(x, y, first, second)
    for i in range(3):
        for j in range(2):
            a, b = x[i].clone().requires_grad_(), y[j].clone().requires_grad_()
            value = kernel._formula(a[None], b[None], *kernel._values())[0, 0]
            for point, orders in ((a, first), (b, second)):
                for d, order in enumerate(orders):
                    for _ in range(order):
                        value = torch.autograd.grad(value, point, create_graph=True)[0][d]
            assert_close(got[i, j], value, rtol=1e-9, atol=1e-8)


def test_derivatives_are_the_formulas_of_the_paper():
    """k'' and k'''' of a Matern-5/2 envelope times a cosine, as written out in Fang et al. (2024)."""
    length, mu = 0.8, 1.3
    kernel = SpectralMixture(1, density="student_t")
    kernel.lengthscales, kernel.frequencies, kernel.weights = length, mu, 1.0
    z = torch.linspace(-2, 2, 9)
    r, b, m = z.abs(), 5**0.5 / length, 2 * math.pi * mu
    E, C, S = torch.exp(-b * r), torch.cos(m * z), torch.sin(m * z)
    G = (1 + b * r + b**2 * r**2 / 3) * E
    G1, G2 = -(b**2 / 3) * z * (1 + b * r) * E, -(b**2 / 3) * (1 + b * r - b**2 * r**2) * E
    G3, G4 = b**4 / 3 * z * (3 - b * r) * E, b**4 / 3 * (3 - 5 * b * r + b**2 * r**2) * E
    second = G2 * C - 2 * m * G1 * S - m**2 * G * C
    fourth = G4 * C - 4 * m * G3 * S - 6 * m**2 * G2 * C + 4 * m**3 * G1 * S + m**4 * G * C
    zero = torch.zeros(1, 1)
    assert_close(kernel.derivative(z[:, None], zero, [2], [0])[:, 0], second)
    assert_close(kernel.derivative(z[:, None], zero, [2], [2])[:, 0], fourth)


@BOTH
def test_the_marginal_spectrum_integrates_to_the_weights(made):
    kernel = scattered(made(2, dims=2))
    f = torch.linspace(0, 12, 20001)
    mass = torch.trapezoid(kernel.marginal(f, dim=1), f, dim=0)
    weights = kernel.weights if made is SpectralMixture else (kernel.outputscale * kernel.shares()[:, 1])
    assert_close(mass, weights.detach(), rtol=1e-6, atol=1e-6)


def test_peaks_are_the_components_that_survived_in_the_user_s_units():
    kernel = SpectralMixture(3)
    kernel.weights = torch.tensor([1e-6, 1.0, 3.0])
    kernel.frequencies = torch.tensor([[9.0], [-2.0], [5.0]])
    kernel.lengthscales = 2.0
    big, small = kernel.peaks(scale=10.0)
    assert (big.share, small.share) == pytest.approx((0.75, 0.25), rel=1e-5)
    assert (big.frequency[0], small.frequency[0]) == pytest.approx((0.5, 0.2))
    assert big.width[0] == pytest.approx(1 / (40 * math.pi))
    with pytest.raises(ValueError, match="a batch of shape"):
        SpectralMixture(2, batch_shape=torch.Size([2])).peaks()


def test_the_picture_meets_a_bump_that_is_narrower_than_its_grid():
    kernel = SpectralMixture(2)
    kernel.frequencies, kernel.lengthscales = torch.tensor([[3.0], [7.0]]), 1e6
    axes = Figure().subplots()
    plot_spectrum(kernel, axes)
    x, y = axes.lines[0].get_data()
    f = torch.as_tensor(x)
    assert torch.trapezoid(torch.as_tensor(y), f).item() == pytest.approx(1.0, rel=1e-3)
    assert axes.texts[0].get_text() == "3\n50.0%"


def test_far_from_zero_phases_keep_their_digits():
    kernel = SpectralMixture(1)
    kernel.frequencies, kernel.lengthscales = 1.0, 100.0
    x = torch.tensor([[0.0], [0.25], [3.0]])
    assert_close(kernel(x + 2.0**20).to_dense(), kernel(x).to_dense(), rtol=0, atol=1e-14)


def test_it_survives_pickling():
    kernel = scattered(SpectralProduct(2, dims=2, density="student_t"))
    x = torch.randn(4, 2)
    assert torch.equal(pickle.loads(pickle.dumps(kernel))(x).to_dense(), kernel(x).to_dense())


BAD = {
    "components": (lambda: SpectralMixture(0), "components must be at least 1, got 0"),
    "dims": (lambda: SpectralMixture(1, dims=0), "dims must be at least 1, got 0"),
    "density": (lambda: SpectralMixture(1, density="box"), "density must be .* got 'box'"),
    "nu": (lambda: SpectralMixture(1, density="student_t", nu=2.0), "nu must be 0.5"),
    "inputs": (lambda: SpectralMixture(1)(torch.zeros(2, 3)).to_dense(), "for 1 inputs and got 3; make it with dims=3"),
    "weight": (lambda: setattr(SpectralMixture(1), "weights", -1.0), "weights must be positive and finite, got -1"),
    "frequency": (lambda: setattr(SpectralMixture(1), "frequencies", math.nan), "frequencies must be finite, got nan"),
    "orders": (
        lambda: SpectralMixture(1, dims=2).derivative(torch.zeros(1, 2), torch.zeros(1, 2), [1], [0]),
        "an order for each of 2 inputs",
    ),
    "order": (
        lambda: SpectralMixture(1).derivative(torch.zeros(1, 1), torch.zeros(1, 1), [5], [4]),
        "orders 0 to 8 in each input, got 9",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_mistakes_are_refused_with_their_value(case):
    act, sentence = case
    with pytest.raises(ValueError, match=sentence):
        act()
