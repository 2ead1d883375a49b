"""Laplace's approximation of Bayesian networks, linearised.

A network is trained to the mode theta* of its posterior, whose log density has there the
generalised Gauss-Newton matrix as its curvature. The Gaussian with this curvature is the exact
posterior of the network linearised at theta*, so that outputs have the law

    f(X) ~ N(f(X; theta*), J(X) Sigma J(X)'),

jointly over points and outputs, and the evidence has a closed form, by which the precision of the
prior and the noise are learned. Training and tuning take turns, `rounds` times, so that the mode
is that of nearly the prior and the noise that predictions have.

The forms of Sigma are those of `laplace_forms`. "full" is exact on the smaller one of its two
sides; "functional" is the process of the tangent kernel on a subset of the rows.

Sources: Daxberger et al. (2021), "Laplace Redux - Effortless Bayesian Deep Learning"; Immer,
Korzepa & Bauer (2021), "Improving predictions of Bayesian neural nets via local linearization";
MacKay (1992), "A Practical Bayesian Framework for Backpropagation Networks".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Elliptical
from kernelfield.models.evidence import Trend, mean_square
from kernelfield.models.fit import Search
from kernelfield.models.neural.curvature import Shares, Tangent, prior_std
from kernelfield.models.neural.evidence_bounds import RowBound
from kernelfield.models.neural.laplace_evidence import Determinant, Fitness, LaplaceEvidence
from kernelfield.models.neural.laplace_forms import Curvature, Functional, Law, LowRank, Rotated, Weights
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer
from kernelfield.nets.jacobian import Share
from kernelfield.nets.quadrature import Tanh

Form = Literal["full", "kronecker", "diagonal", "last_layer", "low_rank", "functional"]
FORMS = ("full", "kronecker", "diagonal", "last_layer", "low_rank", "functional")
BLOCKS = 64  # of rows that stand for all in a bound of the evidence
SHARE = 0.1  # of the noise in the variance of the targets, to start from
DEFAULT = multilayer((50, 50), Tanh(), w=1.0, b=1.0)


class Settings(Protocol):
    """What the approximations of regressors and classifiers have in common."""

    network: Layer | nn.Module | None
    width: int
    form: Form
    prior: Literal["one", "layers"]
    precision: float | None
    evidence: Literal["exact", "blocks"]
    rank: int
    subset: int
    block: int
    rounds: int
    training: Training


@dataclass(eq=False, repr=False)
class LaplaceNetwork(Model):
    """A network with Laplace's approximation around its mode.

    network : an architecture of `kernelfield.nets` or a torch module; None is two hidden layers of
        50 tanh units.
    width : of the layers of an architecture that leave theirs open.
    form : of the covariance of the parameters. "full", "kronecker", "diagonal", "low_rank" (with
        `rank` eigenvectors), "functional" (the process on `subset` rows) or "last_layer".
    prior : whether "one" precision serves all parameters or the "layers" have one each. It divides
        the variances with which the architecture draws them.
    precision, noise : given, they are held; None learns them by evidence. The noise is a variance
        in squared units of Y, the same for all outputs.
    evidence : "exact", or a bound of it by "blocks" of `block` rows, for many rows.
    rounds : of training and tuning.
    training : how the mode is found; its steps are those of all rounds.

    Errors: ValueError for an unknown form, prior or evidence, and for numbers that are not positive;
        MemoryError where the matrices of a form do not fit.

    >>> X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    >>> model = LaplaceNetwork(training=Training(steps=400))
    >>> fitted = model.fit(Data(X, torch.sin(3 * X)), generator=torch.Generator().manual_seed(0))
    >>> law = fitted.posterior(torch.tensor([[0.5], [3.0]], dtype=torch.float64))
    >>> bool(law.variance[1] > 10 * law.variance[0])
    True
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    form: Form = "full"
    prior: Literal["one", "layers"] = "one"
    precision: float | None = None
    noise: float | None = None
    evidence: Literal["exact", "blocks"] = "exact"
    rank: int = 100
    subset: int = 512
    block: int = 128
    rounds: int = 5
    training: Training = field(default_factory=lambda: Training(learning_rate=5e-3))

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedLaplaceNetwork":
        self._check()
        network = made(self, data)
        size = target_size(data)
        noise = data.Y.new_tensor(SHARE * size if self.noise is None else self.noise)
        precision = data.Y.new_tensor([1.0 if self.precision is None else self.precision])
        parameters = network.start(generator)
        fitted = None
        for part in parts(self.training, self.rounds):
            likelihood = Gaussian(noise.item())
            penalty = prior_penalty(Tangent(network, parameters.to(data.X), self._last), precision, len(data.X))
            trained = train(
                network, data, likelihood, part, generator=generator, start=parameters[None], penalty=penalty
            )
            parameters = trained.parameters[0]
            fitted = self._around(network, parameters, data, precision, noise, generator)
            precision, noise = fitted.precision, fitted.noise
        assert fitted is not None
        return fitted

    def around(
        self, network: Network, parameters: Tensor, data: Data, *, generator: torch.Generator
    ) -> "FittedLaplaceNetwork":
        """The approximation around parameters (p,) that are already at their mode.

        What is None of precision and noise is learned.
        """
        self._check()
        noise = data.Y.new_tensor(SHARE * target_size(data) if self.noise is None else self.noise)
        precision = data.Y.new_tensor([1.0 if self.precision is None else self.precision])
        return self._around(network, parameters, data, precision, noise, generator)

    def _around(
        self,
        network: Network,
        parameters: Tensor,
        data: Data,
        precision: Tensor,
        noise: Tensor,
        generator: torch.Generator,
    ) -> "FittedLaplaceNetwork":
        with torch.no_grad():
            tangent = Tangent(network, parameters.to(data.X), self._last)
            root = None if data.weight is None else data.weight.sqrt()[:, None, None]
            curvature = curved(self, tangent, data.X, root, generator)
            fitness = Fitness.gaussian(data, tangent.values(data.X))
            evidence = LaplaceEvidence(
                determinant(self, curvature, tangent, data.X, root, generator), tangent.squares(), fitness
            )
            tuned = evidence.tuned(
                spread(self, tangent, precision),
                noise,
                learn_precision=self.precision is None,
                learn_noise=self.noise is None,
                size=target_size(data),
            )
            law = curvature.law(tuned.precision, tuned.noise)
        return FittedLaplaceNetwork(tangent, law, tuned.precision, tuned.noise, tuned.log_evidence, tuned.searches)

    @property
    def _last(self) -> bool:
        return self.form == "last_layer"

    def _check(self) -> None:
        check(self)
        if self.noise is not None and not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be a positive variance, got {self.noise}; None learns it")


def check(settings: Settings) -> None:
    """Refuse settings that no approximation can be made with.

    Errors: ValueError, with the value and what it may be.
    """
    for name, allowed in (("form", FORMS), ("prior", ("one", "layers")), ("evidence", ("exact", "blocks"))):
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")
    for name in ("rank", "subset", "block", "rounds"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")
    if settings.precision is not None and not (settings.precision > 0 and math.isfinite(settings.precision)):
        raise ValueError(f"precision must be positive, got {settings.precision}; None learns it")


def made(settings: Settings, data: Data) -> Network:
    """The network of the settings, with the sizes of the data."""
    architecture = DEFAULT if settings.network is None else settings.network
    return Network(architecture, data.X.shape[1], data.Y.shape[1], settings.width)


def parts(training: Training, rounds: int) -> list[Training]:
    """Trainings of equal length, with the steps of one between them."""
    if training.steps < rounds:
        raise ValueError(f"{rounds} rounds need at least as many steps of training, got {training.steps}")
    return [replace(training, steps=training.steps // rounds)] * rounds


def target_size(data: Data) -> float:
    """The mean square of the targets about their mean; one where they are constant."""
    return mean_square(data.Y, Trend.of("constant", data.X)(data.X))


def prior_penalty(tangent: Tangent, precision: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """Minus the log density of the prior, a row, for parameters (k, p)."""
    each = torch.cat([precision.expand(len(tangent.names)), precision.new_ones(1)])[tangent.labels]
    inverse = each / prior_std(tangent.network).to(each).square() / (2 * rows)
    return lambda theta: (theta.square() * inverse.to(theta)).sum(-1)


def spread(settings: Settings, tangent: Tangent, precision: Tensor) -> Tensor:
    """As many precisions (1,) or (l,) as the prior has."""
    if settings.prior == "one":
        return precision[:1]
    return precision.expand(len(tangent.names)).clone()


def curved(
    settings: Settings, tangent: Tangent, X: Tensor, root: Tensor | None, generator: torch.Generator
) -> Curvature:
    """The curvature of all rows in the form that is asked for."""
    layers = settings.prior == "layers" and len(tangent.names) > 1
    match settings.form:
        case "kronecker":
            return Rotated.kronecker(tangent, X, root)
        case "diagonal":
            return Rotated.diagonal(tangent, X, root)
        case "low_rank":
            return LowRank.of(tangent, X, root, settings.rank, generator)
        case "functional":
            chosen = torch.randperm(len(X), generator=generator)[: settings.subset].sort().values.to(X.device)
            own = None if root is None else root[chosen]
            return Functional.of(tangent, X[chosen], own, layers=layers, rows=len(X))
    if sum(tangent.sizes) <= len(X) * tangent.network.outputs:
        return Weights.of(tangent, X, root)
    return Functional.of(tangent, X, root, layers=layers, rows=len(X))


def determinant(
    settings: Settings,
    curvature: Curvature,
    tangent: Tangent,
    X: Tensor,
    root: Tensor | None,
    generator: torch.Generator,
) -> Determinant:
    """What the evidence is tuned with: the curvature itself, or a bound by blocks of rows."""
    if settings.evidence == "exact":
        return curvature
    return RowBound.of(tangent, X, root, settings.block, most=BLOCKS, generator=generator)


@dataclass(frozen=True, eq=False)
class FittedLaplaceNetwork(Surrogate):
    """A network with a Gaussian law of its parameters.

    precision (1,) or one for each layer (l,); noise a variance in squared units of Y;
    log_evidence in nats; searches the record of the last search, empty if nothing was learned.
    """

    tangent: Tangent
    law: Law
    precision: Tensor
    noise: Tensor
    log_evidence: float
    searches: tuple[Search, ...] = ()

    @property
    def outputs(self) -> int:
        return self.tangent.network.outputs

    def footprint(self, rows: int) -> int:
        return self.tangent.cost

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        return linearised(self.tangent, self.law, X, self.noise if noise else self.noise.new_zeros(()))

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"noise": self.noise.item(), "precision": reported(self.precision)}


def reported(values: Tensor) -> float | list[float]:
    """One number, or several."""
    return values.item() if values.numel() == 1 else values.tolist()


def linearised(tangent: Tangent, law: Law, X: Tensor, noise: Tensor) -> Elliptical:
    """The joint law of the outputs at X (*b, n, d)."""
    batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
    scale = LinearisedCovariance(tangent, law, flat, batch, noise)
    return Elliptical(tangent.values(flat).unflatten(0, batch), scale)


@dataclass(frozen=True, eq=False)
class LinearisedCovariance:
    """The covariance of outputs at X, rows of all batches one below the other; formed when it is asked for.

    batch : the shape (*b, n) of the rows.
    """

    tangent: Tangent
    law: Law
    X: Tensor
    batch: torch.Size
    noise: Tensor

    @cached_property
    def _shares(self) -> Shares:
        return self.tangent.shares(self.X)

    @cached_property
    def _blocks(self) -> Tensor:
        return self.law.blocks(self._shares)

    def blocks(self) -> Tensor:
        """The covariance of the outputs at each point, (*b, n, o, o)."""
        return self._blocks.unflatten(0, self.batch)

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.blocks().diagonal(dim1=-2, dim2=-1).flatten(-2) + self.noise

    def to_dense(self) -> Tensor:
        """The joint matrix (*b, n o, n o)."""
        n = self.batch[-1]
        count = len(self.X) // n
        dense = torch.stack([self.law.joint(_rows(self._shares, slice(i * n, i * n + n))) for i in range(count)])
        dense = dense.unflatten(0, self.batch[:-1]) if len(self.batch) > 1 else dense[0]
        return dense + self.noise * torch.eye(dense.shape[-1]).to(dense)


def _rows(shares: Shares, rows: slice) -> Shares:
    return [Share(s.slopes[rows], s.h[rows]) for s in shares]
