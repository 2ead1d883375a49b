"""Calibrated: a regressor whose uncertainty was corrected by rows that it has not seen.

Three ways to come by such rows, by the setting of cv:

    a share      the regressor is fitted to the rest of the rows and stays so: conformal intervals then hold as many
                 values as their level says, in finite samples, whatever the regressor
    folds        each row is predicted by a model that has not seen it, all of these predictions calibrate, and the
                 regressor is refitted to all rows: no row is lost, and the guarantee holds but approximately
    "prefit"     the regressor is fitted already, and all rows calibrate

jackknife+ and cv+ keep the models that left rows out and need none held out; see `kernelfield.uq.conformal.resampling`
for what they guarantee. Of exact processes, kernel ridges and processes in basis functions, also at the end of a
pipeline, the n models of jackknife+ come in closed form from one fit, with the hyperparameters and the scaling of the
whole.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MetaEstimatorMixin, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import (
    Bunch,
    Tags,
    _safe_indexing,
    check_array,
    check_consistent_length,
    check_random_state,
    get_tags,
    indexable,
)
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.validation import _num_samples, check_is_fitted, validate_data
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.estimators.answers import Answer, FromIntervals, FromLaw, numpy
from kernelfield.estimators.calibrations import Choice, Recalibration, Request, method_of
from kernelfield.estimators.cross_fitting import (
    Fold,
    Folds,
    fitted,
    fitted_to_each,
    folds_of,
    require_two_rows,
    rows_like_those_of_fit,
)
from kernelfield.estimators.inputs import Codes
from kernelfield.estimators.interval_laws import finite, interval_levels
from kernelfield.estimators.predictive import Kind, columns, gaussian, kind_of, law_of, points, pooled
from kernelfield.estimators.regressor import FieldRegressor, Seed, levels_of, refuse_repeated_names
from kernelfield.estimators.resampled import Refit, Resampled, cross, jackknife

Ask = Callable[[Any, Any], Any]

ROWS = 2048  # predicted at once, so that memory grows with the answer alone


class Calibrated(MetaEstimatorMixin, MultiOutputMixin, RegressorMixin, BaseEstimator):
    """A regressor with calibrated uncertainty.

    Rows count once each: there is no sample_weight, as quantiles of weighted errors need another theory. For inputs
    of another distribution than those to come there is method="weighted".

    Parameters
    ----------
    estimator : regressor or None, default=None
        What to calibrate; None is `FieldRegressor()`. A FieldRegressor has a law of y, a regressor with
        ``predict(X, return_std=True)`` is taken for Gaussian, and one that predicts points alone for Gaussian with
        one deviation. Pipelines and searches are looked through.
    method : str or choice, default="std"
        "std", "isotonic", "beta" and "system" give a law of y again; "split", "normalised", "cqr", "mondrian",
        "weighted", "jackknife+" and "cv+" give intervals. A choice of `kernelfield.uq.recalibration` or
        `kernelfield.uq.conformal`, such as ``StdScaling(shift=True)``, may be given itself.
    cv : int, float, "prefit" or splitter, default=5
        Which rows calibrate: folds, a share of the rows that is held out, all rows for an estimator that is fitted
        already, or a splitter of scikit-learn that tests each row once. "jackknife+" leaves each row out instead.
    levels : sequence of float, default=(0.9,)
        Of the intervals of method "cqr", which has no others.
    groups : str, int or choice, default=None
        Of method "mondrian": a column by its name or place, "cluster", or "spread" (None), the predicted deviation.
    n_jobs : int or None, default=None
        How many models are fitted at a time, by joblib.
    random_state : int, RandomState instance or None, default=None
        The source of randomness of the split. The estimator has its own.

    Attributes
    ----------
    estimator_ : regressor
        The fitted estimator that predicts.
    calibrator_ : result of a choice, or Resampled
        What was learned from rows that a model had not seen.
    spread_ : ndarray of shape (m,) or None
        The deviation of errors of rows left out, of a regressor that predicts points alone.
    notes_ : list of str
        What a user should know of the fit and the calibration, in sentences.
    n_features_in_ : int
        The number of columns of X in `fit`.
    feature_names_in_ : ndarray of str
        The names of the columns of X in `fit`, where all of them are strings.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> y = X[:, 0] + 0.5 * rng.normal(size=200)
    >>> calibrated = Calibrated(Ridge(), method="jackknife+").fit(X, y)
    >>> calibrated.predict_interval([[1.0, 0.0]], level=0.9).round()  # 1 +- 1.645 * 0.5
    array([[0., 2.]])
    """

    spread_: np.ndarray | None
    codes_: Codes | None  # of the texts in X, for methods that look at it
    calibrator_: Any

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        *,
        method: str | Choice = "std",
        cv: Folds = 5,
        levels: Sequence[float] = (0.9,),
        groups: object = None,
        n_jobs: int | None = None,
        random_state: Seed = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.cv = cv
        self.levels = levels
        self.groups = groups
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike, *, X_target: Any = None, **params: Any) -> "Calibrated":
        """Fit the estimator and calibrate it.

        Parameters
        ----------
        X : table or array-like of shape (n, d)
            Inputs, of any kind that the estimator takes.
        y : array-like of shape (n,) or (n, m)
            Targets.
        X_target : as X, default=None
            Inputs like those to come, for method "weighted".
        **params : dict
            Metadata for the estimator's fit and the splitter, where routing is enabled.

        Returns
        -------
        self : Calibrated
        """
        base = FieldRegressor() if self.estimator is None else self.estimator
        (X,) = indexable(X)
        targets = self._checked(X, y)
        kind = kind_of(base)
        method = method_of(self.method, kind)
        routed = self._routed(params)
        seed = int(check_random_state(self.random_state).randint(2**31))
        self.y_ndim_, self.spread_, self.codes_ = targets.ndim, None, None
        refit = Refit(routed.estimator.fit, self.n_jobs)
        if self.method == "jackknife+":
            self.estimator_, self.calibrator_ = jackknife(base, X, targets, refit)
        elif self.method == "cv+":
            folds = self._folds(X, targets, seed, routed)
            self.estimator_, self.calibrator_ = cross(base, X, targets, folds, refit)
        else:
            folds = self._folds(X, targets, seed, routed)
            law = self._unseen(base, kind, X, targets, folds, refit)
            rows = np.concatenate([fold.test for fold in folds])
            generator = torch.Generator().manual_seed(seed)
            seen = _safe_indexing(X, rows)
            self.codes_ = Codes.of(seen) if method.inputs else None
            request = Request(kind, self.levels, self.groups, seen, X_target, self.codes_)
            y_seen, inputs = torch.tensor(columns(targets[rows])).to(law.mean), self._numbers(seen)
            self.calibrator_ = method.choice(request).fit(law, y_seen, X=inputs, generator=generator)
        self.notes_ = [*vars(self.estimator_).get("notes_", ()), *self.calibrator_.notes()]
        return self

    def predict(
        self, X: Any, return_std: bool = False, quantiles: Sequence[float] | None = None
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """Predict y at X, with as much of its calibrated law as is asked for.

        Parameters
        ----------
        X : as in `fit`
            Inputs.
        return_std : bool, default=False
            Whether to return the standard deviation of y, for a method that gives intervals that of `posterior`.
        quantiles : sequence of float, default=None
            Levels between 0 and 1 at which to return quantiles of y. A method that gives intervals answers the ends
            of its central intervals, and the prediction itself at 0.5.

        Returns
        -------
        mean : ndarray of shape (n,) or (n, m)
        std : ndarray of shape (n,) or (n, m), only with return_std
        quantiles : ndarray of shape (n, q) or (n, m, q), only with quantiles
        """
        levels = levels_of(quantiles)
        blocks = []
        for block in self._blocks(X):
            answer = self._answer(block)
            parts = [answer.mean]
            if return_std:
                parts.append(answer.std())
            if quantiles is not None:
                parts.append(np.stack([answer.quantile(p) for p in levels], -1) if levels else answer.mean[..., :0])
            blocks.append(parts)
        answers = [self._shaped(np.concatenate(parts)) for parts in zip(*blocks, strict=True)]
        return answers[0] if len(answers) == 1 else tuple(answers)

    def predict_interval(self, X: Any, level: float = 0.9) -> np.ndarray:
        """Predict intervals that hold y with a given probability.

        Parameters
        ----------
        X : as in `fit`
            Inputs.
        level : float, default=0.9
            The probability.

        Returns
        -------
        ends : ndarray of shape (n, 2) or (n, m, 2)
            Low and high ends, in the units of y.
        """
        if not 0 < level < 1:
            raise ValueError(f"the level of an interval must lie between 0 and 1, got {level:g}; write 0.9 for 90%")
        with torch.no_grad():
            parts = [np.stack(self._answer(block).interval(level), -1) for block in self._blocks(X)]
        return self._shaped(np.concatenate(parts))

    def posterior(self, X: Any, *, noise: bool = True) -> Posterior:
        """Give the calibrated law of y at X, points independent of each other.

        Parameters
        ----------
        X : as in `fit`
            Inputs.
        noise : bool, default=True
            False asks for the law of a function behind y, which no calibration knows: NotImplementedError.

        Returns
        -------
        law : Posterior
            In the units of y. That of a method that gives intervals has its ends at many levels for quantiles; see
            `kernelfield.estimators.interval_laws`. The guarantee of a method is one for each level.
        """
        if not noise:
            raise NotImplementedError(
                "a calibration corrects the law of observations y, and says nothing of a function behind them; use "
                "posterior(X), or estimator_.posterior(X, noise=False) for the law before it"
            )
        with torch.no_grad():
            if isinstance(self.calibrator_, Recalibration):
                laws = [law_of(self.estimator_, block, self.spread_) for block in self._blocks(X)]
                return self.calibrator_.apply(pooled(laws), self._numbers(X))
            return pooled([finite(self._intervals(block).law()) for block in self._blocks(X)])

    def get_metadata_routing(self) -> MetadataRouter:
        """Say which metadata `fit` passes on to the estimator and to the splitter."""
        router = MetadataRouter(owner=self).add(
            estimator=self._base(), method_mapping=MethodMapping().add(caller="fit", callee="fit")
        )
        if isinstance(self.cv, BaseCrossValidator):
            router.add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        return router

    def __sklearn_tags__(self) -> Tags:
        tags, inner = super().__sklearn_tags__(), get_tags(self._base())
        tags.input_tags, tags.target_tags = inner.input_tags, inner.target_tags
        tags.non_deterministic = inner.non_deterministic
        return tags

    def _base(self) -> BaseEstimator:
        return FieldRegressor() if self.estimator is None else self.estimator

    def _checked(self, X: Any, y: ArrayLike) -> np.ndarray:
        """The targets, once they are known to fit the rows; what X may be is for the estimator to say."""
        refuse_repeated_names(X)
        if y is None:
            raise ValueError("Calibrated requires y to be passed, but the target y is None")
        targets = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if targets.ndim > 2:
            raise ValueError(f"y must have one or two axes, got an array {targets.shape}")
        check_consistent_length(X, targets)
        require_two_rows(targets)
        validate_data(self, X, skip_check_array=True)
        return targets

    def _routed(self, params: dict[str, Any]) -> Any:
        """Metadata for the estimator's fit and the splitter."""
        _raise_for_params(params, self, "fit")
        if "sample_weight" in params:
            raise ValueError("a calibration counts each row once; leave sample_weight out, or see method='weighted'")
        if _routing_enabled():
            return process_routing(self, "fit", **params)
        return Bunch(estimator=Bunch(fit={}), splitter=Bunch(split={}))

    def _folds(self, X: Any, targets: np.ndarray, seed: int, routed: Any) -> list[Fold]:
        if isinstance(self.cv, str) and self.cv == "prefit":
            if self.method == "cv+":
                raise ValueError("method='cv+' fits a model to each fold; give cv a number of folds, not 'prefit'")
            check_is_fitted(self._base())
            return [Fold(np.arange(0), np.arange(len(targets)))]
        params = routed.splitter.split if "splitter" in routed else {}
        folds = folds_of(self.cv, X, targets, seed, params=params)
        if self.method == "cv+" and len(folds) < 2:
            raise ValueError(f"method='cv+' needs folds, got cv={self.cv!r}; for a share of the rows use 'split'")
        return folds

    def _unseen(
        self, base: BaseEstimator, kind: Kind, X: Any, targets: np.ndarray, folds: list[Fold], refit: Refit
    ) -> Posterior:
        """The law of the rows that are tested, one fold after the other; fits the estimator and the spread."""
        ask: Ask = points if kind == "points" else law_of
        if isinstance(self.cv, str):
            self.estimator_, answers = base, [ask(base, X)]
        else:
            found = fitted_to_each(base, X, targets, folds, refit.params, n_jobs=refit.n_jobs, ask=ask)
            answers = [answer for _, answer in found]
            self.estimator_ = found[0][0] if len(folds) == 1 else fitted(base, X, targets, None, refit.params)
        if kind != "points":
            return pooled(answers)
        mean = np.concatenate(answers)
        gap = columns(targets[np.concatenate([fold.test for fold in folds])]) - mean
        spread = np.sqrt(np.square(gap).mean(0))
        spread = np.where(spread > 0, spread, 1.0)  # errors that are all zero have no scale
        self.spread_ = spread
        return gaussian(mean, np.broadcast_to(spread, mean.shape))

    def _blocks(self, X: Any) -> Iterator[Any]:
        """The rows X, some at a time."""
        X = rows_like_those_of_fit(self, X)
        n = _num_samples(X)
        for start in range(0, max(n, 1), ROWS):
            yield X if n <= ROWS else _safe_indexing(X, np.arange(start, min(start + ROWS, n)))

    def _answer(self, X: Any) -> Answer:
        """What is predicted at some rows."""
        with torch.no_grad():
            if isinstance(self.calibrator_, Recalibration):
                law = law_of(self.estimator_, X, self.spread_)
                return FromLaw(self.calibrator_.apply(law, self._numbers(X)))
            return self._intervals(X)

    def _intervals(self, X: Any) -> FromIntervals:
        levels = interval_levels(self.calibrator_)
        if isinstance(self.calibrator_, Resampled):
            ends = partial(self.calibrator_.intervals, self.estimator_, X)
            return FromIntervals(points(self.estimator_, X), ends, levels)
        law, inputs, one = law_of(self.estimator_, X, self.spread_), self._numbers(X), self.calibrator_.interval
        return FromIntervals(numpy(law.mean), lambda asked: [one(law, level, inputs) for level in asked], levels)

    def _numbers(self, X: Any) -> Tensor | None:
        """The inputs as the calibrator takes them, if it does."""
        return None if self.codes_ is None else self.codes_.numbers(X)

    def _shaped(self, answer: np.ndarray) -> np.ndarray:
        """An answer (n, m, ...) in the shape of the y of `fit`."""
        return answer[:, 0] if self.y_ndim_ == 1 else answer
