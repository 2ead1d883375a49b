"""Finite-width corrections, against closed forms and simulation."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.testing import assert_close

from kernelfield.nets.algebra import Layer, Repeat, Residual, Scale
from kernelfield.nets.dense import Dense
from kernelfield.nets.finite_width import finite_width, least_width
from kernelfield.nets.gram import diagonal
from kernelfield.nets.points import Points
from kernelfield.nets.quadrature import Tanh
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

X = torch.tensor([[1.0, -0.4, 0.8], [0.3, 0.2, 2.0]])
SHALLOW = Dense(1.4) >> Relu() >> Dense(1.4)


def deep(activation: Layer, w: float, b: float | None, depth: int) -> Layer:
    arch: Layer = Dense(w, b)
    for _ in range(depth):
        arch = arch >> activation >> Dense(w, b)
    return arch


def outputs(activation: Layer, w: float, b: float, depth: int, width: int, count: int) -> Tensor:
    """Outputs at X[0] of many networks, layer by layer with their weights drawn as they are used."""
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(count, width, generator=generator) * math.sqrt(w**2 * X[0].square().mean() + b**2)
    for layer in range(depth):
        square = activation.phi(z).square().mean(1, keepdim=True)
        size = width if layer < depth - 1 else 1
        z = torch.randn(count, size, generator=generator) * (w**2 * square + b**2).sqrt()
    return z[:, 0]


def variances(activation: Layer, w: float, b: float, depth: int, width: int, count: int) -> Tensor:
    """Conditional variances of the output, which have less noise than its fourth power."""
    generator = torch.Generator().manual_seed(4)
    Q = torch.full((count, 1), float(w**2 * X[0].square().mean() + b**2))
    for _ in range(depth):
        z = torch.randn(count, width, generator=generator) * Q.sqrt()
        Q = w**2 * activation.phi(z).square().mean(1, keepdim=True) + b**2
    return Q[:, 0]


def test_one_hidden_layer_of_relu_has_fifteen_over_its_width() -> None:
    found = finite_width(SHALLOW, X, 40)
    assert_close(found.kurtosis, torch.full((2,), 15 / 40), rtol=1e-12, atol=0)
    assert_close(found.variance, diagonal(SHALLOW, Points(X)))
    assert_close(finite_width(deep(Relu(), 1.4, None, 3), X, 40).kurtosis, torch.full((2,), 45 / 40))
    assert_close(finite_width(deep(Relu(), 1.4, None, 3), X, (10, 20, 40)).kurtosis, torch.full((2,), 15 * 0.175))


def test_one_hidden_layer_has_the_moments_of_its_activation() -> None:
    """At the variance 1.3, against adaptive quadrature."""
    x = torch.full((1, 2), math.sqrt(1.3))

    def moment(k: int, phi) -> float:
        return integrate.quad(lambda z: phi(math.sqrt(1.3) * z) ** k * stats.norm.pdf(z), -12, 12, epsabs=1e-14)[0]

    for activation, phi in ((Erf(), math.erf), (Tanh(), math.tanh)):
        second, fourth = moment(2, phi), moment(4, phi)
        found = finite_width(Dense() >> activation >> Dense(0.7), x, 1).kurtosis.item()
        assert abs(found / (3 * (fourth - second**2) / second**2) - 1) < 1e-9


@pytest.mark.parametrize(
    ("activation", "w", "b"), [(Relu(), 1.4, 0.0), (Tanh(), 1.5, 0.2), (Erf(), 1.3, 0.3), (Relu(), 1.2, 0.4)]
)
@pytest.mark.parametrize("depth", [1, 3])
def test_simulated_networks_have_the_kurtosis_of_the_recursion(
    activation: Layer, w: float, b: float, depth: int
) -> None:
    """To first order: what is left falls with the square of the width."""
    width, count = 200, 20_000
    Q = variances(activation, w, b, depth, width, count)
    share = Q / Q.mean()
    measured, noise = 3 * share.var().item(), 6 * 3 * (share - 1).square().std().item() / count**0.5
    theory = finite_width(deep(activation, w, b, depth), X[:1], width).kurtosis.item()
    assert abs(measured - theory) < noise + 3 * theory**2


def test_rectifiers_have_an_exact_product_that_the_recursion_expands() -> None:
    """3 (1 + 5 / N)^L - 3."""
    Q = variances(Relu(), 2**0.5, 0.0, 4, 30, 200_000)
    share = Q / Q.mean()
    noise = 6 * 3 * (share - 1).square().std().item() / 200_000**0.5
    assert abs(3 * share.var().item() - 3 * ((1 + 5 / 30) ** 4 - 1)) < noise
    assert_close(finite_width(deep(Relu(), 2**0.5, None, 4), X[:1], 30).kurtosis.item(), 15 * 4 / 30)


def test_the_corrected_distribution_is_nearer_to_that_of_networks() -> None:
    count = 400_000
    y = outputs(Relu(), 1.4, 0.0, 1, 40, count)
    law = finite_width(SHALLOW, X[:1], 40)
    grid = torch.linspace(-3, 3, 61) * law.variance.sqrt()
    truth = (y[:, None] <= grid).double().mean(0)
    error = (law.cdf(grid) - truth).abs().max().item()
    gaussian = (torch.special.ndtr(grid / law.variance.sqrt()) - truth).abs().max().item()
    assert gaussian > 6e-3 and error < 1.5e-3 + 4 * 0.5 / count**0.5
    assert abs(gaussian - law.distance.item()) < 0.15 * gaussian + 4 * 0.5 / count**0.5


def test_the_density_is_the_slope_of_the_distribution_and_has_the_moments() -> None:
    law = finite_width(SHALLOW, X[:1], 30)
    y = torch.linspace(-20, 20, 20_001, requires_grad=True)
    (slope,) = torch.autograd.grad(law.cdf(y).sum(), y)
    assert_close(slope, law.density(y).detach())
    t, p = y.detach(), law.density(y.detach())
    moments = [torch.trapezoid(p * t**k, t).item() for k in (0, 2, 4)]
    assert_close(moments[0], 1.0)
    assert_close(moments[1], law.variance.item())
    assert_close(moments[2] / moments[1] ** 2 - 3, law.kurtosis.item())
    apart = (law.cdf(t) - torch.special.ndtr(t / law.variance.sqrt())).abs().max()
    assert_close(apart, law.distance[0], rtol=1e-5, atol=0)


def test_the_least_width_meets_the_tolerance_and_no_smaller_one_does() -> None:
    arch = deep(Tanh(), 1.5, 0.2, 3)
    width = least_width(arch, X, 1e-3)
    assert finite_width(arch, X, width).distance.max() <= 1e-3 < finite_width(arch, X, width - 1).distance.max()
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        least_width(arch, X, 0.0)


def test_gains_and_repetitions_are_unrolled() -> None:
    written = Dense(1.2) >> Relu() >> Dense(0.6, 0.1) >> Relu() >> Dense(0.6, 0.1)
    short = Dense(1.2) >> Repeat(Relu() >> Dense(0.6, 0.1), 2)
    assert_close(finite_width(short, X, (7, 9)).kurtosis, finite_width(written, X, (7, 9)).kurtosis)
    scaled = Dense(2.4) >> Scale(0.5) >> Relu() >> Dense(0.6, 0.1) >> Relu() >> Dense(0.6, 0.1)
    assert_close(finite_width(scaled, X, 8).kurtosis, finite_width(written, X, 8).kurtosis)
    wide = Dense((1.2,) * 3) >> Relu() >> Dense(0.6, 0.1) >> Relu() >> Dense(0.6, 0.1)
    assert_close(finite_width(wide, X, 8).kurtosis, finite_width(written, X, 8).kurtosis)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="Dense, activations and Scale"):
        finite_width(Dense() >> Residual(Relu() >> Dense()), X, 8)
    with pytest.raises(ValueError, match="behind a Dense layer"):
        finite_width(Dense() >> Relu(), X, 8)
    with pytest.raises(ValueError, match="1 hidden layers, which need as many positive widths"):
        finite_width(SHALLOW, X, (8, 8))
