"""What the trials of an Optuna study say, as arrays.

All objectives are turned so that more is better. A trial that ended without numbers tells nothing of
them and is left out; infinite values count as the worst, or best, finite one. A trial that runs is
pending, at the parameters that its own process was told: those are kept in the trial's attributes, as
other processes see a parameter only once the objective has asked for it.

Text attributes are cut into pieces of at most 2045 characters, the most that Optuna's databases hold.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kernelfield.bo.fitting import Record
from kernelfield.bo.space import Parameters, Space, contains

PIECE = 2045  # characters of an attribute
TOLD = "kernelfield:told"
LOST = (TrialState.FAIL, TrialState.PRUNED)  # states that leave no value
# Trials without a value whose points are kept from being tried again: with 50 entropy searches and hypervolumes take a
# second or so, with 200 a quarter of a minute.
MOST_LOST = 50
NOISE = "kernelfield:noise"  # user attribute: the variance of a trial's value, one number an objective


@dataclass(frozen=True)
class Told:
    """What a sampler writes beside a trial that it has suggested.

    parameters  what the objective will be told
    mean, std   of each objective, as the surrogate expected it, in the user's units and directions
    value       of the acquisition function
    records     hyperparameters of each surrogate, from which the next fit starts
    """

    parameters: Parameters
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    value: float | None = None
    records: tuple[Record | None, ...] = ()

    def to_json(self) -> str:
        records = [None if r is None else [r.rows, r.noise, *r.parameters] for r in self.records]
        content = [self.parameters, self.mean, self.std, self.value, records]
        # A choice of another kind than JSON's is known to others once the objective has asked for it.
        return json.dumps(_rounded(content), separators=(",", ":"), default=repr)

    @classmethod
    def from_json(cls, text: str) -> "Told":
        # A point that was chosen again, as another process had just gone there, may leave a longer one's end behind.
        (parameters, mean, std, value, records), _ = json.JSONDecoder().raw_decode(text)
        kept = [None if r is None else Record(int(r[0]), r[1], tuple(r[2:])) for r in records]
        return cls(parameters, tuple(mean), tuple(std), value, tuple(kept))


def _rounded(content: Any) -> Any:
    """Numbers of surrogates to seven digits, parameters (the first entry) as they are."""
    parameters, *rest = content
    return [parameters, *json.loads(json.dumps(rest), parse_float=lambda text: float(f"{float(text):.7g}"))]


def write(storage: BaseStorage, trial_id: int, told: Told) -> None:
    """Keep what was told beside a trial."""
    text = told.to_json()
    for i in range(0, len(text), PIECE):
        storage.set_trial_system_attr(trial_id, f"{TOLD}:{i // PIECE}", text[i : i + PIECE])


def read(trial: FrozenTrial) -> Told | None:
    """What was told, or None for a trial that another sampler suggested or that is being suggested."""
    pieces: list[str] = []
    while (piece := trial.system_attrs.get(f"{TOLD}:{len(pieces)}")) is not None:
        pieces.append(piece)
    if not pieces:
        return None
    try:
        return Told.from_json("".join(pieces))
    except json.JSONDecodeError:  # another process is still writing
        return None


@dataclass(frozen=True, eq=False)
class Curves:
    """What trials have shown at the steps that are looked at; see `kernelfield.bo.fidelity`.

    Shapes: shares (k,) the steps, ascending, as shares of the longest run; values (n, k) more is better, NaN where
    nothing was seen; reference the place of the step at which trials are compared; begun, how many trials.
    """

    shares: np.ndarray
    values: np.ndarray
    reference: int
    begun: int


@dataclass(frozen=True, eq=False)
class History:
    """Trials over a space.

    Shapes: X (n, d), Y (n, m) more is better, C (n, c) feasible where at most 0, NaN where a trial has not said, noise
    (n, m) variances or None, pending (p, d), told the latest that a surrogate has said. With curves, X are all trials
    that have shown something, and Y their latest values. closed (q, d) are points that came to
    nothing, by failing or by being pruned: not to be tried again, as nothing else would be known of them.
    """

    X: np.ndarray
    Y: np.ndarray
    C: np.ndarray
    noise: np.ndarray | None
    pending: np.ndarray
    told: Told | None
    curves: Curves | None = None
    closed: np.ndarray | None = None

    @property
    def begun(self) -> int:
        """How many trials have been, or are, at work."""
        return len(self.X) + len(self.pending) if self.curves is None else self.curves.begun


def history(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    space: Space,
    *,
    number: int | None = None,
    dead: Collection[int] = (),
) -> History:
    """The trials over a space, but for the one of this number, which is being suggested.

    dead : identities of trials whose process no longer answers; they are not pending.

    Errors: ValueError for a variance that is none.
    """
    done = [t for t in trials if t.state == TrialState.COMPLETE and whole(t.params, space)]
    sign = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in directions])
    Y = finite(sign * np.array([t.values for t in done], dtype=float).reshape(len(done), len(sign)))
    noise = None
    if done and all(NOISE in t.user_attrs for t in done):
        noise = np.array([_noise(t, len(sign)) for t in done])
    running = [t for t in trials if t.state == TrialState.RUNNING and t.number != number and t._trial_id not in dead]
    pending = [{**(kept.parameters if (kept := read(t)) else {}), **t.params} for t in running]
    return History(
        space.encode([t.params for t in done]),
        Y,
        limits(done),
        noise,
        space.encode([p for p in pending if whole(p, space)]),
        _latest(trials, number),
        closed=closed(trials, space),
    )


def closed(trials: Sequence[FrozenTrial], space: Space) -> np.ndarray:
    """The points (q, d) of the latest trials that came to nothing."""
    return space.encode([t.params for t in trials if t.state in LOST and whole(t.params, space)][-MOST_LOST:])


def _latest(trials: Sequence[FrozenTrial], number: int | None) -> Told | None:
    """The latest that a surrogate has said, before the trial of this number.

    Of later trials only where they go is looked at, so that a suggestion can be made again from what it was made of.
    """
    for trial in sorted(trials, key=lambda trial: trial.number, reverse=True):
        if (number is None or trial.number < number) and (told := read(trial)) and told.records:
            return told
    return None


def _noise(trial: FrozenTrial, objectives: int) -> np.ndarray:
    """The variances (m,) of a trial's values."""
    given = trial.user_attrs[NOISE]
    try:
        noise = np.broadcast_to(np.asarray(given, dtype=float), objectives)
    except (TypeError, ValueError):
        noise = np.empty(0)
    if not len(noise) or not ((noise > 0) & np.isfinite(noise)).all():
        raise ValueError(
            f"{NOISE!r} of trial {trial.number} must be a variance above 0 for each of its {objectives} values, "
            f"got {given!r}; leave it out of every trial where it is not known"
        )
    return noise


def limits(trials: Sequence[FrozenTrial]) -> np.ndarray:
    """Constraints (n, c) of trials, by the order of their names, which databases do not keep; NaN where unknown.

    Each is in units of the largest that was seen, as which infinite ones count: what is feasible stays so, and a
    constraint of which little is known, or always the same, is worth as much in any unit. One that is told where it is
    broken, and never where it is kept, is kept by the complete trials that do not tell it after the first that does.
    """
    told = [t.constraints for t in trials]
    names = sorted({name for one in told for name in one})
    C = np.array([[one.get(name, np.nan) for name in names] for one in told], dtype=float)
    C = C.reshape(len(told), len(names))
    size = np.abs(C).max(0, initial=0.0, where=np.isfinite(C))
    size = np.where(size > 0, size, 1.0)
    C = C.clip(-size, size) / size
    complete = np.array([t.state == TrialState.COMPLETE for t in trials], dtype=bool)
    unsaid, never_kept = np.isnan(C), np.nanmin(C, 0, initial=np.inf) > 0
    since = np.logical_or.accumulate(~unsaid, 0)  # before, nobody may have thought of it
    return np.where(unsaid & since & complete[:, None] & never_kept, -1.0, C)


def whole(parameters: Parameters, space: Space) -> bool:
    """Whether every parameter that exists beside these is among them, with a value of the space."""
    for name, distribution in space.parameters.items():
        if not space.exists(name, parameters):
            continue
        if name not in parameters:
            return False
        if not contains(distribution, parameters[name]):
            return False
    return True


def finite(values: np.ndarray) -> np.ndarray:
    """Infinite entries replaced by the extremes of their column."""
    for column in values.T:
        known = column[np.isfinite(column)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        np.clip(column, low, high, out=column)
    return values
