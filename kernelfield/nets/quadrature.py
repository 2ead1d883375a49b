"""Duals of activations that have no closed form, by orthogonal series on half lines.

On either side of zero phi is expanded in the polynomials B_k that are orthonormal on z > 0 under
the half-normal law, so that a kink at zero costs nothing. With f_k(a) the coefficients of the even
part of phi(a z), and g_k(a) those of its odd part as functions of |z|,

    tau = f(a)' (M(theta) + M(pi - theta)) f(b) + g(a)' (M(theta) - M(pi - theta)) g(b),
    M_kl(theta) = 2 E[B_k(z) B_l(w); z > 0, w > 0],  cos theta = E[z w],

and M(0) is the identity. For smooth phi this is Mehler's sum_n c_n(a) c_n(b) rho^n, regrouped:
Mehler's series needs many terms near |rho| = 1 and never converges fast behind a kink, while
M is an entire function of theta, of which a Chebyshev series on [0, pi] gives all digits at any
correlation. The terms of that series are matrices, known once; each adds a matrix product of the
coefficients, which belong to points, times a number that belongs to the pair. The dual of phi' is
the same with the coefficients of phi'.

Sources: Mehler (1866) for the series in rho; Cho & Saul (2009) for the wedge integrals M of
monomials; Gautschi (2004), "Orthogonal Polynomials", section 2.2 for the half-range rule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kernelfield.nets.activation import Pair, Smooth, along, angle, apart

Number = float | Tensor
Function = Callable[[Tensor], Tensor]
Coefficients = tuple[Tensor, Tensor]  # of the even and the odd part, each (k, *std.shape)

ORDERS = (16, 24, 32, 48, 64, 96)
DIGITS = 10
NODES = 192  # points of the quadrature that gives coefficients, on each half line
END = 20.0  # beyond it the product of the normal density and of any polynomial in use is below rounding


class Series(Smooth):
    """An activation known by its values alone: continuous, and smooth on either side of zero.

    The number of polynomials is the least of ORDERS that leaves out less than 10^-digits of the
    mean squares of phi and of phi', at the largest standard deviation at hand.

    Errors: ValueError where the largest order does not reach that.
    """

    digits: int = DIGITS

    def value(self, pair: Pair) -> Tensor:
        return self._dual(self.phi, pair)

    def slope(self, pair: Pair) -> Tensor:
        return self._dual(self._derivative, pair)

    def variance(self, std: Tensor) -> Tensor:
        return self._values(self.phi, std).square().sum((0, 1))

    def unlike(self, pair: Pair) -> Tensor:
        return apart(*(self._values(self.phi, std).flatten(0, 1) for std in (pair.std1, pair.std2)))

    def order(self, *stds: Tensor) -> int:
        """The number of polynomials on each half line that these standard deviations need."""
        least = max(10.0**-self.digits, 32 * torch.finfo(stds[0].dtype).eps)
        errors = self._errors(*stds)
        for order, error in errors.items():
            if error <= least:
                return order
        most = max(float(std.max()) for std in stds)
        raise ValueError(
            f"the series of {self} leaves out a share of {min(errors.values()):.1e} after {ORDERS[-1]} terms at a "
            f"standard deviation of {most:.3g}, but {self.digits} digits are asked for: its input is too large against "
            "its features, or it has a kink away from zero; make the weights before it smaller, or ask for fewer "
            "digits by Elementwise(function, digits=...)"
        )

    def error(self, std: float, order: int) -> float:
        """The share of the mean squares of phi and phi' that `order` terms leave out: a bound on the
        relative errors of the dual at this standard deviation, reached where inputs coincide.
        """
        return self._errors(torch.full((1, 1), std, dtype=torch.float64))[order]

    def _errors(self, *stds: Tensor) -> dict[int, float]:
        most = max((std.detach().max() for std in stds), key=float).double().reshape([1] * stds[0].ndim)
        worst = dict.fromkeys(ORDERS, 0.0)
        for function in (self.phi, self._derivative):
            values = self._values(function, most).detach()
            total = values.square().sum((0, 1)).clamp_min(torch.finfo(values.dtype).tiny)
            even, odd = _projected(values, ORDERS[-1])
            kept = (even.square() + odd.square()).cumsum(0)
            for order in ORDERS:
                worst[order] = max(worst[order], float((1 - kept[order - 1] / total).abs().max()))
        return worst

    def _dual(self, function: Function, pair: Pair) -> Tensor:
        order = self.order(pair.std1, pair.std2)
        first, second = (_projected(self._values(function, std), order) for std in (pair.std1, pair.std2))
        return _sum(first, second, pair.haversine, _wedges(order).to(pair.std1))

    def _values(self, function: Function, std: Tensor) -> Tensor:
        """The even and the odd part (2, k, *std.shape) at nodes z > 0, times roots of their weights."""
        nodes, roots = (t.to(std) for t in _nodes())
        u = along(self, nodes, std)
        right, left = function(u), function(-u)
        return torch.stack([right + left, right - left]) * (0.5 * roots).reshape(-1, *[1] * (right.ndim - 1))

    def _derivative(self, u: Tensor) -> Tensor:
        plain = self.phi(u)  # scales may come in batches, which u then has to have too
        with torch.enable_grad():
            leaf = u.expand_as(plain) if u.requires_grad else u.detach().expand_as(plain).requires_grad_()
            total = self.phi(leaf).sum()
        return torch.autograd.grad(total, leaf, create_graph=plain.requires_grad)[0]


def _projected(values: Tensor, order: int) -> Coefficients:
    basis = _basis(order).to(values)
    return torch.tensordot(basis, values[0], 1), torch.tensordot(basis, values[1], 1)


@dataclass(frozen=True)
class Elementwise(Series):
    """Any function of a tensor, elementwise: continuous, and smooth on either side of zero.

    >>> Elementwise(torch.tanh).error(std=1.0, order=24) < 1e-12
    True
    """

    function: Function
    digits: int = DIGITS

    def phi(self, u: Tensor) -> Tensor:
        return self.function(u)


@dataclass(frozen=True)
class Tanh(Series):
    """phi(u) = tanh u."""

    parity = -1

    def phi(self, u: Tensor) -> Tensor:
        return u.tanh()


@dataclass(frozen=True)
class Sigmoid(Series):
    """phi(u) = 1 / (1 + exp(-u))."""

    def phi(self, u: Tensor) -> Tensor:
        return u.sigmoid()


@dataclass(frozen=True)
class Softplus(Series):
    """phi(u) = log(1 + exp u)."""

    def phi(self, u: Tensor) -> Tensor:
        return torch.nn.functional.softplus(u, threshold=40)


@dataclass(frozen=True)
class Silu(Series):
    """phi(u) = u / (1 + exp(-beta u)); with a learned beta it is known as Swish."""

    beta: Number = 1

    def phi(self, u: Tensor) -> Tensor:
        return u * (self.beta * u).sigmoid()


@dataclass(frozen=True)
class Mish(Series):
    """phi(u) = u tanh(log(1 + exp u))."""

    def phi(self, u: Tensor) -> Tensor:
        return u * torch.nn.functional.softplus(u, threshold=40).tanh()


@dataclass(frozen=True)
class Snake(Series):
    """phi(u) = u + sin(a u)^2 / a."""

    a: Number = 1

    def phi(self, u: Tensor) -> Tensor:
        return u + torch.sin(self.a * u).square() / self.a


@dataclass(frozen=True)
class Elu(Series):
    """phi(u) = u where u > 0 and alpha (exp u - 1) elsewhere."""

    alpha: Number = 1

    def phi(self, u: Tensor) -> Tensor:
        return torch.where(u > 0, u, self.alpha * torch.expm1(u.clamp_max(0)))


@dataclass(frozen=True)
class Selu(Series):
    """The exponential linear unit of Klambauer et al. (2017), with a fixed point at variance one."""

    def phi(self, u: Tensor) -> Tensor:
        return torch.nn.functional.selu(u)


def _sum(first: Coefficients, second: Coefficients, haversine: Tensor, wedges: Tensor) -> Tensor:
    """The Chebyshev series in the angle; terms that cannot matter are left out."""
    x = angle(haversine) * (2 / math.pi) - 1
    sizes = [torch.stack([part.detach().flatten(1).abs().amax(1) for part in side]) for side in (first, second)]
    pairs = wedges.unflatten(0, (-1, 2)).abs()
    bounds = torch.einsum("mpkl,pk,pl->mp", pairs, *sizes).flatten()
    kept = (bounds > torch.finfo(x.dtype).eps / 8 * bounds.max()).nonzero().flatten().tolist()
    total, before, now = torch.zeros_like(x), torch.ones_like(x), x
    for m in range(max(kept, default=-1) + 1):
        if m in kept:
            weighted = torch.tensordot(wedges[m], second[m % 2], 1)
            total = torch.addcmul(total, _inner(first[m % 2], weighted), before)
        before, now = now, torch.addcmul(-before, 2 * x, now)
    return total


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """sum_k of first (k, *shape1) times second (k, *shape2), as one matrix product where shapes cross."""
    ndim = max(first.ndim, second.ndim)
    first, second = (t.reshape(len(t), *[1] * (ndim - t.ndim), *t.shape[1:]) for t in (first, second))
    axes = [[0] + [i for i in range(1, ndim) if t.shape[i] > 1] for t in (first, second)]
    kept = sorted({*axes[0][1:], *axes[1][1:]})
    flat = [t.reshape([t.shape[i] for i in own]) for t, own in zip((first, second), axes, strict=True)]
    shape = torch.broadcast_shapes(first.shape[1:], second.shape[1:])
    return torch.einsum(flat[0], axes[0], flat[1], axes[1], kept).reshape(shape)


@lru_cache
def _nodes() -> tuple[Tensor, Tensor]:
    """Points z > 0, denser near zero, and the roots of their half-normal weights."""
    t, weights = np.polynomial.legendre.leggauss(NODES)
    share = (t + 1) / 2
    z = END * share**2
    density = math.sqrt(2 / math.pi) * np.exp(-0.5 * z**2)
    return torch.from_numpy(z), torch.from_numpy(np.sqrt(END * share * weights * density))


@lru_cache
def _basis(order: int) -> Tensor:
    """The polynomials (k, nodes), times the roots of the weights."""
    z, roots = (t.numpy() for t in _nodes())
    return torch.from_numpy(_polynomials(order, z) * roots)


@lru_cache
def _wedges(order: int) -> Tensor:
    """The Chebyshev coefficients (m, k, l) in 2 theta / pi - 1 of M(theta) + M(pi - theta), which are
    those of even m, and of M(theta) - M(pi - theta), of odd m.
    """
    count = 2 * (order + 16)
    x = np.cos((np.arange(count) + 0.5) * math.pi / count)
    M = np.stack([_wedge(order, math.pi / 2 * (1 + v)) for v in x])
    m = np.arange(count)
    transform = np.cos(m[:, None] * (np.arange(count) + 0.5) * math.pi / count) * (2 / count)
    transform[0] /= 2
    return torch.from_numpy(2 * np.tensordot(transform, M, 1))


def _wedge(order: int, theta: float) -> np.ndarray:
    """M(theta), by Gauss's rules in both polar coordinates."""
    width = (math.pi - theta) / 2
    nodes, weights = np.polynomial.legendre.leggauss(math.ceil(order * width) + 20)
    radius, lengths = _gauss(order + 4)
    B = _polynomials(order, np.outer(np.cos(theta / 2 + width * nodes), radius))
    grid = np.outer(width * weights, lengths * radius / math.sqrt(2 * math.pi))
    # The angles to the second axis are those to the first one, in reverse.
    return (B * grid).reshape(order, -1) @ B[:, ::-1].reshape(order, -1).T


@lru_cache
def _gauss(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss's rule for the half-normal law."""
    diagonal, off = _recurrence(order)
    values = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off[1:], 1) + np.diag(off[1:], -1))
    # Christoffel's formula: eigenvectors would leave nothing of the smallest weights.
    return values, 1 / np.square(_polynomials(order, values)).sum(0)


def _polynomials(order: int, z: np.ndarray) -> np.ndarray:
    """B_k(z), in the shape (k, *z.shape)."""
    diagonal, off = _recurrence(order)
    values = np.ones((order, *z.shape))
    before = np.zeros_like(z)
    for k in range(order - 1):
        values[k + 1] = ((z - diagonal[k]) * values[k] - off[k] * before) / off[k + 1]
        before = values[k]
    return values


@lru_cache
def _recurrence(order: int) -> tuple[np.ndarray, np.ndarray]:
    """off_k+1 B_k+1 = (z - diagonal_k) B_k - off_k B_k-1, by Lanczos iteration on a fine grid."""
    nodes, weights = np.polynomial.legendre.leggauss(512)
    z = END / 2 * (nodes + 1)
    vectors = [np.sqrt(END / 2 * weights * np.exp(-0.5 * z**2) * math.sqrt(2 / math.pi))]
    diagonal, off = np.zeros(order), np.zeros(order)
    for k in range(order):
        following = z * vectors[-1]
        diagonal[k] = following @ vectors[-1]
        for _ in range(2):  # once would lose orthogonality to rounding
            Q = np.stack(vectors)
            following = following - Q.T @ (Q @ following)
        if k + 1 < order:
            off[k + 1] = np.linalg.norm(following)
            vectors.append(following / off[k + 1])
    return diagonal, off
