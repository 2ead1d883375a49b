"""A law whose levels have been recalibrated: F' = G(F), one curve an output.

Quantiles, distribution functions and densities are exact. A draw sends each value of a draw of the
law below it to the same level, so that the dependence of points and outputs (the copula) is kept:

    y' = F'^-1(F(y)).

Moments are numerical. For a scale mixture, all points of an output share the moments of one
standard law; for others E(y - o) = int_o^inf (1 - F') dy - int_-inf^o F' dy and E(y - o)^2 alike, by
the trapezoidal rule about the middle o of each point. Both leave out what lies beyond the normal
scores -8.2 and 8.2, so that a variance is finite only in name where the curve gives a tail of
infinite variance to a Student-t law.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.uq.recalibration.curves import Curve, log_change
from kernelfield.uq.recalibration.normal_scores import Scored, at_normal_score, below, normal_score, single

REACH = 8.2  # of normal scores in moments: a level of 1e-16
NODES = 4001  # of the moments of a standard law
PLACES = 129  # of the moments of each point; 1e-3 of the deviation
CROWDING = 3.5  # places are sinh(CROWDING v) apart, v even: close near the middle


@dataclass(frozen=True, eq=False)
class Recalibrated(Scored):
    """The law with normal scores curves(t); see the module docstring.

    >>> from kernelfield.uq.recalibration.curves import PiecewiseCurve
    >>> law = Elliptical(torch.zeros(1, 1), torch.eye(1))
    >>> half = PiecewiseCurve(torch.zeros(1), torch.zeros(1), torch.tensor([0.5, 0.5]))  # the law was too narrow
    >>> round(Recalibrated(law, (half,)).variance.item(), 6)
    4.0
    """

    law: Posterior
    curves: tuple[Curve, ...]

    @property
    def width(self) -> int:
        return self.law.width

    @property
    def mean(self) -> Tensor:
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        return self._moments[1]

    def draw(self, z: Tensor) -> Tensor:
        return self.at_normal_score(normal_score(self.law, self.law.draw(z)))

    def cdf(self, y: Tensor) -> Tensor:
        return below(self.normal_score(y))

    def log_prob(self, y: Tensor) -> Tensor:
        t = normal_score(self.law, y)
        return self.law.log_prob(y) + self._each(t, log_change)

    def quantile(self, p: float) -> Tensor:
        return self.at_normal_score(torch.special.ndtri(torch.full_like(self.law.mean, p)))

    def affine(self, scale: Tensor, shift: Tensor) -> "Recalibrated":
        return replace(self, law=self.law.affine(scale, shift))

    def normal_score(self, y: Tensor) -> Tensor:
        return self._each(normal_score(self.law, y), lambda curve, t: curve.forward(t))

    def at_normal_score(self, t: Tensor) -> Tensor:
        return at_normal_score(self.law, self._inverse(t))

    def _inverse(self, s: Tensor) -> Tensor:
        return self._each(s, lambda curve, s: curve.inverse(s))

    def _each(self, t: Tensor, function: Callable[[Curve, Tensor], Tensor]) -> Tensor:
        """function(curve, t) of each output's curve at its scores, t of shape (*, m)."""
        parts = zip(self.curves, t.unbind(-1), strict=True)
        return torch.stack([function(curve, column) for curve, column in parts], -1)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        match self.law.law if isinstance(self.law, Pathwise) else self.law:
            case Elliptical() as law:
                mean, variance = self._standard_moments(law.mixing)
                return law.loc + law.spread * mean, law.spread.square() * variance
            case Draws() as law if single(law):
                mean, variance = self._standard_moments(Unit())
                return law.mean + law.variance.sqrt() * mean, law.variance * variance
        return self._own_moments()

    def _standard_moments(self, mixing: Mixing) -> tuple[Tensor, Tensor]:
        """Of q(h^-1(s)), each (m,), where the quantiles q of the standard law are the same at all points."""
        outputs = len(self.curves)
        s = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64, device=self.law.mean.device)
        standard = Elliptical(s.new_zeros(1, outputs), torch.eye(outputs).to(s), mixing)
        mass = (-s.square() / 2).exp()
        values = at_normal_score(standard, self._inverse(s[:, None].expand(-1, outputs)))
        mean = (mass @ values) / mass.sum()
        variance = mass @ (values - mean).square() / mass.sum()
        return mean.to(self.law.mean), variance.to(self.law.mean)

    def _own_moments(self) -> tuple[Tensor, Tensor]:
        low, middle, high = (self.at_normal_score(torch.full_like(self.law.mean, t)) for t in (-REACH, 0.0, REACH))
        first, second = torch.zeros_like(middle), torch.zeros_like(middle)
        v = torch.linspace(0, 1, PLACES // 2 + 1, dtype=torch.float64)
        shares = (torch.sinh(CROWDING * v) / torch.sinh(torch.tensor(CROWDING))).tolist()
        for end, sign in ((low, -1), (high, 1)):
            reach, before, place_before = end - middle, None, 0.0
            for share in shares:
                outside = below(-sign * self.normal_score(middle + share * reach))
                if before is not None:
                    step = share - place_before
                    first = first + reach * step * (before + outside) / 2
                    second = second + reach.square() * step * (place_before * before + share * outside)
                before, place_before = outside, share
        return middle + first, second - first.square()
