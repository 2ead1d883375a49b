"""Comparing models of the zoo on a table: every model is fitted to the same parts of it and tested on the rest.

`attempt` fits and tests one model once. `compare` does so for each model and each fold of a
cross-validation, in which every row is tested on once; a model that fails is left out of the
further folds and keeps its sentence. Nothing is written: that is for the caller, at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import joblib  # type: ignore[import-untyped]
import numpy as np
import torch

from kernelfield.data.encoding import Encoding
from kernelfield.data.tables import Problem, listed
from kernelfield.models.entry import ANY, Entry
from kernelfield.models.zoo import CLASSIFIERS, MODELS, entry, suggested
from kernelfield.tabular import Provenance, TableClassifier, TableModel, Tabular, part, remarks
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.comparison import Comparison, Contender
from kernelfield.uq.report import Report

# What data, memory or an optional package can do to a model; all else is a mistake in the code.
FAILURES = (
    ValueError,
    ArithmeticError,
    OSError,
    MemoryError,
    ImportError,
    NotImplementedError,
    torch.linalg.LinAlgError,
    torch.OutOfMemoryError,
)


@dataclass(frozen=True, eq=False)
class Measured:
    """A model that was fitted to one split and tested on it; the notes are on its fit."""

    model: str
    split: int
    report: Report | ClassReport
    notes: Sequence[str]


@dataclass(frozen=True)
class Failed:
    """A model that was not, and why, in a sentence."""

    model: str
    split: int
    sentence: str


Trial = Measured | Failed
Watch = Callable[[str, Trial | None], None]  # is told a model's name before a fit that runs alone, and its trial after


def unwatched(name: str, trial: Trial | None) -> None:
    """A watch that looks away."""


def compare(
    problem: Problem,
    names: Sequence[str],
    *,
    classes: bool = False,
    count: int = 5,
    seed: int = 0,
    provenance: Provenance | None = None,
    notes: Sequence[str] = (),
    watch: Watch = unwatched,
    jobs: int | None = None,
) -> Comparison:
    """Measure models of the zoo on the folds of a cross-validation.

    classes  whether the target holds classes
    count    folds
    notes    sentences on the data, for the comparison's own
    jobs     fits at a time, in processes of joblib's backend (`joblib.parallel_config` chooses loky, Dask or Ray);
             None is one, or what that configuration says. Scores are the same for any number, seconds are not

    Errors: ValueError for names or numbers that make no comparison, columns that cannot be encoded,
    or if no model could be fitted.
    """
    kind: type[Tabular] = TableClassifier if classes else TableModel
    table = Encoding.fit(problem.features)  # columns that no model could take are refused before any work
    splits = folds(problem, count, seed, classes=classes)
    require_models(names, classes=classes)
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    at_once = joblib.effective_n_jobs(jobs)
    for index, (train, test) in enumerate(splits):
        left = [name for name in names if name not in failed]
        fit = partial(attempt, kind, part(problem, train), part(problem, test), seed=seed, split=index)
        for trial in _trials(fit, left, at_once, watch):
            match trial:
                case Measured():
                    measured[trial.model].append(trial)
                case Failed():
                    failed[trial.model] = _where(trial, count)
            watch(trial.model, trial)
    finished = {name: trials for name, trials in measured.items() if name not in failed}
    if not finished:
        raise ValueError(f"no model could be fitted; {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
    rule = [trial.report.baseline for trial in next(iter(finished.values()))]
    zoo = CLASSIFIERS if classes else MODELS
    return Comparison(
        outputs=list(problem.target),
        contenders=[_contender(entry(name, zoo), trials) for name, trials in finished.items()],
        baseline=Contender("training shares" if classes else "training mean", rule),
        failures=failed,
        rows=len(problem.target),
        features=table.features,
        classes=sorted({str(label) for label in problem.target.iloc[:, 0]}) if classes else (),
        provenance=provenance or {},
        notes=[*notes, *remarks(table, table.apply(problem.features)), *_crowded(at_once)],
        advice={name: entry(name, zoo).advice for name in names},
    )


def _trials(fit: Callable[[str], Trial], names: Sequence[str], jobs: int, watch: Watch) -> Iterator[Trial]:
    """A fit for each name, in order, so many at a time."""
    if jobs == 1:
        for name in names:
            watch(name, None)
            yield fit(name)
    else:
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator", batch_size=1)
        yield from parallel(joblib.delayed(fit)(name) for name in names)


def _crowded(jobs: int) -> list[str]:
    return [] if jobs == 1 else [f"{jobs} fits ran at a time, so that each took longer than it would have alone"]


def attempt(kind: type[Tabular], train: Problem, test: Problem, name: str, *, seed: int = 0, split: int = 0) -> Trial:
    """Fit a model of the zoo to some rows and measure it on others; a failure is an answer too."""
    try:
        model, notes = kind.fit(train, name, seed, {})
        report = model.report(test)
    except FAILURES as error:
        return Failed(name, split, str(error) or f"{type(error).__name__} without further words")
    alike = remarks(model.encoding, model.encoding.apply(train.features))  # said of every model, once is enough
    return Measured(name, split, report, [note for note in notes if note not in alike])


def folds(problem: Problem, count: int, seed: int, *, classes: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to test on, by position: `count` parts of equal size, each tested on once.

    Classes are shared out evenly, so that each is learned in every fold.

    Errors: ValueError if there are too few rows, or a class has a single one.
    """
    n = len(problem.target)
    largest = -(-n // count)
    if n < count or n - largest < 2:
        raise ValueError(
            f"{count} folds of {n} rows leave too little to learn from or to test on; add rows or use fewer"
        )
    order = np.random.default_rng(seed).permutation(n)
    if classes:
        words = problem.target.iloc[:, 0].map(str).to_numpy(dtype=str)
        labels, index, sizes = np.unique(words, return_inverse=True, return_counts=True)
        if sizes.min() < 2:
            alone = listed(labels[sizes < 2])
            raise ValueError(
                f"each class needs at least 2 rows, and {alone} has one; leave such rows out or group them"
            )
        order = order[np.argsort(index[order], kind="stable")]
    fold = np.empty(n, dtype=int)
    fold[order] = np.arange(n) % count
    return [(np.flatnonzero(fold != index), np.flatnonzero(fold == index)) for index in range(count)]


def require_models(names: Sequence[str], *, classes: bool = False) -> None:
    """Errors: ValueError for an unknown name (with those near), one given twice, or fewer than two."""
    for name in names:
        entry(name, CLASSIFIERS if classes else MODELS)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{listed(twice)} {'is' if len(twice) == 1 else 'are'} named more than once; name each model once"
        )
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two models, got {listed(names) or 'none'}; name another")


def default_models(problem: Problem, *, classes: bool = False) -> list[str]:
    """The models that the zoo suggests for a table of this size.

    Errors: ValueError if a column cannot be encoded.
    """
    d = len(Encoding.fit(problem.features).features)
    return suggested(len(problem.target), d, classes=classes)


def _where(trial: Failed, count: int) -> str:
    """A failure, with the fold where it did not come at once."""
    return f"{trial.sentence} (in fold {trial.split + 1} of {count})" if trial.split else trial.sentence


def _contender(one: Entry, trials: Sequence[Measured]) -> Contender:
    seconds = {phase: [trial.report.seconds[phase] for trial in trials] for phase in ("fit", "predict")}
    return Contender(one.name, [trial.report.evaluation for trial in trials], seconds, list(_notes(one, trials)))


def _notes(one: Entry, trials: Sequence[Measured]) -> Iterator[str]:
    """Each sentence once, with the folds that have it where not all do."""
    n, (least, most) = min(trial.report.n_train or 0 for trial in trials), one.rows
    if not least <= n <= most:
        ends = f"{least:,} to {most:,}" if most < ANY else f"{least:,} or more"
        yield f"it is meant for {ends} rows and learned from {n:,}"
    for note in dict.fromkeys(note for trial in trials for note in trial.notes):
        count = sum(note in trial.notes for trial in trials)
        yield note if count == len(trials) else f"{note} (in {count} of {len(trials)} folds)"
