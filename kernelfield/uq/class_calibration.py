"""Calibration of class probabilities, measured and tested in the ways that others report.

For probabilities p (n, k) of classes that came to be y, with confidence c the largest of a row:

    top label   mean over rows of the gap |mean c - share right| of their bin, in bins of equal width,
                as most papers give it; `ClassEvaluation.ece` has bins of equally many rows
    classwise   the same of each class, |mean p_j - share of j|, and the mean over classes
    adaptive    as classwise, in bins of about equally many rows for each class, never cut through ties
    worst       the largest gap of the bins of `ClassEvaluation.reliability`

None of them is zero by chance. Two tests know what chance does, without bins. Brier's score of a row is
2 (sum p^2 - p_y) more than its mean under p, so that for calibrated probabilities

    z = sum (sum_j p_j^2 - p_y) / sqrt(sum (sum_j p_j^3 - (sum_j p_j^2)^2))

is a standard normal: Spiegelhalter's statistic, for two classes or many. And with rows in order of c,
the sums of (c - right) are a random walk, so that the largest of their moduli over sqrt(sum c (1 - c)) is
like that of Brownian motion on [0, 1]. Too sure in one range and too unsure in another does not cancel in
it, unlike in z.

Sources: Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks"; Kull et al.
(2019), "Beyond Temperature Scaling", for classwise; Nixon et al. (2019), "Measuring Calibration in Deep
Learning", for adaptive; Spiegelhalter (1986), "Probabilistic Prediction in Patient Management and
Clinical Trials"; Gupta et al. (2021), "Calibration of Neural Networks Using Splines"; Arrieta-Ibarra,
Gujral, Tannen, Tygert & Xu (2022), "Metrics of Calibration for Probabilistic Predictions", for the law.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from kernelfield.uq.classes import BINS, ClassEvaluation
from kernelfield.uq.diagnosis.columns import cuts
from kernelfield.uq.resolution import Risk, risk

TERMS = 50  # of the series of the law of Brownian motion's reach, far beyond rounding where it is used


@dataclass(frozen=True)
class CalibrationTest:
    """A statistic, and the probability of one as extreme if the probabilities are right; NaN where none can be told."""

    statistic: float
    p_value: float


def top_label_ece(evaluation: ClassEvaluation, bins: int = BINS) -> float:
    """The expected calibration error of the predicted class, in bins of equal width on [0, 1]."""
    return _error(evaluation.confidence, evaluation.right, equal_width(evaluation.confidence, bins))


def classwise_ece(evaluation: ClassEvaluation, bins: int = BINS) -> float:
    """The mean over classes of their expected calibration errors, in bins of equal width on [0, 1]."""
    columns = evaluation.probabilities.T
    return float(np.mean([_error(p, evaluation.labels == j, equal_width(p, bins)) for j, p in enumerate(columns)]))


def adaptive_ece(evaluation: ClassEvaluation, bins: int = BINS) -> float:
    """The mean over classes of their expected calibration errors, in bins of about equally many rows of each class.

    >>> result = ClassEvaluation.of([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0])
    >>> round(adaptive_ece(result, bins=2), 3)  # gaps 0.4 and 0.2 of 2 rows each, of both classes alike
    0.3
    """
    columns = evaluation.probabilities.T
    return float(np.mean([_error(p, evaluation.labels == j, equal_count(p, bins)) for j, p in enumerate(columns)]))


def worst_gap(evaluation: ClassEvaluation) -> float:
    """The maximum calibration error: the largest gap of a bin of the reliability diagram."""
    points = evaluation.reliability()
    return float(np.max(np.abs(points.confidence - points.accuracy)))


def spiegelhalter(evaluation: ClassEvaluation) -> CalibrationTest:
    """Spiegelhalter's test of Brier's score, two-sided; a positive z is of probabilities that are too sure.

    Probabilities that are all 0, 1 or equal have a score that labels do not change, and no test.
    """
    p = evaluation.probabilities
    square = (p**2).sum(1)
    variance = float(np.maximum((p**3).sum(1) - square**2, 0).sum())
    if variance <= np.finfo(float).eps * float(square.sum()):
        return CalibrationTest(math.nan, math.nan)
    said = p[np.arange(len(p)), evaluation.labels]
    z = float((square - said).sum()) / math.sqrt(variance)
    return CalibrationTest(z, float(2 * special.ndtr(-abs(z))))


def kolmogorov(evaluation: ClassEvaluation) -> CalibrationTest:
    """The test without bins: the largest mean gap of the k least confident rows, over all k.

    The statistic is that gap times k / n, a lower bound of any top-label calibration error of n rows. Rows
    of equal confidence enter at once.
    """
    order = np.argsort(evaluation.confidence)
    c = evaluation.confidence[order]
    walk = np.cumsum(c - evaluation.right[order])[np.append(c[1:] != c[:-1], True)]
    reach, variance = float(np.abs(walk).max()), float((c * (1 - c)).sum())
    p_value = brownian_reach(reach / math.sqrt(variance)) if variance > 0 else math.nan
    return CalibrationTest(reach / len(c), p_value)


def selective_risk(evaluation: ClassEvaluation) -> Risk:
    """The share wrong among the most confident rows, against the share of rows that are answered; and its AURC."""
    return risk(1.0 - evaluation.right, 1 - evaluation.confidence)


def brownian_reach(x: float) -> float:
    """The probability that the largest modulus of Brownian motion on [0, 1] is above x.

    >>> round(brownian_reach(2.2414), 4)
    0.05
    """
    if x <= 0:
        return 1.0
    k = np.arange(TERMS)
    odd, sign = 2 * k + 1, (-1.0) ** k
    if x < 1:
        return 1 - float(4 / math.pi * (sign / odd * np.exp(-((math.pi * odd / x) ** 2) / 8)).sum())
    # By reflection at both ends; small probabilities keep their digits.
    return float(4 * (sign * special.ndtr(-odd * x)).sum())


def _error(p: np.ndarray, came: np.ndarray, bin: np.ndarray) -> float:
    """The calibration error of probabilities (n,) in bins, of which each row has the number (n,)."""
    return float(np.abs(np.bincount(bin, weights=p - came)).sum() / len(p))


def equal_width(p: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The number (n,) of the bin of each probability, in bins of equal width on [0, 1] that hold their upper edge."""
    _require(bins)
    return np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)


def equal_count(p: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The number (n,) of the bin of each probability, in bins of about equally many rows, never cut through ties.

    >>> equal_count(np.array([0.3, 0.1, 0.2, 0.1]), 2).tolist()
    [1, 0, 1, 0]
    """
    _require(bins)
    ordered = np.sort(p)
    return np.searchsorted(ordered[cuts(ordered, min(bins, len(p)))[1:-1]], p, side="right")


def _require(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
