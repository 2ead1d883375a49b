"""Course: the trials of an optimisation, and what they amount to.

    course = Course([Parameter("lr", "log", 1e-5, 1.0)], params, values, ["minimize"], states)

A trial is finished if it is complete and has finite values, and counts if it also keeps its
constraints, c <= 0. Of the trials that count, in the order of their numbers,

    best so far    b_t = best of y_1 ... y_t                         one objective
    regret         |b_t - y*|, signed so that worse is positive      where the optimum y* is known
    hypervolume    H(y_1 ... y_t) above the reference point          two to four objectives

What the surrogate said of a trial before it ran is held against what came: the predicted law is
Gaussian with mean `means` and standard deviation `stds`, noise included. Although an acquisition
function chose the trials, this is fair. It chose by what was known before, and given that the
surrogate is right, y is distributed as predicted wherever it is asked. PIT values are then uniform,
and independent if each trial was suggested after all earlier ones had ended; the share
of trials inside the 90% intervals has a binomial band at any time. The least that a surrogate must
beat is the Gaussian of the mean and deviation of the trials that came before.

Sources: Dawid (1984), "Statistical Theory: The Prequential Approach", for judging forecasts in the
order in which they were made; `kernelfield.uq.scores`, `calibration` and `pareto` for the scores,
bands and volumes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kernelfield.core.posterior import Draws
from kernelfield.uq.calibration import band
from kernelfield.uq.pareto import efficient, hypervolumes, reference_point
from kernelfield.uq.scores import LEVEL, Evaluation, evaluate

KINDS = ("real", "log", "integer", "categorical")
DIRECTIONS = ("minimize", "maximize")
STATES = ("complete", "failed", "pruned", "running")
MOST_OBJECTIVES = 4  # with a hypervolume: beyond, the exact one takes minutes
SMALLEST = 1e-9  # of the largest value: a predicted deviation of less counts as this
FIRST = 3  # trials before the baseline has a mean and a deviation


@dataclass(frozen=True)
class Parameter:
    """A parameter that was searched: numbers from `low` to `high`, on a line or a log scale, or choices."""

    name: str
    kind: str
    low: float = math.nan
    high: float = math.nan
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kind of {self.name!r} must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "categorical" and not self.choices:
            raise ValueError(f"the categorical parameter {self.name!r} needs its choices")
        if self.kind != "categorical" and not self.low <= self.high:
            raise ValueError(f"{self.name!r} must run from a lower to a higher end, got {self.low} to {self.high}")
        if self.kind == "log" and not self.low > 0:
            raise ValueError(f"{self.name!r} is on a log scale and must begin above 0, got {self.low}")

    def place(self, value: Any) -> float:
        """Where a value lies between the ends, 0 to 1, choices evenly spaced; NaN for what is not of the parameter.

        >>> Parameter("lr", "log", 1e-4, 1.0).place(0.01), Parameter("x", "categorical", choices=("a", "b")).place("b")
        (0.5, 1.0)
        """
        if self.kind == "categorical":
            found = [
                i
                for i, choice in enumerate(self.choices)
                if choice == value and isinstance(choice, bool) == isinstance(value, bool)
            ]
            return found[0] / max(len(self.choices) - 1, 1) if found else math.nan
        if not isinstance(value, int | float | np.number):
            return math.nan
        if self.kind == "log":
            return _between(math.log(value), math.log(self.low), math.log(self.high)) if value > 0 else math.nan
        return _between(float(value), float(self.low), float(self.high))


def _between(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


@dataclass(frozen=True, eq=False)
class Coverage:
    """The share of trials inside their 90% intervals after each trial that was predicted, and its band.

    trials (k,) are the numbers of these trials; `share`, `low` and `high` have the same shape.
    """

    trials: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Course:
    """The n trials of an optimisation of m objectives, in the order in which they began.

    parameters   those searched
    params       by trial, a value by name; conditional ones may be absent
    values       (n, m), NaN where there is none
    directions   (m,), "minimize" or "maximize"
    states       (n,), "complete", "failed", "pruned" or "running"
    objectives   their m names
    messages     by trial, why it failed or was pruned; empty where there is nothing to say
    constraints  (n, c), kept where <= 0
    seconds      (n,) that a trial took
    means, stds  (n, m), predicted for y, noise included, before the trial ran; NaN where nothing was
    acquisition  (n,), the value of the acquisition function at the trial, before it ran
    reference    (m,) of the hypervolume; by default a little worse than the front
    optimum      the best value there is, or the largest hypervolume, if it is known

    Errors: ValueError if shapes, names or words do not agree.

    >>> course = Course([Parameter("x", "real", 0, 1)], [{"x": 0.1}, {"x": 0.6}, {"x": 0.2}],
    ...                 [[3.0], [1.0], [2.0]], ["minimize"], ["complete"] * 3, optimum=0.5)
    >>> course.best_so_far.tolist(), course.regret.tolist(), course.best
    ([3.0, 1.0, 1.0], [2.5, 0.5, 0.5], 1)
    """

    parameters: Sequence[Parameter]
    params: Sequence[Mapping[str, Any]]
    values: np.ndarray
    directions: Sequence[str]
    states: tuple[str, ...]
    objectives: Sequence[str] = ()
    messages: Sequence[str] = ()
    constraints: np.ndarray | None = None
    seconds: np.ndarray | None = None
    means: np.ndarray | None = None
    stds: np.ndarray | None = None
    acquisition: np.ndarray | None = None
    reference: np.ndarray | None = None
    optimum: float | None = None

    def __post_init__(self) -> None:
        n, m = len(self.params), len(self.directions)
        for name in ("values", "constraints", "seconds", "means", "stds", "acquisition", "reference"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, dtype=float))
        names = self.objectives or (["objective"] if m == 1 else [f"objective {j + 1}" for j in range(m)])
        object.__setattr__(self, "objectives", tuple(names))
        object.__setattr__(self, "states", tuple(self.states))
        object.__setattr__(self, "messages", tuple(self.messages) or ("",) * n)
        self._check(n, m)

    def _check(self, n: int, m: int) -> None:
        shapes: dict[str, tuple[int, ...]] = {"values": (n, m), "means": (n, m), "stds": (n, m)}
        shapes |= {"seconds": (n,), "acquisition": (n,), "reference": (m,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must have the shape {shape} of {n} trials, got {value.shape}")
        if self.constraints is not None and (self.constraints.ndim != 2 or len(self.constraints) != n):
            raise ValueError(f"constraints must have a row for each of {n} trials, got {self.constraints.shape}")
        if (self.means is None) != (self.stds is None):
            raise ValueError("means and stds are given together or not at all")
        if self.stds is not None and (self.stds < 0).any():
            raise ValueError(f"stds must not be negative, got {np.nanmin(self.stds)}")
        if (len(self.states), len(self.messages), len(self.objectives)) != (n, n, m):
            counts = f"{len(self.states)}, {len(self.messages)} and {len(self.objectives)}"
            raise ValueError(f"need {n} states, {n} messages and {m} names of objectives, got {counts}")
        for word, allowed in [*((d, DIRECTIONS) for d in self.directions), *((s, STATES) for s in self.states)]:
            if word not in allowed:
                raise ValueError(f"must be one of {', '.join(allowed)}, got {word!r}")

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are in each state that occurs."""
        return {state: self.states.count(state) for state in STATES if state in self.states}

    @property
    def signs(self) -> np.ndarray:
        """(m,): 1 where more is better, -1 where less is."""
        return np.array([1.0 if direction == "maximize" else -1.0 for direction in self.directions])

    @cached_property
    def finished(self) -> np.ndarray:
        """Which trials are complete and have finite values, (n,)."""
        return np.array([state == "complete" for state in self.states], dtype=bool) & np.isfinite(self.values).all(1)

    @cached_property
    def feasible(self) -> np.ndarray:
        """Which trials keep their constraints, (n,); one that has no value is not kept."""
        if self.constraints is None:
            return np.ones(len(self.params), dtype=bool)
        return np.all(self.constraints <= 0, axis=1)

    @property
    def counted(self) -> np.ndarray:
        """Which trials are finished and feasible, (n,)."""
        return self.finished & self.feasible

    @cached_property
    def best_so_far(self) -> np.ndarray:
        """Of one objective after each trial, (n,); NaN before the first that counts."""
        gain = np.where(self.counted, self.signs[0] * self.values[:, 0], -np.inf)
        best = np.maximum.accumulate(gain)
        return np.where(np.isfinite(best), self.signs[0] * best, np.nan)

    @property
    def regret(self) -> np.ndarray | None:
        """How much worse than the known optimum the best value or the hypervolume is, (n,)."""
        if self.optimum is None:
            return None
        if len(self.directions) > 1:
            return None if self.hypervolume is None else self.optimum - self.hypervolume
        return self.signs[0] * (self.optimum - self.best_so_far)

    @cached_property
    def front(self) -> np.ndarray:
        """Indices of the trials that no other dominates, from the best in the first objective on."""
        index = np.flatnonzero(self.counted)
        front = index[efficient(self.signs * self.values[index])]
        return front[np.argsort(-self.signs[0] * self.values[front, 0], kind="stable")]

    @property
    def best(self) -> int | None:
        """Index of the best trial, the earliest of equals; of several objectives, the best in the first."""
        return int(self.front[0]) if len(self.front) else None

    @cached_property
    def order(self) -> np.ndarray:
        """Indices of the trials that count, the best first: the front, then by the first objective."""
        rest = np.setdiff1d(np.flatnonzero(self.counted), self.front)
        return np.concatenate([self.front, rest[np.argsort(-self.signs[0] * self.values[rest, 0], kind="stable")]])

    @cached_property
    def corner(self) -> np.ndarray | None:
        """The reference point (m,) of the hypervolume, in units of the objectives."""
        if self.reference is not None or not len(self.front):
            return self.reference
        return self.signs * reference_point(self.signs * self.values[self.front])

    @cached_property
    def hypervolume(self) -> np.ndarray | None:
        """After each trial, (n,), for two to four objectives of which some trial counts."""
        if not 2 <= len(self.directions) <= MOST_OBJECTIVES or self.corner is None:
            return None
        # A trial that does not count stands at the reference point, where it has no volume.
        points = np.where(self.counted[:, None], self.values, self.corner)
        return hypervolumes(self.signs * points, self.signs * self.corner)

    def predicted(self, objective: int) -> np.ndarray:
        """Indices of the finished trials of whose objective something was predicted that can be scored."""
        if self.means is None or self.stds is None:
            return np.empty(0, dtype=int)
        most = np.finfo(float).max ** 0.5 / 2  # scores square differences
        said = (np.abs(self.means[:, objective]) < most) & (self.stds[:, objective] < most)
        return np.flatnonzero(self.finished & said & (np.abs(self.values[:, objective]) < most))

    @cached_property
    def evaluations(self) -> list[Evaluation | None]:
        """What the surrogate said of each objective before each trial, and the scores of that; None if nothing."""
        return [self._evaluation(objective) for objective in range(len(self.directions))]

    def _evaluation(self, objective: int) -> Evaluation | None:
        rows = self.predicted(objective)
        if self.means is None or self.stds is None or not len(rows):
            return None
        return _gaussian(*(array[rows, objective] for array in (self.means, self.stds, self.values)))

    def baseline(self, objective: int) -> tuple[np.ndarray, Evaluation | None]:
        """Of the Gaussian of the trials before: which of the predicted trials (k,) it can speak of, and what of them.

        At least three must have finished before; of equal ones the deviation is taken as 1.
        """
        rows, finished = self.predicted(objective), np.flatnonzero(self.finished)
        before = np.searchsorted(finished, rows)
        enough = before >= FIRST
        past = [self.values[finished[:count], objective] for count in before[enough]]
        if not past:
            return enough, None
        mean, std = np.array([(values.mean(), values.std() if np.ptp(values) else 1.0) for values in past]).T
        return enough, _gaussian(mean, std, self.values[rows[enough], objective])

    def coverage(self, objective: int) -> Coverage | None:
        """Of an objective over time; None if nothing was predicted."""
        made = self.evaluations[objective]
        if made is None:
            return None
        count = np.arange(1, len(made.y) + 1)
        inside = (np.abs(2 * made.pit[:, 0] - 1) <= LEVEL).cumsum()
        return Coverage(self.predicted(objective), inside / count, *band(count, LEVEL))


def _gaussian(mean: np.ndarray, std: np.ndarray, y: np.ndarray) -> Evaluation:
    """The evaluation of k Gaussian laws at k values; a deviation of zero counts as a very small one."""
    least = max(SMALLEST * float(np.abs(y).max()), float(np.finfo(float).tiny) ** 0.5)  # whose square is above zero
    loc, noise, came = (torch.from_numpy(a.reshape(-1, 1)) for a in (mean, np.maximum(std, least) ** 2, y))
    return evaluate(Draws(loc.unsqueeze(0), torch.ones(1).to(loc), noise), came)
