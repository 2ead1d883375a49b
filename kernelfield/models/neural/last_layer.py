"""Bayesian linear regression on the features of a trained network.

With Phi (n, c) the inputs of the last layer, a one among them for its bias, in units of the prior
of that layer, each output j is the conjugate model

    y_j = Phi w_j + e,    w_j ~ N(0, 1 / a_j),    e_i ~ N(0, v_j / weight_i),

whose posterior mean and covariance, a factor of the data (QR of weighed rows) and one singular
value decomposition Phi = U S V' give in closed form for all a and v:

    mean = V diag(S / (S^2 + a v)) U' y,    covariance = V diag(v / (S^2 + a v)) V'.

Features learned from the same rows as a and v leave too little noise to those rows. So a share of
the rows is held out of the training of the network, and a and v are those under which these are
most probable given the others, each by itself; then all rows are taken in. Of fewer than 100 rows
none is held out: five more networks are trained, each without a fifth of them, and judge by it. A
few rows between the others say next to nothing about the size of the coefficients, on which the law
far from all data rests, and of two errors that are small by chance the best noise is almost none:
log a has a normal prior around that of the architecture, and log v one around a tenth of the
variance of the targets. Where no row shall be held out, a and v maximise the evidence

    log p(y) = -(|y|^2 - sum S^2 (U' y)^2 / (S^2 + a v)) / 2v - sum log(1 + S^2 / (a v)) / 2 - n log(2 pi v) / 2.

Data that come later change the factor, not the features: `condition` is exact.

Sources: Bishop (2006), sections 3.3 and 3.5; Snoek et al. (2015), "Scalable Bayesian Optimization
Using Deep Neural Networks"; Ober & Rasmussen (2019), "Benchmarking the Neural Linear Model for
Regression", on features that fit too well.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.numerics import threads_for
from kernelfield.core.posterior import Elliptical
from kernelfield.models.classify import Parallel
from kernelfield.models.evidence import NOISE_REACH
from kernelfield.models.fit import Search, minimise
from kernelfield.models.neural.batches import FEW, crosses, folds
from kernelfield.models.neural.curvature import Tangent
from kernelfield.models.neural.laplace_evidence import PRECISION_REACH
from kernelfield.models.neural.likelihoods import SHARE, Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer

DEFAULT = multilayer((64, 64))
SPREAD = 2.0  # of the priors of log precision and log noise
STEPS = 100  # of a search for two numbers
STARTS = ((0.0, -2.0), (4.0, -4.0))  # of log precision, and of log noise against the size of the targets


@dataclass(eq=False, repr=False)
class LastLayer(Model):
    """A trained network whose last layer is replaced by its posterior.

    network : an architecture of `kernelfield.nets` or a torch module, whose last layer is dense;
        None is two hidden layers of 64 rectifiers.
    width : of the layers of an architecture that leave theirs open.
    held_out : the share of rows from which prior precision and noise are learned and the network is
        not; zero learns them by the evidence of all rows. Fewer than 100 rows are all fitted, and
        other networks judge.
    training : how the network is trained.

    Errors: ValueError for a share outside of [0, 1), or a network that does not end in a dense layer.

    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> model = LastLayer(training=Training(steps=300))
    >>> fitted = model.fit(Data(X, torch.sin(3 * X)), generator=torch.Generator().manual_seed(0))
    >>> law = fitted.posterior(torch.tensor([[0.5], [3.0]], dtype=torch.float64))
    >>> bool(law.variance[1] > 10 * law.variance[0])
    True
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    held_out: float = 0.2
    training: Training = field(default_factory=lambda: Training(learning_rate=3e-3))

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedLastLayer":
        architecture = DEFAULT if self.network is None else self.network
        network = Network(architecture, data.X.shape[1], data.Y.shape[1], self.width)
        n, few = len(data.X), crosses(len(data.X), self.held_out)
        order = torch.randperm(n, generator=generator)
        seen = torch.ones(1, n, dtype=torch.bool)
        seen[0, order[: 0 if few or n == 1 else round(self.held_out * n)]] = False
        # The size of a known noise does not matter to Adam, and constant targets leave none to learn.
        likelihood = Gaussian(target_sizes(data).mean().item())
        trained = train(network, data, likelihood, self.training, generator=generator, rows=seen)
        (features,) = _features(network, trained.parameters.to(data.X))
        if not few:
            judges = [Judge(features, ~seen[0])] if not seen.all() else []
            return conjugate(features, data, judges, notes=tuple(trained.notes))
        parts = folds(n, generator)
        training = Training(**{**self.training.get_params(), "batch": self.training.batch or FEW})
        others = train(network, data, likelihood, training, members=len(parts), generator=generator, rows=parts)
        by = zip(_features(network, others.parameters.to(data.X)), ~parts, strict=True)
        return conjugate(features, data, [Judge(*one) for one in by], notes=tuple(trained.notes))


def target_sizes(data: Data) -> Tensor:
    """The mean squares (m,) of the targets about their means; one where they are constant."""
    size = data.Y.var(0, correction=0)
    return torch.where(size > torch.finfo(size.dtype).eps * data.Y.square().mean(0), size, 1.0)


@dataclass(frozen=True, eq=False)
class Features:
    """The inputs of the last layer of a network, as a function.

    >>> layers = nn.Sequential(nn.Tanh(), nn.Linear(2, 1))
    >>> network = Network(layers, inputs=2, outputs=1)
    >>> features = Features(Tangent(network, network.start(torch.Generator()), last=True))
    >>> features(torch.zeros(1, 2, dtype=torch.float64))  # the bias alone
    tensor([[0., 0., 1.]], dtype=torch.float64)
    """

    tangent: Tangent

    def __call__(self, X: Tensor) -> Tensor:
        """Phi (n, c), in units of the prior of the last layer.

        Errors: ValueError where the outputs are not a linear function of a dense layer's inputs.
        """
        (share, *more) = self.tangent.shares(X)
        eye = torch.eye(self.tangent.network.outputs).to(share.slopes).expand(share.slopes.shape[0], -1, -1)
        if more or share.slopes.shape != eye.shape or not torch.equal(share.slopes, eye):
            name = type(self.tangent.network.architecture).__name__
            raise ValueError(f"a last layer that is dense is needed, and {name} ends otherwise; take LaplaceNetwork")
        return share.h


def _features(network: Network, parameters: Tensor) -> Iterator["Features"]:
    """Those of networks with parameters (k, p)."""
    for theta in parameters:
        yield Features(Tangent(network, theta, last=True))


@dataclass(frozen=True, eq=False)
class Judge:
    """Features, and the rows `held` (n,) that they were not learned from."""

    features: Features
    held: Tensor

    def parts(self, data: Data, half: Tensor) -> list["Part"]:
        """What the held rows say of each output, given the others; for roots of weights `half` (n,)."""
        held, Phi, Y = self.held.to(data.X.device), self.features(data.X), data.Y
        moments = Moments.of(Phi[~held], Y[~held], half[~held])
        return [Part.of(moments, j, Phi[held], Y[held, j], half[held]) for j in range(Y.shape[1])]


def conjugate(
    features: Features, data: Data, judges: Sequence[Judge] = (), *, notes: tuple[str, ...] = ()
) -> "FittedLastLayer":
    """The regression of the data on the features; precision and noise are what the judges say, or the evidence."""
    with torch.no_grad():
        Phi, Y = features(data.X), data.Y
        half = Y.new_ones(len(Y)) if data.weight is None else data.weight.sqrt()
        size = target_sizes(data)
        whole = Moments.of(Phi, Y, half)
        parts = [judge.parts(data, half) for judge in judges]
        found, searches = [], []
        for j in range(Y.shape[1]):
            if parts:
                objective: Judged | Evidence = Judged(tuple(part[j] for part in parts), size[j])
            else:
                objective = Evidence.of(whole, j)
            best, search = _search(objective, size[j])
            found.append(best)
            searches += search
        precision, noise = torch.tensor(np.exp(found)).to(Y).unbind(1)
        return FittedLastLayer(features, whole, precision, noise, tuple(searches), notes)


@dataclass(frozen=True, eq=False)
class Moments:
    """What the conjugate model needs of n weighed rows [Phi Y]: their triangular factor.

    factor (k, c + m), with factor' factor = [Phi Y]' [Phi Y]; features c; rows n; log_weight the
    sum of log weights.
    """

    factor: Tensor
    features: int
    rows: int
    log_weight: Tensor

    @classmethod
    def of(cls, Phi: Tensor, Y: Tensor, half: Tensor) -> "Moments":
        """For roots of weights `half` (n,)."""
        table = torch.cat([Phi, Y], 1) * half[:, None]
        return cls(torch.linalg.qr(table, mode="r").R, Phi.shape[1], len(Phi), 2 * half.log().sum())

    def joined(self, more: "Moments") -> "Moments":
        """Those of both sets of rows."""
        table = torch.cat([self.factor, more.factor])
        R = torch.linalg.qr(table, mode="r").R
        return Moments(R, self.features, self.rows + more.rows, self.log_weight + more.log_weight)

    @cached_property
    def decomposition(self) -> tuple[Tensor, Tensor, Tensor]:
        """S^2 (c,), V (c, c), and S U' Y (c, m)."""
        left, right = self.factor[:, : self.features], self.factor[:, self.features :]
        if len(left) < self.features:  # directions without data belong to V too
            left, right = (nn.functional.pad(t, (0, 0, 0, self.features - len(left))) for t in (left, right))
        U, S, Vh = torch.linalg.svd(left, full_matrices=False)
        return S.square(), Vh.mT, S[:, None] * (U.mT @ right)

    @property
    def squares(self) -> Tensor:
        """The weighted sums of squares (m,) of the targets."""
        return self.factor[:, self.features :].square().sum(0)

    def mean(self, precision: Tensor, noise: Tensor) -> Tensor:
        """The posterior means (c, m) of the coefficients, for a and v (m,)."""
        squared, V, projected = self.decomposition
        return V @ (projected / (squared[:, None] + precision * noise))


@dataclass(frozen=True, eq=False)
class Evidence:
    """The log evidence of one output as a function of log precision and log noise."""

    squared: Tensor
    projected: Tensor
    square: Tensor
    rows: int
    log_weight: Tensor

    @classmethod
    def of(cls, moments: Moments, j: int) -> "Evidence":
        squared, _, projected = moments.decomposition
        return cls(squared, projected[:, j], moments.squares[j], moments.rows, moments.log_weight)

    def __call__(self, precision: Tensor, noise: Tensor) -> Tensor:
        explained = (self.projected.square() / (self.squared + precision * noise)).sum()
        logdet = torch.log1p(self.squared / (precision * noise)).sum()
        constant = 0.5 * self.log_weight - 0.5 * self.rows * math.log(2 * math.pi)
        return constant - 0.5 * ((self.square - explained) / noise + logdet + self.rows * noise.log())


@dataclass(frozen=True, eq=False)
class Judged:
    """The log density of held-out rows of one output, each by itself, given the others, and of precision and noise.

    size: of the targets, in which the medians of the priors are stated.
    """

    parts: tuple["Part", ...]
    size: Tensor

    @property
    def rows(self) -> int:
        return sum(len(part.y) for part in self.parts)

    def __call__(self, precision: Tensor, noise: Tensor) -> Tensor:
        apart = (precision * self.size).log(), (noise / (SHARE * self.size)).log()
        prior = -0.5 * sum((one / SPREAD).square() for one in apart)
        return prior + torch.stack([part(precision, noise) for part in self.parts]).sum()


@dataclass(frozen=True, eq=False)
class Part:
    """The log density of some rows of one output, each by itself, given the others."""

    squared: Tensor
    projected: Tensor
    along: Tensor  # Phi V of the held-out rows (k, c)
    y: Tensor
    weight: Tensor

    @classmethod
    def of(cls, moments: Moments, j: int, Phi: Tensor, y: Tensor, half: Tensor) -> "Part":
        squared, V, projected = moments.decomposition
        return cls(squared, projected[:, j], Phi @ V, y, half.square())

    def __call__(self, precision: Tensor, noise: Tensor) -> Tensor:
        share = 1 / (self.squared + precision * noise)
        gap = self.y - self.along @ (share * self.projected)
        variance = noise * (self.along.square() @ share + 1 / self.weight)
        return -0.5 * (gap.square() / variance + variance.log() + math.log(2 * math.pi)).sum()


def _search(objective: Judged | Evidence, like: Tensor) -> tuple[np.ndarray, list[Search]]:
    """The best log precision and log noise, for targets of the mean square `like` ()."""
    size = like.item()

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.tensor(theta).to(like).requires_grad_()
        with torch.enable_grad():
            value = -objective(values[0].exp(), values[1].exp()) / objective.rows
            (slope,) = torch.autograd.grad(value, values)
        return value.item(), slope.double().cpu().numpy()

    bounds = [
        (math.log(low * unit), math.log(high * unit))
        for (low, high), unit in ((PRECISION_REACH, 1 / size), (NOISE_REACH, size))
    ]
    unit = np.array([-math.log(size), math.log(size)])
    starts = [np.array(start) + unit for start in STARTS]
    with threads_for(0):
        return minimise(loss, starts, bounds, STEPS, label="precision and noise of the last layer")


@dataclass(frozen=True, eq=False)
class FittedLastLayer(Surrogate):
    """A linear model of features that are known.

    precision a and noise v (m,), one for each output, in units of the architecture's prior and
    squared units of Y; searches the records of their searches.
    """

    features: Features
    moments: Moments
    precision: Tensor
    noise: Tensor
    searches: tuple[Search, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return len(self.noise)

    def footprint(self, rows: int) -> int:
        return self.features.tangent.cost

    @cached_property
    def log_evidence(self) -> float:
        """In nats, of all outputs, the features being given."""
        pairs = zip(self.precision, self.noise, strict=True)
        return sum(Evidence.of(self.moments, j)(a, v).item() for j, (a, v) in enumerate(pairs))

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        batch = X.shape[:-1]
        Phi = self.features(X.reshape(-1, X.shape[-1]))
        loc = Phi @ self.moments.mean(self.precision, self.noise)
        squared, V, _ = self.moments.decomposition
        along = (Phi @ V).unflatten(0, batch)
        parts = []
        for a, v in zip(self.precision, self.noise, strict=True):
            half = along * (v / (squared + a * v)).sqrt()
            parts.append(Gram(half, v if noise else v.new_zeros(())))
        return Elliptical(loc.unflatten(0, batch), Parallel(tuple(parts)))

    def condition(self, data: Data) -> "FittedLastLayer":
        half = data.Y.new_ones(len(data.Y)) if data.weight is None else data.weight.sqrt()
        with torch.no_grad():
            more = Moments.of(self.features(data.X), data.Y, half)
        return replace(self, moments=self.moments.joined(more))

    def hyperparameters(self) -> dict[str, float | list[float]]:
        values = {"noise": self.noise, "precision": self.precision}
        return {name: t.item() if len(t) == 1 else t.tolist() for name, t in values.items()}

    def notes(self) -> list[str]:
        return list(self.remarks)


@dataclass(frozen=True, eq=False)
class Gram:
    """half half' + noise I for half (*b, n, c), formed when it is asked for."""

    half: Tensor
    noise: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.half.square().sum(-1) + self.noise

    def to_dense(self) -> Tensor:
        """The matrix (*b, n, n)."""
        return self.half @ self.half.mT + self.noise * torch.eye(self.half.shape[-2]).to(self.half)
