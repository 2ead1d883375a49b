"""Reporting: measure a fitted model of tables, or anyone's predictions, with all that a table tells of its rows.

`examine` takes a model and rows it has not seen, `examine_predictions` a table that holds what
another program predicted. Both give a report that knows the columns, the groups and times to look
at, rows from elsewhere, other models of the same rows, and what recalibration would change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from kernelfield.data.columns import clock, columns, dates
from kernelfield.data.predictions import Layout
from kernelfield.data.tables import Problem, listed
from kernelfield.tabular import Provenance, TableModel, Tabular, Tick, silent
from kernelfield.uq.arrays import law_from
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.joint import SIZES, evaluate_blocks
from kernelfield.uq.remedies import class_remedies, remedies
from kernelfield.uq.report import Report
from kernelfield.uq.rows import Rows
from kernelfield.uq.scores import Evaluation, evaluate


@dataclass(frozen=True, eq=False)
class Question:
    """What to ask beyond scores.

    groups   columns whose values must be looked at one by one
    time     the column that orders the rows
    outside  a table of rows from elsewhere, called `origin`
    """

    groups: Sequence[str] = ()
    time: str | None = None
    outside: pd.DataFrame | None = None
    origin: str = ""

    def rows(self, frame: pd.DataFrame, outside: np.ndarray | None = None) -> Rows:
        """The columns of a table, as far as a report asks of them.

        Errors: ValueError for an unknown column or rows without a time.
        """
        for name in (*self.groups, *([] if self.time is None else [self.time])):
            if name not in frame:
                raise ValueError(f"the rows have no column {name!r}; they have {listed(map(str, frame.columns))}")
        known = columns(frame)
        if self.time is not None:
            known[self.time] = clock(frame[self.time])
        return Rows(known, groups=self.groups, time=self.time, outside=outside, origin=self.origin, dates=dates(frame))


NOTHING = Question()
TOGETHER = 400  # rows whose joint law is scored


def examine(
    model: Tabular,
    held: Problem,
    question: Question = NOTHING,
    *,
    rivals: Mapping[str, Tabular] | None = None,
    notes: Sequence[str] = (),
    tick: Tick = silent,
    **made: str,
) -> Report | ClassReport:
    """The report on a model, from rows with known targets.

    rivals  other models of the same targets, by name, to be compared on the same rows

    Errors: ValueError if the columns are not those of the fit, or a rival predicts something else.
    """
    rows = question.rows(held.features)  # a wrong name ends here, before the work
    _require_other_names(model.title, rivals)
    for name, rival in (rivals or {}).items():
        if type(rival) is not type(model) or set(rival.targets) != set(model.targets):
            what = f"{name} predicts {listed(rival.targets)} and {model.name} {listed(model.targets)}"
            raise ValueError(f"{what}; compare models of the same kind and target")
    result = model.report(held, notes, tick, **made)
    others: dict[str, Any] = {name: rival.report(held).evaluation for name, rival in (rivals or {}).items()}
    if question.outside is not None:
        rows = replace(rows, outside=model.doubt(question.outside))
    if isinstance(result, ClassReport):
        tried = class_remedies(result.evaluation)
        return replace(result, rows=rows, others=others, remedies=tried)
    assert isinstance(model, TableModel)
    # A network that is trained to tell f and y apart may say less of y than of f.
    latent = np.minimum(model.latent(held.features), result.evaluation.std)
    evaluation = replace(result.evaluation, latent=latent)
    mended = remedies(lambda index: model.law(held.features.iloc[index]), evaluation.y)
    few = min(TOGETHER, len(evaluation.y))
    few -= few % SIZES[0] if few >= 2 * SIZES[0] else 0  # whole blocks, that they may be compared
    joint = evaluate_blocks(model.law(held.features.iloc[:few]), torch.as_tensor(evaluation.y[:few]))
    return replace(result, evaluation=evaluation, rows=rows, others=others, joint=joint, remedies=mended)


def examine_predictions(
    layout: Layout,
    frame: pd.DataFrame,
    question: Question = NOTHING,
    *,
    name: str = "predictions",
    rivals: Mapping[str, pd.DataFrame] | None = None,
    notes: Sequence[str] = (),
    provenance: Provenance | None = None,
) -> Report | ClassReport:
    """The report on what another program predicted, in a table of one row a prediction.

    rivals  tables of the same layout and rows, by name

    Errors: ValueError for columns that are missing or hold no law, and rivals of other values.
    """
    _require_other_names(name, rivals)
    said = set(layout.columns(frame))
    asked = said & {*question.groups, question.time}
    if asked:
        raise ValueError(
            f"column {listed(asked)} is one of the predictions, which cannot be a group or the time of rows"
        )
    rows = question.rows(frame[[column for column in frame if column not in said]])
    named: dict[str, Any] = {"model": name, "provenance": provenance or {}, "notes": notes}
    if layout.proba is not None:
        return _of_classes(layout, frame, rivals or {}, question, rows, named)
    arrays, y = layout.arrays(frame), layout.values(frame)
    law = law_from(**arrays)
    outside = None if question.outside is None else _deviations(layout, question.outside)
    return Report.of(
        law,
        y,
        outputs=[layout.y],
        rows=replace(rows, outside=outside),
        others={key: _evaluated(layout, key, table, y) for key, table in (rivals or {}).items()},
        remedies=remedies(lambda index: law_from(**some(arrays, index)), y[:, None]),
        **named,
    )


def some(arrays: Mapping[str, Any], index: np.ndarray) -> dict[str, Any]:
    """Some of the rows of the arrays that a layout gave."""

    def take(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {level: column[index] for level, column in value.items()}
        values = np.asarray(value)
        return values[:, index] if name == "samples" else values[index]

    return {name: take(name, value) for name, value in arrays.items()}


def _evaluated(layout: Layout, name: str, frame: pd.DataFrame, y: np.ndarray) -> Evaluation:
    came = layout.values(frame)
    if came.shape != y.shape or not np.array_equal(came, y):
        raise ValueError(
            f"{name} holds other values of {layout.y!r}; compare predictions of the same rows in one order"
        )
    return evaluate(law_from(**layout.arrays(frame)), came)


def _deviations(layout: Layout, frame: pd.DataFrame) -> np.ndarray:
    """Predicted deviations (k, 1) at rows whose values need not be known."""
    known = frame.assign(**{layout.y: 0.0})
    return law_from(**layout.arrays(known)).variance.sqrt().numpy()


def _of_classes(
    layout: Layout,
    frame: pd.DataFrame,
    rivals: Mapping[str, pd.DataFrame],
    question: Question,
    rows: Rows,
    named: dict[str, Any],
) -> ClassReport:
    labels, proba, came = layout.classes(frame)
    evaluations = {}
    for name, table in rivals.items():
        theirs, said, values = layout.classes(table)
        if theirs != labels or not np.array_equal(values, came):
            raise ValueError(
                f"{name} holds other classes or values of {layout.y!r} than {named['model']}; give the same rows"
            )
        evaluations[name] = ClassEvaluation.of(said, values)
    outside = None
    if question.outside is not None:
        outside = layout.classes(question.outside.assign(**{layout.y: labels[0]}))[1]
    report = ClassReport.from_arrays(
        came,
        proba,
        target=layout.y,
        classes=labels,
        rows=replace(rows, outside=outside),
        others=evaluations,
        **named,
    )
    return replace(report, remedies=class_remedies(report.evaluation))


def _require_other_names(name: str, rivals: Mapping[str, object] | None) -> None:
    if name in (rivals or {}):
        raise ValueError(f"a model cannot be compared with one of its own name, {name!r}; rename one of them")
