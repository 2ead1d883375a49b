"""Findings: all that is diagnosed of one output, from the evaluation and whatever else is known of its rows.

    for each output    diagnose(evaluation, columns={"age": ..., "site": ...}, time=..., outside=std)
    of classes         diagnose_classes(evaluation, columns=..., time=..., outside=probabilities)

What there are too few rows for, or what was not given, is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis import worst_group as search
from kernelfield.uq.diagnosis.cases import Case, ClassCase, Split, split, worst_cases, worst_class_cases
from kernelfield.uq.diagnosis.drift import ALARM, LEAST, Drift, class_drift, drift
from kernelfield.uq.diagnosis.groups import ClassGroup, Column, Group, by_column, class_by_column
from kernelfield.uq.diagnosis.outside import FEWEST, Outside, compare, entropy
from kernelfield.uq.promises import main_promise
from kernelfield.uq.scores import Evaluation


@dataclass(frozen=True)
class Findings:
    """Of one output: groups by column, the worst group, drift, the outside, worst cases and parts of the variance."""

    columns: tuple[Column[Group], ...]
    worst: search.WorstGroup | None = None
    drift: Drift | None = None
    outside: Outside | None = None
    cases: tuple[Case, ...] = ()
    split: Split | None = None


@dataclass(frozen=True)
class ClassFindings:
    """Of classes: groups by column, the worst group, drift, the outside and worst cases."""

    columns: tuple[Column[ClassGroup], ...]
    worst: search.WorstGroup | None = None
    drift: Drift | None = None
    outside: Outside | None = None
    cases: tuple[ClassCase, ...] = ()


def diagnose(
    evaluation: Evaluation,
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    groups: Sequence[str] = (),
    dates: Sequence[str] = (),
    time: np.ndarray | None = None,
    dated: bool = False,
    outside: np.ndarray | None = None,
    seed: int = 0,
) -> list[Findings]:
    """The findings of each output.

    columns  of features and groups, by name, each (n,) numbers or text with NaN or None where missing
    groups   names of columns that are looked at value by value, and come first
    dates    names of columns of days since 1970-01-01
    time     (n,), numbers, dates or text that sorts by time
    dated    the times are days since 1970-01-01
    outside  predicted standard deviations (k, m) at rows that the model was not made for

    Errors: ValueError if lengths do not agree, or no column has a name that is given.
    """
    n, m = evaluation.y.shape
    columns = columns or {}
    if outside is not None and outside.shape[1:] != (m,):
        raise ValueError(f"outside must hold a deviation for each of {m} outputs, got shape {outside.shape}")
    enough, clock = bool(columns) and n >= search.ENOUGH, time if n >= LEAST else None
    found = []
    for index in range(m):
        one = evaluation.output(index)
        judged = main_promise(one) is not None
        known = bool(np.isfinite(one.std).all())  # a Student-t law of few degrees of freedom has no deviation
        found.append(
            Findings(
                columns=tuple(by_column(one, columns, groups=groups, dates=dates)),
                worst=search.worst_group(one, columns, dates=dates, seed=seed) if enough and judged else None,
                # Outputs share the chance of a false alarm.
                drift=drift(one, clock, level=ALARM / m, dated=dated, seed=seed)
                if clock is not None and judged
                else None,
                outside=_outside(one.std[:, 0], None if outside is None else outside[:, index]) if known else None,
                cases=tuple(worst_cases(one)),
                split=split(one) if known else None,
            )
        )
    return found


def diagnose_classes(
    evaluation: ClassEvaluation,
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    groups: Sequence[str] = (),
    dates: Sequence[str] = (),
    time: np.ndarray | None = None,
    dated: bool = False,
    outside: np.ndarray | None = None,
    seed: int = 0,
) -> ClassFindings:
    """The findings of class probabilities, from what `diagnose` takes.

    `outside` are probabilities (k, classes) at rows that the model was not made for.
    """
    n, columns = len(evaluation.labels), columns or {}
    enough, clock = bool(columns) and n >= search.ENOUGH, time if n >= LEAST else None
    return ClassFindings(
        columns=tuple(class_by_column(evaluation, columns, groups=groups, dates=dates)),
        worst=search.worst_class_group(evaluation, columns, dates=dates, seed=seed) if enough else None,
        drift=None if clock is None else class_drift(evaluation, clock, dated=dated, seed=seed),
        outside=_outside(entropy(evaluation.probabilities), None if outside is None else entropy(outside)),
        cases=tuple(worst_class_cases(evaluation)),
    )


def _outside(inside: np.ndarray, outside: np.ndarray | None) -> Outside | None:
    enough = outside is not None and min(len(inside), len(outside)) >= FEWEST and np.isfinite(outside).all()
    return compare(inside, outside) if outside is not None and enough else None
