"""Detection: does a score tell rows like those of training from rows that are not?

A score is larger the less a row is like the training rows: the predicted standard deviation, the entropy
of class probabilities, a distance. From its values inside (n0,) and outside (n1,):

    auroc         probability that a row from outside has the larger score, ties counted half
    aupr_outside  average precision of calling the rows of largest score outside
    aupr_inside   average precision of calling the rows of least score inside; both depend on n1 / n0
    fpr95         share of the outside that is let in by the threshold that lets 95% of the inside in

The interval of auroc is DeLong's on the logit scale. Where the two sets do not overlap, its variance is
zero, and what is known is only that min(n0, n1) separate pairs were all in order: the end is
((1 - confidence) / 2)^(1 / min(n0, n1)), which is exact.

Those of the others are percentiles of 1000 draws of both sets. Scores are first cut into at most
CELLS = 4096 cells of equally many rows, whose counts are drawn: every distinct score has its own cell
where there are no more of them, and beyond, a cell moves a share of rows by 1/4096 at most. The work
does not grow with the rows, and scores are taken from all of them.

Sources: DeLong, DeLong & Clarke-Pearson (1988), "Comparing the Areas under Two or More Correlated
Receiver Operating Characteristic Curves"; Sun & Xu (2014), "Fast Implementation of DeLong's Algorithm";
Hendrycks & Gimpel (2017), "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", for
both directions; Liang, Li & Srikant (2018), "Enhancing the Reliability of Out-of-distribution Image
Detection in Neural Networks", for the false positive rate.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats
from sklearn.metrics import average_precision_score, roc_auc_score

from kernelfield.uq.bootstrap import DRAWS, Interval
from kernelfield.uq.calibration import CONFIDENCE

LET_IN = 0.95
CELLS = 4096
POINTS = 201  # of the curve that is drawn
FEWEST = 2  # rows of either set


@dataclass(frozen=True, eq=False)
class Detection:
    """How well a score tells outside from inside; the curve's points are shares of rows called outside.

    inside, outside          rows
    false_alarms, detections shares (k,) of the inside and of the outside above a threshold
    """

    auroc: Interval
    aupr_outside: Interval
    aupr_inside: Interval
    fpr95: Interval
    inside: int
    outside: int
    false_alarms: np.ndarray
    detections: np.ndarray


def detection(
    inside: ArrayLike, outside: ArrayLike, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Detection:
    """Compare the scores of rows inside (n0,) and outside (n1,).

    Cost: 3 s for 1,000,000 rows of both together.

    >>> generator = np.random.default_rng(0)
    >>> found = detection(generator.normal(size=500), generator.normal(2.0, size=300))
    >>> round(found.auroc.value, 2), round(found.auroc.low, 2), round(found.auroc.high, 2)  # of the law, 0.92
    (0.92, 0.9, 0.94)

    Errors: ValueError if a set has fewer than two rows, or scores are not finite.
    """
    near, far = (_checked(scores, name) for scores, name in ((inside, "inside"), (outside, "outside")))
    scores = np.concatenate([near, far])
    came = np.repeat([0, 1], [len(near), len(far)])
    # The threshold is a score that was seen, the least that lets in 95% of the inside.
    threshold = np.quantile(near, LET_IN, method="inverted_cdf")
    values = np.array(
        [
            average_precision_score(came, scores),
            average_precision_score(1 - came, -scores),
            np.mean(far <= threshold),
        ]
    )
    cells = _cells(near, far)
    generator = np.random.default_rng(seed)
    drawn = [generator.multinomial(counts.sum(), counts / counts.sum(), size=draws) for counts in cells]
    shifted = _from_counts(*drawn) + values - _from_counts(*(counts[None] for counts in cells))
    low, high = np.clip(np.quantile(shifted, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0), 0, 1)
    outward, inward, let_in = (
        Interval(value, start, end, confidence)
        for value, start, end in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    )
    alarms, found = (np.append(0, np.cumsum(counts[::-1]) / counts.sum()) for counts in cells)
    at = np.unique(np.linspace(0, len(alarms) - 1, min(len(alarms), POINTS)).round().astype(int))
    auroc = delong(near, far, confidence)
    return Detection(auroc, outward, inward, let_in, len(near), len(far), alarms[at], found[at])


def _checked(scores: ArrayLike, name: str) -> np.ndarray:
    values = np.sort(np.asarray(scores, dtype=float).ravel())  # what follows searches and sorts faster in order
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{bad} scores of rows {name} are NaN or infinite; drop these rows")
    if len(values) < FEWEST:
        raise ValueError(f"need scores of at least {FEWEST} rows {name} (better 50), got {len(values)}")
    return values


def delong(near: np.ndarray, far: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The area for scores (n,) and (k,), each in order, and its interval.

    From the share of the other set that each row is on the right side of.
    """
    value = float(roc_auc_score(np.repeat([0, 1], [len(near), len(far)]), np.concatenate([near, far])))
    if value in (0.0, 1.0):
        end = ((1 - confidence) / 2) ** (1 / min(len(near), len(far)))
        low, high = (end, 1.0) if value == 1 else (0.0, 1 - end)
        return Interval(value, low, high, confidence)
    above = _share_below(near, far), 1 - _share_below(far, near)
    error = math.sqrt(sum(float(np.var(share, ddof=1)) / len(share) for share in above))
    reach = stats.norm.ppf((1 + confidence) / 2) * error / (value * (1 - value))
    low, high = special.expit(special.logit(value) + np.array([-reach, reach])).tolist()
    return Interval(value, low, high, confidence)


def _share_below(reference: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each score the share of reference values, in order, below it; ties counted half."""
    below, up_to = (np.searchsorted(reference, scores, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(reference))


def _cells(near: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each set (k,) in cells of scores, the least first; equal scores share a cell."""
    ordered = np.sort(np.concatenate([near, far]))
    edges = ordered[np.append(ordered[1:] != ordered[:-1], True)]
    if len(edges) > CELLS:
        edges = np.unique(ordered[np.linspace(0, len(ordered), CELLS + 1).astype(int)[1:] - 1])
    counted = lambda scores: np.bincount(np.searchsorted(edges, scores), minlength=len(edges))  # noqa: E731
    return counted(near), counted(far)


def _from_counts(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Both average precisions and the false positive rate (draws, 3), from counts (draws, k)."""
    out = _precision(far[:, ::-1], near[:, ::-1])
    back = _precision(near, far)
    let_in = np.cumsum(near, axis=1) >= LET_IN * near.sum(1, keepdims=True) * (1 - 1e-12)
    cell = let_in.argmax(1)
    missed = np.take_along_axis(np.cumsum(far, axis=1), cell[:, None], axis=1)[:, 0] / far.sum(1)
    return np.stack([out, back, missed], axis=1)


def _precision(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Average precision (draws,) of calling cells (draws, k) in their order: sum of steps of recall times precision."""
    found = np.cumsum(right, axis=1)
    called = found + np.cumsum(wrong, axis=1)
    return (right * found / np.maximum(called, 1)).sum(1) / right.sum(1)
