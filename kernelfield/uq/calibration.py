"""Calibration: do intervals hold as many values as they promise, and could chance explain the gap?

If the laws are right, PIT values u = F(y) are independent and uniform. Two bands follow for shares
of n rows, both of 95%:

    low, high       of one share: the number of values in a set of probability p is Binomial(n, p).
                    Of twenty shares, one falls outside by chance
    floor, ceiling  of all shares of a picture together. For shares F_n(p) below p, sup |F_n - p| has
                    Kolmogorov's law for n rows, exactly; for the bins of a histogram, Bonferroni's

The central interval of level p holds y exactly if |2 u - 1| <= p, which is uniform as well. With C(p)
the share inside, the miscalibration area is int_0^1 |C(p) - p| dp. It is 0 for the right laws, at most
1/2, and |1/2 - (2 / pi) atan(c)| for Gaussians whose standard deviation is c times the right one: 0.2048
for c = 2 or 1/2, 0.0704 for 1.25 or 0.8. By chance alone, n rows give sqrt(pi / 32 / n) = 0.3133 / sqrt(n)
on average, the mean of int |B| / sqrt(n) for a Brownian bridge B.

All of it follows from the PIT values in order, so that one sort serves everything here.

Sources: Gneiting, Balabdaoui & Raftery (2007), "Probabilistic Forecasts, Calibration and Sharpness";
Marsaglia, Tsang & Wang (2003), "Evaluating Kolmogorov's Distribution"; Kuleshov, Fenner & Ermon (2018),
"Accurate Uncertainties for Deep Learning Using Calibrated Regression", for the curve; Vovk (2012),
"Conditional Validity of Inductive Conformal Predictors", for the Beta law of split-conformal coverage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from kernelfield.uq.scores import Evaluation

CONFIDENCE = 0.95
LEVELS = np.arange(1, 100) / 100
TAILS = (0.01, 0.05, 0.95, 0.99)
MANY = 9  # quantiles from which the shape of a law is known
NEAR = 1e-6  # of levels, that may come in single precision
FEW = 500  # values below which the histogram has half as many bins


@dataclass(frozen=True, eq=False)
class Curve:
    """Shares of values `coverage` (k,) in central intervals of `levels`, and their bands; see the module docstring."""

    levels: np.ndarray
    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of values `share` (k,) that are no larger than their predicted quantiles of `levels`, and their bands."""

    levels: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray


@dataclass(frozen=True, eq=False)
class Histogram:
    """Shares of PIT values (k,) between `edges` (k + 1,), the band that each has, and the one that holds all."""

    edges: np.ndarray
    share: np.ndarray
    low: float
    high: float
    floor: float
    ceiling: float


@dataclass(frozen=True)
class Uniformity:
    """A test that PIT values are uniform: its statistic and the probability of one as large by chance."""

    statistic: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the PIT values (n,) of one output, in ascending order, say of its laws.

    levels  those of the quantiles that the laws were given by, at which curve and tails are taken; None for whole laws

    Cost: one sort, about 30 ms for 1,000,000 rows, and as much again for each of area and tests.

    >>> quarters = Calibration(np.array([0.125, 0.375, 0.625, 0.875]))
    >>> float(quarters.quantiles([0.5]).share[0]), quarters.area, quarters.kolmogorov.statistic
    (0.5, 0.125, 0.125)
    """

    pit: np.ndarray
    levels: tuple[float, ...] | None = None

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Calibration":
        """Of an evaluation of one output.

        Errors: ValueError if it has several outputs, or no PIT values.
        """
        if evaluation.pit.shape[1] != 1:
            raise ValueError(f"calibration is of one output, got {evaluation.pit.shape[1]}; take evaluation.output(i)")
        pit = np.sort(evaluation.pit[:, 0])
        if not (pit[0] >= 0 and pit[-1] <= 1):  # NaN is sorted to the end
            bad = int((~((pit >= 0) & (pit <= 1))).sum())
            raise ValueError(
                f"{bad} PIT values are not in [0, 1]; calibration needs the distribution function at each y"
            )
        return cls(pit, evaluation.levels)

    def curve(self, levels: Sequence[float] | np.ndarray | None = None) -> Curve:
        """Shares of values in the central intervals of some levels; without, of 99, or those that laws promise."""
        p = np.asarray(self._central if levels is None else levels, dtype=float)
        share = np.searchsorted(self.distance, p, side="right") / len(self.pit)
        return Curve(p, share, *band(len(self.pit), p), *simultaneous_band(len(self.pit), p))

    def quantiles(self, levels: Sequence[float] | np.ndarray = LEVELS) -> Shares:
        """Shares of values below the predicted quantiles of some levels."""
        p = np.asarray(levels, dtype=float)
        share = np.searchsorted(self.pit, p, side="right") / len(self.pit)
        return Shares(p, share, *band(len(self.pit), p), *simultaneous_band(len(self.pit), p))

    def tails(self) -> Shares:
        """Shares of values below the predicted 1%, 5%, 95% and 99% quantiles, or those that were given."""
        return self.quantiles(TAILS if self.levels is None else self.levels)

    @property
    def shaped(self) -> bool:
        """Whether PIT values between levels are promised: those of quantiles far apart are interpolated."""
        return self.levels is None or len(self.levels) >= MANY

    @property
    def _central(self) -> Sequence[float] | np.ndarray:
        """Shares of the central intervals that laws promise."""
        if self.levels is None:
            return LEVELS
        pairs = [1 - 2 * p for p in self.levels if p < 0.5 and any(abs(p + q - 1) < NEAR for q in self.levels)]
        return sorted(pairs)

    def histogram(self) -> Histogram:
        """Shares of PIT values in 20 equal bins, or 10 where there are few values."""
        n = len(self.pit)
        edges = np.linspace(0, 1, 11 if n < FEW else 21)
        below = np.append(np.searchsorted(self.pit, edges[:-1]), n)  # the last bin holds its right edge
        low, high = band(n, edges[1])
        floor, ceiling = band(n, edges[1], confidence=1 - (1 - CONFIDENCE) / (len(edges) - 1))
        return Histogram(edges, np.diff(below) / n, float(low), float(high), float(floor), float(ceiling))

    @cached_property
    def area(self) -> float:
        """The miscalibration area, of the steps themselves rather than of points on the curve."""
        n = len(self.pit)
        ends = np.concatenate([[0.0], self.distance, [1.0]])
        share = np.arange(n + 1) / n
        left, right = ends[:-1] - share, ends[1:] - share
        return float(np.sum(right * np.abs(right) - left * np.abs(left)) / 2)

    @property
    def area_by_chance(self) -> float:
        """The mean of the area if the laws are right; exact for many rows."""
        return math.sqrt(math.pi / 32 / len(self.pit))

    @cached_property
    def kolmogorov(self) -> Uniformity:
        """The Kolmogorov-Smirnov test, which sees a shift of the middle best."""
        return Uniformity(*_plain(stats.ks_1samp(self.pit, stats.uniform.cdf)))

    @cached_property
    def cramer(self) -> Uniformity:
        """The Cramer-von Mises test, which weighs the gap over all levels."""
        return Uniformity(*_plain(stats.cramervonmises(self.pit, stats.uniform.cdf)))

    @cached_property
    def distance(self) -> np.ndarray:
        """|2 u - 1| in order. Both halves are in order already, and a stable sort merges them."""
        centred = 2 * self.pit - 1
        middle = np.searchsorted(centred, 0.0)
        return np.sort(np.concatenate([-centred[:middle][::-1], centred[middle:]]), kind="stable")


def curve(evaluation: Evaluation) -> Curve:
    """The calibration curve of an evaluation of one output."""
    return Calibration.of(evaluation).curve()


def histogram(evaluation: Evaluation) -> Histogram:
    """The PIT histogram of an evaluation of one output."""
    return Calibration.of(evaluation).histogram()


def band(
    n: int | np.ndarray, p: float | np.ndarray, *, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """The central 95%, or other confidence, of shares of n independent values that fall in a set of probability p.

    >>> low, high = band(100, 0.9)
    >>> float(low), float(high)
    (0.84, 0.95)
    """
    tail = (1 - confidence) / 2
    return stats.binom.ppf(tail, n, p) / n, stats.binom.ppf(1 - tail, n, p) / n


def simultaneous_band(n: int, p: np.ndarray, *, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Ends (k,) between which the shares of n values below all levels p (k,) lie together, at whatever levels.

    >>> floor, ceiling = simultaneous_band(100, np.array([0.5]))
    >>> round(float(floor[0]), 4), round(float(ceiling[0]), 4)
    (0.366, 0.634)
    """
    reach = float(stats.kstwo.ppf(confidence, n))
    return np.clip(p - reach, 0, 1), np.clip(p + reach, 0, 1)


def conformal_band(
    n: int, level: float, *, rows: int | None = None, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """What the coverage of split-conformal intervals lies between, calibrated on n rows at a level.

    With k = ceil((n + 1) level), the coverage given the calibration rows is Beta(k, n + 1 - k): its
    mean is at least the level, and it varies from one calibration set to the next. With `rows`, the band
    is of the share inside among so many test rows, which chance moves further.

    Errors: ValueError if n rows are too few for intervals of the level.

    >>> low, high = conformal_band(100, 0.9, confidence=0.9)
    >>> round(low, 3), round(high, 3)
    (0.848, 0.945)
    """
    k = math.ceil((n + 1) * level * (1 - 1e-12))  # 0.9 times 110 is a rounding error above 99
    if not 0 < level < 1 or k > n:
        least = math.ceil(level / (1 - level) * (1 - 1e-12)) if 0 < level < 1 else None
        remedy = "take a level between 0 and 1" if least is None else f"it takes at least {least} rows"
        raise ValueError(f"{n} calibration rows give no interval of level {level:g}; {remedy}")
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    if rows is None:
        low, high = stats.beta.ppf(tails, k, n + 1 - k)
    else:
        low, high = stats.betabinom.ppf(tails, rows, k, n + 1 - k) / rows
    return float(low), float(high)


def _plain(result: object) -> tuple[float, float]:
    return float(result.statistic), float(result.pvalue)  # type: ignore[attr-defined]
