"""Recalibration of levels: where the values of held-out rows fell in their laws decides what a level is worth.

With the normal scores t_(1) < ... < t_(n) of an output's values in their laws, the isotonic
(monotone) regression of observed shares on levels is their empirical distribution, G(Phi(t_(i))) =
i / (n + 1). It has no density, so `IsotonicLevels` keeps n^(1/2) / 2 ranks of it, equally far
apart, and joins them by lines in normal scores (`curves`). Beyond the outer two a line goes on
whose slope makes the mean of what lies there what it should be: for the knot (t_1, s_1) at the
level p of the lower end,

    slope = (s_1 + phi(s_1) / p) / (t_1 - mean of t below t_1).

`BetaLevels` maximises the likelihood sum_i log g(u_i) of Beta curves, three numbers an output: for
few rows, and for errors that are smooth.

Both correct what is wrong on average over the rows; what is wrong at some inputs and right
at others they cannot see. Outputs are corrected one by one and keep their dependence.

Sources: Kuleshov, Fenner & Ermon (2018) and Kull, Silva Filho & Flach (2017), as for the curves.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.recalibration.curves import BetaCurve, Curve, PiecewiseCurve
from kernelfield.uq.recalibration.normal_scores import normal_score
from kernelfield.uq.recalibration.recalibrated import Recalibrated
from kernelfield.uq.recalibration.rows import observed

PIECES = (2, 100)  # of an isotonic curve, at least and at most
SLOPES = (0.02, 50.0)  # of its tails
CLOSE = 1e-9  # scores this close are one: ties of laws with steps
BOUND = 5.0  # of the logarithms of a and b


@dataclass(frozen=True)
class IsotonicLevels:
    """Levels by the empirical distribution of held-out rows, n^(1/2) / 2 pieces of equally many rows.

    Errors: ValueError for fewer than 50 rows, of which each of four pieces has about a dozen.

    >>> from kernelfield.core.posterior import Elliptical
    >>> y = torch.special.ndtri((torch.arange(200.0) + 0.5) / 200).unsqueeze(-1)
    >>> narrow = Elliptical(torch.zeros(200, 1), 0.25 * torch.eye(200))
    >>> law = IsotonicLevels().fit(narrow, 2 * y).apply(narrow)  # the deviation is 2 and not 0.5
    >>> round(law.variance[0, 0].item() ** 0.5, 1)
    2.0
    """

    least: ClassVar[int] = 50

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedLevels":
        scores = _scores(law, y, self.least, "isotonic recalibration").sort(0).values
        ranks = even_ranks(len(scores))
        return FittedLevels(tuple(through_ranks(t, ranks) for t in scores.unbind(1)), len(scores), "isotonic")


@dataclass(frozen=True)
class BetaLevels:
    """Levels by the Beta curve of greatest likelihood on held-out rows.

    Errors: ValueError for fewer than 20 rows, some seven for each number that is learned.
    """

    least: ClassVar[int] = 20

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedLevels":
        scores = _scores(law, y, self.least, "beta recalibration")
        return FittedLevels(tuple(_likeliest(t) for t in scores.unbind(1)), len(scores), "beta")


@dataclass(frozen=True, eq=False)
class FittedLevels:
    """One curve an output, learned from so many rows."""

    curves: tuple[Curve, ...]
    rows: int
    method: str

    def apply(self, law: Posterior, X: Tensor | None = None) -> Recalibrated:
        """The law with these curves; ValueError for another number of outputs."""
        if law.mean.shape[-1] != len(self.curves):
            raise ValueError(
                f"the recalibration was learned for {len(self.curves)} outputs, got a law of {law.mean.shape[-1]}"
            )
        return Recalibrated(law, self.curves)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """The Beta curves' numbers, or what the nominal levels 5%, 50% and 95% are worth, output by output."""
        betas = [curve for curve in self.curves if isinstance(curve, BetaCurve)]
        if betas:
            return {name: [getattr(curve, name) for curve in betas] for name in ("a", "b", "c")}
        levels = (0.05, 0.5, 0.95)
        worth = [curve.forward(torch.special.ndtri(torch.tensor(levels, dtype=torch.float64))) for curve in self.curves]
        shares = torch.special.ndtr(torch.stack(worth))
        return {f"level {level:g}": column.tolist() for level, column in zip(levels, shares.T, strict=True)}

    def notes(self) -> list[str]:
        pieces = max((len(c.scores) + 1 for c in self.curves if isinstance(c, PiecewiseCurve)), default=0)
        detail = f" in {pieces} pieces an output" if pieces else ""
        return [f"Levels were recalibrated ({self.method}) on {self.rows} held-out rows{detail}."]


def _scores(law: Posterior, y: Tensor, least: int, task: str) -> Tensor:
    with torch.no_grad():
        return normal_score(law, observed(law, y, least=least, task=task)).double().cpu()


def even_ranks(n: int) -> np.ndarray:
    """The ranks at which n sorted scores are cut into n^(1/2) / 2 pieces of equally many rows."""
    pieces = min(max(round(math.sqrt(n) / 2), PIECES[0]), PIECES[1])
    return np.unique(np.round(np.arange(1, pieces) * (n + 1) / pieces).astype(int))


def through_ranks(scores: Tensor, ranks: np.ndarray) -> PiecewiseCurve:
    """The curve that gives the i-th of n sorted scores the level i / (n + 1), for the ranks i that are chosen."""
    t, n = scores.numpy(), len(scores)
    knots, levels = t[ranks - 1], torch.special.ndtri(torch.from_numpy(ranks / (n + 1))).numpy()
    first = np.flatnonzero(np.diff(knots, prepend=-np.inf) > CLOSE)
    counts = np.diff(first, append=len(knots))
    values = np.add.reduceat(levels, first) / counts  # tied scores have the middle of their levels
    outer = max(2, int(ranks[0]), round(2 * math.sqrt(n)))
    tails = [_tail_slope(t, outer), _tail_slope(-t[::-1], outer)]
    return PiecewiseCurve(*(torch.tensor(part) for part in (knots[first], values, np.array(tails))))


def _tail_slope(t: np.ndarray, rank: int) -> float:
    """The slope below the score of this rank; see the module docstring."""
    rank = min(rank, len(t))
    p = rank / (len(t) + 1)
    s = torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).item()
    excess = s + math.exp(-s * s / 2) / math.sqrt(2 * math.pi) / p
    return float(np.clip(excess / max(t[rank - 1] - t[: rank - 1].mean(), CLOSE), *SLOPES))


def _likeliest(t: Tensor) -> BetaCurve:
    """The Beta curve of greatest likelihood at normal scores (n,)."""
    t = t.clamp(-37, 37)
    both = torch.stack([torch.special.log_ndtr(t), torch.special.log_ndtr(-t)])

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            v = torch.from_numpy(theta).clone().requires_grad_()
            logit = v[2] + v[0].exp() * both[0] - v[1].exp() * both[1]
            log_g = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit)
            value = -(log_g + torch.logaddexp(v[0] - both[0], v[1] - both[1])).mean()
            (slope,) = torch.autograd.grad(value, v)
        return value.item(), slope.numpy()

    bounds = [(-BOUND, BOUND), (-BOUND, BOUND), (None, None)]
    found = optimize.minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=bounds)
    a, b, c = found.x.tolist()
    return BetaCurve(math.exp(a), math.exp(b), c)
