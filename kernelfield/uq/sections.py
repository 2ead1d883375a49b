"""Sections of a page: each a question about one output, what was found, and how to read it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernelfield.uq import plots, report_plots
from kernelfield.uq.calibration import Calibration
from kernelfield.uq.diagnosis.cases import Split
from kernelfield.uq.diagnosis.counts import stated
from kernelfield.uq.diagnosis.drift import Drift
from kernelfield.uq.diagnosis.findings import ClassFindings, Findings
from kernelfield.uq.diagnosis.groups import Column, rarity
from kernelfield.uq.diagnosis.outside import Outside
from kernelfield.uq.markup import figure
from kernelfield.uq.order import Order
from kernelfield.uq.promises import percent
from kernelfield.uq.rows import Rows
from kernelfield.uq.scores import Evaluation
from kernelfield.uq.words import number

MOST_GROUPS = 16  # of a figure
FORESTS = 6  # columns with a figure of their own
DOUBTFUL = 0.01  # p-value of a column that is marked
CUT = 24  # letters of a text from the user's table
PERCENT = "{:.1%}"


@dataclass(frozen=True)
class Table:
    """Cells as text, row by row as `line` makes them."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Listing:
    """A table that can be sorted and filtered."""

    id: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """See the module docstring."""

    name: str
    words: Sequence[str] = ()
    figures: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[Table] = ()
    listing: Listing | None = None


def line(*cells: object, flag: bool = False, chosen: bool = False) -> dict[str, Any]:
    """A row of a table: flagged where something is wrong, or chosen."""
    return {"cells": [number(cell) for cell in cells], "mark": "flag" if flag else "chosen" if chosen else ""}


def calibrated(found: Calibration, prefix: str) -> Section:
    """Coverage curve, PIT and tails, or what laws given by quantiles promise of them."""
    curve, figures = found.curve(), []
    if len(curve.levels):
        figures.append(
            figure(
                f"{prefix}calibration",
                "Do intervals hold what they promise?",
                plots.calibration(curve, prefix=f"{prefix}calibration-"),
                "The line should stay on the diagonal, give or take the shaded 95% band of chance: below it intervals "
                "are too narrow, above it too wide.",
            )
        )
    if found.shaped:
        figures.append(
            figure(
                f"{prefix}pit",
                "Where do values fall in their predicted laws?",
                plots.uniformity(found.histogram(), prefix=f"{prefix}pit-"),
                "Bars should be level, give or take the shaded 95% band: a U means laws too narrow, a hump too wide, a "
                "slope a bias; one bar in twenty leaves the band by chance.",
            )
        )
    tails = found.tails()
    rows = [
        line(percent(level), number(float(share), PERCENT), f"{low:.1%} to {high:.1%}", flag=not low <= share <= high)
        for level, share, low, high in zip(tails.levels, tails.share, tails.low, tails.high, strict=True)
    ]
    words = "Nothing was promised between the quantiles that were given, and predictions are judged at these alone."
    if found.shaped:
        words = (
            "The mean distance of the line from the diagonal (miscalibration area) is "
            f"{number(found.area)}; chance alone gives about {number(found.area_by_chance)}. Are PIT values as uneven "
            f"as these by chance? {stated(found.kolmogorov.p_value)} (Kolmogorov-Smirnov)."
        )
    what = "Tails" if found.levels is None else "Quantiles that were given"
    caption = f"{what}: shares of values below predicted quantiles, and the 95% band of chance."
    return Section("Calibration", [words], figures, [Table(caption, ("Quantile", "Values below", "By chance"), rows)])


def placed(found: Findings | ClassFindings, prefix: str, *, share: str = "coverage") -> Iterator[Section]:
    """By column and group, and the worst group that a search found; `share` is "coverage", of classes "accuracy"."""
    if not found.columns:
        return
    words = [] if found.worst is None else [found.worst.sentence]
    columns: Sequence[Column[Any]] = found.columns
    held = percent(columns[0].groups[0].promised)
    what = f"{held} of values" if share == "coverage" else "as many right ones as the tick, the mean confidence, says"
    figures = [
        figure(
            f"{prefix}group{index}",
            column.name,
            report_plots.groups(ranked(column.groups), name=share, prefix=f"{prefix}group{index}-"),
            f"Each group should have {what}, give or take the bar, the 95% band of chance; orange are those outside of "
            f"it. For all groups together {stated(column.adjusted)}, adjusted for the columns that were looked at.",
        )
        for index, column in enumerate(columns[:FORESTS])
    ]
    rows = []
    for column in columns:
        worst = column.worst
        cells = (column.name, len(column.groups), worst.label, number(worst.share, PERCENT), worst.count)
        rows.append(line(*cells, stated(column.adjusted), flag=column.adjusted < DOUBTFUL))
    heads = ("Column", "Groups", "Furthest from its promise", share.capitalize(), "Rows", "By chance")
    caption = "Every column that was looked at, and of each the group that chance explains least."
    yield Section("Where it is right, and where not", words, figures, [Table(caption, heads, rows)])


def ranked(groups: Sequence[Any]) -> list[Any]:
    """Groups in their order; of too many, those that chance explains least."""
    if len(groups) <= MOST_GROUPS:
        return list(groups)
    kept = sorted(range(len(groups)), key=lambda index: rarity(groups[index]))[:MOST_GROUPS]
    return [groups[index] for index in sorted(kept)]


def resolved(found: Order | None, evaluation: Evaluation, prefix: str, most: int) -> Section:
    """Predictions, errors against deviations, and what leaving out the doubtful saves."""
    few = f" ({most:,} of {len(evaluation.y):,} points, drawn at random)" if len(evaluation.y) > most else ""
    figures = [
        figure(
            f"{prefix}predictions",
            "Are predictions near what was observed?",
            plots.predictions(evaluation, prefix=f"{prefix}predictions-", most=most),
            "Dots should lie near the diagonal; the 90% intervals that do not cross it have missed and are drawn in "
            f"orange{few}.",
        )
    ]
    # A Student-t law of two degrees of freedom or fewer has intervals but no standard deviation.
    if np.isfinite(evaluation.std).all():
        figures.append(
            figure(
                f"{prefix}resolution",
                "Does the model know when it is unsure?",
                plots.resolution(evaluation, prefix=f"{prefix}resolution-", most=most),
                "Errors should grow with their predicted standard deviation: the diamonds, root mean square errors of "
                f"groups of equal size, should follow the dashed diagonal{few}.",
            )
        )
    words = []
    if found is not None:
        figures.append(
            figure(
                f"{prefix}order",
                "What does leaving out the doubtful save?",
                report_plots.order(found.sparsified, prefix=f"{prefix}order-"),
                "The root mean square error of the rows that are left, as a share of that of all. The grey line is the "
                "best that could be had, the dashed one what leaving out rows at random gives.",
            )
        )
        link = found.correlation
        words.append(
            f"The rank correlation of errors with predicted deviations is {number(link.value)} (95% interval "
            f"{number(link.low)} to {number(link.high)})."
        )
        if found.spread is not None:
            words.append(
                "Among rows of alike deviations the typical error differs from what was predicted by "
                f"{number(found.spread.ence, PERCENT)} on average (ENCE); chance alone gives about "
                f"{number(found.spread.ence_by_chance, PERCENT)}."
            )
    return Section("Sharpness and resolution", words, figures)


def composed(found: Split) -> Section:
    """What the predicted variance is made of."""
    rows = [
        line(*(one.label, one.count, *(number(s, PERCENT) for s in (one.epistemic, one.aleatoric)), one.std, one.rmse))
        for one in found.groups
    ]
    words = (
        f"{number(found.epistemic, PERCENT)} of the predicted variance is doubt about the function, which more rows "
        f"would lower (epistemic), {number(found.aleatoric, PERCENT)} is noise, which they would not (aleatoric)."
    )
    heads = ("Predicted deviation", "Rows", "Epistemic", "Aleatoric", "Mean deviation", "RMSE")
    caption = "By tenths of the predicted deviation: shares of the predicted variance."
    return Section("What the uncertainty is made of", [words], (), [Table(caption, heads, rows)])


def elsewhere(known: Outside, inside: np.ndarray, outside: np.ndarray, what: str, prefix: str) -> Section:
    """Whether the model is unsure of rows that come from elsewhere."""
    words = (
        f"Of a row from elsewhere and a test row, the former is the less certain one with probability "
        f"{number(known.auroc, PERCENT)} (95% interval {number(known.low, PERCENT)} to {number(known.high, PERCENT)}); "
        f"50% would be chance. {number(known.beyond, PERCENT)} of the rows from elsewhere are less certain than 95% of "
        f"the test rows; the median of their {what} is {number(known.ratio)} times that of the test rows."
    )
    drawn = figure(
        f"{prefix}doubt",
        "Is it unsure where it should be?",
        report_plots.doubt(inside, outside, name=what, prefix=f"{prefix}doubt-"),
        f"Blue are the {known.count:,} test rows, orange the {known.outside:,} rows from elsewhere, which should lie "
        "to the right.",
    )
    return Section("Rows from elsewhere", [words], [drawn])


def moving(found: Drift, prefix: str, *, share: str = "coverage") -> Section:
    """Whether something changed with time."""
    odds = f"1 in {round(1 / found.level):,}"
    if found.alarm is None:
        words = f"No change was found in {found.count:,} rows. Such a test raises a false alarm in {odds} cases."
    else:
        words = f"Something changed: the alarm came at row {found.alarm + 1:,}, at the time {number(found.alarm_time)}."
    figures = [
        figure(
            f"{prefix}drift",
            "Did something change?",
            report_plots.wealth(found, prefix=f"{prefix}drift-"),
            "The capital, in powers of ten, of someone who bets that rows are not alike. If they are, it reaches the "
            f"dashed line with a probability of at most {odds}, however long one looks.",
        ),
        figure(
            f"{prefix}rolling",
            f"Does the {share} stay?",
            report_plots.rolling(found, share=share, prefix=f"{prefix}rolling-"),
            f"The {share} in windows of {found.windows[0].count:,} rows, and the 95% band of chance around what was "
            "promised; one window in twenty leaves it.",
        ),
    ]
    return Section("Over time", [words], figures)


def cases(found: Findings, rows: Rows, shown: Sequence[str], prefix: str) -> Section:
    """The rows of a regression that surprised the model most."""
    lines = []
    for case in found.cases:
        ends = {"text": f"{number(case.low)} to {number(case.high)}", "value": case.low, "whole": ""}
        own = [cell(case.row + 1), cell(case.y), cell(case.mean), ends, cell(case.z)]
        lines.append({"cells": [*own, *(entry(rows.entry(name, case.row)) for name in shown)], "front": False})
    heads = ("Row", "Observed", "Predicted", "90% interval", "Deviations off", *shown)
    return listed(heads, lines, prefix)


def class_cases(found: ClassFindings, names: Sequence[str], rows: Rows, shown: Sequence[str], prefix: str) -> Section:
    """The rows whose class the model held least probable."""
    lines = []
    for case in found.cases:
        said = [entry(names[case.label]), cell(case.probability), entry(names[case.expected]), cell(case.confidence)]
        more = (entry(rows.entry(name, case.row)) for name in shown)
        lines.append({"cells": [cell(case.row + 1), *said, *more], "front": False})
    return listed(("Row", "Came", "Its probability", "Expected", "Confidence", *shown), lines, prefix)


def listed(heads: Sequence[str], lines: Sequence[Mapping[str, Any]], prefix: str) -> Section:
    """Worst cases as a table to sort and filter."""
    caption = f"The {len(lines)} rows that surprised the model most, the worst first."
    return Section("Worst cases", listing=Listing(f"{prefix}cases", caption, heads, lines))


def cell(value: float | int) -> dict[str, Any]:
    """A number, as it is written and as it is sorted by."""
    return {"text": number(value), "value": "" if value != value else value, "whole": ""}


def entry(value: object) -> dict[str, Any]:
    """An entry of the user's own table; a long text is cut, and whole for who points at it."""
    if isinstance(value, float | np.floating):
        return cell(int(value) if float(value).is_integer() else float(value))
    text = "" if value is None else str(value)
    return {"text": text if len(text) <= CUT else f"{text[: CUT - 1]}…", "value": text, "whole": text[CUT:] and text}
