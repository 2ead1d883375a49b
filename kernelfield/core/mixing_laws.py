"""Mixing laws with a name; see `core.mixing_density` for what they have in common.

Their densities, with the unit of s as one and x = s / unit:

    Gamma        x^(alpha - 1) exp(-alpha x), unit the mean: sqrt(s) z is variance-gamma, Laplace if alpha = 1
    BurrXII      c d x^(c - 1) (1 + x^c)^(-d - 1): a tail of the power c d, the mode above zero if c > 1
    LogNormal    log x normal with the given std
    BetaPrime    x^(a - 1) (1 + x)^(-a - b) / B(a, b): a ratio of gamma variables; a tail of the power b
    HalfCauchy   sqrt(x) half-Cauchy: BetaPrime(1/2, 1/2); sqrt(s) z is the horseshoe prior

Sources: Lee, Yun, Yang & Lee (2022), "Scale Mixtures of Neural Network Gaussian Processes",
for Burr XII; Carvalho, Polson & Scott (2010), "The Horseshoe Estimator for Sparse
Signals"; Barndorff-Nielsen, Kent & Sorensen (1982), "Normal Variance-Mean Mixtures and z
Distributions".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy import special
from torch import Tensor

from kernelfield.core.mixing_density import Density


@dataclass(frozen=True)
class Gamma(Density):
    """s ~ Gamma(alpha, beta), beta a rate. Learning alpha holds the mean alpha / beta.

    Errors: ValueError if alpha or beta is not positive and finite.

    >>> law = Gamma(1.0, 0.5)  # sqrt(s) z is a Laplace variable of scale 1
    >>> round(law.cdf(torch.tensor(-1.0)).item(), 6)  # exp(-1) / 2
    0.18394
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        self.require_positive("alpha", "beta")

    @property
    def shapes(self) -> dict[str, float]:
        return {"alpha": self.alpha}

    @property
    def mean(self) -> float:
        return self.alpha / self.beta

    def reshaped(self, values: Sequence[float]) -> "Gamma":
        (alpha,) = values
        return Gamma(alpha, self.beta / self.alpha * alpha)

    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        alpha = torch.as_tensor(shapes[0]).to(u)
        beta = self.beta / self.alpha * alpha
        return alpha * (beta.log() + u) - torch.lgamma(alpha) - beta * u.exp()


@dataclass(frozen=True)
class BurrXII(Density):
    """s / unit ~ Burr XII with the shapes c and d: P(s > x unit) = (1 + x^c)^(-d).

    Errors: ValueError if a parameter is not positive and finite.

    >>> BurrXII(1.0, 2.0).mean  # 1 / (d - 1), a Lomax law
    1.0
    """

    c: float
    d: float
    unit: float = 1.0

    def __post_init__(self) -> None:
        self.require_positive("c", "d", "unit")

    @property
    def shapes(self) -> dict[str, float]:
        return {"c": self.c, "d": self.d}

    @property
    def mean(self) -> float:
        if self.c * self.d <= 1:
            return math.inf
        return self.unit * self.d * math.exp(special.betaln(self.d - 1 / self.c, 1 + 1 / self.c))

    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        c, d = (torch.as_tensor(shape).to(u) for shape in shapes)
        v = c * (u - math.log(self.unit))
        return (c * d).log() + v - (d + 1) * _softplus(v)


@dataclass(frozen=True)
class LogNormal(Density):
    """log(s / unit) is normal with mean zero and this std, so that unit is the median.

    Errors: ValueError if a parameter is not positive and finite.

    >>> round(LogNormal(1.0, 2.0).mean, 6)  # 2 exp(1 / 2)
    3.297443
    """

    std: float
    unit: float = 1.0

    def __post_init__(self) -> None:
        self.require_positive("std", "unit")

    @property
    def shapes(self) -> dict[str, float]:
        return {"std": self.std}

    @property
    def mean(self) -> float:
        half = self.std**2 / 2
        return self.unit * math.exp(half) if half < 700 else math.inf

    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        std = torch.as_tensor(shapes[0]).to(u)
        z = (u - math.log(self.unit)) / std
        return -0.5 * (z.square() + math.log(2 * math.pi)) - std.log()


@dataclass(frozen=True)
class BetaPrime(Density):
    """s / unit ~ BetaPrime(a, b), the ratio of a Gamma(a) and a Gamma(b) variable.

    Errors: ValueError if a parameter is not positive and finite.

    >>> BetaPrime(2.0, 3.0).mean  # a / (b - 1)
    1.0
    """

    a: float
    b: float
    unit: float = 1.0

    def __post_init__(self) -> None:
        self.require_positive("a", "b", "unit")

    @property
    def shapes(self) -> dict[str, float]:
        return {"a": self.a, "b": self.b}

    @property
    def mean(self) -> float:
        return self.unit * self.a / (self.b - 1) if self.b > 1 else math.inf

    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        a, b = (torch.as_tensor(shape).to(u) for shape in shapes)
        v = u - math.log(self.unit)
        return torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b) + a * v - (a + b) * _softplus(v)


@dataclass(frozen=True)
class HalfCauchy(Density):
    """sqrt(s) ~ half-Cauchy with this spread: the law of a standard deviation with no opinion on it.

    There is no shape to learn, and no variance: E[s] is infinite before data are seen.

    Errors: ValueError if the spread is not positive and finite.

    >>> round(HalfCauchy(2.0).scale(torch.tensor(0.0)).item(), 6)  # the median of sqrt(s)
    2.0
    """

    spread: float = 1.0

    mean = math.inf

    def __post_init__(self) -> None:
        self.require_positive("spread")

    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        v = u - 2 * math.log(self.spread)
        return v / 2 - _softplus(v) - math.log(math.pi)


def _softplus(v: Tensor) -> Tensor:
    """log(1 + exp(v)); torch's own drops what is below 2e-9."""
    return torch.logaddexp(v, torch.zeros_like(v))
