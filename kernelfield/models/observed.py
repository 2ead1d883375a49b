"""The law of observations y whose likelihood is not Gaussian, around a Gaussian law of f.

Each y depends on its own f alone, so that marginals are averages over a line, by Gauss-Hermite quadrature:

    P(y) = sum_k w_k P(y | m + sqrt(v) z_k),

and joint draws are draws of f, and of y given it. For counts and labels the density is the probability of a value.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Elliptical, Posterior
from kernelfield.models.likelihoods import Likelihood, quadrature

NODES = 64  # more than learning takes, whose errors do not pile up in tails


@dataclass(frozen=True, eq=False)
class Observed(Posterior):
    """scale * y + shift for y of a likelihood given f; scale and shift are numbers for each output (m,).

    Errors: ValueError for a law of f that is not Gaussian; NotImplementedError where the likelihood has no law of y.

    >>> from kernelfield.models.likelihoods import Poisson
    >>> law = Observed(Elliptical(torch.zeros(1, 1), torch.eye(1)), Poisson())
    >>> round(law.mean.item(), 4)  # exp(1/2)
    1.6487
    """

    latent: Elliptical
    likelihood: Likelihood
    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    def __post_init__(self) -> None:
        if self.latent.mixing != Unit():
            raise ValueError(f"the law of f must be Gaussian, got one with {self.latent.mixing}; give Elliptical(...)")

    @property
    def width(self) -> int:
        return 2 * self.latent.width

    @property
    def mean(self) -> Tensor:
        return self.shift + self.scale * self._first

    @property
    def _first(self) -> Tensor:
        return self._average(self.likelihood.mean)

    @property
    def variance(self) -> Tensor:
        centre = self._first.unsqueeze(-1)

        def spread(f: Tensor) -> Tensor:
            return self.likelihood.variance(f) + (self.likelihood.mean(f) - centre).square()

        return torch.as_tensor(self.scale).to(centre).square() * self._average(spread)

    def draw(self, z: Tensor) -> Tensor:
        # The normals of a row stay together, so that adding points keeps earlier noise in place.
        n, m = self.latent.mean.shape[-2:]
        of_f, of_y = z.unflatten(-1, (n, 2 * m)).split(m, -1)
        f = self.latent.draw(of_f.flatten(-2))
        return self.shift + self.scale * self.likelihood.draw(of_y, f)

    def cdf(self, y: Tensor) -> Tensor:
        own = self._own(y)
        if self.likelihood.discrete:
            own = _whole(own)
        return self._average(lambda f: self.likelihood.cdf(own.unsqueeze(-1), f))

    def log_prob(self, y: Tensor) -> Tensor:
        own = self._own(y)
        if self.likelihood.discrete:
            own = _whole(own)
        z, weight = self._nodes
        inside = (self.likelihood.log_prob(own.unsqueeze(-1), z) + weight.log()).logsumexp(-1)
        return inside if self.likelihood.discrete else inside - torch.as_tensor(self.scale).to(inside).log()

    def quantile(self, p: float) -> Tensor:
        found = super().quantile(p)
        if not self.likelihood.discrete:
            return found
        return self.shift + self.scale * self._own(found).round()  # the bisection ends a rounding error beside it

    def affine(self, scale: Tensor, shift: Tensor) -> "Observed":
        return replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def _own(self, y: Tensor) -> Tensor:
        return (y - self.shift) / self.scale

    @property
    def _nodes(self) -> tuple[Tensor, Tensor]:
        """f at the nodes (*b, n, m, k), and weights (k,)."""
        z, weight = (t.to(self.latent.mean) for t in quadrature(NODES))
        return self.latent.mean.unsqueeze(-1) + self.latent.spread.unsqueeze(-1) * z, weight

    def _average(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        f, weight = self._nodes
        return function(f) @ weight


def _whole(y: Tensor) -> Tensor:
    """The nearest whole number, where y is one up to rounding."""
    near = y.round()
    return torch.where((y - near).abs() < 1e-9 * near.abs().clamp_min(1), near, y)
