"""Columns: rows in groups by the values of a column, with a label for each group that says which values.

Text makes a group of each category, the rarest together. Numbers make at most ten groups of about
equally many rows, cut between values and never through a tie; their labels are the least and the
largest value that each holds, in as many digits as tell the ends of groups from each other. What
is missing is a group of its own.

A column may be looked at value by value instead: each value, of text or a number, is a group, but for
those of fewer than five rows, and for all but the 199 most frequent of more than 200, which are pooled.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kernelfield.uq.words import day

MOST = 10  # groups of a column
FEWEST = 20  # rows of a group, below which its coverage says next to nothing
MOST_VALUES = 200  # groups of a column that is looked at value by value
FEWEST_OF_VALUE = 5  # rows of a value, with fewer of which it is not looked at alone
DIGITS = range(3, 13)  # of the ends of groups
LONGEST = 1e15  # numbers that double precision holds to the unit, and that are written so
MISSING = "missing"


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a column: their `labels`, and for each row the number of its group, `codes` (n,)."""

    labels: tuple[str, ...]
    codes: np.ndarray


def grouping(values: np.ndarray, *, each: bool = False, dated: bool = False) -> Grouping:
    """The groups of the values (n,) of a column, numbers or text.

    each   look at it value by value
    dated  its numbers are days since 1970-01-01, to be written as dates

    >>> result = grouping(np.array(["b", "a"] * 30 + ["c", "d"]))
    >>> result.labels, result.codes[-2:].tolist()
    (('b', 'a', 'other (2 values)'), [2, 2])
    >>> grouping(np.arange(60.0)).labels
    ('0 to 19', '20 to 39', '40 to 59')
    >>> grouping(np.repeat([7.0, 12.0], 6), each=True).labels
    ('7', '12')
    """
    if not is_numeric(values):
        return _of_values(values, str, *((FEWEST_OF_VALUE, MOST_VALUES) if each else (FEWEST, MOST)))
    known = numbers(values)
    if each:
        return _of_values(known, day if dated else exact, FEWEST_OF_VALUE, MOST_VALUES)
    return _of_numbers(known, dated)


def is_numeric(values: np.ndarray) -> bool:
    """Whether a column holds numbers; one of objects does if none of them is text."""
    if values.dtype.kind == "O":
        return not any(isinstance(value, str | bool) for value in values.tolist())
    return values.dtype.kind in "iuf"


def numbers(values: np.ndarray) -> np.ndarray:
    """A column of numbers in double precision, NaN where None was."""
    return values.astype(np.float64)


def cuts(ordered: np.ndarray, parts: int) -> np.ndarray:
    """Where sorted values (n,) are cut in at most so many parts of about equal size: 0, places between ties, n.

    >>> cuts(np.array([1.0, 1.0, 1.0, 2.0, 3.0, 4.0]), 3).tolist()
    [0, 3, 4, 6]
    """
    n = len(ordered)
    size, more = divmod(n, parts)  # as numpy.array_split has it
    places = np.arange(1, parts) * size + np.minimum(np.arange(1, parts), more)
    low, high = (np.searchsorted(ordered, ordered[places], side) for side in ("left", "right"))
    return np.unique([0, *np.where(places - low <= high - places, low, high), n])


def _of_numbers(values: np.ndarray, dated: bool) -> Grouping:
    lost = np.isnan(values)
    known = values[~lost]
    ordered, n = np.sort(known), len(known)
    spans = [(float(ordered[start]), float(ordered[stop - 1])) for start, stop in pairwise(cuts(ordered, _parts(n)))]
    ends = [end for span in spans for end in span]
    words = [day(end) for end in ends] if dated else written(ends)
    labels = [low if low == high else f"{low} to {high}" for low, high in zip(words[::2], words[1::2], strict=True)]
    codes = np.full(len(values), len(labels))
    codes[~lost] = np.searchsorted([high for _, high in spans], known)
    return Grouping((*labels, MISSING) if lost.any() else tuple(labels), codes)


def _parts(n: int) -> int:
    return max(min(MOST, n // FEWEST), 1)


def written(values: Sequence[float]) -> list[str]:
    """Numbers as text, integers in full, others in as few digits as tell those that differ apart.

    >>> written([100_040.0, 61.5, -1e-7]), written([0.12341, 0.12349])
    (['100040', '61.5', '-1e-07'], ['0.1234', '0.1235'])
    """
    different = len(set(values))
    for digits in DIGITS:
        words = [_shortened(value, digits) for value in values]
        if len(set(words)) == different:
            break
    return words


def _shortened(value: float, digits: int) -> str:
    """So many digits of a number, or more if it has more before the point."""
    whole = len(str(int(abs(value)))) if abs(value) < LONGEST else 0
    return f"{value:.{max(digits, whole)}g}"


def exact(value: float) -> str:
    """All digits that a number has, without a trailing .0.

    >>> exact(123456.0), exact(0.1)
    ('123456', '0.1')
    """
    return repr(int(value)) if abs(value) < LONGEST and value == int(value) else repr(float(value))


def _of_values(values: np.ndarray, word: Callable[[Any], str], fewest: int, most: int) -> Grouping:
    given = values.tolist()
    raw = Counter(given)
    named = {value: MISSING if _is_missing(value) else word(value) for value in raw}
    counts: Counter[str] = Counter()
    for value, count in raw.items():
        counts[named[value]] += count
    names = [name for name, _ in counts.most_common()]
    kept = [name for name in names if counts[name] >= fewest]
    pooled = len(names) - len(kept) > 1 or len(kept) > most  # a single rare value needs no pool
    kept = kept[: most - 1] if pooled else names
    place = {name: index for index, name in enumerate(kept)}
    table = {value: place.get(name, len(kept)) for value, name in named.items()}
    codes = np.fromiter(map(table.__getitem__, given), dtype=np.int64, count=len(given))
    rest = len(names) - len(kept)
    return Grouping((*kept, f"other ({rest} values)") if rest else tuple(kept), codes)


def _is_missing(value: object) -> bool:
    return value is None or value == "" or value != value  # NaN alone differs from itself


def checked(columns: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """The columns as arrays of n values each.

    Errors: ValueError naming a column of another length.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    for name, values in arrays.items():
        if values.shape != (n,):
            raise ValueError(f"column {name!r} must hold a value for each of {n:,} rows, got shape {values.shape}")
    return arrays
