"""What all activations share: laws over a table, near-coincident inputs, gradients, finite networks."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from kernelfield.nets.activation import Activation, Pair, Smooth
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points
from kernelfield.nets.polynomials import Hermite, Monomial, Polynomial, RectifiedMonomial, ReQU
from kernelfield.nets.quadrature import Elementwise, Elu, Mish, Selu, Sigmoid, Silu, Snake, Softplus, Tanh
from kernelfield.nets.rectifiers import Abs, LeakyRelu, Relu, Sign, Step
from kernelfield.nets.smooth import Cos, Erf, Exp, ExpNormalized, Gabor, Gaussian, Gelu, Rbf, SigmoidLike, Sin
from tests.laws import agrees_with_wide_networks

CLOSED: list[Smooth] = [
    Erf(),
    Erf(1.3, 0.8, 0.4),
    SigmoidLike(),
    Gelu(),
    Sin(),
    Sin(1.2, 0.7, 0.4),
    Cos(),
    Cos(1.2, 0.7, 0.4),
    Gaussian(),
    Gaussian(1.3, -0.5),
    Gaussian(1.1, 0.02),
    Gabor(),
    Monomial(0),
    Monomial(1),
    Monomial(3),
    Monomial(6),
    Polynomial((0.3, -1.1, 0.4, 0.25)),
    Hermite(4),
    Hermite(5),
    RectifiedMonomial(1),
    RectifiedMonomial(2),
    RectifiedMonomial(4),
]
SERIES: list[Smooth] = [
    Tanh(),
    Sigmoid(),
    Softplus(),
    Silu(),
    Silu(1.7),
    Mish(),
    Snake(),
    Snake(0.6),
    Elu(),
    Elu(0.5),
    Selu(),
    Elementwise(torch.atan),
]
THRESHOLDS: list[Activation] = [Sign(), Step(), RectifiedMonomial(0)]
DECAYS: list[Activation] = [Rbf(0.5), Exp(1.2, 0.4), ExpNormalized(1.2, -1.0)]
QUICK = [*CLOSED, *THRESHOLDS, *DECAYS, Tanh(), Elu(0.5)]
ALL = [*QUICK, *(pytest.param(phi, marks=pytest.mark.slow) for phi in SERIES if phi not in QUICK)]
DEVIATIONS = torch.tensor([0.01, 0.7, 1.0, 2.5])
HAVERSINES = (0.0, 1e-9, 1e-3, 0.1, 0.5, 0.8, 1 - 1e-6, 1.0)


def moments(activation, a, b, e):
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] by polar coordinates, split where u or v changes sign."""
    theta = 2 * math.asin(math.sqrt(e))
    cuts = sorted({-math.pi / 2, math.pi / 2, theta - math.pi / 2, theta + math.pi / 2, 3 * math.pi / 2})
    nodes, weights = np.polynomial.legendre.leggauss(64)
    radius, lengths = np.polynomial.legendre.leggauss(160)
    radius, lengths = 7 * (radius + 1), 7 * lengths
    radial = lengths * radius * np.exp(-0.5 * radius**2) / (2 * math.pi)
    totals = [0.0, 0.0]
    for low, high in pairwise(cuts):
        angles = (low + high) / 2 + (high - low) / 2 * nodes
        weight = torch.tensor(np.outer(weights * (high - low) / 2, radial))
        u = torch.tensor(a * np.outer(np.cos(angles), radius)).requires_grad_()
        v = torch.tensor(b * np.outer(np.cos(angles - theta), radius)).requires_grad_()
        f, g = activation.phi(u), activation.phi(v)
        totals[0] += float((weight * f * g).sum().detach())
        if f.requires_grad:
            slopes = torch.autograd.grad(f.sum(), u)[0] * torch.autograd.grad(g.sum(), v)[0]
            totals[1] += float((weight * slopes).sum())
    return totals


def shown(activation: Activation) -> str:
    """An activation as text, without the addresses of functions, which differ between processes."""
    return str(activation).split(" at 0x")[0]


@pytest.mark.parametrize("activation", [*CLOSED, *SERIES], ids=shown)
def test_duals_are_the_expectations(activation):
    a, b = DEVIATIONS[:, None], DEVIATIONS.flip(0)[None] * 0.9
    size = (activation.variance(a) * activation.variance(b)).sqrt()
    still = [activation.slope(Pair(torch.zeros_like(s), s, s)) for s in (a, b)]
    tolerance = 1e-11 if activation in CLOSED else 1e-9
    for e in HAVERSINES:
        pair = Pair(torch.full((4, 4), e), a, b)
        value, slope = activation.value(pair), activation.slope(pair)
        for i in (0, 3):
            for j in (0, 1, 3):
                tau, dot = moments(activation, float(a[i, 0]), float(b[0, j]), e)
                assert abs(tau - float(value[i, j])) <= tolerance * float(size[i, j])
                scale = float((still[0][i, 0] * still[1][0, j]).sqrt())
                assert abs(dot - float(slope[i, j])) <= tolerance * scale


@pytest.mark.parametrize("activation", THRESHOLDS, ids=shown)
def test_thresholds_have_the_moments_of_signs(activation):
    x = torch.randn(5, 3)
    K = gram(Dense() >> activation >> Dense(), Points(x))
    angles = torch.arccos(torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1).clamp(-1, 1))
    wanted = 1 - 2 * angles / math.pi if activation == Sign() else 0.5 - angles / (2 * math.pi)
    assert_close(K, wanted, rtol=0, atol=1e-7)  # the arccosine loses half the digits on the diagonal
    assert gram(Dense() >> activation >> Dense(), Points(x), kind="ntk").equal(K)


@pytest.mark.parametrize("activation", ALL, ids=shown)
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_gradients_are_right(activation, kind):
    arch = Dense(0.9, 0.2) >> activation >> Dense(1.1)
    x, scales = torch.randn(3, 2), torch.tensor(arch.scales())
    z = Points(torch.randn(2, 2))

    def kernel(x, scales):
        return gram(arch, Points(x), z, kind=kind, scales=scales)

    assert gradcheck(kernel, (x.requires_grad_(), scales.requires_grad_()), fast_mode=activation in SERIES)


@pytest.mark.parametrize("activation", ALL, ids=shown)
@pytest.mark.parametrize("bias", [None, 0.1])
def test_matrices_and_gradients_are_finite_and_exact_where_inputs_meet(activation, bias):
    x = torch.randn(3, 2)
    x = torch.cat([x, x[:1], -x[:1], 2 * x[:1], -0.5 * x[1:2], 0 * x[:1], x[2:] + 1e-9, x[2:] + 1e-5])
    arch = Dense(0.7, bias) >> activation >> Dense(0.9, bias) >> Relu() >> Dense()
    for kind in ("nngp", "ntk"):
        leaf, scales = x.clone().requires_grad_(), torch.tensor(arch.scales()).requires_grad_()
        K = gram(arch, Points(leaf), kind=kind, scales=scales)
        for gradient in torch.autograd.grad(K.square().sum(), [leaf, scales]):
            assert gradient.isfinite().all()
        K = K.detach()
        assert K.equal(K.mT) and K.isfinite().all()
        assert torch.linalg.eigvalsh(K).min() >= -1e-12 * K.trace()
        assert_close(diagonal(arch, Points(x), kind=kind), K.diagonal(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "activation", [Erf(), Erf(1.3, 0.8, 0.4), Sin(1.2, 0.7, 0.4), Polynomial((0.3, -1.1, 0.4))], ids=str
)
@pytest.mark.parametrize("apart", [1e-3, 1e-5, 1e-7])
def test_near_coincident_inputs_keep_their_digits_through_a_rectifier(activation, apart):
    x = torch.tensor([[0.3, -1.1, 0.8]])
    y = x + apart * torch.tensor([[0.7, 0.2, -0.4]])
    arch = Dense(1.2, 0.3) >> activation >> Dense(1.1, 0.1) >> Relu() >> Dense()
    wanted = precise_tangent(activation, x[0].tolist(), y[0].tolist())
    found = gram(arch, Points(x), Points(y), kind="ntk")
    assert abs(float(found) / wanted - 1) < 1e-12


def precise_tangent(activation, x, y):
    """The NTK of Dense(1.2, 0.3) >> activation >> Dense(1.1, 0.1) >> Relu >> Dense with 50 digits."""
    with mpmath.workdps(50):
        number = mpmath.mpf
        x, y = [list(map(number, v)) for v in (x, y)]
        inner = [sum(map(mpmath.fmul, s, t)) / len(x) for s, t in ((x, x), (x, y), (y, y))]
        w, b, v, c = (number(float(s)) for s in (1.2, 0.3, 1.1, 0.1))
        p, q, r = (w**2 * k + b**2 for k in inner)
        tau, slope = PRECISE[type(activation)](activation)
        tangent = q * slope(p, q, r)
        p, q, r = (v**2 * tau(*t) + c**2 for t in ((p, p, p), (p, q, r), (r, r, r)))
        tangent = q + v**2 * tangent
        rho = q / mpmath.sqrt(p * r)
        theta = mpmath.acos(rho)
        value = mpmath.sqrt(p * r) * (mpmath.sin(theta) + (mpmath.pi - theta) * rho) / (2 * mpmath.pi)
        return float(value + tangent * (mpmath.pi - theta) / (2 * mpmath.pi))


def precise_erf(f):
    a, b, c = map(mpmath.mpf, map(float, (f.a, f.b, f.c)))

    def outer(p, r):
        return (1 + 2 * b**2 * p) * (1 + 2 * b**2 * r)

    return (
        lambda p, q, r: a**2 * 2 / mpmath.pi * mpmath.asin(2 * b**2 * q / mpmath.sqrt(outer(p, r))) + c**2,
        lambda p, q, r: a**2 * b**2 * 4 / mpmath.pi / mpmath.sqrt(outer(p, r) - 4 * b**4 * q**2),
    )


def precise_sin(f):
    a, b, c = map(mpmath.mpf, map(float, (f.a, f.b, f.c)))

    def waves(p, q, r, sign):
        mean = b**2 * (p + r) / 2
        return a**2 / 2 * (mpmath.exp(b**2 * q - mean) + sign * mpmath.cos(2 * c) * mpmath.exp(-(b**2) * q - mean))

    return lambda p, q, r: waves(p, q, r, -1), lambda p, q, r: b**2 * waves(p, q, r, 1)


def precise_quadratic(f):
    c, d, g = map(mpmath.mpf, f.coefficients)
    return (
        lambda p, q, r: c**2 + c * g * (p + r) + d**2 * q + g**2 * (p * r + 2 * q**2),
        lambda p, q, r: d**2 + 4 * g**2 * q,
    )


PRECISE = {Erf: precise_erf, Sin: precise_sin, Polynomial: precise_quadratic}


@pytest.mark.parametrize("activation", [Tanh(), Gelu(), Softplus(), Selu(), Gaussian()], ids=str)
@pytest.mark.parametrize("rescaled", [1.0, 1.01])
def test_haversines_of_near_inputs_have_the_right_order(activation, rescaled):
    """Where inputs at distance d meet, e' / d^2 has a limit, which rounding would blur."""
    x, step = torch.tensor([[0.3, -1.1, 0.8]]), torch.tensor([[0.7, 0.2, -0.4]])
    arch = Dense(1.2, 0.3) >> activation >> Dense() >> Relu() >> Dense()
    bends = []
    for d in (1e-4, 1e-6):
        K = gram(arch, Points(torch.cat([x, x * (1 + (rescaled - 1) * d) + d * step])), kind="ntk")
        bends.append(float((K[0, 0] + K[1, 1] - 2 * K[0, 1]) / d))
    assert bends[0] > 0
    assert abs(bends[0] / bends[1] - 1) < 1e-3


@pytest.mark.parametrize(
    "activation",
    [Relu(), Sign(), Erf(), pytest.param(Tanh(), marks=pytest.mark.slow), LeakyRelu(0.1), Abs(), Sin()],
    ids=str,
)
def test_single_precision_keeps_diagonals_at_depth_fifty(activation):
    arch = Dense(1.0, 0.125)  # exact in single precision: a rounded scale compounds
    for _ in range(50):
        arch = arch >> activation >> Dense(1.0, 0.125)
    x = torch.randn(4, 3)
    exact, rounded = (gram(arch, Points(x.to(dtype))).diagonal() for dtype in (torch.float64, torch.float32))
    assert_close(rounded.double(), exact, rtol=1e-6, atol=0)
    again = diagonal(arch, Points(x.float()))
    assert_close(again, rounded, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "activation", [Erf(1.3, 0.8, 0.4), Gabor(), RectifiedMonomial(2), Selu(), Mish(), ReQU()], ids=str
)
def test_wide_networks_have_these_kernels(activation):
    agrees_with_wide_networks(Dense(1.0, 0.2) >> activation >> Dense(), Points(torch.randn(3, 4)))


@pytest.mark.parametrize("activation", [Erf(1.3, 0.8), Silu(1.7), Polynomial((0.3, 1.1, 0.4))], ids=str)
def test_scales_come_in_batches(activation):
    for first in (Dense(1.1, 0.2), Dense(1, None)):
        arch = first >> activation >> Dense(0.8) >> Relu() >> Dense()
        scales = torch.tensor(arch.scales()) * (1 + 0.1 * torch.arange(3)[:, None])
        x = Points(torch.cat([torch.randn(3, 2), 1e-6 + torch.zeros(2, 2)]).cumsum(0))
        for kind in ("nngp", "ntk"):
            K = gram(arch, x, kind=kind, scales=scales)
            assert_close(K, torch.stack([gram(arch, x, kind=kind, scales=s) for s in scales]), rtol=1e-9, atol=1e-13)


def test_an_activation_on_bare_inputs_is_refused():
    with pytest.raises(ValueError, match="Erf needs a Gaussian layer"):
        gram(Erf() >> Dense(), Points(torch.randn(2, 2)))
