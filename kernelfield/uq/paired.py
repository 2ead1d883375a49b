"""Paired comparison: is one model better than another on the rows that both predicted?

Losses of the same row share what is hard in it, so that their differences d (n,) vary less than either
loss. The mean difference has a BCa interval (`kernelfield.uq.bootstrap`), and the test of Diebold and
Mariano, in the form of Harvey, Leybourne and Newbold:

    t = mean(d) / sqrt(v / n) * sqrt((n + 1 - 2 h + h (h - 1) / n) / n),   Student-t of n - 1,

with v the variance of d at frequency zero by Newey and West's weights: with autocovariances c_j,
v = c_0 + 2 sum_j=1..L (1 - j / (L + 1)) c_j, which is never negative. L = `lags` is the number of
rows back that a difference still depends on, h = L + 1; forecasts h steps ahead depend on h - 1. With
L = 0 this is the paired t test exactly. Where rows are grouped, the sums of groups are what is
independent: v is their variance G / (G - 1) sum (S_g - n_g mean d)^2 / n, and t of G - 1.

Of several comparisons the least p-value is small by chance. Holm's adjustment multiplies the p-values
in ascending order by the number of comparisons that are left, and keeps their order.

Sources: Diebold & Mariano (1995), "Comparing Predictive Accuracy"; Harvey, Leybourne & Newbold (1997),
"Testing the Equality of Prediction Mean Squared Errors"; Newey & West (1987), "A Simple, Positive
Semi-Definite, Heteroskedasticity and Autocorrelation Consistent Covariance Matrix"; Holm (1979), "A Simple
Sequentially Rejective Multiple Test Procedure".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from kernelfield.uq.bootstrap import ROWS, Interval, Resampling, bootstrap
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.counts import holm
from kernelfield.uq.scores import Evaluation

LOSSES = {  # what a row costs, by name: (n, m) of an Evaluation or (n,) of a ClassEvaluation, and how it is called
    "nll": "NLL",
    "crps": "CRPS",
    "interval90": "interval score",
    "squared_error": "squared error",
    "absolute_error": "absolute error",
}
CLASS_LOSSES = {"log_loss": "log loss", "brier": "Brier score", "error": "error rate"}


@dataclass(frozen=True)
class DieboldMariano:
    """The test that two series of losses have the same mean; NaN where all differences are equal."""

    statistic: float
    p_value: float
    lags: int


@dataclass(frozen=True)
class Paired:
    """A model against another, by one loss; a difference below zero is in favour of the model.

    adjusted     the p-value, after Holm's adjustment for `comparisons` of them
    """

    model: str
    other: str
    loss: str
    difference: Interval
    p_value: float
    adjusted: float
    comparisons: int
    rows: int

    @property
    def clear(self) -> bool:
        """Whether chance does not explain the difference, at the confidence of the interval."""
        return self.adjusted < 1 - self.difference.confidence

    @property
    def sentence(self) -> str:
        """The result in words, with its figures."""
        gap = self.difference
        if math.isnan(self.p_value):
            return (
                f"The {self.loss} of {self.model} and {self.other} differs alike in every row, or is unknown: no test."
            )
        which = "lower" if gap.value < 0 else "higher"
        low, high = sorted((abs(gap.low), abs(gap.high))) if gap.low * gap.high > 0 else (gap.low, gap.high)
        ends = f"{low:.3g} to {high:.3g}" if gap.low * gap.high > 0 else f"from {low:.3g} to {high:.3g} around zero"
        times = f", adjusted for {self.comparisons} comparisons" if self.comparisons > 1 else ""
        verdict = "beyond chance" if self.clear else "which chance may explain"
        return (
            f"The mean {self.loss} of {self.model} is {abs(gap.value):.3g} {which} than that of {self.other} "
            f"({gap.confidence:.0%} interval {ends}; p = {self.adjusted:.2g}{times}; {self.rows:,} rows), {verdict}."
        )


def compared_with(
    models: Mapping[str, Evaluation | ClassEvaluation],
    reference: str,
    *,
    loss: str | None = None,
    plan: Resampling = ROWS,
    lags: int = 0,
) -> list[Paired]:
    """Each model against the one named `reference`, on the same rows; p-values adjusted for their number.

    `loss` is "crps" (the default), "nll", "interval90", "squared_error" or "absolute_error" of regressions, and
    "log_loss" (the default), "brier" or "error" of classes. With `lags` and rows in order of time, give
    the plan a block.

    Errors: ValueError for a name that is not there or models of different rows.
    """
    if reference not in models or len(models) < 2:
        raise ValueError(
            f"need the reference {reference!r} and at least one other among the models, got {list(models)}"
        )
    first = models[reference]
    name = loss or ("log_loss" if isinstance(first, ClassEvaluation) else "crps")
    others = [key for key in models if key != reference]
    gaps = [_difference(models[key], first, name) for key in others]
    if plan.groups is not None and lags:
        raise ValueError(f"rows are dependent in groups or over lags, got groups and {lags} lags; choose one")
    tests = [_grouped(gap, plan.groups) if plan.groups is not None else diebold_mariano(gap, lags=lags) for gap in gaps]
    found = bootstrap(np.stack(gaps, axis=1), lambda means: means, plan)
    said = (CLASS_LOSSES if isinstance(first, ClassEvaluation) else LOSSES)[name]
    adjusted = holm([test.p_value for test in tests])
    return [
        Paired(key, reference, said, gap, test.p_value, float(p), len(others), len(gaps[0]))
        for key, gap, test, p in zip(others, found, tests, adjusted, strict=True)
    ]


def diebold_mariano(difference: np.ndarray, *, lags: int = 0) -> DieboldMariano:
    """The test that differences of losses (n,), in order of time if lags is above zero, have mean zero.

    >>> result = diebold_mariano(np.array([1.0, 2.0, 3.0, 4.0]))  # 2.5 / sqrt((5 / 3) / 4)
    >>> round(result.statistic, 4), round(result.p_value, 4)
    (3.873, 0.0305)

    Errors: ValueError for lags that the rows do not have.
    """
    d = np.asarray(difference, dtype=float)
    n = len(d)
    if not 0 <= lags <= n // 2 - 1:
        raise ValueError(
            f"a test with {lags} lags needs at least {max(2 * (lags + 1), 2)} rows, got {n}; take fewer lags"
        )
    centred = d - d.mean()
    each = np.array([centred[j:] @ centred[: n - j] for j in range(lags + 1)]) / n
    v = each[0] + 2 * float((1 - np.arange(1, lags + 1) / (lags + 1)) @ each[1:])
    h = lags + 1
    return _student(float(d.mean()), v / n, (n + 1 - 2 * h + h * (h - 1) / n) / n, n - 1, lags)


def _grouped(d: np.ndarray, groups: ArrayLike) -> DieboldMariano:
    label = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(label, weights=d - d.mean())
    count = len(sums)
    return _student(float(d.mean()), float(sums @ sums) / len(d) ** 2, (count - 1) / count, count - 1, 0)


def _student(mean: float, variance: float, factor: float, df: int, lags: int) -> DieboldMariano:
    if variance <= (8 * np.finfo(float).eps * mean) ** 2:  # equal differences, up to rounding
        return DieboldMariano(math.nan, math.nan, lags)
    t = mean / math.sqrt(variance) * math.sqrt(factor)
    return DieboldMariano(t, float(2 * stats.t.sf(abs(t), df)), lags)


def _difference(model: Evaluation | ClassEvaluation, other: Evaluation | ClassEvaluation, loss: str) -> np.ndarray:
    """The model's loss less the other's (n,), a mean over outputs."""
    match model, other:
        case ClassEvaluation(), ClassEvaluation():
            same = np.array_equal(model.labels, other.labels)
        case Evaluation(), Evaluation():
            same = np.array_equal(model.y, other.y)
        case _:
            same = False
    if not same:
        raise ValueError("both models must be evaluated on the same rows, in the same order, and these are not")
    return _losses(model, loss) - _losses(other, loss)


def _losses(evaluation: Evaluation | ClassEvaluation, loss: str) -> np.ndarray:
    match evaluation, loss:
        case ClassEvaluation(), "log_loss":
            return evaluation.losses
        case ClassEvaluation(), "brier":
            return evaluation.squares
        case ClassEvaluation(), "error":
            return 1.0 - evaluation.right
        case Evaluation(), "nll" | "crps":
            return getattr(evaluation, loss).mean(axis=1)
        case Evaluation(), "interval90":
            return evaluation.interval.mean(axis=1)
        case Evaluation(), "squared_error":
            return np.square(evaluation.y - evaluation.mean).mean(axis=1)
        case Evaluation(), "absolute_error":
            return np.abs(evaluation.y - evaluation.mean).mean(axis=1)
    known = CLASS_LOSSES if isinstance(evaluation, ClassEvaluation) else LOSSES
    raise ValueError(f"the loss must be one of {', '.join(known)}, got {loss!r}")
