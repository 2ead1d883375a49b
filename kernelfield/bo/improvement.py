"""Acquisition functions of means and standard deviations, in closed form with their slopes.

With z = (mean - best) / std and h(z) = phi(z) + z Phi(z),

    log EI = log std + log h(z),      dlog EI = (Phi(z) dmean + phi(z) dstd) / (std h(z)),

which stays finite where the improvement itself underflows. Constraints c(x) <= 0 that are independent
of the objective multiply it by Phi(-mean_c / std_c). All is maximised.

Sources: Ament et al. (2023), "Unexpected Improvements to Expected Improvement for Bayesian
Optimization"; Gardner et al. (2014), "Bayesian Optimization with Inequality
Constraints".
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.bo.moments import Moments

SURE = 10.0  # z above which h(z) is z to rounding, and its own formula would overflow
FAR = -60.0  # z below which five terms of the asymptotic series of h err by 2e-14, and its own formula by 1e-12
LOG_NORMAL = 0.5 * math.log(2 * math.pi)


class Acquisition(ABC):
    """A function of points X (r, d) of the unit cube, the larger the better the point."""

    @abstractmethod
    def values(self, X: Tensor) -> Tensor:
        """Its values (r,)."""

    @abstractmethod
    def slopes(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Its values (r,) and slopes (r, d)."""

    def rough(self, X: Tensor) -> Tensor:
        """What ranks points (r,) to start a search from; another thing than the values where these are dear."""
        return self.values(X)


class Pointwise(Acquisition):
    """A function of one output's mean and standard deviation at each point."""

    moments: Moments

    @abstractmethod
    def of(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (r,) and their slopes in mean and standard deviation."""

    def values(self, X: Tensor) -> Tensor:
        return self.of(*self.moments.values(X))[0]

    def slopes(self, X: Tensor) -> tuple[Tensor, Tensor]:
        law = self.moments.at(X)
        value, dmean, dstd = self.of(law.mean, law.std)
        return value, law.pull(dmean, dstd)


@dataclass(frozen=True, eq=False)
class LogImprovement(Pointwise):
    """The logarithm of the expected improvement over `best`, both in units of the objective."""

    moments: Moments
    best: float

    def of(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = (mean - self.best) / std
        log_h, mills, excess = _partial_expectation(z)
        dstd = (excess * std).reciprocal_()  # phi / (std h), as h = phi excess
        return log_h + std.log(), mills * dstd, dstd


@dataclass(frozen=True, eq=False)
class LogProbability(Pointwise):
    """The logarithm of P(f > best), or of P(f <= best) with sign = -1."""

    moments: Moments
    best: float
    sign: float = 1.0

    def of(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.sign * (mean - self.best) / std
        value = torch.special.log_ndtr(z)
        dz = (-0.5 * z.square() - LOG_NORMAL - value).exp()
        return value, self.sign * dz / std, -dz * z / std


@dataclass(frozen=True, eq=False)
class UpperBound(Pointwise):
    """mean + width * std, in units of the objective."""

    moments: Moments
    width: float

    def of(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return mean + self.width * std, torch.ones_like(mean), torch.full_like(std, self.width)


@dataclass(frozen=True, eq=False)
class Total(Acquisition):
    """The sum of acquisition functions: of logarithms, the product of independent ones."""

    parts: Sequence[Acquisition]

    def values(self, X: Tensor) -> Tensor:
        return torch.stack([part.values(X) for part in self.parts]).sum(0)

    def slopes(self, X: Tensor) -> tuple[Tensor, Tensor]:
        values, slopes = zip(*(part.slopes(X) for part in self.parts), strict=True)
        return torch.stack(values).sum(0), torch.stack(slopes).sum(0)


@dataclass(frozen=True, eq=False)
class Differentiable(Acquisition):
    """A function from points (r, d) to values (r,), each of its own point alone, that torch can differentiate."""

    function: Callable[[Tensor], Tensor]

    def values(self, X: Tensor) -> Tensor:
        with torch.no_grad():
            return self.function(X)

    def slopes(self, X: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            X = X.detach().requires_grad_()
            value = self.function(X)
            (slope,) = torch.autograd.grad(value.sum(), X)
        return value.detach(), slope


def log_partial_expectation(z: Tensor) -> Tensor:
    """log(phi(z) + z Phi(z)), to rounding for every z.

    >>> round(log_partial_expectation(torch.tensor([0.0])).item(), 4)  # log phi(0)
    -0.9189
    """
    return _partial_expectation(z)[0]


def _partial_expectation(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log h(z), Mills' ratio m = Phi(z) / phi(z), no greater than at SURE, and 1 + z m, which is h(z) / phi(z)."""
    least, most = (end.item() for end in z.aminmax()) if len(z) else (0.0, 0.0)
    near = z if FAR < least and most < SURE else z.clamp(FAR, SURE)
    mills = torch.special.erfcx(near * -math.sqrt(0.5)) * math.sqrt(math.pi / 2)
    excess = torch.addcmul(torch.ones_like(z), z, mills)
    if least <= FAR:
        square = z.clamp_max(FAR).square()
        tail = (1 - 3 / square * (1 - 5 / square * (1 - 7 / square * (1 - 9 / square)))) / square
        excess, mills = torch.where(z > FAR, excess, tail), torch.where(z > FAR, mills, (tail - 1) / z.clamp_max(FAR))
    log_h = excess.log().addcmul_(z, z, value=-0.5).sub_(LOG_NORMAL)
    return log_h if most < SURE else torch.where(z < SURE, log_h, z.clamp_min(SURE).log()), mills, excess
