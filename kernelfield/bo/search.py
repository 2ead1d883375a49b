"""The greatest value of an acquisition function over a space.

Many points of a scrambled Sobol sequence and perturbations of the best trials are compared; from the
best of them, and others drawn in proportion to exp(standardised value), searches start. Columns of real numbers climb
by L-BFGS-B, all searches at once, so that each step is one evaluation of a batch. Discrete parameters
are held meanwhile, and then tried value by value, the best change of each search taken, until neither
way gains anything.

Sources: Balandat et al. (2020), "BoTorch", for the starts; Byrd, Lu, Nocedal & Zhu (1995), "A Limited Memory Algorithm
for Bound Constrained Optimization", for the climb; Wan et al. (2021), "Think Global and Act Local: Bayesian
Optimisation over High-Dimensional Categorical and Mixed Search Spaces", for taking turns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import OptimizeResult
from torch import Tensor

from kernelfield.bo.improvement import Acquisition
from kernelfield.bo.space import Discrete, Space

try:
    from botorch.optim.batched_lbfgs_b import fmin_l_bfgs_b_batched
except ImportError as error:
    raise ImportError("optimisation needs botorch and optuna; pip install 'kernelfield[bo]'") from error

BLOCK = 512  # points evaluated at once
NEAR = (0.2, 0.02)  # standard deviations of the perturbations of the best trials, as shares of the cube
ROUNDS = 20  # of continuous and discrete search in turn, and changes within one: far more than are needed
CHANGES = 200
STRIDE = 3  # steps of a search, by REACH times whose gain it may still win if it is behind; one may be short by chance
REACH = 2.0
CLOSE = 0.05  # shares of the cube within which a search that is behind will end where the best one does
GAIN = 1e-9  # of an acquisition's value below which a discrete change is none


@dataclass(frozen=True)
class Budget:
    """How hard to search: raw points, searches that start from them, and steps of each."""

    raw: int = 512
    starts: int = 8
    steps: int = 100


@dataclass(frozen=True, eq=False)
class Found:
    """Ends of searches (r, d), the best first, and the values (r,) there."""

    points: np.ndarray
    values: np.ndarray


def maximise(
    acquisition: Acquisition,
    space: Space,
    *,
    near: np.ndarray,
    seed: int,
    budget: Budget | None = None,
    device: torch.device | None = None,
) -> Found:
    """The ends of the searches, as points that parameters can have, the best first.

    near : points (k, d) about which to look too, such as the best trials.
    """
    budget = budget or Budget()
    random = np.random.default_rng(seed)
    surface = _Surface(acquisition, device or torch.device("cpu"))
    raw = np.concatenate([space.scattered(budget.raw, seed), _perturbed(near, space, budget.raw // 4, random)])
    values = surface.values(raw, acquisition.rough)
    X = raw[_starts(values, budget.starts, random)]
    free = space.continuous
    for _ in range(ROUNDS):
        X = surface.climb(X, free, budget.steps)
        if not space.discrete:
            break
        X, changed = _settled(surface, X, space.discrete)
        if not changed:
            break
    X = space.nearest(X)
    best = surface.values(X)
    order = np.argsort(-best, kind="stable")
    return Found(X[order], best[order])


class _Surface:
    """The acquisition function on arrays."""

    def __init__(self, acquisition: Acquisition, device: torch.device) -> None:
        self.acquisition, self.device = acquisition, device

    def values(self, X: np.ndarray, function: Callable[[Tensor], Tensor] | None = None) -> np.ndarray:
        """Values (r,) at X (r, d), or those of another function; minus infinity where they are not numbers."""
        function = function or self.acquisition.values
        parts = [function(self._tensor(X[i : i + BLOCK])) for i in range(0, len(X), BLOCK)]
        return np.nan_to_num(torch.cat(parts).cpu().numpy(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def climb(self, X: np.ndarray, free: np.ndarray, steps: int) -> np.ndarray:
        """X (r, d) after L-BFGS-B in the free columns, each row by itself."""
        if not len(free):
            return X
        held = np.setdiff1d(np.arange(X.shape[1]), free)

        def descent(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, slope = self.acquisition.slopes(self._tensor(rows))
            down = -slope.cpu().numpy()
            down[:, held] = 0.0  # where nothing moves, and searches still see whether they hold the same
            return -value.cpu().numpy(), down

        bounds = [(0.0, 1.0)] * X.shape[1]
        leader = _Leader(CLOSE)
        ends, _, _ = fmin_l_bfgs_b_batched(
            descent, X, bounds=bounds, maxiter=steps, factr=None, ftol=1e-7, pgtol=1e-5, callback=leader
        )
        return np.clip(ends, 0.0, 1.0)

    def _tensor(self, X: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(X)).to(self.device)


class _Leader:
    """Ends a search that is behind the best one, and near it or out of its reach.

    Within `close` of it in every column it would end where that one does; otherwise it must be able to catch up by
    REACH times what its last steps gained.
    """

    def __init__(self, close: float) -> None:
        self.best, self.where, self.close = math.inf, np.empty(0), close
        self.courses = dict[int, list[float]]()

    def __call__(self, intermediate_result: OptimizeResult) -> None:
        value, x = float(intermediate_result.fun), intermediate_result.x
        course = self.courses.setdefault(id(x), [])  # each search keeps its own array
        course.append(value)
        if value < self.best:
            self.best, self.where = value, x.copy()
        elif value > self.best and np.abs(x - self.where).max() < self.close:
            raise StopIteration
        if len(course) > STRIDE and value - REACH * (course[-1 - STRIDE] - value) > self.best:
            raise StopIteration


def _perturbed(near: np.ndarray, space: Space, count: int, random: np.random.Generator) -> np.ndarray:
    """Points (count, d) about the given ones, a few columns moved in each."""
    if not len(near) or not space.columns:
        return np.empty((0, space.columns))
    X = near[random.integers(len(near), size=count)]
    moved = random.random(X.shape) < min(1.0, 20 / space.columns)
    X = X + moved * random.normal(size=X.shape) * random.choice(NEAR, size=(count, 1))
    for one in space.discrete:  # a jump to another value, as a small step would round back
        jump = random.random(count) < 1 / max(1, len(space.discrete))
        X[:, one.columns] = np.where(
            jump[:, None],
            one.levels[random.integers(len(one.levels), size=count)],
            near[random.integers(len(near), size=count)][:, one.columns],
        )
    return space.nearest(np.clip(X, 0.0, 1.0))


def _starts(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Rows to start from: the best, and others at random in proportion to exp(standardised value)."""
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) <= count:
        return finite if len(finite) else np.arange(min(count, len(values)))
    order = finite[np.argsort(-values[finite], kind="stable")]
    kept, rest = order[: (count + 1) // 2], order[(count + 1) // 2 :]
    spread = values[finite].std()
    weight = np.exp((values[rest] - values[finite].max()) / spread) if spread > 0 else np.ones(len(rest))
    drawn = random.choice(rest, size=count - len(kept), replace=False, p=(weight + 1e-12) / (weight + 1e-12).sum())
    return np.concatenate([kept, drawn])


def _settled(surface: _Surface, X: np.ndarray, discrete: Sequence[Discrete]) -> tuple[np.ndarray, bool]:
    """X after changes of discrete parameters until none gains, and whether there was one."""
    any_changed = False
    for _ in range(CHANGES):
        X, changed = _change(surface, X, discrete)
        any_changed |= changed
        if not changed:
            break
    return X, any_changed


def _change(surface: _Surface, X: np.ndarray, discrete: Sequence[Discrete]) -> tuple[np.ndarray, bool]:
    """X with the best change of one discrete parameter in each row, and whether there was one."""
    options = [(one, level) for one in discrete for level in one.levels]
    trials = np.repeat(X, len(options), axis=0).reshape(len(X), len(options), -1)
    for i, (one, level) in enumerate(options):
        trials[:, i, one.columns] = level
    values = surface.values(trials.reshape(-1, X.shape[1])).reshape(len(X), -1)
    before = surface.values(X)
    chosen = values.argmax(1)
    better = values[np.arange(len(X)), chosen] > before + GAIN * np.abs(before)
    return np.where(better[:, None], trials[np.arange(len(X)), chosen], X), bool(better.any())
