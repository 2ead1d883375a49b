"""KernelMachine: a support-vector machine with the kernel of an infinitely wide network.

A network of infinite width with the penalty lambda / 2 on its squared distance from the start,
trained by subgradient descent on the mean hinge loss, ends at the soft-margin support-vector
machine with its neural tangent kernel and C = 1 / (lambda n).

Source: Chen, Huang, Nguyen & Weng (2021), "On the Equivalence between Neural Network and Support
Vector Machine", theorem 3.1.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from kernelfield.kernels.network import NetworkKernel
from kernelfield.nets.algebra import Layer, Serial
from kernelfield.nets.certificate import TwoLayerMachine
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import Kind
from kernelfield.nets.rectifiers import Relu


class KernelMachine(ClassifierMixin, BaseEstimator):
    """Support-vector classification by an infinitely wide network.

    Parameters
    ----------
    network : Layer, NetworkKernel or None, default=None
        The architecture, or its kernel where inputs are images or sequences; None is
        ``Dense() >> Relu() >> Dense()``, for which decisions can be certified. Inputs should
        be standardised, as in ``make_pipeline(StandardScaler(), KernelMachine())``.
    kind : {"ntk", "nngp"}, default="ntk"
        Whether all layers are trained or the last one alone; of a NetworkKernel it is its own.
    penalty : float, default=1e-3
        The factor lambda of half the squared norm beside the mean hinge loss.

    Attributes
    ----------
    classes_ : ndarray
        The labels.
    machine_ : SVC
        The support-vector machine on the kernel matrix, one against one where there are more
        than two classes.
    X_fit_ : ndarray of shape (n, d)
        The inputs of `fit`.
    n_features_in_ : int
        The number of columns of X in `fit`.

    Examples
    --------
    >>> fitted = KernelMachine().fit([[-1.0, 0.5], [-2.0, 0.0], [1.0, 1.0], [2.0, 0.5]], [0, 0, 1, 1])
    >>> fitted.predict([[3.0, 0.0]]).tolist()
    [1]
    >>> bool(fitted.certified_radius([[3.0, 0.0]])[0] > 0.5)
    True
    """

    def __init__(
        self, network: Layer | NetworkKernel | None = None, *, kind: Kind = "ntk", penalty: float = 1e-3
    ) -> None:
        self.network = network
        self.kind = kind
        self.penalty = penalty

    def fit(self, X: ArrayLike, y: ArrayLike) -> "KernelMachine":
        """Fit the machine.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        y : array-like of shape (n,)
            Labels of two or more classes.

        Returns
        -------
        self : KernelMachine
        """
        if not self.penalty > 0:
            raise ValueError(f"penalty must be positive, got {self.penalty:g}; a small one is a hard margin")
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        self.kernel_ = _kernel(self.network, self.kind)
        self.X_fit_ = rows
        machine = SVC(kernel="precomputed", C=1 / (self.penalty * len(rows)))
        self.machine_ = machine.fit(self._matrix(rows), labels)
        self.classes_ = machine.classes_
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict the label of each row.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        labels : ndarray of shape (n,)
        """
        K = self._matrix(self._inputs(X))
        return self.machine_.predict(K)

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Give the output of the network, whose sign decides between two classes.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        values : ndarray of shape (n,), or (n, k) for k > 2 classes
        """
        K = self._matrix(self._inputs(X))
        return self.machine_.decision_function(K)

    def certified_radius(self, X: ArrayLike) -> np.ndarray:
        """Give how far all inputs of a row may move at once without changing its label.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        radius : ndarray of shape (n,)
            No point whose inputs each differ by less than this has another label. Only for two
            classes and a network Dense >> Relu >> Dense without biases, trained as a whole.
        """
        rows = torch.tensor(self._inputs(X))
        return self._two_layers().radius(rows).numpy()

    def _two_layers(self) -> TwoLayerMachine:
        arch, machine = self.kernel_.arch, self.machine_
        steps = arch.steps if isinstance(arch, Serial) else ()
        match steps:
            case (Dense(float(), None, None), Relu(), Dense(float(), None, None)) if (
                self.kernel_.kind == "ntk" and len(self.classes_) == 2
            ):
                gain = self.kernel_.scales.detach().square().prod()
                support, dual = torch.tensor(self.X_fit_[machine.support_]), torch.tensor(machine.dual_coef_[0])
                return TwoLayerMachine(support, gain * dual, float(machine.intercept_[0]))
        raise NotImplementedError(
            "a decision is certified for the NTK of Dense() >> Relu() >> Dense() without biases and two classes, "
            f"got the {self.kernel_.kind.upper()} of {arch} and {len(self.classes_)} classes"
        )

    def _inputs(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64)

    def _matrix(self, rows: np.ndarray) -> np.ndarray:
        """The kernel (n, k) of rows with those of the fit."""
        with torch.no_grad():
            first, second = (torch.tensor(x) for x in (rows, self.X_fit_))
            K: Tensor = self.kernel_(first, second).to_dense()
        return K.numpy()


def _kernel(network: Layer | NetworkKernel | None, kind: Kind) -> NetworkKernel:
    if isinstance(network, NetworkKernel):
        return network
    return NetworkKernel(Dense() >> Relu() >> Dense() if network is None else network, kind).double()
