"""Optimisation as a command, and its report: from an optimisation's trials to a page on what they amount to.

    page = report(optimizer).to_html()

How much a parameter matters is its total effect on the mean that the surrogate of all trials predicts,

    S_j = E[(f(x) - f(x with x_j drawn anew))^2] / (2 Var f(x)),

over points x spread evenly over the space, as a share of the sum over parameters; of several objectives the
mean of their shares.

Source: Jansen (1999), "Analysis of variance designs for model output", for the estimator of the total effect.
"""

import math
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kernelfield.bo.evaluation import Command, Function, target
from kernelfield.bo.history import read
from kernelfield.bo.loop import Optimizer
from kernelfield.bo.running import Watch, progress
from kernelfield.bo.space import Distribution, Parameters, Space
from kernelfield.bo.space_file import read_space
from kernelfield.bo.storage import FAILURE, network, repeated, shown
from kernelfield.core.files import require_writable, write_whole
from kernelfield.uq.record import provenance
from kernelfield.uq.search import Course, Parameter
from kernelfield.uq.search_report import SearchReport, Slice

try:
    from optuna.distributions import CategoricalDistribution, IntDistribution
    from optuna.exceptions import OptunaError
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise ImportError("optimisation needs botorch and optuna; pip install 'kernelfield[bo]'") from error

GRID = 41  # points of a slice
SPREAD = 256  # points over which effects are averaged
REST = 19  # times what a page took to write, for which the next one waits: a twentieth of a run goes into pages
SURROGATE_ERRORS = (ArithmeticError, MemoryError, RuntimeError, ValueError)  # of models, the user's own among them
PAGE_ERRORS = (*SURROGATE_ERRORS, LookupError, OSError, OptunaError, TypeError)  # of disks, storages and odd values too
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


def posed(
    name: str | None,
    command: str | None,
    space: Sequence[str],
    *,
    study: str | None = None,
    storage: str | None = None,
    folder: Path,
    **settings: Any,
) -> tuple[Optimizer, Function | Command, str]:
    """The optimisation of the function that "module:function" names, or of a command, and where it is kept.

    space     the name of a file, or short forms; see `kernelfield.bo.space_file`
    folder    for its file, if no storage is said
    settings  those of Optimizer

    Errors: ValueError for both a name and a command, or neither; and theirs.
    """
    if (name is None) == (command is None):
        raise ValueError("give a TARGET, module:function, or a --command with the parameters in braces; one of the two")
    region = read_space(*space)
    function = Command(str(command)) if name is None else target(name)
    if isinstance(function, Command):
        function.check(region.parameters)
    study = study or title(name, command)
    place = storage or default_storage(study, folder)
    return Optimizer(region, storage=place, name=study, **settings), function, place


def title(name: str | None, command: str | None) -> str:
    """A name for a study without one, fit for a file.

    >>> title("train:loss", None), title(None, "./bin/train.sh --lr {lr}")
    ('train-loss', 'train.sh')
    """
    words = (name or command or "").split()
    return re.sub(r"[^\w.-]+", "-", words[0].rpartition("/")[2] if command and words else "".join(words)) or "study"


def default_storage(name: str, folder: Path) -> str:
    """Where trials are kept if nothing is said: a file in the folder, of the kind that its file system bears."""
    journal = network(folder / name) is not None
    return f"journal:{name}.journal" if journal else f"sqlite:///{name}.db"


def standing(optimizer: Optimizer, total: int) -> str:
    """What the storage holds, in a few words.

    >>> standing(Optimizer({"x": (0.0, 1.0)}), 40)
    '0 of 40 trials are there'
    """
    ended, running = progress(optimizer.trials)
    waiting = sum(t.state == TrialState.WAITING for t in optimizer.trials)
    first = f", {waiting} that {'was' if waiting == 1 else 'were'} interrupted or queued will come first"
    elsewhere = f", {running} more {'is' if running == 1 else 'are'} running, or not yet given up"
    return f"{ended} of {total} trials are there{elsewhere if running else ''}{first if waiting else ''}"


def message(trial: FrozenTrial) -> str:
    """Why a trial came to nothing; empty if there is nothing to say."""
    return str(trial.user_attrs.get(FAILURE, ""))


def report(optimizer: Optimizer, *, storage: str | None = None, seed: int | None = None) -> SearchReport:
    """What an optimisation came to, and whether its surrogate is to be trusted."""
    again = len(repeated(optimizer.trials))
    notes = [f"{again} {_trials(again)} not finished and queued again; here they count as pruned"] if again else []
    try:
        slices, importances = _learned(optimizer)
    except SURROGATE_ERRORS as error:  # the trials are there, whatever a surrogate makes of them
        slices, importances = [], {}
        notes.append(f"there are no slices and no importances, as the surrogate gave none: {error}")
    made: dict[str, Any] = {**provenance(seed=seed), "acquisition": optimizer.acquisition}
    if storage is not None:
        made["storage"] = shown(storage)
    return SearchReport(
        course(optimizer.trials, optimizer.space, [d.name.lower() for d in optimizer.study.directions]),
        title=optimizer.study.study_name,
        surrogate=optimizer.surrogate,
        slices=slices,
        importances=importances,
        provenance=made,
        notes=notes,
    )


def write_report(
    optimizer: Optimizer, path: str | Path, *, storage: str | None = None, seed: int | None = None
) -> None:
    """Write the page of an optimisation."""
    require_writable(path)
    write_whole(path, report(optimizer, storage=storage, seed=seed).to_html())


def keep_report(
    optimizer: Optimizer,
    path: str | Path,
    *,
    seconds: float = 30.0,
    storage: str | None = None,
    seed: int | None = None,
) -> Watch:
    """What `Optimizer.run` takes as its callback to write the page anew on the way, as trials end.

        optimizer.run(function, 100, callback=keep_report(optimizer, "search.html"))

    A reader finds the old page or the new one whole. One that cannot be written is a warning; the run goes on. The last
    trials may come too soon after a page to be on it: `write_report` writes the one of the end.

    seconds : the least time between two pages, and before the first one. It is longer where a page takes more than a
        twentieth of it to write.

    Errors: ValueError for a negative time; those of `require_writable`; ImportError without what pages need.
    """
    if not seconds >= 0:
        raise ValueError(f"seconds must be at least 0, got {seconds:g}; 0 waits for nothing but the next trial")
    require_writable(path)
    import_module("kernelfield.uq.search_page")  # what it lacks is better said now than in mid-run
    due = time.monotonic() + seconds

    def watch(trial: FrozenTrial) -> None:
        nonlocal due
        begun = time.monotonic()
        if begun < due or not trial.state.is_finished():
            return
        try:
            write_report(optimizer, path, storage=storage, seed=seed)
        except PAGE_ERRORS as error:  # days of trials must not end for a page
            why = str(error) or type(error).__name__
            warnings.warn(f"the page was not written, and the run goes on: {why}", stacklevel=2)
        due = time.monotonic() + max(seconds, REST * (time.monotonic() - begun))

    return watch


def course(trials: Sequence[FrozenTrial], space: Space, directions: Sequence[str]) -> Course:
    """The trials of a study, as the report takes them."""
    m = len(directions)
    told, again = [read(trial) for trial in trials], repeated(trials)
    constraints = sorted({name for trial in trials for name in trial.constraints})
    return Course(
        [_parameter(name, d) for name, d in space.parameters.items()],
        [dict(trial.params) for trial in trials],
        _table((trial.values for trial in trials), m),
        list(directions),
        # What was queued again is no failure of the objective.
        tuple("pruned" if trial.number in again else STATES[trial.state] for trial in trials),
        messages=[message(trial) for trial in trials],
        constraints=_table(
            ([t.constraints.get(name, math.nan) for name in constraints] for t in trials), len(constraints)
        )
        if constraints
        else None,
        seconds=np.array([math.nan if t.duration is None else t.duration.total_seconds() for t in trials]),
        means=_table((None if one is None else one.mean for one in told), m),
        stds=_table((None if one is None else one.std for one in told), m),
        acquisition=np.array([math.nan if one is None or one.value is None else one.value for one in told]),
    )


def _trials(count: int) -> str:
    return "trial was" if count == 1 else "trials were"


def _table(rows: Iterable[Sequence[float] | None], width: int) -> np.ndarray:
    """Rows (n, width) of numbers, NaN where there are none."""
    return np.array([list(row) if row else [math.nan] * width for row in rows], dtype=float).reshape(-1, width)


def _parameter(name: str, d: Distribution) -> Parameter:
    if isinstance(d, CategoricalDistribution):
        return Parameter(name, "categorical", choices=tuple(d.choices))
    kind = "log" if d.log else "integer" if isinstance(d, IntDistribution) else "real"
    return Parameter(name, kind, d.low, d.high)


def _learned(optimizer: Optimizer) -> tuple[list[Slice], dict[str, float]]:
    """Slices through the best trial, and effects; nothing where too little is known."""
    front, space = optimizer.front, optimizer.space
    if len(front) == 0 or sum(t.state == TrialState.COMPLETE for t in optimizer.trials) < 3 or not space.columns:
        return [], {}
    best = min(front, key=lambda trial: trial.number) if len(front) == 1 else front[0]
    cuts = {name: grid(space.parameters[name]) for name in best.params if name in space.parameters}
    middle = Space(space.parameters).decode(space.encode([{}]))[0]  # of what comes to exist along a slice
    points = [_with(space, best.params, middle, name, value) for name, values in cuts.items() for value in values]
    spread, drawn = (space.decode(space.scattered(SPREAD, seed)) for seed in (0, 1))
    moved = [
        _with(space, a, b, name, b.get(name)) for name in space.parameters for a, b in zip(spread, drawn, strict=True)
    ]
    mean, std = optimizer.predict([*points, *spread, *moved])
    slices = []
    for name, values in cuts.items():
        slices.append(Slice(name, values, mean[: len(values)], std[: len(values)]))
        mean, std = mean[len(values) :], std[len(values) :]
    plain, changed = mean[:SPREAD], mean[SPREAD:].reshape(len(space.parameters), SPREAD, -1)
    return slices, effects(list(space.parameters), plain, changed)


def effects(names: Sequence[str], plain: np.ndarray, changed: np.ndarray) -> dict[str, float]:
    """Shares of total effects, from values (k, m) and those (d, k, m) with one parameter each drawn anew.

    >>> effects(["a", "b"], np.array([[0.0], [1.0]]), np.array([[[1.0], [0.0]], [[0.0], [1.0]]]))
    {'a': 1.0, 'b': 0.0}
    """
    moved = changed - plain
    size = np.abs(moved).max((0, 1), initial=0.0)
    total = ((moved / np.where(size > 0, size, 1.0)) ** 2).mean(1)  # squares that neither overflow nor vanish
    whole = total.sum(0)
    if not (whole > 0).any():
        return {}
    shares = (total[:, whole > 0] / whole[whole > 0]).mean(1)
    return dict(zip(names, shares.tolist(), strict=True))


def grid(d: Distribution) -> list[Any]:
    """Values of a parameter from end to end, no more than a slice needs."""
    if isinstance(d, CategoricalDistribution):
        return list(d.choices)
    spread = np.geomspace if d.log else np.linspace
    values = spread(d.low, d.high, GRID)
    if d.step is not None:
        values = np.unique(d.low + np.round((values - d.low) / d.step) * d.step)
    whole = isinstance(d, IntDistribution)
    return [int(value) if whole else float(value) for value in np.clip(values, d.low, d.high)]


def _with(space: Space, base: Parameters, spare: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A point with one parameter changed; those that come to exist by it are taken from another."""
    point = {**spare, **base} | ({} if value is None and name not in spare else {name: value})
    return {one: point[one] for one in space.parameters if one in point and space.exists(one, point)}
