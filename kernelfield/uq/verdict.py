"""Verdicts: two questions about a fitted model, answered in plain words.

Are its intervals honest? The share of values inside the 90% intervals is held against its
binomial band. Is it any good? Its CRPS is held against the baseline's, pair by pair, and the
mean difference against its standard error. Both take the rows as independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernelfield.uq.calibration import CONFIDENCE, band
from kernelfield.uq.scores import LEVEL, Evaluation

FEWEST = 20  # values below which the band is wider than any model's likely fault
CLEAR = 2.0  # standard errors


@dataclass(frozen=True)
class Verdict:
    """An answer: `grade` is "good", "bad" or "open", `title` a few words, `sentence` the figures."""

    grade: str
    title: str
    sentence: str


def verdicts(model: Evaluation, baseline: Evaluation, outputs: Sequence[str]) -> list[Verdict]:
    """The two answers; for several outputs, how many of them have a good one."""
    each = [output_verdicts(model.output(i), baseline.output(i)) for i in range(len(outputs))]
    if len(each) == 1:
        return each[0]
    honest, useful = zip(*each, strict=True)
    return [
        _count("Intervals keep their promise", honest, outputs),
        _count("Better than the baseline", useful, outputs),
    ]


def output_verdicts(model: Evaluation, baseline: Evaluation) -> list[Verdict]:
    """The two answers for one output."""
    return [_honesty(model), _gain(model, baseline)]


def _honesty(model: Evaluation) -> Verdict:
    n, share = len(model.y), float(model.coverage([LEVEL])[0, 0])
    low, high = (float(end) for end in band(n, LEVEL))
    found = f"The 90% intervals hold {share:.1%} of {n:,} test values"
    allowed = f"for honest intervals chance allows {low:.1%} to {high:.1%} ({CONFIDENCE:.0%} band)"
    if n < FEWEST:
        return Verdict("open", "Too few rows to judge the intervals", f"{found}; {allowed}.")
    if share < low:
        return Verdict("bad", "Intervals are too narrow", f"{found}, fewer than they promise; {allowed}.")
    if share > high:
        return Verdict("bad", "Intervals are too wide", f"{found}, more than they promise; {allowed}.")
    return Verdict("good", "Intervals keep their promise", f"{found}; {allowed}.")


def _gain(model: Evaluation, baseline: Evaluation) -> Verdict:
    return compared(model.crps, baseline.crps, "CRPS", "always predicting the training mean and deviation")


def compared(model: np.ndarray, baseline: np.ndarray, loss: str, rule: str) -> Verdict:
    """Whether a model's losses, row by row, are less than those of a rule, beyond what chance explains."""
    gain = baseline - model
    n, total = len(gain), float(np.mean(baseline))
    if n < 2 or not np.isfinite(gain).all() or total == 0 or np.ptp(gain) == 0:
        return Verdict("open", "No comparison with the baseline", "The test set does not tell the two apart.")
    share = float(np.mean(gain)) / total
    ratio = float(np.mean(gain) / (np.std(gain, ddof=1) / np.sqrt(n)))
    which = "lower" if share >= 0 else "higher"
    found = f"The mean {loss} is {abs(share):.1%} {which} than that of {rule}"
    if abs(ratio) < CLEAR:
        return Verdict("open", "No clear gain on the baseline", f"{found}, a difference that chance may explain.")
    title = "Better than the baseline" if ratio > 0 else "Worse than the baseline"
    grade = "good" if ratio > 0 else "bad"
    return Verdict(grade, title, f"{found}: a difference of {abs(ratio):.1f} standard errors.")


def _count(what: str, answers: Sequence[Verdict], outputs: Sequence[str]) -> Verdict:
    named = list(zip(outputs, answers, strict=True))
    rest = [f"{name} ({answer.title.lower()})" for name, answer in named if answer.grade != "good"]
    grades = {answer.grade for answer in answers}
    worst = next(grade for grade in ("bad", "open", "good") if grade in grades)
    sentence = f"Except for {', '.join(rest)}." if rest else "This holds for each of them."
    return Verdict(worst, f"{what} for {len(answers) - len(rest)} of {len(answers)} outputs", sentence)
