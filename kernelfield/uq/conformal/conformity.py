"""Conformity scores: how far a value lies from what its law says, and the interval of all values nearer than that.

    Absolute         |y - mean|                          intervals of one width
    Normalised       |y - mean| / std                    of widths in proportion to the predicted std
    Distributional   |t|, t the normal score of y        between two quantiles of the law
    Quantiles        distance of y from a pair of quantiles, negative inside (CQR)

The first three are sizes of signed residuals r(y), which increase in y, so that `place` returns
from a residual to its value. Scores have the shape (sides, n, m): two sides where low and high
ends are calibrated apart, each for half of the errors.

Sources: Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), "Distribution-Free Predictive Inference
for Regression"; Chernozhukov, Wuethrich & Zhu (2021), "Distributional Conformal Prediction"; Romano,
Patterson & Candes (2019), "Conformalized Quantile Regression".
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.core.mixing import Unit
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.uq.conformal.ranks import require_level
from kernelfield.uq.recalibration.normal_scores import at_normal_score, normal_score


class Score(ABC):
    """See the module docstring."""

    levels: tuple[float, ...] = ()  # that intervals may have; empty is all of them
    sides: int = 1

    @abstractmethod
    def of(self, law: Posterior, y: Tensor, level: float) -> Tensor:
        """Scores (sides, n, m) of values y (n, m)."""

    @abstractmethod
    def interval(self, law: Posterior, bound: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """Ends (n, m) of the values with scores up to `bound` (sides, n, m), which may be infinite."""

    def table(self, law: Posterior, y: Tensor) -> Tensor:
        """Scores (levels, sides, n, m), of one level for all where the score has no levels."""
        return torch.stack([self.of(law, y, level) for level in self.levels or (0.5,)])

    def place_of(self, level: float) -> int:
        """Where a level stands in the table.

        Errors: ValueError for a level outside (0, 1), or that was not calibrated.
        """
        require_level(level)
        if not self.levels:
            return 0
        for place, known in enumerate(self.levels):
            if abs(known - level) < 1e-9:
                return place
        names = ", ".join(f"{known:g}" for known in self.levels)
        raise ValueError(
            f"quantiles were calibrated for the levels {names}, got {level:g}; name it in Quantiles(levels=)"
        )

    def level_of_side(self, level: float) -> float:
        """The level that each side needs so that both together have `level`."""
        return 1 - (1 - level) / self.sides


class Residual(Score):
    """A score that is the size of a signed residual."""

    @abstractmethod
    def signed(self, law: Posterior, y: Tensor) -> Tensor:
        """Residuals of y, increasing in y."""

    @abstractmethod
    def place(self, law: Posterior, residual: Tensor) -> Tensor:
        """The values with these residuals."""

    @abstractmethod
    def reference(self, law: Posterior) -> Posterior:
        """The law under which the residuals are standard normal."""

    def of(self, law: Posterior, y: Tensor, level: float) -> Tensor:
        return self.signed(law, y).abs().unsqueeze(0)

    def interval(self, law: Posterior, bound: Tensor, level: float) -> tuple[Tensor, Tensor]:
        size = bound[0]
        finite = torch.where(size.isfinite(), size, 0.0)
        low, high = self.place(law, -finite), self.place(law, finite)
        return torch.where(size.isfinite(), low, -size), torch.where(size.isfinite(), high, size)


@dataclass(frozen=True)
class Absolute(Residual):
    """|y - mean|, in units of y.

    >>> law = Elliptical(torch.zeros(2, 1), torch.diag(torch.tensor([1.0, 9.0])))
    >>> [end.flatten().tolist() for end in Absolute().interval(law, torch.full((1, 1, 1), 2.0), 0.9)]
    [[-2.0, -2.0], [2.0, 2.0]]
    """

    def signed(self, law: Posterior, y: Tensor) -> Tensor:
        return y - law.mean

    def place(self, law: Posterior, residual: Tensor) -> Tensor:
        return law.mean + residual

    def reference(self, law: Posterior) -> Posterior:
        return _gaussian(law.mean, torch.ones_like(law.mean))


@dataclass(frozen=True)
class Normalised(Residual):
    """|y - mean| / std.

    >>> law = Elliptical(torch.zeros(2, 1), torch.diag(torch.tensor([1.0, 9.0])))
    >>> [end.flatten().tolist() for end in Normalised().interval(law, torch.full((1, 1, 1), 2.0), 0.9)]
    [[-2.0, -6.0], [2.0, 6.0]]
    """

    def signed(self, law: Posterior, y: Tensor) -> Tensor:
        return (y - law.mean) / _deviation(law)

    def place(self, law: Posterior, residual: Tensor) -> Tensor:
        return law.mean + residual * _deviation(law)

    def reference(self, law: Posterior) -> Posterior:
        match law:
            case Elliptical():  # its joint law is kept
                return replace(law, mixing=Unit(), unit=law.unit * law.mixing.mean**0.5)
            case Pathwise(law=Elliptical(mixing=Unit())):
                return law
        return _gaussian(law.mean, law.variance)


@dataclass(frozen=True)
class Distributional(Residual):
    """The size of the normal score of y; the central interval that just holds y has the level 2 Phi(score) - 1."""

    def signed(self, law: Posterior, y: Tensor) -> Tensor:
        return normal_score(law, y)

    def place(self, law: Posterior, residual: Tensor) -> Tensor:
        return at_normal_score(law, residual)

    def reference(self, law: Posterior) -> Posterior:
        return law


@dataclass(frozen=True)
class Quantiles(Score):
    """Conformalised quantiles: the law's central interval of a level, both ends moved outwards or inwards.

    levels : those that may be asked for; each has scores of its own.
    symmetric : whether both ends move by one distance, or each by its own, with half of the errors.

    Ends that would pass each other meet in the middle.

    Errors: ValueError for no level, or one outside (0, 1).
    """

    levels: tuple[float, ...] = (0.9,)
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("Quantiles needs the levels of its intervals, got none; give levels=(0.9,)")
        for level in self.levels:
            require_level(level)

    @property
    def sides(self) -> int:  # type: ignore[override]
        return 1 if self.symmetric else 2

    def of(self, law: Posterior, y: Tensor, level: float) -> Tensor:
        low, high = _central(law, level)
        apart = torch.stack([low - y, y - high])
        return apart.amax(0, keepdim=True) if self.symmetric else apart

    def interval(self, law: Posterior, bound: Tensor, level: float) -> tuple[Tensor, Tensor]:
        low, high = _central(law, level)
        low, high = low - bound[0], high + bound[-1]
        middle = (low + high) / 2
        crossed = low > high
        return torch.where(crossed, middle, low), torch.where(crossed, middle, high)


def _central(law: Posterior, level: float) -> tuple[Tensor, Tensor]:
    return law.quantile((1 - level) / 2), law.quantile((1 + level) / 2)


def _deviation(law: Posterior) -> Tensor:
    std = law.variance.sqrt()
    if not std.isfinite().all():
        raise ValueError("a law of infinite variance has no std to divide by; use the score Distributional()")
    return std


def _gaussian(mean: Tensor, variance: Tensor) -> Draws:
    """Independent Gaussians, as one function with noise: no joint covariance is formed."""
    return Draws(mean.unsqueeze(-3), torch.ones(1).to(mean), variance)
