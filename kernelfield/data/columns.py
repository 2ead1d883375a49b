"""Columns of a table as a report asks of them: numbers, dates and text, each an array, with gaps.

Nothing is learned and nothing filled here; what a model takes is made by `kernelfield.data.encoding`.
"""

import numpy as np
import pandas as pd

from kernelfield.data.encoding import READ


def columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Every column by name: numbers, and dates as days since 1970-01-01, as float64 with NaN where one is
    missing; all else as text with None where one is missing.

    >>> columns(pd.DataFrame({"day": ["1970-01-03", None], "site": ["a", None]}))["day"].tolist()
    [2.0, nan]
    """
    return {str(name): _column(frame[name]) for name in frame}


def dates(frame: pd.DataFrame) -> list[str]:
    """The names of the columns that `columns` gives as days since 1970-01-01.

    >>> dates(pd.DataFrame({"day": ["1970-01-03", None], "size": [1, 2], "site": ["a", None]}))
    ['day']
    """
    return [str(name) for name in frame if _holds_dates(frame[name])]


def clock(values: pd.Series) -> np.ndarray:
    """The times of rows as numbers: as they are, or dates as days since 1970-01-01.

    Errors: ValueError, naming the first row that has none.
    """
    times = _column(values)
    missing = np.flatnonzero(pd.isna(times)) if times.dtype == float else np.arange(len(times))
    if len(missing):
        first = int(missing[0])
        found = repr(values.iloc[first]) if pd.notna(values.iloc[first]) else "nothing"
        raise ValueError(
            f"column {values.name!r} orders the rows in time, and row {first + 1} holds {found}; "
            "write numbers or dates such as 2024-05-31 in every row"
        )
    return times


def _holds_dates(values: pd.Series) -> bool:
    present = values.dropna()
    if pd.api.types.is_numeric_dtype(values) or not len(present):
        return False
    # A column is of one kind throughout, so that its first value tells most of them without reading the others.
    return not READ["dates"](present.iloc[:1]).isna().any() and _column(values).dtype == float


def _column(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    present = values.notna()
    for read in READ.values():
        numbers = np.full(len(values), np.nan)
        numbers[present] = read(values[present])
        if not pd.api.types.is_bool_dtype(values) and present.any() and not np.isnan(numbers[present]).any():
            return numbers
    text = np.full(len(values), None, dtype=object)
    text[present] = values[present].map(str)
    return text
