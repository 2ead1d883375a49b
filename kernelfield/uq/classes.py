"""Scores of class probabilities: how good and how well calibrated they were.

For probabilities p (n, k) and the classes y that came to be, e_y the one-hot row of y:

    log loss     -log p_y, in nats
    brier        sum_c (p_c - 1[y = c])^2, between 0 and 2
    confidence   the largest probability of a row, right where its class is y
    ece          sum over bins of share |mean confidence - share right|

Bins hold about equally many rows, in order of confidence, and are cut between different confidences
only: rows in any order have the same ece, and a confidence that all rows share makes a single bin.
In bins b of share w_b, with means p_b and o_b of p and e_y over the rows, and their overall mean o,
Brier's score is

    reliability - resolution + uncertainty + within,
    sum w_b |p_b - o_b|^2  -  sum w_b |o_b - o|^2  +  (1 - |o|^2)  +  the rest,

the rest being what binning loses: the spread of p inside of bins less twice its covariance with
e_y. Chance alone gives an ece above zero. `null` is what it is, on average and in 90% of cases,
where labels are drawn from the very probabilities; the debiased ece subtracts an estimate of what
the noise of o_b adds, E|g| - |d| with g Gaussian around the gap d with the variance of o_b.

Under the null the number right in a bin is a sum of unequal coins. Its law is the product of the
polynomials 1 - p + p x, multiplied pair by pair by Fourier transforms in O(n log^2 n), so that labels are
never drawn; and a Gaussian where its variance v is above EXACT = 400, whose E|g| is then within
1 / (6 v), 0.04%, of the exact one. Either way the memory is that of one bin.

Calibration tests and errors of other definitions are in `kernelfield.uq.class_calibration`.

Sources: Murphy (1973), "A New Vector Partition of the Probability Score"; Stephenson, Coelho &
Jolliffe (2008), "Two Extra Components in the Brier Score Decomposition"; Guo et al.
(2017), "On Calibration of Modern Neural Networks"; Kumar, Liang & Ma (2019), "Verified
Uncertainty Calibration"; Brocker & Smith (2007), "Increasing the
Reliability of Reliability Diagrams", for the null; Hong (2013), "On Computing the Distribution
Function for the Poisson Binomial Distribution".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, special

from kernelfield.uq.diagnosis.columns import cuts

BINS = 15
DRAWS = 2000  # for the null: its 5% and 95% points are right to a few percent
EXACT = 400  # variance of the number right in a bin above which it is drawn as a Gaussian; see the module docstring
GROUP = 64  # coins whose law is found one by one, which is faster for few than a transform
TOLERANCE = 1e-6  # of the sum of a row, which float32 probabilities meet
LEAST = np.finfo(np.float64).tiny  # a class called impossible costs 708 nats, not infinity, so that means stay finite


@dataclass(frozen=True)
class Null:
    """The ece of calibrated probabilities, by chance: its mean, and the band that holds 90% of it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BrierParts:
    """Brier's score = reliability - resolution + uncertainty + within; see the module docstring."""

    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True, eq=False)
class Reliability:
    """The points of a reliability diagram, one a bin (k,)."""

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False)
class ClassEvaluation:
    """What was said of n rows, p (n, k), and the index (n,) of the class that came to be.

    Errors: ValueError for probabilities that are no laws, labels that are none of the classes, or
    shapes that do not agree.

    >>> p = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
    >>> result = ClassEvaluation.of(p, [0, 1, 1])
    >>> round(result.log_loss, 4), round(result.brier, 4), round(result.accuracy, 4)
    (0.4149, 0.2733, 0.6667)
    """

    probabilities: np.ndarray
    labels: np.ndarray
    bins: int = BINS

    @classmethod
    def of(cls, probabilities: ArrayLike, labels: ArrayLike, *, bins: int = BINS) -> "ClassEvaluation":
        """Check and keep probabilities (n, k) and labels (n,), integers below k."""
        p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
        if p.ndim != 2 or y.shape != p.shape[:1] or not len(p) or p.shape[1] < 2:
            raise ValueError(f"need probabilities (n, k), k >= 2, and n >= 1 labels, got {p.shape} and {y.shape}")
        off = float(np.abs(p.sum(1) - 1).max(initial=0.0))
        if not (np.isfinite(p).all() and (p >= 0).all() and off <= TOLERANCE):
            raise ValueError("each row of probabilities must be finite, not negative and sum to one; normalise them")
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= p.shape[1]:
            strange = y[0] if y.dtype.kind not in "iu" else y[(y < 0) | (y >= p.shape[1])][0]
            raise ValueError(f"labels must be columns of the probabilities, 0 to {p.shape[1] - 1}, got {strange!r}")
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        return cls(p, y, bins)

    @classmethod
    def concatenate(cls, parts: Sequence["ClassEvaluation"]) -> "ClassEvaluation":
        """The evaluation of all rows, from those of parts, with bins as `bins_for` gives them."""
        labels = np.concatenate([part.labels for part in parts])
        return cls.of(np.concatenate([part.probabilities for part in parts]), labels, bins=bins_for(len(labels)))

    @property
    def losses(self) -> np.ndarray:
        """The log loss (n,) of each row, in nats."""
        said = self.probabilities[np.arange(len(self.labels)), self.labels]
        return -np.log(np.maximum(said, LEAST))

    @cached_property
    def squares(self) -> np.ndarray:
        """Brier's score (n,) of each row."""
        return np.square(self.probabilities - self._outcomes).sum(1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability (n,) of the class that was predicted."""
        return self.probabilities.max(1)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether the predicted class is the one that came, booleans (n,)."""
        return self.probabilities.argmax(1) == self.labels

    @property
    def log_loss(self) -> float:
        return float(self.losses.mean())

    @property
    def brier(self) -> float:
        return float(self.squares.mean())

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def _outcomes(self) -> np.ndarray:
        return np.eye(self.probabilities.shape[1])[self.labels]

    def reliability(self) -> Reliability:
        """Mean confidence and share right of each bin, from the least confident up."""
        means = [(self.confidence[part].mean(), self.right[part].mean(), len(part)) for part in self._bins]
        return Reliability(*(np.array(column) for column in zip(*means, strict=True)))

    @cached_property
    def _bins(self) -> list[np.ndarray]:
        """The rows of each bin; those of equal confidence share one."""
        order = np.argsort(self.confidence, kind="stable")
        return np.split(order, cuts(self.confidence[order], min(self.bins, len(order)))[1:-1])

    @property
    def bin(self) -> np.ndarray:
        """The number (n,) of the bin of each row."""
        found = np.empty(len(self.labels), dtype=np.intp)
        for number, part in enumerate(self._bins):
            found[part] = number
        return found

    @property
    def ece(self) -> float:
        """The expected calibration error of the predicted class; see `null` for what chance gives."""
        points = self.reliability()
        return float(np.average(np.abs(points.confidence - points.accuracy), weights=points.count))

    @property
    def ece_debiased(self) -> float:
        """The ece without what the noise of finite bins adds; it may be below zero."""
        points = self.reliability()
        gap = np.abs(points.confidence - points.accuracy)
        std = np.sqrt(points.accuracy * (1 - points.accuracy) / points.count)
        return float(np.average(2 * gap - _folded(gap, std), weights=points.count))

    def null(self, *, seed: int = 0) -> Null:
        """What the ece would be by chance if the probabilities were right."""
        generator = np.random.default_rng(seed)
        total = np.zeros(DRAWS)
        for part in self._bins:
            total += np.abs(_chance(self.confidence[part], DRAWS, generator)) / len(self.labels)
        low, high = np.quantile(total, [0.05, 0.95])
        return Null(float(total.mean()), float(low), float(high))

    def brier_parts(self) -> BrierParts:
        """Murphy's decomposition over the bins; the parts add up to the score exactly."""
        outcomes, overall = self._outcomes, self._outcomes.mean(0)
        reliability = resolution = 0.0
        for part in self._bins:
            share, said, came = len(part) / len(outcomes), self.probabilities[part].mean(0), outcomes[part].mean(0)
            reliability += share * float(np.square(said - came).sum())
            resolution += share * float(np.square(came - overall).sum())
        uncertainty = 1 - float(np.square(overall).sum())
        return BrierParts(reliability, resolution, uncertainty, self.brier - reliability + resolution - uncertainty)

    def scores(self) -> dict[str, float]:
        """All numbers by name, for tables; the null's are those of its default seed."""
        null = self.null()
        return {
            "accuracy": self.accuracy,
            "log_loss": self.log_loss,
            "brier": self.brier,
            "ece": self.ece,
            "ece_debiased": self.ece_debiased,
            "ece_null_low": null.low,
            "ece_null_high": null.high,
        }


def bins_for(rows: int) -> int:
    """Bins for a set of rows: ten rows each and more, so that a bin says something."""
    return min(BINS, max(1, rows // 10))


def _chance(p: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """How many more coins of probabilities p (n,) than expected show heads, in so many draws."""
    variance = float((p * (1 - p)).sum())
    if variance > EXACT:
        return np.sqrt(variance) * generator.standard_normal(draws)
    heads = np.searchsorted(_heads(p).cumsum(), generator.random(draws))
    return np.minimum(heads, len(p)) - p.sum()


def _heads(p: np.ndarray) -> np.ndarray:
    """The law (n + 1,) of the number of heads of coins of probabilities p (n,), to 1e-14."""
    rows = 1 << (-(-len(p) // GROUP) - 1).bit_length()
    each = -(-len(p) // rows)
    coins = np.zeros(each * rows)
    coins[: len(p)] = p
    factors = np.zeros((rows, each + 1))
    factors[:, 0] = 1.0
    for number, one in enumerate(coins.reshape(each, rows, 1), 1):
        factors[:, 1 : number + 1] += one * (factors[:, :number] - factors[:, 1 : number + 1])
        factors[:, :1] *= 1 - one
    while len(factors) > 1:
        terms = 2 * factors.shape[1] - 1
        length = fft.next_fast_len(terms, real=True)
        spectrum = fft.rfft(factors, length, axis=1)
        factors = fft.irfft(spectrum[0::2] * spectrum[1::2], length, axis=1)[:, :terms]
    law = np.maximum(factors[0, : len(p) + 1], 0)  # rounding leaves numbers about zero
    return law / law.sum()


def _folded(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """E|g| of g ~ N(mean, std^2), also where std is zero."""
    safe = np.where(std > 0, std, 1.0)
    z = mean / safe
    value = safe * np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2) + mean * (2 * special.ndtr(z) - 1)
    return np.where(std > 0, value, np.abs(mean))
