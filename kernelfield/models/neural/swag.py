"""SWAG: a Gaussian around the average of the networks that training passes through at its end.

After a training as any other, the optimiser goes on at a constant learning rate, and every c steps
its parameters theta_t enter a running mean and a mean of squares. With the last r deviations from
the running mean as columns of D (p, r), networks are drawn as

    theta = mean + diag(variance)^(1/2) z_1 / sqrt(2) + D z_2 / sqrt(2 (r - 1)),

whose covariance is half the diagonal one and half the one of low rank. Several members are a
mixture of such Gaussians around several trainings.

Sources: Maddox et al. (2019), "A Simple Baseline for Bayesian Uncertainty in Deep Learning";
Wilson & Izmailov (2020), "Bayesian Deep Learning and a Probabilistic Perspective of Generalization",
for several members.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model
from kernelfield.models.neural.batches import FEW, crosses, folds, held_out, unseen
from kernelfield.models.neural.ensemble import DEFAULT, FittedEnsemble
from kernelfield.models.neural.likelihoods import Gaussian, held_out_noise
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer


@dataclass(eq=False, repr=False)
class SWAG(Model):
    """Networks drawn from a Gaussian around the end of a training.

    network : an architecture of `kernelfield.nets` or a torch module; None is two hidden layers of
        64 rectifiers.
    width : of the layers of an architecture that leave theirs open.
    members : trainings, each with a Gaussian of its own.
    draws : networks of a prediction, of all members together.
    rank : of the deviations that are kept.
    collected : parameters that enter the means.
    every : steps between two of them.
    learning_rate : the constant one, while they are collected; it sets the size of the Gaussian.
    noise : variance of the observation noise, in squared units of Y; None learns it.
    held_out : the share of rows from which the noise is learned, and the networks are not. Fewer than
        100 rows are all fitted, and five more trainings, each without a fifth of them, judge the
        noise; 0 takes what the training learned.
    training : how, before anything is collected.

    Errors: ValueError for a value out of its range, and those of `Network` and `train`.

    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> model = SWAG(draws=10, collected=20, training=Training(steps=200))
    >>> fitted = model.fit(Data(X, torch.sin(3 * X)), generator=torch.Generator().manual_seed(0))
    >>> fitted.posterior(X).values.shape
    torch.Size([10, 30, 1])
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    members: int = 1
    draws: int = 50
    rank: int = 20
    collected: int = 50
    every: int = 10
    learning_rate: float = 1e-2
    noise: float | None = None
    held_out: float = 0.1
    training: Training = field(default_factory=Training)

    def fit(self, data: Data, *, generator: torch.Generator) -> FittedEnsemble:
        self._check()
        m = data.Y.shape[1]
        network = Network(DEFAULT if self.network is None else self.network, data.X.shape[1], m, self.width)
        share = self.held_out if self.noise is None else 0.0
        fitted, judged = held_out(data, share, generator)
        around = self._averaged(network, fitted, self.training, self.members, generator)
        drawn = around.draws(self.draws, generator)
        noise = around.noise.mean(0)
        if judged is not None:
            noise = held_out_noise(drawn.values(judged.X), judged, data)
        elif crosses(len(data.X), share):
            noise = held_out_noise(self._crossed(network, data, generator), data, data)
        return replace(drawn, noise=noise.expand(self.draws, -1), remarks=around.notes)

    def _averaged(
        self,
        network: Network,
        data: Data,
        training: Training,
        members: int,
        generator: torch.Generator,
        rows: Tensor | None = None,
    ) -> "_Around":
        """The ends of `members` trainings, each on its rows (k, n), or all."""
        likelihood = Gaussian(self.noise)
        first = train(network, data, likelihood, training, members=members, generator=generator, rows=rows)
        moments = Moments(first.parameters, self.rank)
        settings = {"steps": self.collected * self.every, "learning_rate": self.learning_rate, "schedule": "constant"}
        last = train(
            network,
            data,
            likelihood,
            Training(**{**training.get_params(), **settings, "held_out": 0.0}),
            members=members,
            generator=generator,
            rows=rows,
            start=first.parameters,
            watch=lambda step, theta: None if step % self.every else moments.take(theta),
        )
        return _Around(network, moments, torch.as_tensor(last.noise).to(data.Y), tuple(first.notes))

    def _crossed(self, network: Network, data: Data, generator: torch.Generator) -> Tensor:
        """Functions (k, n, m) of trainings that have not seen the rows at which they are evaluated."""
        seen = folds(len(data.X), generator)
        training = Training(**{**self.training.get_params(), "batch": self.training.batch or FEW})
        around = self._averaged(network, data, training, len(seen), generator, seen)
        values = around.draws(self.draws * len(seen), generator).values(data.X)
        return unseen(values.unflatten(0, (self.draws, len(seen))).transpose(0, 1), seen)

    def _check(self) -> None:
        for name, least in (("members", 1), ("draws", 2), ("rank", 2), ("every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.collected < self.rank:
            raise ValueError(
                f"collected must be at least rank={self.rank} parameters, got {self.collected}; lower the rank"
            )


@dataclass(frozen=True, eq=False)
class _Around:
    """The ends of k trainings, and the noise (k, m) that they learned."""

    network: Network
    moments: "Moments"
    noise: Tensor
    notes: tuple[str, ...]

    def draws(self, count: int, generator: torch.Generator) -> FittedEnsemble:
        """Networks, of one training after another."""
        shape = (count, self.network.size + self.moments.rank)
        z = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        m = self.noise.shape[1]
        noise = self.noise.mean(0).expand(count, -1)
        return FittedEnsemble(self.network, self.moments.draw(z.to(self.noise.device)), noise, m)


class Moments:
    """Running moments of the parameters (k, p) of k trainings, and their last deviations.

    >>> moments = Moments(torch.zeros(1, 1), 2)
    >>> for value in (1.0, 3.0, 5.0):
    ...     moments.take(torch.tensor([[value]]))
    >>> moments.mean.item(), round(moments.variance.item(), 4), moments.deviations.flatten().tolist()
    (3.0, 2.6667, [1.0, 2.0])
    """

    def __init__(self, like: Tensor, rank: int) -> None:
        self.count, self.rank = 0, rank
        self.mean = torch.zeros_like(like, dtype=torch.float64)
        self._squares = self.mean
        self._last: list[Tensor] = []

    def take(self, theta: Tensor) -> None:
        """One more set of parameters (k, p)."""
        theta = theta.double()
        self.count += 1
        gap = theta - self.mean
        self.mean = self.mean + gap / self.count
        # Welford's sum of squares does not cancel, as a mean of squares less a squared mean does.
        self._squares = self._squares + gap * (theta - self.mean)
        self._last = [*self._last, theta - self.mean][-self.rank :]

    @property
    def variance(self) -> Tensor:
        """The variances (k, p) of all that was taken."""
        return self._squares / self.count

    @property
    def deviations(self) -> Tensor:
        """The last deviations (k, r, p), each from the mean of its time."""
        return torch.stack(self._last, 1)

    def draw(self, z: Tensor) -> Tensor:
        """Parameters (s, p) from normals (s, p + r), of one member after another."""
        own, common = z.tensor_split([self.mean.shape[1]], -1)
        drawn = torch.empty_like(own)
        for j, (mean, variance, D) in enumerate(zip(self.mean, self.variance, self.deviations, strict=True)):
            turn = slice(j, None, len(self.mean))
            low = common[turn] @ D / math.sqrt(2 * (self.rank - 1))
            drawn[turn] = mean + variance.sqrt() * own[turn] / math.sqrt(2) + low
        return drawn
