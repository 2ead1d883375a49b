"""From the columns of a table to the numbers a model takes, learned once and then repeated.

    numbers, true/false    as they are; true is 1
    dates                  days since 1970-01-01, UTC where no zone is written
    text, categories       one column `name=level` of zeros and ones for each level

A missing number or date becomes the median of the training rows. Where the training rows have
gaps a column `name (missing)` of zeros and ones is added, so that a model can learn what a gap
means. Missing text has no level: zeros throughout, as does a level that was never seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from kernelfield.data.tables import as_numbers, listed, near_names, refuse

MOST_LEVELS = 50  # more columns of zeros and ones than this drown what other columns say
MOSTLY = 0.8  # a column with this share of numbers (dates) is one of numbers (dates) with mistakes in it
MICROSECONDS_A_DAY = 86_400_000_000


@dataclass(frozen=True)
class Column:
    """How one column of a table is encoded."""

    name: str
    kind: str  # "numbers", "dates" or "text"
    fill: float  # what a missing number or date becomes
    gaps: bool  # whether the training rows had some missing
    levels: tuple[str, ...]

    @property
    def features(self) -> list[str]:
        """The names of the encoded columns."""
        values = [f"{self.name}={level}" for level in self.levels] if self.kind == "text" else [self.name]
        return [*values, f"{self.name} (missing)"] if self.gaps else values


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded table (float64, rows as in the input) and what had to be done to it, in sentences."""

    frame: pd.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Encoding:
    """See the module docstring. Made by `fit`, applied by `apply`, stored by `to_dict`.

    >>> table = pd.DataFrame({"size": [1.0, None, 3.0], "colour": ["red", "blue", "red"]})
    >>> Encoding.fit(table).apply(table).frame.to_numpy().tolist()
    [[1.0, 0.0, 0.0, 1.0], [2.0, 1.0, 1.0, 0.0], [3.0, 0.0, 0.0, 1.0]]
    """

    columns: tuple[Column, ...]
    empty: tuple[str, ...] = ()  # columns without a single value in the training rows, left out

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> "Encoding":
        """Learn from the features of the training rows.

        Errors: ValueError, naming column, row and remedy: no column with a value; an infinite
        number; text among numbers; text with too many levels; values of no known kind.
        """
        empty = tuple(str(name) for name in frame if frame[name].isna().all())
        columns = tuple(_learn(frame[name]) for name in frame if name not in empty)
        if not columns:
            raise ValueError(f"every column is empty ({listed(empty)}); give at least one with values")
        encoding = cls(columns, empty)
        repeated = sorted({name for name in encoding.features if encoding.features.count(name) > 1})
        if repeated:
            raise ValueError(f"two encoded columns would be called {listed(repeated)}; rename a column of the table")
        return encoding

    @property
    def features(self) -> list[str]:
        """The names of all encoded columns, in order."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def text(self) -> list[str]:
        """The columns to read as text, so that 007 stays a level of its own."""
        return [column.name for column in self.columns if column.kind == "text"]

    def apply(self, frame: pd.DataFrame) -> Encoded:
        """Encode rows; columns that the fit has not seen are left out.

        Errors: ValueError if a column is missing (with near names) or a value does not fit.
        """
        names = [str(name) for name in frame.columns]
        absent = [column.name for column in self.columns if column.name not in names]
        if absent:
            raise ValueError(_absent(absent, names))
        notes, parts = [], []
        for column in self.columns:
            values, remarks = _encode(column, frame[column.name])
            parts.append(values)
            notes += remarks
        unused = [name for name in names if name not in {column.name for column in self.columns} | set(self.empty)]
        if unused:
            notes.append(f"not used, because the fit did not have them: {listed(unused)}")
        return Encoded(pd.DataFrame(np.column_stack(parts), frame.index, self.features), tuple(notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON."""
        return {"columns": [asdict(column) for column in self.columns], "empty": list(self.empty)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Encoding":
        """The inverse of `to_dict`.

        Errors: ValueError if `content` is not what `to_dict` writes.
        """
        try:
            columns = tuple(Column(**{**row, "levels": tuple(row["levels"])}) for row in content["columns"])
            return cls(columns, tuple(content["empty"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the stored encoding of a table ({error}); fit the model again") from error


def _learn(values: pd.Series) -> Column:
    name, kind, gaps = str(values.name), _kind(values), bool(values.isna().any())
    if kind == "text":
        return Column(name, kind, 0.0, gaps, _levels(values))
    numbers = READ[kind](values)
    _check_finite(values, numbers)
    return Column(name, kind, float(numbers.median()), gaps, ())


def _kind(values: pd.Series) -> str:
    """What a column holds, judged by all its values."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return "text"
    present = values.dropna()
    known = pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)
    if pd.api.types.is_complex_dtype(values) or (not known and not present.map(_is_plain).all()):
        odd = type(present.iloc[0]).__name__
        raise ValueError(f"column {values.name!r} holds values of type {odd}; write them as numbers, text or dates")
    for kind, read in READ.items():
        bad = read(present).isna()
        if 1 - bad.mean() >= MOSTLY:
            remedy = f"is not one of the {kind} that the column mostly holds; correct the cell or leave it empty"
            refuse(present, bad, f"column {values.name!r}", remedy)
            return kind
    return "text"


def _is_plain(value: object) -> bool:
    return isinstance(value, str | Real | Decimal | date | np.bool_)


def _read_numbers(values: pd.Series) -> pd.Series:
    """Float64, NaN where a value is missing or no number."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return pd.Series(np.nan, values.index)
    return as_numbers(values)


def _read_dates(values: pd.Series) -> pd.Series:
    """Days since 1970-01-01, NaN where a value is missing or no ISO date."""
    if not pd.api.types.is_datetime64_any_dtype(values):
        words = values.astype(object).where(values.notna(), "").map(str)
        values = words.where(words.str.match(r"\d{4}-\d{2}-\d{2}"), None)
    stamps = pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True).dt.as_unit("us")
    return stamps.astype("int64").where(stamps.notna()) / MICROSECONDS_A_DAY


READ: dict[str, Callable[[pd.Series], pd.Series]] = {"numbers": _read_numbers, "dates": _read_dates}


def _levels(values: pd.Series) -> tuple[str, ...]:
    present = _words(values).dropna()
    levels = sorted(set(present))
    if len(levels) > MOST_LEVELS or len(levels) == len(present) > 1:
        what = (
            "all of them different" if len(levels) == len(present) else f"more than the {MOST_LEVELS} that are encoded"
        )
        raise ValueError(
            f"column {values.name!r} holds {len(levels)} different texts such as {levels[0]!r}, {what}; "
            f"leave it out (--drop {_argument(str(values.name))}) or group its values"
        )
    return tuple(levels)


def _words(values: pd.Series) -> pd.Series:
    """Values as text, None where missing; a whole number is written without a point."""
    if pd.api.types.is_numeric_dtype(values) and not isinstance(values.dtype, pd.CategoricalDtype):
        return values.map(lambda value: f"{value:g}", na_action="ignore").astype(object)
    return values.astype(object).map(str, na_action="ignore")


def _argument(name: str) -> str:
    return name if name.isidentifier() else f'"{name}"'


def _encode(column: Column, values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The encoded columns (rows, features) of one column, and remarks."""
    gaps = values.isna().to_numpy()
    count = int(gaps.sum())
    remarks = []
    if column.kind == "text":
        words = _words(values).to_numpy()
        encoded = (words[:, None] == np.array(column.levels, dtype=object)).astype(float)
        unseen = ~gaps & (encoded.sum(1) == 0)
        if unseen.any():
            remarks.append(_unseen(column.name, words[unseen]))
        filled = "left without a level"
    else:
        numbers = READ[column.kind](values)
        remedy = f"is not one of the {column.kind} that the model was fitted on; correct the cell or leave it empty"
        refuse(values, numbers.isna() & values.notna(), f"column {column.name!r}", remedy)
        _check_finite(values, numbers)
        encoded = numbers.fillna(column.fill).to_numpy()[:, None]
        filled = f"filled with the median {_written(column)}"
    if count:
        remarks.append(f"column {column.name!r}: {_counted(count, 'missing value')} {filled}")
    return np.column_stack([encoded, gaps]) if column.gaps else encoded, remarks


def _check_finite(values: pd.Series, numbers: pd.Series) -> None:
    refuse(values, np.isinf(numbers), f"column {values.name!r}", "is infinite; correct the cell or leave it empty")


def _unseen(name: str, words: np.ndarray) -> str:
    return (
        f"column {name!r}: {_counted(len(words), 'value')} never seen in the fit "
        f"and left without a level: {listed(sorted(set(words)))}"
    )


def _written(column: Column) -> str:
    if column.kind == "dates":
        return str(np.datetime64(0, "s") + np.timedelta64(round(column.fill * 86_400), "s")).removesuffix("T00:00:00")
    return f"{column.fill:g}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def _absent(absent: list[str], names: list[str]) -> str:
    near = {name: near_names(name, names) for name in absent}
    hints = [f"{listed(others, 'or')} instead of {name!r}" for name, others in near.items() if others]
    hint = f" (it has {'; '.join(hints)})" if hints else ""
    noun = "column" if len(absent) == 1 else "columns"
    return f"the table lacks the {noun} {listed(absent)} that the model was fitted on{hint}; add or rename"
