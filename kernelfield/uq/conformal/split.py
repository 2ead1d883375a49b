"""Split conformal prediction: intervals that hold the promised share, for any law and any model.

The k-th smallest of n scores of held-out rows, k = ceil((n + 1) level), bounds the score of a new
row with probability at least `level`, and at most level + 1 / (n + 1) without ties, if all of
these rows are exchangeable. The promise is one on average over rows; `mondrian` makes it for
groups, `weighted` where new rows come from elsewhere, `adaptive` where they drift.

Source: Papadopoulos, Proedrou, Vovk & Gammerman (2002), "Inductive Confidence Machines for Regression".
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.conformal.conformity import Normalised, Score
from kernelfield.uq.conformal.ranks import CoverageLaw, rank
from kernelfield.uq.recalibration.rows import observed


@dataclass(frozen=True)
class Split:
    """Intervals of values whose score is at most a rank of those of held-out rows.

    >>> from kernelfield.core.posterior import Elliptical
    >>> law = Elliptical(torch.zeros(19, 1), torch.eye(19))
    >>> fitted = Split().fit(law, torch.arange(1.0, 20.0)[:, None])
    >>> low, high = fitted.interval(Elliptical(torch.zeros(1, 1), torch.eye(1)), 0.9)
    >>> high.item()  # the 18th of 19
    18.0
    """

    score: Score = field(default_factory=Normalised)

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedSplit":
        """Errors: ValueError for shapes that do not agree, NaN, or laws without spread."""
        return FittedSplit(self.score, scored(self.score, law, y).sort(-2).values)


@dataclass(frozen=True, eq=False)
class FittedSplit:
    """Scores (levels, sides, n, m) of the calibration rows, sorted; one level where the score has none."""

    score: Score
    scores: Tensor

    @property
    def rows(self) -> int:
        return self.scores.shape[-2]

    def interval(self, law: Posterior, level: float, X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ends (n, m). Errors: ValueError for too few calibration rows or a level that was not calibrated."""
        require_outputs(law, self.scores)
        bound = at_rank(self.score, self.scores, level).to(law.mean)
        return self.score.interval(law, bound.unsqueeze(-2), level)

    def coverage_law(self, level: float) -> CoverageLaw:
        """Of the share of future values inside; for two sides, of both misses taken together."""
        k = rank(self.rows, self.score.level_of_side(level))
        return CoverageLaw(self.rows + 1 - self.score.sides * (self.rows + 1 - k), self.rows)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """The median score of each output; of quantiles, at their first level and side."""
        return {"median score": self.scores[0, 0].median(0).values.tolist()}

    def notes(self) -> list[str]:
        return [
            f"Intervals are conformal: their ends are ranks of {type(self.score).__name__} scores of {self.rows} rows."
        ]


def scored(score: Score, law: Posterior, y: Tensor) -> Tensor:
    """Scores (levels, sides, n, m) of held-out rows, checked."""
    with torch.no_grad():
        return score.table(law, observed(law, y, least=1, task="conformal prediction"))


def at_rank(score: Score, ordered: Tensor, level: float) -> Tensor:
    """The bounds (sides, m) among sorted scores (levels, sides, n, m)."""
    place = score.place_of(level)
    return ordered[place, :, rank(ordered.shape[-2], score.level_of_side(level)) - 1]


def require_outputs(law: Posterior, scores: Tensor) -> None:
    """Errors: ValueError for a law of another number of outputs than the scores (..., m)."""
    if law.mean.shape[-1] != scores.shape[-1]:
        raise ValueError(f"calibrated for {scores.shape[-1]} outputs, got a law of {law.mean.shape[-1]}")
