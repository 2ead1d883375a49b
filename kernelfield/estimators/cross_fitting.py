"""Rows to fit and rows to calibrate on: how they are told apart, and what models say of rows they have not seen."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import _check_method_params, _num_samples, check_is_fitted, validate_data

from kernelfield.estimators.regressor import refuse_repeated_names

Folds = int | float | str | object  # a number, a share of the rows, "prefit", or a splitter of scikit-learn
Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows that a model learns from and rows that it is asked about, by their places."""

    train: np.ndarray
    test: np.ndarray


def folds_of(
    cv: Any, X: Any, y: np.ndarray, seed: int, *, classes: bool = False, params: dict[str, Any] | None = None
) -> list[Fold]:
    """The folds of a setting of cv other than "prefit": one for a share, else each row is tested once.

    Errors: ValueError for a setting that is none, more folds than rows, a share that leaves too few rows, or a
    splitter that does not test each row once.
    """
    n = _num_samples(X)
    match cv:
        case bool() | str() | None:
            raise ValueError(f"cv must be a number of folds, a share of the rows, 'prefit' or a splitter, got {cv!r}")
        case float():
            return [_share(cv, n, seed)]
        case int() if cv < 2:
            raise ValueError(f"cv must be at least 2 folds, got {cv}; give a share such as 0.3 to hold rows out once")
        case int():
            kind = StratifiedKFold if classes else KFold
            splitter = kind(cv, shuffle=True, random_state=seed)
        case _:
            splitter = check_cv(cv, y, classifier=classes)
    folds = [Fold(train, test) for train, test in splitter.split(X, y, **(params or {}))]
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    if not np.array_equal(tested, np.arange(n)):
        raise ValueError(f"cv must test each of the {n} rows once, as KFold does, got {cv!r}")
    return folds


def _share(share: float, n: int, seed: int) -> Fold:
    held = math.ceil(share * n) if 0 < share < 1 else 0
    if not 0 < held < n - 1:
        raise ValueError(
            f"cv={share:g} of n_samples={n} leaves {held} rows to calibrate on and {n - held} to fit, which needs 1 "
            "and 2; give a share such as 0.3, or more rows"
        )
    order = np.random.default_rng(seed).permutation(n)
    return Fold(np.sort(order[held:]), np.sort(order[:held]))


def fitted(base: BaseEstimator, X: Any, y: np.ndarray, rows: np.ndarray | None, params: dict[str, Any]) -> Any:
    """A clone of an estimator, fitted to some rows; None is all of them."""
    if rows is None:
        return clone(base).fit(X, y, **params)
    chosen = _check_method_params(X, params=params, indices=rows)
    return clone(base).fit(_safe_indexing(X, rows), _safe_indexing(y, rows), **chosen)


def fitted_to_each(
    base: BaseEstimator,
    X: Any,
    y: np.ndarray,
    folds: Sequence[Fold],
    params: dict[str, Any],
    *,
    n_jobs: int | None,
    ask: Callable[[Any, Any], Answer],
) -> list[tuple[Any, Answer]]:
    """For each fold the model of its rows, and what it answers to those that it has not seen."""

    def one(fold: Fold) -> tuple[Any, Answer]:
        model = fitted(base, X, y, fold.train, params)
        return model, ask(model, _safe_indexing(X, fold.test))

    jobs: Iterable = (delayed(one)(fold) for fold in folds)
    return Parallel(n_jobs=n_jobs)(jobs)


def require_two_rows(y: np.ndarray) -> None:
    """Errors: ValueError for a single row, which cannot be left out."""
    if len(y) < 2:
        raise ValueError(f"a calibration needs rows left out, and at least 2 in all, got n_samples={len(y)}")


def rows_like_those_of_fit(estimator: BaseEstimator, X: Any) -> Any:
    """X as rows that can be taken apart, once it is known to have the columns of the fit.

    What else X may be is for the estimator inside to say. Errors: NotFittedError; ValueError for other columns.
    """
    check_is_fitted(estimator)
    refuse_repeated_names(X)
    (X,) = indexable(X)
    if getattr(X, "ndim", 2) != 2:
        raise ValueError(f"X must have two axes, got an array {X.shape}. Reshape your data, one row a point")
    validate_data(estimator, X, reset=False, skip_check_array=True)
    return X
