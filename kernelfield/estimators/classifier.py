"""FieldClassifier: any classifier of the package as a scikit-learn estimator.

Inputs are standardised and kept in double precision, labels of any kind become one-hot columns in
their sorted order. Predictions for many points are made in blocks of rows.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.core.posterior import Posterior
from kernelfield.estimators.regressor import Seed, block_rows, refuse_repeated_names, usable_device
from kernelfield.estimators.scaling import Affine
from kernelfield.models.classify import FittedClassifier
from kernelfield.models.laplace import LaplaceClassifier
from kernelfield.models.support_vector import FittedSupportVector


class FieldClassifier(ClassifierMixin, BaseEstimator):
    """Classification with probabilities that know what the data leave open.

    Parameters
    ----------
    model : Model or None, default=None
        What to fit; None is `LaplaceClassifier()`, an exact-kernel process. Nested parameters are
        reached as in ``set_params(model__steps=50)``.
    device : str, default="cpu"
        Where tensors live and the fit runs, such as "cpu" or "cuda".
    random_state : int, RandomState instance or None, default=None
        The source of all randomness of the fit. Pass an int for the same result each time.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, sorted; columns of probabilities are in this order.
    class_prior_ : ndarray of shape (k,)
        Their shares of the rows that were fitted.
    surrogate_ : FittedClassifier
        The fitted model, which takes standardised inputs.
    to_model_X_ : kernelfield.estimators.scaling.Affine
        What standardises them.
    n_samples_fit_ : int
        The number of rows that were fitted.
    notes_ : list of str
        What the data leave to be doubted, in sentences; often empty.
    n_features_in_ : int
        The number of columns of X in `fit`.
    feature_names_in_ : ndarray of str
        The names of the columns of X in `fit`, where all of them are strings.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(0, 1, 12)[:, None]
    >>> fitted = FieldClassifier(random_state=0).fit(X, np.where(X[:, 0] > 0.5, "high", "low"))
    >>> fitted.predict([[0.9]]).item()
    'high'
    >>> bool(fitted.predict_proba([[0.9]])[0, 0] > 0.8)
    True
    """

    def __init__(self, model: Model | None = None, *, device: str = "cpu", random_state: Seed = None) -> None:
        self.model = model
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> "FieldClassifier":
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        y : array-like of shape (n,)
            Labels of two or more classes: numbers, texts or booleans.

        Returns
        -------
        self : FieldClassifier
        """
        device, model = usable_device(self.device), LaplaceClassifier() if self.model is None else self.model
        refuse_repeated_names(X)
        rows, labels = validate_data(self, X, y, dtype=np.float64, order="C", ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only, {self.classes_[0]}, and a classifier needs rows of at least two")
        inputs = torch.tensor(rows, device=device)
        self.to_model_X_ = Affine.standardising(inputs)
        one_hot = torch.nn.functional.one_hot(torch.tensor(index, device=device), len(self.classes_)).to(inputs)
        seed = int(check_random_state(self.random_state).randint(2**31))
        data = Data(self.to_model_X_(inputs), one_hot)
        surrogate = _require_model(model).fit(data, generator=torch.Generator().manual_seed(seed))
        if not isinstance(surrogate, FittedClassifier):
            raise TypeError(f"model must be a classifier such as LaplaceClassifier(), got {model!r}")
        self.surrogate_ = surrogate
        self.n_samples_fit_ = len(rows)
        self.class_prior_ = np.bincount(index) / len(rows)
        self.notes_ = _lonely(self.classes_, index)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict the most probable label of each row.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        labels : ndarray of shape (n,)
        """
        best = self._probabilities(X).argmax(-1).numpy()
        return self.classes_[best]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Give the probability of each class, averaged over all functions that the data allow.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        probabilities : ndarray of shape (n, k)
            Rows sum to one; columns are in the order of `classes_`.
        """
        return self._probabilities(X).numpy()

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Give the logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        log_probabilities : ndarray of shape (n, k)
        """
        return self._probabilities(X).log().numpy()

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Give what decides between the classes, larger the surer the prediction is.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        values : ndarray of shape (n,) or (n, k)
            Of two classes the log odds of the second, of more the log probability of each, but
            for a support-vector machine, which has outputs of its own.
        """
        values = self._answers(X, lambda rows: self.surrogate_.decision(rows)).numpy()
        return values[:, 0] if len(self.classes_) == 2 else values

    def posterior(self, X: ArrayLike) -> Posterior:
        """Give the joint law of the latent functions at X.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        law : Posterior
            Of the log odds of the second class, where the model has one function for two
            classes, or of one function a class, up to a shift that they share. Infinitely deep
            networks and support-vector machines have no such law: NotImplementedError.
        """
        rows = self._inputs(X)
        with torch.no_grad():
            return self.surrogate_.posterior(rows)

    def certified_radius(self, X: ArrayLike) -> np.ndarray:
        """Give how far all inputs of a row may move at once without changing its label.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        radius : ndarray of shape (n,)
            In standard deviations of each input: no point whose inputs each differ by less than
            so many has another label. Only for `SupportVectorClassifier` with two classes and a
            network Dense >> Relu >> Dense without biases, trained as a whole.
        """
        check_is_fitted(self)
        machine = self.surrogate_
        if not isinstance(machine, FittedSupportVector):
            raise NotImplementedError(
                f"decisions are certified for SupportVectorClassifier, not for {type(machine).__name__}"
            )
        return self._answers(X, machine.certified_radius).numpy()

    def _probabilities(self, X: ArrayLike) -> Tensor:
        return self._answers(X, lambda rows: self.surrogate_.probabilities(rows))

    def _answers(self, X: ArrayLike, answer: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function of standardised rows answers, block by block."""
        rows = self._inputs(X)
        with torch.no_grad():
            blocks = rows.split(block_rows(self.surrogate_.footprint(self.n_samples_fit_)))
            return torch.cat([answer(block).cpu() for block in blocks])

    def _inputs(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        refuse_repeated_names(X)
        rows = validate_data(self, X, reset=False, dtype=np.float64, order="C")
        return self.to_model_X_(torch.tensor(rows, device=self.to_model_X_.shift.device))


def _require_model(model: Model) -> Model:
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model such as LaplaceClassifier(), or None, got {model!r}")
    return model


def _lonely(classes: np.ndarray, index: np.ndarray) -> list[str]:
    counts = np.bincount(index)
    return [f"class {label} has one row only" for label, count in zip(classes, counts, strict=True) if count == 1]
