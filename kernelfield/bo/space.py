"""Search spaces: between the parameters of a trial and a point of the unit cube.

Parameters are Optuna's distributions. Each takes one column of numbers in [0, 1], or one column for each
choice of a categorical parameter with more than two of them (one-hot); a parameter with a single
value takes none. Numbers with log=True are spread evenly in their logarithm.

A condition says that a parameter exists only where another one has certain values. Where it does not
exist its columns hold the middle (a number) or zero (a choice), so that trials that differ in it
alone are one point.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from scipy.stats import qmc

try:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
except ImportError as error:
    raise ImportError("optimisation needs botorch and optuna; pip install 'kernelfield[bo]'") from error

Parameters = Mapping[str, Any]
Number = FloatDistribution | IntDistribution
Distribution = Number | CategoricalDistribution
NAMES = {"log", "int"}
FINE = 100  # levels of a whole number from which it is searched like a real one and rounded


@dataclass(frozen=True)
class Condition:
    """That a parameter exists only where `parent` has one of `values`."""

    parent: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Discrete:
    """A parameter of few values: its columns, and what they hold for each value (k, columns)."""

    name: str
    columns: slice
    levels: np.ndarray
    parent: bool  # whether another parameter's existence hangs on it


@dataclass(frozen=True, eq=False)
class Space:
    """A box of named parameters, some of which may exist under a condition.

    Errors: ValueError for no parameter, or a condition on what is not a parameter that always
    exists, or on values it cannot have.

    >>> space = Space({"rate": FloatDistribution(1e-4, 1, log=True), "depth": IntDistribution(1, 5)})
    >>> space.encode([{"rate": 0.01, "depth": 3}])
    array([[0.5, 0.5]])
    """

    parameters: Mapping[str, Distribution]
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError("a space needs at least one parameter, got none")
        for name, condition in self.conditions.items():
            parent = self.parameters.get(condition.parent)
            if name not in self.parameters or parent is None or condition.parent in self.conditions:
                raise ValueError(
                    f"the condition {name!r} on {condition.parent!r} must join two parameters of the space, "
                    f"{', '.join(self.parameters)}, the second without a condition of its own"
                )
            strange = [value for value in condition.values if not contains(parent, value)]
            if strange or not condition.values:
                raise ValueError(
                    f"{name!r} exists where {condition.parent!r} is {strange}, which it never is: {parent}"
                )

    @classmethod
    def of(cls, space: "Space | Mapping[str, Any]") -> "Space":
        """A space from short forms: (low, high), (low, high, "log"), (low, high, "int"), or a list of choices.

        Bounds that are both integers make a whole number.

        Errors: ValueError for what is none of these, inverted or infinite bounds, no choices or a choice twice.

        >>> Space.of({"rate": (1e-4, 1.0, "log"), "depth": (1, 5), "loss": ["l1", "l2"]}).columns
        3
        """
        if isinstance(space, Space):
            return space
        if not isinstance(space, Mapping):
            raise ValueError(f"a space is a mapping from names to bounds or choices, got {space!r}")
        return cls({str(name): distribution(str(name), value) for name, value in space.items()})

    @cached_property
    def _slices(self) -> dict[str, slice]:
        widths = [_width(d) for d in self.parameters.values()]
        return {
            name: slice(end - width, end)
            for name, width, end in zip(self.parameters, widths, accumulate(widths), strict=True)
        }

    @property
    def columns(self) -> int:
        """The number d of columns."""
        return sum(_width(d) for d in self.parameters.values())

    @cached_property
    def discrete(self) -> tuple[Discrete, ...]:
        """The parameters that are searched value by value."""
        parents = {condition.parent for condition in self.conditions.values()}
        return tuple(
            Discrete(name, self._slices[name], _column(d, _values(d)), name in parents)
            for name, d in self.parameters.items()
            if _width(d) and (isinstance(d, CategoricalDistribution) or _count(d) <= FINE)
        )

    @cached_property
    def continuous(self) -> np.ndarray:
        """The columns (c,) that are searched by their slopes."""
        free = np.ones(self.columns, dtype=bool)
        for one in self.discrete:
            free[one.columns] = False
        return np.flatnonzero(free)

    @cached_property
    def _real(self) -> bool:
        """Whether every point of the cube is one of parameters."""
        free = (d for d in self.parameters.values() if not d.single())
        return not self.conditions and all(isinstance(d, FloatDistribution) and d.step is None for d in free)

    def exists(self, name: str, parameters: Parameters) -> bool:
        """Whether a parameter exists beside these."""
        condition = self.conditions.get(name)
        return condition is None or parameters.get(condition.parent) in condition.values

    def lacking(self, parameters: Parameters) -> list[str]:
        """Parameters that exist beside these, may have more than one value, and are not among them."""
        free = (name for name, d in self.parameters.items() if not d.single() and self.exists(name, parameters))
        return [name for name in free if name not in parameters]

    def encode(self, trials: Sequence[Parameters]) -> np.ndarray:
        """Points (n, d) of parameters; those a trial lacks stand at their neutral place.

        Errors: ValueError for a value outside of its distribution.
        """
        X = np.empty((len(trials), self.columns))
        for name, d in self.parameters.items():
            place = self._slices[name]
            X[:, place] = _neutral(d)
            rows = [i for i, trial in enumerate(trials) if name in trial and self.exists(name, trial)]
            if rows and _width(d):
                X[rows, place] = _column(d, [trials[i][name] for i in rows])
        return X

    def decode(self, X: np.ndarray) -> list[dict[str, Any]]:
        """The parameters nearest to points (n, d), as Python numbers within their bounds."""
        values = {name: _read(d, X[:, self._slices[name]]) for name, d in self.parameters.items()}
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return [{name: value for name, value in row.items() if self.exists(name, row)} for row in rows]

    def nearest(self, X: np.ndarray) -> np.ndarray:
        """The points (n, d) of the parameters nearest to X: what a trial there would be recorded as, up to rounding."""
        if self._real:
            return np.clip(X, 0.0, 1.0)
        return self.encode(self.decode(X))

    def scattered(self, count: int, seed: int) -> np.ndarray:
        """Points (count, d) of a scrambled Sobol sequence over parameters, rounded to what they can be."""
        free = [(name, d) for name, d in self.parameters.items() if _width(d)]
        if not free:
            return np.empty((count, 0))
        sampler = qmc.Sobol(len(free), seed=seed)
        share = sampler.random_base2(max(0, math.ceil(math.log2(count))))[:count] if count else np.empty((0, len(free)))
        X = np.empty((count, self.columns))
        for column, (name, d) in zip(share.T, free, strict=True):
            X[:, self._slices[name]] = _spread(d, column)
        return self.nearest(X) if self.discrete or self.conditions else X

    def volume(self) -> float:
        """How many different points there are; infinite with a real parameter."""
        return math.prod(_count(d) for d in self.parameters.values())


def distribution(name: str, value: Any) -> Distribution:
    """The distribution of a short form; see `Space.of`."""
    if isinstance(value, Distribution):
        return value
    if isinstance(value, list):
        if not value:
            raise ValueError(f"the choices of {name!r} are empty; list at least one")
        again = [choice for i, choice in enumerate(value) if choice in value[:i]]
        if again:  # by their place, as Optuna stores them, equal choices are the first of them
            raise ValueError(f"the choices of {name!r} must differ, got {again[0]!r} again in {value}")
        return CategoricalDistribution(value)
    match value:
        case (low, high, *more) if _number(low) and _number(high) and set(more) <= NAMES:
            if not low <= high or not math.isfinite(float(high) - float(low)):
                raise ValueError(
                    f"the bounds of {name!r} and their distance must be finite, the lower one first, "
                    f"got {low:g} and {high:g}"
                )
            if "log" in more and low <= 0:
                raise ValueError(f"{name!r} is searched in its logarithm and needs a lower bound above 0, got {low:g}")
            whole = all(isinstance(end, int | np.integer) for end in (low, high)) and not isinstance(low, bool)
            if whole or "int" in more:
                return IntDistribution(int(low), int(high), log="log" in more)
            return FloatDistribution(float(low), float(high), log="log" in more)
    raise ValueError(
        f"{name!r} must be (low, high), (low, high, 'log'), (low, high, 'int') or a list of choices, got {value!r}"
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating)


def contains(d: Distribution, value: Any) -> bool:
    """Whether a parameter can have a value."""
    try:
        return bool(d._contains(d.to_internal_repr(value)))  # to which one NaN is another
    except ValueError:
        return False


def _width(d: Distribution) -> int:
    if d.single():
        return 0
    return len(d.choices) if isinstance(d, CategoricalDistribution) and len(d.choices) > 2 else 1


def _neutral(d: Distribution) -> float:
    return 0.0 if isinstance(d, CategoricalDistribution) and len(d.choices) > 2 else 0.5


def _count(d: Distribution) -> float:
    if isinstance(d, CategoricalDistribution):
        return len(d.choices)
    if d.single():
        return 1
    return math.inf if d.step is None else math.floor((d.high - d.low) / d.step + 1e-9) + 1


def _values(d: Distribution) -> list[Any]:
    """All values of a parameter of few of them."""
    if isinstance(d, CategoricalDistribution):
        return list(d.choices)
    step = d.high - d.low if d.step is None else d.step
    return [d.low + i * step for i in range(int(_count(d)))]


def _ends(d: Number) -> tuple[float, float]:
    """The ends of a number's interval, on the scale on which it is spread."""
    return (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)


def _column(d: Distribution, values: Sequence[Any]) -> np.ndarray:
    """The columns (n, width) of values."""
    if isinstance(d, CategoricalDistribution):
        index = np.array([int(d.to_internal_repr(value)) for value in values])
        return index[:, None].astype(float) if len(d.choices) == 2 else np.eye(len(d.choices))[index]
    low, high = _ends(d)
    numbers = np.array(values, dtype=float)
    if not ((d.low - 1e-9 * abs(d.low) <= numbers) & (numbers <= d.high + 1e-9 * abs(d.high))).all():
        raise ValueError(f"values {numbers.min():g} to {numbers.max():g} do not lie within {d}")
    return ((np.log(numbers) if d.log else numbers)[:, None] - low) / (high - low)


def _spread(d: Distribution, share: np.ndarray) -> np.ndarray:
    """The columns of shares (n,) in [0, 1): equal parts of them for each value of a discrete parameter."""
    count = _count(d)
    if count > FINE or (not isinstance(d, CategoricalDistribution) and d.log):
        return share[:, None]
    levels = _column(d, _values(d))
    return levels[np.minimum((share * count).astype(int), int(count) - 1)]


def _read(d: Distribution, X: np.ndarray) -> list[Any]:
    """The values nearest to columns (n, width)."""
    if d.single():
        return [d.choices[0] if isinstance(d, CategoricalDistribution) else d.low] * len(X)
    if isinstance(d, CategoricalDistribution):
        index = (X[:, 0] > 0.5).astype(int) if len(d.choices) == 2 else X.argmax(1)
        return [d.choices[i] for i in index]
    low, high = _ends(d)
    numbers = low + X[:, 0] * (high - low)
    if d.log:
        numbers = np.exp(numbers)
    if d.step is not None:
        numbers = d.low + np.round((numbers - d.low) / d.step) * d.step
    numbers = np.clip(numbers, d.low, d.high)
    return [int(x) for x in numbers] if isinstance(d, IntDistribution) else numbers.tolist()
