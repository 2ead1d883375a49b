"""jackknife+ and CV+ of regressors: the models that left rows out, or one that knows what they would predict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from kernelfield.estimators.cross_fitting import Fold, fitted, fitted_to_each
from kernelfield.estimators.predictive import points
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.uq.conformal.resampling import LeftOut


@dataclass(frozen=True, eq=False)
class Resampled:
    """What rows left out say of a regressor; `kernelfield.uq.conformal.resampling` makes intervals of it.

    members : a fitted regressor for each part of the rows that was left out; None, where the regressor that was
        fitted to all rows knows their predictions in closed form.
    """

    left: LeftOut
    members: list[Any] | None
    name: str

    @property
    def rows(self) -> int:
        """The number of rows that were left out once."""
        return len(self.left.residuals)

    def intervals(self, estimator: Any, X: Any, levels: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ends (q, m) of the interval of each level at the rows X, for the regressor of all rows.

        Errors: those of `LeftOut.plus`.
        """
        step, n = self.left.block_rows(), _num_samples(X)
        found = []
        for start in range(0, n, step):
            each = self._predictions(estimator, _safe_indexing(X, np.arange(start, min(start + step, n))))
            found.append([self.left.plus(each, level) for level in levels])
        by_level = [zip(*parts, strict=True) for parts in zip(*found, strict=True)]
        return [(np.concatenate(low), np.concatenate(high)) for low, high in by_level]

    def _predictions(self, estimator: Any, X: Any) -> np.ndarray:
        """(q, K, m), of each of the K models."""
        if self.members is None:
            means = estimator.without_each(X)
            return means.reshape(*means.shape[:2], -1)
        return np.stack([points(member, X) for member in self.members], 1)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"median_residual": np.median(self.left.residuals, 0).tolist()}

    def notes(self) -> list[str]:
        what = f"Intervals are {self.name} of {self.rows} rows left out"
        if self.members is None:
            return [
                f"{what}, from one fit whose hyperparameters and scaling were learned with these rows: those of "
                "90% hold about 90% of values in practice, and the guarantee of 80% is not to the letter."
            ]
        least = 100 * self.left.guarantee(0.9)
        return [
            f"{what}, from {len(self.members)} refits: those of 90% hold at least {least:.3g}% of values of "
            "exchangeable rows, and about 90% in practice."
        ]


def jackknife(base: BaseEstimator, X: Any, y: np.ndarray, refit: "Refit") -> tuple[Any, Resampled]:
    """The regressor of all rows, and what each row left out says of it: in closed form where there is one."""
    whole = fitted(base, X, y, None, refit.params)
    if isinstance(whole, FieldRegressor):
        try:
            mean, _ = whole.leave_one_out()
        except NotImplementedError:
            pass  # the refits below answer, and the notes say that they were made
        else:
            residuals = np.abs(y - mean).reshape(len(y), -1)
            return whole, Resampled(LeftOut.of_each(residuals), None, "jackknife+")
    n = _num_samples(X)
    each = [Fold(np.delete(np.arange(n), i), np.array([i])) for i in range(n)]
    return whole, _refitted(base, X, y, each, refit, "jackknife+")


def cross(base: BaseEstimator, X: Any, y: np.ndarray, folds: list[Fold], refit: "Refit") -> tuple[Any, Resampled]:
    """The regressor of all rows, and what each fold left out says of it."""
    return fitted(base, X, y, None, refit.params), _refitted(base, X, y, folds, refit, "cv+")


@dataclass(frozen=True)
class Refit:
    """How models are fitted anew: with metadata of the rows, so many at a time."""

    params: dict[str, Any]
    n_jobs: int | None


def _refitted(base: BaseEstimator, X: Any, y: np.ndarray, folds: list[Fold], refit: Refit, name: str) -> Resampled:
    ask: Callable[[Any, Any], np.ndarray] = points
    found = fitted_to_each(base, X, y, folds, refit.params, n_jobs=refit.n_jobs, ask=ask)
    columns = y.reshape(len(y), -1)
    residuals, member = np.empty(columns.shape), np.empty(len(y), dtype=np.int64)
    for k, (fold, (_, mean)) in enumerate(zip(folds, found, strict=True)):
        residuals[fold.test], member[fold.test] = np.abs(columns[fold.test] - mean), k
    return Resampled(LeftOut(residuals, member), [model for model, _ in found], name)
