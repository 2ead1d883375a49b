"""Classification by a trained network as a sparse process; the mathematics is in `function_space`.

The softmax likelihood is seen by each class for itself, with alpha = y - pi and beta = pi (1 - pi), as in
the paper: its curvature between classes is left out, so that the latent functions are a little less sure
than with it. Probabilities are averages of softmax(f) over their law.

Rows that the network was trained on have alpha and beta at its outputs. Where it is sure of a wrong label
alpha is one and beta nothing, and the step alpha / beta that a Gaussian would take knows no bounds.
Rows that come later therefore move the mean to its mode given their labels,

    minimise    v' (delta A) v / 2 - v' a - sum_i log softmax(f_i + psi_i' v)[y_i],

which is convex, and have alpha and beta there.

The log odds of a network without a prior grow with the steps of its training, and with them beta vanishes:
a small share of the prior, `prior_weight`, holds them. The prior precision minimises the log loss of
held-out rows; where there are too few of them, it gives latent functions a mean square of SIZE.

Source: Scannell, Mereu, Chang, Tamir, Pajarinen & Solin (2024), "Function-space Parameterization of
Neural Networks for Sequential Learning", section 3.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.iterative import conjugate_gradients
from kernelfield.models.classify import FittedClassifier, Parallel, require_classes, softmax_average
from kernelfield.models.neural.ensemble import prior_penalty
from kernelfield.models.neural.function_space import check_settings, moved, network_of, outer, parted
from kernelfield.models.neural.likelihoods import Softmax
from kernelfield.models.neural.tangent_features import Selection, TangentFeatures, inducing_rows
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer

POWERS = torch.linspace(-4, 4, 17, dtype=torch.double)  # of ten: prior precisions about a latent variance of SIZE
SIZE = 4.0
LEAST = 1e-6  # of beta, where a class is certain
STEPS = 200  # to a mode
ROUNDING = 1e3  # units of rounding of the loss, below which a gain is none; the last step is taken all the same
SHORTEST = 1e-6  # share of a step, below which rounding has the say


@dataclass(eq=False, repr=False)
class FunctionSpaceClassifier(Model):
    """A trained network as a sparse process of latent functions, one a class.

    prior_weight : how much of the prior of the parameters holds the network in its training.

    The other fields are those of `FunctionSpace`; there is no noise.

    Units: Y (n, k) one-hot.
    Errors: ValueError for targets that are not one-hot, a wrong choice and those of `train`.

    >>> X = torch.linspace(0, 1, 40, dtype=torch.double)[:, None]
    >>> Y = torch.nn.functional.one_hot((X[:, 0] > 0.5).long()).double()
    >>> model = FunctionSpaceClassifier(training=Training(steps=300))
    >>> fitted = model.fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> fitted.probabilities(X[::13]).argmax(-1).tolist()
    [0, 0, 1, 1]
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    inducing: int = 256
    selection: Selection = "variance"
    mean: Literal["network", "sparse"] = "network"
    held_out: float = 0.15
    prior_precision: float | None = None
    prior_weight: float = 0.01
    training: Training = field(default_factory=Training)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedFunctionSpaceClassifier":
        require_classes(data)
        check_settings(self)
        if not (self.prior_weight >= 0 and math.isfinite(self.prior_weight)):
            raise ValueError(f"prior_weight must not be negative, got {self.prior_weight:g}; 0 leaves the prior out")
        given = self.prior_precision is not None
        fitted, held = (data, None) if given else parted(data, self.held_out, generator)
        network = network_of(self, data)
        penalty = prior_penalty(network, self.prior_weight, len(fitted.X))
        trained = train(network, fitted, Softmax(), self.training, generator=generator, penalty=penalty)
        parameters = trained.parameters[0].to(data.X)
        with torch.no_grad():
            Z = inducing_rows(network, parameters, fitted, self.inducing, self.selection, generator)
            features = TangentFeatures.of(network, parameters, Z)
            zero = torch.zeros_like(features.basis)
            empty = FittedFunctionSpaceClassifier(features, 1.0, self.mean, zero, zero[..., 0], trained.notes)
            first = empty.known(fitted)
            if self.prior_precision is not None:
                return replace(first, delta=self.prior_precision)
            if held is None:
                return first.by_size(fitted)
            return first.by_log_loss(held).condition(held)


@dataclass(frozen=True, eq=False)
class FittedFunctionSpaceClassifier(FittedClassifier):
    """A trained network as a sparse process of latent functions.

    With psi of prior precision one: seen (k, M, M) is the sum of beta psi psi' over all rows, target
    (k, M) that of psi (alpha + beta g), with g the mean at the row, and its part besides the network where
    that is the mean; rows that the network was trained on have no target there, as they are its mode.
    """

    features: TangentFeatures
    delta: float
    mean: Literal["network", "sparse"]
    seen: Tensor
    target: Tensor
    remarks: list[str]

    @property
    def outputs(self) -> int:
        return len(self.target)

    def footprint(self, rows: int) -> int:
        return self.target.numel()

    def known(self, data: Data) -> "FittedFunctionSpaceClassifier":
        """Given rows that the network was trained on, by their duals at its outputs."""
        psi, f = self.features(data.X), self.features.values(data.X)
        alpha, beta = duals(f, data.Y)
        seen = self.seen + outer(psi, beta.mT[:, None])
        if self.mean == "network":
            return replace(self, seen=seen)
        return replace(self, seen=seen, target=self.target + torch.einsum("cjn,nc->cj", psi, alpha + beta * f))

    def condition(self, data: Data) -> "FittedFunctionSpaceClassifier":
        require_classes(data)
        with torch.no_grad():
            psi = self.features(data.X)
            f = self.features.values(data.X) if self.mean == "network" else torch.zeros_like(data.Y)
            weights = mode(self.precision, self.target, psi, f, data.Y)
            move = torch.einsum("cjn,cj->nc", psi, weights)
            alpha, beta = duals(f + move, data.Y)
            target = self.target + torch.einsum("cjn,nc->cj", psi, alpha + beta * move)
            return replace(self, seen=self.seen + outer(psi, beta.mT[:, None]), target=target)

    def by_log_loss(self, held: Data) -> "FittedFunctionSpaceClassifier":
        """With the prior precision that predicts held-out rows best."""
        middle = self._unit(held)
        tried = [replace(self, delta=middle * 10**power) for power in POWERS.tolist()]
        losses = [-(held.Y * one.probabilities(held.X).clamp_min(1e-300).log()).sum() for one in tried]
        best = tried[int(torch.stack(losses).argmin())]
        note = f"the prior precision minimises the log loss of {len(held.X)} held-out rows"
        return replace(best, remarks=[*self.remarks, note])

    def by_size(self, data: Data) -> "FittedFunctionSpaceClassifier":
        """With the prior precision that gives latent functions a mean square of SIZE."""
        note = f"the prior precision gives latent functions a mean square of {SIZE:g}"
        return replace(self, delta=self._unit(data), remarks=[*self.remarks, note])

    def _unit(self, data: Data) -> float:
        # A network whose outputs depend on no parameter has no covariance at all.
        return max(self.features.prior(data.X).mean().item(), 1e-30) / SIZE

    @property
    def precision(self) -> Tensor:
        """delta A = delta + seen, (k, M, M)."""
        return self.delta * torch.eye(self.seen.shape[-1]).to(self.seen) + self.seen

    @cached_property
    def factor(self) -> Tensor:
        """Lower factors (k, M, M) of delta A."""
        return torch.linalg.cholesky(self.precision)

    def latent(self, X: Tensor) -> Elliptical:
        move, spread = moved(self.features, self.factor, self.target, X, self.delta)
        if self.mean == "network":
            move = move + self.features.values(X.reshape(-1, X.shape[-1])).unflatten(0, X.shape[:-1])
        return Elliptical(move, Parallel(tuple(spread)))

    def probabilities(self, X: Tensor) -> Tensor:
        law = self.latent(X)
        return softmax_average(law.loc, law.variance, Unit())

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"prior_precision": self.delta}

    def notes(self) -> list[str]:
        return [*self.remarks, f"the process has {len(self.features.Z)} inducing rows"]


def duals(f: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and beta (n, k) of the softmax likelihood at outputs f (n, k), for one-hot Y."""
    pi = f.softmax(-1)
    return Y - pi, (pi * (1 - pi)).clamp_min(LEAST)


def mode(precision: Tensor, target: Tensor, psi: Tensor, f: Tensor, Y: Tensor) -> Tensor:
    """The most probable weights v (k, M) given labels Y (n, k) of outputs f + psi' v, by Newton's method.

    The law of v before has the precision (k, M, M) and the mean precision^-1 target (k, M); psi is
    (k, M, n).

    Errors: ValueError if STEPS steps do not end at the mode.

    >>> eye, Y = torch.ones(2, 1, 1), torch.tensor([[1.0, 0.0]])
    >>> mode(eye, torch.zeros(2, 1), eye, torch.zeros(1, 2), Y).flatten()  # v = sigmoid(-2 v)
    tensor([ 0.3374, -0.3374])
    """
    v = torch.cholesky_solve(target[..., None], torch.linalg.cholesky(precision))[..., 0]
    before = _Before(precision, target, psi, f, Y)
    now = before.loss(v).item()
    for _ in range(STEPS):
        slope, step = before.step(v)
        gain = (slope * step).sum().item()
        if gain < ROUNDING * torch.finfo(v.dtype).eps * max(len(Y), abs(now)):
            return v - step
        share = 1.0
        while (ahead := before.loss(v - share * step).item()) > now - 1e-4 * share * gain and share > SHORTEST:
            share /= 2
        v, now = v - share * step, ahead
    raise ValueError(
        f"the mode given {len(Y)} rows was not found in {STEPS} steps, the last gain being {gain:.2g} nats; give a "
        "larger prior_precision"
    )


@dataclass(frozen=True, eq=False)
class _Before:
    """What is known before some labels are, and the labels; see `mode`."""

    precision: Tensor
    target: Tensor
    psi: Tensor
    f: Tensor
    Y: Tensor

    def values(self, v: Tensor) -> Tensor:
        return self.f + self._out(v)

    def loss(self, v: Tensor) -> Tensor:
        """Minus the log density of v and the labels, up to a constant."""
        prior = (v * (0.5 * self._times(v) - self.target)).sum()
        return prior - (self.Y * self.values(v).log_softmax(-1)).sum()

    def step(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The slope of the loss (k, M), and the slope over the curvature diag(pi) - pi pi'."""
        pi = self.values(v).softmax(-1)
        slope = self._times(v) - self.target - self._back(self.Y - pi)
        half = torch.linalg.cholesky(self.precision + outer(self.psi, (pi * (1 - pi)).mT[:, None]))

        def curved(b: Tensor) -> Tensor:
            b = b.view_as(v)
            moved = pi * self._out(b)
            return (self._times(b) + self._back(moved - pi * moved.sum(-1, keepdim=True))).view(-1, 1)

        def apart(b: Tensor) -> Tensor:
            return torch.cholesky_solve(b.view_as(v)[..., None], half).view(-1, 1)

        solved = conjugate_gradients(curved, slope.view(-1, 1), precondition=apart, tolerance=1e-6, quiet=True)
        return slope, solved.X.view_as(v)

    def _times(self, v: Tensor) -> Tensor:
        return (self.precision @ v[..., None])[..., 0]

    def _out(self, v: Tensor) -> Tensor:
        return (v[:, None] @ self.psi)[:, 0].mT

    def _back(self, a: Tensor) -> Tensor:
        return (self.psi @ a.mT[..., None])[..., 0]
