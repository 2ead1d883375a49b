"""Resolution: does the predicted spread say where the errors are?

Laws may be calibrated on the whole and yet say the same of every row. What follows asks for more,
of one output and from its errors e = y - mean and its standard deviations s.

    spread       bins of about equally many rows in order of s: the root mean square of e against that of s.
                 The ENCE is the mean over bins of |rms e / rms s - 1|
    correlation  Spearman's, of |e| and s
    sparsified   the error of the rows that are left as those of largest s are removed, as a share of
                 the error of all. The oracle removes those of largest |e|; chance leaves the error as
                 it is. AUSE is the area over the oracle's curve, the gain that under the error of chance
    risk         the mean loss of the share of rows that are most sure; AURC is its mean over shares,
                 its excess what an order by the losses themselves would save
    crps parts   crps = reliability - resolution + uncertainty

Rows of equal s are in no order, and in one bin. Each is given their mean loss, which is what removing them at random
gives on average, so that constant s has the curves of chance and not those of the order of the file.

Hersbach's parts of the CRPS are of an ensemble x_1 <= ... <= x_k and exact for it. With a_i and b_i the
mean lengths of [x_i, x_i+1] that lie below and above y, g = a + b, o = b / g and p = i / k,

    crps = sum a p^2 + b (1 - p)^2 = sum g (o - p)^2 + sum g o (1 - o),

where for values outside of the ensemble o is their share, and g the mean of their distances to it over
that share. The first sum is the reliability; the second is what perfectly reliable probabilities would leave.
The uncertainty is the crps of always predicting the values that came, and the resolution what the second
sum is less than it. A law enters by its quantiles at (i - 1/2) / k; the crps of 50 of them is 0.03% above a
Gaussian's own.

Sources: Levi, Gispan, Giladi & Fetaya (2022), "Evaluating and Calibrating Uncertainty Prediction in
Regression Tasks", for ENCE; Bonett & Wright (2000), "Sample Size Requirements for Estimating Pearson,
Kendall and Spearman Correlations", for the interval; Ilg et al. (2018), "Uncertainty Estimates and
Multi-Hypotheses Networks for Optical Flow", for AUSE; Geifman, Uziel & El-Yaniv (2019), "Bias-Reduced
Uncertainty Estimation for Deep Neural Classifiers", for AURC and its excess; Hersbach (2000),
"Decomposition of the Continuous Ranked Probability Score for Ensemble Prediction Systems".
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.bootstrap import Interval
from kernelfield.uq.calibration import CONFIDENCE
from kernelfield.uq.diagnosis.columns import cuts
from kernelfield.uq.scores import Evaluation

BINS = 10
LEAST_ROWS = 4  # of the interval of a correlation
POINTS = 101  # of a curve that is drawn
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEMBERS = 50


@dataclass(frozen=True, eq=False)
class Spread:
    """Bins of about equally many rows (k,) in order of the predicted standard deviation, never cut through ties.

    predicted  root mean square of the deviations, units of y
    found      root mean square of the errors, units of y, and its 95% interval low to high
    count      rows
    """

    predicted: np.ndarray
    found: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray

    @property
    def ence(self) -> float:
        """The expected normalised calibration error; see the module docstring."""
        return float(np.mean(np.abs(self.found / self.predicted - 1)))

    @property
    def ence_by_chance(self) -> float:
        """What the noise of finite bins alone gives on average, as far as it is normal."""
        reach = stats.norm.ppf((1 + CONFIDENCE) / 2)
        error = np.log(self.high / self.low) / (2 * reach)
        return float(np.mean(math.sqrt(2 / math.pi) * error))


@dataclass(frozen=True, eq=False)
class Sparsified:
    """The error that is left as a share of that of all rows, at points (k,) of a curve.

    removed  the share of rows removed
    error    by predicted deviation, the largest first
    oracle   by the errors themselves; by chance it is 1
    whole    the error of all rows, units of y
    ause     area between error and oracle: 0 is a perfect order
    gain     area between 1 and error: 0 is an order without information
    """

    removed: np.ndarray
    error: np.ndarray
    oracle: np.ndarray
    whole: float
    ause: float
    gain: float


@dataclass(frozen=True, eq=False)
class Risk:
    """The mean loss of the most sure rows, at points (k,) of a curve.

    kept    the share of rows kept
    risk    their mean loss, units of the loss
    oracle  that of as many rows of least loss
    aurc    mean of the risk over all shares; that of a random order is the loss of all rows
    excess  aurc less that of the oracle
    """

    kept: np.ndarray
    risk: np.ndarray
    oracle: np.ndarray
    aurc: float
    excess: float


@dataclass(frozen=True)
class CrpsParts:
    """crps = reliability - resolution + uncertainty, in units of y; see the module docstring."""

    crps: float
    reliability: float
    resolution: float
    uncertainty: float


def spread(evaluation: Evaluation, bins: int = BINS) -> Spread:
    """Errors against predicted deviations, bin by bin.

    Errors: ValueError if there are fewer than two rows a bin.
    """
    n = len(evaluation.y)
    if not 1 <= bins <= n // 2:
        raise ValueError(
            f"{bins} bins need at least {max(2 * bins, 2)} rows and one bin, got {n} rows; take fewer bins"
        )
    error, std = _columns(evaluation)
    bin = alike(std, bins)
    count = np.bincount(bin)
    mean = lambda x: np.bincount(bin, x) / count  # noqa: E731
    square, variance, z = mean(error**2), mean(std**2), np.square(error / std)
    # Errors are s times numbers z that are alike, also in a bin whose deviations are not.
    noise = np.sqrt(np.maximum(mean(z**2) - mean(z) ** 2, 0) / (count - 1) * mean(np.square(std**2))) / variance
    reach = np.exp(stats.norm.ppf((1 + CONFIDENCE) / 2) * noise / np.where(mean(z) > 0, mean(z), 1.0) / 2)
    found = np.sqrt(square)
    return Spread(np.sqrt(variance), found, found / reach, found * reach, count)


def alike(std: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The number (n,) of the bin of each deviation, in bins of about equally many rows, never cut through ties.

    >>> alike(np.array([2.0, 1.0, 3.0, 1.0, 4.0]), 2).tolist()
    [0, 0, 1, 0, 1]
    """
    ordered = np.sort(std)
    return np.searchsorted(ordered[cuts(ordered, bins)[1:-1]], std, side="right")


def correlation(evaluation: Evaluation) -> Interval:
    """Spearman's correlation of |error| and predicted deviation, with its interval; NaN where either is constant.

    Errors: ValueError for fewer than four rows.
    """
    error, std = _columns(evaluation)
    n = len(error)
    if n < LEAST_ROWS:
        raise ValueError(f"a correlation with an interval needs at least {LEAST_ROWS} rows, got {n}")
    if np.ptp(np.abs(error)) == 0 or np.ptp(std) == 0:
        return Interval(math.nan, math.nan, math.nan)
    ranks = (stats.rankdata(column) for column in (np.abs(error), std))
    value = float(np.corrcoef(*ranks)[0, 1])
    reach = stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((1 + value**2 / 2) / (n - 3))
    centre = math.atanh(min(max(value, -1 + 1e-15), 1 - 1e-15))
    return Interval(value, math.tanh(centre - reach), math.tanh(centre + reach))


def sparsified(evaluation: Evaluation, *, power: int = 2) -> Sparsified:
    """The sparsification curve of the root mean square error (power 2) or the mean absolute error (power 1).

    >>> law = Evaluation(*(np.array([[1.0], [2.0], [3.0], [4.0]]) * c for c in (1, 0, 1, 0, 0, 0, 0, 0)))
    >>> curve = sparsified(law, power=1)  # deviations in the order of the errors
    >>> curve.ause, round(curve.gain, 3), curve.whole
    (0.0, 0.3, 2.5)
    """
    if power not in (1, 2):
        raise ValueError(f"power must be 1 (mean absolute error) or 2 (root mean square error), got {power}")
    error, std = _columns(evaluation)
    loss = np.abs(error) ** power
    left, best = (means ** (1 / power) for means in (_kept(loss, std), _least(loss)))
    whole = float(left[-1])
    unit = whole or 1.0
    ause, gain = float(np.mean(left - best)) / unit, float(np.mean(whole - left)) / unit
    at = _thinned(len(left))
    removed = 1 - (at[::-1] + 1) / len(left)
    return Sparsified(removed, left[at][::-1] / unit, best[at][::-1] / unit, whole, ause, gain)


def risk(loss: np.ndarray, doubt: np.ndarray) -> Risk:
    """The risk of answering only where doubt is least, from the loss and the doubt (n,) of each row.

    For a regression, losses are squared errors and doubt the predicted deviation; for classes, losses are
    1 where the predicted class is wrong and doubt is 1 - confidence.

    >>> curve = risk(np.array([0.0, 1.0, 0.0]), np.array([0.1, 0.2, 0.3]))
    >>> round(curve.aurc, 4), round(curve.excess, 4)  # risks 0, 1/2, 1/3; at best 0, 0, 1/3
    (0.2778, 0.1667)
    """
    loss, doubt = np.asarray(loss, dtype=float), np.asarray(doubt, dtype=float)
    if loss.ndim != 1 or loss.shape != doubt.shape or not len(loss):
        raise ValueError(f"need a loss and a doubt for each of n >= 1 rows, got shapes {loss.shape} and {doubt.shape}")
    mean, best = _kept(loss, doubt), _least(loss)
    at = _thinned(len(mean))
    aurc = float(mean.mean())
    return Risk((at + 1) / len(mean), mean[at], best[at], aurc, aurc - float(best.mean()))


def widths(evaluation: Evaluation, levels: Sequence[float] = QUANTILES) -> np.ndarray:
    """Quantiles of the widths of the 90% intervals of one output, units of y."""
    return np.quantile((evaluation.high - evaluation.low)[:, 0], levels)


def dispersion(evaluation: Evaluation) -> float:
    """The coefficient of variation of the predicted deviations of one output; 0 if they are all the same."""
    std = evaluation.std[:, 0]
    return float(np.std(std, ddof=1) / np.mean(std)) if len(std) > 1 else math.nan


def crps_parts(members: np.ndarray, y: np.ndarray) -> CrpsParts:
    """Hersbach's parts of the CRPS of ensembles (n, k) for the values y (n,).

    >>> parts = crps_parts(np.array([[0.0, 2.0], [1.0, 3.0]]), np.array([1.0, 2.0]))
    >>> parts.crps == parts.reliability - parts.resolution + parts.uncertainty
    True
    """
    members, y = np.asarray(members, dtype=float), np.asarray(y, dtype=float)
    if members.ndim != 2 or y.shape != members.shape[:1] or not members.size:
        raise ValueError(
            f"need members (n, k) and a value for each of n rows, got shapes {members.shape} and {y.shape}"
        )
    return _decomposed(np.sort(members, axis=1).T[..., None], y[:, None])[0]


def crps_parts_of(law: Posterior, y: Tensor, members: int = MEMBERS) -> list[CrpsParts]:
    """The parts of each output of a law (n, m), from as many quantiles of equal mass as there are members."""
    if members < 2:
        raise ValueError(f"a law needs at least 2 quantiles to stand for it, got {members}")
    came = y.reshape(law.mean.shape).double().cpu().numpy()
    levels = ((np.arange(members) + 0.5) / members).tolist()
    with torch.no_grad():
        return _decomposed((law.quantile(level).double().cpu().numpy() for level in levels), came)


def _decomposed(columns: Iterable[np.ndarray], y: np.ndarray) -> list[CrpsParts]:
    """Of members (n, m), the smallest first, of which two are held at a time, and values (n, m)."""
    ordered = iter(columns)
    last = next(ordered)
    below, above = [np.zeros(y.shape[1])], [np.maximum(last - y, 0).mean(0)]
    share = [(y < last).mean(0)]
    for x in ordered:
        inside = np.clip(y, last, x)
        below.append((inside - last).mean(0))
        above.append((x - inside).mean(0))
        last = x
    below.append(np.maximum(y - last, 0).mean(0))
    above.append(np.zeros(y.shape[1]))
    share.append((y < last).mean(0))
    return _hersbach(np.stack(below), np.stack(above), np.stack(share), _climatology(y))


def _hersbach(below: np.ndarray, above: np.ndarray, share: np.ndarray, uncertainty: np.ndarray) -> list[CrpsParts]:
    """From mean lengths (k + 1, m) on both sides of y, and shares (2, m) of y below the first and last member."""
    width = below + above
    o = above / np.where(width > 0, width, 1.0)
    o[0], o[-1] = share
    width[0] = above[0] / np.where(share[0] > 0, share[0], 1.0)
    width[-1] = below[-1] / np.where(share[1] < 1, 1 - share[1], 1.0)
    p = (np.arange(len(width)) / (len(width) - 1))[:, None]
    reliability, potential = (width * (o - p) ** 2).sum(0), (width * o * (1 - o)).sum(0)
    columns = reliability + potential, reliability, uncertainty - potential, uncertainty
    return [CrpsParts(*(float(part) for part in parts)) for parts in zip(*columns, strict=True)]


def _climatology(y: np.ndarray) -> np.ndarray:
    """The mean crps (m,) of always predicting the values y (n, m): the integral of F (1 - F), a step function."""
    share = (np.arange(1, len(y)) / len(y))[:, None]
    return (share * (1 - share) * np.diff(np.sort(y, axis=0), axis=0)).sum(0)


def _columns(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Errors and deviations (n,) of one output."""
    if evaluation.y.shape[1] != 1:
        raise ValueError(f"this is a measure of one output, got {evaluation.y.shape[1]}; take evaluation.output(i)")
    return (evaluation.y - evaluation.mean)[:, 0], evaluation.std[:, 0]


def _kept(loss: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """Mean losses (n,) of the 1, 2, ..., n rows of least doubt; rows of equal doubt share their loss."""
    order = np.argsort(doubt)
    loss, doubt = loss[order], doubt[order]
    starts = np.flatnonzero(np.append(True, doubt[1:] != doubt[:-1]))
    if len(starts) < len(loss):
        count = np.diff(np.append(starts, len(loss)))
        loss = np.repeat(np.add.reduceat(loss, starts) / count, count)
    return np.cumsum(loss) / np.arange(1, len(loss) + 1)


def _least(loss: np.ndarray) -> np.ndarray:
    """Mean losses (n,) of the 1, 2, ..., n rows of least loss."""
    return np.cumsum(np.sort(loss)) / np.arange(1, len(loss) + 1)


def _thinned(n: int) -> np.ndarray:
    """Indices of the points of a curve of n that are drawn, the last of them among these."""
    return np.unique(np.linspace(0, n - 1, min(n, POINTS)).round().astype(int))
