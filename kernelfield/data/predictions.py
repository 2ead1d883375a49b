"""Predictions of any program in a table: which of its columns say what.

A layout is text such as

    y=strength,mean=m,std=s                      a Gaussian for each row
    y=strength,lower=lo,upper=hi,level=0.8       ends of central intervals
    y=strength,0.05=p05,0.5=p50,0.95=p95         quantiles
    y=strength,samples=draw_                     columns draw_1, draw_2, ...: a draw each
    y=species,proba=p_                           columns p_cat, p_dog, ...: probabilities of classes
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kernelfield.data.tables import listed, refuse

WORDS = ("y", "mean", "std", "lower", "upper", "level", "samples", "proba")
EXAMPLE = "y=strength,mean=m,std=s"
LEVEL = 0.9


@dataclass(frozen=True)
class Layout:
    """Columns by what they hold; `samples` and `proba` are beginnings of names.

    >>> layout = Layout.parse("y=strength,lower=lo,upper=hi,level=80%")
    >>> layout.quantiles
    {0.1: 'lo', 0.9: 'hi'}
    """

    y: str
    mean: str | None = None
    std: str | None = None
    samples: str | None = None
    proba: str | None = None
    quantiles: Mapping[float, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """Errors: ValueError, with an example, if the text is no layout or says nothing that can be scored."""
        given: dict[str, str] = {}
        for part in text.split(","):
            word, sign, column = (piece.strip() for piece in part.partition("="))
            if not (word and sign and column):
                raise ValueError(f"a layout is word=column with commas between, as {EXAMPLE}, got {part!r}")
            if word in given:
                raise ValueError(f"the layout says {word!r} twice; name one column for it")
            given[word] = column
        quantiles = {_probability(word): given.pop(word) for word in list(given) if word not in WORDS}
        low, high, level = given.pop("lower", None), given.pop("upper", None), given.pop("level", None)
        if (low is None) != (high is None):
            raise ValueError("an interval has two ends; give both lower=COLUMN and upper=COLUMN")
        if low is not None and high is not None:
            promised = LEVEL if level is None else _probability(level)
            quantiles |= {round((1 - promised) / 2, 12): low, round((1 + promised) / 2, 12): high}
        elif level is not None:
            raise ValueError("level= is that of an interval; give lower=COLUMN and upper=COLUMN with it")
        if "y" not in given:
            raise ValueError(f"the layout must say which column holds the values that came, as {EXAMPLE}")
        layout = cls(quantiles=dict(sorted(quantiles.items())), **given)
        layout._require_law()
        return layout

    def _require_law(self) -> None:
        kinds = [self.mean is not None and self.std is not None, self.samples, self.proba, self.quantiles]
        if sum(map(bool, kinds)) != 1 or (self.std is not None and self.mean is None):
            raise ValueError(
                "a layout needs one of mean= with std=, quantiles such as 0.05=, lower= with upper=, samples= or proba="
            )

    def columns(self, frame: pd.DataFrame) -> list[str]:
        """The names of all columns of a table that the layout speaks of.

        Errors: ValueError if one is missing.
        """
        named = [name for name in (self.y, self.mean, self.std, *self.quantiles.values()) if name is not None]
        missing = [name for name in named if name not in frame]
        if missing:
            raise ValueError(f"there is no column {listed(missing)}; the table has {listed(map(str, frame.columns))}")
        for start in (self.samples, self.proba):
            if start is not None:
                found = [name for name in frame if str(name).startswith(start) and name != self.y]
                if len(found) < 2:
                    raise ValueError(f"{len(found)} columns begin with {start!r} and at least 2 are needed")
                named += found
        return named

    def arrays(self, frame: pd.DataFrame) -> dict[str, Any]:
        """What the columns hold, named as `kernelfield.uq.arrays.law_from` takes it, without y.

        Errors: ValueError if a column is missing or holds no numbers.
        """
        names = self.columns(frame)
        if self.samples is not None:
            return {
                "samples": np.stack(
                    [_numbers(frame, name) for name in names if name != self.y and str(name).startswith(self.samples)]
                )
            }
        if self.quantiles:
            quantiles = {p: _numbers(frame, name) for p, name in self.quantiles.items()}
            mean = {} if self.mean is None else {"mean": _numbers(frame, self.mean)}
            return {"quantiles": quantiles, **mean}
        return {"mean": _numbers(frame, str(self.mean)), "std": _numbers(frame, str(self.std))}

    def values(self, frame: pd.DataFrame) -> np.ndarray:
        """The values y (n,) that came.

        Errors: ValueError if their column is missing or holds no numbers.
        """
        self.columns(frame)
        return _numbers(frame, self.y)

    def classes(self, frame: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Labels (k,), their probabilities (n, k) and the column (n,) of the label that came.

        Errors: ValueError if a label came that has no probability.
        """
        start = str(self.proba)
        columns = [name for name in self.columns(frame) if name != self.y and str(name).startswith(start)]
        labels = [str(name).removeprefix(start) for name in columns]
        came = frame[self.y].map(_word).tolist()
        strange = sorted(set(came) - set(labels))
        if strange:
            raise ValueError(f"{self.y!r} holds {listed(strange)}, without a probability; there are {listed(labels)}")
        place = {label: index for index, label in enumerate(labels)}
        return labels, np.column_stack([_numbers(frame, name) for name in columns]), np.array([place[c] for c in came])


def _word(value: object) -> str:
    """A label as the name of its column has it: 1.0 of a column with gaps is 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A column as numbers, NaN where a cell is empty.

    Errors: ValueError, naming the first cell that holds something else.
    """
    column = frame[name]
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    refuse(
        column, numbers.isna() & column.notna(), f"column {name!r}", "is no number; correct the cell or leave it empty"
    )
    return numbers.to_numpy(copy=True)


def _probability(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError(
            f"{text!r} is no part of a layout; there are {listed(WORDS)}, and quantiles such as 0.05"
        ) from None
    if not 0 < value < 1:
        raise ValueError(f"quantiles and levels lie between 0 and 1, got {text}; write 0.9 or 90%")
    return value
