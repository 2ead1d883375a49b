"""How well a prior precision and a noise suit a trained network: in closed form for all of them at once.

With S = sum weight psi psi' = Q diag(s) Q' over the rows seen, phi = Q' psi, v the noise and delta the
prior precision, a held-out row has the variance

    (k - |psi|^2) / delta + sum_j phi_j^2 / (delta + s_j / v) + v / weight,

and the sparse process with mean zero, which bounds the evidence of n rows by what its inducing rows
miss, has

    log p(y) >= -1/2 (y' W y - sum_j q_j^2 / (delta v + s_j)) / v - 1/2 sum_j log(1 + s_j / (delta v))
                - 1/2 sum_i (log(2 pi v / weight_i) + weight_i (k_i - |psi_i|^2) / (delta v)),

with q = Q' sum weight psi y. One eigendecomposition an output serves every delta and v.

Source: Titsias (2009), "Variational Learning of Inducing Variables in Sparse Gaussian Processes".
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.models.fit import minimise
from kernelfield.models.neural.tangent_features import TangentFeatures

STARTS = (-2.0, 0.0, 2.0)  # of log10 of the prior precision, about prior variances of the size of the targets
REACH = (1e-8, 1e8)  # bounds of the prior precision, about the same
NOISE_REACH = (1e-6, 1e1)  # bounds of the noise, in mean squares of the targets


class Score(Protocol):
    """What is to be made large, in nats a number observed."""

    @property
    def unit(self) -> float:
        """The mean of k, at a prior precision of one."""

    @property
    def size(self) -> float:
        """The mean square of the targets."""

    def __call__(self, delta: Tensor, noise: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The log predictive density of held-out rows, each for itself.

    Shapes: gap and rest (h, m), phi (m, M, h) squared, values s (m, M), share 1 / weight (h, 1).
    """

    gap: Tensor
    rest: Tensor
    phi: Tensor
    values: Tensor
    share: Tensor
    unit: float
    size: float

    @classmethod
    def of(cls, features: TangentFeatures, seen: Tensor, held: Data, mean: Tensor) -> "HeldOut":
        """Rows `held` with predictions `mean` (h, m), given S (m, M, M) of the rows seen."""
        psi, prior = features(held.X), features.prior(held.X)
        values, vectors = torch.linalg.eigh(seen)
        rest = (prior - psi.square().sum(1).mT).clamp_min(0)
        share = torch.ones_like(prior[:, :1]) if held.weight is None else 1 / held.weight[:, None]
        phi = (vectors.mT @ psi).square()
        return cls(held.Y - mean, rest, phi, values.clamp_min(0), share, prior.mean().item(), _size(held.Y))

    def __call__(self, delta: Tensor, noise: Tensor) -> Tensor:
        known = (self.phi / (delta + self.values / noise)[..., None]).sum(1).mT
        variance = self.rest / delta + known + noise * self.share
        return -0.5 * (self.gap.square() / variance + variance.log() + math.log(2 * math.pi)).mean()


@dataclass(frozen=True, eq=False)
class Evidence:
    """The bound of the evidence of the sparse process with mean zero.

    Shapes: squares y' W y and missed (m,), log_weight (m,) a sum, values s and moments q squared (m, M).
    """

    squares: Tensor
    missed: Tensor
    values: Tensor
    moments: Tensor
    log_weight: Tensor
    rows: int
    unit: float
    size: float

    @classmethod
    def of(cls, features: TangentFeatures, X: Tensor, Y: Tensor, weight: Tensor) -> "Evidence":
        """Of rows X (n, d) with targets Y (n, m) and weights (n, m)."""
        psi, prior = features(X), features.prior(X)
        weighted = psi * weight.mT[:, None]
        values, vectors = torch.linalg.eigh(weighted @ psi.mT)
        target = torch.einsum("cin,nc->ci", weighted, Y)
        moments = (vectors.mT @ target[..., None])[..., 0].square()
        missed = (weight * (prior - psi.square().sum(1).mT).clamp_min(0)).sum(0)
        squares = (weight * Y.square()).sum(0)
        log_weight = weight.log().sum(0)
        return cls(squares, missed, values.clamp_min(0), moments, log_weight, len(X), prior.mean().item(), _size(Y))

    def __call__(self, delta: Tensor, noise: Tensor) -> Tensor:
        both = delta * noise
        form = (self.squares - (self.moments / (both + self.values)).sum(-1)) / noise
        logdet = torch.log1p(self.values / both).sum(-1) + self.missed / both
        constant = self.rows * (math.log(2 * math.pi) + noise.log()) - self.log_weight
        return -0.5 * (form + logdet + constant).mean() / self.rows


def _size(Y: Tensor) -> float:
    return max(Y.square().mean().item(), 1e-12)


def chosen(score: Score, noise: float, fixed_delta: float | None, fixed_noise: float | None) -> tuple[float, float]:
    """The prior precision and the noise of the largest score, of those that are not fixed."""
    middle = math.log(max(score.unit, 1e-30) / score.size)
    first = min(max(noise, 1e-3 * score.size), score.size)
    boxes = [_box(REACH, middle, fixed_delta), _box(NOISE_REACH, math.log(score.size), fixed_noise)]
    starts = [np.array([middle + power * math.log(10), math.log(first)]) for power in STARTS]

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(theta.copy()).requires_grad_()
        with torch.enable_grad():
            value = -score(*leaf.exp())
        (slope,) = torch.autograd.grad(value, leaf)
        return value.item(), slope.numpy()

    best, _ = minimise(objective, starts, boxes, 100, label="prior precision and noise")
    delta, found = np.exp(best).tolist()
    return delta, found


def _box(reach: tuple[float, float], middle: float, fixed: float | None) -> tuple[float, float]:
    if fixed is not None:
        return math.log(fixed), math.log(fixed)
    return math.log(reach[0]) + middle, math.log(reach[1]) + middle
