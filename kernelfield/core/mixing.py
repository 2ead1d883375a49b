"""Laws of the scale variable in an elliptical posterior.

A scale mixture draws one positive number per function, then a Gaussian:

    f = loc + sqrt(s) L z,    s ~ mixing law,    z ~ N(0, I).

Each law is a push-forward of a single standard normal, so that quasi-random and common
random numbers work the same for every law. `Unit` gives the Gaussian, `InverseGamma` the
Student-t; they are in closed form. Laws known by their density are in `core.mixing_density`,
those of them with a name in `core.mixing_laws`. N observations y of such a function, with
S = y' A^-1 y, have the density

    p(y) = |2 pi A|^(-1/2) E[ s^(-N/2) exp(-S / (2 s)) ],

and s given y has the law that is proportional to the integrand.

The size of s cannot be told from that of A: c s and A / c give the same functions. What can be
learned from data is therefore the shape of a law, by its dimensionless parameters `shapes`,
while its unit is held: for `InverseGamma` beta / alpha, for `Gamma` the mean, for others a
parameter of that name. The size is learned as the output scale of the kernel.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from scipy import special
from torch import Tensor


class Mixing(ABC):
    """A law on s > 0, and the marginal law of sqrt(s) z that it induces."""

    width: int  # standard normals used by `scale`: 0 or 1

    @property
    def shapes(self) -> dict[str, float]:
        """The dimensionless parameters, all positive, by name: what data can teach about the law."""
        return {}

    @property
    @abstractmethod
    def mean(self) -> float:
        """E[s]; infinite where the marginal has no variance."""

    @abstractmethod
    def scale(self, z: Tensor) -> Tensor:
        """sqrt(s) from standard normals z; shape (*,) to (*,)."""

    @abstractmethod
    def cdf(self, t: Tensor) -> Tensor:
        """P(sqrt(s) z <= t); any shape."""

    @abstractmethod
    def quantile(self, p: Tensor) -> Tensor:
        """The t with cdf(t) = p; any shape, p in (0, 1)."""

    @abstractmethod
    def log_density(self, t: Tensor) -> Tensor:
        """Log density of sqrt(s) z at t; any shape."""

    @abstractmethod
    def log_expectation(self, S: float, N: int) -> tuple[float, float]:
        """log E[s^(-N/2) exp(-S / (2 s))], in nats, and its derivative in S."""

    @abstractmethod
    def condition(self, S: float, N: int) -> "Mixing":
        """The law of s given N observations with the quadratic form S."""

    def means(self, S: Tensor, N: int) -> Tensor:
        """E[s] given N observations with each of the quadratic forms S (k,)."""
        return S.new_tensor([self.condition(value, N).mean for value in S.tolist()])

    def score(self, S: float, N: int) -> tuple[float, ...]:
        """The derivatives of log E[s^(-N/2) exp(-S / (2 s))] in the logarithm of each shape."""
        return ()

    def reshaped(self, values: Sequence[float]) -> Self:
        """The law with other shapes and the same unit."""
        return replace(self, **dict(zip(self.shapes, values, strict=True)))  # type: ignore[type-var]

    def require_positive(self, *names: str) -> None:
        """Refuse fields that are no positive and finite number.

        Errors: ValueError, with the field and its value.
        """
        for name in names:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} of {type(self).__name__} must be positive and finite, got {value}")


@dataclass(frozen=True)
class Unit(Mixing):
    """s = 1: the Gaussian case."""

    width = 0
    mean = 1.0

    def scale(self, z: Tensor) -> Tensor:
        return torch.ones_like(z)

    def cdf(self, t: Tensor) -> Tensor:
        return torch.special.ndtr(t)

    def quantile(self, p: Tensor) -> Tensor:
        return torch.special.ndtri(p)

    def log_density(self, t: Tensor) -> Tensor:
        return -0.5 * (t.square() + math.log(2 * math.pi))

    def log_expectation(self, S: float, N: int) -> tuple[float, float]:
        return -S / 2, -0.5

    def condition(self, S: float, N: int) -> "Unit":
        return self


@dataclass(frozen=True)
class InverseGamma(Mixing):
    """s ~ InverseGamma(alpha, beta): sqrt(s) z is sqrt(beta / alpha) times a Student-t.

    The Student-t has 2 alpha degrees of freedom; `student` makes the law from them.

    Errors: ValueError if alpha or beta is not positive and finite.
    Source: Shah, Wilson & Ghahramani (2014), "Student-t Processes as Alternatives to
    Gaussian Processes", section 2 (here with a scale matrix, not a covariance).

    >>> law = InverseGamma.student(4.0)
    >>> law.mean  # the variance of a Student-t with four degrees of freedom
    2.0
    """

    alpha: float
    beta: float

    width = 1

    def __post_init__(self) -> None:
        self.require_positive("alpha", "beta")

    @classmethod
    def student(cls, df: float) -> "InverseGamma":
        """The law under which sqrt(s) z is a Student-t with `df` degrees of freedom."""
        return cls(df / 2, df / 2)

    @property
    def shapes(self) -> dict[str, float]:
        return {"alpha": self.alpha}

    @property
    def df(self) -> float:
        return 2 * self.alpha

    @property
    def spread(self) -> float:
        """What the Student-t is stretched by."""
        return math.sqrt(self.beta / self.alpha)

    @property
    def mean(self) -> float:
        return self.beta / (self.alpha - 1) if self.alpha > 1 else math.inf

    def scale(self, z: Tensor) -> Tensor:
        # beta / s is Gamma(alpha), so s falls as its own quantile level rises.
        # Using the upper tail keeps large |z| accurate on both sides.
        level = torch.special.ndtr(z.double()).detach().cpu().numpy()
        gamma = special.gammainccinv(self.alpha, level)
        return (self.beta / torch.as_tensor(gamma)).sqrt().to(z)

    def cdf(self, t: Tensor) -> Tensor:
        return _StudentCdf.apply(t / self.spread, self.df)

    def quantile(self, p: Tensor) -> Tensor:
        value = special.stdtrit(self.df, p.detach().cpu().numpy())
        return self.spread * torch.as_tensor(value).to(p)

    def log_density(self, t: Tensor) -> Tensor:
        return _student_log_density(t / self.spread, self.df) - math.log(self.spread)

    def log_expectation(self, S: float, N: int) -> tuple[float, float]:
        alpha, beta = self.alpha + N / 2, self.beta + S / 2
        value = math.lgamma(alpha) - math.lgamma(self.alpha) + self.alpha * math.log(self.beta)
        return value - alpha * math.log(beta), -0.5 * alpha / beta

    def condition(self, S: float, N: int) -> "InverseGamma":
        return InverseGamma(self.alpha + N / 2, self.beta + S / 2)

    def means(self, S: Tensor, N: int) -> Tensor:
        alpha = self.alpha + N / 2
        return (self.beta + S / 2) / (alpha - 1) if alpha > 1 else torch.full_like(S, math.inf)

    def score(self, S: float, N: int) -> tuple[float, ...]:
        alpha, beta = self.alpha + N / 2, self.beta + S / 2
        in_alpha = float(special.digamma(alpha) - special.digamma(self.alpha)) - math.log1p(S / (2 * self.beta))
        in_beta = self.alpha / self.beta - alpha / beta
        return (self.alpha * in_alpha + self.beta * in_beta,)

    def reshaped(self, values: Sequence[float]) -> "InverseGamma":
        (alpha,) = values
        return InverseGamma(alpha, self.beta / self.alpha * alpha)


class _StudentCdf(torch.autograd.Function):
    """SciPy's Student-t distribution function, with its density as derivative."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, df: float) -> Tensor:
        ctx.save_for_backward(t)
        ctx.df = df
        return torch.as_tensor(special.stdtr(df, t.detach().cpu().numpy())).to(t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (t,) = ctx.saved_tensors
        return grad * _student_log_density(t, ctx.df).exp(), None


def _student_log_density(t: Tensor, df: float) -> Tensor:
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(math.pi * df)
    return constant - (df + 1) / 2 * torch.log1p(t.square() / df)
