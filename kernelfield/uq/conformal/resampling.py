"""Intervals from models that each left some of the rows out: jackknife+, CV+ and jackknife-minmax.

Let mu_-i be the prediction of a model that has not seen row i, r_i = |y_i - mu_-i(x_i)|, and let q_k denote the k-th
smallest of n numbers, with the rank k = ceil(level (n + 1)):

    plus      [ q_(n + 1 - k) of mu_-i(x) - r_i,    q_k of mu_-i(x) + r_i ]
    minmax    [ min of mu_-i(x) - q_k of r_i,       max of mu_-i(x) + q_k of r_i ]

With n models that each left one row out, plus is the jackknife+; with K models that each left a fold out, CV+. With
alpha = 1 - level, exchangeable rows and a fit that treats them alike, y lies inside with a probability of

    jackknife+    at least 1 - 2 alpha
    CV+           at least 1 - 2 alpha - min{ 2 (1 - 1/K) / (n/K + 1),  (1 - K/n) / (K + 1) }    (folds of equal size)
    minmax        at least 1 - alpha

and of both kinds of plus about 1 - alpha in practice. Hyperparameters that were chosen with the row left out void the
letter of the guarantee, though hardly what is seen, as long as they are few beside n.

Source: Barber, Candes, Ramdas & Tibshirani (2021), "Predictive inference with the jackknife+".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernelfield.uq.conformal.ranks import rank, require_level

BLOCK = 2**21  # numbers of a block of points: 16 MiB, sorted in place


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The residuals r (n, m) of rows that a model has not seen, and which model that is (n,), counted from zero.

    Errors: ValueError for residuals that are negative or not finite, or models that do not fit the rows.

    >>> r = np.array([[1.0], [2.0], [1.5], [0.5]])
    >>> low, high = LeftOut.of_each(r).plus(np.array([[[9.0], [10.0], [10.0], [11.0]]]), level=0.6)
    >>> low.item(), high.item()  # the second smallest of 8, 8, 8.5, 10.5, and the third of 10, 11.5, 11.5, 12
    (8.0, 11.5)
    """

    residuals: np.ndarray
    member: np.ndarray

    def __post_init__(self) -> None:
        r = self.residuals
        if r.ndim != 2 or not len(r) or self.member.shape != r.shape[:1]:
            shapes = f"{r.shape} and {self.member.shape}"
            raise ValueError(f"need residuals (n, m) of at least one row, and a model (n,) for each, got {shapes}")
        bad = int((~(np.isfinite(r) & (r >= 0))).sum())
        if bad:
            raise ValueError(f"{bad} residuals are negative, NaN or infinite; give |y - prediction| of rows left out")
        if self.member.min() < 0:
            raise ValueError(f"models are counted from 0, got {self.member.min()}")

    @classmethod
    def of_each(cls, residuals: np.ndarray) -> "LeftOut":
        """Of n models that each left one row out, in the order of the rows."""
        return cls(residuals, np.arange(len(residuals)))

    def plus(self, predictions: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Ends (q, m) of the interval at q points, from what the K models predict there (q, K, m).

        Errors: ValueError for another number of models, a level below one half, where ends could cross and nothing is
        guaranteed, or too few rows for the level, with the number needed.
        """
        require_level(level)
        if level < 0.5:
            raise ValueError(
                f"jackknife+ and CV+ guarantee 2 level - 1, which is nothing at level {level:g}; use 0.5 or more"
            )
        k = rank(len(self.residuals), level)
        return self._in_blocks(predictions, lambda block: self._plus(block, k))

    def _plus(self, predictions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        n = len(self.residuals)
        each = predictions[:, self.member]
        return _smallest(each - self.residuals, n + 1 - k), _smallest(each + self.residuals, k)

    def minmax(self, predictions: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Ends (q, m) of the interval that is as sure as its level says, and wider.

        Errors: as for `plus`, but for any level between 0 and 1.
        """
        reach = _smallest(self.residuals[None], rank(len(self.residuals), level))
        return self._in_blocks(predictions, lambda block: (block.min(1) - reach, block.max(1) + reach))

    def guarantee(self, level: float) -> float:
        """The least probability, over training sets and points, that `plus` holds y; see the module docstring."""
        n, K = len(self.residuals), int(self.member.max()) + 1
        lost = min(2 * (1 - 1 / K) / (n / K + 1), (1 - K / n) / (K + 1))
        return max(0.0, 1 - 2 * (1 - level) - lost)

    def block_rows(self) -> int:
        """How many points to ask for at once, so that memory stays flat."""
        return max(1, BLOCK // self.residuals.size)

    def _in_blocks(self, predictions: np.ndarray, ends: "Ends") -> tuple[np.ndarray, np.ndarray]:
        K, m = int(self.member.max()) + 1, self.residuals.shape[1]
        if predictions.ndim != 3 or predictions.shape[1:] != (K, m):
            raise ValueError(f"need predictions (q, {K}, {m}) of {K} models, got {predictions.shape}")
        step = self.block_rows()
        parts = [ends(predictions[start : start + step]) for start in range(0, len(predictions), step)]
        low, high = zip(*parts, strict=True) if parts else ((predictions[:, 0],),) * 2
        return np.concatenate(low), np.concatenate(high)


Ends = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _smallest(values: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest along the second axis, k counted from one."""
    return np.partition(values, k - 1, axis=1)[:, k - 1]
