"""Tables of a report on an optimisation: the best trials, and the messages of those that failed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kernelfield.uq.search import Course
from kernelfield.uq.words import number

ROWS = 50  # trials in a table
LETTERS = 2000  # of a message: its end, where a traceback says what happened
NUMBERS = 12  # of trials named beside a message
NOTHING = {"text": number(None), "value": "", "whole": ""}  # the cell of what a trial does not have
LONG = 24  # letters, beyond which a value is cut short and shown whole by the pointer


def headings(course: Course, names: Sequence[str]) -> list[str]:
    """Of the columns of `best_rows`."""
    parts = ["Trial", *course.objectives]
    if any(course.evaluations):
        parts += [f"Predicted {name if len(course.objectives) > 1 else ''}".rstrip() for name in course.objectives]
    if course.constraints is not None:
        parts.append("Slack")
    return parts + (["Seconds"] if course.seconds is not None else []) + list(names)


def best_rows(course: Course, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each of the best trials, with the named parameters; `value` in a cell is what it is sorted by."""
    for trial in course.order[:ROWS].tolist():
        cells = [_cell(trial), *(_cell(float(value)) for value in course.values[trial])]
        if course.means is not None and course.stds is not None and any(course.evaluations):
            pairs = zip(course.means[trial].tolist(), course.stds[trial].tolist(), strict=True)
            cells += [_predicted(mean, std) for mean, std in pairs]
        if course.constraints is not None:
            cells.append(_measured(float(-course.constraints[trial].max(initial=-np.inf))))
        if course.seconds is not None:
            cells.append(_measured(float(course.seconds[trial]), "{:.3g}"))
        params = course.params[trial]
        cells += [_cell(params[name]) if name in params else NOTHING for name in names]
        yield {"front": len(course.objectives) > 1 and trial in course.front, "cells": cells}


def caption(course: Course, shown: int, columns: int) -> str:
    """What the table of the best trials holds."""
    total, parameters = int(course.counted.sum()), len(course.parameters)
    of = f"the best {shown:,} of {total:,}" if shown < total else "all, the best first"
    kept = " that keep the constraints" if course.constraints is not None else ""
    front = "; bold are those that no other dominates" if len(course.objectives) > 1 else ""
    slack = " Slack is how far the nearest constraint is from being broken." if course.constraints is not None else ""
    left = f" Columns of the {columns} most important of {parameters:,} parameters." if columns < parameters else ""
    return f"Finished trials{kept}: {of}{front}. Predictions are means ± deviations from before the trial.{slack}{left}"


def messages(course: Course) -> list[dict[str, str]]:
    """Each message of failed trials once, beside the trials that ended with it, in the order of the first."""
    trials: dict[str, list[int]] = {}
    for index, state in enumerate(course.states):
        if state == "failed":
            trials.setdefault(course.messages[index].strip() or "(no message)", []).append(index)
        elif state == "complete" and not course.finished[index]:
            told = ", ".join(f"{value:g}" for value in course.values[index])
            trials.setdefault(f"complete, with values that are not finite: {told}", []).append(index)
    return [{"trials": _listed(found), "message": _ending(text)} for text, found in trials.items()]


def spoken(value: object) -> object:
    """A value of the provenance for a cell: lists and tables by their entries, numbers in four digits."""
    match value:
        case Mapping():
            return ", ".join(f"{name}: {spoken(item)}" for name, item in value.items())
        case list() | tuple() | np.ndarray():
            rest = "" if len(value) <= NUMBERS else f", … ({len(value):,} in all)"
            return ", ".join(str(spoken(item)) for item in value[:NUMBERS]) + rest
        case float():
            return number(float(value))
        case _:
            return value


def _predicted(mean: float, std: float) -> dict[str, str]:
    if not np.isfinite(mean):
        return NOTHING
    return {"text": f"{number(mean)} ± {number(std, '{:.2g}')}", "value": repr(mean), "whole": ""}


def _measured(value: float, form: str = "") -> dict[str, str]:
    return _cell(value, form) if np.isfinite(value) else NOTHING


def _cell(value: object, form: str = "") -> dict[str, str]:
    text, key = str(value), str(value)
    if isinstance(value, float):
        text, key = number(float(value), form), repr(float(value))
    elif isinstance(value, int):
        text = number(value)
    return {"text": text, "value": key, "whole": text if len(text) > LONG else ""}


def _listed(found: Sequence[int]) -> str:
    rest = f" and {len(found) - NUMBERS:,} more" if len(found) > NUMBERS else ""
    return ", ".join(str(index) for index in found[:NUMBERS]) + rest


def _ending(text: str) -> str:
    return text if len(text) <= LETTERS else f"… {text[-LETTERS:]}"
