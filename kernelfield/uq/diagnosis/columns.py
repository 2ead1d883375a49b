"""Columns: rows in groups by the values of a column, with a label for each group that says which values.

Text makes a group of each category, the rarest together. Numbers make at most ten groups of about
equally many rows, cut between values and never through a tie; their labels are the least and the
largest value that each holds. What is missing is a group of its own.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MOST = 10  # groups of a column
FEWEST = 20  # rows of a group, below which its coverage says next to nothing
MISSING = "missing"


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a column: their `labels`, and for each row the number of its group, `codes` (n,)."""

    labels: tuple[str, ...]
    codes: np.ndarray


def grouping(values: np.ndarray) -> Grouping:
    """The groups of the values (n,) of a column, numbers or text.

    >>> result = grouping(np.array(["b", "a"] * 30 + ["c", "d"]))
    >>> result.labels, result.codes[-2:].tolist()
    (('b', 'a', 'other (2 values)'), [2, 2])
    >>> grouping(np.arange(60.0)).labels
    ('0 to 19', '20 to 39', '40 to 59')
    """
    return _of_numbers(numbers(values)) if is_numeric(values) else _of_text(values)


def is_numeric(values: np.ndarray) -> bool:
    """Whether a column holds numbers; one of objects does if none of them is text."""
    if values.dtype.kind == "O":
        return not any(isinstance(value, str | bool) for value in values.tolist())
    return values.dtype.kind in "iuf"


def numbers(values: np.ndarray) -> np.ndarray:
    """A column of numbers in double precision, NaN where None was."""
    return values.astype(np.float64)


def _of_numbers(values: np.ndarray) -> Grouping:
    lost = np.isnan(values)
    known = values[~lost]
    ordered, n = np.sort(known), len(known)
    bins = max(min(MOST, n // FEWEST), 1)
    cuts = np.unique([0, *(_cut(ordered, n * index // bins) for index in range(1, bins)), n])
    spans = [(ordered[start], ordered[stop - 1]) for start, stop in pairwise(cuts)]
    labels = [_span(*ends) for ends in spans]
    codes = np.full(len(values), len(labels))
    codes[~lost] = np.searchsorted([high for _, high in spans], known)
    return Grouping((*labels, MISSING) if lost.any() else tuple(labels), codes)


def _cut(ordered: np.ndarray, place: int) -> int:
    """The end of the ties around a place that is nearer to it."""
    low, high = (int(np.searchsorted(ordered, ordered[place], side)) for side in ("left", "right"))
    return low if place - low <= high - place else high


def _span(low: float, high: float) -> str:
    return written(low) if low == high else f"{written(low)} to {written(high)}"


def written(value: float) -> str:
    """A number, written so that its first five digits stay.

    >>> written(61.5), written(3.0), written(-1e-7)
    ('61.5', '3', '-1e-07')
    """
    return f"{value:.5g}"


def _of_text(values: np.ndarray) -> Grouping:
    given = values.tolist()
    counts: Counter[str] = Counter()
    for value, count in (raw := Counter(given)).items():
        counts[_named(value)] += count
    names = [name for name, _ in counts.most_common()]
    kept = [name for name in names if counts[name] >= FEWEST]
    pooled = len(names) - len(kept) > 1 or len(kept) > MOST  # a single rare category needs no pool
    kept = kept[: MOST - 1] if pooled else names
    place = {name: index for index, name in enumerate(kept)}
    table = {value: place.get(_named(value), len(kept)) for value in raw}
    codes = np.fromiter(map(table.__getitem__, given), dtype=np.int64, count=len(given))
    rest = len(names) - len(kept)
    return Grouping((*kept, f"other ({rest} values)") if rest else tuple(kept), codes)


def _named(value: object) -> str:
    missing = value is None or value == "" or value != value  # NaN alone differs from itself
    return MISSING if missing else str(value)


def checked(columns: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """The columns as arrays of n values each.

    Errors: ValueError naming a column of another length.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    for name, values in arrays.items():
        if values.shape != (n,):
            raise ValueError(f"column {name!r} must hold a value for each of {n:,} rows, got shape {values.shape}")
    return arrays
