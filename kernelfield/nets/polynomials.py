"""Polynomials and rectified monomials.

A polynomial of a normal variable of standard deviation a is a finite sum of Hermite polynomials,
phi(a z) = sum_k c_k(a) h_k(z) with h_k = He_k / sqrt(k!), and so is its dual, at any variance:

    tau = sum_k c_k(a) c_k(b) rho^k,    z^j = sum_k j! / (2^m m! sqrt(k!)) h_k(z),  m = (j - k) / 2.

A rectified monomial max(u, 0)^n has the dual (a b)^n J_n(theta) / (2 pi) with

    J_n = (-1)^n (sin theta)^(2 n + 1) ((1 / sin theta) d / dtheta)^n ((pi - theta) / sin theta)
        = P_n(rho) sin theta + Q_n(rho) (pi - theta),

in which P_n and Q_n are polynomials with the recurrence

    Q_n+1 = (2 n + 1) rho Q_n - n^2 (rho^2 - 1) Q_n-1,  Q_0 = 1, Q_1 = rho,  and P alike, P_0 = 0, P_1 = 1.

Sources: Mehler's formula; Cho & Saul (2009), "Kernel Methods for Deep Learning", eq. (3)-(7).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.nets.activation import Pair, Smooth, angle, root
from kernelfield.nets.rectifiers import Step
from kernelfield.nets.state import CovState

Number = float | Tensor


class Power(Smooth):
    """An activation that is a polynomial."""

    @abstractmethod
    def powers(self) -> tuple[Number, ...]:
        """The coefficients of 1, u, u^2, ..."""

    @property
    def parity(self) -> int:
        even, odd = (all(_is_zero(c) for c in self.powers()[start::2]) for start in (1, 0))
        return 1 if even else -1 if odd else 0

    def phi(self, u: Tensor) -> Tensor:
        return _horner(self.powers(), u)

    def value(self, pair: Pair) -> Tensor:
        return _mehler(self.powers(), pair)

    def slope(self, pair: Pair) -> Tensor:
        return _mehler([j * c for j, c in enumerate(self.powers())][1:], pair)


@dataclass(frozen=True)
class Polynomial(Power):
    """phi(u) = sum_j coefficients[j] u^j."""

    coefficients: tuple[Number, ...]

    def __post_init__(self) -> None:
        if not self.coefficients:
            raise ValueError("a Polynomial needs at least one coefficient, got ()")

    def powers(self) -> tuple[Number, ...]:
        return self.coefficients


@dataclass(frozen=True)
class Monomial(Power):
    """phi(u) = u^degree."""

    degree: int

    def __post_init__(self) -> None:
        refuse_degree(self, self.degree)

    def powers(self) -> tuple[Number, ...]:
        return (*(0,) * self.degree, 1)


@dataclass(frozen=True)
class Hermite(Power):
    """phi(u) = He_degree(u) / sqrt(degree!).

    Where u has variance one the dual is rho^degree; at other variances it is the exact dual of
    the same polynomial, which then has terms of lower degree as well.
    """

    degree: int

    def __post_init__(self) -> None:
        refuse_degree(self, self.degree)

    def powers(self) -> tuple[Number, ...]:
        n, scale = self.degree, math.sqrt(math.factorial(self.degree))
        powers = [0.0] * (n + 1)
        for m in range(n // 2 + 1):
            size = math.factorial(n) / (2**m * math.factorial(m) * math.factorial(n - 2 * m))
            powers[n - 2 * m] = (-1) ** m * size / scale
        return tuple(powers)


@dataclass(frozen=True)
class RectifiedMonomial(Smooth):
    """phi(u) = max(u, 0)^degree: the arc-cosine kernels. Degree 0 is the step, whose slope is 0."""

    degree: int

    def __post_init__(self) -> None:
        refuse_degree(self, self.degree)

    def phi(self, u: Tensor) -> Tensor:
        return u.clamp_min(0) ** self.degree if self.degree else (u > 0).to(u)

    def value(self, pair: Pair) -> Tensor:
        return _arc_cosine(self.degree, pair)

    def slope(self, pair: Pair) -> Tensor:
        return self.degree**2 * _arc_cosine(self.degree - 1, pair)

    def unlike(self, pair: Pair) -> Tensor:
        return torch.zeros_like(pair.both)  # phi(a z) is the same function for all a, up to a factor

    def rule(self, state: CovState) -> CovState:
        return super().rule(state) if self.degree else Step().rule(state)


def ReQU() -> RectifiedMonomial:
    """max(u, 0)^2, the rectified quadratic unit."""
    return RectifiedMonomial(2)


def refuse_degree(activation: Smooth, degree: object) -> None:
    if not isinstance(degree, int) or degree < 0:
        raise ValueError(f"the degree of a {type(activation).__name__} is an integer from 0 upwards, got {degree!r}")


def _mehler(powers: Sequence[Number], pair: Pair) -> Tensor:
    """sum_k c_k(a) c_k(b) rho^k of a polynomial."""
    terms = []
    for k in range(len(powers)):
        first, second = (_coefficient(powers, k, std) for std in (pair.std1, pair.std2))
        terms.append(first * second)
    if not terms:
        return torch.zeros_like(pair.haversine)
    return _horner(terms, 1 - 2 * pair.haversine)


def _coefficient(powers: Sequence[Number], k: int, std: Tensor) -> Tensor:
    """c_k(std) = E[phi(std z) h_k(z)]."""
    weights = []
    for j, power in enumerate(powers):
        m, rest = divmod(j - k, 2)
        even = j >= k and not rest
        weights.append(
            power * (math.factorial(j) / (2**m * math.factorial(m) * math.sqrt(math.factorial(k)))) if even else 0
        )
    return _horner(weights, std)


def _horner(powers: Sequence[Number], x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for power in reversed(powers):
        total = total * x + power
    return total


def _arc_cosine(degree: int, pair: Pair) -> Tensor:
    """(a b)^n J_n(theta) / (2 pi)."""
    e = pair.haversine
    rho, sine = 1 - 2 * e, 2 * root(e * (1 - e))
    before, now = angle(1 - e), sine + rho * angle(1 - e)
    if degree == 0:
        now = before
    for n in range(1, degree):
        before, now = now, (2 * n + 1) * rho * now + n**2 * sine.square() * before
    return now * pair.both**degree / (2 * math.pi)


def _is_zero(value: Number) -> bool:
    return isinstance(value, float | int) and value == 0
