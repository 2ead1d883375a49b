"""Whole: the scores of a test set that are no means over its rows, with their intervals and what chance gives.

    miscalibration, ence               of predicted laws: sizes of gaps (`kernelfield.uq.gaps`)
    correlation, ause                  of predicted deviations: of their order (`kernelfield.uq.ordered`)
    ece, classwise_ece, adaptive_ece,  of probabilities of classes: sizes of gaps
    worst_gap
    ece_debiased                       estimates what the ece does, and has its interval
    aurc                               of their order

What chance gives is the mean for right laws, and for scores of an order that of one without information.
Rows are taken as independent.
"""

import numpy as np

from kernelfield.uq.calibration import Calibration
from kernelfield.uq.class_calibration import equal_count, equal_width, selective_risk
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.gaps import (
    AgainstChance,
    Sums,
    area_interval,
    largest_interval,
    mean_modulus,
    size_interval,
    total_modulus,
)
from kernelfield.uq.order import Order
from kernelfield.uq.ordered import aurc_interval, ause_interval
from kernelfield.uq.resolution import alike
from kernelfield.uq.scores import Evaluation

FEWEST = 2  # rows, without which nothing varies


def whole_scores(
    evaluation: Evaluation, calibration: Calibration | None, order: Order | None
) -> dict[str, AgainstChance]:
    """Of one output; those that are known.

    >>> from kernelfield.uq.order import order
    >>> from kernelfield.uq.scores import baseline
    >>> law = baseline(np.array([-1.0, 1.0]), np.random.default_rng(0).normal(size=400))
    >>> found = whole_scores(law, Calibration.of(law), order(law))
    >>> list(found), found["miscalibration"].low, round(abs(found["ause"].value - found["ause"].chance), 9)
    (['miscalibration', 'ence', 'correlation', 'ause'], 0.0, 0.0)
    """
    found = {}
    if calibration is not None and calibration.shaped:
        found["miscalibration"] = area_interval(calibration)
    if order is None:
        return found
    error, std = (evaluation.y - evaluation.mean)[:, 0], evaluation.std[:, 0]
    if order.spread is not None:
        found["ence"] = _ence(error, std, len(order.spread.count))
    link = order.correlation
    found["correlation"] = AgainstChance(link.value, link.low, link.high, 0.0, link.confidence)
    return found | {"ause": ause_interval(order.sparsified, error, std)}


def _ence(error: np.ndarray, std: np.ndarray, bins: int) -> AgainstChance:
    bin = alike(std, bins)
    top = float(std.max())
    sums = Sums.of([np.square(error / top), np.square(std / top)], [bin, bin])
    found, said = sums.means()
    rms = np.sqrt(found / said)
    came, promised = sums.drawn()
    known = promised > 0  # of few rows a bin may have none in a draw
    noise = np.where(known, np.sqrt(came / np.where(known, promised, 1.0)) - rms, 0.0)
    return size_interval(rms - 1, noise, mean_modulus)


def whole_class_scores(evaluation: ClassEvaluation) -> dict[str, AgainstChance]:
    """Of probabilities of classes; none for a single row.

    >>> p = np.random.default_rng(0).uniform(0.05, 0.95, 500)
    >>> came = np.random.default_rng(1).random(500) < p
    >>> found = whole_class_scores(ClassEvaluation.of(np.stack([1 - p, p], 1), came.astype(int)))
    >>> found["ece"].low, bool(found["aurc"].high < found["aurc"].chance)
    (0.0, True)
    """
    n = len(evaluation.labels)
    if n < FEWEST:
        return {}
    gap, null = evaluation.confidence - evaluation.right, evaluation.null()
    top = Sums.of([gap, np.ones(n)], [evaluation.bin, evaluation.bin])
    (off, share), (drawn_off, drawn_share) = top.means(), top.drawn()
    ece = size_interval(off, drawn_off - off, total_modulus)
    debiased = evaluation.ece_debiased
    known = drawn_share > 0
    mean = np.where(known, drawn_off / np.where(known, drawn_share, 1.0), off / share)
    risk = selective_risk(evaluation)
    return {
        "ece": AgainstChance(ece.value, ece.low, ece.high, null.mean),
        "ece_debiased": AgainstChance(debiased, min(ece.low, debiased), max(ece.high, debiased), 0.0),
        "classwise_ece": _classwise(evaluation, [equal_width(p) for p in evaluation.probabilities.T]),
        "adaptive_ece": _classwise(evaluation, [equal_count(p) for p in evaluation.probabilities.T]),
        "worst_gap": largest_interval(off / share, mean - off / share),
        "aurc": aurc_interval(risk, 1.0 - evaluation.right, 1 - evaluation.confidence),
    }


def _classwise(evaluation: ClassEvaluation, bins: list[np.ndarray]) -> AgainstChance:
    columns = [p - (evaluation.labels == j) for j, p in enumerate(evaluation.probabilities.T)]
    sums = Sums.of(columns, bins)
    off, drawn = np.concatenate(sums.means()), np.concatenate(sums.drawn(), axis=1)
    return size_interval(off, drawn - off, lambda gaps: total_modulus(gaps) / len(columns))
