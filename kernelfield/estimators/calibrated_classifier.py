"""CalibratedClassifier: class probabilities corrected by rows that the classifier has not seen.

Rows to calibrate on come as for `kernelfield.estimators.calibrated.Calibrated`: a share that is held out, folds after
which the classifier is refitted to all rows, or all rows for one that is fitted already. Unlike scikit-learn's
CalibratedClassifierCV it keeps one classifier, not one a fold, and one map for all folds together.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils import (
    Tags,
    assert_all_finite,
    check_consistent_length,
    check_random_state,
    column_or_1d,
    get_tags,
    indexable,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.cross_fitting import (
    Folds,
    fitted,
    fitted_to_each,
    folds_of,
    require_two_rows,
    rows_like_those_of_fit,
)
from kernelfield.estimators.regressor import Seed, refuse_repeated_names
from kernelfield.uq.recalibration.probabilities import BetaProbabilities, IsotonicProbabilities, TemperatureScaling

METHODS: Mapping[str, Callable[[], Any]] = {
    "temperature": TemperatureScaling,
    "beta": BetaProbabilities,
    "isotonic": IsotonicProbabilities,
}


class CalibratedClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """A classifier with calibrated probabilities.

    Rows count once each: there is no sample_weight.

    Parameters
    ----------
    estimator : classifier or None, default=None
        What to calibrate, with predict_proba; None is `FieldClassifier()`.
    method : {"temperature", "beta", "isotonic"}, default="temperature"
        One number that leaves the order of classes as it is; three numbers, for two classes; or a step function of
        the probability of each class, for some hundred rows.
    cv : int, float, "prefit" or splitter, default=5
        Which rows calibrate: folds that keep the shares of classes, a share of the rows that is held out, all rows
        for an estimator that is fitted already, or a splitter of scikit-learn that tests each row once.
    n_jobs : int or None, default=None
        How many models are fitted at a time, by joblib.
    random_state : int, RandomState instance or None, default=None
        The source of randomness of the split. The estimator has its own.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, sorted; columns of probabilities are in this order.
    class_prior_ : ndarray of shape (k,)
        Their shares of the rows of `fit`.
    estimator_ : classifier
        The fitted estimator that predicts.
    calibrator_ : FittedTemperature, FittedBeta or FittedIsotonic
        What was learned from rows that a model had not seen.
    notes_ : list of str
        What a user should know of the fit and the calibration, in sentences.
    n_features_in_ : int
        The number of columns of X in `fit`.
    feature_names_in_ : ndarray of str
        The names of the columns of X in `fit`, where all of them are strings.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X = np.random.default_rng(0).normal(size=(300, 1)).repeat(9, axis=1)  # nine copies of one number
    >>> y = X[:, 0] + np.random.default_rng(1).normal(size=300) > 0
    >>> calibrated = CalibratedClassifier(GaussianNB(), random_state=0).fit(X, y)
    >>> calibrated.calibrator_.temperature > 5  # naive Bayes takes them for nine measurements
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        *,
        method: str = "temperature",
        cv: Folds = 5,
        n_jobs: int | None = None,
        random_state: Seed = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike) -> "CalibratedClassifier":
        """Fit the estimator and calibrate it.

        Parameters
        ----------
        X : table or array-like of shape (n, d)
            Inputs, of any kind that the estimator takes.
        y : array-like of shape (n,)
            Labels of two or more classes: numbers, texts or booleans.

        Returns
        -------
        self : CalibratedClassifier
        """
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        (X,), base = indexable(X), self._base()
        labels = self._checked(X, y)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only, {self.classes_[0]}, and a classifier needs rows of at least two")
        self.class_prior_ = np.bincount(index) / len(index)
        if isinstance(self.cv, str) and self.cv == "prefit":
            check_is_fitted(base)
            self.estimator_, probabilities, rows = base, self._raw(base, X), np.arange(len(index))
        else:
            seed = int(check_random_state(self.random_state).randint(2**31))
            folds = folds_of(self.cv, X, labels, seed, classes=True)
            found = fitted_to_each(base, X, labels, folds, {}, n_jobs=self.n_jobs, ask=self._raw)
            probabilities = np.concatenate([answer for _, answer in found])
            rows = np.concatenate([fold.test for fold in folds])
            self.estimator_ = found[0][0] if len(folds) == 1 else fitted(base, X, labels, None, {})
        choice = METHODS[self.method]()
        self.calibrator_ = choice.fit(torch.from_numpy(probabilities), torch.from_numpy(index[rows]))
        self.notes_ = [*vars(self.estimator_).get("notes_", ()), *self.calibrator_.notes()]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable label of each row.

        Parameters
        ----------
        X : as in `fit`
            Inputs.

        Returns
        -------
        labels : ndarray of shape (n,)
        """
        probabilities = self.predict_proba(X)  # which tells first whether there was a fit
        return self.classes_[probabilities.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Give the calibrated probability of each class.

        Parameters
        ----------
        X : as in `fit`
            Inputs.

        Returns
        -------
        probabilities : ndarray of shape (n, k)
            Rows sum to one; columns are in the order of `classes_`.
        """
        X = rows_like_those_of_fit(self, X)
        return self.calibrator_.apply(torch.from_numpy(self._raw(self.estimator_, X))).numpy()

    def __sklearn_tags__(self) -> Tags:
        tags, inner = super().__sklearn_tags__(), get_tags(self._base())
        tags.input_tags = inner.input_tags
        tags.non_deterministic = inner.non_deterministic
        return tags

    def _base(self) -> BaseEstimator:
        return FieldClassifier() if self.estimator is None else self.estimator

    def _checked(self, X: Any, y: ArrayLike) -> np.ndarray:
        refuse_repeated_names(X)
        if y is None:
            raise ValueError("CalibratedClassifier requires y to be passed, but the target y is None")
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        check_consistent_length(X, labels)
        require_two_rows(labels)
        validate_data(self, X, skip_check_array=True)
        return labels

    def _raw(self, model: Any, X: Any) -> np.ndarray:
        """Probabilities (n, k) before calibration; zero for a class that the model's rows did not hold."""
        found = np.asarray(model.predict_proba(X), dtype=np.float64)
        unknown = np.setdiff1d(model.classes_, self.classes_)
        if len(unknown):
            raise ValueError(f"the estimator knows the class {unknown[0]}, of which there is no row to calibrate on")
        if len(model.classes_) == len(self.classes_):
            return found.copy()
        whole = np.zeros((len(found), len(self.classes_)))
        whole[:, np.searchsorted(self.classes_, model.classes_)] = found
        return whole
