"""Functions of the cosine t = x.y of two points of the unit sphere in d dimensions, by their levels.

    f(t) = sum_n f_n Z_n(t),    Z_n = N_n P_n,    P_n(1) = 1,

Z_n reproduces the harmonics of degree n, of which there are N_n, orthonormal under the uniform law:
(n + a) / a times the Gegenbauer polynomial C_n^a with a = d / 2 - 1, and 2 T_n on the circle. Then

    f_n = E[f(t) P_n(t)],    t the first coordinate of a uniform point    (Funk and Hecke).

A kernel has f_n >= 0, and the norm in its space of sum_n g_n Z_n(z.) is sum_n g_n^2 / f_n Z_n(1).

    N_n = (2 n + d - 2) / n binomial(n + d - 3, n - 1),
    (n + d - 2) P_n+1 = (2 n + d - 2) t P_n - n P_n-1,
    Matern: f_n ~ (2 nu / l^2 + n (n + d - 2))^-(nu + (d - 1) / 2), to f(1) = 1.

Sources: Dutordoir, Hensman, van der Wilk, Ek, Ghahramani & Durrande (2021), "Deep Neural Networks as
Point Estimates for Deep Gaussian Processes"; Borovitskiy, Terenin, Mostowsky & Deisenroth (2020),
"Matern Gaussian Processes on Riemannian Manifolds" (the Matern spectrum).
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor
from torch.autograd.function import once_differentiable

NODES = 200  # of each half of the circle: exact to rounding for what is smooth on both sides of t = 0
TILE = 2**15  # cosines at a time: what a series keeps of them fits into a core's second-level cache


@lru_cache
def multiplicities(d: int, levels: int) -> Tensor:
    """N_n (levels + 1,), for n = 0 to `levels`, in double precision.

    >>> multiplicities(3, 3).tolist()  # 2 n + 1 spherical harmonics
    [1.0, 3.0, 5.0, 7.0]
    """
    rest = [(2 * n + d - 2) * math.comb(n + d - 3, n - 1) / n for n in range(1, levels + 1)]
    return torch.tensor([1.0, *rest], dtype=torch.float64)


def legendre(t: np.ndarray, d: int, levels: int) -> np.ndarray:
    """P_n (levels + 1, *shape) at cosines t."""
    P = [np.ones_like(t), np.array(t)]
    for n in range(1, levels):
        P.append(((2 * n + d - 2) * t * P[n] - n * P[n - 1]) / (n + d - 2))
    return np.stack(P[: levels + 1])


def levels_of(function: Callable[[Tensor], Tensor], d: int, levels: int) -> Tensor:
    """f_n (levels + 1,) of a function of the cosine that is smooth but for a kink at 0, in double precision.

    >>> levels_of(lambda t: t, 3, 2).abs().mul(3).round(decimals=9).tolist()  # t = Z_1 / 3
    [0.0, 1.0, 0.0]
    """
    x, w = np.polynomial.legendre.leggauss(NODES)
    angle = np.concatenate([(x + 1) * math.pi / 4, (x + 3) * math.pi / 4])
    log_density = math.lgamma(d / 2) - math.lgamma((d - 1) / 2) - 0.5 * math.log(math.pi)
    density = np.exp(log_density + (d - 2) * np.log(np.sin(angle))) * np.tile(w, 2) * math.pi / 4
    t = np.cos(angle)
    return torch.from_numpy(legendre(t, d, levels) @ (density * function(torch.from_numpy(t)).numpy()))


def matern_levels(d: int, levels: int, nu: float, lengthscale: Tensor) -> Tensor:
    """f_n (levels + 1,) of the Matern kernel on the sphere with f(1) = 1, differentiable in the lengthscale."""
    n = torch.arange(levels + 1).to(lengthscale)
    log_f = -(nu + (d - 1) / 2) * (2 * nu / lengthscale.square() + n * (n + d - 2)).log()
    masses = (log_f + multiplicities(d, levels).to(lengthscale).log()).softmax(0)
    return masses / multiplicities(d, levels).to(lengthscale)


@lru_cache
def _to_chebyshev(d: int, levels: int) -> Tensor:
    """The matrix (levels + 1, levels + 1) from values of f_n N_n to coefficients of Chebyshev polynomials."""
    t = chebyshev.chebpts1(levels + 1)
    return torch.from_numpy(np.linalg.solve(chebyshev.chebvander(t, levels), legendre(t, d, levels).T))


def zonal(t: Tensor, levels: Tensor, d: int) -> Tensor:
    """sum_n levels[n] Z_n(t), differentiable once in t and in the levels.

    Shapes: t of any shape, levels (k + 1,).
    """
    k = len(levels) - 1
    return _Series.apply(t, _to_chebyshev(d, k).to(levels) @ (levels * multiplicities(d, k).to(levels)))


class _Series(torch.autograd.Function):
    """A sum of Chebyshev polynomials by Clenshaw's recurrence, tile by tile."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(t, c)
        return _mapped(t, lambda x: _clenshaw(x, c.tolist()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        t, c = ctx.saved_tensors
        by_t = by_c = None
        if ctx.needs_input_grad[0]:
            slope = chebyshev.chebder(c.cpu().double().numpy()).tolist()
            by_t = _mapped(t, lambda x: _clenshaw(x, slope)).mul_(grad)
        if ctx.needs_input_grad[1]:
            by_c = torch.zeros_like(c)
            for x, g in zip(t.reshape(-1).split(TILE), grad.reshape(-1).split(TILE), strict=True):
                before, now = torch.ones_like(x), x
                for n in range(len(c)):
                    by_c[n] += g @ before
                    before, now = now, 2 * x * now - before
        return by_t, by_c


def _mapped(t: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    flat = t.reshape(-1)
    out = torch.empty_like(flat)
    for x, y in zip(flat.split(TILE), out.split(TILE), strict=True):
        y.copy_(function(x))
    return out.reshape(t.shape)


def _clenshaw(x: Tensor, c: list[float]) -> Tensor:
    one, two = torch.zeros_like(x), torch.zeros_like(x)
    double = 2 * x
    for coefficient in reversed(c[1:]):
        one, two = torch.addcmul(coefficient - two, double, one), one
    return torch.addcmul(c[0] - two, x, one)
