"""Laplace's approximation of Bayesian networks that classify.

The outputs f(x) of a network are log odds of k classes, and its curvature is that of the softmax,
diag(pi) - pi pi' in each row, between the Jacobians of the outputs. Outputs have the Gaussian law
of `laplace`, and classes the probabilities E[softmax(f)]: "sampling" takes the average over a
quasi-random sequence, "probit" replaces the sigmoid by a normal distribution function,

    two classes   sigmoid(d / sqrt(1 + pi s / 8)),    d = f_2 - f_1 with the variance s,
    more          softmax(f / sqrt(1 + pi diag(S) / 8)),

which for more than two is a heuristic of its own.

Sources: Daxberger et al. (2021), "Laplace Redux - Effortless Bayesian Deep Learning"; MacKay
(1992), "The Evidence Framework Applied to Classification Networks"; Gibbs (1997), "Bayesian
Gaussian Processes for Regression and Classification", for several classes.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Elliptical
from kernelfield.models.classify import FittedClassifier, require_classes, sigmoid_average, softmax_average
from kernelfield.models.fit import Search
from kernelfield.models.neural.curvature import Tangent, class_root
from kernelfield.models.neural.laplace import (
    Form,
    LinearisedCovariance,
    check,
    curved,
    determinant,
    linearised,
    made,
    parts,
    prior_penalty,
    reported,
    spread,
)
from kernelfield.models.neural.laplace_evidence import Fitness, LaplaceEvidence
from kernelfield.models.neural.laplace_forms import Law
from kernelfield.models.neural.likelihoods import Softmax
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer

Link = Literal["probit", "sampling"]


@dataclass(eq=False, repr=False)
class LaplaceNetworkClassifier(Model):
    """A network that classifies, with Laplace's approximation around its mode.

    link : how log odds become probabilities, "probit" or "sampling"; see the module docstring.

    The other settings are those of `LaplaceNetwork`.

    Units: Y (n, k) one-hot.
    Errors: ValueError for targets that are not one-hot, an unknown link, and as for `LaplaceNetwork`.

    >>> X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    >>> Y = torch.nn.functional.one_hot((X[:, 0] > 0).long()).double()
    >>> model = LaplaceNetworkClassifier(training=Training(steps=300))
    >>> fitted = model.fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> fitted.probabilities(X[[0, -1]]).argmax(-1).tolist()
    [0, 1]
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    form: Form = "full"
    link: Link = "sampling"
    prior: Literal["one", "layers"] = "one"
    precision: float | None = None
    evidence: Literal["exact", "blocks"] = "exact"
    rank: int = 100
    subset: int = 512
    block: int = 128
    rounds: int = 5
    training: Training = field(default_factory=lambda: Training(learning_rate=5e-3))

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedLaplaceNetworkClassifier":
        require_classes(data)
        self._check()
        network = made(self, data)
        precision = data.Y.new_tensor([1.0 if self.precision is None else self.precision])
        parameters = network.start(generator)
        fitted = None
        for part in parts(self.training, self.rounds):
            tangent = Tangent(network, parameters.to(data.X), self.form == "last_layer")
            penalty = prior_penalty(tangent, precision, len(data.X))
            trained = train(
                network, data, Softmax(), part, generator=generator, start=parameters[None], penalty=penalty
            )
            parameters = trained.parameters[0]
            fitted = self._around(network, parameters, data, precision, generator)
            precision = fitted.precision
        assert fitted is not None
        return fitted

    def around(
        self, network: Network, parameters: Tensor, data: Data, *, generator: torch.Generator
    ) -> "FittedLaplaceNetworkClassifier":
        """The approximation around parameters (p,) that are already at their mode."""
        require_classes(data)
        self._check()
        precision = data.Y.new_tensor([1.0 if self.precision is None else self.precision])
        return self._around(network, parameters, data, precision, generator)

    def _around(
        self, network: Network, parameters: Tensor, data: Data, precision: Tensor, generator: torch.Generator
    ) -> "FittedLaplaceNetworkClassifier":
        with torch.no_grad():
            tangent = Tangent(network, parameters.to(data.X), self.form == "last_layer")
            values = tangent.values(data.X)
            root = class_root(values)
            curvature = curved(self, tangent, data.X, root, generator)
            price = determinant(self, curvature, tangent, data.X, root, generator)
            evidence = LaplaceEvidence(price, tangent.squares(), Fitness.classes(data, values))
            tuned = evidence.tuned(
                spread(self, tangent, precision),
                precision.new_ones(()),
                learn_precision=self.precision is None,
                learn_noise=False,
                size=1.0,
            )
            law = curvature.law(tuned.precision, tuned.noise)
        return FittedLaplaceNetworkClassifier(
            tangent, law, self.link, tuned.precision, tuned.log_evidence, tuned.searches
        )

    def _check(self) -> None:
        check(self)
        if self.link not in ("probit", "sampling"):
            raise ValueError(f"link must be 'probit' or 'sampling', got {self.link!r}")


@dataclass(frozen=True, eq=False)
class FittedLaplaceNetworkClassifier(FittedClassifier):
    """A network that classifies, with a Gaussian law of its parameters.

    precision (1,) or one for each layer (l,); log_evidence in nats; searches the record of the
    last search, empty if nothing was learned.
    """

    tangent: Tangent
    law: Law
    link: Link
    precision: Tensor
    log_evidence: float
    searches: tuple[Search, ...] = ()

    @property
    def outputs(self) -> int:
        return self.tangent.network.outputs

    def footprint(self, rows: int) -> int:
        return self.tangent.cost

    def latent(self, X: Tensor) -> Elliptical:
        return linearised(self.tangent, self.law, X, self.precision.new_zeros(()))

    def probabilities(self, X: Tensor) -> Tensor:
        law = self.latent(X)
        assert isinstance(law.scale, LinearisedCovariance)
        return averaged(law.loc, law.scale.blocks(), self.link)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"precision": reported(self.precision)}


def averaged(loc: Tensor, covariance: Tensor, link: Link) -> Tensor:
    """The probabilities (n, k) of classes, for log odds with means (n, k) and covariances (n, k, k).

    >>> averaged(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2, 2), "probit")
    tensor([[0.1192, 0.8808]])
    """
    if loc.shape[-1] == 2:
        contrast = loc.new_tensor([-1.0, 1.0])
        gap = torch.stack([-(loc @ contrast), loc @ contrast], -1)
        variance = torch.einsum("nkl,k,l->n", covariance, contrast, contrast).clamp_min(0)[:, None]
        if link == "probit":
            return torch.sigmoid(gap / (1 + math.pi / 8 * variance).sqrt())
        both = sigmoid_average(gap, variance)
        return both / both.sum(-1, keepdim=True)
    if link == "probit":
        spreads = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0)
        return (loc / (1 + math.pi / 8 * spreads).sqrt()).softmax(-1)
    return softmax_average(loc, covariance, Unit())
