"""Deep ensembles: networks that are trained apart, and disagree where there are no data.

The members f_j start from draws of their own, see mini-batches of their own and, if asked, rows of
their own, and are a finite set of functions with the noise that each of them learned:

    p(y | x) = mean over j of N(y | f_j(x), v_j(x)).

Randomised priors. With a fixed random network g_j added to each, f_j = h_j + s g_j, trained on
targets with noise of their own and held to the prior of the parameters theta of h_j,

    sum_i weight_i (y_i + e_ij - f_j(x_i))^2 / (2 v) + |theta / prior_std|^2 / 2,    e_ij ~ N(0, v / weight_i),

members are draws from the posterior where h_j is linear in theta; as the last layer of an infinitely
wide network is, whose posterior is then that of its NNGP.

New data. The members' values have a mean and a covariance A A' / k, A (n m, k) their deviations from
the mean, by which new rows with noise R are taken in as by a Kalman filter,

    f -> mean + A u + A W,    P = (1 + A' R^-1 A / k)^-1,    u = P A' R^-1 (y - mean) / k,    W = P^(1/2):

a linear map of the members, the same at all x. Weights of members would do no more than choose
among them: two exact observations leave one of sixteen.

Sources: Lakshminarayanan, Pritzel & Blundell (2017), "Simple and Scalable Predictive Uncertainty
Estimation using Deep Ensembles"; Osband, Aslanides & Cassirer (2018), "Randomized Prior Functions
for Deep Reinforcement Learning"; Matthews et al. (2017), "Sample-then-optimize posterior sampling
for Bayesian linear models"; Bishop, Etherton & Majumdar (2001), "Adaptive Sampling with the
Ensemble Transform Kalman Filter", here with the symmetric root.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Draws
from kernelfield.core.streaming import StreamingModel
from kernelfield.models.classify import FittedClassifier, require_classes
from kernelfield.models.neural.likelihoods import Gaussian, Heteroscedastic, Softmax, mixture_noise
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.streamed import NetworkLearner, Task
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer

DEFAULT = multilayer((64, 64))


def brisk() -> Training:
    """The default training of members: errors of one, unlike those of a network alone, are averaged."""
    return Training(learning_rate=3e-3)


@dataclass(eq=False, repr=False)
class Ensemble(StreamingModel):
    """Networks trained apart, averaged.

    network : an architecture of `kernelfield.nets` or a torch module, of which one member starts as
        it is; None is two hidden layers of 64 rectifiers.
    width : of the layers of an architecture that leave theirs open.
    members : how many.
    noise : variance of the observation noise, in squared units of Y; None learns it;
        "heteroscedastic" learns it as a function of x by a second head of each network (beta-NLL).
    beta : see `Heteroscedastic`.
    subset : the share of the rows that a member sees, chosen at random. Below 1, the noise that is
        learned is the one that suits the rows each member has not seen, and so counts what they
        have learned by heart.
    prior_scale : what random functions, fixed and of the same architecture, are multiplied by before
        they are added to the members. With a known noise, targets get noise of their own too.
    prior_weight : what the negative log prior of the parameters of a member is multiplied by in its
        loss; 1 is the most probable network, 0 has no prior.
    moving : "all" parameters are trained, or those of the "last" layer.
    training : how.

    Errors: ValueError for a value out of its range, and those of `Network` and `train`.

    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> model = Ensemble(members=5, training=Training(steps=300))
    >>> fitted = model.fit(Data(X, torch.sin(3 * X)), generator=torch.Generator().manual_seed(0))
    >>> near, far = fitted.posterior(torch.tensor([[0.5], [5.0]], dtype=torch.float64)).variance.flatten().tolist()
    >>> far > 10 * near
    True
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    members: int = 10
    noise: float | Literal["heteroscedastic"] | None = None
    beta: float = 0.5
    subset: float = 0.8
    prior_scale: float = 0.0
    prior_weight: float = 0.0
    moving: Literal["all", "last"] = "all"
    training: Training = field(default_factory=brisk)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedEnsemble":
        likelihood = self._likelihood()
        m, n = data.Y.shape[1], len(data.X)
        network = Network(self._architecture(), data.X.shape[1], likelihood.width(m), self.width)
        priors = network.draw(self.members, generator).to(data.X.device) if self.prior_scale else None
        seen = subsets(n, self.members, self.subset, generator)
        fitted = FittedEnsemble(network, torch.empty(0), None, m, priors, self.prior_scale)
        done = train(
            network,
            data,
            likelihood,
            self.training,
            members=self.members,
            generator=generator,
            rows=seen,
            offset=None if priors is None else lambda X: fitted.fixed(X) - self._perturbation(data, generator),
            penalty=prior_penalty(network, self.prior_weight, n),
            trained=last_layer(network) if self.moving == "last" else None,
        )
        fitted = replace(fitted, parameters=done.parameters, noise=done.noise, remarks=tuple(done.notes))
        if seen is None or not likelihood.learned:
            return fitted
        noise = mixture_noise(fitted.values(data.X), data.Y, data.weight, ~seen)
        return replace(fitted, noise=noise.expand(self.members, -1))

    def learner(self, sample: Data, rows: int, *, generator: torch.Generator) -> NetworkLearner:
        likelihood, m = self._likelihood(), sample.Y.shape[1]
        if self.prior_scale:
            raise ValueError(
                f"prior_scale is {self.prior_scale:g}, and members have no random functions in a stream; set 0"
            )
        network = Network(self._architecture(), sample.X.shape[1], likelihood.width(m), self.width)
        start = network.start(generator)[None]
        if self.members > 1:
            start = torch.cat([start, network.draw(self.members - 1, generator)])
        task = Task(
            network,
            likelihood,
            self.training,
            rows,
            self.subset,
            int(torch.randint(2**31, (), generator=generator)),
            start,
            last_layer(network).nonzero()[:, 0] if self.moving == "last" else None,
            prior_penalty(network, self.prior_weight, rows),
        )
        return NetworkLearner(task, sample, lambda theta, noise: FittedEnsemble(network, theta, noise, m))

    def _likelihood(self) -> Gaussian | Heteroscedastic:
        """The likelihood, once the other settings are known to be in range."""
        require_members(self.members, self.subset)
        for name in ("prior_scale", "prior_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be finite and not negative, got {value}; 0 leaves it out")
        if self.moving not in ("all", "last"):
            raise ValueError(f"moving must be 'all' or 'last', got {self.moving!r}")
        if isinstance(self.noise, str):
            if self.noise != "heteroscedastic":
                raise ValueError(f"noise must be a variance, None or 'heteroscedastic', got {self.noise!r}")
            return Heteroscedastic(self.beta)
        return Gaussian(self.noise)

    def _architecture(self) -> Layer | nn.Module:
        return DEFAULT if self.network is None else self.network

    def _perturbation(self, data: Data, generator: torch.Generator) -> Tensor:
        """The noise of their own (k, n, m) that the targets of members get, zero where it is not known."""
        if not isinstance(self.noise, float | int):
            return data.Y.new_zeros(())
        weight = 1.0 if data.weight is None else data.weight[:, None]
        z = torch.randn(self.members, *data.Y.shape, generator=generator, dtype=torch.float64).to(data.Y)
        return z * (self.noise / torch.as_tensor(weight).to(data.Y)).sqrt()


@dataclass(frozen=True, eq=False)
class FittedEnsemble(Surrogate):
    """Parameters (k, p) of networks of m = `targets` functions, and their noise (k, m).

    Where noise is None, variances are a second head of the networks. priors (k, p): parameters of
    the fixed functions, times `prior_scale`. transform (k, k): rows of what each member became of
    all of them when data were taken in.
    """

    network: Network
    parameters: Tensor
    noise: Tensor | None
    targets: int
    priors: Tensor | None = None
    prior_scale: float = 0.0
    transform: Tensor | None = None
    remarks: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return self.targets

    def footprint(self, rows: int) -> int:
        return self.network.activity

    def posterior(self, X: Tensor, *, noise: bool = False) -> Draws:
        values, variance = self._split(self._raw(X))
        weights = values.new_full((len(self.parameters),), 1 / len(self.parameters))
        return Draws(values, weights, variance if noise else values.new_zeros(()))

    def values(self, X: Tensor) -> Tensor:
        """The functions of the members (*b, k, n, m) at X (*b, n, d)."""
        return self._split(self._raw(X))[0]

    def condition(self, data: Data) -> "FittedEnsemble":
        """The members moved by an ensemble Kalman update; the noise stays.

        Errors: ValueError for a single member, which does not know what it does not know.
        """
        values, variance = self._split(self._raw(data.X))
        moved = kalman(values, variance.mean(0), data)
        return replace(self, transform=moved if self.transform is None else moved @ self.transform)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        if self.noise is None:
            return {}
        mean = self.noise.mean(0).tolist()
        return {"noise": mean[0] if len(mean) == 1 else mean}

    def notes(self) -> list[str]:
        return list(self.remarks)

    def fixed(self, X: Tensor) -> Tensor:
        """The random functions of the members (k, n, o) at X (n, d), which have no part in heads of variances."""
        if self.priors is None:
            return X.new_zeros(())
        values = self.prior_scale * self.network.values(self.priors.to(X), X)
        values[..., self.targets :] = 0
        return values

    def _raw(self, X: Tensor) -> Tensor:
        """The outputs of the networks (*b, k, n, o), fixed functions included."""
        rows = X.flatten(0, -2)
        values = self.network.values(self.parameters.to(X), rows) + self.fixed(rows)
        return values.unflatten(1, X.shape[:-1]).movedim(0, -3)

    def _split(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Values and variances of the noise, (*b, k, n, m) each, up to broadcasting."""
        if self.noise is None:
            heads = Heteroscedastic()
            values, variance = heads.mean(raw), heads.variance(raw)
        else:
            values, variance = raw, self.noise.to(raw)[:, None, :].expand(*raw.shape[:-3], -1, 1, -1)
        if self.transform is not None:
            values = torch.einsum("ij,...jnm->...inm", self.transform.to(values), values)
        return values, variance


@dataclass(eq=False, repr=False)
class EnsembleClassifier(Model):
    """Networks trained apart on classes, whose probabilities are averaged.

    The fields are those of `Ensemble`. Without a prior, the log odds of classes that can be parted
    grow with the steps; the whole of it keeps probabilities near each other where rows are few.

    >>> X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    >>> Y = torch.nn.functional.one_hot((X[:, 0] > 0).long()).double()
    >>> model = EnsembleClassifier(members=3, training=Training(steps=300))
    >>> fitted = model.fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> bool(fitted.probabilities(X[-1:])[0, 1] > 0.9)
    True
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    members: int = 10
    subset: float = 1.0
    prior_weight: float = 0.01
    training: Training = field(default_factory=Training)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedEnsembleClassifier":
        require_classes(data)
        require_members(self.members, self.subset)
        n = len(data.X)
        architecture = DEFAULT if self.network is None else self.network
        network = Network(architecture, data.X.shape[1], data.Y.shape[1], self.width)
        done = train(
            network,
            data,
            Softmax(),
            self.training,
            members=self.members,
            generator=generator,
            rows=subsets(n, self.members, self.subset, generator),
            penalty=prior_penalty(network, self.prior_weight, n),
        )
        return FittedEnsembleClassifier(network, done.parameters, tuple(done.notes))


@dataclass(frozen=True, eq=False)
class FittedEnsembleClassifier(FittedClassifier):
    """Parameters (k, p) of networks whose outputs are log odds."""

    network: Network
    parameters: Tensor
    remarks: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return self.network.outputs

    def footprint(self, rows: int) -> int:
        return self.network.activity

    def probabilities(self, X: Tensor) -> Tensor:
        return self.network.values(self.parameters.to(X), X).softmax(-1).mean(0)

    def notes(self) -> list[str]:
        return list(self.remarks)


def kalman(values: Tensor, noise: Tensor, data: Data) -> Tensor:
    """What each of k functions becomes of all of them, rows of (k, k), when data are taken in.

    Shapes: values (k, n, m) at the data, noise a variance broadcast to (n, m).

    Errors: ValueError for a single function, which does not know what it does not know.
    """
    k = len(values)
    if k < 2:
        raise ValueError("a single function has no covariance to take in data by; fit at least 2 members")
    noise = noise.expand(data.Y.shape)
    root = (noise if data.weight is None else noise / data.weight[:, None]).flatten().rsqrt()
    mean = values.mean(0)
    A = (values - mean).flatten(1) * root  # (k, n m)
    eigenvalues, Q = torch.linalg.eigh(A @ A.mT / k)
    shrink = 1 / (1 + eigenvalues.clamp_min(0))
    u = Q @ (shrink * (Q.mT @ (A @ ((data.Y - mean).flatten() * root)))) / k
    W = Q @ (shrink.sqrt()[:, None] * Q.mT)
    # Member j becomes the mean and the deviations of all, in the proportions u + W_j.
    return 1 / k + (u + W) @ (torch.eye(k).to(A) - 1 / k)


def require_members(members: int, subset: float) -> None:
    """Refuse an ensemble without members, or members without rows.

    Errors: ValueError, with the value.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    if not 0 < subset <= 1:
        raise ValueError(f"subset must be a share of the rows in (0, 1], got {subset}")


def subsets(n: int, members: int, share: float, generator: torch.Generator) -> Tensor | None:
    """Which of n rows each member sees, (k, n), as many for each; None if all see all."""
    count = math.ceil(share * n)
    if count == n:
        return None
    order = torch.rand(members, n, generator=generator, device=generator.device).cpu().argsort(-1)
    return order < count


def prior_penalty(network: Network, weight: float, n: int) -> Callable[[Tensor], Tensor] | None:
    """The negative log prior a row (k,) of parameters (k, p), times `weight`; None for zero."""
    if not weight:
        return None
    # A parameter that the architecture draws as a constant has no prior to hold it.
    precision = torch.where(network.prior_std > 0, network.prior_std, math.inf).square().reciprocal() * weight / (2 * n)
    return lambda theta: theta.square() @ precision.to(theta)


def last_layer(network: Network) -> Tensor:
    """Which parameters (p,) belong to the last module that has any."""
    owners = [name.rpartition(".")[0] for name in network.shapes]
    parts = [torch.full((s.numel(),), o == owners[-1]) for s, o in zip(network.shapes.values(), owners, strict=True)]
    return torch.cat(parts)
