"""Verdicts: six questions about a fitted model, answered in plain words, as traffic lights are.

    calibration  do its intervals hold as many values as they promise?
    sharpness    are its predictions better than those of a rule without inputs?
    conditional  do the intervals hold in every part of the data?
    tails        are large misses as rare as promised?
    outside      is it less certain about rows that it was not made for?
    drift        did its errors change over time?

A light is red ("bad") only for what is beyond chance and large enough to matter. Chance: if the
laws are right, all lights together are red with a probability of at most 2%, shared evenly
among them, among the tests of a light, and among outputs. Calibration is tested in
seven ways, all exact whatever the law: coverage of central 50%, 80%, 90% and 95% intervals
(binomial), the Kolmogorov-Smirnov distance of the PIT, and the mean square and mean of normal
scores z = Phi^-1(pit), which for Gaussian laws are errors divided by their predicted standard deviation, so
that n mean(z^2) is chi-square with n degrees of freedom. Scores are bounded at 1 / (4 n) of a
tail, so that a single outlier is the concern of the tails alone. Of laws given by quantiles only intervals
with both ends among them are tested, and the rest only with nine or more. Large enough: a percentage
point of coverage, and what amounts to it elsewhere. "open" says what is missing for an answer.

All take the rows as independent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

from kernelfield.uq.calibration import CONFIDENCE, MANY, NEAR, Calibration, band
from kernelfield.uq.class_verdict import class_verdicts, honesty
from kernelfield.uq.diagnosis.counts import binomial
from kernelfield.uq.diagnosis.findings import Findings
from kernelfield.uq.lights import (
    FEWEST,
    LIGHT,
    LIGHTS,
    MARGIN,
    MORE,
    Verdict,
    advice,
    compared,
    conditional,
    drifted,
    shared,
    unfamiliar,
)
from kernelfield.uq.promises import Promise, chief, main_promise, percent, promised
from kernelfield.uq.scores import LEVEL, Evaluation

DISTANCE = 0.02  # Kolmogorov's: an interval has two ends
SPREAD = 0.03  # relative error of a standard deviation that moves the coverage of 90% intervals by MARGIN
SHIFT = 0.05  # predicted standard deviations, that move the PIT by DISTANCE
TAIL = 0.01  # on either side
FAR = 0.001
TAIL_ROWS = 300  # of which three lie in either tail
RULE = "the training mean and deviation"
USELESS = "Do not use this model: it does worse than always predicting"


def verdicts(
    model: Evaluation,
    baseline: Evaluation | None,
    outputs: Sequence[str],
    *,
    findings: Sequence[Findings] | None = None,
    rule: str = RULE,
    given: int = 0,
) -> list[Verdict]:
    """Calibration and sharpness; all six with findings, one for each output.

    For several outputs, how many of them have a good answer. `findings` are those of
    `kernelfield.uq.diagnosis.findings.diagnose`; `rule` is what the baseline always predicts, in words,
    and `given` the number of columns by which rows could be grouped.
    """
    m = len(outputs)
    known: Sequence[Findings | None] = [None] * m if findings is None else findings
    each = [
        output_verdicts(
            model.output(i), baseline and baseline.output(i), known[i], level=LIGHT / m, rule=rule, given=given
        )
        for i in range(m)
    ]
    return each[0] if m == 1 else [shared(answers, outputs) for answers in zip(*each, strict=True)]


def output_verdicts(
    model: Evaluation,
    baseline: Evaluation | None,
    findings: Findings | None = None,
    *,
    level: float = LIGHT,
    rule: str = RULE,
    given: int = 0,
) -> list[Verdict]:
    """The answers for one output, each red for a calibrated model with a probability of at most `level`."""
    basic = [calibrated(model, level=level), _gain(model, baseline, level, rule)]
    if findings is None:
        return basic
    n = len(model.y)
    return [
        *basic,
        conditional(findings.columns, findings.worst, n, subject=_subject(model), level=level, given=given),
        _tails(model, level),
        unfamiliar(findings.outside),
        drifted(findings.drift, n, level=level),
    ]


def _subject(model: Evaluation) -> str:
    """What holds values, at the beginning of a sentence."""
    promise = main_promise(model)
    return "The 90% intervals hold" if promise is None else f"{promise.words[:1].upper()}{promise.words[1:]} hold"


@dataclass(frozen=True)
class _Check:
    """One test of calibration: which, whether it failed beyond chance, and whether by enough to matter."""

    name: str
    unlikely: bool
    large: bool

    @property
    def failed(self) -> bool:
        return self.unlikely and self.large


def calibrated(model: Evaluation, *, level: float = LIGHT) -> Verdict:
    """Whether the laws of one output are as right as they say."""
    n, tested = len(model.y), promised(model)
    if not tested:
        words = "The predictions promise no interval by which they could be judged."
        return Verdict("open", "No intervals to judge", words, "calibration", count=n)
    main = chief(tested)
    inside = main.holds(model)
    share = float(inside.mean())
    checks, spread, shift = _checks(model, tested, level)
    confidence = 1 - level / len(checks)
    low, high = (float(end) for end in band(n, main.share, confidence=confidence))
    found = f"{main.words[:1].upper()}{main.words[1:]} hold {share:.1%} of {n:,} test values"
    allowed = f"for honest intervals chance allows {low:.1%} to {high:.1%} ({confidence:.2%} band)"
    ends = stats.binomtest(int(inside.sum()), n).proportion_ci(CONFIDENCE)
    verdict = Verdict("open", "", "", "calibration", share, float(ends.low), float(ends.high), n, main.share)
    if n < FEWEST:
        title, words = "Too few rows to judge the intervals", f"{found}; {allowed}. At least {FEWEST} are needed."
        return replace(verdict, title=title, sentence=words)
    failed = {check.name for check in checks if check.failed}
    if not failed:
        slight = any(check.unlikely for check in checks)
        small = " Chance does not explain all of the gap, but it is too small to matter." if slight else ""
        title = "Intervals keep their promise"
        return replace(verdict, grade="good", title=title, sentence=f"{found}; {allowed}.{small}")
    title, words, remedy = _fault(failed, model, main, spread, shift)
    return replace(verdict, grade="bad", title=title, sentence=f"{found}; {allowed}. {words}", remedy=remedy)


def _checks(model: Evaluation, tested: Sequence[Promise], level: float) -> tuple[list[_Check], float, float]:
    """The tests of coverage and, where whole laws are known, of their shape; the spread and shift of normal scores."""
    pit = model.pit[:, 0]
    n = len(pit)
    whole = bool(np.isfinite(pit).all()) and (model.levels is None or len(model.levels) >= MANY)
    tests = len(tested) + 3 * whole
    checks = []
    for one in tested:
        hits = int(one.holds(model).sum())
        unlikely = binomial(n, one.share).p_value(hits) < level / tests
        checks.append(_Check(one.words, unlikely, abs(hits / n - one.share) > MARGIN))
    if not whole:
        return checks, 1.0, 0.0
    gap = Calibration(np.sort(pit)).kolmogorov
    checks.append(_Check("shape", gap.p_value < level / tests, gap.statistic > DISTANCE))
    z = special.ndtri(np.clip(pit, 0.25 / n, 1 - 0.25 / n))
    total, mean = float(z @ z), float(z.mean())
    spread = (total / n) ** 0.5
    p_value = 2 * min(stats.chi2.cdf(total, n), stats.chi2.sf(total, n))
    checks.append(_Check("spread", p_value < level / tests, abs(spread - 1) > SPREAD))
    p_value = 2 * float(special.ndtr(-abs(mean) * n**0.5))
    checks.append(_Check("shift", p_value < level / tests, abs(mean) > SHIFT))
    return checks, spread, mean


def _factor(model: Evaluation) -> float:
    """By what to multiply the laws' deviations for 90% of the values to lie inside; NaN where it is not known.

    An error is held against the way from the mean to the end of the 90% interval on its side, which of a Gaussian law
    is 1.645 deviations. Unlike normal scores, this knows no bound.
    """
    error = model.y - model.mean
    reach = np.where(error < 0, model.mean - model.low, model.high - model.mean)
    known = np.isfinite(reach) & (reach > 0)
    return float(np.quantile(np.abs(error[known]) / reach[known], LEVEL)) if known.any() else math.nan


def _fault(failed: set[str], model: Evaluation, main: Promise, spread: float, shift: float) -> tuple[str, str, str]:
    """What is wrong: a title, words, and the remedy."""
    around = max(spread**2 - shift**2, 0.0) ** 0.5  # of the scores about their own mean
    size = f"{abs(shift):.2g} predicted standard deviations"
    high = "high" if shift < 0 else "low"
    if "shift" in failed and abs(around - 1) <= SPREAD:
        words = f"Predictions are too {high} by {size} on average."
        return f"Predictions are too {high}", words, f"Correct the means: they are too {high} by about {size}."
    off = main.words in failed
    if off or "spread" in failed:
        # Without a gap at 90% scores are near their bound for none but a few.
        times = spread if not off else _factor(model) if main.share == LEVEL else math.nan
        narrow = float(main.holds(model).mean()) < main.share if off else spread > 1
        known = math.isfinite(times)
        said = f"Errors are typically {times:.2f} times as large as predicted." if known else ""
        words = f"That is {'fewer' if narrow else 'more'} than they promise. {said}".strip() if off else said
        what = "predicted standard deviations" if model.levels is None else "the widths of the intervals"
        change = f": multiply {what} by about {times:.2f}" if known else ""
        title = f"Intervals are too {'narrow' if narrow else 'wide'}"
        return title, words, f"Recalibrate{change} (kernelfield calibrate)."
    words = "Other intervals do not hold what they promise: the shape of the predicted laws is wrong."
    remedy = "Recalibrate the whole law (isotonic), as no factor of its standard deviation repairs its shape."
    return "The shape of the predictions is wrong", words, remedy


def _gain(model: Evaluation, baseline: Evaluation | None, level: float, rule: str) -> Verdict:
    if baseline is None:
        words = "No training targets were given, so that there is no baseline to beat."
        return Verdict("open", "Nothing to compare the model with", words, "sharpness")
    if not (baseline.std > 0).all():
        words = "The targets that the baseline learned from are all equal, so that it has no deviation to predict."
        return Verdict("open", "The baseline has no spread", words, "sharpness", count=len(model.y))
    found = compared(model.crps, baseline.crps, "CRPS", f"always predicting {rule}", level=level)
    return replace(found, remedy=f"{USELESS} {rule}.") if found.grade == "bad" else found


def _tails(model: Evaluation, level: float) -> Verdict:
    pit = model.pit[:, 0]
    n = len(pit)
    if not np.isfinite(pit).all():
        words = "The predictions say nothing of their distribution beyond intervals, so that tails cannot be judged."
        return Verdict("open", "Tails are not known", words, "tails", count=n)
    levels = (0.0, 1.0) if model.levels is None else model.levels
    if not _reach(levels, TAIL):
        ends = f" from {percent(levels[0])} to {percent(levels[-1])}" if levels else " of several levels"
        words = f"Only quantiles{ends} were given, and those of 1% and 99% are needed."
        return Verdict("open", "Tails are not known", words, "tails", count=n)
    tests: list[tuple[Callable[[np.ndarray], np.ndarray], float]] = [
        (lambda u: u < TAIL, TAIL),
        (lambda u: u > 1 - TAIL, TAIL),
    ]
    if _reach(levels, FAR):
        tests.append((lambda u: (u < FAR) | (u > 1 - FAR), 2 * FAR))
    counts = [int(beyond(pit).sum()) for beyond, _ in tests]
    heavy = [
        binomial(n, promised).p_above(count) < level / len(tests) and count > MORE * n * promised
        for count, (_, promised) in zip(counts, tests, strict=True)
    ]
    beyond = counts[0] + counts[1]
    ends = stats.binomtest(beyond, n).proportion_ci(CONFIDENCE)
    figures = ("tails", beyond / n, float(ends.low), float(ends.high), n, 2 * TAIL)
    found = (
        f"{beyond:,} of {n:,} values ({beyond / n:.1%}) lie beyond the predicted 1% and 99% points, where "
        f"{2 * TAIL:.1%} should ({counts[0]:,} below, {counts[1]:,} above)"
    )
    far = f"; {counts[2]:,} beyond the 0.1% and 99.9% points, where {2 * FAR * n:,.1f} should" if counts[2:] else ""
    found = f"{found}{far}."
    if any(heavy):
        remedy = "Expect larger misses than the model says: take a law of heavier tails (Student-t) or recalibrate it."
        return Verdict("bad", "Large misses are too frequent", found, *figures, remedy)
    if n < TAIL_ROWS:
        words = f"{found} At least {TAIL_ROWS} rows are needed to judge what is so rare."
        return Verdict("open", "Too few rows to judge large misses", words, *figures)
    return Verdict("good", "Large misses are as rare as promised", found, *figures)


def _reach(levels: Sequence[float], tail: float) -> bool:
    """Whether quantiles were given as far out as that."""
    return len(levels) > 1 and levels[0] <= tail + NEAR and levels[-1] >= 1 - tail - NEAR


__all__ = [
    "FEWEST",
    "LIGHT",
    "LIGHTS",
    "RULE",
    "Verdict",
    "advice",
    "calibrated",
    "class_verdicts",
    "compared",
    "honesty",
    "output_verdicts",
    "verdicts",
]
