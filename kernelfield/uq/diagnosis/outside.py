"""Outside: does the model know when it is asked about something that it was not made for?

A measure of uncertainty, the predicted standard deviation or the entropy of class probabilities,
is compared between rows inside of what the model was made for (the test set) and rows outside of
it. The AUROC is the probability that a row from outside is the less certain of the two, ties
counting half: 1 if the model always tells, 0.5 if it cannot. Its interval is that of DeLong's
variance on the scale of its logit, so that it stays between 0 and 1.

Source: DeLong, DeLong & Clarke-Pearson (1988), "Comparing the Areas under Two or More Correlated
Receiver Operating Characteristic Curves"; Hendrycks & Gimpel (2017), "A Baseline for Detecting
Misclassified and Out-of-Distribution Examples in Neural Networks".
"""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from kernelfield.uq.calibration import CONFIDENCE

FEWEST = 2  # rows, without which an AUROC has no variance
COMMON = 0.95  # share of rows inside that is called usual


@dataclass(frozen=True)
class Outside:
    """How uncertain the model is outside, against inside.

    count, outside  rows inside and outside
    ratio           of the median uncertainties, outside to inside
    beyond          share of rows outside that are less certain than 95% of those inside
    auroc           probability that a row outside is less certain than one inside
    low, high       its 95% interval
    """

    count: int
    outside: int
    ratio: float
    beyond: float
    auroc: float
    low: float
    high: float


def compare(inside: np.ndarray, outside: np.ndarray) -> Outside:
    """Compare uncertainties (n,) inside and (k,) outside.

    Errors: ValueError if one has fewer than two rows, or holds what is not finite.

    >>> result = compare(np.arange(1.0, 101.0), np.arange(91.0, 111.0))
    >>> round(result.auroc, 4), result.beyond, round(result.ratio, 2)
    (0.975, 0.75, 1.99)
    """
    for name, values in {"inside": inside, "outside": outside}.items():
        if values.ndim != 1 or len(values) < FEWEST or not np.isfinite(values).all():
            raise ValueError(f"need finite uncertainties of at least {FEWEST} rows {name}, got shape {values.shape}")
    auroc, std = _area(inside, outside)
    middle = float(np.median(inside))
    low, high = _interval(auroc, std, min(len(inside), len(outside)))
    return Outside(
        count=len(inside),
        outside=len(outside),
        ratio=float(np.median(outside)) / middle if middle > 0 else float("nan"),
        beyond=float(np.mean(outside > np.quantile(inside, COMMON))),
        auroc=auroc,
        low=low,
        high=high,
    )


def _area(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """The AUROC and its standard error, from the share of the other set that each row exceeds."""
    n, k = len(inside), len(outside)
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    above = (ranks[n:] - stats.rankdata(outside)) / n  # of each row outside: share of rows inside below it
    below = 1 - (ranks[:n] - stats.rankdata(inside)) / k
    return float(above.mean()), float(np.sqrt(above.var(ddof=1) / k + below.var(ddof=1) / n))


def _interval(auroc: float, std: float, fewest: int) -> tuple[float, float]:
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    # Sets that do not overlap have no variance to tell; of the fewer rows, one might have been on the other side.
    area = min(max(auroc, 0.5 / fewest), 1 - 0.5 / fewest)
    std = max(std, float(np.sqrt(area * (1 - area) / fewest)) if area != auroc else 0.0)
    reach = z * std / (area * (1 - area))
    low, high = special.expit(special.logit(area) + np.array([-reach, reach]))
    return min(float(low), auroc), max(float(high), auroc)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """The entropy (n,) of class probabilities (n, k), in nats.

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).round(4).tolist()
    [0.6931, 0.0]
    """
    return np.sum(special.entr(probabilities), axis=1)
