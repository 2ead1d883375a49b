"""Groups: do the intervals hold as many values in each part of the data as they do on the whole?

They are those of 90%, or what laws given by quantiles promise instead (`kernelfield.uq.promises`).

Intervals that are right on average may be too narrow for the old and too wide for the young. Rows
are grouped by each column (`kernelfield.uq.diagnosis.columns`) and by the predicted standard
deviation. If the laws are right given the columns, the number of values inside the intervals
of each group is binomial with the promised probability, and independent of that of others; all groups of a
column are tested together, exactly (`kernelfield.uq.diagnosis.counts`), and the columns are
adjusted for each other by Holm's method. Of classes it is the number of rows whose most probable
class came, against the sum of their confidences.

The worst group of a column is the one that chance explains least. P-values that are rounding errors do not tell
groups apart, as all may be with a million rows; among these it is the one whose share is most half widths of its
band from what was promised.

Rows are taken as independent. Source: Feldman, Bates & Romano (2021), "Improving Conditional
Coverage via Orthogonal Quantile Regression", for coverage by group as a measure of conditional coverage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from kernelfield.uq.calibration import CONFIDENCE
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.columns import Grouping, checked, grouping
from kernelfield.uq.diagnosis.counts import TOLD, Count, binomial, holm, joint_p_value, poisson_binomial
from kernelfield.uq.promises import main_promise
from kernelfield.uq.scores import Evaluation

STD = "predicted standard deviation"
CONFIDENT = "confidence"


@dataclass(frozen=True)
class Group:
    """Rows alike in a column, and how their intervals did.

    label     the values of the column
    count     rows
    coverage  share of values inside their intervals
    low, high 95% band of that share if the intervals are right
    pit       mean of the PIT values: 0.5 without bias, less where predictions are too high
    rmse      of the mean, in units of y
    crps      mean, in units of y
    p_value   of the exact two-sided test that the coverage is what was promised
    promised  share that should be inside: 0.9, or that of the intervals judged in its place
    """

    label: str
    count: int
    coverage: float
    low: float
    high: float
    pit: float
    rmse: float
    crps: float
    p_value: float
    promised: float

    @property
    def share(self) -> float:
        """What was found."""
        return self.coverage


@dataclass(frozen=True)
class ClassGroup:
    """Rows alike in a column, and how right their most probable classes were.

    low and high are the 95% band of the accuracy if probabilities are right; p_value is of the
    exact two-sided test that the accuracy is the mean confidence.
    """

    label: str
    count: int
    accuracy: float
    confidence: float
    low: float
    high: float
    log_loss: float
    p_value: float

    @property
    def share(self) -> float:
        """What was found."""
        return self.accuracy

    @property
    def promised(self) -> float:
        """What it is held against."""
        return self.confidence


G = TypeVar("G", Group, ClassGroup)


@dataclass(frozen=True)
class Column(Generic[G]):
    """The groups of a column and the test of all of them together.

    statistic  Pearson's, of all groups
    p_value    its exact p-value
    adjusted   the same, by Holm's method for all columns that were looked at
    """

    name: str
    groups: tuple[G, ...]
    statistic: float
    p_value: float
    adjusted: float

    @property
    def worst(self) -> G:
        """The group that chance explains least."""
        return min(self.groups, key=rarity)


def rarity(group: Group | ClassGroup) -> tuple[float, float]:
    """What orders groups, those first that chance explains least; see the module docstring.

    >>> apart = [Group("", 10**6, share, 0.8994, 0.9006, 0.5, 1.0, 1.0, 0.0, 0.9) for share in (0.8, 0.5, 0.95)]
    >>> min(apart, key=rarity).coverage
    0.5
    """
    reach, gap = (group.high - group.low) / 2, abs(group.share - group.promised)
    return max(group.p_value, TOLD), -(gap / reach if reach > 0 else np.inf if gap > 0 else 0.0)


def by_column(
    evaluation: Evaluation,
    columns: Mapping[str, np.ndarray],
    *,
    groups: Sequence[str] = (),
    dates: Sequence[str] = (),
) -> list[Column[Group]]:
    """The groups of each column (n,), numbers or text, and of the predicted deviation, for one output.

    A column of one group alone says nothing and is left out; there is none for laws that promise no interval.

    groups  names of columns that are looked at value by value, and come first
    dates   names of columns of days since 1970-01-01

    Errors: ValueError if a column is of another length, or there is none of a name.

    >>> from scipy import stats
    >>> z = stats.norm.ppf((np.arange(400) + 0.5) / 400)[:, None]  # standard normal values
    >>> std = np.where(z < 0, 0.5, 1.0)  # and too narrow a law for half of them
    >>> inside = np.abs(z) <= 1.6449 * std
    >>> print(inside[z < 0].mean(), inside[z > 0].mean())
    0.59 0.9
    """
    promise = main_promise(evaluation)
    if promise is None:
        return []
    level, inside = promise.share, promise.holds(evaluation)
    facts = {
        "pit": evaluation.pit[:, 0],
        "crps": evaluation.crps[:, 0],
        "square": np.square(evaluation.y[:, 0] - evaluation.mean[:, 0]),
    }

    def test(of: Grouping) -> tuple[list[Count], list[int], list[Group]]:
        count, hits = _counts(of), _sums(of, inside)
        means = {name: _sums(of, values) / count for name, values in facts.items()}
        laws = {int(n): binomial(int(n), level) for n in count}
        made = []
        for index, label in enumerate(of.labels):
            n, x = int(count[index]), int(hits[index])
            low, high = laws[n].band(CONFIDENCE)
            pit, crps, rmse = (float(means[name][index]) for name in ("pit", "crps", "square"))
            made.append(Group(label, n, x / n, low / n, high / n, pit, rmse**0.5, crps, laws[n].p_value(x), level))
        return [laws[int(n)] for n in count], hits.astype(int).tolist(), made

    own = {STD: evaluation.std[:, 0]} if np.isfinite(evaluation.std).all() else {}
    return _columns(checked(columns, len(inside)), own, groups, dates, test)


def class_by_column(
    evaluation: ClassEvaluation,
    columns: Mapping[str, np.ndarray],
    *,
    groups: Sequence[str] = (),
    dates: Sequence[str] = (),
) -> list[Column[ClassGroup]]:
    """The groups of each column (n,), numbers or text, and of the confidence, as `by_column` takes them."""
    confidence, losses, right = evaluation.confidence, evaluation.losses, evaluation.right

    def test(of: Grouping) -> tuple[list[Count], list[int], list[ClassGroup]]:
        count, hits = _counts(of), _sums(of, right).astype(int).tolist()
        sure, loss = _sums(of, confidence) / count, _sums(of, losses) / count
        order = np.argsort(of.codes, kind="stable")
        parts = np.split(confidence[order], np.cumsum(count)[:-1].astype(int))
        laws = [poisson_binomial(part) for part in parts]
        made = []
        for index, label in enumerate(of.labels):
            n, x, law = int(count[index]), hits[index], laws[index]
            low, high = law.band(CONFIDENCE)
            figures = x / n, float(sure[index]), low / n, high / n, float(loss[index])
            made.append(ClassGroup(label, n, *figures, law.p_value(x)))
        return laws, hits, made

    return _columns(checked(columns, len(right)), {CONFIDENT: confidence}, groups, dates, test)


def _columns(
    columns: Mapping[str, np.ndarray],
    own: Mapping[str, np.ndarray],
    groups: Sequence[str],
    dates: Sequence[str],
    test: Callable[[Grouping], tuple[list[Count], list[int], list[G]]],
) -> list[Column[G]]:
    for name in (*groups, *dates):
        if name not in columns:
            raise ValueError(f"no column is called {name!r}; there are {', '.join(columns) or 'none'}")
    parted = {name: grouping(columns[name], each=True, dated=name in dates) for name in groups}
    parted |= {name: grouping(values, dated=name in dates) for name, values in columns.items() if name not in parted}
    parted |= {name: grouping(values) for name, values in own.items()}
    found = []
    for name, of in parted.items():
        if len(of.labels) < 2:
            continue
        laws, hits, made = test(of)
        found.append(Column(name, tuple(made), *joint_p_value(hits, laws), adjusted=1.0))
    adjusted = holm([column.p_value for column in found])
    return [replace(column, adjusted=p) for column, p in zip(found, adjusted, strict=True)]


def _counts(of: Grouping) -> np.ndarray:
    return np.bincount(of.codes, minlength=len(of.labels))


def _sums(of: Grouping, values: np.ndarray) -> np.ndarray:
    return np.bincount(of.codes, values, minlength=len(of.labels))
