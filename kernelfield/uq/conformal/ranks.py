"""Ranks: which of n calibration scores bounds the next one with a promised probability.

For n + 1 exchangeable scores without ties the next one is at most the k-th smallest of the others
with probability k / (n + 1), whatever their law. So the level p needs

    k = ceil((n + 1) p),    and k <= n, that is n >= p / (1 - p) rows.

Given the calibration rows, the share of all future values that are covered is random, with the law
Beta(k, n + 1 - k): what differs from the promised level by less than its spread is no error.

Sources: Vovk, Gammerman & Shafer (2005), "Algorithmic Learning in a Random World"; Vovk (2012),
"Conditional Validity of Inductive Conformal Predictors", for the Beta law.
"""

import math
from dataclasses import dataclass

from scipy import stats

ROUNDING = 1e-9  # of (n + 1) p: 100 * 0.55 is 55.00000000000001 and means 55


def rank(rows: int, level: float) -> int:
    """The k of n = `rows` sorted scores.

    Errors: ValueError for a level outside (0, 1), or too few rows for it.

    >>> rank(100, 0.9)
    91
    """
    needed = rows_needed(level)
    if rows < needed:
        best = math.floor(1e4 * rows / (rows + 1)) / 1e4
        raise ValueError(
            f"the level {level:g} needs at least {needed} calibration rows, got {rows}; "
            f"calibrate on more, or ask for {best:g} at most"
        )
    return math.ceil((rows + 1) * level - ROUNDING)


def rows_needed(level: float) -> int:
    """The least number of calibration rows for which a finite bound has this level.

    Errors: ValueError for a level outside (0, 1).

    >>> rows_needed(0.9), rows_needed(0.99)
    (9, 99)
    """
    require_level(level)
    return max(1, math.ceil(level / (1 - level) - ROUNDING / (1 - level)))


def require_level(level: float) -> None:
    """Errors: ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, got {level:g}; for 90% give 0.9")


@dataclass(frozen=True)
class CoverageLaw:
    """The law Beta(rank, rows + 1 - rank) of the share of future values that intervals cover.

    >>> law = CoverageLaw(91, 100)
    >>> round(law.mean, 4), [round(end, 3) for end in law.band(0.9)]
    (0.901, [0.848, 0.945])
    """

    rank: int
    rows: int

    @property
    def mean(self) -> float:
        return self.rank / (self.rows + 1)

    def band(self, confidence: float = 0.9) -> tuple[float, float]:
        """The central interval of this probability."""
        require_level(confidence)
        low, high = stats.beta.interval(confidence, self.rank, self.rows + 1 - self.rank)
        return float(low), float(high)

    def of_test(self, test: int, confidence: float = 0.9) -> tuple[float, float]:
        """The same for the share of `test` new values, which is Beta-binomial."""
        require_level(confidence)
        law = stats.betabinom(test, self.rank, self.rows + 1 - self.rank)
        low, high = law.interval(confidence)
        return float(low) / test, float(high) / test
