"""Constant: what predicted spreads are worth beside one width for all rows, around the model's own means.

A model that predicts a spread for each row ought to do better than the same means with

    one Gaussian deviation           the root mean square of the errors
    one conformal half width (90%)   the k-th smallest |error| of n, k = ceil((n + 1) 0.9)

Both are learned from rows that they are not measured on: rows are cut in two at random, and each half has the
width of the other. Gains are 1 - score / that of the constant width, with the intervals of
`kernelfield.uq.bootstrap`, in which the width is held.

Source: Lei et al. (2018), "Distribution-Free Predictive Inference for Regression", for intervals of one width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kernelfield.core.posterior import Draws
from kernelfield.uq.bootstrap import Interval, intervals
from kernelfield.uq.conformal.ranks import rank
from kernelfield.uq.scores import LEVEL, Evaluation, evaluate

FEWEST = 20  # rows


@dataclass(frozen=True)
class Constant:
    """Of one output: the scores of its means with one Gaussian deviation, and the gains of predicted spreads.

    std      the deviations of both halves, units of y
    skill    by "crps" and "interval90" over the Gaussian, "conformal90" of interval scores over the conformal width
    """

    std: tuple[float, float]
    scores: dict[str, float]
    skill: dict[str, Interval]

    @property
    def sentence(self) -> str:
        """What predicted spreads are worth."""
        gain = self.skill["crps"]
        which = "lower" if gain.value >= 0 else "higher"
        ends = f"95% interval {gain.low:+.1%} to {gain.high:+.1%}"
        law = "a law of the same means and one deviation for all rows"
        words = f"The CRPS is {abs(gain.value):.1%} {which} than that of {law} ({ends})"
        if gain.low > 0:
            return f"{words}, so that predicted spreads are worth something."
        return f"{words}; predicted spreads are {'worse' if gain.high < 0 else 'not clearly better'} than one for all."


def constant_spread(evaluation: Evaluation, *, seed: int = 0) -> Constant | None:
    """Of one output; None for fewer than 20 rows or errors that are all zero.

    >>> rng = np.random.default_rng(0)
    >>> std = rng.uniform(0.2, 2, 800)
    >>> law = Draws(torch.zeros(1, 800, 1), torch.ones(1), torch.tensor(std[:, None] ** 2))
    >>> found = constant_spread(evaluate(law, std * rng.normal(size=800)))
    >>> bool(found.skill["crps"].low > 0), round(float(found.std[0] / np.sqrt(np.mean(std**2))), 1)
    (True, 1.0)
    """
    n = len(evaluation.y)
    if n < FEWEST:
        return None
    first = np.zeros(n, dtype=bool)
    first[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    error = np.abs(evaluation.y - evaluation.mean)[:, 0]
    spread = [math.sqrt(float(np.mean(np.square(error[half])))) for half in (~first, first)]
    if not min(spread) > 0:
        return None
    variance = torch.from_numpy(np.where(first, spread[0] ** 2, spread[1] ** 2)[:, None])
    rival = evaluate(Draws(torch.from_numpy(evaluation.mean)[None], torch.ones(1), variance), evaluation.y)
    ranked = [float(np.sort(error[half])[rank(int(half.sum()), LEVEL) - 1]) for half in (~first, first)]
    reach = np.where(first, ranked[0], ranked[1])
    conformal = 2 * reach + 2 / (1 - LEVEL) * np.maximum(error - reach, 0)

    def columns() -> Iterator[np.ndarray]:  # one by one, as a million rows should need little more than is kept
        for one in (evaluation, rival):
            yield one.crps[:, 0]
            yield one.interval[:, 0]
        yield conformal

    found = intervals(columns(), lambda means: 1 - means[..., [0, 1, 1]] / means[..., 2:])
    skill = dict(zip(("crps", "interval90", "conformal90"), found, strict=True))
    return Constant((spread[0], spread[1]), rival.scores(), skill)
