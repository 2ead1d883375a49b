"""One suggestion: surrogates are fitted to the trials, and an acquisition function is maximised.

A suggestion is a function of the trials, the settings and a seed, and of nothing else: two processes
with the same history and seed suggest the same.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kernelfield.bo.acquisition import Situation, acquisition, check_name, in_units
from kernelfield.bo.fidelity import fit_curves
from kernelfield.bo.fitting import Fitted, Record, fit
from kernelfield.bo.history import History, Told
from kernelfield.bo.improvement import Differentiable
from kernelfield.bo.moments import moments
from kernelfield.bo.search import Budget, Found, maximise
from kernelfield.bo.space import Space
from kernelfield.core.contracts import Model
from kernelfield.core.numerics import NotPositiveDefinite, threads_for

SAMPLED = Budget(raw=128, starts=4, steps=40)
SAME = 1e-9  # of a side of the cube: points nearer than this are one
LEADERS = 5  # best trials about which the search looks
EXTRA = 64  # points tried in place of one that has been tried already


@dataclass(frozen=True)
class Settings:
    """How points are suggested.

    model : of each objective and constraint.
    acquisition : its name; see `kernelfield.bo.acquisition`.
    reference : the point that hypervolume is measured from, one number an objective in its own units.
    most : trials that are fitted; of more, the best half of so many and a random rest.
    budget : how hard the acquisition function is searched; None is `Budget()` for closed forms, and less where each
        value is a mean over samples.
    device : where fits run.

    Errors: ValueError for an unknown acquisition, or fewer than 10 trials.
    """

    model: Model
    acquisition: str = "auto"
    reference: tuple[float, ...] | None = None
    most: int = 2000
    budget: Budget | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_name(self.acquisition)
        if self.most < 10:
            raise ValueError(f"most is the number of trials that are fitted and must be at least 10, got {self.most}")


def scattered(space: Space, index: int, seed: int) -> Told:
    """The point of this index in a quasi-random sequence over the space."""
    return Told(space.decode(space.scattered(index + 1, seed)[index:])[0])


def suggest(space: Space, known: History, settings: Settings, signs: np.ndarray, *, seed: int) -> Told:
    """The next point, given at least one complete trial.

    signs (m,) : 1 where an objective is maximised, -1 where it is minimised.
    """
    known = _thinned(known, settings.most, seed)
    known = replace(known, C=known.C[:, np.isfinite(known.C).any(0)])  # of some nothing may be known any more
    device = torch.device(settings.device)
    columns = [*known.Y.T, *known.C.T]
    records: Sequence[Record | None] = known.told.records if known.told else ()
    if len(records) != len(columns):
        records = [None] * len(columns)
    X = torch.from_numpy(known.X).to(device)
    with threads_for(len(X)):
        try:
            fits = [
                _fitted(settings.model, X, column, known, j, records[j], seed + j) for j, column in enumerate(columns)
            ]
        except NotPositiveDefinite as error:
            warnings.warn(
                f"the surrogate could not be fitted, so the next point is a random one: {error}", stacklevel=2
            )
            return scattered(space, len(known.X), seed)
        m = known.Y.shape[1]
        if known.curves is not None:  # what trials would be at the reference step
            known = replace(known, Y=moments(fits[0].surrogate).values(X)[0].cpu().numpy()[:, None])
        reference = None
        if settings.reference is not None:
            reference = torch.tensor(signs * np.array(settings.reference), device=device)
        situation = Situation(
            [one.surrogate for one in fits[:m]],
            [one.surrogate for one in fits[m:]],
            X,
            torch.from_numpy(known.Y).to(device),
            torch.from_numpy(known.C).to(device),
            torch.from_numpy(_shut(known)).to(device),
            reference,
            seed,
            fits[0].weight,
        )
        aim = acquisition(settings.acquisition, situation)
        budget = settings.budget or (SAMPLED if isinstance(aim, Differentiable) else Budget())
        found = maximise(aim, space, near=_leaders(known), seed=seed, budget=budget, device=device)
        point, value = _new(found, known, space, seed)
        value = None if value is None else in_units(settings.acquisition, value, situation)
        expected = _expected(fits[:m], torch.from_numpy(point).to(X), signs)
    return Told(space.decode(point)[0], *expected, value, tuple(one.record for one in fits))


def _fitted(
    model: Model, X: Tensor, column: np.ndarray, known: History, index: int, record: Record | None, seed: int
) -> Fitted:
    """The surrogate of an objective, or of a constraint where the index is beyond the objectives."""
    generator = torch.Generator().manual_seed(seed)
    if known.curves is not None and not index:
        return fit_curves(model, X, known.curves, record=record, generator=generator)
    noise = None
    if known.noise is not None and index < known.noise.shape[1]:
        noise = torch.from_numpy(known.noise[:, index]).to(X)
    said = np.isfinite(column)  # not every trial may have
    X, y = X[torch.from_numpy(said).to(X.device)], torch.from_numpy(column[said]).to(X)
    return fit(model, X, y, noise=noise, record=record, generator=generator)


def _thinned(known: History, most: int, seed: int) -> History:
    """At most so many trials, or values on their way: the better half of them the best, the rest at random."""
    n, curves = len(known.X), known.curves
    if curves is not None:
        most = max(1, most * n // max(1, np.isfinite(curves.values).sum()))
    if n <= most:
        return known
    order = _ranked(known)
    rest = np.random.default_rng(seed).permutation(order[most // 2 :])[: most - most // 2]
    kept = np.sort(np.concatenate([order[: most // 2], rest]))
    noise = None if known.noise is None else known.noise[kept]
    if curves is not None:
        curves = replace(curves, values=curves.values[kept])
    return replace(known, X=known.X[kept], Y=known.Y[kept], C=known.C[kept], noise=noise, curves=curves)


def _ranked(known: History) -> np.ndarray:
    """Trials (n,), the best first: by what they violate, as far as they have said, then by standardised values."""
    size = np.abs(known.Y).max(0, initial=0.0)
    Y = known.Y / np.where(size > 0, size, 1.0)  # whose squares neither overflow nor vanish
    spread = Y.std(0)
    value = ((Y - Y.mean(0)) / np.where(spread > 0, spread, 1.0)).sum(1)
    return np.lexsort((-value, np.nansum(known.C.clip(min=0), 1)))


def _shut(known: History) -> np.ndarray:
    """Points that are taken to end as the surrogate expects: those that run, and those that came to nothing."""
    return known.pending if known.closed is None else np.concatenate([known.pending, known.closed])


def _leaders(known: History) -> np.ndarray:
    """The best trials, of several objectives the best of each too."""
    best = [int(column.argmax()) for column in known.Y.T] if known.Y.shape[1] > 1 else []
    return known.X[np.unique([*_ranked(known)[:LEADERS], *best])]


def _new(found: Found, known: History, space: Space, seed: int) -> tuple[np.ndarray, float | None]:
    """The best end (1, d) where nothing has been tried and nothing runs; else a point near it in rank."""
    taken = np.concatenate([known.X, _shut(known)])
    others = space.scattered(EXTRA, seed + 1)
    points = np.concatenate([found.points, others])
    values = np.concatenate([found.values, np.full(len(others), np.nan)])
    for point, value in zip(points, values, strict=True):
        if not (np.abs(taken - point).max(1) < SAME).any():
            return point[None], float(value) if np.isfinite(value) else None
    return found.points[:1], float(found.values[0])  # a finite space that is used up: measure its best point again


def _expected(fits: Sequence[Fitted], point: Tensor, signs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each objective's value, noise included, in the user's directions.

    Nothing where a variance is infinite.
    """
    with torch.no_grad():  # in the units of the models, as the squares of others may overflow, or vanish
        laws = [one.surrogate.inner.posterior(one.surrogate.to_model_X(point), noise=True) for one in fits]
    units = [one.surrogate.to_model_y for one in fits]
    mean = tuple(float(sign * (u.shift + u.scale * law.mean)) for sign, u, law in zip(signs, units, laws, strict=True))
    std = tuple(float(u.scale * law.variance.sqrt()) for u, law in zip(units, laws, strict=True))
    return (mean, std) if np.isfinite([*mean, *std]).all() else ((), ())
