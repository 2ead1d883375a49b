"""Counts: exact laws of how many of some rows hit or miss, and exact tests of them, one by one or together.

If n rows hit independently with probabilities p_i, their number X has the Poisson-binomial law,
the convolution of n coins; equal p_i make it binomial. Several independent counts are tested
together by Pearson's statistic

    S = sum over counts of (X - mean)^2 / variance,

whose law is found by convolving the laws of its terms, each rounded to a grid of 0.01. As the
observed statistic is rounded alike, the test is exact at any number of rows, where the
chi-square law of S is off in its tail unless each count expects many hits and many misses.

Source: Hong (2013), "On computing the distribution function for the Poisson binomial distribution".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import signal, special, stats

REACH = 30.0  # standard deviations kept around the mean of a count; the rest has no mass in double precision
EXACT = 4096  # coins convolved one by one; more are sorted into as many equal parts as PARTS, each at its mean
PARTS = 500
WIDE = 2500.0  # variance above which many coins add up to a Gaussian, a tail of 1e-4 being right to 5%
GRID = 0.01  # of Pearson's statistic
MOST = 200_000  # grid points of its law; a larger statistic is tested as if it were this large
CERTAIN = 1e-9  # variance of a count that cannot vary but for rounding
FLOOR = 1e-15  # the rounding error of a tail, below which no p-value is told from zero
TOLD = 10 * FLOOR  # the least p-value that is given in figures


@dataclass(frozen=True, eq=False)
class Count:
    """The law of a count: `mass` (k,) on the integers from `start` up.

    >>> law = binomial(20, 0.9)
    >>> round(law.mean, 6), round(law.p_value(14), 4), round(law.p_below(14), 4)
    (18.0, 0.0225, 0.0113)
    """

    start: int
    mass: np.ndarray

    @property
    def mean(self) -> float:
        return float(self._support @ self.mass)

    @property
    def variance(self) -> float:
        return float(np.square(self._support - self.mean) @ self.mass)

    @property
    def _support(self) -> np.ndarray:
        return self.start + np.arange(len(self.mass))

    def p_below(self, x: int) -> float:
        """P(X <= x)."""
        return float(np.clip(self.mass[: max(x - self.start + 1, 0)].sum(), 0.0, 1.0))

    def p_above(self, x: int) -> float:
        """P(X >= x)."""
        return float(np.clip(self.mass[max(x - self.start, 0) :].sum(), 0.0, 1.0))

    def p_value(self, x: int) -> float:
        """Of the two-sided test: twice the lesser tail."""
        return min(1.0, 2 * min(self.p_below(x), self.p_above(x)))

    def band(self, confidence: float) -> tuple[int, int]:
        """The central counts, which leave out at most (1 - confidence) / 2 on either side."""
        total, tail = np.cumsum(self.mass), (1 - confidence) / 2
        low, high = np.searchsorted(total, tail, side="right"), np.searchsorted(total, 1 - tail)
        return self.start + int(low), self.start + min(int(high), len(total) - 1)


def binomial(n: int, p: float) -> Count:
    """The law of n equal coins."""
    middle, reach = n * p, REACH * np.sqrt(n * p * (1 - p)) + REACH
    start, stop = max(int(middle - reach), 0), min(int(middle + reach), n)
    return Count(start, stats.binom.pmf(np.arange(start, stop + 1), n, p))


def poisson_binomial(p: np.ndarray) -> Count:
    """The law of coins with probabilities p (n,), to rounding error up to 4096 of them.

    >>> poisson_binomial(np.array([0.5, 0.2])).mass.round(6).tolist()
    [0.4, 0.5, 0.1]
    """
    n, middle, variance = len(p), float(p.sum()), float(np.sum(p * (1 - p)))
    if n <= EXACT:
        return Count(0, _convolved(np.stack([1 - p, p], axis=1))[: n + 1])
    start = max(int(middle - REACH * np.sqrt(variance) - REACH), 0)
    stop = min(int(middle + REACH * np.sqrt(variance) + REACH), n)
    if variance <= WIDE:
        return Count(start, _inverted(p, start, stop - start + 1))
    ends = special.ndtr((np.arange(start, stop + 2) - 0.5 - middle) / np.sqrt(variance))
    return Count(start, np.diff(ends))


def _inverted(p: np.ndarray, start: int, width: int) -> np.ndarray:
    """Masses on `width` integers from `start` by the discrete Fourier inversion of the characteristic function."""
    parts = np.array_split(np.sort(p), PARTS)
    means, sizes = np.array([part.mean() for part in parts]), np.array([len(part) for part in parts])
    angle = 2 * np.pi * np.arange(width) / width
    turn = np.exp(1j * angle)
    logs = np.zeros(width, dtype=np.complex128)
    with np.errstate(divide="ignore"):  # a fair coin at angle pi has the logarithm of zero
        for mean, size in zip(means, sizes, strict=True):
            logs += size * np.log(1 - mean + mean * turn)
    return np.maximum(np.fft.fft(np.exp(logs - 1j * angle * start)).real / width, 0.0)


def _convolved(laws: np.ndarray) -> np.ndarray:
    """The law of the sum of counts (n, k), pair by pair."""
    while len(laws) > 1:
        if len(laws) % 2:
            laws = np.concatenate([laws, np.eye(1, laws.shape[1])])  # a count that is zero
        laws = np.maximum(signal.fftconvolve(laws[::2], laws[1::2], axes=1), 0.0)
    return laws[0]


def joint_p_value(observed: Sequence[int], laws: Sequence[Count]) -> tuple[float, float]:
    """Pearson's statistic of independent counts, and the exact probability of one at least as large.

    A count that cannot vary takes no part, unless it is not what it must be. What `stated` does not tell from
    zero, being rounding, is 1e-15, so that two such p-values are equal.

    >>> statistic, p = joint_p_value([14, 27], [binomial(20, 0.9), binomial(30, 0.9)])
    >>> round(statistic, 2), round(p, 3)
    (8.89, 0.02)
    """
    total, terms, impossible = 0, [], False
    for x, law in zip(observed, laws, strict=True):
        mean, variance = law.mean, law.variance
        if variance < CERTAIN:
            impossible |= abs(x - mean) > 0.5
            continue
        total += int(np.rint((x - mean) ** 2 / variance / GRID))
        support = law.start + np.arange(len(law.mass))
        terms.append((np.rint((support - mean) ** 2 / variance / GRID).astype(np.int64), law.mass))
    if impossible:
        return float("inf"), FLOOR
    top = min(total, MOST)
    if not terms or not top:
        return total * GRID, 1.0
    below = np.eye(1, top)[0]  # P(the sum so far = j) for all j below the observed one
    for score, mass in terms:
        near = score < top
        below = signal.fftconvolve(below, np.bincount(score[near], mass[near], top))[:top]
    p_value = min(float(1 - below.sum()), 1.0)
    return total * GRID, p_value if p_value >= TOLD else FLOOR


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that any one below a level has at most that chance of being false.

    In the order given; NaN stays and is not counted.
    Source: Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")  # NaN last
    count = int(np.isfinite(p).sum())
    raised = np.maximum.accumulate(p[order[:count]] * np.arange(count, 0, -1))
    adjusted = np.full(len(p), np.nan)
    adjusted[order[:count]] = np.minimum(raised, 1.0)
    return adjusted.tolist()


def stated(p_value: float) -> str:
    """A p-value as text.

    >>> stated(0.0312), stated(1e-15)
    ('p = 0.031', 'p < 1e-14')
    """
    return f"p = {p_value:.2g}" if p_value >= TOLD else f"p < {TOLD:.0e}"
