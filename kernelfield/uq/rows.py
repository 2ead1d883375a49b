"""Rows: what is known of the rows of a test beside their predictions and values.

A report asks where a model is wrong: for which values of a column, for which groups, since when,
and whether it is unsure of rows that come from elsewhere. It can only ask about what is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernelfield.uq.words import day


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns of n test rows, by name, and what they are for.

    columns  of numbers or text (n,); NaN and None are missing
    groups   the names of those whose values must be looked at one by one, such as a site or a customer
    time     the name of the one that orders the rows in time, where one does
    dates    the names of those that hold days since 1970-01-01, which are shown as dates
    outside  standard deviations (k, m) that the model predicts at k rows from elsewhere, which it should be
             unsure of; for classes its probabilities (k, classes) there
    origin   what these rows are, in words

    Errors: ValueError for lengths that differ, an unknown name, or a time or date that is no number.

    >>> Rows({"site": ["a", "b"], "day": [1.0, 2.0]}, groups=["site"], time="day").order.tolist()
    [0, 1]
    """

    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: Sequence[str] = ()
    time: str | None = None
    outside: np.ndarray | None = None
    origin: str = ""
    dates: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", {name: np.asarray(column) for name, column in self.columns.items()})
        sizes = {name: column.shape for name, column in self.columns.items()}
        if len(set(sizes.values())) > 1 or any(len(shape) != 1 for shape in sizes.values()):
            raise ValueError(f"columns of test rows must have one length (n,), got {sizes}")
        for name in (*self.groups, *self.dates, *([] if self.time is None else [self.time])):
            if name not in self.columns:
                raise ValueError(f"no column is called {name!r}; there are {', '.join(self.columns) or 'none'}")
        if self.time is not None:
            clock = self.columns[self.time]
            if clock.dtype.kind not in "iuf" or not np.isfinite(clock).all():
                raise ValueError(f"the time of each row must be a number, and column {self.time!r} is not; convert it")
        for name in self.dates:
            if self.columns[name].dtype.kind not in "iuf":
                raise ValueError(
                    f"dates must be days since 1970-01-01, and column {name!r} holds no numbers; convert it"
                )
        if self.outside is None:
            return
        object.__setattr__(self, "outside", np.asarray(self.outside, dtype=float))
        if not (self.outside >= 0).all():
            raise ValueError("predictions at rows from elsewhere must be numbers and not negative; check their inputs")

    def require_length(self, n: int) -> None:
        """Errors: ValueError if the columns are not of n rows."""
        for name, column in self.columns.items():
            if len(column) != n:
                raise ValueError(f"column {name!r} has {len(column)} rows and the predictions have {n}; give the same")

    @property
    def clock(self) -> np.ndarray | None:
        """The time (n,) of each row; None without."""
        return None if self.time is None else self.columns[self.time]

    def entry(self, name: str, row: int) -> object:
        """The entry of a column as it is shown: a date as its words, all else as it is.

        >>> Rows({"day": [19909.0, np.nan]}, dates=["day"]).entry("day", 0)
        '2024-07-05'
        """
        value = self.columns[name][row]
        return day(float(value)) if name in self.dates and np.isfinite(value) else value

    @property
    def asked(self) -> dict[str, Any]:
        """What `kernelfield.uq.diagnosis.findings` is told of the rows, by keyword."""
        return {
            "columns": self.columns,
            "groups": self.groups,
            "dates": self.dates,
            "time": self.clock,
            "dated": self.time in self.dates,
            "outside": self.outside,
        }

    @property
    def order(self) -> np.ndarray | None:
        """The rows in the order of their time, equal times as they came; None without time."""
        return None if self.time is None else np.argsort(self.columns[self.time], kind="stable")
