"""Bumps of a power spectrum and the envelopes that they are the Fourier transforms of.

A bump p is the density of one frequency about zero, in cycles per unit of the input, and its
envelope is g(r) = E[cos(2 pi s r)], s ~ p, which is 1 at r = 0. At a lengthscale l,

    Gaussian     s ~ N(0, 1 / (2 pi l)^2)                 g = exp(-x^2 / 2),             x = r / l
    Student-t    2 pi l s ~ t with 2 nu degrees of freedom     g = Matern of smoothness nu,   x = sqrt(2 nu) r / l

Derivatives. Let F_0 = g as a function of x and F_k = -F_{k-1}' / x. For the Gaussian every F_k
is g; for Matern F_k is proportional to x^(nu - k) K_(nu - k)(x), by (x^nu K_nu)' = -x^nu K_(nu - 1).
The chain rule alone then gives

    g' = -x F_1,    g'' = -F_1 + x^2 F_2,    g''' = 3 x F_2 - x^3 F_3,    g'''' = 3 F_2 - 6 x^2 F_3 + x^4 F_4,

and so on, by (x^a F_k)' = a x^(a - 1) F_k - x^(a + 1) F_(k + 1).

At nu = p + 1/2, x^nu K_nu(x) = sqrt(pi / 2) exp(-x) theta_p(x) with the reverse Bessel polynomials
theta_p = (2p - 1) theta_(p-1) + x^2 theta_(p-2), a sum of positive terms; and
x^(-m) K_(-m) = x^(-2m) (x^m K_m) where nu - k has become negative.

Sources: Rasmussen & Williams (2006), eq. (4.9) and (4.14)-(4.16); DLMF 10.29.4, 10.47.9 and
10.49.12; Fang et al. (2024), "Solving High Frequency and Multi-Scale PDEs with Gaussian
Processes", section 3, for Student-t bumps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial, reduce

import torch
from torch import Tensor, nn

from kernelfield.core.numerics import BINARY

FAR = 2e3  # lengths: of the squares of points so far apart rounding leaves 1e-9, of those farther ever less is right
ORDERS = 8  # the highest derivative in closed form: four in each of the two points


def _tables() -> Iterator[tuple[tuple[float, int, int], ...]]:
    """The terms (c, i, k) of g^(j) = sum of c x^(2i) F_k, times x if j is odd, for j = 0, 1, ..., ORDERS."""
    terms = {(0, 0): 1.0}  # c by the power of x and by k
    for _ in range(ORDERS + 1):
        yield tuple((c, power // 2, k) for (power, k), c in terms.items())
        after: dict[tuple[int, int], float] = {}
        for (power, k), c in terms.items():
            if power:
                after[power - 1, k] = after.get((power - 1, k), 0.0) + power * c
            after[power + 1, k + 1] = after.get((power + 1, k + 1), 0.0) - c
        terms = after


_TERMS = tuple(_tables())


class Bump(ABC):
    """The shape of the bumps of a spectrum; see the module docstring."""

    @property
    @abstractmethod
    def rate(self) -> float:
        """x = rate * r / lengthscale."""

    @property
    @abstractmethod
    def smoothness(self) -> float:
        """The highest derivative of the envelope that is continuous at zero."""

    @abstractmethod
    def envelope(self, a: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
        """What gives the product of the envelopes of all inputs (*b, n, k) of points a (*b, n, d) and b (*b, k, d).

        It takes lengths (*b, d) and may be called for many: what does not depend on them is computed once.
        """

    @abstractmethod
    def log_density(self, s: Tensor) -> Tensor:
        """Log density of s = 2 pi l times a frequency; any shape."""

    @abstractmethod
    def _term(self, x: Tensor, i: int, k: int) -> Tensor:
        """x^(2i) F_k(x) at x >= 0."""

    def derivative(self, r: Tensor, lengthscale: Tensor, order: int) -> Tensor:
        """The derivative of the envelope in r, of order 0 to 8; shapes broadcast.

        Errors: ValueError for an order that the envelope does not have at zero.
        """
        self.require(order)
        rate = self.rate / lengthscale
        z = rate * r
        x = z.abs()
        value = sum((c * self._term(x, i, k) for c, i, k in _TERMS[order]), torch.zeros(()).to(x))
        return rate**order * (z * value if order % 2 else value)

    def require(self, order: int) -> None:
        """Refuse an order of derivative beyond eight, or beyond the smoothness."""
        if not 0 <= order <= ORDERS:
            raise ValueError(f"derivatives are in closed form for orders 0 to {ORDERS} in each input, got {order}")
        if order > self.smoothness:
            raise ValueError(
                f"{self} has continuous derivatives up to order {self.smoothness:g} and {order} was asked for; "
                f"take nu = {math.ceil(order / 2) + 0.5:g} or density='gaussian'"
            )


@dataclass(frozen=True)
class GaussianBump(Bump):
    """Normal bumps, with squared-exponential envelopes.

    >>> round(GaussianBump().derivative(torch.tensor(0.0), torch.tensor(2.0), 4).item(), 4)  # 3 / 2^4
    0.1875
    """

    rate = 1.0
    smoothness = math.inf

    def envelope(self, a: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
        by_squares, span = partial(_by_squares, a, b, a.square(), b.square().mT), _span(a, b)

        @cache
        def squares() -> list[Tensor]:
            return [tau.square() for tau in _differences(a, b)]

        def product(lengths: Tensor) -> Tensor:
            if a.dtype == torch.float64 and bool((span <= FAR * lengths.detach()).all()):
                return by_squares(lengths)
            factors = -0.5 * BINARY / lengths.square()
            return reduce(torch.add, (m * factors[..., d, None, None] for d, m in enumerate(squares()))).exp2()

        return product

    def log_density(self, s: Tensor) -> Tensor:
        return -0.5 * (s.square() + math.log(2 * math.pi))

    def _term(self, x: Tensor, i: int, k: int) -> Tensor:
        return x ** (2 * i) * (-0.5 * x.square()).exp()


@dataclass(frozen=True)
class StudentBump(Bump):
    """Student-t bumps with 2 nu degrees of freedom, with Matern envelopes; nu is p + 1/2.

    >>> round(StudentBump(2.5).derivative(torch.tensor(0.0), torch.tensor(1.0), 4).item(), 4)  # 25
    25.0
    """

    nu: float

    def __post_init__(self) -> None:
        if self.nu not in (0.5, 1.5, 2.5, 3.5, 4.5):
            raise ValueError(f"nu must be 0.5, 1.5, 2.5, 3.5 or 4.5, got {self.nu:g}")

    @property
    def rate(self) -> float:
        return math.sqrt(2 * self.nu)

    @property
    def smoothness(self) -> float:
        return 2 * self.nu - 1

    def envelope(self, a: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
        p, distances = int(self.nu), [tau.abs() for tau in _differences(a, b)]

        def product(lengths: Tensor) -> Tensor:
            rates = self.rate / lengths
            scaled = [r * rates[..., d, None, None] for d, r in enumerate(distances)]
            value = (-BINARY * reduce(torch.add, scaled)).exp2() / _theta_at_zero(p) ** len(scaled)
            return math.prod((_theta(p, x) for x in scaled), start=value) if p else value

        return product

    def log_density(self, s: Tensor) -> Tensor:
        df = 2 * self.nu
        constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
        return constant - (df + 1) / 2 * torch.log1p(s.square() / df)

    def _term(self, x: Tensor, i: int, k: int) -> Tensor:
        p = int(self.nu)
        left = p - k
        power, degree = (2 * i, left) if left >= 0 else (2 * (i + left) + 1, -left - 1)
        return x**power * _theta(degree, x) * (-x).exp() / _theta_at_zero(p)


def _differences(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Those of points a (*b, n, d) and b (*b, k, d) in each input, (*b, n, k)."""
    return (one[..., :, None] - other[..., None, :] for one, other in zip(a.unbind(-1), b.unbind(-1), strict=True))


def _span(a: Tensor, b: Tensor) -> Tensor:
    """The most (*b, d) that entries of points a (*b, n, d) and b (*b, k, d) can differ."""
    first, second = (nn.functional.pad(x.detach().abs(), (0, 0, 0, 1)).amax(-2) for x in (a, b))  # or none
    return first + second


def _by_squares(a: Tensor, b: Tensor, squares_a: Tensor, squares_b: Tensor, lengths: Tensor) -> Tensor:
    """exp(-|a - b|^2 / 2) in lengths, by |a|^2 + |b|^2 - 2 a b', a product of matrices.

    What cancels is eps times the square of the span in lengths, see FAR; single precision has no digits for it.
    """
    factors = (-0.5 * BINARY / lengths.square())[..., None]
    exponent = (a * (-2 * factors).mT) @ b.mT
    return exponent.add_(squares_a @ factors).add_(factors.mT @ squares_b).exp2_()


def _theta(p: int, x: Tensor) -> Tensor:
    """The reverse Bessel polynomial of degree p."""
    if p == 0:
        return torch.ones_like(x)
    before, now = torch.ones_like(x), x + 1
    for j in range(2, p + 1):
        before, now = now, (2 * j - 1) * now + x.square() * before
    return now


def _theta_at_zero(p: int) -> float:
    return float(math.prod(range(1, 2 * p, 2)))
