"""Rules: descriptions of a group of rows that a person can read and a program can apply to other rows.

A rule is a list of conditions that all hold: a number between two ends, a category that is or is
not one of a few, a weighted sum of numbers between two ends. Its words are exact: ends and weights
are rounded first, and rows are then chosen by what the words say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernelfield.uq.diagnosis.columns import exact, numbers
from kernelfield.uq.words import day

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Range:
    """low < value <= high, where a missing value counts as `fill`."""

    name: str
    low: float
    high: float
    fill: float

    def holds(self, columns: Columns) -> np.ndarray:
        return _between(filled(columns[self.name], self.fill), self.low, self.high)

    def words(self, columns: Columns, dates: Sequence[str]) -> str:
        write = day if self.name in dates else exact
        lost = np.isnan(numbers(columns[self.name])).any()
        filled_as = day(self.fill) if self.name in dates else f"{self.fill:.4g}"
        return _said(self.name, self.low, self.high, write) + (f" (missing as {filled_as})" if lost else "")


@dataclass(frozen=True)
class Category:
    """The value is the category, or is not."""

    name: str
    label: str
    code: int
    included: bool

    def holds(self, columns: Columns) -> np.ndarray:
        return (columns[self.name] == self.code) == self.included

    def words(self, columns: Columns, dates: Sequence[str]) -> str:
        return f"{self.name} is {'' if self.included else 'not '}{self.label}"


@dataclass(frozen=True)
class Slab:
    """low < sum of weight * value <= high, where missing values count as `fills`."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    low: float
    high: float
    fills: tuple[float, ...]

    def holds(self, columns: Columns) -> np.ndarray:
        parts = zip(self.names, self.weights, self.fills, strict=True)
        total = sum(weight * filled(columns[name], fill) for name, weight, fill in parts)
        return _between(np.asarray(total), self.low, self.high)

    def words(self, columns: Columns, dates: Sequence[str]) -> str:
        what = [f"days of {name} since 1970-01-01" if name in dates else name for name in self.names]
        parts = zip(what, self.weights, strict=True)
        terms = [f"{'-' if weight < 0 else '+'} {abs(weight):.3g} {name}" for name, weight in parts]
        lost = [name for name in self.names if np.isnan(numbers(columns[name])).any()]
        fills = zip(self.names, self.fills, strict=True)
        said = [f"{name} as {day(fill) if name in dates else f'{fill:.4g}'}" for name, fill in fills if name in lost]
        also = f" (missing {', '.join(said)})" if said else ""
        return _said(" ".join(terms).removeprefix("+ "), self.low, self.high, exact) + also


Condition = Range | Category | Slab


def holds(rule: Sequence[Condition], columns: Columns) -> np.ndarray:
    """The rows (n,) of which all conditions hold.

    Text columns hold the codes of `kernelfield.uq.diagnosis.columns.grouping`.

    >>> rule = [Range("age", 61.5, np.inf, 40.0), Category("site", "Bern", 1, False)]
    >>> rows = {"age": np.array([70.0, 30.0, 65.0]), "site": np.array([0, 0, 1])}
    >>> worded(rule, rows), holds(rule, rows).tolist()
    ('age > 61.5 and site is not Bern', [True, False, False])
    """
    return np.logical_and.reduce([condition.holds(columns) for condition in rule])


def worded(rule: Sequence[Condition], columns: Columns, dates: Sequence[str] = ()) -> str:
    """The rule in words; columns called `dates` hold days since 1970-01-01.

    >>> worded([Range("day", 19896.0, np.inf, 0.0)], {"day": np.array([19909.0])}, ["day"])
    'day > 2024-06-22'
    """
    return " and ".join(condition.words(columns, dates) for condition in rule)


def filled(values: np.ndarray, fill: float) -> np.ndarray:
    """Numbers in double precision, `fill` where one is missing."""
    known = numbers(values)
    return np.where(np.isnan(known), fill, known)


def shortest(low: float, high: float) -> float:
    """The middle of two numbers in as few digits as leave it between them, low <= t < high.

    >>> shortest(61.0, 62.0), shortest(0.1234, 0.1236)
    (61.5, 0.1235)
    """
    middle = low + (high - low) / 2
    for digits in range(1, 17):
        short = float(f"{middle:.{digits}g}")
        if low <= short < high:
            return short
    return low


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values > low) & (values <= high)


def _said(what: str, low: float, high: float, write: Callable[[float], str]) -> str:
    if low == -np.inf:
        return f"{what} <= {write(high)}"
    return f"{what} > {write(low)}" if high == np.inf else f"{write(low)} < {what} <= {write(high)}"
