"""Trained networks as sparse processes, which take in data without being trained again.

With J(x) the Jacobian of a trained network f in its parameters, k(x, x') = J(x)_c . J(x')_c / delta is
the covariance of output c when the parameters have N(0, 1 / delta) around what was trained. A likelihood
is seen through its first two derivatives at the network's outputs,

    alpha_i = dlog p(y_i | f_i) / df_i,    beta_i = -d2log p(y_i | f_i) / df_i^2,

which for Gaussian noise are weight (y - f) / noise and weight / noise, and for classes y - pi and
pi (1 - pi), each output for itself. On inducing rows Z, with K_zz = U diag(lambda) U' restricted to its
rank r and psi(x) = diag(lambda)^-1/2 U' k(Z, x), these duals are summed over all rows in

    A = I + sum beta_i psi_i psi_i',    a = sum alpha~_i psi_i,

    mean psi' A^-1 a (+ f),    variance k(x, x) - |psi|^2 + psi' A^-1 psi.

Rows beyond those trained on are terms of the same sums. In the eigenbasis nothing is divided by a
small number, so that networks of fewer parameters than inducing rows, whose K_zz is singular, lose no
digits to a jitter.

mean="sparse" is the process of the paper, alpha~ = alpha + beta f, which forgets what the kernel does not
see. mean="network" takes the trained network to be the mode given the rows that it was trained on; rows
that come later add alpha~ = alpha to a, so that the mean moves from the network by what they contradict
it. delta and the noise maximise the predictive density of held-out rows around the network, which then
enter like any others; where there are too few, the evidence of the sparse process with mean zero.

Sources: Scannell, Mereu, Chang, Tamir, Pajarinen & Solin (2024), "Function-space Parameterization of
Neural Networks for Sequential Learning"; Khan, Immer, Abedi & Korzepa (2019), "Approximate Inference
Turns Deep Networks into Gaussian Processes".
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Conditional
from kernelfield.models.classify import Parallel
from kernelfield.models.neural.feature_kernel import GELU
from kernelfield.models.neural.function_space_scores import Evidence, HeldOut, chosen
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.tangent_features import Selection, TangentFeatures, TangentPrior, inducing_rows, rows_of
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer

FEWEST = 8  # held-out rows; with fewer the evidence chooses prior precision and noise


class Settings(Protocol):
    """What regression and classification have in common."""

    network: Layer | nn.Module | None
    width: int
    inducing: int
    selection: Selection
    held_out: float
    prior_precision: float | None


@dataclass(eq=False, repr=False)
class FunctionSpace(Model):
    """Regression by a trained network as a sparse process; see the module docstring.

    network : a `Layer` or torch module; None has two hidden layers of `width` units with GELU.
    width : of layers that leave theirs open.
    inducing : the most inducing rows.
    selection : how they are chosen, "variance" (greedily, by conditional variance) or "random".
    mean : "network" or "sparse".
    held_out : the share of the rows by which prior precision and noise are chosen; they are not
        trained on, and condition the process afterwards.
    prior_precision, noise : to give instead, the noise in squared units of Y.
    training : of the network.

    Errors: ValueError for a wrong choice and those of `train`.

    >>> X = torch.linspace(0, 1, 40, dtype=torch.double)[:, None]
    >>> model = FunctionSpace(training=Training(steps=500))
    >>> fitted = model.fit(Data(X, torch.sin(6 * X)), generator=torch.Generator().manual_seed(0))
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 1)  # sin(3)
    0.1
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    inducing: int = 256
    selection: Selection = "variance"
    mean: Literal["network", "sparse"] = "network"
    held_out: float = 0.15
    prior_precision: float | None = None
    noise: float | None = None
    training: Training = field(default_factory=Training)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedFunctionSpace":
        check_settings(self)
        if self.mean not in ("network", "sparse"):
            raise ValueError(f"mean must be 'network' or 'sparse', got {self.mean!r}")
        given = self.prior_precision is not None and self.noise is not None
        fitted, held = (data, None) if given else parted(data, self.held_out, generator)
        network = network_of(self, data)
        trained = train(network, fitted, Gaussian(self.noise), self.training, generator=generator)
        parameters = trained.parameters[0].to(data.X)
        with torch.no_grad():
            Z = inducing_rows(network, parameters, fitted, self.inducing, self.selection, generator)
            features = TangentFeatures.of(network, parameters, Z)
            guess = self.noise if trained.noise is None else trained.noise[0].mean().item()
            empty = FittedFunctionSpace.empty(features, float(guess or 1.0), self.mean, trained.notes)
            first = empty.condition(fitted) if self.mean == "sparse" else empty.known(fitted)
            first = self._tuned(first, fitted, held)
            return first if held is None else first.condition(held)

    def _tuned(self, first: "FittedFunctionSpace", fitted: Data, held: Data | None) -> "FittedFunctionSpace":
        """With the prior precision and the noise that were given, or chosen."""
        if self.prior_precision is not None and self.noise is not None:
            return replace(first, delta=self.prior_precision, noise=self.noise)
        score: Evidence | HeldOut
        if held is None:
            weight = fitted.X.new_ones(len(fitted.X)) if fitted.weight is None else fitted.weight
            score = Evidence.of(first.features, fitted.X, fitted.Y, weight[:, None].expand_as(fitted.Y))
        else:
            score = HeldOut.of(first.features, first.seen, held, first.posterior(held.X).mean)
        delta, noise = chosen(score, first.noise, self.prior_precision, self.noise)
        how = "the evidence of the rows" if held is None else f"the density of {len(held.X)} held-out rows"
        note = f"prior precision and noise maximise {how}"
        return replace(first, delta=delta, noise=noise, remarks=[*first.remarks, note])


def check_settings(model: Settings) -> None:
    """Errors: ValueError for settings that nothing can be fitted with."""
    for name in ("width", "inducing"):
        if getattr(model, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(model, name)}")
    if model.selection not in ("variance", "random"):
        raise ValueError(f"selection must be 'variance' or 'random', got {model.selection!r}")
    if not 0 <= model.held_out < 1:
        raise ValueError(f"held_out must be a share of the rows in [0, 1), got {model.held_out:g}")
    for name in ("prior_precision", "noise"):
        value = getattr(model, name, None)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, or None to be chosen, got {value:g}")


def network_of(model: Settings, data: Data) -> Network:
    """The network of a model, with one output a column of Y."""
    architecture = multilayer((model.width, model.width), GELU) if model.network is None else model.network
    return Network(architecture, data.X.shape[1], data.Y.shape[1], model.width)


def parted(data: Data, share: float, generator: torch.Generator) -> tuple[Data, Data | None]:
    """Rows to train on, and those held out; None where they would be too few."""
    count = round(share * len(data.X))
    if count < FEWEST:
        return data, None
    order = torch.randperm(len(data.X), generator=generator).to(data.X.device)
    return rows_of(data, order[count:]), rows_of(data, order[:count])


@dataclass(frozen=True, eq=False)
class FittedFunctionSpace(Surrogate):
    """A trained network as a sparse process.

    With psi of prior precision one: seen (m, M, M) is the sum of weight psi psi' over all rows, target
    (m, M) that of weight psi (y - f), or weight psi y where the mean is sparse.
    """

    features: TangentFeatures
    delta: float
    noise: float
    mean: Literal["network", "sparse"]
    seen: Tensor
    target: Tensor
    remarks: list[str]

    @classmethod
    def empty(
        cls, features: TangentFeatures, noise: float, mean: Literal["network", "sparse"], remarks: list[str]
    ) -> "FittedFunctionSpace":
        """Before any data, with a prior precision of one."""
        zero = torch.zeros_like(features.basis)
        return cls(features, 1.0, noise, mean, zero, zero[..., 0], remarks)

    def known(self, data: Data) -> "FittedFunctionSpace":
        """Given rows of which the network is the mode: they say how sure it is, and move nothing."""
        return replace(self, seen=self.seen + outer(self.features(data.X), data.weight))

    def condition(self, data: Data) -> "FittedFunctionSpace":
        with torch.no_grad():
            psi = self.features(data.X)
            values = data.Y - self.features.values(data.X) if self.mean == "network" else data.Y
            weight = data.X.new_ones(len(data.X)) if data.weight is None else data.weight
            target = self.target + torch.einsum("cjn,nc->cj", psi * weight, values)
            return replace(self, seen=self.seen + outer(psi, data.weight), target=target)

    @property
    def outputs(self) -> int:
        return len(self.target)

    def footprint(self, rows: int) -> int:
        return self.target.numel()

    @cached_property
    def factor(self) -> Tensor:
        """Lower factors (m, M, M) of delta A = delta + seen / noise."""
        eye = torch.eye(self.seen.shape[-1]).to(self.seen)
        return torch.linalg.cholesky(self.delta * eye + self.seen / self.noise)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        move, parts = moved(self.features, self.factor, self.target / self.noise, X, self.delta)
        spread = Parallel(tuple(replace(part, noise=self.noise if noise else 0.0) for part in parts))
        if self.mean == "network":
            move = move + self.features.values(X.reshape(-1, X.shape[-1])).unflatten(0, X.shape[:-1])
        return Elliptical(move, spread)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"prior_precision": self.delta, "noise": self.noise}

    def notes(self) -> list[str]:
        return [*self.remarks, f"the process has {len(self.features.Z)} inducing rows"]


def outer(psi: Tensor, weight: Tensor | None) -> Tensor:
    """The sums (m, M, M) over rows of weight psi psi', for psi (m, M, n) and weight (n,) or (m, 1, n)."""
    return (psi if weight is None else psi * weight) @ psi.mT


def moved(
    features: TangentFeatures, factor: Tensor, target: Tensor, X: Tensor, delta: float
) -> tuple[Tensor, list[Conditional]]:
    """psi' (delta A)^-1 target (*b, q, m) at X (*b, q, d), and the scale of each output given the data."""
    batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
    psi = features(flat)
    white = torch.linalg.solve_triangular(factor, psi, upper=False)
    ahead = torch.linalg.solve_triangular(factor, target[..., None], upper=False)
    loc = (white.mT @ ahead)[..., 0].mT.unflatten(0, batch)
    own = features.prior(flat).mT.unflatten(-1, batch) / delta
    explained = (psi / math.sqrt(delta)).unflatten(-1, batch).movedim(1, -2)
    left = white.unflatten(-1, batch).movedim(1, -2)
    parts = []
    for c in range(len(own)):
        prior = TangentPrior(features, X, own[c], c, delta)
        parts.append(Conditional(prior, lambda c=c: (explained[c], left[c]), 0.0, 1))  # type: ignore[misc]
    return loc, parts
