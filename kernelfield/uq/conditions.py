"""Conditions: what must not be true of a report's numbers, as text such as "coverage90<0.87".

A pipeline writes down, before the data come, at which figures a model is no longer to be trusted.
A condition is a name, one of < <= > >= and a number; a number with a percent sign is a share.
"""

import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
FORM = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|<|>)\s*([-+]?[\w.+-]+)(%?)\s*")


@dataclass(frozen=True)
class Condition:
    """That the number called `name` stands in the relation `sign` to `bound`.

    >>> condition = Condition.parse("coverage90 < 87%")
    >>> condition.holds({"coverage90": 0.85})
    True
    """

    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Errors: ValueError if the text is no condition."""
        match = FORM.fullmatch(text)
        bound = _number(match[3]) if match else math.nan
        if match is None or not math.isfinite(bound):
            raise ValueError(f"a condition is a name, one of < <= > >= and a number, as coverage90<0.87, got {text!r}")
        return cls(match[1], match[2], bound / 100 if match[4] else bound)

    def require_name(self, names: Collection[str]) -> None:
        """Errors: ValueError if there is no number of this name, listing those there are."""
        if self.name not in names:
            near = get_close_matches(self.name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ValueError(f"a report has no number called {self.name!r}{hint} It has {', '.join(names)}")

    def holds(self, numbers: Mapping[str, float]) -> bool:
        """Whether it is true of a report's numbers.

        Errors: ValueError for an unknown name, or a number that this report could not have.
        """
        self.require_name(numbers)
        value = numbers[self.name]
        if math.isnan(value):
            raise ValueError(f"{self} cannot be judged: these rows and predictions give no {self.name}; leave it out")
        return bool(SIGNS[self.sign](value, self.bound))

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:g}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
