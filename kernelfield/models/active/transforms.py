"""What is done to a kernel before rows are picked by it.

    Scale            k / mean over labelled rows of k(x, x)
    Sketch           fewer features, by random projection: k without bias
    LowRank          features by pivoted Cholesky: K - L L' is as small as greedy pivots make it
    Condition        the covariance that is left after the labelled rows, observed with noise
    LogLikelihoods   samples of what a label would add to the log-likelihood, as features

Conditioning features Phi (n, p) on those of the labelled rows T is a change of basis,

    phi -> L^-1 phi,    L L' = I + T' T / noise,

which equals the covariance of functions k - k_t (K_tt + noise I)^-1 k_t'. With a posterior theta_j
of weights, z_j(x) = phi(x) . theta_j and the variance k = k(x, x) of f given the labels, row x has
the features

    [ log(1 + k / noise) - (z_j^2 + k) / noise ] / (2 sqrt(m)).

Sources: Holzmueller et al. (2023), "A Framework and Benchmark for Deep Batch Active Learning for
Regression", section 4.2; Pinsler et al. (2019), "Bayesian Batch Active Learning as Sparse Subset
Approximation", section 4, for the last; Harbrecht, Peters & Schneider (2012) for pivoted Cholesky.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.models.active.features import GradientKernel, random_signs
from kernelfield.models.active.finite import FeatureKernel, FiniteKernel, ScaledKernel, conditioned
from kernelfield.models.active.variance import pivoted, refuse_noise, require_features


class Transform(ABC):
    """A kernel made of a kernel."""

    @abstractmethod
    def apply(self, kernel: FiniteKernel, labelled: Tensor, generator: torch.Generator) -> FiniteKernel:
        """The new kernel at the same points, of which those with numbers `labelled` (t,) have labels."""


@dataclass(frozen=True)
class Scale(Transform):
    """A mean of one on the diagonal of labelled rows, or of all where none is labelled."""

    def apply(self, kernel: FiniteKernel, labelled: Tensor, generator: torch.Generator) -> FiniteKernel:
        diagonal = kernel.diagonal()
        mean = (diagonal[labelled] if len(labelled) else diagonal).double().mean().item()
        if not 0 < mean < math.inf:
            raise ValueError(f"the labelled rows have a mean variance of {mean:g}, which cannot be scaled to one")
        if isinstance(kernel, FeatureKernel):
            return FeatureKernel(kernel.features / math.sqrt(mean))
        return ScaledKernel(kernel, 1 / mean)


@dataclass(frozen=True)
class Sketch(Transform):
    """Random features, whose products are those of all features in the mean, with errors of order 1 / sqrt(size).

    Errors: ValueError for a kernel that has no features to project.
    """

    size: int = 512

    def __post_init__(self) -> None:
        _refuse_empty(self, self.size)

    def apply(self, kernel: FiniteKernel, labelled: Tensor, generator: torch.Generator) -> FiniteKernel:
        if isinstance(kernel, GradientKernel):
            return FeatureKernel(kernel.sketched(self.size, generator))
        features = require_features(kernel, "Sketch", "use LowRank")
        return FeatureKernel(features @ random_signs(features, self.size, generator) / math.sqrt(self.size))


@dataclass(frozen=True)
class LowRank(Transform):
    """At most `size` features of any kernel, by pivoted Cholesky over all rows; the error is no random one."""

    size: int = 512

    def __post_init__(self) -> None:
        _refuse_empty(self, self.size)

    def apply(self, kernel: FiniteKernel, labelled: Tensor, generator: torch.Generator) -> FiniteKernel:
        found = pivoted(kernel, min(self.size, kernel.size), kernel.size)
        return FeatureKernel(found.half.mT.contiguous())


@dataclass(frozen=True)
class Condition(Transform):
    """What is left to learn once the labelled rows are known, in double precision.

    noise: the variance of an observation, in units of the kernel; see Scale.
    """

    noise: float = 1e-6

    def __post_init__(self) -> None:
        refuse_noise(self, self.noise)

    def apply(self, kernel: FiniteKernel, labelled: Tensor, generator: torch.Generator) -> FiniteKernel:
        if not len(labelled):
            return kernel
        if not isinstance(kernel, FeatureKernel):
            return conditioned(kernel, labelled, self.noise)
        features = kernel.features.double()
        seen = features[labelled]
        precision = seen.mT @ seen / self.noise
        precision.diagonal().add_(1)
        return FeatureKernel(torch.linalg.solve_triangular(cholesky(precision).mT, features, upper=True, left=False))


@dataclass(frozen=True)
class LogLikelihoods(Transform):
    """Samples of the expected gain in log-likelihood, for FrankWolfe or distances; put Condition before it.

    noise: as in Condition.
    Errors: ValueError for a kernel without features.
    """

    size: int = 512
    noise: float = 1e-6

    def __post_init__(self) -> None:
        _refuse_empty(self, self.size)
        refuse_noise(self, self.noise)

    def apply(self, kernel: FiniteKernel, labelled: Tensor, generator: torch.Generator) -> FiniteKernel:
        features = require_features(kernel, "LogLikelihoods", "put Sketch or LowRank before it")
        shape = (features.shape[1], self.size)
        theta = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64).to(features)
        ratio = kernel.diagonal()[:, None] / self.noise
        gains = ratio.log1p() - (features @ theta).square_().div_(self.noise).add_(ratio)
        return FeatureKernel(gains / (2 * math.sqrt(self.size)))


def _refuse_empty(owner: object, size: int) -> None:
    if size < 1:
        raise ValueError(f"{type(owner).__name__} needs at least one feature, got size={size}; try 512")
