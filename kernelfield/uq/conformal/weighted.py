"""Conformal prediction under covariate shift: rows count by how likely they are where predictions are wanted.

If only the law of inputs changes, by the ratio w(x) of densities, the score of a new row at x is
bounded with probability `level` by the weighted quantile

    least s with  sum of w(x_i) over s_i <= s  >=  level (sum_i w(x_i) + w(x)),

which is infinite where w(x) is too large: no calibration row is like this one. Equal weights give
split conformal prediction. Unequal ones are worth fewer rows, (sum w)^2 / sum w^2 of them.

Source: Tibshirani, Foygel Barber, Candes & Ramdas (2019), "Conformal Prediction Under Covariate Shift".
"""

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.conformal.conformity import Normalised, Score
from kernelfield.uq.conformal.ratio import FittedRatio
from kernelfield.uq.conformal.split import require_outputs, scored
from kernelfield.uq.recalibration.rows import require_finite

FEW = 30.0  # effective rows below which a 90% interval rests on three misses


class FewEffectiveRows(UserWarning):
    """Weights are so unequal that few calibration rows count."""


@dataclass(frozen=True, eq=False)
class Weighted:
    """Conformal intervals with weights from a ratio of densities, or given with the rows (ratio=None).

    Errors: ValueError for neither ratio nor weights, both, or weights that are negative or all zero.
    Warns, with FewEffectiveRows, where the weights are worth fewer than 30 rows.

    >>> from kernelfield.core.posterior import Elliptical
    >>> law = Elliptical(torch.zeros(60, 1), torch.eye(60))
    >>> fitted = Weighted().fit(law, torch.arange(1.0, 61.0)[:, None], weights=torch.linspace(2, 1, 60))
    >>> one = Elliptical(torch.zeros(1, 1), torch.eye(1))
    >>> fitted.interval(one, 0.5, weights=torch.ones(1))[1].item()  # small errors count for more: 31 without weights
    26.0
    """

    ratio: FittedRatio | None = None
    score: Score = field(default_factory=Normalised)

    def fit(
        self,
        law: Posterior,
        y: Tensor,
        *,
        X: Tensor | None = None,
        generator: torch.Generator | None = None,
        weights: Tensor | None = None,
    ) -> "FittedWeighted":
        scores = scored(self.score, law, y)
        found = _weights(self.ratio, X, weights, len(y)).to(scores)
        if not (found.sum() > 0):
            raise ValueError(f"all {len(found)} weights are zero: no calibration row is like the target's")
        fitted = FittedWeighted(self.ratio, self.score, scores, found)
        if fitted.effective_rows < FEW:
            warnings.warn(fitted.notes()[-1], FewEffectiveRows, stacklevel=2)
        return fitted


@dataclass(frozen=True, eq=False)
class FittedWeighted:
    """Scores (levels, sides, n, m) of the calibration rows and their weights (n,)."""

    ratio: FittedRatio | None
    score: Score
    scores: Tensor
    weights: Tensor

    @property
    def rows(self) -> int:
        return len(self.weights)

    @property
    def effective_rows(self) -> float:
        """The number of rows of equal weight that the weighted ones are worth."""
        return float(self.weights.sum().square() / self.weights.square().sum())

    def interval(
        self, law: Posterior, level: float, X: Tensor | None = None, *, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ends (n, m), infinite for rows whose own weight is too large for the level."""
        require_outputs(law, self.scores)
        own = _weights(self.ratio, X, weights, len(law.mean)).to(self.weights)
        place, share = self.score.place_of(level), self.score.level_of_side(level)
        ordered, order = self.scores[place].sort(-2)
        mass = self.weights[order].cumsum(-2).movedim(-2, -1).contiguous()  # (sides, m, n)
        # Sums of n numbers are right to n roundings, and a target just reached must not be missed.
        slack = 1 - self.rows * torch.finfo(mass.dtype).eps
        target = share * slack * (mass[..., -1:] + own)
        index = torch.searchsorted(mass, target.contiguous())
        bounds = torch.cat([ordered.movedim(-2, -1), torch.full_like(mass[..., :1], torch.inf)], -1)
        bound = bounds.gather(-1, index).movedim(-1, -2)
        return self.score.interval(law, bound.to(law.mean), level)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"effective rows": self.effective_rows, "largest weight": float(self.weights.max())}

    def notes(self) -> list[str]:
        note = f"Intervals are conformal with weights; {self.rows} calibration rows are worth {self.effective_rows:.0f}"
        few = " and more from where predictions are wanted would help" if self.effective_rows < FEW else ""
        return [f"{note}{few}."]


def _weights(ratio: FittedRatio | None, X: Tensor | None, weights: Tensor | None, n: int) -> Tensor:
    """One weight a row (n,), given or by the ratio."""
    if (weights is None) == (ratio is None):
        what = "neither" if weights is None else "both"
        raise ValueError(f"give weights= or a ratio of densities, got {what}; see DensityRatio")
    if ratio is not None and X is None:
        raise ValueError("weights are a function of the inputs, got none; give X=")
    found = ratio(X) if ratio is not None and X is not None else torch.as_tensor(weights)
    if found.shape != (n,):
        raise ValueError(f"need one weight for each of {n} rows, got {tuple(found.shape)}")
    require_finite(found, "the weights")
    if (found < 0).any():
        raise ValueError(f"weights must not be negative, the least is {found.min().item():g}")
    return found
