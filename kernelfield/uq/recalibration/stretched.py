"""A law whose spread is scaled about its own mean, and whose mean is shifted.

    g = mean + shift + factor (f - mean)

Elliptical laws, sets of functions, histograms, quantiles and sums with Student-t noise are closed under it,
so that a Gaussian stays one, its joint covariance scaled by factor^2; any other law is wrapped.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from kernelfield.core.convolved import Convolved
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.recalibration.normal_scores import Scored, at_normal_score, normal_score


def stretched(law: Posterior, factor: Tensor, shift: Tensor) -> Posterior:
    """The law with its spread times `factor` > 0 and its mean plus `shift`, both (m,).

    >>> import torch
    >>> law = Elliptical(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    >>> wider = stretched(law, torch.tensor([2.0]), torch.tensor([0.5]))
    >>> wider.mean.item(), wider.variance.item()
    (3.5, 4.0)
    """
    factor, shift = factor.to(law.mean), shift.to(law.mean)
    match law:
        case Elliptical():
            return replace(law, loc=law.loc + shift, unit=law.unit * factor)
        case Pathwise():
            elliptical = law.law
            return replace(law, law=replace(elliptical, loc=elliptical.loc + shift, unit=elliptical.unit * factor))
        case Convolved():
            latent = replace(law.latent, loc=law.latent.loc + shift, unit=law.latent.unit * factor)
            return replace(law, latent=latent, noise=law.noise * factor.square())
        case Draws():
            centre = law.mean.unsqueeze(-3)
            values = centre + shift + factor * (law.values - centre)
            return replace(law, values=values, noise=law.noise * factor.square())
        case Binned():
            centre = law.mean.unsqueeze(-1)
            edges = centre + shift[:, None] + factor[:, None] * (law.edges - centre)
            return replace(law, edges=edges)
        case Quantiles():
            centre = law.mean.unsqueeze(-1)
            values = centre + shift[:, None] + factor[:, None] * (law.values - centre)
            return replace(law, values=values, point=None if law.point is None else law.point + shift)
    return Stretched(law, factor, shift)


@dataclass(frozen=True, eq=False)
class Stretched(Scored):
    """The wrapper for families that are not closed: see the module docstring."""

    law: Posterior
    factor: Tensor
    shift: Tensor

    @property
    def width(self) -> int:
        return self.law.width

    @property
    def mean(self) -> Tensor:
        return self.law.mean + self.shift

    @property
    def variance(self) -> Tensor:
        return self.law.variance * self.factor.square()

    def draw(self, z: Tensor) -> Tensor:
        return self._outwards(self.law.draw(z))

    def cdf(self, y: Tensor) -> Tensor:
        return self.law.cdf(self.inwards(y))

    def log_prob(self, y: Tensor) -> Tensor:
        return self.law.log_prob(self.inwards(y)) - self.factor.log()

    def quantile(self, p: float) -> Tensor:
        return self._outwards(self.law.quantile(p))

    def affine(self, scale: Tensor, shift: Tensor) -> "Stretched":
        return replace(self, law=self.law.affine(scale, shift), shift=self.shift * scale)

    def normal_score(self, y: Tensor) -> Tensor:
        return normal_score(self.law, self.inwards(y))

    def at_normal_score(self, t: Tensor) -> Tensor:
        return self._outwards(at_normal_score(self.law, t))

    def inwards(self, y: Tensor) -> Tensor:
        """The value of the inner law that became y."""
        mean = self.law.mean
        return mean + (y - self.shift - mean) / self.factor

    def _outwards(self, y: Tensor) -> Tensor:
        mean = self.law.mean
        return mean + self.shift + self.factor * (y - mean)
