"""Verdicts on class probabilities: the six questions of `kernelfield.uq.verdict`, asked of classes.

    calibration  is the most probable class right as often as its probability says?
    sharpness    is the log loss less than that of the classes' shares?
    conditional  are probabilities right in every part of the data?
    tails        of sure statements, of 99% or more, are as few wrong as promised?
    outside      is the entropy larger for rows that it was not made for?
    drift        did errors change over time?

The number of rows that are right is held against its exact Poisson-binomial law, on the whole and in tenths
of confidence together; with 500 rows and more Spiegelhalter's test is asked too. Red is what is
beyond chance, at a level shared as for regression, and by a percentage point or more.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy import stats

from kernelfield.uq.calibration import CONFIDENCE
from kernelfield.uq.class_calibration import spiegelhalter
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.counts import poisson_binomial
from kernelfield.uq.diagnosis.findings import ClassFindings
from kernelfield.uq.diagnosis.groups import class_by_column
from kernelfield.uq.lights import FEWEST, LIGHT, MARGIN, MORE, Verdict, compared, conditional, drifted, unfamiliar
from kernelfield.uq.recalibration.probabilities import TemperatureScaling

RULE = "the shares of the training rows"
SURE = 0.99
ROWS = 5000  # that tell a temperature
SLIGHT = 0.05  # change by a temperature that mends nothing
SURE_ROWS = 100  # of which one may be wrong
MANY = 500  # rows from which Spiegelhalter's statistic is near enough to a Gaussian
USELESS = "Do not use this model: it does worse than always predicting"


def class_verdicts(
    model: ClassEvaluation,
    baseline: ClassEvaluation | None,
    findings: ClassFindings | None = None,
    *,
    rule: str = RULE,
    given: int = 0,
) -> list[Verdict]:
    """Calibration and sharpness of probabilities, held against those of the baseline; all six with findings.

    `rule` is what the baseline always predicts, in words, and `given` the number of columns by which rows
    could be grouped.
    """
    basic = [honesty(model), _gain(model, baseline, rule)]
    if findings is None:
        return basic
    n = len(model.labels)
    return [
        *basic,
        conditional(
            findings.columns,
            findings.worst,
            n,
            subject="The predicted class is right in",
            title="Probabilities hold in every group",
            given=given,
        ),
        _sure(model),
        unfamiliar(findings.outside),
        drifted(findings.drift, n, noun="accuracy"),
    ]


def honesty(model: ClassEvaluation, *, level: float = LIGHT) -> Verdict:
    """Whether probabilities are as right as they say."""
    n, null = len(model.labels), model.null()
    debiased = model.ece_debiased
    said, right = float(model.confidence.mean()), model.accuracy
    found = f"Probabilities are off by {model.ece:.1%} (expected calibration error)"
    allowed = f"for honest ones chance gives {null.low:.1%} to {null.high:.1%} on as many rows (90% band)"
    verdict = Verdict("open", "", "", "calibration", debiased, None, None, n, MARGIN)
    if n < FEWEST:
        words = f"{found}; {allowed}. At least {FEWEST} rows are needed."
        return replace(verdict, title="Too few rows to judge the probabilities", sentence=words)
    tests = [poisson_binomial(model.confidence).p_value(int(model.right.sum()))]
    tests += [column.p_value for column in class_by_column(model, {})]
    if n >= MANY and np.isfinite(p_value := spiegelhalter(model).p_value):
        tests.append(p_value)
    unlikely = min(tests) < level / len(tests)
    if not unlikely or max(debiased, abs(said - right)) <= MARGIN:
        small = " Chance does not explain all of the gap, but it is too small to matter." if unlikely else ""
        words = f"{found}; {allowed}.{small}"
        return replace(verdict, grade="good", title="Probabilities keep their promise", sentence=words)
    sure = said > right
    words = f"{found}, more than chance explains; {allowed}. Their mean is {said:.1%}, and {right:.1%} are right."
    remedy = f"Recalibrate: probabilities are too {'large' if sure else 'small'}{_change(model)}."
    title = "Probabilities are too sure" if sure else "Probabilities are not sure enough"
    return replace(verdict, grade="bad", title=title, sentence=words, remedy=remedy)


def _change(model: ClassEvaluation) -> str:
    """What to change of probabilities that are too sure or not sure enough, as a part of a sentence."""
    rows = np.random.default_rng(0).permutation(len(model.labels))[:ROWS]
    p, labels = torch.from_numpy(model.probabilities[rows]), torch.from_numpy(model.labels[rows])
    temperature = TemperatureScaling().fit(p, labels).temperature
    if abs(temperature - 1) < SLIGHT:
        return ", but not all alike, so that no temperature mends them (kernelfield calibrate --method isotonic)"
    return f"; divide their logarithms by about {temperature:.2g} (kernelfield calibrate --method temperature)"


def _gain(model: ClassEvaluation, baseline: ClassEvaluation | None, rule: str) -> Verdict:
    if baseline is None:
        words = "No training labels were given, so that there is no baseline to beat."
        return Verdict("open", "Nothing to compare the model with", words, "sharpness")
    found = compared(model.losses, baseline.losses, "log loss", f"always predicting {rule}")
    return replace(found, remedy=f"{USELESS} {rule}.") if found.grade == "bad" else found


def _sure(model: ClassEvaluation) -> Verdict:
    """Whether sure statements are as seldom wrong as they say."""
    rows = model.confidence >= SURE
    n, wrong = int(rows.sum()), int((~model.right[rows]).sum())
    if not n:
        words = f"No row was given a probability of {SURE:.0%} or more, so that no sure statement can be wrong."
        return Verdict("open", "No sure statements to judge", words, "tails", count=0)
    law = poisson_binomial(1 - model.confidence[rows])
    low, high = law.band(CONFIDENCE)
    ends = stats.binomtest(wrong, n).proportion_ci(CONFIDENCE)
    figures = ("tails", wrong / n, float(ends.low), float(ends.high), n, law.mean / n)
    words = (
        f"Of {n:,} statements that are {SURE:.0%} sure or more, {wrong:,} were wrong; {law.mean:,.1f} should be, "
        f"and {low:,} to {high:,} by chance ({CONFIDENCE:.0%} band)."
    )
    if law.p_above(wrong) < LIGHT and wrong > MORE * law.mean:
        remedy = "Do not take sure statements as certain: more of them are wrong than the model says; recalibrate."
        return Verdict("bad", "Sure statements are wrong too often", words, *figures, remedy)
    if n < SURE_ROWS:
        needed = f" At least {SURE_ROWS} such rows are needed to judge."
        return Verdict("open", "Too few sure statements to judge", words + needed, *figures)
    return Verdict("good", "Sure statements are as seldom wrong as promised", words, *figures)
