"""Conformal predictive systems: a whole law whose levels are ranks of held-out residuals.

With sorted residuals r_(1) < ... < r_(n) of the calibration rows, the law of a new value y has

    F(y) = i / (n + 1)    where its residual is r_(i),

which for exchangeable rows is right on average for every i: P(r <= r_(i)) = i / (n + 1), whatever
the laws were. `interval` takes its ends at ranks, rounded outwards, and so keeps the promise of a
level for every finite n. `apply` returns a law with a density: of the ranks it keeps every one in
the tails and about one in i^(1/2) towards the middle, at i from the nearer end, and joins them by
lines in normal scores (`kernelfield.uq.recalibration.curves`). Beyond the outer two the tails of
the given law go on, stretched. A level of it differs from that of ranks by less than i^(1/2) / (n + 1).
If each rank had a piece of its own, densities would be so rough as to cost 0.42 nats a value.

Sources: Vovk, Shen, Manokhin & Xie (2017), "Nonparametric Predictive Distributions Based on Conformal
Prediction"; Vovk, Petej, Nouretdinov, Manokhin & Gammerman (2020), "Computationally Efficient
Versions of Conformal Predictive Distributions", for the split form.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.conformal.conformity import Normalised, Residual
from kernelfield.uq.conformal.ranks import rank
from kernelfield.uq.conformal.split import require_outputs
from kernelfield.uq.recalibration.curves import PiecewiseCurve
from kernelfield.uq.recalibration.levels import through_ranks
from kernelfield.uq.recalibration.recalibrated import Recalibrated
from kernelfield.uq.recalibration.rows import observed


@dataclass(frozen=True)
class PredictiveSystem:
    """The law of mean + std * r, mean + r, or of quantiles at Phi(r), for the residual r of a random held-out row.

    Errors: ValueError for fewer than 20 rows, and those of `Split`.

    >>> from kernelfield.core.posterior import Elliptical
    >>> law = Elliptical(torch.zeros(99, 1), torch.eye(99))
    >>> fitted = PredictiveSystem().fit(law, torch.arange(1.0, 100.0)[:, None])
    >>> round(fitted.apply(law).cdf(torch.tensor(3.0))[0, 0].item(), 4)  # the third of 99
    0.03
    """

    score: Residual = field(default_factory=Normalised)
    least: ClassVar[int] = 20

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedPredictiveSystem":
        if not isinstance(self.score, Residual):
            raise ValueError(f"a predictive system needs signed residuals, got {self.score!r}; use Normalised()")
        y = observed(law, y, least=self.least, task="a predictive system")
        with torch.no_grad():
            residuals = self.score.signed(law, y).double().cpu().sort(0).values
        ranks = growing_ranks(len(residuals))
        curves = tuple(through_ranks(r, ranks) for r in residuals.unbind(1))
        return FittedPredictiveSystem(self.score, residuals, curves)


@dataclass(frozen=True, eq=False)
class FittedPredictiveSystem:
    """Sorted residuals (n, m), and the curves through some of their ranks."""

    score: Residual
    residuals: Tensor
    curves: tuple[PiecewiseCurve, ...]

    @property
    def rows(self) -> int:
        return len(self.residuals)

    def apply(self, law: Posterior, X: Tensor | None = None) -> Recalibrated:
        """The predictive law. Elliptical laws keep their dependence, as that of a Gaussian for Normalised()."""
        require_outputs(law, self.residuals)
        return Recalibrated(self.score.reference(law), self.curves)

    def interval(self, law: Posterior, level: float, X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The central interval (n, m) between two ranks, each side for half of the errors.

        Errors: ValueError for too few calibration rows.
        """
        require_outputs(law, self.residuals)
        k = rank(self.rows, (1 + level) / 2)
        low, high = (self.residuals[place].to(law.mean).expand(law.mean.shape) for place in (self.rows - k, k - 1))
        return self.score.place(law, low), self.score.place(law, high)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """The residuals at a few levels, output by output."""
        values = {level: np.quantile(self.residuals.numpy(), level, axis=0) for level in (0.05, 0.5, 0.95)}
        return {f"residual {level:g}": value.tolist() for level, value in values.items()}

    def notes(self) -> list[str]:
        kind = type(self.score).__name__
        return [f"The law is that of a conformal predictive system of {kind} residuals of {self.rows} rows."]


def growing_ranks(n: int) -> np.ndarray:
    """Ranks from 1 to n, one apart at the ends and i^(1/2) apart at the distance i from the nearer one."""
    lower = [1]
    while lower[-1] <= n // 2:
        lower.append(lower[-1] + math.isqrt(lower[-1]))
    ranks = np.array(lower[:-1])
    return np.unique(np.concatenate([ranks, n + 1 - ranks]))
