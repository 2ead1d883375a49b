"""Curves: increasing maps of normal scores, s = h(t), by which one law's levels become another's.

A law with normal scores t of its values and the curve h is the law whose normal scores are h(t):
its distribution function is F' = G(F) with G = Phi h Phi^-1, and its density

    p'(y) = p(y) g(F(y)),    log g = log h'(t) + (t^2 - h(t)^2) / 2.

The identity changes nothing, and h(t) = (t - b) / c makes the Gaussian N(loc, v) one of mean
loc + b v^(1/2) and variance c^2 v. In the variable t a law that is too narrow bends nothing, where
in F it bends G into its corners; so a few pieces suffice, and a line goes on beyond the data.

    PiecewiseCurve   lines between knots and beyond them
    BetaCurve        G(u) = logistic(c + a log u - b log(1 - u)), a, b > 0

Sources: Kuleshov, Fenner & Ermon (2018), "Accurate Uncertainties for Deep Learning Using Calibrated
Regression", for G; Kull, Silva Filho & Flach (2017), "Beta Calibration", for its family.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from kernelfield.uq.recalibration.normal_scores import FARTHEST

STEPS = 50  # of Newton's method at most; it is monotone after the first
UNDERFLOW = 680.0  # the logistic function of minus this is Phi(-37)


class Curve(ABC):
    """See the module docstring; t and s of any shape."""

    @abstractmethod
    def forward(self, t: Tensor) -> Tensor:
        """h(t)."""

    @abstractmethod
    def inverse(self, s: Tensor) -> Tensor:
        """The t with h(t) = s."""

    @abstractmethod
    def log_slope(self, t: Tensor) -> Tensor:
        """log h'(t)."""


@dataclass(frozen=True, eq=False)
class PiecewiseCurve(Curve):
    """Lines through the knots (scores, values), each (k,) and increasing, with the slopes `tails` (2,) beyond them.

    >>> curve = PiecewiseCurve(torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([0.5, 2.0]))
    >>> curve.forward(torch.tensor([-2.0, 3.0])).tolist()
    [0.0, 7.0]
    """

    scores: Tensor
    values: Tensor
    tails: Tensor

    @property
    def slopes(self) -> Tensor:
        """Of the k + 1 pieces."""
        return torch.cat([self.tails[:1], self.values.diff() / self.scores.diff(), self.tails[1:]])

    def forward(self, t: Tensor) -> Tensor:
        slope, score, value = self._piece(t, self.scores)
        return value + slope * (t - score)

    def inverse(self, s: Tensor) -> Tensor:
        slope, score, value = self._piece(s, self.values)
        return score + (s - value) / slope

    def log_slope(self, t: Tensor) -> Tensor:
        return self._piece(t, self.scores)[0].log()

    def _piece(self, x: Tensor, knots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The slope of the piece at each x, and the knot it starts from."""
        index = torch.searchsorted(knots.to(x), x.detach().contiguous())
        start = (index - 1).clamp_min(0)
        return self.slopes.to(x)[index], self.scores.to(x)[start], self.values.to(x)[start]


@dataclass(frozen=True)
class BetaCurve(Curve):
    """See the module docstring; a = b = 1, c = 0 is the identity.

    >>> round(BetaCurve(2.0, 2.0, 0.0).forward(torch.tensor([1.0])).item(), 4)  # both tails are thinner
    1.8205
    """

    a: float
    b: float
    c: float

    def forward(self, t: Tensor) -> Tensor:
        return _score_of_logit(self._logit(t))

    def inverse(self, s: Tensor) -> Tensor:
        target = _log_below(s) - _log_below(-s) - self.c
        # x = logit(u) solves b softplus(x) - a softplus(-x) = target, of which the left side has slopes from a to b.
        x = torch.where(target < 0, target / self.a, target / self.b)
        for _ in range(STEPS):
            gap = self.b * softplus(x) - self.a * softplus(-x) - target
            step = gap / (self.a * torch.sigmoid(-x) + self.b * torch.sigmoid(x))
            x = x - step
            if not (step.abs() > 1e-12 * x.abs().clamp_min(1)).any():
                break
        return _score_of_logit(x)

    def log_slope(self, t: Tensor) -> Tensor:
        logit, s = self._logit(t), self.forward(t)
        in_t = torch.logaddexp(math.log(self.a) - _log_below(t), math.log(self.b) - _log_below(-t)) - t.square() / 2
        return logsigmoid(logit) + logsigmoid(-logit) + in_t + s.square() / 2

    def _logit(self, t: Tensor) -> Tensor:
        return self.c + self.a * _log_below(t) - self.b * _log_below(-t)


def log_change(curve: Curve, t: Tensor) -> Tensor:
    """log g at normal scores t: what the curve adds to a log density."""
    return curve.log_slope(t) + (t.square() - curve.forward(t).square()) / 2


def _log_below(t: Tensor) -> Tensor:
    return torch.special.log_ndtr(t.clamp(-FARTHEST, FARTHEST))


def _score_of_logit(logit: Tensor) -> Tensor:
    """The normal score of the level with this logit, by the nearer tail."""
    side = torch.where(logit < 0, -torch.ones_like(logit), torch.ones_like(logit))
    return -side * torch.special.ndtri(torch.sigmoid((-side * logit).clamp_min(-UNDERFLOW)))
