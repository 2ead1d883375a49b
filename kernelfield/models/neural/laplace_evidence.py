"""The evidence of Laplace's approximation, and the hyperparameters that make it large.

With S the weighted sum of squares of what the network leaves of N numbers, s_l the squared
lengths of the layers' parameters in units of the prior, and precisions d_l,

    log Z = log p(Y | theta*) - sum_l d_l s_l / 2 - log|I + P^-1 H / v| / 2,
    log p(Y | theta*) = -S / (2 v) - N log(2 pi v) / 2 + o sum log(weight) / 2    for Gaussian noise v;

the factor det(P)^1/2 of the prior's density cancels. Parameters stay where they are.

Sources: MacKay (1992), "A Practical Bayesian Framework for Backpropagation Networks"; Immer,
Bauer, Fortuin, Raetsch & Khan (2021), "Scalable Marginal Likelihood Estimation for Model
Selection in Deep Learning".
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import threads_for
from kernelfield.models.evidence import NOISE_REACH
from kernelfield.models.fit import Search, minimise

PRECISION_REACH = (1e-6, 1e8)  # bounds of prior precisions, in units of the architecture's
STEPS = 100  # of a search, of a few numbers


class Determinant(Protocol):
    """What knows the price of the parameters, exactly or by a bound."""

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        """log|I + P^-1 H / noise| for precision (1,) or (l,)."""


@dataclass(frozen=True, eq=False)
class Fitness:
    """The log-likelihood at the parameters as a function of the noise.

    misfit S and count N of Gaussian noise; or the log-likelihood itself, count zero, of classes.
    """

    misfit: float
    count: int
    constant: float

    @classmethod
    def gaussian(cls, data: Data, values: Tensor) -> "Fitness":
        gap = (data.Y - values).square()
        constant = -0.5 * data.Y.numel() * math.log(2 * math.pi)
        if data.weight is not None:
            gap = gap * data.weight[:, None]
            constant += 0.5 * data.Y.shape[1] * data.weight.log().sum().item()
        return cls(gap.sum().item(), data.Y.numel(), constant)

    @classmethod
    def classes(cls, data: Data, values: Tensor) -> "Fitness":
        return cls(0.0, 0, (data.Y * values.log_softmax(-1)).sum().item())

    def __call__(self, noise: Tensor) -> Tensor:
        return self.constant - 0.5 * self.misfit / noise - 0.5 * self.count * noise.log()


@dataclass(frozen=True, eq=False)
class Tuned:
    """Hyperparameters, with the log evidence in nats and the record of their search."""

    precision: Tensor
    noise: Tensor
    log_evidence: float
    searches: tuple[Search, ...] = ()


@dataclass(frozen=True, eq=False)
class LaplaceEvidence:
    """The log evidence as a function of precisions (1,) or (l,) and noise."""

    determinant: Determinant
    squares: Tensor
    fitness: Fitness

    def __call__(self, precision: Tensor, noise: Tensor) -> Tensor:
        price = (precision * self.squares).sum() + self.determinant.logdet(precision, noise)
        return self.fitness(noise) - 0.5 * price

    def tuned(
        self, precision: Tensor, noise: Tensor, *, learn_precision: bool, learn_noise: bool, size: float
    ) -> Tuned:
        """The best hyperparameters, from where they are given; those that are not learned stay.

        size : the mean square of the targets about their mean.
        """
        free = torch.cat([precision, noise[None]]).log().cpu().numpy()
        learned = np.array([learn_precision] * len(precision) + [learn_noise])
        if not learned.any():
            return Tuned(precision, noise, self(precision, noise).item())
        reach = [PRECISION_REACH] * len(precision) + [(NOISE_REACH[0] * size, NOISE_REACH[1] * size)]
        bounds = [(math.log(low), math.log(high)) for (low, high), use in zip(reach, learned, strict=True) if use]
        rows = max(1, self.fitness.count)

        def whole(theta: np.ndarray) -> np.ndarray:
            values = free.copy()
            values[learned] = theta
            return values

        def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
            values = torch.from_numpy(whole(theta)).to(precision).requires_grad_()
            with torch.enable_grad():
                loss = -self(values[:-1].exp(), values[-1].exp()) / rows
                (slope,) = torch.autograd.grad(loss, values)
            return loss.item(), slope.double().cpu().numpy()[learned]

        with threads_for(0):
            best, searches = minimise(objective, [free[learned]], bounds, STEPS, label="prior precision and noise")
        values = torch.from_numpy(whole(best)).exp().to(precision)
        return Tuned(values[:-1], values[-1], -rows * searches[0].last, tuple(searches))
