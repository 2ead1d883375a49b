"""Smooth activations whose duals have closed forms.

With p, r the variances of u and v, q their covariance, g = p r - q^2, and d = (p + r) / 2 - q:

    a erf(b u) + c        tau = a^2 (2 / pi) atan2(2 b^2 q, sqrt D) + c^2,
                          D = 1 + 2 b^2 (p + r) + 4 b^4 g
    gelu(u) = u Phi(u)    tau = q / 4 + [(q^2 + p r D) / ((1 + p) (1 + r) sqrt D) + q atan2(q, sqrt D)] / (2 pi),
                          D = 1 + p + r + g
    a sin(b u + c)        tau = a^2 / 2 [exp(-b^2 d) - cos(2 c) exp(-b^2 (d + 2 q))]
    a exp(b u^2)          tau = a^2 / sqrt D,  D = 1 - 2 b (p + r) + 4 b^2 g
    exp(-u^2) sin u       tau = sinh(q / D) exp(-(p + r + 4 g) / (2 D)) / sqrt D,
                          D = 1 + 2 (p + r) + 4 g

The last follows from exp(-u^2 - v^2) times the normal density being a normal density again, of
covariance S (1 + 2 S)^-1, under which cos(u - v) - cos(u + v) has a known mean. Those of
exponentials are functions of the distance, so that e' = (1 - exp(-b^2 d)) / 2 for a exp(b u).

Sources: Williams (1997), "Computing with Infinite Networks" (erf, Gaussian); Tsuchida et al.
(2021), "Avoiding Kernel Fixed Points" (gelu); Louart et al. (2018), "A Random Matrix Approach to
Neural Networks", table 1 (sin, cos, erf); Rahimi & Recht (2007) (sin with a random phase).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernelfield.nets.activation import Activation, Pair, Smooth
from kernelfield.nets.points import NEAR
from kernelfield.nets.state import CovState, summed

Number = float | Tensor
NO_NETWORK = "ExpNormalized is the dual of no elementwise function: use Exp or Rbf where a finite network is needed"


@dataclass(frozen=True)
class Erf(Smooth):
    """phi(u) = a erf(b u) + c."""

    a: Number = 1
    b: Number = 1
    c: Number = 0

    @property
    def parity(self) -> int:
        return -1 if _is_zero(self.c) else 0

    def phi(self, u: Tensor) -> Tensor:
        return self.a * (self.b * u).erf() + self.c

    def value(self, pair: Pair) -> Tensor:
        angle = torch.atan2(2 * self.b**2 * pair.covariance, self._determinant(pair).sqrt())
        return self.a**2 * (2 / math.pi) * angle + self.c**2

    def slope(self, pair: Pair) -> Tensor:
        return (4 / math.pi) * self.a**2 * self.b**2 * self._determinant(pair).rsqrt()

    def rule(self, state: CovState) -> CovState:
        first, second = _Share.of(self, state.std1), _Share.of(self, state.std2)
        present = bool((first.std > 0).all() and (second.std > 0).all())
        if state.tangent is not None or not _is_zero(self.c) or not present:
            return super().rule(state)
        e = _Arc.apply(state.haversine, first.share, first.gain, second.share, second.gain, first.rest, second.rest)
        near = (e.detach() < torch.finfo(e.dtype).eps ** NEAR) & (e.detach() > 0)
        e = self.mended(e, Pair(state.haversine, state.std1, state.std2), first.std * second.std, near)
        return state.with_std(first.std, second.std, e, None)

    def _determinant(self, pair: Pair) -> Tensor:
        return 1 + 2 * self.b**2 * (pair.var1 + pair.var2) + 4 * self.b**4 * pair.gap


class _Share(NamedTuple):
    """What an error function makes of points of a given size: tau = a^2 (2 / pi) asin(t_i t_j rho)."""

    share: Tensor  # t, t^2 = 2 b^2 p / (1 + 2 b^2 p)
    rest: Tensor  # 1 - t^2
    std: Tensor  # of the outputs
    gain: Tensor  # |a| / (std sqrt pi), which does not depend on a

    @classmethod
    def of(cls, activation: Erf, std: Tensor) -> "_Share":
        square = (2 * activation.b**2) * std.square()
        rest = 1 / (1 + square)
        square = square * rest
        unit = torch.atan2(square, (rest * (1 + square)).sqrt()).sqrt()  # rest * (1 + square) is 1 - square^2
        return cls(square.sqrt(), rest.detach(), unit * (2 / math.pi * activation.a**2) ** 0.5, 0.5**0.5 / unit)


class _Arc(torch.autograd.Function):
    """e' = 1 / 2 - k_i k_j asin(r), r = (1 - 2 e) t_i t_j, for shares t and gains k; see `_Share`.

    1 - r^2 is a sum of positive terms, 1 - t_i^2 + t_i^2 (1 - t_j^2) + 4 e (1 - e) t_i^2 t_j^2.
    """

    @staticmethod
    def forward(
        ctx: Any, e: Tensor, t1: Tensor, k1: Tensor, t2: Tensor, k2: Tensor, rest1: Tensor, rest2: Tensor
    ) -> Tensor:
        square1, both = t1.square(), t1 * t2
        product = torch.addcmul(e, e, e, value=-1) * (4 * square1)
        square = torch.addcmul(torch.addcmul(rest1, square1, rest2), product, t2.square())
        inverse = square.rsqrt()
        angle = torch.atan2(torch.addcmul(both, e, both, value=-2), square.mul_(inverse))
        after = torch.addcmul(e.new_full((), 0.5), angle.mul_(k1), k2, value=-1)
        after.clamp_(torch.finfo(e.dtype).tiny, 1)  # zero is left for what is exactly zero
        meets = product == 0
        if meets.any():  # a point with itself or its opposite
            after = torch.where(meets & (t1 == t2), e, after)
        ctx.save_for_backward(e, inverse, after, t1, k1, t2, k2)
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        e, inverse, after, t1, k1, t2, k2 = ctx.saved_tensors
        by_r = grad * inverse
        by_e = (by_r * (2 * k1 * t1)).mul_(k2 * t2).sum_to_size(e.shape)
        by_both = by_r.addcmul_(by_r, e, value=-2)
        by_t1, by_t2 = -k1 * summed(by_both, k2 * t2, t1), -k2 * summed(by_both, k1 * t1, t2)
        angle = (0.5 - after).mul_(grad)  # k_i k_j asin(r), and the gradient
        by_k1, by_k2 = -summed(angle, torch.ones_like(k2), k1) / k1, -summed(angle, torch.ones_like(k1), k2) / k2
        return by_e, by_t1, by_k1, by_t2, by_k2, None, None


@dataclass(frozen=True)
class SigmoidLike(Erf):
    """phi(u) = (1 + erf(u / 2.402...)) / 2, the error function nearest to a logistic sigmoid."""

    a: Number = 0.5
    b: Number = 1 / 2.4020563531719796
    c: Number = 0.5

    def scales(self) -> list[float]:
        return []  # the shape is part of its name

    def rebuild(self, scales: object) -> "SigmoidLike":
        return self


@dataclass(frozen=True)
class Gelu(Smooth):
    """phi(u) = u Phi(u), with Phi the normal distribution function."""

    def phi(self, u: Tensor) -> Tensor:
        return torch.nn.functional.gelu(u)

    def value(self, pair: Pair) -> Tensor:
        q, square = pair.covariance, self._determinant(pair)
        outer = (1 + pair.var1) * (1 + pair.var2)
        ratio = (q.square() + pair.both.square() * square) / (outer * square.sqrt())
        return q / 4 + (ratio + q * torch.atan2(q, square.sqrt())) / (2 * math.pi)

    def slope(self, pair: Pair) -> Tensor:
        q, square = pair.covariance, self._determinant(pair)
        outer = (1 + pair.var1) * (1 + pair.var2)
        terms = 1 / square + (1 - pair.both.square()) / outer + 1
        return 0.25 + (torch.atan2(q, square.sqrt()) + q * square.rsqrt() * terms) / (2 * math.pi)

    def _determinant(self, pair: Pair) -> Tensor:
        return 1 + pair.var1 + pair.var2 + pair.gap


class Wave(Smooth):
    """A sine or a cosine of b u + c, times a."""

    a: Number
    b: Number

    @abstractmethod
    def start(self) -> Number:
        """phi(0) / a."""

    def value(self, pair: Pair) -> Tensor:
        opposed = torch.where(pair.covariance < 0, -1, 1)
        size = self.b**2 * opposed * pair.covariance
        odd = opposed * torch.exp(size - self._mean(pair)) * -torch.expm1(-2 * size)
        return self.a**2 * (odd / 2 + self.start() ** 2 * self._sum(pair))

    def slope(self, pair: Pair) -> Tensor:
        difference = torch.exp(-(self.b**2) * pair.distance)
        return self.a**2 * self.b**2 * ((difference + self._sum(pair)) / 2 - self.start() ** 2 * self._sum(pair))

    def _mean(self, pair: Pair) -> Tensor:
        return self.b**2 * (pair.var1 + pair.var2) / 2

    def _sum(self, pair: Pair) -> Tensor:
        """E[cos(b (u + v))]."""
        return torch.exp(-self._mean(pair) - self.b**2 * pair.covariance)


@dataclass(frozen=True)
class Sin(Wave):
    """phi(u) = a sin(b u + c)."""

    a: Number = 1
    b: Number = 1
    c: Number = 0

    @property
    def parity(self) -> int:
        return -1 if _is_zero(self.c) else 0

    def phi(self, u: Tensor) -> Tensor:
        return self.a * torch.sin(self.b * u + self.c)

    def start(self) -> Number:
        return torch.sin(self.c) if isinstance(self.c, Tensor) else math.sin(self.c)


@dataclass(frozen=True)
class Cos(Wave):
    """phi(u) = a cos(b u + c)."""

    a: Number = 1
    b: Number = 1
    c: Number = 0

    @property
    def parity(self) -> int:
        return 1 if _is_zero(self.c) else 0

    def phi(self, u: Tensor) -> Tensor:
        return self.a * torch.cos(self.b * u + self.c)

    def start(self) -> Number:
        return torch.cos(self.c) if isinstance(self.c, Tensor) else math.cos(self.c)


@dataclass(frozen=True)
class Gaussian(Smooth):
    """phi(u) = a exp(b u^2), whose square has a mean while 4 b var(u) < 1.

    Errors: ValueError for larger variances; a negative b is always possible.
    """

    a: Number = 1
    b: Number = -1

    parity = 1

    def phi(self, u: Tensor) -> Tensor:
        return self.a * torch.exp(self.b * u.square())

    def value(self, pair: Pair) -> Tensor:
        return self.a**2 * self._determinant(pair).rsqrt()

    def slope(self, pair: Pair) -> Tensor:
        return 4 * self.a**2 * self.b**2 * pair.covariance * self._determinant(pair) ** -1.5

    def _determinant(self, pair: Pair) -> Tensor:
        determinant = 1 - 2 * self.b * (pair.var1 + pair.var2) + 4 * self.b**2 * pair.gap
        if not bool((determinant > 0).all()):
            most = max(float(pair.var1.max()), float(pair.var2.max()))
            b = float(torch.as_tensor(self.b).max())
            raise ValueError(
                f"a exp(b u^2) with b = {b:.4g} has no second moment for a variance of u as large as {most:.4g}: "
                "4 b var(u) must stay below 1; take a smaller or negative b, or smaller weights before it"
            )
        return determinant


@dataclass(frozen=True)
class Gabor(Smooth):
    """phi(u) = exp(-u^2) sin u."""

    parity = -1

    def phi(self, u: Tensor) -> Tensor:
        return torch.exp(-u.square()) * torch.sin(u)

    def value(self, pair: Pair) -> Tensor:
        square, _, size = self._law(pair)
        return size * torch.sinh(pair.covariance / square)

    def slope(self, pair: Pair) -> Tensor:
        square, exponent, size = self._law(pair)
        ratio = pair.covariance / square
        even = torch.cosh(ratio) * (1 / square + 8 * ratio.square())
        return size * (even + torch.sinh(ratio) * 4 * ratio * (2 - exponent / square))

    def _law(self, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """D, p + r + 4 g and the factor of the hyperbolic sine."""
        total = pair.var1 + pair.var2
        square, exponent = 1 + 2 * total + 4 * pair.gap, total + 4 * pair.gap
        return square, exponent, torch.exp(-exponent / (2 * square)) * square.rsqrt()


class Decay(Activation):
    """An activation whose outputs have the correlation exp(-`distance`)."""

    @abstractmethod
    def distance(self, pair: Pair) -> Tensor:
        """Minus the logarithm of the correlation of the outputs."""

    @abstractmethod
    def size(self, std: Tensor) -> Tensor:
        """The root of E[phi(u)^2]."""

    @abstractmethod
    def gain(self, pair: Pair) -> Number:
        """The dual of phi' over that of phi."""

    def rule(self, state: CovState) -> CovState:
        pair = Pair(state.haversine, state.std1, state.std2)
        distance, std1, std2 = self.distance(pair), self.size(state.std1), self.size(state.std2)
        tangent = state.tangent
        if tangent is not None:
            tangent = tangent * (self.gain(pair) * (std1 * std2 * torch.exp(-distance)))
        return state.with_std(std1, std2, -0.5 * torch.expm1(-distance), tangent)


@dataclass(frozen=True)
class Rbf(Decay):
    """phi(u) = sqrt(2) sin(sqrt(2 gamma) u + pi / 4): the kernel exp(-gamma |x - x'|^2) of what u sees."""

    gamma: Number = 1

    def phi(self, u: Tensor) -> Tensor:
        return math.sqrt(2) * torch.sin((2 * self.gamma) ** 0.5 * u + math.pi / 4)

    def distance(self, pair: Pair) -> Tensor:
        return 2 * self.gamma * pair.distance

    def size(self, std: Tensor) -> Tensor:
        return torch.ones_like(std)

    def gain(self, pair: Pair) -> Number:
        return 2 * self.gamma


@dataclass(frozen=True)
class Exp(Decay):
    """phi(u) = a exp(b u)."""

    a: Number = 1
    b: Number = 1

    def phi(self, u: Tensor) -> Tensor:
        return self.a * torch.exp(self.b * u)

    def distance(self, pair: Pair) -> Tensor:
        return self.b**2 * pair.distance

    def size(self, std: Tensor) -> Tensor:
        return torch.exp(self.b**2 * std.square()) * (self.a**2) ** 0.5

    def gain(self, pair: Pair) -> Number:
        return self.b**2


@dataclass(frozen=True)
class ExpNormalized(Decay):
    """The dual a b exp(gamma (rho + shift)) of outputs, for a kernel alone: no function has it.

    Errors: NotImplementedError where a finite network is asked for.
    Source: Shankar et al. (2020), "Neural Kernels Without Tangents", section 4.
    """

    gamma: Number = 1
    shift: Number = -1

    def phi(self, u: Tensor) -> Tensor:
        raise NotImplementedError(NO_NETWORK)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        raise NotImplementedError(NO_NETWORK)

    def distance(self, pair: Pair) -> Tensor:
        return 2 * self.gamma * pair.haversine

    def size(self, std: Tensor) -> Tensor:
        exponent = self.gamma * (1 + self.shift) / 2
        return std * (exponent.exp() if isinstance(exponent, Tensor) else math.exp(exponent))

    def gain(self, pair: Pair) -> Tensor:
        positive = pair.both > 0
        return torch.where(positive, self.gamma / torch.where(positive, pair.both, 1), 0)


def _is_zero(value: Number) -> bool:
    return isinstance(value, float | int) and value == 0
