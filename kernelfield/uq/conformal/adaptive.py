"""Adaptive conformal prediction in time order: the rank is moved after each miss, so that the share of misses is kept.

Row t has the interval of scores up to the rank ceil((n + 1)(1 - a_t)) of n earlier ones: everything
where that rank exceeds n, nothing where it is not positive. With b_t the largest error rate whose interval holds y_t,
and e_t = 1 for a miss, a_t >= b_t,

    a_{t+1} = a_t + step (alpha - e_t),    alpha = 1 - level.

Whatever the data do, a_t stays in [-step, 1 + step], and so over T rows

    |mean of e_t - alpha| <= (max(a_1, 1 - a_1) + step) / (T step).

Of several steps each moves an a of its own; the one that is used is their mean, weighted by how well
each did lately, by w <- (1 - s) w exp(-eta loss) / sum + s / k with the quantile loss of b_t and a:

    s = 1 / (2 I),  eta = (3 / I)^(1/2) ((log(k I) + 2) / ((1 - alpha)^2 alpha^3 + alpha^2 (1 - alpha)^3))^(1/2),

which is near to the best step of any I = `horizon` consecutive rows, with none to be chosen.

Sources: Gibbs & Candes (2021), "Adaptive Conformal Inference Under Distribution Shift", proposition
4.1; Gibbs & Candes (2024), "Conformal Inference for Online Prediction with Arbitrary Distribution
Shifts", for several steps (DtACI).
"""

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.conformal.conformity import Normalised, Score
from kernelfield.uq.conformal.ranks import ROUNDING, require_level
from kernelfield.uq.conformal.split import require_outputs
from kernelfield.uq.recalibration.rows import observed

STEPS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


@dataclass(frozen=True)
class Adaptive:
    """Intervals of one level for rows that come in time order.

    steps : by how much the error rate is moved; one, or several of which the better count more.
    memory : the number of latest scores that ranks are taken of.
    horizon : the number of rows over which steps are compared.

    Errors: ValueError for a level outside (0, 1), steps that are not positive, or a score with two sides.

    >>> from kernelfield.core.posterior import Elliptical
    >>> law = Elliptical(torch.zeros(800, 1), torch.eye(800))
    >>> y = torch.randn(800, 1, generator=torch.Generator().manual_seed(0))
    >>> low, high = Adaptive(level=0.8).fit(law, y).interval(Elliptical(torch.zeros(1, 1), torch.eye(1)))
    >>> bool(1.1 < high.item() < 1.5)  # 1.28 for a normal variable
    True
    """

    level: float = 0.9
    steps: tuple[float, ...] = STEPS
    score: Score = field(default_factory=Normalised)
    memory: int = 1000
    horizon: int = 500

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "AdaptiveState":
        """The state after these rows in time order, of which the first have no earlier ones."""
        require_level(self.level)
        if not self.steps or not all(step > 0 for step in self.steps):
            raise ValueError(f"steps must be positive numbers, at least one, got {self.steps}")
        if self.memory < 1 or self.horizon < 1:
            raise ValueError(f"memory and horizon must be at least 1, got {self.memory} and {self.horizon}")
        if self.score.sides != 1:
            raise ValueError(f"adaptive intervals need a score with one side, got {self.score!r}; make it symmetric")
        outputs, count = law.mean.shape[-1], len(self.steps)
        rates = torch.full((count, outputs), 1 - self.level, dtype=torch.float64)
        start = AdaptiveState(
            self, torch.empty(0, outputs, dtype=torch.float64), rates, torch.full_like(rates, 1 / count)
        )
        return start.update(law, y)


@dataclass(frozen=True, eq=False)
class AdaptiveState:
    """What has been learned from the rows so far.

    scores (w, m) in time order; rates (k, m), the error rate of each step; weights (k, m) of them;
    misses (m,) among so many rows.
    """

    choice: Adaptive
    scores: Tensor
    rates: Tensor
    weights: Tensor
    misses: tuple[int, ...] = ()
    rows: int = 0

    def interval(self, law: Posterior, level: float | None = None, X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ends (n, m) for rows that follow, of which none has been seen.

        An interval is everything, (-inf, inf), while the earlier rows are too few; an empty one is (inf, -inf).

        Errors: ValueError for another level than the one that was adapted to.
        """
        if level is not None and abs(level - self.choice.level) > 1e-9:
            raise ValueError(f"intervals were adapted to the level {self.choice.level:g}, got {level:g}")
        require_outputs(law, self.rates)
        ordered = self.scores.sort(0).values.numpy()
        rates = (self.weights * self.rates).sum(0).tolist()
        bound = [_bound(column.tolist(), rate) for column, rate in zip(ordered.T, rates, strict=True)]
        return self._ends(law, torch.tensor(bound, dtype=torch.float64).expand(law.mean.shape))

    def update(self, law: Posterior, y: Tensor) -> "AdaptiveState":
        """The state after these rows too, in time order."""
        return self.run(law, y)[2]

    def run(self, law: Posterior, y: Tensor) -> tuple[Tensor, Tensor, "AdaptiveState"]:
        """The interval (n, m) that each row had before its value was known, and the state after all."""
        require_outputs(law, self.rates)
        choice = self.choice
        with torch.no_grad():
            scores = choice.score.of(law, observed(law, y, least=1, task="adaptive intervals"), choice.level)[0]
        new = scores.double().cpu()
        tracks = [_Track.of(self, output) for output in range(new.shape[1])]
        bounds = [[track.step(score) for score in column] for track, column in zip(tracks, new.T.tolist(), strict=True)]
        state = replace(
            self,
            scores=torch.cat([self.scores, new])[-choice.memory :].clone(),
            rates=torch.from_numpy(np.stack([track.rates for track in tracks], 1)),
            weights=torch.from_numpy(np.stack([track.weights for track in tracks], 1)),
            misses=tuple(track.misses for track in tracks),
            rows=self.rows + len(y),
        )
        low, high = self._ends(law, torch.tensor(bounds, dtype=torch.float64).T)
        return low, high, state

    def _ends(self, law: Posterior, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Of bounds (n, m), where minus infinity is nothing."""
        empty = bound == -torch.inf
        size = torch.where(empty, 0.0, bound).to(law.mean)
        low, high = self.choice.score.interval(law, size.unsqueeze(0), self.choice.level)
        empty = empty.to(low.device)
        return torch.where(empty, torch.inf, low), torch.where(empty, -torch.inf, high)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """The error rate that ranks are now taken for, and the share of misses so far, output by output."""
        rates = (self.weights * self.rates).sum(0).tolist()
        return {"error rate": rates, "share of misses": [miss / self.rows for miss in self.misses]}

    def notes(self) -> list[str]:
        misses = ", ".join(f"{100 * miss / self.rows:.2g}%" for miss in self.misses)
        return [
            f"Intervals of {self.choice.level:.0%} were adapted over {self.rows} rows in time order; {misses} missed."
        ]


@dataclass
class _Track:
    """One output's run through time; the only thing here that changes."""

    choice: Adaptive
    latest: list[float]  # in time order
    ordered: list[float]
    rates: np.ndarray
    weights: np.ndarray
    misses: int

    @classmethod
    def of(cls, state: AdaptiveState, output: int) -> "_Track":
        latest = state.scores[:, output].tolist()
        rates, weights = (t[:, output].numpy().copy() for t in (state.rates, state.weights))
        return cls(state.choice, latest, sorted(latest), rates, weights, state.misses[output] if state.misses else 0)

    def step(self, score: float) -> float:
        """The bound that this row's score had, before the score is taken in."""
        rate = float(self.weights @ self.rates)
        bound = _bound(self.ordered, rate)
        n = len(self.ordered)
        largest = (n + 1 - bisect_left(self.ordered, score)) / (n + 1)  # error rate whose interval holds it
        self.misses += score > bound
        alpha = 1 - self.choice.level
        if len(self.weights) > 1:
            self._weigh(alpha, largest)
        self.rates += np.array(self.choice.steps) * (alpha - (self.rates >= largest - ROUNDING / (n + 1)))
        self._remember(score)
        return bound

    def _weigh(self, alpha: float, largest: float) -> None:
        steps, horizon = len(self.weights), self.choice.horizon
        curvature = (1 - alpha) ** 2 * alpha**3 + alpha**2 * (1 - alpha) ** 3
        eta = math.sqrt(3 / horizon * (math.log(steps * horizon) + 2) / curvature)
        gap = largest - self.rates
        mass = self.weights * np.exp(-eta * (alpha * gap - np.minimum(0, gap)))
        share = 1 / (2 * horizon)
        self.weights = (1 - share) * mass / mass.sum() + share / steps

    def _remember(self, score: float) -> None:
        self.latest.append(score)
        insort(self.ordered, score)
        if len(self.ordered) > self.choice.memory:
            forgotten = self.latest[len(self.latest) - 1 - self.choice.memory]
            del self.ordered[bisect_left(self.ordered, forgotten)]


def _bound(ordered: list[float], rate: float) -> float:
    """The score of rank ceil((n + 1)(1 - rate)); infinite above n, and minus infinity below 1."""
    n = len(ordered)
    rank = math.ceil((n + 1) * (1 - rate) - ROUNDING)
    if rank > n:
        return math.inf
    return ordered[rank - 1] if rank > 0 else -math.inf
