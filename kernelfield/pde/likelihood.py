"""The evidence of rows under a product of mixtures, and its gradient in closed form.

    K = cov(rows) + noise,    log p(y) = -y' K^-1 y / 2 - log|K| / 2 - N log(2 pi) / 2,
    dlog p = sum(G o dK),    G = (alpha alpha' - K^-1) / 2,    alpha = K^-1 y.

Rows differ in scale by many powers of ten, so that K is factored as D R D with ones on the diagonal
of R before noise. Boundary values are exact but for a jitter; equations and observations have a
noise each, which the evidence chooses above a floor that keeps the factorisation exact.

Where an unknown coefficient is to be learned, an equation is no datum but a condition: the density of
L u = 0 grows without bound under a kernel of waves that L sends to zero, whatever was observed. The objective
is then the evidence of the observations given all rows before them, the difference of two evidences
of which the Cholesky factor of the second is the leading block of that of the first.

Source: Rasmussen & Williams (2006), eq. (2.30) and (5.9).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.kernels.derived import Mixture
from kernelfield.pde.problem import Unknown
from kernelfield.pde.rows import Covariances, Rows, variances

JITTER = 1e-13  # relative to the variance of a row: what phases of hundreds of radians lose by rounding
NOISE = (1e-13, 1.0)  # bounds of a noise variance, relative to the variance that rows have at the start
REFINEMENTS = 2  # of a solve, to the rounding error of the residual
REACH = (60.0, 12.0)  # how far below and above the heaviest a log weight may go


@dataclass(frozen=True, eq=False)
class Kernel:
    """A product of mixtures, with the noise variance of each kind of rows and values of unknowns."""

    mixtures: tuple[Mixture, ...]
    noises: tuple[float, ...]  # one for each group of rows
    unknowns: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class System:
    """Rows conditioned on: y ~ N(0, D (R + noise) D), with the Cholesky factor of what is in brackets."""

    kernel: Kernel
    rows: tuple[Rows, ...]
    correlation: Tensor  # R with its noise (N, N)
    size: Tensor  # D (N,)
    factor: Tensor
    weights: Tensor  # K^-1 y (N,)

    @classmethod
    def of(cls, kernel: Kernel, rows: tuple[Rows, ...]) -> "System":
        """Errors: NotPositiveDefinite."""
        unknowns = {name: torch.tensor(value, dtype=torch.double) for name, value in kernel.unknowns.items()}
        K = Covariances(rows, rows).fill(kernel.mixtures, unknowns)
        R, size, factor = factored(K, _noise(rows, kernel.noises))
        y = torch.cat([group.targets for group in rows])
        return cls(kernel, rows, R, size, factor, _weights(R, size, factor, y))

    def with_targets(self, y: Tensor) -> "System":
        """The same rows with other values (N,)."""
        targets = y.split([len(group.X) for group in self.rows])
        rows = tuple(replace(group, targets=part) for group, part in zip(self.rows, targets, strict=True))
        return replace(self, rows=rows, weights=_weights(self.correlation, self.size, self.factor, y))

    @property
    def condition(self) -> float:
        """The condition number of R with its noise."""
        values = torch.linalg.eigvalsh(self.correlation)
        return float(values[-1] / values[0].clamp_min(torch.finfo(values.dtype).tiny))


def factored(K: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R with noise, D and the lower factor, of K (N, N) and noise variances (N,).

    Errors: NotPositiveDefinite.
    """
    variance = K.diagonal()
    size = torch.where(variance > 0, variance, 1.0).sqrt()
    R = K / size / size[:, None]
    R.diagonal().add_(JITTER + noise / size.square())
    factor, info = torch.linalg.cholesky_ex(R)
    if info.item():
        raise NotPositiveDefinite(
            f"the covariance of {len(R)} rows is singular to working precision at row {info.item()}; "
            "take fewer points or a longer wave, or raise the noise"
        )
    return R, size, factor


def _noise(rows: Sequence[Rows], noises: Sequence[float]) -> Tensor:
    return torch.cat(
        [group.targets.new_full((len(group.X),), noise) for group, noise in zip(rows, noises, strict=True)]
    )


def _weights(R: Tensor, size: Tensor, factor: Tensor, y: Tensor) -> Tensor:
    target = (y / size)[:, None]
    weights = torch.cholesky_solve(target, factor)
    for _ in range(REFINEMENTS):
        weights = weights + torch.cholesky_solve(target - R @ weights, factor)
    return weights[:, 0] / size


class Evidence:
    """The objective: minus log evidence in nats a row, as a function of a vector of parameters.

    The vector holds the log weights, log lengthscales and frequencies of each mixture, in the units of
    `scale`, the log noise of each group that has some, and the unknowns.

    noisy : which groups have a noise. given : how many of the first groups are conditions, not data.
    """

    def __init__(
        self,
        kernel: Kernel,
        rows: tuple[Rows, ...],
        noisy: Sequence[int],
        unknowns: Sequence[Unknown],
        *,
        given: int = 0,
    ) -> None:
        self.kernel, self.rows, self.noisy, self.free = kernel, rows, tuple(noisy), tuple(unknowns)
        self.covariances = Covariances(rows, rows)
        self.given = sum(len(group.X) for group in rows[:given])
        self.y = torch.cat([group.targets for group in rows])
        settled = Kernel(kernel.mixtures, kernel.noises, {u.name: u.start for u in unknowns})
        self.sizes = [float(prior_variances(group, settled).mean()) for group in rows]
        extents = [float(d.tau.abs().max()) for d in self.covariances.differences]
        one = np.ones
        parts = [
            np.concatenate([one(2 * len(m.frequencies)), one(len(m.frequencies)) / extent])
            for m, extent in zip(kernel.mixtures, extents, strict=True)
        ]
        self.scale = np.concatenate([*parts, one(len(self.noisy) + len(self.free))])
        self.bounds = self._bounds(extents)

    def _bounds(self, extents: Sequence[float]) -> list[tuple[float, float]]:
        bounds: list[tuple[float, float]] = []
        for mixture, difference, extent in zip(
            self.kernel.mixtures, self.covariances.differences, extents, strict=True
        ):
            heaviest = float(mixture.log_weights.max())
            apart = difference.tau.abs()
            spacing = float(apart[apart > 1e-9 * extent].min())
            limit = max(0.5 / spacing, float(mixture.frequencies.max())) * extent
            bounds += [(heaviest - REACH[0], heaviest + REACH[1])] * len(mixture.frequencies)
            bounds += [(math.log(spacing), math.log(100 * extent))] * len(mixture.frequencies)
            bounds += [(0.0, limit if value else 0.0) for value in mixture.frequencies.tolist()]
        bounds += [tuple(math.log(reach * self.sizes[group]) for reach in NOISE) for group in self.noisy]  # type: ignore[misc]
        return bounds + [(u.low, u.high) for u in self.free]

    @property
    def count(self) -> int:
        """The number of rows that are data."""
        return len(self.y) - self.given

    @property
    def start(self) -> np.ndarray:
        """The vector of the kernel that was given."""
        pieces = [p for m in self.kernel.mixtures for p in m.parameters]
        noises = [math.log(max(self.kernel.noises[g], NOISE[0] * self.sizes[g])) for g in self.noisy]
        unknowns = [self.kernel.unknowns.get(u.name, u.start) for u in self.free]
        raw = np.concatenate([*(p.cpu().numpy() for p in pieces), noises, unknowns])
        return np.clip(raw / self.scale, *np.transpose(self.bounds))

    def split(self, theta: np.ndarray) -> Kernel:
        """The kernel of a vector."""
        values = torch.from_numpy(theta * self.scale).to(self.y)
        mixtures, at = [], 0
        for mixture in self.kernel.mixtures:
            q = len(mixture.frequencies)
            mixtures.append(Mixture(mixture.bump, *(values[at + k * q : at + (k + 1) * q] for k in range(3))))
            at += 3 * q
        noises = list(self.kernel.noises)
        for k, group in enumerate(self.noisy):
            noises[group] = math.exp(float(values[at + k]))
        at += len(self.noisy)
        return Kernel(tuple(mixtures), tuple(noises), {u.name: float(values[at + k]) for k, u in enumerate(self.free)})

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        kernel = self.split(theta)
        leaves = [p.clone().requires_grad_(True) for m in kernel.mixtures for p in m.parameters]
        mixtures = [Mixture(m.bump, *leaves[3 * k : 3 * k + 3]) for k, m in enumerate(kernel.mixtures)]
        unknowns = {name: self.y.new_tensor(value).requires_grad_(True) for name, value in kernel.unknowns.items()}
        with torch.enable_grad():
            K = self.covariances.fill(mixtures, unknowns)
        with torch.no_grad():
            _, size, factor = factored(K.detach(), _noise(self.rows, kernel.noises))
            y = self.y / size
            value, G = _value(factor, size, y)
            if self.given:
                first = slice(0, self.given)
                less, part = _value(factor[first, first], size[first], y[first])
                value = value - less
                G[first, first] -= part
            noises = [
                float(part.sum()) * kernel.noises[g]
                for g, part in enumerate(G.diagonal().split([len(group.X) for group in self.rows]))
                if g in self.noisy
            ]
            # The jitter is a share of the diagonal, and moves with it.
            G.diagonal().mul_(1 + JITTER)
        slopes = torch.autograd.grad(K, [*leaves, *unknowns.values()], G)
        gradient = np.concatenate(
            [
                *(s.reshape(-1).cpu().numpy() for s in slopes[: len(leaves)]),
                noises,
                [float(s) for s in slopes[len(leaves) :]],
            ]
        )
        return float(value) / self.count, gradient * self.scale / self.count


def _value(factor: Tensor, size: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the evidence but for its constant, and its slope in K, for y in units of D and the factor of R."""
    alpha = torch.cholesky_solve(y[:, None], factor)[:, 0]
    value = 0.5 * (y @ alpha) + factor.diagonal().log().sum() + size.log().sum()
    G = torch.cholesky_inverse(factor).sub_(alpha[:, None] * alpha).mul_(0.5).div_(size).div_(size[:, None])
    return value, G


def prior_variances(rows: Rows, kernel: Kernel) -> Tensor:
    """The prior variance (n,) of each row, with unknowns at their values."""
    parts = tuple(
        replace(part, coefficient=part.coefficient * kernel.unknowns[part.unknown], unknown=None)
        if part.unknown
        else part
        for part in rows.parts
    )
    return variances(replace(rows, parts=parts), kernel.mixtures)
