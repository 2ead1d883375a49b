"""Classification with an exact kernel by Laplace's approximation.

The posterior of the latent values is replaced by the Gaussian around its mode, and the evidence
by the integral of that Gaussian, which is maximised over the hyperparameters with its exact
gradient. Two classes have one latent function and the logistic likelihood; more have one function
a class, all with the same kernel, and the softmax likelihood, whose classes stay coupled. At the
end the Gaussian moves from the mode to the mean, without which probabilities lack confidence: by
expectation propagation for two classes, by averages of the softmax for more.

Sources: Williams & Barber (1998), "Bayesian Classification with Gaussian Processes"; Rasmussen &
Williams (2006), chapter 3 and section 5.5.1.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Unit
from kernelfield.core.numerics import require_room, rounding, schur, threads_for
from kernelfield.core.posterior import Elliptical, LazyMatrix
from kernelfield.models.classify import (
    SIZE,
    FittedClassifier,
    classification_kernel,
    require_classes,
    sigmoid_average,
    softmax_average,
)
from kernelfield.models.covariance import Covariance, Lazy, covariance, matrix, named_values
from kernelfield.models.fit import Search
from kernelfield.models.logistic import Logistic
from kernelfield.models.mode import Curvature, climb
from kernelfield.models.propagation import propagated
from kernelfield.models.recentred import recentred
from kernelfield.models.search import race
from kernelfield.models.softmax import Softmax

BUFFERS, BUFFERS_EACH = 8, 8  # n x n matrices alive at once in a fit, and for each class where there are more than two
MODES = 4  # of the last evaluations, among whose combinations the next search for a mode begins


@dataclass(eq=False, repr=False)
class LaplaceClassifier(Model):
    """Laplace's approximation with the given kernel.

    kernel : any GPyTorch kernel, which is copied and never modified, or a name as for `Process`;
        None is "rbf". Its output scale is the variance of the latent functions. Stationary
        kernels by name have a lengthscale an input and priors made for labels.
    restarts : starts of the search for hyperparameters: the first at the given values, the
        others scaled to the data. With more than 768 rows the starts race on 512 of them.
    steps : the most iterations of each search; 0 keeps the given hyperparameters.
    law : the Gaussian of the latent values that answers: "moments" has the mean and variance
        that expectation propagation finds, for more than two classes a mean by averages of the
        softmax and Laplace's covariance; "mode" is Laplace's own, nearer to zero.

    Units: Y (n, k) one-hot.
    Errors: ValueError for targets that are not one-hot, an unknown kernel or one for another
        number of inputs; MemoryError where the n x n matrices do not fit.

    >>> X = torch.linspace(0, 1, 10, dtype=torch.double)[:, None]
    >>> Y = torch.nn.functional.one_hot((X[:, 0] > 0.5).long()).double()
    >>> fitted = LaplaceClassifier().fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> fitted.probabilities(X).argmax(-1).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """

    kernel: Kernel | str | None = None
    restarts: int = 2
    steps: int = 200
    law: Literal["moments", "mode"] = "moments"

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedLaplace":
        require_classes(data)
        self._check(data)
        kernel = classification_kernel(self.kernel, data.X)
        searches: list[Search] = []
        whole = Objective(covariance(kernel, data.X), data.Y)
        if self.steps and any(low < high for low, high in whole.bounds()):
            theta, searches = race(
                lambda part: whole if part is data else Objective(covariance(kernel, part.X), part.Y),
                data,
                restarts=self.restarts,
                steps=self.steps,
                generator=generator,
            )
            whole.covariance.assign(theta)
        kernel.requires_grad_(False)
        with torch.no_grad(), threads_for(len(data.X)):
            local, value = climb(whole.kind, matrix(kernel, data.X, data.X), whole.labels, whole.modes)
            if self.law == "moments" and isinstance(local, Logistic):
                local, value = propagated(local, whole.labels)
            elif self.law == "moments" and isinstance(local, Softmax):
                local = recentred(local, whole.labels)
        return FittedLaplace(kernel, data, local, value.item(), tuple(searches))

    def _check(self, data: Data) -> None:
        for name, least in (("restarts", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.law not in ("moments", "mode"):
            raise ValueError(f"law must be 'moments' or 'mode', got {self.law!r}")
        n, k = data.Y.shape
        bytes_each = data.X.element_size() * (BUFFERS if k == 2 else BUFFERS_EACH * k)
        require_room(n, bytes_each, data.X.device, what=f"an exact fit of {n} rows and {k} classes")


class Objective:
    """Minus the log posterior of the kernel parameters, a row, and its slope."""

    def __init__(self, kernel: Covariance, Y: Tensor) -> None:
        self.covariance = kernel
        self.kind: type[Curvature] = Logistic if Y.shape[1] == 2 else Softmax
        self.labels = Y[:, 1:] if Y.shape[1] == 2 else Y
        self.modes: deque[Tensor] = deque(maxlen=MODES)

    def bounds(self) -> list[tuple[float, float]]:
        return self.covariance.bounds(1.0)

    def given(self) -> np.ndarray:
        return self.covariance.start()

    def scattered(self, shift: float, noise: float, generator: torch.Generator) -> np.ndarray:
        return self.covariance.scattered(SIZE, shift, generator)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.inference_mode() if self.covariance.graph_free else torch.no_grad():
            lower = self.covariance.fill(theta).tril_()
            lower.diagonal().mul_(0.5)
            K = lower + lower.mT
            local, value = climb(self.kind, K, self.labels, self.modes)
            self.modes.append(local.gradient)
            G = local.slope()
            gradient = self.covariance.pull(G, torch.dot(G.flatten(), K.flatten()).item())
        prior, tilt = self.covariance.log_prior(theta)
        return -(value.item() + prior) / len(lower), -(gradient + tilt) / len(lower)


@dataclass(frozen=True, eq=False)
class FittedLaplace(FittedClassifier):
    """A classifier around the mode, or the mean, of its latent values.

    log_evidence in nats, Laplace's or, around the mean of two classes, that of expectation
    propagation; local the Gaussian there; searches the record of the
    hyperparameter searches, empty if none was made.
    """

    kernel: Kernel
    data: Data
    local: Curvature
    log_evidence: float
    searches: tuple[Search, ...] = ()

    @property
    def outputs(self) -> int:
        return self.local.f.shape[1]

    def latent(self, X: Tensor) -> Elliptical:
        return self._law(X)[0]

    def probabilities(self, X: Tensor) -> Tensor:
        law, scale = self._law(X)
        if isinstance(self.local, Logistic):
            both = torch.cat([-law.loc, law.loc], -1)  # each tail keeps its figures
            averages = sigmoid_average(both, law.variance)
            return averages / averages.sum(-1, keepdim=True)
        return softmax_average(law.loc, scale.blocks(), Unit())

    def _law(self, X: Tensor) -> tuple[Elliptical, "Coupled"]:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
        cross = matrix(self.kernel, self.data.X, flat)
        loc = cross.mT @ self.local.gradient

        def terms() -> tuple[Tensor, Tensor]:
            own, shared = self.local.explained(cross)
            return tuple(t.unflatten(-1, batch).movedim((0, 1), (-3, -2)) for t in (own, shared))

        scale = Coupled(Lazy(self.kernel, X), terms, self.outputs)
        return Elliptical(loc.unflatten(0, batch), scale), scale

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return named_values(self.kernel)


@dataclass(frozen=True, eq=False)
class Coupled:
    """The scale matrix of m functions that labels tie together, formed only where it is asked for.

    terms : own (*b, m, n, q) and shared (*b, m, p, q), as `Curvature.explained` gives them.
    """

    prior: LazyMatrix
    terms: Callable[[], tuple[Tensor, Tensor]]
    outputs: int

    @cached_property
    def _terms(self) -> tuple[Tensor, Tensor]:
        return self.terms()

    def blocks(self) -> Tensor:
        """The covariance of the functions at each point, (*b, q, m, m)."""
        own, shared = self._terms
        prior = self.prior.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
        left = (prior - own.square().sum(-2) + rounding(prior, own)).clamp_min(0)
        return torch.diag_embed(left.mT) + torch.einsum("...cpq,...dpq->...qcd", shared, shared)

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.blocks().diagonal(dim1=-2, dim2=-1).flatten(-2)

    def to_dense(self) -> Tensor:
        """The joint matrix (*b, q * m, q * m)."""
        own, shared = self._terms
        left = schur(self.prior.to_dense().unsqueeze(-3), own)  # (*b, m, q, q)
        eye = torch.eye(self.outputs).to(left)
        joint = torch.einsum("...cij,cd->...icjd", left, eye)
        joint = joint + torch.einsum("...cpi,...dpj->...icjd", shared, shared)
        return joint.flatten(-2).flatten(-3, -2)
