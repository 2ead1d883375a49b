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
from scipy import special

from kernelfield.uq.detection import delong

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
    area = delong(np.sort(inside), np.sort(outside))
    middle = float(np.median(inside))
    return Outside(
        count=len(inside),
        outside=len(outside),
        ratio=float(np.median(outside)) / middle if middle > 0 else float("nan"),
        beyond=float(np.mean(outside > np.quantile(inside, COMMON))),
        auroc=area.value,
        low=area.low,
        high=area.high,
    )


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """The entropy (n,) of class probabilities (n, k), in nats.

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).round(4).tolist()
    [0.6931, 0.0]
    """
    return np.sum(special.entr(probabilities), axis=1)
