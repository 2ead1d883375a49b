"""Support-vector machines with the kernels of infinitely wide networks.

A network of infinite width with the penalty lambda / 2 on its squared distance from the start,
trained by subgradient descent on the mean hinge loss, ends at the soft-margin support-vector
machine with its neural tangent kernel and C = 1 / (lambda n),

    g(x) = sum_i a_i T(x_i, x) + b.

With two classes it has one output, whose sign decides; with more one output a class, trained
with that class against the rest, and the largest decides. Outputs of an infinitely wide network
learn apart, so that each is a machine of its own on one kernel matrix.

Probabilities are softmax(beta g), with (0, g) for two classes. The one number beta is the best,
in log loss, on outputs for rows that were left out, fold by fold; targets are smoothed as if each
class had been seen once more, so that beta stays finite where no row is on the wrong side. Thus
the most probable class is always the machine's own, which an offset, as in Platt's scaling, or a
step function of g would break.

Sources: Chen, Huang, Nguyen & Weng (2021), "On the Equivalence between Neural Network and Support
Vector Machine"; Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern
Neural Networks", for beta; Platt (1999), "Probabilistic Outputs for Support Vector Machines", for
the folds and the smoothed targets.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from scipy.optimize import brentq
from sklearn.svm import SVC
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.core.numerics import require_room
from kernelfield.kernels.network import NetworkKernel
from kernelfield.models.classify import FittedClassifier, require_classes
from kernelfield.models.covariance import matrix, named_values
from kernelfield.models.search import kernel_for
from kernelfield.nets.algebra import Layer, Serial
from kernelfield.nets.certificate import TwoLayerMachine
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import KINDS, Kind
from kernelfield.nets.rectifiers import Relu

BUFFERS = 4  # n x n matrices alive at once in a fit: the kernel, the part of a fold and what the solver keeps
REACH = 1e4  # bounds of beta around one over the size of the outputs


@dataclass(eq=False, repr=False)
class SupportVectorClassifier(Model):
    """The support-vector machine that an infinitely wide network ends at when it is trained on the hinge loss.

    network : an architecture; or its NetworkKernel where inputs are images or sequences, which is
        copied; None is the network called "ntk" or "nngp", with three hidden layers. With
        ``Dense() >> Relu() >> Dense()`` decisions can be certified. Nothing in it is learned.
    kind : "ntk" trains all layers, "nngp" the last one; of a NetworkKernel it is its own.
    penalty : lambda, the factor of half the squared norm beside the mean hinge loss.
    folds : parts of the rows, each of which is left out once to calibrate probabilities. A row
        that is the only one of its class is never left out.

    Units: Y (n, k) one-hot; inputs should be standardised, as `FieldClassifier` does.
    Errors: ValueError for targets that are not one-hot, a penalty that is not positive, fewer than
        two folds, another network or kind; MemoryError where n x n matrices do not fit.

    >>> X = torch.tensor([[-1.0, 0.5], [-2.0, 0.0], [1.0, 1.0], [2.0, 0.5]])
    >>> model = SupportVectorClassifier(Dense() >> Relu() >> Dense())
    >>> fitted = model.fit(Data(X, torch.eye(2)[[0, 0, 1, 1]]), generator=torch.Generator())
    >>> new = torch.tensor([[3.0, 0.0]])
    >>> fitted.decision(new).sign().item(), bool(fitted.certified_radius(new) > 0.5)
    (1.0, True)
    """

    network: Layer | NetworkKernel | None = None
    kind: Kind = "ntk"
    penalty: float = 1e-3
    folds: int = 5

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedSupportVector":
        require_classes(data)
        self._check(data)
        kernel = self._kernel(data.X)
        with torch.no_grad():
            K = matrix(kernel, data.X, data.X).double().cpu().numpy()
        if not np.isfinite(K).all():
            raise ValueError("the kernel matrix holds NaN or infinite values; check inputs and scales of the network")
        labels = data.Y.argmax(1).cpu().numpy()
        whole = Machines.of(K, labels, self.penalty)
        out = whole(K)
        fold = _folds(labels, self.folds, generator)
        for k in np.unique(fold[fold >= 0]):
            kept, left = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            part = Machines.of(K[np.ix_(kept, kept)], labels[kept], self.penalty)
            out[left] = part(K[np.ix_(left, kept)])
        coefficients, offsets = (torch.from_numpy(a).to(data.X) for a in (whole.coefficients, whole.offsets))
        used = coefficients.any(1)
        return FittedSupportVector(kernel, data.X[used], coefficients[used], offsets, sharpness(out, labels))

    def _check(self, data: Data) -> None:
        if not (self.penalty > 0 and math.isfinite(self.penalty)):
            raise ValueError(f"penalty must be positive, got {self.penalty:g}; a small one is a hard margin")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}: each is left out to calibrate probabilities")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be 'nngp' or 'ntk', got {self.kind!r}")
        n = len(data.X)
        require_room(n, 8 * BUFFERS, data.X.device, what=f"a support-vector machine of {n} rows")

    def _kernel(self, X: Tensor) -> NetworkKernel:
        match self.network:
            case None:
                kernel = cast(NetworkKernel, kernel_for(self.kind, X, X.new_tensor(1.0)))
            case NetworkKernel():
                kernel = cast(NetworkKernel, kernel_for(self.network, X, X.new_tensor(1.0)))
            case Layer():
                kernel = NetworkKernel(self.network, self.kind).to(X)
                kernel.scales = X.new_tensor(kernel.arch.scales())  # in the precision of the data
            case _:
                raise ValueError(f"network must be layers such as Dense() >> Relu() >> Dense(), got {self.network!r}")
        return kernel.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class FittedSupportVector(FittedClassifier):
    """m machines on one kernel: one for two classes, one a class for more.

    support (s, d) the points that any of them needs; coefficients (s, m) a; offsets (m,) b;
    sharpness beta.
    """

    kernel: NetworkKernel
    support: Tensor
    coefficients: Tensor
    offsets: Tensor
    sharpness: float

    @property
    def outputs(self) -> int:
        return len(self.offsets)

    def decision(self, X: Tensor) -> Tensor:
        return matrix(self.kernel, X, self.support) @ self.coefficients + self.offsets

    def probabilities(self, X: Tensor) -> Tensor:
        g = self.sharpness * self.decision(X)
        return (torch.nn.functional.pad(g, (1, 0)) if self.outputs == 1 else g).softmax(-1)

    def certified_radius(self, X: Tensor) -> Tensor:
        """How far (n,) all inputs of a row of X (n, d) may move at once without changing its label.

        No point whose inputs each differ by less than this has another label. Only for two
        classes and a network Dense >> Relu >> Dense without biases, trained as a whole.

        Errors: NotImplementedError for other networks or more classes.
        """
        return self.two_layers().radius(X)

    def two_layers(self) -> TwoLayerMachine:
        """The machine in closed form, where `certified_radius` exists."""
        arch = self.kernel.arch
        match arch.steps if isinstance(arch, Serial) else ():
            case (Dense(float(), None, None), Relu(), Dense(float(), None, None)) if (
                self.kernel.kind == "ntk" and self.outputs == 1
            ):
                gain = self.kernel.scales.square().prod()
                return TwoLayerMachine(self.support, gain * self.coefficients[:, 0], self.offsets.item())
        classes = 2 if self.outputs == 1 else self.outputs
        raise NotImplementedError(
            "a decision is certified for the NTK of Dense() >> Relu() >> Dense() without biases and two classes, "
            f"got the {self.kernel.kind.upper()} of {arch} and {classes} classes"
        )

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {**named_values(self.kernel), "support_vectors": float(len(self.support)), "sharpness": self.sharpness}


@dataclass(frozen=True, eq=False)
class Machines:
    """The m machines of a kernel matrix: coefficients (n, m), most of them zero, and offsets (m,)."""

    coefficients: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, K: np.ndarray, labels: np.ndarray, penalty: float) -> "Machines":
        """For labels (n,) from 0 to k - 1, each of which occurs."""
        classes = int(labels.max()) + 1
        wanted = [1] if classes == 2 else range(classes)
        coefficients, offsets = np.zeros((len(K), len(wanted))), np.zeros(len(wanted))
        for j, c in enumerate(wanted):
            machine = SVC(kernel="precomputed", C=1 / (penalty * len(K))).fit(K, labels == c)
            coefficients[machine.support_, j] = machine.dual_coef_[0]
            offsets[j] = machine.intercept_[0]
        return cls(coefficients, offsets)

    def __call__(self, cross: np.ndarray) -> np.ndarray:
        """Outputs (q, m) for the kernel matrix (q, n) of other points with these."""
        return cross @ self.coefficients + self.offsets


def _folds(labels: np.ndarray, folds: int, generator: torch.Generator) -> np.ndarray:
    """The part (n,) of each row, every class being spread over the parts; -1 for the only row of a class."""
    order = torch.randperm(len(labels), generator=generator).numpy()
    part, given = np.full(len(labels), -1), 0
    for c in np.unique(labels):
        rows = order[labels[order] == c]
        if len(rows) > 1:
            part[rows] = (given + np.arange(len(rows))) % folds
            given += len(rows)
    return part


def sharpness(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The best beta for outputs (n, m) of rows with labels (n,); see the module docstring.

    The loss is convex, so that its slope has one zero. Outputs that say nothing of the labels
    keep a little of their order, by the lower bound.

    >>> beta = sharpness(np.array([[-1.0], [1.0], [1.0]]), np.array([0, 1, 1]))  # targets 2/3 and 3/4
    >>> round(beta, 4), round(math.log(13 / 5), 4)
    (0.9555, 0.9555)
    """
    g = np.pad(outputs, ((0, 0), (1, 0))) if outputs.shape[1] == 1 else outputs
    k = g.shape[1]
    count = np.bincount(labels, minlength=k)
    targets = ((np.diag(count) + 1) / (count + k)[:, None])[labels]
    size = float(np.sqrt(np.square(g - g.mean(1, keepdims=True)).mean())) or 1.0

    def slope(log_beta: float) -> float:
        p = torch.from_numpy(math.exp(log_beta) / size * g).softmax(-1).numpy()
        return float(((p - targets) * g).sum() / size)

    low, high = -math.log(REACH), math.log(REACH)
    if slope(low) >= 0:
        return math.exp(low) / size
    if slope(high) <= 0:
        return math.exp(high) / size
    return math.exp(brentq(slope, low, high, xtol=1e-12)) / size
