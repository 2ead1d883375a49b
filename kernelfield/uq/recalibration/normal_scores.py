"""Normal scores: where a value lies in a law, as the standard normal that has the same level.

    t(y) = Phi^-1(F(y)),    y(t) = F^-1(Phi(t)).

A value ten deviations out has a level that rounds to one, and the normal score 10. So both tails
are computed from the smaller of F and 1 - F, where the family of the law allows it: exactly for
Gaussians and laws by quantiles, to |t| = 37 for scale mixtures and mixtures of Gaussians, and to |t| = 8 for others.

Shapes: y and t broadcast with the law's (*b, n, m).
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from kernelfield.core.mixing import Unit
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles

FARTHEST = 37.0  # Phi(-38) is not a normal double
HALVINGS = 60  # of a bracket: to below double rounding


class Scored(Posterior):
    """A law made from another one, which knows its own normal scores."""

    @abstractmethod
    def normal_score(self, y: Tensor) -> Tensor:
        """See `normal_score`."""

    @abstractmethod
    def at_normal_score(self, t: Tensor) -> Tensor:
        """See `at_normal_score`."""


def normal_score(law: Posterior, y: Tensor) -> Tensor:
    """The standard normal of the same level as y.

    >>> law = Elliptical(torch.ones(1, 1), torch.tensor([[4.0]]))
    >>> normal_score(law, torch.tensor([[41.0]])).item()
    20.0
    """
    match law:
        case Scored():
            return law.normal_score(y)
        case Pathwise():
            return normal_score(law.law, y)
        case Quantiles():
            return law.score(y).clamp(-FARTHEST, FARTHEST)  # infinite beside an atom at the end
        case Elliptical(mixing=Unit()):
            return (y - law.loc) / law.spread
        case Elliptical():
            z = (y - law.loc) / law.spread
            side = _side(z)
            return -side * _score_of(law.mixing.cdf(-side * z))
        case Draws() if single(law):
            return (y - law.mean) / law.variance.sqrt()
        case Draws() if noisy(law):
            z = (y.unsqueeze(-3) - law.values) / law.spread
            weights = law.weights[:, None, None]
            lower, upper = (weights * below(z)).sum(-3), (weights * below(-z)).sum(-3)
            return torch.where(lower < upper, _score_of(lower), -_score_of(upper))
    level = law.cdf(y)
    return torch.where(level < 0.5, _score_of(level), -_score_of((1 - level).clamp_min(torch.finfo(y.dtype).eps / 2)))


def at_normal_score(law: Posterior, t: Tensor) -> Tensor:
    """The value whose level is that of the standard normal t; differentiable where the law has a density.

    >>> law = Elliptical(torch.ones(1, 1), torch.tensor([[4.0]]))
    >>> at_normal_score(law, torch.tensor([[20.0]])).item()
    41.0
    """
    match law:
        case Scored():
            return law.at_normal_score(t)
        case Pathwise():
            return at_normal_score(law.law, t)
        case Quantiles():
            return law.at_score(t)
        case Elliptical(mixing=Unit()):
            return law.loc + law.spread * t
        case Elliptical():
            side = _side(t)
            level = below((-side * t).clamp_min(-FARTHEST))
            return law.loc - law.spread * side * law.mixing.quantile(level)
        case Draws() if single(law):
            return law.mean + law.variance.sqrt() * t
    with torch.no_grad():
        value = _bisected(law, t)
    if not torch.is_grad_enabled():
        return value
    gap = normal_score(law, value) - t
    if not gap.requires_grad:
        return value
    # One Newton step from the solution changes nothing but the derivative, by the implicit function theorem.
    log_slope = law.log_prob(value).detach() + 0.5 * t.detach().square() + 0.5 * math.log(2 * math.pi)
    return value - (gap - gap.detach()) * (-log_slope).exp()


def below(t: Tensor) -> Tensor:
    """The normal distribution function; torch's own loses the figures of its lower tail."""
    return 0.5 * torch.special.erfc(-t / math.sqrt(2))


def single(law: Draws) -> bool:
    """Whether a set of functions is one function with noise, and so a Gaussian."""
    return len(law.weights) == 1 and noisy(law)


def noisy(law: Draws) -> bool:
    """Whether each function has noise, so that the law is a mixture of Gaussians."""
    return bool((law.noise > 0).all())


def _side(t: Tensor) -> Tensor:
    """One where t is not negative and minus one elsewhere: a sign whose product with t has a slope at zero."""
    return torch.where(t < 0, -torch.ones_like(t), torch.ones_like(t))


def _score_of(level: Tensor) -> Tensor:
    """The normal score of levels of at most one half."""
    return torch.special.ndtri(level).clamp_min(-FARTHEST)


def _bisected(law: Posterior, t: Tensor) -> Tensor:
    if not (isinstance(law, Draws) and noisy(law)):
        # Levels above this one round to one.
        farthest = -float(torch.special.ndtri(torch.tensor(2 * torch.finfo(t.dtype).eps, dtype=torch.float64)))
        t = t.clamp(-farthest, farthest)
    low, high = _bracket(law, t)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = normal_score(law, middle) < t
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return high


def _bracket(law: Posterior, t: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(law, Draws) and noisy(law):  # a mixture's quantile lies among those of its members
        ends = law.values + law.spread * t.unsqueeze(-3)
        reach = 1e-6 * law.variance.sqrt()  # so that steps are inside
        return ends.amin(-3) - reach, ends.amax(-3) + reach
    tail = below(-t.abs())
    reach = law.variance.sqrt() * 2 / tail.sqrt()  # Chebyshev's inequality, as in Posterior.quantile
    return law.mean - reach, law.mean + reach
