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
coefficients, which belong to points, times a polynomial T_m(x), which belongs to the pair. Even m
serve f and odd m serve g, so that both are series in y = T_2(x): T_2j(x) = T_j(y), and
T_2j+1(x) = x V_j(y) with V the Chebyshev polynomials of the third kind. The dual of phi' is the
same with the coefficients of phi'.

Sources: Mehler (1866) for the series in rho; Cho & Saul (2009) for the wedge integrals M of
monomials; Gautschi (2004), "Orthogonal Polynomials", section 2.2 for the half-range rule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.nets.activation import Pair, Smooth, along, angle, apart
from kernelfield.nets.halfline import basis, half_line, wedges

Number = float | Tensor
Function = Callable[[Tensor], Tensor]
Coefficients = tuple[Tensor, Tensor]  # of the even and the odd part, each (k, *std.shape)

ORDERS = (16, 24, 32, 48, 64, 96)
DIGITS = 10
COUNTS = (8, 16, 32, 64)  # points in the standard deviation from which coefficients are interpolated
MARGIN = 0.02  # of the largest standard deviation: an interval of no length would have no slopes


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
        parts = self._parts(function, self.order(pair.std1, pair.std2), pair.std1, pair.std2)
        x = angle(pair.haversine) * (2 / math.pi) - 1
        y = 2 * x.square() - 1
        least = self._least(x.dtype) * max(float(part.bounds.max()) for part in parts)
        even, odd = (_clenshaw(part, y, least) for part in parts)
        return torch.addcmul(even[0], y, even[1], value=-1) + x * (odd[0] - odd[1])

    def _parts(self, function: Function, order: int, *stds: Tensor) -> list["_Part"]:
        """The even and the odd part of phi for two sides of given standard deviations.

        Coefficients are smooth functions of the standard deviation: a few of its values give those of
        all points, in a basis that is no larger than these few ask for.
        """
        low, high = min(float(s.detach().min()) for s in stds), max(float(s.detach().max()) for s in stds)
        low, high = max(low - MARGIN * high, 0.0), high * (1 + MARGIN)
        matrices, least = wedges(order).to(stds[0].device), self._least(stds[0].dtype)
        for count in COUNTS:
            if count >= sum(s.numel() for s in stds) or not high:
                break
            nodes = torch.cos((torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count)).to(stds[0].device)
            values = self._values(function, low + (high - low) * (nodes + 1) / 2)
            if values.ndim > 3:  # scales in batches
                break
            series = [torch.linalg.solve(_chebyshev(nodes, count), c, left=False) for c in _projected(values, order)]
            size = torch.stack(series).detach().abs()
            if size[..., -2:].max() <= least * size.max():
                places = [_chebyshev((2 * s - (low + high)) / (high - low), count) for s in stds]
                return [_reduced(c, places, matrices[p::2], least * float(size.max())) for p, c in enumerate(series)]
        sides = zip(*(_projected(self._values(function, std), order) for std in stds), strict=True)
        return [_Part(*side, matrices[p::2].to(stds[0])) for p, side in enumerate(sides)]

    def _least(self, dtype: torch.dtype) -> float:
        """The share of the largest coefficient below which others are left out."""
        return max(10.0 ** -(self.digits + 3), torch.finfo(dtype).eps / 8)

    def _values(self, function: Function, std: Tensor) -> Tensor:
        """The even and the odd part (2, k, *std.shape) at nodes z > 0, times roots of their weights."""
        nodes, roots = (t.to(std) for t in half_line())
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
    B = basis(order).to(values)
    return torch.tensordot(B, values[0], 1), torch.tensordot(B, values[1], 1)


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


@dataclass(frozen=True, eq=False)
class _Part:
    """Coefficients (k, *shape) of two sides, and the matrices (j, k, k) between them of each term."""

    first: Tensor
    second: Tensor
    matrices: Tensor

    @cached_property
    def bounds(self) -> Tensor:
        """The largest that each term can be."""
        sizes = (side.detach().flatten(1).abs().amax(1) for side in (self.first, self.second))
        return torch.einsum("jkl,k,l->j", self.matrices.abs(), *sizes)


def _reduced(series: Tensor, places: list[Tensor], matrices: Tensor, least: float) -> _Part:
    """Coefficients given by a Chebyshev series (k, count) at places (count, *shape), in the basis that matters."""
    basis, sizes, _ = torch.linalg.svd(series.detach(), full_matrices=False)
    basis = basis[:, sizes > least]
    first, second = (torch.tensordot((basis.mT @ series).to(place), place, 1) for place in places)
    return _Part(first, second, (basis.mT @ matrices @ basis).to(places[0]))


def _clenshaw(part: _Part, y: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The last two steps of Clenshaw's recursion in the Chebyshev polynomials of y.

    Terms at the end that together stay below `least` are left out.
    """
    tails = part.bounds.flip(0).cumsum(0).flip(0)
    now, before, twice = torch.zeros_like(y), torch.zeros_like(y), 2 * y
    for matrix in part.matrices[: int((tails > least).sum())].flip(0):
        term = _inner_less(part.first, torch.tensordot(matrix, part.second, 1), before)
        now, before = term.addcmul_(twice, now), now
    return now, before


def _inner_less(first: Tensor, second: Tensor, other: Tensor) -> Tensor:
    """sum_k of first (k, *shape1) times second (k, *shape2), less another tensor, which makes room."""
    kept = torch.is_grad_enabled()
    if first.ndim == 3 and first.shape[2] == second.shape[1] == 1:
        return torch.addmm(other, first[..., 0].mT, second[:, 0], beta=-1, out=None if kept else other)
    return torch.sub(_inner(first, second), other, out=None if kept else other)


def _chebyshev(t: Tensor, count: int) -> Tensor:
    """T_0 to T_(count - 1), in the shape (count, *t.shape)."""
    values = [torch.ones_like(t), t]
    while len(values) < count:
        values.append(2 * t * values[-1] - values[-2])
    return torch.stack(values)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """sum_k of first (k, *shape1) times second (k, *shape2), as one matrix product where shapes cross."""
    ndim = max(first.ndim, second.ndim)
    first, second = (t.reshape(len(t), *[1] * (ndim - t.ndim), *t.shape[1:]) for t in (first, second))
    axes = [[0] + [i for i in range(1, ndim) if t.shape[i] > 1] for t in (first, second)]
    kept = sorted({*axes[0][1:], *axes[1][1:]})
    flat = [t.reshape([t.shape[i] for i in own]) for t, own in zip((first, second), axes, strict=True)]
    shape = torch.broadcast_shapes(first.shape[1:], second.shape[1:])
    return torch.einsum(flat[0], axes[0], flat[1], axes[1], kept).reshape(shape)


