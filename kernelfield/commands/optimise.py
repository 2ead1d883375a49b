"""The command that optimises a function or a command of the user's."""

import importlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from kernelfield.commands.console import (
    as_json,
    boundary,
    check_outputs,
    err,
    out,
    print_files,
    print_table,
    require_pages,
    say,
)
from kernelfield.commands.options import (
    AcquisitionName,
    Batch,
    Gain,
    Maximise,
    Objective,
    Objectives,
    SearchFile,
    SearchPage,
    Seconds,
    Seed,
    ShellCommand,
    SpaceForms,
    StorageUrl,
    StudyName,
    Surrogate,
    Trials,
    Workers,
)
from kernelfield.core.files import write_whole
from kernelfield.progress import ledger

MOST = 10  # trials of a front that are printed


def optimise(
    space: SpaceForms,
    target: Objective = None,
    command: ShellCommand = None,
    output: SearchPage = None,
    trials: Trials = 50,
    batch: Batch = 1,
    workers: Workers = 1,
    storage: StorageUrl = None,
    name: StudyName = None,
    surrogate: Surrogate = "gp",
    acquisition: AcquisitionName = "auto",
    objectives: Objectives = 1,
    maximise: Maximise = False,
    seed: Seed = 0,
    seconds: Seconds = None,
    gain: Gain = None,
    json_file: SearchFile = None,
) -> None:
    """Find the parameters at which a function, or a command, is least; go on where an earlier run stopped."""
    with boundary(), _quietly():
        check_outputs([], [output, json_file])
        if output:
            require_pages()
        optimising = importlib.import_module("kernelfield.optimising")  # its packages are optional, and take time
        logging.getLogger("optuna").setLevel(logging.ERROR)  # it has set a level of its own only now
        sys.path.insert(0, os.getcwd())
        optimizer, function, kept = optimising.posed(
            target,
            command,
            space,
            study=name,
            storage=storage,
            folder=Path.cwd(),
            surrogate=surrogate,
            acquisition=acquisition,
            directions=("maximize" if maximise else "minimize",) * objectives,
            seed=seed,
        )
        if optimizer.trials:
            say(f"the study {optimizer.study.study_name!r} goes on: {optimising.standing(optimizer, trials)}")
        if storage is None:
            say(f"trials are kept in {kept}; the same command goes on from there")
        settings = {"workers": workers, "batch": batch, "seconds": seconds, "gain": gain}
        pages = optimising.keep_report(optimizer, output, storage=kept, seed=seed) if output else None
        try:
            with _watching(optimizer, trials, pages) as watch:
                optimizer.run(function, trials, callback=watch, **settings)
        except KeyboardInterrupt:
            words = f"interrupted; {optimising.standing(optimizer, trials)}; the same command goes on from there"
            err.print(words, style="red", soft_wrap=True, markup=False)
            raise typer.Exit(130) from None
        _print_result(optimizer)  # whatever a page comes to
        if output or json_file:
            result = optimising.report(optimizer, storage=kept, seed=seed)
            if output:
                write_whole(output, result.to_html())
            if json_file:
                write_whole(json_file, as_json(result.to_dict()))
        print_files(Report=output, JSON=json_file)


@contextmanager
def _quietly() -> Iterator[None]:
    """Let warnings be notes, and leave Optuna's log as it was."""
    log = logging.getLogger("optuna")
    level = log.level
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *place: say(str(message))
        warnings.filterwarnings("ignore", r"trial \d+ failed")  # the table says so
        try:
            yield
        finally:
            log.setLevel(level)


@contextmanager
def _watching(
    optimizer: Any, total: int, pages: Callable[[Any], None] | None = None
) -> Iterator[Callable[[Any], None]]:
    """A live table on a terminal, elsewhere a line for each trial that ended; and what writes pages on the way."""
    optimising = importlib.import_module("kernelfield.optimising")
    with ledger(err, ("trial", "value", "best so far", "parameters")) as tell:

        def watch(trial: Any) -> None:
            best = _best(optimizer)
            value = _value(trial, optimising.message(trial))
            cells = (str(trial.number), _first_line(value), best, _first_line(_listed(trial.params)))
            ended, running = optimising.progress(optimizer.trials)
            tell(trial.number, cells, f"{ended} of {total} trials, {running} running")
            if not err.is_terminal and trial.state.is_finished():
                line = f"trial {trial.number}: {cells[1]}; best so far {best or 'none'}; {cells[3]}"
                err.print(line, soft_wrap=True, markup=False)
            if pages is not None:
                pages(trial)

        yield watch


def _value(trial: Any, message: str) -> str:
    """The values of a trial, or why it has none, or that it runs."""
    if not trial.state.is_finished():
        return "running"
    if trial.values is None:
        return f"failed: {message}"
    broken = any(value > 0 for value in trial.constraints.values())
    return _numbers(trial.values) + (", breaks a constraint" if broken else "")


def _first_line(text: str) -> str:
    """What a row has room for."""
    first, *more = text.splitlines() or [""]
    return f"{first} ..." if more else first


def _best(optimizer: Any) -> str:
    front = optimizer.front
    if len(optimizer.study.directions) > 1:
        return f"{len(front)} on the front"
    return f"{_numbers(front[0].values)}" if front else ""


def _print_result(optimizer: Any) -> None:
    front = sorted(optimizer.front, key=lambda trial: trial.values)
    if not front:
        out.print("no trial is complete and keeps its constraints", style="bold")
        return
    if len(optimizer.study.directions) > 1:
        _print_front(optimizer.study.study_name, front, list(optimizer.space.parameters))
        return
    best = optimizer.best
    out.print(f"{optimizer.study.study_name}: trial {best.number} is the best", style="bold", markup=False)
    limits = [(f"constraint {name}", f"{value:.6g}") for name, value in sorted(best.constraints.items())]
    found = [(name, _written(best.params[name])) for name in optimizer.space.parameters if name in best.params]
    print_table(("", ""), [("value", f"{best.value:.6g}"), *limits, *found])


def _print_front(study: str, front: Sequence[Any], parameters: Sequence[str]) -> None:
    out.print(f"{study}: {len(front)} trials that no other dominates", style="bold", markup=False)
    shown = front[:MOST]
    names = [name for name in parameters if any(name in trial.params for trial in shown)]
    rows = [
        [
            str(trial.number),
            *(f"{value:.6g}" for value in trial.values),
            *(_written(trial.params.get(name, "")) for name in names),
        ]
        for trial in shown
    ]
    print_table(["trial", *(f"value {i + 1}" for i in range(len(shown[0].values))), *names], rows)
    if len(front) > len(shown):
        out.print(f"and {len(front) - len(shown)} more")


def _listed(parameters: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={shlex.quote(_written(value))}" for name, value in parameters.items())


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
