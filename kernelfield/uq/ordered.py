"""Ordered: intervals of scores of an order of rows, which are no functions of means.

Drawing rows with replacement gives row i the weight w_i, how often it was drawn. With rows sorted once, by doubt
and by loss, scores of a draw are weighted sums of running sums: with losses l in order of doubt and n = sum w,

    kept_i = sum_(j <= i) w_j l_j / sum_(j <= i) w_j,      AURC = sum_i w_i kept_i / n,

and the AUSE is the same of sqrt(kept) less the like in order of loss, over sqrt(kept_n). Rows of equal doubt share
their mean loss. Intervals are BCa (`kernelfield.uq.bootstrap`), with the jackknife of at most 200 random groups of
rows.

Work is bounded: of more than 5000 rows as many are drawn without replacement, and the ends of their interval are
moved to the score of all n rows and to sqrt(5000 / n) of their distance from it, as both scores are means of
influences but for terms of higher order.

Source: Efron (1987), "Better Bootstrap Confidence Intervals"; Politis, Romano & Wolf (1999), "Subsampling", chapter 2,
for the interval from fewer rows.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from kernelfield.uq.bootstrap import DRAWS, UNITS, bca
from kernelfield.uq.gaps import AgainstChance
from kernelfield.uq.resolution import Risk, Sparsified

CHUNK = 2**19  # weights held at once
GROUPS = 200  # of the jackknife
FEWEST = 4  # rows

Score = Callable[[np.ndarray], np.ndarray]


def ause_interval(found: Sparsified, error: np.ndarray, std: np.ndarray, *, seed: int = 0) -> AgainstChance:
    """The AUSE of errors and deviations (n,), of which `found` is the curve, beside that of a random order.

    >>> from kernelfield.uq.resolution import sparsified
    >>> from kernelfield.uq.scores import Evaluation
    >>> rng = np.random.default_rng(0)
    >>> std = rng.uniform(0.5, 2, 500)
    >>> error = std * rng.normal(size=500)
    >>> law = Evaluation(*(x[:, None] for x in (error, 0 * std, std, *(5 * [std]))))
    >>> curve = sparsified(law)
    >>> one = ause_interval(curve, error, std)
    >>> one.value == curve.ause, bool(one.low < curve.ause < one.high < one.chance)
    (True, True)
    """
    chance = found.ause + found.gain
    rows = _sampled(len(error), seed)
    loss, doubt = np.square(error[rows] / (found.whole or 1.0)), std[rows]
    by_doubt, by_loss = _Kept.of(loss, doubt), _Kept.of(loss, loss)

    def score(weight: np.ndarray) -> np.ndarray:
        left, best = (one.means(weight, np.sqrt) for one in (by_doubt, by_loss))
        whole = np.sqrt(weight @ loss / weight.sum(1))
        return (left - best) / np.where(whole > 0, whole, 1.0)

    return _about(found.ause, chance, score, len(error), len(loss), seed)


def aurc_interval(found: Risk, loss: np.ndarray, doubt: np.ndarray, *, seed: int = 0) -> AgainstChance:
    """The AURC of losses and doubts (n,), of which `found` is the curve, beside that of a random order.

    >>> from kernelfield.uq.resolution import risk
    >>> loss, doubt = np.tile([0.0, 0.0, 1.0], 40), np.tile([0.1, 0.2, 0.3], 40)
    >>> one = aurc_interval(risk(loss, doubt), loss, doubt)
    >>> bool(one.low < one.value < one.high), round(one.chance, 3)
    (True, 0.333)
    """
    rows = _sampled(len(loss), seed)
    by_doubt = _Kept.of(np.asarray(loss, dtype=float)[rows], np.asarray(doubt, dtype=float)[rows])
    score = lambda weight: by_doubt.means(weight, lambda kept: kept)  # noqa: E731
    return _about(found.aurc, float(np.mean(loss)), score, len(loss), len(rows), seed)


class _Kept:
    """Losses (m,) in the order of a doubt."""

    def __init__(self, order: np.ndarray, loss: np.ndarray, starts: np.ndarray) -> None:
        self.order, self.loss, self.starts = order, loss, starts

    @classmethod
    def of(cls, loss: np.ndarray, doubt: np.ndarray) -> "_Kept":
        order = np.argsort(doubt, kind="stable")
        ordered = doubt[order]
        return cls(order, loss[order], np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])))

    def means(self, weight: np.ndarray, shape: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The mean (b,) of shape(kept) over rows of weights (b, m)."""
        times = np.take(weight, self.order, axis=1)
        lost = times * self.loss
        count = np.cumsum(times, axis=1)
        if len(self.starts) < len(self.loss):
            # Of rows of equal doubt all have the running mean of losses that are alike.
            held = np.add.reduceat(times, self.starts, axis=1)
            mean = np.add.reduceat(lost, self.starts, axis=1) / np.maximum(held, 1.0)
            sizes = np.diff(np.append(self.starts, len(self.loss)))
            lost = times * np.repeat(mean, sizes, axis=1)
        np.cumsum(lost, axis=1, out=lost)
        lost /= np.maximum(count, 1.0)
        return (times * shape(lost)).sum(1) / count[:, -1]


def _sampled(n: int, seed: int) -> np.ndarray:
    return np.arange(n) if n <= UNITS else np.sort(np.random.default_rng(seed).choice(n, UNITS, replace=False))


def _about(value: float, chance: float, score: Score, n: int, m: int, seed: int) -> AgainstChance:
    """The interval of a score of n rows, from its draws of m of them."""
    if m < FEWEST or not math.isfinite(value):
        return AgainstChance(value, math.nan, math.nan, chance)
    generator = np.random.default_rng(seed)
    own = score(np.ones((1, m)))
    drawn = np.concatenate([score(weight) for weight in _drawn(m, generator)])
    kept = np.concatenate([score(weight) for weight in _left_out(m, generator)])
    ends = bca(own, drawn[:, None], kept[:, None])
    low, high = (value + (float(end[0]) - float(own[0])) * math.sqrt(m / n) for end in ends)
    return AgainstChance(value, max(low, 0.0), high, chance)


def _drawn(m: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Weights (b, m) of draws with replacement."""
    most = max(CHUNK // m, 1)
    for start in range(0, DRAWS, most):
        draws = min(most, DRAWS - start)
        chosen = generator.integers(m, size=(draws, m)) + np.arange(draws)[:, None] * m
        yield np.bincount(chosen.ravel(), minlength=draws * m).reshape(draws, m).astype(float)


def _left_out(m: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Weights (b, m) of all rows but those of one group."""
    groups = min(m, GROUPS)
    group = generator.permutation(m) % groups
    most = max(CHUNK // m, 1)
    for start in range(0, groups, most):
        yield (group != np.arange(start, min(start + most, groups))[:, None]).astype(float)
