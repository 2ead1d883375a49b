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
tail, so that a single outlier is the concern of the tails alone. Large enough: a percentage
point of coverage, and what amounts to it elsefindings. "open" says what is missing for an answer.

All take the rows as independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

from kernelfield.uq.calibration import CONFIDENCE, Calibration, band
from kernelfield.uq.class_verdict import RULE, class_verdicts, honesty
from kernelfield.uq.diagnosis.counts import binomial
from kernelfield.uq.diagnosis.findings import Findings
from kernelfield.uq.diagnosis.groups import covered
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
from kernelfield.uq.scores import LEVEL, Evaluation

LEVELS = (0.5, 0.8, LEVEL, 0.95)
DISTANCE = 0.02  # Kolmogorov's: an interval has two ends
SPREAD = 0.03  # relative error of a standard deviation that moves the coverage of 90% intervals by MARGIN
SHIFT = 0.05  # predicted standard deviations, that move the PIT by DISTANCE
TAIL = 0.01  # on either side
FAR = 0.001
TAIL_ROWS = 300  # of which three lie in either tail
USELESS = "Do not use this model: predicting the training mean and deviation alone does better."


def verdicts(
    model: Evaluation,
    baseline: Evaluation | None,
    outputs: Sequence[str],
    *,
    findings: Sequence[Findings] | None = None,
) -> list[Verdict]:
    """Calibration and sharpness; all six with findings, one for each output.

    For several outputs, how many of them have a good answer. `findings` are those of
    `kernelfield.uq.diagnosis.findings.diagnose`.
    """
    m = len(outputs)
    known: Sequence[Findings | None] = [None] * m if findings is None else findings
    each = [
        output_verdicts(model.output(i), baseline and baseline.output(i), known[i], level=LIGHT / m) for i in range(m)
    ]
    return each[0] if m == 1 else [shared(answers, outputs) for answers in zip(*each, strict=True)]


def output_verdicts(
    model: Evaluation, baseline: Evaluation | None, findings: Findings | None = None, *, level: float = LIGHT
) -> list[Verdict]:
    """The answers for one output, each red for a calibrated model with a probability of at most `level`."""
    basic = [calibrated(model, level=level), _gain(model, baseline, level)]
    if findings is None:
        return basic
    n = len(model.y)
    return [
        *basic,
        conditional(findings.columns, findings.worst, n, subject="The 90% intervals hold", level=level),
        _tails(model, level),
        unfamiliar(findings.outside),
        drifted(findings.drift, n, level=level),
    ]


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
    n, inside = len(model.y), covered(model)
    share = float(inside.mean())
    pit = model.pit[:, 0]
    checks, spread, shift, factor = _checks(pit, level) if np.isfinite(pit).all() else _interval_check(share, n, level)
    confidence = 1 - level / len(checks)
    low, high = (float(end) for end in band(n, LEVEL, confidence=confidence))
    found = f"The 90% intervals hold {share:.1%} of {n:,} test values"
    allowed = f"for honest intervals chance allows {low:.1%} to {high:.1%} ({confidence:.2%} band)"
    ends = stats.binomtest(int(inside.sum()), n).proportion_ci(CONFIDENCE)
    verdict = Verdict("open", "", "", "calibration", share, float(ends.low), float(ends.high), n, LEVEL)
    if n < FEWEST:
        title, words = "Too few rows to judge the intervals", f"{found}; {allowed}. At least {FEWEST} are needed."
        return replace(verdict, title=title, sentence=words)
    failed = {check.name for check in checks if check.failed}
    if not failed:
        slight = any(check.unlikely for check in checks)
        small = " Chance does not explain all of the gap, but it is too small to matter." if slight else ""
        title = "Intervals keep their promise"
        return replace(verdict, grade="good", title=title, sentence=f"{found}; {allowed}.{small}")
    title, words, remedy = _fault(failed, share, spread, shift, factor)
    return replace(verdict, grade="bad", title=title, sentence=f"{found}; {allowed}. {words}", remedy=remedy)


def _checks(pit: np.ndarray, level: float) -> tuple[list[_Check], float, float, float]:
    """The seven tests, the spread and shift of normal scores, and the factor that puts 90% of them inside."""
    n, tests = len(pit), len(LEVELS) + 3
    sorted_pit = Calibration(np.sort(pit))
    distance = np.abs(2 * pit - 1)
    checks = []
    for promised in LEVELS:
        hits = int((distance <= promised).sum())
        unlikely = binomial(n, promised).p_value(hits) < level / tests
        checks.append(_Check(f"coverage{promised:.0%}", unlikely, abs(hits / n - promised) > MARGIN))
    gap = sorted_pit.kolmogorov
    checks.append(_Check("shape", gap.p_value < level / tests, gap.statistic > DISTANCE))
    z = special.ndtri(np.clip(pit, 0.25 / n, 1 - 0.25 / n))
    total, mean = float(z @ z), float(z.mean())
    spread = (total / n) ** 0.5
    p_value = 2 * min(stats.chi2.cdf(total, n), stats.chi2.sf(total, n))
    checks.append(_Check("spread", p_value < level / tests, abs(spread - 1) > SPREAD))
    p_value = 2 * float(special.ndtr(-abs(mean) * n**0.5))
    checks.append(_Check("shift", p_value < level / tests, abs(mean) > SHIFT))
    # The same quantile of |z| as of the distance, of which it is an increasing function.
    factor = float(np.quantile(np.abs(z), LEVEL) / special.ndtri((1 + LEVEL) / 2))
    return checks, spread, mean, factor


def _interval_check(share: float, n: int, level: float) -> tuple[list[_Check], float, float, float]:
    """The test of coverage alone, where no distribution function is known."""
    unlikely = binomial(n, LEVEL).p_value(round(share * n)) < level
    return [_Check(f"coverage{LEVEL:.0%}", unlikely, abs(share - LEVEL) > MARGIN)], 1.0, 0.0, float("nan")


def _fault(failed: set[str], share: float, spread: float, shift: float, factor: float) -> tuple[str, str, str]:
    """What is wrong: a title, words, and the remedy."""
    around = max(spread**2 - shift**2, 0.0) ** 0.5  # of the scores about their own mean
    size = f"{abs(shift):.2g} predicted standard deviations"
    high = "high" if shift < 0 else "low"
    if "shift" in failed and abs(around - 1) <= SPREAD:
        words = f"Predictions are too {high} by {size} on average."
        return f"Predictions are too {high}", words, f"Correct the means: they are too {high} by about {size}."
    off = f"coverage{LEVEL:.0%}" in failed
    if off or "spread" in failed:
        narrow = share < LEVEL if off else spread > 1
        said = f"Errors are typically {spread:.2f} times as large as predicted." if "spread" in failed else ""
        words = f"That is {'fewer' if narrow else 'more'} than they promise. {said}".strip() if off else said
        change = f": multiply predicted standard deviations by about {factor:.2f}" if np.isfinite(factor) else ""
        title = f"Intervals are too {'narrow' if narrow else 'wide'}"
        return title, words, f"Recalibrate{change} (kernelfield calibrate)."
    words = "Other intervals do not hold what they promise: the shape of the predicted laws is wrong."
    remedy = "Recalibrate the whole law (isotonic), as no factor of its standard deviation repairs its shape."
    return "The shape of the predictions is wrong", words, remedy


def _gain(model: Evaluation, baseline: Evaluation | None, level: float) -> Verdict:
    if baseline is None:
        words = "No training targets were given, so that there is no baseline to beat."
        return Verdict("open", "Nothing to compare the model with", words, "sharpness")
    rule = "always predicting the training mean and deviation"
    found = compared(model.crps, baseline.crps, "CRPS", rule, level=level)
    return replace(found, remedy=USELESS) if found.grade == "bad" else found


def _tails(model: Evaluation, level: float) -> Verdict:
    pit = model.pit[:, 0]
    n = len(pit)
    if not np.isfinite(pit).all():
        words = "The predictions say nothing of their distribution beyond intervals, so that tails cannot be judged."
        return Verdict("open", "Tails are not known", words, "tails", count=n)
    tests: list[tuple[Callable[[np.ndarray], np.ndarray], float]] = [
        (lambda u: u < TAIL, TAIL),
        (lambda u: u > 1 - TAIL, TAIL),
        (lambda u: (u < FAR) | (u > 1 - FAR), 2 * FAR),
    ]
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
        f"{2 * TAIL:.1%} should ({counts[0]:,} below, {counts[1]:,} above); {counts[2]:,} beyond the 0.1% "
        f"and 99.9% points, where {2 * FAR * n:,.1f} should."
    )
    if any(heavy):
        remedy = "Expect larger misses than the model says: take a law of heavier tails (Student-t) or recalibrate it."
        return Verdict("bad", "Large misses are too frequent", found, *figures, remedy)
    if n < TAIL_ROWS:
        words = f"{found} At least {TAIL_ROWS} rows are needed to judge what is so rare."
        return Verdict("open", "Too few rows to judge large misses", words, *figures)
    return Verdict("good", "Large misses are as rare as promised", found, *figures)


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
