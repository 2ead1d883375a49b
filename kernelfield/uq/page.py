"""Page: a report on a regression as HTML. Words and sections here and in `sections`, layout in `report.html.j2`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kernelfield.uq import report_plots, sections
from kernelfield.uq.bootstrap import Interval
from kernelfield.uq.calibration import Calibration
from kernelfield.uq.diagnosis.counts import stated
from kernelfield.uq.gaps import AgainstChance
from kernelfield.uq.lights import Verdict
from kernelfield.uq.markup import figure, written
from kernelfield.uq.paired import Paired
from kernelfield.uq.remedies import Remedy, prescribed
from kernelfield.uq.report import Part, Report
from kernelfield.uq.scores import Evaluation
from kernelfield.uq.sections import Section, Table, line
from kernelfield.uq.words import REGRESSION, WHOLE, number

POINTS = 2000  # drawn in a figure; shared among outputs, so that a page stays below 1.5 MB
LEAST_POINTS = 200
STAY = "What is predicted may stay as it is: no recalibration improves it beyond what chance explains."
COLUMNS = 6  # of the user's, beside the worst cases
EXPLAINED = (
    "Means over the test set{}, with 95% intervals. The baseline always predicts {}; the gain is the share of its "
    "score that the model saves. Lower is better unless said otherwise."
)


def render(report: Report) -> str:
    """The page of a report."""
    most = max(POINTS // len(report.outputs), LEAST_POINTS)
    several = len(report.outputs) > 1
    parts = [
        {
            "name": part.report.outputs[0] if several else "",
            "verdicts": part.verdicts,
            "scores": score_rows(REGRESSION, part.report, part.whole),
            "sections": list(_sections(part, f"o{index}", most)),
        }
        for index, part in enumerate(report.parts)
    ]
    over = ", then over outputs" if several else ""
    title = ", ".join(report.outputs) if len(report.outputs) < 4 else f"{len(report.outputs)} outputs"
    return fill(
        report,
        title,
        parts,
        REGRESSION,
        EXPLAINED.format(over, report.rule),
        [*compared(report.pairs), *together(report), *mended(report)],
        {} if several else report.parts[0].whole,
    )


def fill(
    report: Any,
    title: str,
    parts: Sequence[Mapping[str, Any]],
    known: Sequence[Sequence[str]],
    words: str,
    first: Sequence[Section],
    whole: Mapping[str, AgainstChance],
) -> str:
    """The template's page: overall scores with words that explain them, what concerns all outputs, and parts."""
    return written(
        "report.html.j2",
        {"model": report.model, "verdicts": report.verdicts, "advice": report.advice, "notes": report.notes},
        title=title,
        facts=facts(report),
        summary=in_short(report.verdicts),
        overall=score_rows(known, report, whole),
        explained=words,
        parts_of=[{"name": "", "sections": first}, *parts],
        provenance=report.provenance,
        choices=list(choices(report.hyperparameters, report.features)),
    )


def in_short(verdicts: Sequence[Verdict]) -> str:
    """What the lights come to, in a sentence."""
    asked = [one for one in verdicts if one.grade != "open"]
    bad = sum(one.grade == "bad" for one in asked)
    rest = f" {len(verdicts) - len(asked)} could not be judged." if len(asked) < len(verdicts) else ""
    if not asked:
        return "Nothing could be judged: see what is missing below."
    if not bad:
        good = f"{len(asked)} of {len(asked)} questions have a good answer"
        return f"Nothing speaks against these predictions: {good}.{rest}"
    has = "has" if bad == 1 else "have"
    return f"Do not rely on these predictions as they are: {bad} of {len(asked)} questions {has} a bad answer.{rest}"


def facts(report: Any) -> str:
    """On how many rows the report rests, and how long things took."""
    rows = f"{report.n_test:,} row{'' if report.n_test == 1 else 's'}"
    learned = f"Fitted to {report.n_train:,} rows, tested on {rows}" if report.n_train else f"Tested on {rows}"
    return "".join(
        [learned, *(f", {phase} in {number(time, '{:.3g}')} s" for phase, time in report.seconds.items()), "."]
    )


def score_rows(known: Sequence[Sequence[str]], report: Any, whole: Mapping[str, AgainstChance]) -> list[dict[str, str]]:
    """Rows of a table of scores: the model's with its interval, the baseline's and what was gained.

    Scores that are no means over rows come last, and stand beside what chance gives.
    """
    own, other = report.scores(), report.baseline.scores()
    rows = []
    for name, label, meaning, form in known:
        gain, gain_interval = "", ""
        if name in report.skill:
            gain = number(report.skill[name].value, "{:+.1%}")
            gain_interval = ends(report.skill[name], "{:+.1%}")
        elif name == "nll" and np.isfinite(other[name]):
            gain = f"{number(other[name] - own[name], '{:+.3f}')} nats"
        rows.append(
            {
                "label": label,
                "meaning": meaning,
                "model": number(own[name], form),
                "interval": beside(whole[name], form) if name in whole else within(report.intervals.get(name), form),
                "baseline": number(other[name], form),
                "gain": gain,
                "gain_interval": gain_interval,
            }
        )
    for name, label, meaning, form in WHOLE:
        if name in whole:
            empty = dict.fromkeys(("baseline", "gain", "gain_interval"), "")
            cells = {"model": number(whole[name].value, form), "interval": beside(whole[name], form)}
            rows.append({"label": label, "meaning": meaning} | cells | empty)
    return rows


def beside(found: AgainstChance, form: str = "") -> str:
    """The interval of a score and what chance gives."""
    return "; ".join(part for part in (ends(found.interval, form), f"{number(found.chance, form)} by chance") if part)


def within(interval: Interval | None, form: str = "") -> str:
    """The interval of a score that may have none."""
    return "" if interval is None else ends(interval, form)


def ends(interval: Interval, form: str = "") -> str:
    """An interval as a reader wants it; nothing where it is not known."""
    if not np.isfinite([interval.low, interval.high]).all():
        return ""
    return f"{number(interval.low, form)} to {number(interval.high, form)}"


def choices(chosen: Mapping[str, Any], features: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Hyperparameters by name, each with its entries, named by the features if there is one each."""
    for name, value in chosen.items():
        if not isinstance(value, list):
            yield name, [("", number(value))]
        elif len(value) == len(features):
            yield name, [(feature, number(entry)) for feature, entry in zip(features, value, strict=True)]
        else:
            yield name, [(str(index), number(entry)) for index, entry in enumerate(value, start=1)]


def _sections(part: Part, prefix: str, most: int) -> Iterator[Section]:
    """Of one output, whose ids begin with the prefix."""
    found, rows, evaluation = part.findings, part.report.rows, part.report.evaluation
    if part.calibration is not None:
        yield sections.calibrated(part.calibration, prefix)
    yield from sections.placed(found, prefix)
    resolved = sections.resolved(part.order, evaluation, prefix, most)
    beside_one = [] if part.constant is None else [part.constant.sentence]
    yield replace(resolved, words=[*resolved.words, *beside_one])
    if found.split is not None:
        yield sections.composed(found.split)
    if found.outside is not None:
        outside = np.asarray(rows.outside, dtype=float)[:, 0]
        yield sections.elsewhere(found.outside, evaluation.std[:, 0], outside, "predicted deviation", prefix)
    if found.drift is not None:
        yield sections.moving(found.drift, prefix)
    yield sections.cases(found, rows, shown_columns(rows), prefix)


def shown_columns(rows: Any) -> list[str]:
    """The columns beside the worst cases: those that were asked for, then as the table has them."""
    asked = [*rows.groups, *([] if rows.time is None else [rows.time])]
    return list(dict.fromkeys([*asked, *rows.columns]))[:COLUMNS]


def compared(pairs: Sequence[Paired]) -> Iterator[Section]:
    """Other models of the same rows."""
    if not pairs:
        return
    rows = [
        line(
            pair.model,
            number(pair.difference.value, "{:+.4g}"),
            ends(pair.difference, "{:+.4g}"),
            stated(pair.adjusted),
            chosen=pair.clear and pair.difference.value < 0,
        )
        for pair in pairs
    ]
    caption = f"Mean difference in {pairs[0].loss} to {pairs[0].other}; below zero the other model is better."
    heads = ("Model", "Difference", "95% interval", "By chance")
    yield Section("Other models", [pair.sentence for pair in pairs], (), [Table(caption, heads, rows)])


def together(report: Report) -> Iterator[Section]:
    """What predicted correlations are worth."""
    if report.joint is not None and np.isfinite(report.joint.nll).all():
        yield Section("Predictions taken together", [report.joint.sentence])


def mended(report: Report) -> Iterator[Section]:
    """What recalibration would change."""
    if not report.remedies:
        return
    tried, name = report.remedies, report.advised
    rows = []
    for one in tried:
        scores = one.evaluation.scores()
        cells = (
            one.name,
            scores["crps"],
            scores["nll"],
            number(scores["coverage90"], "{:.1%}"),
            scores["sharpness90"],
            learned(one),
        )
        rows.append(line(*cells, chosen=one.name == name))
    words = prescribed(name, fitted=report.n_train is not None) or [STAY]
    heads = ("Recalibration", "CRPS", "NLL", "90% coverage", "Interval width", "Learned")
    caption = f"Learned from one half of the rows, measured on {len(tried[0].evaluation.y):,} others."
    figures = [
        figure(
            f"mended{index}",
            f"Before and after: {output}" if len(report.outputs) > 1 else "Before and after",
            report_plots.before_after(_curves(tried, index), prefix=f"mended{index}-"),
            "Calibration on rows that the recalibration has not seen: orange as it is, blue after it.",
        )
        for index, output in enumerate(report.outputs)
    ]
    yield Section("Recalibration", words, figures, [Table(caption, heads, rows)])


def _curves(tried: Sequence[Remedy[Evaluation]], index: int) -> dict[str, Any]:
    return {one.name: Calibration.of(one.evaluation.output(index)).curve() for one in tried}


def learned(one: Remedy[Any]) -> str:
    """The numbers of a remedy, in words."""
    return "; ".join(f"{key} {_written(value)}" for key, value in one.learned.items())


def _written(value: object) -> str:
    return ", ".join(number(one) for one in value) if isinstance(value, list) else number(value)
