"""Calibration: do intervals hold as many values as they promise, and could chance explain the gap?

If the laws are right, PIT values are independent and uniform, so that the number of n values
in a set of probability p is Binomial(n, p). Its central 95% is the band around p: a share
outside of it is evidence against the laws, a share inside is not. Bands hold one share at a
time; of twenty, one falls outside by chance.

Source: Gneiting, Balabdaoui & Raftery (2007), "Probabilistic Forecasts, Calibration and Sharpness".
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from kernelfield.uq.scores import Evaluation

CONFIDENCE = 0.95
LEVELS = np.arange(1, 100) / 100
FEW = 500  # values below which the histogram has half as many bins


@dataclass(frozen=True, eq=False)
class Curve:
    """Shares of values `coverage` (k,) in central intervals of `levels`, and the band of each."""

    levels: np.ndarray
    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Histogram:
    """Shares of PIT values (k,) between `edges` (k + 1,), and the band that all of them have."""

    edges: np.ndarray
    share: np.ndarray
    low: float
    high: float


def curve(evaluation: Evaluation) -> Curve:
    """The calibration curve of an evaluation of one output."""
    low, high = band(len(evaluation.y), LEVELS)
    return Curve(LEVELS, evaluation.coverage(LEVELS)[:, 0], low, high)


def histogram(evaluation: Evaluation) -> Histogram:
    """The PIT histogram of an evaluation of one output."""
    n = len(evaluation.y)
    edges = np.linspace(0, 1, 11 if n < FEW else 21)
    counts, _ = np.histogram(evaluation.pit, edges)
    low, high = band(n, edges[1])
    return Histogram(edges, counts / n, float(low), float(high))


def band(n: int | np.ndarray, p: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The central 95% of shares of n independent values that fall in a set of probability p.

    >>> low, high = band(100, 0.9)
    >>> float(low), float(high)
    (0.84, 0.95)
    """
    tail = (1 - CONFIDENCE) / 2
    return stats.binom.ppf(tail, n, p) / n, stats.binom.ppf(1 - tail, n, p) / n
