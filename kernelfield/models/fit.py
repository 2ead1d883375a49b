"""Fitting hyperparameters: one optimiser for every objective that gives its own gradient.

L-BFGS-B from several starts, with a record of where each began and ended. SciPy drives, on
vectors of a few numbers; everything of size n happens in the objective, in torch.

Source: Byrd, Lu, Nocedal & Zhu (1995), "A Limited Memory Algorithm for Bound Constrained
Optimization".
"""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from kernelfield.core.numerics import NotConverged, NotPositiveDefinite

Vector = np.ndarray
Objective = Callable[[Vector], tuple[float, Vector]]

TOLERANCE = 1e-5  # of the projected gradient, in nats a point and unit of log parameter
PROGRESS = 1e-9  # relative decrease of one step below which the search ends
LOOSE = 1e-2  # a gradient above this, at the end of the budget, is worth a warning
EARLY = 50  # fewer steps than this are a wish to stop early, not a search that failed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """How one search went: losses in nats a point, the largest slope left, why it ended."""

    first: float
    last: float
    slope: float
    steps: int
    evaluations: int
    converged: bool
    reason: str


def minimise(
    objective: Objective, starts: Sequence[Vector], bounds: Sequence[tuple[float, float]], steps: int, *, label: str
) -> tuple[Vector, list[Search]]:
    """The best end of L-BFGS-B searches from each of the starts, and all their records.

    label : the name of the stage, for progress messages.
    Errors: NotPositiveDefinite if no start can be evaluated. Warns NotConverged if the best
    search used up its steps on a slope that still matters.
    """
    ends, searches = [], []
    for number, start in enumerate(starts, 1):
        end, search = _descend(
            objective, np.clip(start, *np.transpose(bounds)), bounds, steps, f"{label}, start {number} of {len(starts)}"
        )
        ends.append(end)
        searches.append(search)
    losses = [search.last for search in searches]
    best = int(np.argmin(losses))
    winner = searches[best]
    if not math.isfinite(losses[best]):
        raise NotPositiveDefinite(
            f"the evidence could not be computed from any of {len(starts)} starts ({winner.reason}); "
            "raise the noise, scale the inputs or check the kernel"
        )
    if not winner.converged and winner.slope > LOOSE and steps >= EARLY:
        warnings.warn(
            f"the fit stopped after {winner.steps} steps with a slope of {winner.slope:.2g} nats a point left; "
            "raise steps",
            NotConverged,
            stacklevel=3,
        )
    return ends[best], searches


def _descend(
    objective: Objective, start: Vector, bounds: Sequence[tuple[float, float]], steps: int, label: str
) -> tuple[Vector, Search]:
    guarded = _Guarded(objective)
    first, _ = guarded(start)
    if not math.isfinite(guarded.best):
        return start, Search(math.inf, math.inf, math.inf, 0, 1, False, guarded.complaint)
    done = 0

    def report(_: Vector) -> None:
        nonlocal done
        done += 1
        if done % 10 == 0:
            _log.info("%s, step %d: log posterior %.4f a point", label, done, -guarded.best)

    options = {"maxiter": steps, "gtol": TOLERANCE, "ftol": PROGRESS, "maxcor": 20}
    result = minimize(guarded, start, jac=True, method="L-BFGS-B", bounds=bounds, callback=report, options=options)
    slope = float(np.abs(_projected(guarded.slope, guarded.where, bounds)).max(initial=0.0))
    search = Search(
        first, guarded.best, slope, int(result.nit), guarded.calls, bool(result.success), str(result.message)
    )
    _log.info("%s, done after %d steps: log posterior %.4f a point", label, search.steps, -search.last)
    return guarded.where, search


class _Guarded:
    """The objective, with a wall where it cannot be computed, and a memory of its best value."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.best, self.where, self.slope = math.inf, np.empty(0), np.empty(0)
        self.calls, self.complaint = 0, ""

    def __call__(self, theta: Vector) -> tuple[float, Vector]:
        self.calls += 1
        try:
            value, slope = self.objective(theta)
        except NotPositiveDefinite as error:
            value, slope, self.complaint = math.nan, np.zeros_like(theta), str(error)
        if not math.isfinite(value) or not np.isfinite(slope).all():
            # The line search backs away from a value that is finite and high.
            return (abs(self.best) + 1) * 10 if math.isfinite(self.best) else 1e10, np.zeros_like(theta)
        if value < self.best:
            self.best, self.where, self.slope = value, theta.copy(), slope
        return value, slope


def _projected(slope: Vector, theta: Vector, bounds: Sequence[tuple[float, float]]) -> Vector:
    """The slope without components that point out of the box."""
    low, high = np.transpose(bounds)
    return np.clip(theta - slope, low, high) - theta
