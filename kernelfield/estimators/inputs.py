"""Inputs as numbers, for what groups or weights rows by them: texts get the number of their place in sorted order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor

UNKNOWN = -1.0  # the code of a text that was not there when the codes were given


@dataclass(frozen=True, eq=False)
class Codes:
    """The texts of each column that holds some, by the column's number; None: it holds numbers.

    >>> codes = Codes.of([["b", 1.5], ["a", 2.5]])
    >>> codes.numbers([["a", 0.5], ["c", 3.5]]).tolist()
    [[0.0, 0.5], [-1.0, 3.5]]
    """

    texts: tuple[tuple[str, ...] | None, ...]

    @classmethod
    def of(cls, X: Any) -> "Codes":
        """The codes of a table's texts."""
        return cls(tuple(None if _numeric(column) else tuple(sorted(set(map(str, column)))) for column in _columns(X)))

    def numbers(self, X: Any) -> Tensor:
        """A table (n, d) as numbers; NaN where one is missing.

        Errors: ValueError for another number of columns, or a text where there were numbers.
        """
        columns = _columns(X)
        if len(columns) != len(self.texts):
            raise ValueError(f"X has {len(columns)} columns, and was calibrated with {len(self.texts)}")
        return torch.tensor(np.stack([_coded(*pair) for pair in zip(columns, self.texts, strict=True)], 1))


def _coded(column: np.ndarray, texts: tuple[str, ...] | None) -> np.ndarray:
    if texts is None:
        return column.astype(np.float64)
    place = {text: float(code) for code, text in enumerate(texts)}
    return np.array([place.get(str(value), UNKNOWN) for value in column])


def _columns(X: Any) -> list[np.ndarray]:
    """The columns of a table of any kind, each with a type of its own."""
    if hasattr(X, "iloc"):
        return [np.asarray(X.iloc[:, j]) for j in range(X.shape[1])]
    return list(check_array(X, dtype=None, ensure_all_finite=False, ensure_min_samples=0).T)


def _numeric(column: np.ndarray) -> bool:
    try:
        column.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def column_number(X: Any, column: int | str) -> int:
    """The place of a column that is given by its name or its place.

    Errors: ValueError, with the columns there are.
    """
    names = [str(name) for name in getattr(X, "columns", ())]
    d = len(_columns(X))
    if isinstance(column, str):
        if column not in names:
            raise ValueError(f"no column of X is called {column!r}; it has {', '.join(names) or 'no names'}")
        return names.index(column)
    if not 0 <= column < d:
        raise ValueError(f"X has columns 0 to {d - 1}, got {column}")
    return column
