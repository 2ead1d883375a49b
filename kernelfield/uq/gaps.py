"""Gaps: intervals of calibration errors, which are sizes of gaps and so above zero by chance alone.

A calibration error is the size |g| of gaps g (k,) between what was found and what was promised, as their mean
modulus or the largest of them: the miscalibration area (gaps of the coverage curve), the ENCE (of bins of alike
deviations), the ECE in its forms (of bins of alike confidence). What is found is |g + e| with noise e, on average more
than |g|, so that quantiles of a bootstrap, which adds a second noise, leave the truth out: of right laws
always. Here the draws of the bootstrap less what was found are draws of e, and the interval holds

    all |t g'|, t >= 0, for which the size found, |g'|, is within the central 95% of the sizes |t g' + e|,

gaps of the shape found but of another size; t = 0 is what chance gives, so that the interval reaches down to zero
exactly if chance explains what was found. The shape found holds noise itself. Therefore the interval is made to
hold |g'| plus and minus 1.96 deviations of |g' + e| as well. In simulations it holds the truth in 91 to 99 of 100 cases
with 30 rows a bin, for gaps of none, of the size of the noise and far above it.

The largest gap is worse off, as the largest of many equal ones is too large by far. It has the interval that the
triangle inequality gives for any size, |g'| plus and minus the 95% point of |e|, which is too wide for a mean.

Bins are held as the rows of the test set cut them. Work is bounded: means of more than 5000 rows are drawn by random
groups of rows (see `kernelfield.uq.bootstrap`), of which fewer are made where there are many bins, and of 500 at
least; the coverage curve at 200 levels is drawn from the multinomial law of the shares between them, which is the
bootstrap of rows whatever their number.

Sources: Hansen (1999), "The Grid Bootstrap and the Autoregressive Model", for intervals from the draws at each value of
a parameter; Kumar, Liang & Ma (2019), "Verified Uncertainty Calibration", for the bias of calibration errors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from kernelfield.uq.bootstrap import DRAWS, UNITS, Interval
from kernelfield.uq.calibration import CONFIDENCE, Calibration

LEVELS = 200  # of the coverage curve
HALVINGS = 24  # of a bracket of t
FURTHEST = 64.0  # the largest t
KEPT = 2**21  # sums of groups of rows held at once
FEWEST = 500  # groups of rows, whose standard errors are right to 3%

Size = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class AgainstChance:
    """A score, the ends between which the truth lies with 95%, and what chance alone gives on average."""

    value: float
    low: float
    high: float
    chance: float
    confidence: float = CONFIDENCE

    @property
    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high, self.confidence)


def mean_modulus(gaps: np.ndarray) -> np.ndarray:
    """The mean (*b,) of |gaps| (*b, k)."""
    return np.abs(gaps).mean(-1)


def total_modulus(gaps: np.ndarray) -> np.ndarray:
    """The sum (*b,) of |gaps| (*b, k)."""
    return np.abs(gaps).sum(-1)


def size_interval(gaps: np.ndarray, noise: np.ndarray, size: Size) -> AgainstChance:
    """The size of gaps (k,), its interval and what chance gives, from draws (B, k) of their noise.

    >>> noise = np.random.default_rng(0).normal(size=(1000, 10))
    >>> chance, clear = (size_interval(np.full(10, gap), noise, mean_modulus) for gap in (0.8, 5.0))
    >>> (chance.value, chance.low), (clear.value, round(clear.low), round(clear.high))
    ((0.8, 0.0), (5.0, 4, 6))
    """
    value, chance = float(size(gaps)), size(noise)
    if not (np.isfinite(noise).all() and math.isfinite(value)):
        return AgainstChance(value, math.nan, math.nan, math.nan)
    reach = float(special.ndtri((1 + CONFIDENCE) / 2) * np.std(size(gaps + noise)))

    def share(t: float) -> float:
        """Of draws below what was found, if the gaps were t times those found."""
        drawn = size(t * gaps + noise)
        return float((drawn < value).mean() + (drawn <= value).mean()) / 2

    low, high = (_crossing(share, level) * value for level in ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2))
    return AgainstChance(value, max(min(low, value - reach), 0.0), max(high, value + reach), float(chance.mean()))


def _crossing(share: Callable[[float], float], level: float) -> float:
    """The t at which a falling share comes down to the level; 0 if it begins below."""
    if share(0.0) <= level:
        return 0.0
    low, high = 0.0, 1.0
    while share(high) > level and high < FURTHEST:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) > level else (low, middle)
    return high


def largest_interval(gaps: np.ndarray, noise: np.ndarray) -> AgainstChance:
    """The largest modulus of gaps (k,), its interval and what chance gives, from draws (B, k) of their noise.

    >>> noise = np.random.default_rng(0).normal(size=(1000, 10))
    >>> found = largest_interval(np.full(10, 5.0), noise)
    >>> found.value, round(found.low), round(found.high)
    (5.0, 2, 8)
    """
    value, chance = float(np.abs(gaps).max()), np.abs(noise).max(-1)
    reach = float(np.quantile(chance, CONFIDENCE))
    return AgainstChance(value, max(value - reach, 0.0), value + reach, float(chance.mean()))


def area_interval(found: Calibration, *, seed: int = 0) -> AgainstChance:
    """The miscalibration area, with what chance gives exactly for many rows.

    >>> rng = np.random.default_rng(0)
    >>> right, wrong = (area_interval(Calibration(np.sort(rng.random(1000) ** power))) for power in (1, 1.3))
    >>> right.low, bool(wrong.low > 0)
    (0.0, True)
    """
    n, edges = len(found.pit), np.arange(1, LEVELS) / LEVELS
    below = np.searchsorted(found.distance, edges, side="right")
    shares = np.diff(below, prepend=0, append=n) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=DRAWS).cumsum(1)[:, :-1] / n
    made = size_interval(below / n - edges, drawn - below / n, mean_modulus)
    low, high = min(made.low, found.area), max(made.high, found.area)
    return AgainstChance(found.area, low, high, found.area_by_chance)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums (G, k) of each of the columns over bins of rows, in each of G groups of rows of sizes (G,)."""

    sums: Sequence[np.ndarray]
    sizes: np.ndarray

    @classmethod
    def of(cls, columns: Sequence[np.ndarray], bins: Sequence[np.ndarray], *, seed: int = 0) -> "Sums":
        """Of columns (n,), each with the number (n,) of the bin of each row."""
        n, counts = len(columns[0]), [int(bin.max()) + 1 for bin in bins]
        groups = min(n, UNITS, max(KEPT // sum(counts), FEWEST))
        group = np.arange(n) if groups == n else np.random.default_rng(seed).permutation(n) % groups
        sums = [
            np.bincount(group * k + bin, column, groups * k).reshape(groups, k)
            for column, bin, k in zip(columns, bins, counts, strict=True)
        ]
        return cls(sums, np.bincount(group, minlength=groups).astype(float))

    def means(self) -> list[np.ndarray]:
        """Sums (k,) of each column over the rows of each bin, over the number of all rows."""
        return [column.sum(0) / self.sizes.sum() for column in self.sums]

    def drawn(self, *, seed: int = 0) -> list[np.ndarray]:
        """The same (B, k) of draws of groups with replacement."""
        generator, count = np.random.default_rng(seed), len(self.sizes)
        found: list[list[np.ndarray]] = [[] for _ in self.sums]
        most = max(KEPT // (4 * count), 1)
        for start in range(0, DRAWS, most):
            draws = min(most, DRAWS - start)
            chosen = generator.integers(count, size=(draws, count)) + np.arange(draws)[:, None] * count
            times = np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count).astype(float)
            rows = times @ self.sizes
            for own, column in zip(found, self.sums, strict=True):
                own.append(times @ column / rows[:, None])
        return [np.concatenate(parts) for parts in found]
