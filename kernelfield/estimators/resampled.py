"""jackknife+ and CV+ of regressors: the models that left rows out, or one that knows what they would predict.

Linear smoothers know it in closed form: exact processes, and processes in basis functions (sparse, spectral, random
features), which do not keep their rows and are given them again. So do pipelines that end in one, whose
transformations of inputs, like hyperparameters, are those of all rows; not with transformations that look at y.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_array, get_tags
from sklearn.utils.validation import _num_samples

from kernelfield.core.contracts import Data
from kernelfield.estimators.cross_fitting import Fold, fitted, fitted_to_each
from kernelfield.estimators.predictive import points
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.expansion import FittedExpansion, RowsOfExpansion
from kernelfield.uq.conformal.resampling import LeftOut


@dataclass(frozen=True, eq=False)
class Resampled:
    """What rows left out say of a regressor; `kernelfield.uq.conformal.resampling` makes intervals of it.

    members : a fitted regressor for each part of the rows that was left out; None, where the regressor that was
        fitted to all rows knows their predictions in closed form.
    expansion : of a process in basis functions, which does not keep its rows, itself with them.
    """

    left: LeftOut
    members: list[Any] | None
    name: str
    expansion: RowsOfExpansion | None = None

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
            final, inputs = _last(estimator, X)
            if self.expansion is None:
                means = final.without_each(inputs)
                return means.reshape(*means.shape[:2], -1)
            scaled = final.surrogate_
            each = self.expansion.without_each(scaled.to_model_X(_tensor(inputs, final)))
            return (each * scaled.to_model_y.scale + scaled.to_model_y.shift).cpu().numpy()
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
    final, inputs = _last(whole, X)
    if isinstance(final, FieldRegressor):
        try:
            mean, expansion = _without_own(final, inputs, y)
        except NotImplementedError:
            pass  # the refits below answer, and the notes say that they were made
        else:
            residuals = np.abs(y.reshape(len(y), -1) - mean)
            return whole, Resampled(LeftOut.of_each(residuals), None, "jackknife+", expansion)
    n = _num_samples(X)
    each = [Fold(np.delete(np.arange(n), i), np.array([i])) for i in range(n)]
    return whole, _refitted(base, X, y, each, refit, "jackknife+")


def _last(estimator: Any, X: Any) -> tuple[Any, Any]:
    """What predicts in the end, and X as it comes there; of a pipeline whose transformations look at y, itself."""
    if not isinstance(estimator, Pipeline):
        return estimator, X
    *before, last = [step for _, step in estimator.steps]
    if any(isinstance(step, BaseEstimator) and get_tags(step).target_tags.required for step in before):
        return estimator, X
    return last, estimator[:-1].transform(X) if before else X


def _without_own(final: FieldRegressor, X: Any, y: np.ndarray) -> tuple[np.ndarray, RowsOfExpansion | None]:
    """Means (n, m) of each row given all others, and the rows of a process that does not keep them.

    Errors: NotImplementedError where there is no closed form.
    """
    scaled = final.surrogate_
    if not isinstance(scaled.inner, FittedExpansion):
        return final.leave_one_out()[0].reshape(len(y), -1), None
    rows, targets = _tensor(X, final), torch.tensor(np.ascontiguousarray(y.reshape(len(y), -1)), dtype=torch.float64)
    data = Data(scaled.to_model_X(rows), scaled.to_model_y(targets.to(rows)))
    expansion = scaled.inner.leaving_out(data)
    mean = expansion.leave_one_out()[0] * scaled.to_model_y.scale + scaled.to_model_y.shift
    return mean.cpu().numpy(), expansion


def _tensor(X: Any, final: FieldRegressor) -> torch.Tensor:
    return torch.tensor(check_array(X, dtype=np.float64, order="C"), device=final.surrogate_.to_model_X.shift.device)


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
