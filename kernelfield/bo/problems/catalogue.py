"""Problems to test an optimiser on, by name, with what is known of their best values.

A problem is a function on a `Space`: it takes the parameters of a trial and answers an `Outcome`, the values
of its objectives and of its constraints, feasible where they are at most 0. `PROBLEMS` lists all of them
and makes each when it is asked for; `problem("polynomial", seed=3)` makes one with settings of its own.

Several objectives are judged by the hypervolume: the volume that is better than the reference point and
no better than some value that was found.

Most functions are BoTorch's; the suite of problems is that of Li, Rudner & Wilson (2024), "A Study of Bayesian
Neural Network Surrogates for Bayesian Optimization", with mixed and constrained ones beside it.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal

from kernelfield.bo.space import Space

Parameters = Mapping[str, Any]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Outcome:
    """What a trial gives: the values of the objectives, and of the constraints.

    >>> Outcome((1.0,), (-0.5, 0.1)).feasible
    False
    """

    values: tuple[float, ...]
    constraints: tuple[float, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether no constraint is above 0."""
        return all(value <= 0 for value in self.constraints)


@dataclass(frozen=True, eq=False)
class Problem:
    """A function to optimise, and what is known of it.

    constraints : how many there are.
    optimum : the best feasible value of a single objective, or the best that is known; None where nothing is.
    solution : parameters where it is taken.
    reference, best_hypervolume : of several objectives, in their own units and directions.

    Errors: ValueError for parameters that are not those of the space, or lie outside of it.

    >>> branin = problem("branin")
    >>> round(branin({"x0": 3.14159, "x1": 2.275}).values[0], 4)  # 10 / (8 pi)
    0.3979
    """

    name: str
    summary: str
    space: Space
    directions: tuple[Direction, ...]
    function: Callable[[Parameters], Outcome] = field(repr=False)
    source: str
    constraints: int = 0
    optimum: float | None = None
    solution: Parameters | None = field(default=None, repr=False)
    reference: tuple[float, ...] | None = None
    best_hypervolume: float | None = None

    def __call__(self, parameters: Parameters) -> Outcome:
        expected = [name for name in self.space.parameters if self.space.exists(name, parameters)]
        if set(expected) != set(parameters):
            missing = [name for name in expected if name not in parameters]
            strange = [name for name in parameters if name not in expected]
            raise ValueError(
                f"{self.name} takes the parameters of its space: {len(missing)} are missing {missing[:3]}, "
                f"{len(strange)} are not of it {strange[:3]}"
            )
        self.space.encode([parameters])  # refuses values outside of their bounds
        return self.function(parameters)


# The names of each family, so that listing them imports none; the families' tables say how they are made.
FAMILIES: dict[str, tuple[str, ...]] = {
    "synthetic": (
        "branin",
        "hartmann6",
        "ackley",
        "levy",
        "rosenbrock",
        "griewank",
        "constrained-branin",
        "constrained-hartmann6",
        "constrained-gramacy",
        "gardner",
        "keane-bump",
        "ackley-mixed",
        "hartmann6-mixed",
        "labs",
        "branin-fidelity",
        "hartmann6-fidelity",
        "polynomial",
        "network",
    ),
    "objectives": (
        "branin-currin",
        "constrained-branin-currin",
        "dtlz1",
        "dtlz2",
        "dtlz3",
        "dtlz5",
        "dtlz7",
        "oil-sorbent",
        "penicillin",
        "vehicle-safety",
        "car-side-impact",
    ),
    "engineering": (
        "pressure-vessel",
        "speed-reducer",
        "spring",
    ),
    "simulated": (
        "brusselator",
        "pest-control",
        "interferometer",
    ),
    "learning": ("distillation",),
    "lander": ("lunar-lander",),
}
_HOMES = {name: family for family, names in FAMILIES.items() for name in names}


def problem(name: str, **settings: Any) -> Problem:
    """A problem by name, made with settings of its own, such as `dimensions` or the `seed` of a draw.

    Errors: ValueError for an unknown name, with those near it, or a setting that the problem does not have;
    ImportError where its family needs a package that is not installed.

    >>> problem("ackley", dimensions=3).space.columns
    3
    """
    if name not in _HOMES:
        near = difflib.get_close_matches(name, _HOMES) or sorted(_HOMES)
        raise ValueError(f"no problem is called {name!r}; did you mean {' or '.join(near)}?")
    make = import_module(f"kernelfield.bo.problems.{_HOMES[name]}").MAKERS[name]
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        known = ", ".join(inspect.signature(make).parameters) or "none"
        raise ValueError(f"{name} does not take the settings {settings}; it has {known}") from error
    return make(**settings)


class _Problems(Mapping[str, Problem]):
    """All problems with their usual settings, each made when it is first asked for."""

    def __getitem__(self, name: str) -> Problem:
        if name not in _HOMES:
            raise KeyError(name)
        return _usual(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


@cache
def _usual(name: str) -> Problem:
    return problem(name)


PROBLEMS: Mapping[str, Problem] = _Problems()
