"""Bootstrap: how far a score could be from what it would be on endless rows like those of the test set.

All scores are functions g of means M of columns, numbers that each row has: its squared error, its
negative log density, whether y was inside. Resampling n rows with replacement gives rows the counts w,
so that all means of all draws are one product of the counts (draws, n) and the columns (n, q), and a
thousand draws of a dozen scores take the time of one. Intervals are BCa: with the share of draws
below g(M) at z0 = ndtri(share), and a = sum d^3 / (6 (sum d^2)^(3/2)) of the jackknife's deviations d,
their ends are the quantiles of the draws at

    ndtr(z0 + (z0 + z) / (1 - a (z0 + z))),   z = ndtri of (1 - confidence) / 2 and (1 + confidence) / 2.

What is drawn are units: rows; whole groups, where rows of a group are alike; or blocks of consecutive
rows, where rows that are close in time are alike. Of several units the sums and the numbers of rows
are added, and means are ratios of both. Blocks wrap around at the end, so that each row is drawn as
often as any other.

Work is bounded by one rule. More than UNITS = 5000 units are first merged at random into so many, of
equal size, which are then drawn: sums of independent rows are independent, and have the variance and
skewness of their parts. The standard error found in this way differs from that of drawing rows by
1 / sqrt(2 UNITS) = 1% itself, less than the 2% that 1000 draws leave. Blocks are made longer
instead, which is always allowed, until there are as few of them.

Sources: Efron (1987), "Better Bootstrap Confidence Intervals"; Efron & Tibshirani (1993), "An
Introduction to the Bootstrap", chapter 14; Politis & Romano (1992), "A Circular Block-Resampling
Procedure for Stationary Data"; Cameron, Gelbach & Miller (2008), "Bootstrap-Based Improvements for
Inference with Clustered Errors", for groups; Wolter (2007), "Introduction to Variance Estimation",
chapter 2, for groups formed at random.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from kernelfield.uq.calibration import CONFIDENCE
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.scores import LEVEL, Evaluation

DRAWS = 1000
UNITS = 5000  # that are drawn at most; see the module docstring
CHUNK = 2**19  # entries of the counts held at once; as fast as more, and small beside a report
ROUNDING = 1e-12  # of sums of a million numbers
FEWEST = 2  # units, without which nothing varies
SHARES = ("coverage90", "accuracy")  # scores that may be all zeros or ones, of which no draw differs
GAINS = ("rmse", "mae", "crps", "interval90", "quantile05", "quantile95", "log_loss", "brier")  # zero is perfection

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A value, and the ends between which the truth lies with the given confidence; NaN where unknown."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, eq=False)
class Resampling:
    """How rows are drawn.

    draws       of all scores together
    confidence  of the intervals
    seed        of the draws
    groups      the group of each row (n,), any labels: whole groups are drawn
    block       rows of a block, for rows in order of time: blocks are drawn; n^(1/3) is a usual length

    Errors: ValueError for both groups and block, or numbers out of their range.
    """

    draws: int = DRAWS
    confidence: float = CONFIDENCE
    seed: int = 0
    groups: ArrayLike | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        if self.groups is not None and self.block is not None:
            raise ValueError("rows are drawn in groups or in blocks of consecutive rows, got both; choose one")
        if not 0 < self.confidence < 1:
            raise ValueError(f"the confidence must lie between 0 and 1, got {self.confidence:g}")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1 (1000 for intervals of 95%), got {self.draws}")
        if self.block is not None and self.block < 1:
            raise ValueError(f"a block holds at least 1 row, got {self.block}")


ROWS = Resampling()


def score_intervals(evaluation: Evaluation | ClassEvaluation, plan: Resampling = ROWS) -> dict[str, Interval]:
    """The intervals of all scores that are functions of means, by the names they have in `scores()`.

    To those of an Evaluation the pinball losses of its 5% and 95% quantiles are added. Cost: 0.5 s for
    1,000,000 rows.

    >>> result = ClassEvaluation.of([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0])
    >>> found = score_intervals(result)["accuracy"]
    >>> found.value, found.low, found.high
    (0.75, 0.25, 1.0)
    """
    table = _table(evaluation)
    return table.named(intervals(table.columns, table.scores, plan, table.shares))


def skill_intervals(
    model: Evaluation | ClassEvaluation, baseline: Evaluation | ClassEvaluation, plan: Resampling = ROWS
) -> dict[str, Interval]:
    """The intervals of 1 - score / baseline's score on the same rows, of scores whose zero is perfection."""
    own, other = _pair(model, baseline)
    index = [own.names.index(name) for name in own.names if name in GAINS]

    def skill(means: np.ndarray) -> np.ndarray:
        mine, theirs = np.split(means, 2, axis=-1)
        least = other.scores(theirs)[..., index]
        return 1 - own.scores(mine)[..., index] / np.where(least > 0, least, np.nan)

    found = intervals(chain(own.columns, other.columns), skill, plan)
    return dict(zip([own.names[i] for i in index], found, strict=True))


def difference_intervals(
    model: Evaluation | ClassEvaluation, other: Evaluation | ClassEvaluation, plan: Resampling = ROWS
) -> dict[str, Interval]:
    """The intervals of the model's scores less the other's, on the same rows."""
    own, rest = _pair(model, other)

    def gap(means: np.ndarray) -> np.ndarray:
        mine, theirs = np.split(means, 2, axis=-1)
        return own.scores(mine) - rest.scores(theirs)

    return own.named(intervals(chain(own.columns, rest.columns), gap, plan))


def bootstrap(
    columns: np.ndarray, statistic: Statistic, plan: Resampling = ROWS, *, shares: Sequence[int] = ()
) -> list[Interval]:
    """BCa intervals of p functions of the means of columns (n, q).

    `statistic` takes means (*b, q) to values (*b, p). Of the values whose indices are in `shares`, which
    are shares of rows, intervals are exact where all rows are alike and no draw would differ.

    >>> times = np.random.default_rng(0).exponential(size=(200, 1))
    >>> mean = bootstrap(times, lambda means: means)[0]
    >>> round(mean.value, 2), round(mean.low, 2), round(mean.high, 2)
    (1.13, 1.0, 1.29)

    Errors: ValueError if there are fewer than two units to draw, or labels of groups do not fit.
    """
    return intervals(np.asarray(columns, dtype=float).T, statistic, plan, shares)


def intervals(
    columns: Iterable[np.ndarray], statistic: Statistic, plan: Resampling = ROWS, shares: Sequence[int] = ()
) -> list[Interval]:
    """As `bootstrap`, from columns (n,) that come one by one, so that those of a million rows are not all kept."""
    generator = np.random.default_rng(plan.seed)
    units, means = _Units.of(columns, plan, generator)
    with np.errstate(invalid="ignore", divide="ignore"):  # a score that is infinite has no interval
        value = statistic(means)
        drawn = np.concatenate([statistic(means) for means in units.drawn(plan.draws, generator)])
        kept = statistic(units.without_one())
    low, high = bca(value, drawn, kept, plan.confidence)
    for index in shares:
        if value[index] in (0.0, 1.0):
            end = ((1 - plan.confidence) / 2) ** (1 / len(units.left_sizes))
            low[index], high[index] = (0.0, 1 - end) if value[index] == 0 else (end, 1.0)
    ends = zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(one, least, most, plan.confidence) for one, least, most in ends]


@dataclass(frozen=True, eq=False)
class _Units:
    """What is drawn: sums of columns (G, q) and rows (G,) of each unit, how many a draw holds, and the jackknife's."""

    sums: np.ndarray
    sizes: np.ndarray
    count: int
    left_out: np.ndarray
    left_sizes: np.ndarray

    @classmethod
    def of(
        cls, columns: Iterable[np.ndarray], plan: Resampling, generator: np.random.Generator
    ) -> tuple["_Units", np.ndarray]:
        """The units, and the means (q,) over all rows."""
        coming = iter(columns)
        first = next(coming)
        n, coming = len(first), chain([first], coming)
        if plan.block is not None or (plan.groups is None and n <= UNITS):
            table = np.column_stack(list(coming)).astype(float)
            if plan.block is not None:
                return cls._blocks(table, max(plan.block, math.ceil(n / UNITS))), table.mean(0)
            _require(n, f"{n} row")
            return cls(table, np.ones(n), n, table, np.ones(n)), table.mean(0)
        label = np.arange(n) if plan.groups is None else _labels(plan.groups, n)
        units = int(label.max()) + 1
        _require(units, f"{units} group")
        if units > UNITS:
            label = (generator.permutation(units) % UNITS)[label]
        sizes = np.bincount(label).astype(float)
        sums = np.stack([np.bincount(label, weights=column) for column in coming], axis=1)
        return cls(sums, sizes, len(sums), sums, sizes), sums.sum(0) / n

    @classmethod
    def _blocks(cls, columns: np.ndarray, block: int) -> "_Units":
        n = len(columns)
        starts = np.arange(0, n, block)
        _require(n // block, f"{n // block} block of {block} rows")
        total = np.cumsum(np.vstack([np.zeros((1, columns.shape[1])), columns, columns[: block - 1]]), axis=0)
        apart = np.add.reduceat(columns, starts)
        return cls(
            total[block:] - total[:-block], np.full(n, float(block)), len(starts), apart, np.diff(starts, append=n)
        )

    def drawn(self, draws: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Means (b, q) of draws of units, with replacement."""
        most = max(CHUNK // self.count, 1)
        for start in range(0, draws, most):
            chosen = generator.integers(len(self.sums), size=(min(most, draws - start), self.count))
            if self.count == len(self.sums):
                rows = np.arange(len(chosen))[:, None] * self.count
                counts = np.bincount((chosen + rows).ravel(), minlength=chosen.size).reshape(chosen.shape).astype(float)
                yield counts @ self.sums / (counts @ self.sizes)[:, None]
            else:
                yield self.sums[chosen].sum(1) / self.sizes[chosen].sum(1)[:, None]

    def without_one(self) -> np.ndarray:
        """Means (G, q) of all rows but those of one unit."""
        return (self.left_out.sum(0) - self.left_out) / (self.left_sizes.sum() - self.left_sizes)[:, None]


def _require(units: int, named: str) -> None:
    if units < FEWEST:
        raise ValueError(f"nothing varies among {named}: an interval needs at least {FEWEST} of them, better 20")


def _labels(groups: ArrayLike, n: int) -> np.ndarray:
    """The number of the group of each row."""
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise ValueError(f"need the group of each of {n} rows, got labels of shape {labels.shape}")
    return np.unique(labels, return_inverse=True)[1]


def bca(
    value: np.ndarray, drawn: np.ndarray, kept: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Ends (p,) for values (p,), from draws (B, p) and the jackknife's values (G, p)."""
    known = np.isfinite(value) & np.isfinite(drawn).all(0) & np.isfinite(kept).all(0)
    value, drawn, kept = (np.where(known, numbers, 0.0) for numbers in (value, drawn, kept))
    draws = len(drawn)
    below = ((drawn < value).sum(0) + (drawn <= value).sum(0)) / (2 * draws)
    z0 = special.ndtri(np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
    d = kept.mean(0) - kept
    # The acceleration does not depend on the unit, and cubes of huge losses overflow.
    d = d / np.where((size := np.abs(d).max(0)) > 0, size, 1.0)
    square = (d**2).sum(0)
    a = (d**3).sum(0) / np.where(square > 0, 6 * square**1.5, 1.0)
    ordered = np.sort(drawn, axis=0)
    # Rows that are all alike are summed in another order than the value was.
    alike = ordered[-1] - ordered[0] <= ROUNDING * np.abs(value)
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = z0 + special.ndtri(tail)
        place = special.ndtr(z0 + z / (1 - a * z)) * (draws - 1)
        under = np.floor(place).astype(int)
        over = np.minimum(under + 1, draws - 1)
        low, high = (np.take_along_axis(ordered, index[None], axis=0)[0] for index in (under, over))
        end = np.where(alike, value, low + (place - under) * (high - low))
        ends.append(np.where(known, end, np.nan))
    return ends[0], ends[1]


@dataclass(frozen=True, eq=False)
class _Table:
    """The q columns (n,) of an evaluation, each made when it is asked for, and scores (*b, p) of means (*b, q)."""

    names: tuple[str, ...]
    parts: tuple[Callable[[], np.ndarray], ...]
    scores: Statistic

    @property
    def columns(self) -> Iterator[np.ndarray]:
        return (column for part in self.parts for column in np.atleast_2d(part().T))

    @property
    def shares(self) -> list[int]:
        return [index for index, name in enumerate(self.names) if name in SHARES]

    def named(self, found: Sequence[Interval]) -> dict[str, Interval]:
        return dict(zip(self.names, found, strict=True))


def _pair(one: Evaluation | ClassEvaluation, other: Evaluation | ClassEvaluation) -> tuple[_Table, _Table]:
    """The tables of two models on the same rows."""
    came, also = (each.labels if isinstance(each, ClassEvaluation) else each.y for each in (one, other))
    if type(one) is not type(other) or not np.array_equal(came, also):
        raise ValueError("both models must be evaluated on the same rows, in the same order, and these are not")
    return _table(one), _table(other)


def _table(evaluation: Evaluation | ClassEvaluation) -> _Table:
    if isinstance(evaluation, ClassEvaluation):
        losses = (lambda: evaluation.losses, lambda: evaluation.squares, lambda: evaluation.right)
        return _Table(("log_loss", "brier", "accuracy"), losses, lambda means: means)
    e, tail = evaluation, (1 - LEVEL) / 2
    middle = np.median(e.y, axis=0)
    parts: dict[str, Callable[[], np.ndarray]] = {
        "rmse": lambda: (e.y - e.mean) ** 2,
        "mae": lambda: np.abs(e.y - e.mean),
        "r2": lambda: (e.y - middle) ** 2,
        "nll": lambda: e.nll,
        "crps": lambda: e.crps,
        "interval90": lambda: e.interval,
        "coverage90": lambda: np.where(np.isnan(e.pit), np.nan, np.abs(2 * e.pit - 1) <= LEVEL),
        "sharpness90": lambda: e.high - e.low,
        "quantile05": lambda: (e.y - e.low) * (tail - (e.y < e.low)),
        "quantile95": lambda: (e.y - e.high) * (1 - tail - (e.y < e.high)),
    }
    m = e.y.shape[1]

    def scores(means: np.ndarray) -> np.ndarray:
        each = means.reshape(*means.shape[:-1], len(parts) + 1, m)
        square, total = each[..., 0, :], each[..., 2, :] - each[..., -1, :] ** 2
        share = np.where(total > 0, 1 - square / np.where(total > 0, total, 1.0), np.where(square > 0, 0.0, 1.0))
        values = each[..., :-1, :].copy()
        values[..., 0, :], values[..., 2, :] = np.sqrt(square), share
        return values.mean(-1)

    return _Table(tuple(parts), (*parts.values(), lambda: e.y - middle), scores)
