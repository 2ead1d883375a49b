"""Laws of observations y given latent values f, for variational processes.

A likelihood is known by log p(y | f). What learning asks of it is, for f ~ N(m, v),

    E log p(y | f),    alpha = dE / dm,    beta = -2 dE / dv,

by Gauss-Hermite quadrature, E = sum_k w_k log p(y | m + sqrt(v) z_k), and in closed form for Gaussian noise:

    E = -1/2 [log(2 pi s) + ((y - m)^2 + v) / s],    alpha = (y - m) / s,    beta = 1 / s.

A likelihood of one's own is a frozen dataclass over `Likelihood` with `log_prob`; with `mean`, `variance`, `cdf`
and `draw` it also has predictive laws of y.

Sources: Opper & Archambeau (2009), "The Variational Gaussian Approximation Revisited", for the derivatives;
Hensman, Matthews & Ghahramani (2015), "Scalable Variational Gaussian Process Classification", for quadrature.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy import special
from torch import Tensor

from kernelfield.models.evidence import NOISE_REACH

# Nodes of a quadrature: polynomials of degree 63 exactly. E log p is right to 1e-12 for counts where v < 25, to 1e-5
# for labels where v < 10; for Student-t laws, with poles beside the line, to 1e-5 where v < 4 noise, 2e-2 at 100 noise.
NODES = 32
LEAST = 1e-12  # variance of f, of which the square root still has a slope
NU_REACH = (1.0, 100.0)  # bounds of the degrees of freedom
EDGE = 0.5  # of a count: log(y + 1/2) is as free of bias as a logarithm of a count can be
SIGN = 1.5  # latent value of a label that is sure, probabilities 0.93 and 0.07


@dataclass(frozen=True)
class Local:
    """What some rows say: the sum of E log p, in nats, alpha (B, m), beta (B, g), and the slope in the logarithms (p,).

    g is one where the curvature is the same for all outputs, else m.
    """

    value: float
    pull: Tensor
    curvature: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Likelihood(ABC):
    """The law of y given f, each entry of y by the f of its own; see the module docstring.

    learned : the names of fields, positive numbers, that are learned by their logarithms.
    log_concave : whether log p is concave in f for every y, so that no beta is negative.
    scalable : whether the law holds of y as well as of any y * scale + shift, so that targets may be standardised.
    discrete : whether log_prob is that of a probability and not of a density.
    targets : what y can be, in words.
    """

    learned: ClassVar[tuple[str, ...]] = ()
    log_concave: ClassVar[bool] = False
    scalable: ClassVar[bool] = True
    discrete: ClassVar[bool] = False
    targets: ClassVar[str] = "numbers"

    @abstractmethod
    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        """log p(y | f), in nats, of shapes that broadcast; differentiable in f and in learned fields."""

    def latent(self, Y: Tensor) -> Tensor:
        """Values of f that would make y likely, from which a first kernel is learned."""
        return Y

    def possible(self, Y: Tensor) -> Tensor:
        """Which targets can be."""
        return torch.ones_like(Y, dtype=torch.bool)

    def check(self, Y: Tensor) -> None:
        """Refuse targets that cannot be.

        Errors: ValueError.
        """
        bad = Y[~self.possible(Y)]
        if len(bad):
            raise ValueError(f"targets of a {type(self).__name__} likelihood are {self.targets}, got {bad[0].item():g}")

    def reach(self, name: str, size: float) -> tuple[float, float]:
        """Bounds of a learned field, for latent values of mean square `size`."""
        return 1e-6, 1e6

    def logs(self) -> Tensor:
        """The logarithms (p,) of the learned fields."""
        return torch.tensor([math.log(getattr(self, name)) for name in self.learned], dtype=torch.double)

    def at(self, logs: Tensor) -> Self:
        """The likelihood with other learned fields, numbers if `logs` needs no gradient."""
        values = logs.exp().unbind() if logs.requires_grad else logs.exp().tolist()
        return replace(self, **dict(zip(self.learned, values, strict=True)))

    def expected(self, Y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """E log p(y | f) for f ~ N(mean, variance), all of one shape."""
        z, weight = (t.to(mean) for t in quadrature(NODES))
        f = mean.unsqueeze(-1) + variance.clamp_min(LEAST).sqrt().unsqueeze(-1) * z
        return self.log_prob(Y.unsqueeze(-1), f) @ weight

    def local(self, Y: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, logs: Tensor) -> Local:
        """What rows (B, m) say of f ~ N(mean, variance), variance (B, g); a row of weight w counts as w rows."""
        with torch.enable_grad():
            wide = variance.expand(mean.shape)
            free = [t.detach().clone().requires_grad_() for t in (mean, wide, logs)]
            expected = self.at(free[2]).expected(Y, free[0], free[1])
            value = (expected if weight is None else weight[:, None] * expected).sum()
            pull, bend, slope = torch.autograd.grad(value, free, allow_unused=True, materialize_grads=True)
        return Local(value.item(), pull, -2 * bend, slope)

    def outer(self, outputs: int) -> int:
        """The number g of curvatures of m outputs."""
        return outputs

    def mean(self, f: Tensor) -> Tensor:
        """E[y | f]."""
        raise NotImplementedError(_lacking(self, "mean"))

    def variance(self, f: Tensor) -> Tensor:
        """Var[y | f]."""
        raise NotImplementedError(_lacking(self, "variance"))

    def cdf(self, y: Tensor, f: Tensor) -> Tensor:
        """P(y or less | f)."""
        raise NotImplementedError(_lacking(self, "cdf"))

    def draw(self, z: Tensor, f: Tensor) -> Tensor:
        """The y whose level given f is that of a standard normal z."""
        raise NotImplementedError(_lacking(self, "draw"))


def _lacking(likelihood: Likelihood, what: str) -> str:
    name = type(likelihood).__name__
    return f"{name} has no {what}, which the law of y needs; define {name}.{what}, or ask for the law of f"


@lru_cache
def quadrature(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (count,) of averages over a standard normal.

    >>> z, weight = quadrature(5)
    >>> round((z**4 @ weight).item(), 6)
    3.0
    """
    z, weight = hermegauss(count)
    return torch.from_numpy(z), torch.from_numpy(weight / weight.sum())


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """y = f + e, e of the variance `noise`; a row of weight w has the variance noise / w.

    >>> Gaussian(0.5).local(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1), None, torch.tensor([0.5]).log()).pull
    tensor([[2.]])
    """

    noise: float = 0.1
    learned = ("noise",)
    log_concave = True

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        noise = torch.as_tensor(self.noise).to(f)
        return -0.5 * ((2 * math.pi * noise).log() + (y - f).square() / noise)

    def reach(self, name: str, size: float) -> tuple[float, float]:
        return NOISE_REACH[0] * size, NOISE_REACH[1] * size

    def expected(self, Y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return self.log_prob(Y, mean) - 0.5 * variance / torch.as_tensor(self.noise).to(mean)

    def local(self, Y: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, logs: Tensor) -> Local:
        rate = (-logs[0]).exp() * (torch.ones_like(Y[:, 0]) if weight is None else weight)
        gap = Y - mean
        heat = rate @ (gap.square().sum(-1) + Y.shape[1] * variance[:, 0])
        value = 0.5 * (Y.shape[1] * (rate / (2 * math.pi)).log().sum() - heat)
        slope = 0.5 * (heat - Y.numel())
        return Local(value.item(), rate[:, None] * gap, rate[:, None], slope[None])

    def outer(self, outputs: int) -> int:
        return 1


@dataclass(frozen=True)
class StudentT(Likelihood):
    """y = f + sqrt(noise) t, t of a Student-t law with nu degrees of freedom: for outliers.

    >>> round(StudentT(1.0, 3.0).log_prob(torch.tensor(0.0), torch.tensor(0.0)).item(), 6)
    -1.000889
    """

    noise: float = 0.1
    nu: float = 4.0
    learned = ("noise", "nu")

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        noise, nu = (torch.as_tensor(value).to(f) for value in (self.noise, self.nu))
        constant = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * (math.pi * nu * noise).log()
        return constant - (nu + 1) / 2 * torch.log1p((y - f).square() / (nu * noise))

    def latent(self, Y: Tensor) -> Tensor:
        # Three deviations about the median: an outlier says on which side f is, and not how far.
        centre = Y.median(0).values
        spread = 1.4826 * (Y - centre).abs().median(0).values
        return torch.where(spread > 0, Y.clamp(centre - 3 * spread, centre + 3 * spread), Y)

    def reach(self, name: str, size: float) -> tuple[float, float]:
        return NU_REACH if name == "nu" else (NOISE_REACH[0] * size, NOISE_REACH[1] * size)


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """y of zero or one, P(1) = sigmoid(f).

    >>> Bernoulli().mean(torch.zeros(1))
    tensor([0.5000])
    """

    log_concave = True
    scalable = False
    discrete = True
    targets = "zeros and ones"

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        inside = torch.nn.functional.logsigmoid((2 * y - 1) * f)
        return torch.where(self.possible(y), inside, -math.inf)

    def latent(self, Y: Tensor) -> Tensor:
        return SIGN * (2 * Y - 1)

    def possible(self, Y: Tensor) -> Tensor:
        return (Y == 0) | (Y == 1)

    def mean(self, f: Tensor) -> Tensor:
        return torch.sigmoid(f)

    def variance(self, f: Tensor) -> Tensor:
        return torch.sigmoid(f) * torch.sigmoid(-f)

    def cdf(self, y: Tensor, f: Tensor) -> Tensor:
        below = torch.where(y < 0, torch.zeros_like(f), torch.sigmoid(-f))
        return torch.where(y < 1, below, torch.ones_like(f))

    def draw(self, z: Tensor, f: Tensor) -> Tensor:
        return (torch.special.ndtr(z) > torch.sigmoid(-f)).to(f)


@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counts y of the rate exp(f).

    >>> round(Poisson().log_prob(torch.tensor(2.0), torch.tensor(0.0)).exp().item(), 4)  # exp(-1) / 2
    0.1839
    """

    log_concave = True
    scalable = False
    discrete = True
    targets = "counts 0, 1, 2, ..."

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        count = y.clamp_min(0)
        inside = count * f - f.exp() - torch.lgamma(count + 1)
        return torch.where(self.possible(y), inside, -math.inf)

    def latent(self, Y: Tensor) -> Tensor:
        return (Y + EDGE).log()

    def possible(self, Y: Tensor) -> Tensor:
        return (Y >= 0) & (Y == Y.round())

    def mean(self, f: Tensor) -> Tensor:
        return f.exp()

    def variance(self, f: Tensor) -> Tensor:
        return f.exp()

    def cdf(self, y: Tensor, f: Tensor) -> Tensor:
        level = torch.special.gammaincc(y.clamp_min(0).floor() + 1, f.exp())
        return torch.where(y < 0, torch.zeros_like(level), level)

    def draw(self, z: Tensor, f: Tensor) -> Tensor:
        level, rate = (
            t.detach().cpu().double().numpy() for t in torch.broadcast_tensors(torch.special.ndtr(z), f.exp())
        )
        count = np.ceil(special.pdtrik(level, rate)).clip(0)
        lower = (count - 1).clip(0)
        # The inverse is only known to rounding, which may show as one count too many.
        return torch.from_numpy(np.where(special.pdtr(lower, rate) >= level, lower, count)).to(f)


NAMED: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "student_t": StudentT,
    "bernoulli": Bernoulli,
    "poisson": Poisson,
}


def likelihood_of(choice: Likelihood | str, noise: float) -> Likelihood:
    """The likelihood of a name, started with `noise` where it has one, or one that is given.

    Errors: ValueError for an unknown name.
    """
    if isinstance(choice, Likelihood):
        return choice
    kind = NAMED.get(choice) if isinstance(choice, str) else None
    if kind is None:
        raise ValueError(f"likelihood must be a Likelihood or one of {', '.join(NAMED)}, got {choice!r}")
    return replace(kind(), noise=noise) if kind in (Gaussian, StudentT) else kind()
