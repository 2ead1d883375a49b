"""Logarithms of the modified Bessel functions K and I, with derivatives in order and argument.

Both are integrals of a positive, analytic function with one peak, t* = asinh(nu / x), and the
trapezoid rule on the part of it that rounding can see converges exponentially:

    K_nu(x) = 1/2 int exp(nu t - x cosh t) dt                                 over the real line,
    I_nu(x) = 1/pi int_0^pi exp(x cosh(c) cos(a) - nu c) da,    sinh(c) = nu a / (x sin(a)),

the second along the path of steepest descent through i t*, on which nothing oscillates. For
x <= 20, where that path feels its end at a = pi, I is its power series, whose terms are
positive too. Exponents are differences from the peak, whose height -+(nu t* - s) with
s = hypot(nu, x) is added last: so nothing overflows, and nothing cancels. With
A = (s + nu) / 2 and B = (s - nu) / 2 the first exponent is

    nu (t* + d) - x cosh(t* + d) = nu t* - s + nu d - A (e^d - 1) - B (e^-d - 1).

Derivatives are means under the same weights: dlog K/dnu = E[t], dlog K/dx = -E[cosh t].

For half an odd number K is exp(-x) sqrt(pi / 2 x) times a polynomial in 1 / 2x with positive coefficients.

Sources: DLMF 10.32.9, 10.25.2, 10.49.12 and 10.32.12 (of which the second path is a deformation);
Trefethen & Weideman (2014), "The Exponentially Convergent Trapezoidal Rule", theorem 5.1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

DROP = 38.0  # nats below the peak at which an integrand ends: exp(-38) is 0.15 of the rounding of one
CHUNK, CHUNK_DEVICE = 2**12, 2**18  # values at once: a core's cache holds their integrands; a device wants more
NEIGHBOURS = 0.2  # width, in t and in log s, of groups of integrands that share their nodes
SERIES = 20.0  # x up to which I is summed as a series
TERMS = 40  # of that series: at x = 20 the next is 1e-23 of the sum for order 0, and less for others
PATH = 28  # nodes on the half of the path for I: doubling them changes no digit
EVEN = 0.6627434193491816  # x / nu where the peak has height zero: 1 / sinh(t) for t = coth(t)
NEAR_EVEN = 0.25  # the distance from it, as a share of x, in which the height is integrated
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(8))
HALVES = [n + 0.5 for n in range(11)]  # orders with a finite sum; more terms overflow where x is tiny
SPLITTER = 2.0**27 + 1  # splits a double into two halves of 26 bits


def log_bessel_k(nu: float | Tensor, x: Tensor) -> Tensor:
    """log K_nu(x), the modified Bessel function of the second kind, for x > 0 and any real order.

    Shapes: nu and x broadcast.
    Errors: relative 1e-13, or absolute where the value is within one of zero, for |nu| up to 1000
        and x from 1e-4 to 3000, and its derivatives likewise. Infinite at x = 0, NaN below.
        Computed in double precision whatever the type of x.

    >>> round(log_bessel_k(0.5, torch.tensor(2.0)).item(), 4)  # log(sqrt(pi / 4) exp(-2))
    -2.1208
    """
    order = _order(nu, x).abs()
    if order.numel() == 1 and order.ndim <= x.ndim and not order.requires_grad and order.item() in HALVES:
        return _half_integer(int(order.item()), x)
    return _Bessel.apply(order, x, _k)


def _half_integer(n: int, x: Tensor) -> Tensor:
    """log K of order n + 1/2, whose sum is finite, as all its terms are positive: an order of magnitude quicker."""
    wide = x.double()
    first, *rest = (math.factorial(n + k) / (math.factorial(k) * math.factorial(n - k)) for k in range(n, -1, -1))
    total, part = torch.full_like(wide, first), 0.5 / wide
    for coefficient in rest:
        total = total * part + coefficient
    return (total.log() + 0.5 * (math.pi * part).log() - wide).to(x)


def log_bessel_i(nu: float | Tensor, x: Tensor) -> Tensor:
    """log I_nu(x), the modified Bessel function of the first kind, for x > 0 and orders nu >= 0.

    Shapes: nu and x broadcast.
    Errors: ValueError for a negative order; otherwise as of `log_bessel_k`.

    >>> round(log_bessel_i(0.5, torch.tensor(2.0)).item(), 4)  # log(sqrt(1 / pi) sinh(2))
    0.716
    """
    order = _order(nu, x)
    if (order < 0).any():
        raise ValueError(f"the order of log_bessel_i must not be negative, got {order.min().item():g}")
    return _Bessel.apply(order, x, _i)


def _order(nu: float | Tensor, x: Tensor) -> Tensor:
    return nu.to(x.device) if isinstance(nu, Tensor) else x.new_tensor(nu, dtype=torch.double)


class _Terms(NamedTuple):
    """A value and its derivatives in order and argument, each (k,)."""

    value: Tensor
    order: Tensor
    argument: Tensor


class _Bessel(torch.autograd.Function):
    """The derivatives cost little beside the value, and are computed with it."""

    @staticmethod
    def forward(ctx: Any, nu: Tensor, x: Tensor, formula: Callable[[Tensor, Tensor], _Terms]) -> Tensor:
        shape = torch.broadcast_shapes(nu.shape, x.shape)
        orders, arguments = (t.detach().double().expand(shape).flatten() for t in (nu, x))
        value, by_order, by_argument = (part.reshape(shape).to(x) for part in formula(orders, arguments))
        ctx.save_for_backward(by_order, by_argument)
        ctx.shapes = nu.shape, x.shape
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        slopes = (grad * slope for slope in ctx.saved_tensors)
        of_nu, of_x = (slope.sum_to_size(shape) for slope, shape in zip(slopes, ctx.shapes, strict=True))
        return of_nu, of_x, None


def _k(nu: Tensor, x: Tensor) -> _Terms:
    inside = x.clamp(1e-300, 1e300)
    s, peak = torch.hypot(nu, inside), torch.asinh(nu / inside)
    order, sizes = _neighbours(peak, s.log())
    columns = (t[order] for t in (nu, inside, s, peak, *_window(nu, inside, s)))
    groups = zip(*(column.split(sizes) for column in columns), strict=True)
    terms = _Terms(*(torch.full_like(x, torch.nan) for _ in range(3)))
    for rows, group in zip(order.split(sizes), groups, strict=True):
        for whole, piece in zip(terms, _k_nearby(*group), strict=True):
            whole[rows] = piece
    value = terms.value + _height(nu, inside, s, peak)
    value = torch.where(x > 0, value, torch.where(x == 0, torch.inf, torch.nan)).masked_fill(x == torch.inf, -torch.inf)
    return _Terms(value, terms.order, terms.argument)


def _neighbours(peak: Tensor, log_s: Tensor) -> tuple[Tensor, list[int]]:
    """An order of the values, NaN left out, and sizes of groups in it of integrands that nearly coincide."""
    keys, order = ((peak / NEIGHBOURS).round() * 1e6 + (log_s / NEIGHBOURS).round()).sort()
    finite = keys[: int(keys.isfinite().sum())]  # NaN comes last
    counts = finite.unique_consecutive(return_counts=True)[1].tolist()
    most = CHUNK if peak.device.type == "cpu" else CHUNK_DEVICE
    sizes = [min(most, count - start) for count in counts for start in range(0, count, most)]
    return order[: len(finite)], sizes


def _window(nu: Tensor, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far below and above its peak an integrand is felt, and the frequency its nodes must have.

    At -d the exponent has dropped by nu (d - 1 + e^-d) + 2 B (cosh d - 1), at d by more than
    s (cosh d - 1): solving for either term alone bounds d. The error of a step is K of order
    nu + i frequency relative to K, which drops at least like that of Gamma(s + i frequency).
    """
    share = DROP / nu
    below = torch.minimum(share + (2 * share).sqrt(), _arccosh1p(DROP * (s + nu) / x / x))
    return below, _arccosh1p(DROP / s), 2 / math.pi * DROP + (2 * DROP * s).sqrt()


def _k_nearby(
    nu: Tensor, x: Tensor, s: Tensor, peak: Tensor, below: Tensor, above: Tensor, frequency: Tensor
) -> _Terms:
    """The value, less its height, and its derivatives; exponents are a product of matrices of rank four."""
    centre = peak.mean()
    away = centre - peak
    low, high = -(below + away).max().item(), (above - away).max().item()
    count = math.ceil((high - low) * frequency.max().item() / (2 * math.pi))
    d = torch.linspace(low, high, count + 1, dtype=x.dtype, device=x.device)
    nodes = torch.stack([torch.ones_like(d), d, torch.expm1(d), torch.expm1(-d)])
    A, B = x / 2 * centre.exp(), x / 2 * (-centre).exp()
    # The exponent at the centre, from the peak of each.
    start = nu * away - (s + nu) / 2 * torch.expm1(away) - x / (s + nu) * (x / 2) * torch.expm1(-away)
    weights = (torch.stack([start, nu, -A, -B], 1) @ nodes).exp_()
    total, t, up, down = (nodes @ weights.mT).unbind()
    value = (total * ((high - low) / count / 2)).log()
    return _Terms(value, centre + t / total, -(A + B + (A * up + B * down) / total) / x)


def _arccosh1p(y: Tensor) -> Tensor:
    """arccosh(1 + y), accurate for small y."""
    return torch.log1p(y + (y * (y + 2)).sqrt())


def _height(nu: Tensor, x: Tensor, s: Tensor, peak: Tensor) -> Tensor:
    """nu t* - s, accurate relative to max(1, |its value|).

    Both terms are near 1.2 nu where it is zero, on a ray x / nu = z0. There it is the integral of
    its derivative in log x, which is -s, from that ray, and the distance from the ray is
    computed with the product nu z0 in twice the precision.
    """
    height = nu * peak - s
    near = ((x - EVEN * nu).abs() < NEAR_EVEN * x).nonzero()[:, 0]
    nu, x = nu[near], x[near]
    product = nu * EVEN
    lost = _product_error(nu, EVEN, product)
    distance = torch.log1p(((x - product) - lost) / product)
    at = EVEN * torch.exp(distance[:, None] * (NODES.to(x) + 1) / 2)
    height[near] = -nu * distance * ((1 + at.square()).sqrt() @ (WEIGHTS.to(x) / 2))
    return height


def _product_error(a: Tensor, b: float, product: Tensor) -> Tensor:
    """a b - product, exactly, for product the rounded one. Source: Dekker (1971), section 5."""
    high = SPLITTER * a - (SPLITTER * a - a)
    low = a - high
    b_high = SPLITTER * b - (SPLITTER * b - b)
    b_low = b - b_high
    return low * b_low - (((product - high * b_high) - low * b_high) - high * b_low)


def _i(nu: Tensor, x: Tensor) -> _Terms:
    terms = _Terms(*(torch.empty_like(x) for _ in range(3)))
    small = x <= SERIES
    size = CHUNK if x.device.type == "cpu" else CHUNK_DEVICE
    for part, formula in ((small, _series), (~small, _path)):
        for rows in part.nonzero()[:, 0].split(size):
            for whole, piece in zip(terms, formula(nu[rows], x[rows]), strict=True):
                whole[rows] = piece
    return terms


def _series(nu: Tensor, x: Tensor) -> _Terms:
    k = torch.arange(1, TERMS + 1, dtype=x.dtype, device=x.device)[:, None]
    terms = ((x / 2).square() / (k * (nu + k))).cumprod(0)
    total = 1 + terms.sum(0)
    value = torch.xlogy(nu, x / 2) - torch.lgamma(nu + 1) + total.log()
    # digamma(nu + k + 1) is digamma(nu + 1) and a harmonic sum.
    harmonic = (terms * (1 / (nu + k)).cumsum(0)).sum(0) / total
    by_order = (x / 2).log() - torch.digamma(nu + 1) - harmonic
    return _Terms(value, by_order, (nu + 2 * (k * terms).sum(0) / total) / x)


def _path(nu: Tensor, x: Tensor) -> _Terms:
    s, peak = torch.hypot(nu, x), torch.asinh(nu / x)
    end = 2 * torch.asin((DROP / (2 * s)).sqrt())
    step = end / PATH
    a = (torch.arange(PATH, dtype=x.dtype, device=x.device)[:, None] + 0.5) * step  # midpoints, to leave out a = 0
    sine, cosine = a.sin(), a.cos()
    excess = (a - sine) / sine  # sinh(c) / sinh(t*) - 1
    S = torch.hypot(x, nu * (1 + excess))  # x cosh(c)
    more = nu.square() * excess * (2 + excess) / (S + s)  # S - s, without cancellation
    beyond = torch.log1p((nu * excess + more) / (nu + s))  # c - t*
    exponent = more - 2 * (a / 2).sin().square() * S - nu * beyond
    weights = exponent.exp()
    total = weights.sum(0)
    value = (total * step / math.pi).log() - _height(nu, x, s, peak)
    # The exponent is not stationary in c along the path: its slope in c is -nu (1 - a cot(a)).
    turn = nu * (1 + excess) / S * (sine - a * cosine) / sine
    by_order = -peak - (weights * (beyond + turn)).sum(0) / total
    return _Terms(value, by_order, (weights * (S * cosine + nu * turn)).sum(0) / total / x)
