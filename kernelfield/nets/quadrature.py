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
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

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
MARGIN = 0.02  # of a standard deviation, by which an interval around it is wider


class Series(Smooth):
    """An activation known by its values alone: continuous, and smooth on either side of zero.

    The number of polynomials is the least of ORDERS that leaves out less than 10^-digits of the
    mean squares of phi and of phi', at the largest standard deviation at hand.

    Errors: ValueError where the largest order does not reach that.
    """

    digits: int = DIGITS

    def value(self, pair: Pair) -> Tensor:
        return self._dual(pair, derivative=False)

    def slope(self, pair: Pair) -> Tensor:
        return self._dual(pair, derivative=True)

    def variance(self, std: Tensor) -> Tensor:
        return self.values(self.phi, std).square().sum((0, 1))

    def unlike(self, pair: Pair) -> Tensor:
        return apart(*(self.values(self.phi, std).flatten(0, 1) for std in (pair.std1, pair.std2)))

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
            values = self.values(function, most).detach()
            total = values.square().sum((0, 1)).clamp_min(torch.finfo(values.dtype).tiny)
            even, odd = projected(values, ORDERS[-1])
            kept = (even.square() + odd.square()).cumsum(0)
            for order in ORDERS:
                worst[order] = max(worst[order], float((1 - kept[order - 1] / total).abs().max()))
        return worst

    def _dual(self, pair: Pair, *, derivative: bool) -> Tensor:
        parts = self._parts(pair.std1, pair.std2, derivative)
        x = angle(pair.haversine) * (2 / math.pi) - 1
        y = 2 * x.square() - 1
        least = self.least(x.dtype) * max(float(part.bounds.max()) for part in parts)
        even, odd = (_clenshaw(part, y, least) for part in parts)
        return torch.addcmul(even[0], y, even[1], value=-1) + x * (odd[0] - odd[1])

    def _parts(self, std1: Tensor, std2: Tensor, derivative: bool) -> list["_Part"]:
        """The even and the odd part of phi for two sides of given standard deviations."""
        stds = (std1, std2)
        if std1.numel() + std2.numel() > COUNTS[0]:
            low, high = min(float(s.detach().min()) for s in stds), max(float(s.detach().max()) for s in stds)
            fixed = not any(isinstance(getattr(self, f.name), Tensor) for f in fields(self))  # type: ignore[arg-type]
            table = (_known_table if fixed else _table)(
                self, derivative, *_interval(low, high), std1.dtype, std1.device
            )
            if table is not None:
                return table.parts(*stds)
        order, function = self.order(*stds), self.function_of(derivative)
        first, second = (projected(self.values(function, std), order) for std in stds)
        return [_Part(first[p], second[p], wedges(order)[p::2].to(std1)) for p in (0, 1)]

    def function_of(self, derivative: bool) -> Function:
        return self._derivative if derivative else self.phi

    def least(self, dtype: torch.dtype) -> float:
        """The share of the largest coefficient below which others are left out."""
        return max(10.0 ** -(self.digits + 3), torch.finfo(dtype).eps / 8)

    def values(self, function: Function, std: Tensor) -> Tensor:
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


def projected(values: Tensor, order: int) -> Coefficients:
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


@dataclass(frozen=True, eq=False)
class _Table:
    """Coefficients as Chebyshev series (k, count) in the standard deviation, of the even and the odd
    part, in a basis of their own that is no larger than they ask for.
    """

    low: float
    high: float
    series: list[Tensor]
    matrices: list[Tensor]

    def parts(self, *stds: Tensor) -> list[_Part]:
        count = self.series[0].shape[1]
        places = [_chebyshev((2 * s - (self.low + self.high)) / (self.high - self.low), count) for s in stds]
        sides = [[torch.tensordot(c.to(t), t, 1) for t in places] for c in self.series]
        return [_Part(first, second, m.to(first)) for (first, second), m in zip(sides, self.matrices, strict=True)]


def _table(
    activation: Series, derivative: bool, low: float, high: float, dtype: torch.dtype, device: torch.device
) -> _Table | None:
    """The coefficients of all standard deviations of an interval; None where they ask for too many points."""
    try:
        order = activation.order(torch.full((1, 1), high, dtype=dtype, device=device))
    except ValueError:  # those at hand may be smaller
        return None
    least = activation.least(dtype)
    for count in COUNTS:
        nodes = torch.cos((torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (math.pi / count))
        values = activation.values(activation.function_of(derivative), low + (high - low) * (nodes + 1) / 2)
        if values.ndim > 3:  # scales in batches
            return None
        series = [torch.linalg.solve(_chebyshev(nodes, count), c, left=False) for c in projected(values, order)]
        sizes = torch.stack(series).detach().abs()
        if sizes[..., -2:].max() <= least * sizes.max():
            bases = [_basis_of(c.detach(), least * float(sizes.max())) for c in series]
            terms = [U.mT @ wedges(order).to(U)[p::2] @ U for p, U in enumerate(bases)]
            return _Table(low, high, [U.mT @ c for U, c in zip(bases, series, strict=True)], terms)
    return None


_known_table = lru_cache(_table)


def _basis_of(series: Tensor, least: float) -> Tensor:
    basis, sizes, _ = torch.linalg.svd(series, full_matrices=False)
    return basis[:, sizes > least]


def _interval(low: float, high: float) -> tuple[float, float]:
    """An interval around these, on a grid, so that many batches of inputs have the same."""
    low, high = low * (1 - MARGIN), high * (1 + MARGIN)
    if not high:
        return 0.0, 1.0
    start = 2 ** (math.floor(4 * math.log2(low)) / 4) if low > high / 64 else 0.0
    return start, 2 ** (math.ceil(4 * math.log2(high)) / 4)


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
    """sum_k of first (k, *shape1) times second (k, *shape2), less another tensor, which may be overwritten."""
    if first.ndim == 3 and other.ndim == 2 and first.shape[2] == second.shape[1] == 1:
        place = None if torch.is_grad_enabled() else other
        return torch.addmm(other, first[..., 0].mT, second[:, 0], beta=-1, out=place)
    return _inner(first, second) - other


def _chebyshev(t: Tensor, count: int) -> Tensor:
    """T_0 to T_(count - 1), in the shape (count, *t.shape), by T_(n + m) = 2 T_n T_m - T_(n - m)."""
    values = torch.stack([torch.ones_like(t), t])
    while len(values) < count:
        values = torch.cat([values, 2 * values[-1] * values[1:] - values[:-1].flip(0)])
    return values[:count]


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """sum_k of first (k, *shape1) times second (k, *shape2), as one matrix product where shapes cross."""
    ndim = max(first.ndim, second.ndim)
    first, second = (t.reshape(len(t), *[1] * (ndim - t.ndim), *t.shape[1:]) for t in (first, second))
    axes = [[0] + [i for i in range(1, ndim) if t.shape[i] > 1] for t in (first, second)]
    kept = sorted({*axes[0][1:], *axes[1][1:]})
    flat = [t.reshape([t.shape[i] for i in own]) for t, own in zip((first, second), axes, strict=True)]
    shape = torch.broadcast_shapes(first.shape[1:], second.shape[1:])
    return torch.einsum(flat[0], axes[0], flat[1], axes[1], kept).reshape(shape)
