"""What is asked of a calibrated prediction, answered from a law or from intervals alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.estimators.interval_laws import deviations, through


class Answer(ABC):
    """Predictions of n points and m outputs, as arrays (n, m)."""

    @property
    @abstractmethod
    def mean(self) -> np.ndarray:
        """Point predictions."""

    @abstractmethod
    def std(self) -> np.ndarray:
        """Standard deviations."""

    @abstractmethod
    def quantile(self, p: float) -> np.ndarray:
        """Quantiles at a level between 0 and 1."""

    @abstractmethod
    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Low and high ends of the central interval of a probability."""


@dataclass(frozen=True, eq=False)
class FromLaw(Answer):
    """Answers of a law."""

    law: Posterior

    @property
    def mean(self) -> np.ndarray:
        return numpy(self.law.mean)

    def std(self) -> np.ndarray:
        return numpy(self.law.variance.sqrt())

    def quantile(self, p: float) -> np.ndarray:
        return numpy(self.law.quantile(p))

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)


Ends = tuple[Tensor | np.ndarray, Tensor | np.ndarray]


@dataclass(frozen=True, eq=False)
class FromIntervals(Answer):
    """Answers of point predictions (n, m) and a function that gives the ends of intervals of some levels.

    levels : those whose intervals make the law.
    """

    point: np.ndarray
    ends: Callable[[Sequence[float]], Sequence[Ends]]
    levels: Sequence[float]

    @property
    def mean(self) -> np.ndarray:
        return self.point

    def law(self) -> Quantiles:
        """The law of which these are the intervals; some of its values may be infinite."""
        ends = [(numpy(low), numpy(high)) for low, high in self.ends(self.levels)]
        return through(self.levels, ends, self.point)

    def std(self) -> np.ndarray:
        return numpy(deviations(self.law()))

    def quantile(self, p: float) -> np.ndarray:
        if p == 0.5:
            return self.point
        return self.interval(abs(2 * p - 1))[int(p > 0.5)]

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        ((low, high),) = self.ends([level])
        return numpy(low), numpy(high)


def numpy(values: Tensor | np.ndarray) -> np.ndarray:
    """An array of a tensor, wherever it is."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
