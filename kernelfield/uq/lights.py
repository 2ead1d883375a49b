"""Lights: what a verdict is, and those that regression and classes share: skill, groups, the outside, and drift."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

from kernelfield.uq.calibration import CONFIDENCE
from kernelfield.uq.diagnosis.counts import TOLD, stated
from kernelfield.uq.diagnosis.drift import LEAST, Drift
from kernelfield.uq.diagnosis.groups import ClassGroup, Column, Group, rarity
from kernelfield.uq.diagnosis.outside import Outside
from kernelfield.uq.diagnosis.worst_group import ENOUGH, WorstGroup

LIGHTS = {  # by name, what a good one says of an output
    "calibration": "Intervals keep their promise",
    "sharpness": "Better than the baseline",
    "conditional": "Intervals hold in every group",
    "tails": "Large misses are as rare as promised",
    "outside": "Doubts what it does not know",
    "drift": "Stable over time",
}
FAMILY = 0.02  # probability that any light is red for a model that is right
LIGHT = FAMILY / len(LIGHTS)
FEWEST = 20  # values below which the band is wider than any model's likely fault
MARGIN = 0.01  # of coverage, below which a gap is no concern of a decision
MORE = 1.5  # times as many large misses as promised
GAIN = 0.01  # share of the baseline's loss that is worth the name
GROUP = 0.02  # of coverage in a group or a part of time, below which a gap is no concern
APART = 0.6  # AUROC from which a model is said to tell outside from inside; 0.5 is a coin
SOME = 20  # rows from outside, below which nothing is said
ROUNDING = 1e-9  # of a p-value that was kept as a logarithm
DRIFT_ROWS = 200  # with fewer, capital seldom grows enough to raise an alarm


@dataclass(frozen=True)
class Verdict:
    """An answer: `grade` is "good", "bad" or "open", `title` a few words, `sentence` the figures.

    name       of the light, one of LIGHTS
    value      the number judged, with its 95% interval from `low` to `high`
    count      rows that it rests on
    threshold  what the value is held against
    remedy     what to do, if anything; of several outputs a line for each
    """

    grade: str
    title: str
    sentence: str
    name: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    threshold: float | None = None
    remedy: str = ""


def shared(answers: Sequence[Verdict], outputs: Sequence[str]) -> Verdict:
    """One answer for several outputs: how many have a good one, and what is the matter with the others."""
    grades, titles = {answer.grade for answer in answers}, {answer.title for answer in answers}
    if grades == {"open"} and len(titles) == 1:
        return replace(answers[0], value=None, low=None, high=None)
    named = list(zip(outputs, answers, strict=True))
    bad, unsettled = (
        [f"{name} ({_lower(answer.title)})" for name, answer in named if answer.grade == grade]
        for grade in ("bad", "open")
    )
    worst = next(grade for grade in ("bad", "open", "good") if grade in grades)
    judged = len(answers) - len(unsettled)
    title = f"{LIGHTS[answers[0].name]} for {judged - len(bad)} of {judged} outputs{' judged' if unsettled else ''}"
    if not judged:
        title = f"Open for all {len(answers)} outputs"
    said = [f"Except for {', '.join(bad)}."] if bad else ["This holds for each of them."] if judged else []
    said += [f"Open for {', '.join(unsettled)}."] if unsettled else []
    remedy = "\n".join(f"{name}: {_lower(answer.remedy)}" for name, answer in named if answer.remedy)
    return Verdict(worst, title, " ".join(said), answers[0].name, count=answers[0].count, remedy=remedy)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def advice(answers: Sequence[Verdict]) -> list[str]:
    """What to do about red lights, in their order; nothing where nothing need be done.

    Groups of a model that is off on the whole are to be judged again once it is recalibrated.

    >>> advice([Verdict("bad", "Errors change over time", "They do.", "drift", remedy="Fit again.")])
    ['Fit again.']
    """
    red = {answer.name: answer.remedy.splitlines() for answer in answers if answer.grade == "bad" and answer.remedy}
    if {"calibration", "conditional"} <= red.keys():
        red["conditional"][-1] += " Judge groups again after recalibration."
    return [line for lines in red.values() for line in lines]


def compared(model: np.ndarray, baseline: np.ndarray, loss: str, rule: str, *, level: float = LIGHT) -> Verdict:
    """Whether a model's losses, row by row, are less than those of a rule, beyond what chance explains.

    `level` is the probability that either of two equals is called better, by Student's t of the mean
    difference. The value is the skill, 1 - loss / baseline's, with a 95% interval by the delta method.
    """
    gain = baseline - model
    n, total = len(gain), float(np.mean(baseline))
    if n < 2 or not np.isfinite(gain).all() or total == 0 or np.ptp(gain) == 0:
        words = "The test set does not tell the two apart."
        return Verdict("open", "No comparison with the baseline", words, "sharpness", count=n)
    share = float(np.mean(gain)) / total
    ratio = float(np.mean(gain) / (np.std(gain, ddof=1) / np.sqrt(n)))
    reach = float(special.ndtri((1 + CONFIDENCE) / 2) * np.std(gain - share * baseline, ddof=1) / np.sqrt(n) / total)
    which = "lower" if share >= 0 else "higher"
    found = f"The mean {loss} is {abs(share):.1%} {which} than that of {rule}"
    figures = ("sharpness", share, share - reach, share + reach, n, 0.0)
    if n < FEWEST:
        words = f"{found}, but of {n:,} rows; at least {FEWEST} are needed to judge."
        return Verdict("open", "Too few rows for a comparison with the baseline", words, *figures)
    if abs(ratio) < stats.t.isf(level / 2, n - 1):
        words = f"{found}, a difference that chance may explain."
        return Verdict("open", "No clear gain on the baseline", words, *figures)
    words = f"{found}: a difference of {abs(ratio):.1f} standard errors."
    if abs(share) < GAIN:
        return Verdict("open", "Hardly any gain on the baseline", f"{words} It is too small to matter.", *figures)
    if ratio > 0:
        return Verdict("good", "Better than the baseline", words, *figures)
    return Verdict("bad", "Worse than the baseline", words, *figures)


def conditional(
    columns: Sequence[Column[Group]] | Sequence[Column[ClassGroup]],
    worst: WorstGroup | None,
    n: int,
    *,
    subject: str,
    title: str = LIGHTS["conditional"],
    level: float = LIGHT,
    given: int = 0,
) -> Verdict:
    """Whether intervals or probabilities hold in every group; half the level is for columns, half for the search.

    `title` is that of a good answer, `given` the number of columns that there are, if only of one group each.
    """
    failed = [
        (column, group)
        for column in columns
        if column.adjusted < level / 2 and _gap(group := column.worst) > GROUP and group.p_value < level / 2
    ]
    found = worst is not None and worst.p_value < level / 2 and worst.promised - worst.coverage > GROUP
    if failed:
        column, group = min(failed, key=_order)
        where = f"{column.name} is {group.label}"
        said = _where(subject, group.share, group.count, where, group.promised)
        also = f" {len(failed)} of {len(columns)} columns have groups that fail." if len(failed) > 1 else ""
        low, high = _ends(group.share, group.count)
        figures = (group.share, low, high, group.count, group.promised)
        words = f"{said} ({stated(column.adjusted)} for all groups of the column).{also}"
        if found and worst is not None:
            those = f"of {worst.count:,} rows with {worst.words} that the search had not seen"
            words += f" The worst group: {worst.coverage:.1%} {those}."
        return _failing(where, words, figures)
    if found and worst is not None:
        figures = (worst.coverage, worst.low, worst.high, worst.count, worst.promised)
        return _failing(worst.words, worst.sentence, figures)
    if not columns and worst is None:
        words = "No columns were given by which rows could be grouped (--group)."
        if given:
            each = "The only column given" if given == 1 else f"None of {given:,} columns given"
            words = (
                f"{each} {'cannot' if given == 1 else 'can'} be cut into groups: that takes rows enough of two values."
            )
        return Verdict("open", "No groups to judge", words, "conditional", count=n)
    words = f"In none of {len(columns)} ways to group the rows does a group fail beyond what chance explains."
    if worst is not None:
        words += " Nor does the worst group that a search found fail on the rows it had not seen."
    if n < ENOUGH:
        words += f" There are {n:,} rows; at least {ENOUGH} are needed to say more."
        return Verdict("open", "Too few rows to judge groups", words, "conditional", count=n)
    lowest = min((column.worst for column in columns), key=rarity, default=None)
    if lowest is None:
        return Verdict("good", title, words, "conditional", count=n)
    low, high = _ends(lowest.share, lowest.count)
    figures = (lowest.share, low, high, lowest.count, lowest.promised)
    return Verdict("good", title, words, "conditional", *figures)


def _order(failed: tuple[Column[Group] | Column[ClassGroup], Group | ClassGroup]) -> tuple[float, float, float]:
    """The least likely first."""
    column, group = failed
    return max(column.adjusted, TOLD), *rarity(group)


def _gap(group: Group | ClassGroup) -> float:
    return abs(group.share - group.promised)


def _where(subject: str, share: float, count: int, where: str, promised: float) -> str:
    return f"{subject} {share:.1%} of the {count:,} rows where {where}, against {promised:.1%} promised"


def _failing(where: str, words: str, figures: tuple[float, float, float, int, float]) -> Verdict:
    share, *_, promised = figures
    said = f"{share:.0%} instead of {promised:.0%}"
    if share < promised:
        remedy = f"Do not trust the predictions where {where} ({said}): collect data there, or calibrate by group."
    else:
        remedy = f"Predictions are better than they say where {where} ({said}): calibrate by group."
    return Verdict("bad", "Some groups fail", words, "conditional", *figures, remedy)


def unfamiliar(found: Outside | None) -> Verdict:
    """Whether the model is less certain about rows that it was not made for."""
    if found is None:
        words = "No rows from outside were given (--ood), so that nothing is known of what the model says about them."
        return Verdict("open", "Not asked about the unfamiliar", words, "outside")
    figures = ("outside", found.auroc, found.low, found.high, found.outside, APART)
    words = (
        f"A row from outside is less certain than one of the test set with probability {found.auroc:.2f} "
        f"({found.low:.2f} to {found.high:.2f}; 0.5 is a coin), by a factor of {found.ratio:.2f} in the median; "
        f"{found.beyond:.0%} of {found.outside:,} rows outside are less certain than 95% of the test set."
    )
    if min(found.outside, found.count) < SOME:
        needed = f" At least {SOME} rows of either are needed to judge."
        return Verdict("open", "Too few rows to judge the unfamiliar", words + needed, *figures)
    if found.low >= APART:
        return Verdict("good", LIGHTS["outside"], words, *figures)
    if found.high < APART:
        remedy = "Check inputs before you ask: the model does not notice those that it was not made for."
        return Verdict("bad", "As sure of the unfamiliar as of the familiar", words, *figures, remedy)
    return Verdict("open", "Hardly tells the unfamiliar", f"{words} More rows would decide.", *figures)


def drifted(found: Drift | None, n: int, *, noun: str = "coverage", level: float = LIGHT) -> Verdict:
    """Whether errors changed over time; `noun` is the share that is held against its promise."""
    if found is None:
        few = f"Of {n:,} rows, at least {LEAST} with a time are needed; " if n < LEAST else ""
        words = f"{few}no time column was given (--time)." if not few else f"{few}so that nothing is known of time."
        title = "Order in time is not known" if not few else "Too few rows to judge drift"
        return Verdict("open", title, words[:1].upper() + words[1:], "drift", count=n)
    shares = [part.coverage - part.promised for part in found.parts]
    far = max(shares, key=abs)
    moved = max(shares) - min(shares)
    part = found.parts[shares.index(far)]
    low, high = _ends(part.coverage, part.count)
    figures = ("drift", found.p_value, None, None, found.count, level)
    extent = (
        f"Of tenths of the rows in time order, {noun} is furthest from its promise from {_time(part.start)} to "
        f"{_time(part.stop)}: {part.coverage:.1%} ({low:.1%} to {high:.1%}), promised {part.promised:.1%}."
    )
    if found.alarm is None or found.p_value > level * (1 + ROUNDING):
        words = f"No alarm: errors look alike at all times ({stated(found.p_value)}). {extent}"
        if found.count < DRIFT_ROWS:
            words += f" At least {DRIFT_ROWS} rows are needed to say more."
            return Verdict("open", "Too few rows to judge drift", words, *figures)
        return Verdict("good", LIGHTS["drift"], words, *figures)
    raised = f"Alarm at {_time(found.alarm_time)} (row {found.alarm + 1:,}): errors changed beyond chance"
    words = f"{raised} ({stated(found.p_value)}). {extent}"
    if moved <= GROUP:
        return Verdict("good", LIGHTS["drift"], f"{words} The change is too small to matter.", *figures)
    remedy = f"Errors had changed by {_time(found.alarm_time)}: fit or calibrate again on rows of the time since."
    return Verdict("bad", "Errors change over time", words, *figures, remedy)


def _time(value: float | str | None) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _ends(share: float, count: int) -> tuple[float, float]:
    """The exact 95% interval of a share."""
    ends = stats.binomtest(round(share * count), count).proportion_ci(CONFIDENCE)
    return float(ends.low), float(ends.high)
