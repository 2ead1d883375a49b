"""Gaussian posteriors of a linearised network, in six forms.

With J (N, p) the Jacobian of all N = n o outputs in units of the prior, weighed by the roots of
their curvatures, P the diagonal matrix of prior precisions and v the noise, the posterior of the
parameters and the logarithm of what it costs in evidence are

    Sigma = (P + H / v)^-1,    H = J' J,    log|I + P^-1 H / v|.

    Weights      Sigma itself, p x p                                           full, last_layer
    Functional   the same by N x N matrices, A = I + J P^-1 J' / v, or those of a subset of rows,
                     J* Sigma J*' = J* P^-1 J*' - J* P^-1 J' A^-1 J P^-1 J*' / v      full, functional
    LowRank      H = U diag(l) U', the r largest eigenvalues                   low_rank
    Rotated      H of each layer = (B kron A) / n, with eigenvectors of B and A, so that
                     precisions are added to the products of eigenvalues; or the diagonal of H
                                                                               kronecker, diagonal

A curvature answers `logdet`, differentiable in P and v, and gives a law, which answers for the
covariance of outputs at other points.

Sources: Daxberger et al. (2021), "Laplace Redux - Effortless Bayesian Deep Learning"; Immer,
Bauer, Fortuin, Raetsch & Khan (2021), "Scalable Marginal Likelihood Estimation for Model
Selection in Deep Learning"; Martens & Grosse (2015), "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature"; Halko, Martinsson & Tropp (2011), "Finding Structure
with Randomness", for the subspace iteration.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky, require_memory, rounding, schur
from kernelfield.models.neural.curvature import (
    LIMIT,
    Shares,
    Tangent,
    divided,
    explicit,
    kernel,
    kernel_blocks,
    kernels,
    weighed,
)

OVERSAMPLING = 10  # columns of a subspace iteration beyond those that are kept
SWEEPS = 4  # of a subspace iteration, each of which takes all rows once


class Law(ABC):
    """The covariance of outputs under a Gaussian posterior of the parameters."""

    @abstractmethod
    def blocks(self, shares: Shares) -> Tensor:
        """The covariance of the outputs at each point, (n, o, o)."""

    @abstractmethod
    def joint(self, shares: Shares) -> Tensor:
        """The covariance of all outputs at all points, point-major, (n o, n o)."""


class Curvature(ABC):
    """The generalised Gauss-Newton matrix of all rows, in some form."""

    @abstractmethod
    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        """log|I + P^-1 H / noise| for precision (1,) or (l,)."""

    @abstractmethod
    def law(self, precision: Tensor, noise: Tensor) -> Law:
        """The posterior, at these hyperparameters."""


@dataclass(frozen=True, eq=False)
class Weights(Curvature):
    """H (p, p), whole."""

    H: Tensor
    sizes: list[int]

    @classmethod
    def of(cls, tangent: Tangent, X: Tensor, root: Tensor | None) -> "Weights":
        p, o = sum(tangent.sizes), tangent.network.outputs
        remedy = "take form='kronecker', or a smaller network"
        require_memory(4 * p * p * X.element_size(), X.device, what=f"the curvature of {p} parameters", remedy=remedy)
        H = X.new_zeros(p, p)
        for shares in tangent.pieces(X, root, cost=o * p):
            J = explicit(shares).flatten(0, 1)
            H.addmm_(J.mT, J)
        return cls(H, tangent.sizes)

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        if precision.numel() == 1:
            return torch.log1p(self._eigenvalues / (noise * precision)).sum()
        each = self._each(precision).rsqrt()
        A = each[:, None] * self.H * each / noise
        return 2 * torch.linalg.cholesky(A + torch.eye(len(A)).to(A)).diagonal().log().sum()

    def law(self, precision: Tensor, noise: Tensor) -> "WeightsLaw":
        return WeightsLaw(cholesky(self.H / noise + torch.diag(self._each(precision))))

    def _each(self, precision: Tensor) -> Tensor:
        sizes = torch.tensor(self.sizes, device=precision.device)
        return precision.expand(len(self.sizes)).repeat_interleave(sizes)

    @cached_property
    def _eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.H).clamp_min(0)


@dataclass(frozen=True, eq=False)
class WeightsLaw(Law):
    """factor L of P + H / v = L L'."""

    factor: Tensor

    def blocks(self, shares: Shares) -> Tensor:
        half = self._half(shares)
        return half.mT @ half

    def joint(self, shares: Shares) -> Tensor:
        half = self._half(shares).movedim(0, 1).flatten(1)
        return half.mT @ half

    def _half(self, shares: Shares) -> Tensor:
        """L^-1 J' (n, p, o)."""
        J = explicit(shares)
        half = torch.linalg.solve_triangular(self.factor, J.flatten(0, 1).mT, upper=False)
        return half.unflatten(1, J.shape[:2]).movedim(1, 0)


@dataclass(frozen=True, eq=False)
class Functional(Curvature):
    """The kernels (l, N, N) of rows Z, weighed; or their sum (1, N, N) where one precision serves all.

    rows : how many rows Z stand for.
    """

    tangent: Tangent
    Z: Tensor
    root: Tensor | None
    parts: Tensor
    rows: int

    @classmethod
    def of(cls, tangent: Tangent, Z: Tensor, root: Tensor | None, *, layers: bool, rows: int) -> "Functional":
        N, count = len(Z) * tangent.network.outputs, len(tangent.names) if layers else 1
        needed = (count + 3) * N * N * Z.element_size()
        remedy = "take form='kronecker', or form='functional' with a smaller subset"
        require_memory(needed, Z.device, what=f"a kernel matrix of {N} outputs", remedy=remedy)
        shares = weighed(tangent.shares(Z), root)
        parts = kernels(shares, shares) if layers else kernel(shares, shares)[None]
        return cls(tangent, Z, root, parts, rows)

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        """That of the subset, times the share of the rows: a subset's mean is an upper bound (`evidence_bounds`)."""
        share = self.rows / len(self.Z)
        if precision.numel() == 1:
            return share * torch.log1p(self._eigenvalues / (noise * precision)).sum()
        A = self._system(precision, noise)
        return 2 * share * torch.linalg.cholesky(A).diagonal().log().sum()

    def law(self, precision: Tensor, noise: Tensor) -> "FunctionalLaw":
        factor = cholesky(self._system(precision, noise))
        return FunctionalLaw(self.tangent, self.Z, self.root, precision, noise, factor)

    def _system(self, precision: Tensor, noise: Tensor) -> Tensor:
        K = torch.einsum("lij,l->ij", self.parts, 1 / (noise * precision.expand(len(self.parts))))
        return K + torch.eye(len(K)).to(K)

    @cached_property
    def _eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.parts.sum(0)).clamp_min(0)


@dataclass(frozen=True, eq=False)
class FunctionalLaw(Law):
    """factor L of A = L L'."""

    tangent: Tangent
    Z: Tensor
    root: Tensor | None
    precision: Tensor
    noise: Tensor
    factor: Tensor

    def blocks(self, shares: Shares) -> Tensor:
        return _reduced(kernel_blocks(shares, divided(shares, self.precision)), self._half(shares), self.factor)

    def joint(self, shares: Shares) -> Tensor:
        return schur(kernel(shares, divided(shares, self.precision)), self._half(shares))

    def _half(self, shares: Shares) -> Tensor:
        """L^-1 J P^-1 J*' / sqrt(v), (N, n o)."""
        cross = kernel(self._support, shares) / self.noise.sqrt()
        return torch.linalg.solve_triangular(self.factor, cross, upper=False)

    @cached_property
    def _support(self) -> Shares:
        return divided(weighed(self.tangent.shares(self.Z), self.root), self.precision)


@dataclass(frozen=True, eq=False)
class LowRank(Curvature):
    """The eigenvectors U (p, r) of H that have the largest eigenvalues (r,)."""

    U: Tensor
    eigenvalues: Tensor
    sizes: list[int]

    @classmethod
    def of(cls, tangent: Tangent, X: Tensor, root: Tensor | None, rank: int, generator: torch.Generator) -> "LowRank":
        p, N = sum(tangent.sizes), len(X) * tangent.network.outputs
        whole = min(p, N)
        size = min(rank + OVERSAMPLING, whole)
        V = torch.randn(p, size, generator=generator, dtype=torch.float64).to(X)
        for _ in range(1 if size == whole else SWEEPS):  # a basis of the whole range needs no second look
            V = torch.linalg.qr(cls._applied(tangent, X, root, V)).Q
        gram = V.mT @ cls._applied(tangent, X, root, V)
        values, turn = torch.linalg.eigh((gram + gram.mT) / 2)
        kept = slice(size - min(rank, size), size)
        return cls(V @ turn[:, kept], values[kept].clamp_min(0), tangent.sizes)

    @staticmethod
    def _applied(tangent: Tangent, X: Tensor, root: Tensor | None, V: Tensor) -> Tensor:
        """H V, for as many rows at a time as there is room for."""
        total = torch.zeros_like(V)
        for shares in tangent.pieces(X, root, cost=tangent.network.outputs * len(V)):
            J = explicit(shares).flatten(0, 1)
            total.addmm_(J.mT, J @ V)
        return total

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        return 2 * torch.linalg.cholesky(self._system(precision, noise)).diagonal().log().sum()

    def law(self, precision: Tensor, noise: Tensor) -> "LowRankLaw":
        each = precision.expand(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes, device=precision.device))
        basis = self.U / each[:, None] * self.eigenvalues.sqrt() * noise.rsqrt()
        return LowRankLaw(basis, cholesky(self._system(precision, noise)), precision)

    def _system(self, precision: Tensor, noise: Tensor) -> Tensor:
        """I + diag(l)^1/2 U' P^-1 U diag(l)^1/2 / v."""
        between = torch.einsum("lij,l->ij", self._grams, 1 / precision.expand(len(self.sizes)))
        half = self.eigenvalues.sqrt() * noise.rsqrt()  # the other order has no slope at zero
        return half[:, None] * between * half + torch.eye(len(half)).to(half)

    @cached_property
    def _grams(self) -> Tensor:
        return torch.stack([part.mT @ part for part in self.U.split(self.sizes)])


@dataclass(frozen=True, eq=False)
class LowRankLaw(Law):
    """basis P^-1 U diag(l / v)^1/2 (p, r), and the factor of the system of size r."""

    basis: Tensor
    factor: Tensor
    precision: Tensor

    def blocks(self, shares: Shares) -> Tensor:
        return _reduced(kernel_blocks(shares, divided(shares, self.precision)), self._half(shares), self.factor)

    def joint(self, shares: Shares) -> Tensor:
        return schur(kernel(shares, divided(shares, self.precision)), self._half(shares))

    def _half(self, shares: Shares) -> Tensor:
        cross = explicit(shares).flatten(0, 1) @ self.basis
        return torch.linalg.solve_triangular(self.factor, cross.mT, upper=False)


@dataclass(frozen=True, eq=False)
class Rotated(Curvature):
    """Layers whose curvature is diagonal in axes (w, w) of their slopes and (c, c) of their inputs.

    axes : for each layer the two matrices of eigenvectors, or None for the axes as they are.
    values : for each layer the eigenvalues (w, c).
    """

    axes: list[tuple[Tensor, Tensor] | None]
    values: list[Tensor]

    @classmethod
    def kronecker(cls, tangent: Tangent, X: Tensor, root: Tensor | None) -> "Rotated":
        total: list[tuple[Tensor, Tensor]] = []
        weight = None if root is None or root.shape[-1] > 1 else root.flatten().square()
        count, start = len(X) if weight is None else weight.sum(), 0
        for shares in tangent.pieces(X, root):
            stop = start + len(shares[0].h)
            own = None if weight is None else weight[start:stop, None]
            sums = [_factors(s.slopes, s.h, own) for s in shares]
            start = stop
            total = [(a + c, b + d) for (a, b), (c, d) in zip(total, sums, strict=True)] if total else sums
        axes: list[tuple[Tensor, Tensor] | None] = []
        values = []
        for B, A in total:
            (b, left), (a, right) = torch.linalg.eigh(B), torch.linalg.eigh(A)
            axes.append((left, right))
            values.append(b.clamp_min(0)[:, None] * (a.clamp_min(0) / count))
        return cls(axes, values)

    @classmethod
    def diagonal(cls, tangent: Tangent, X: Tensor, root: Tensor | None) -> "Rotated":
        total: list[Tensor] = []
        for shares in tangent.pieces(X, root):
            sums = [s.slopes.square().sum(1).mT @ s.h.square() for s in shares]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
        return cls([None] * len(total), total)

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        each = precision.expand(len(self.values))
        parts = [torch.log1p(v / (noise * d)).sum() for v, d in zip(self.values, each, strict=True)]
        return torch.stack(parts).sum()

    def law(self, precision: Tensor, noise: Tensor) -> "RotatedLaw":
        each = precision.expand(len(self.values))
        return RotatedLaw(self.axes, [1 / (d + v / noise) for v, d in zip(self.values, each, strict=True)])


def _factors(slopes: Tensor, h: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """B (w, w) and A (c, c), summed over rows with weights (n, 1)."""
    flat = slopes.flatten(0, 1)
    return flat.mT @ flat, (h if weight is None else h * weight).mT @ h


@dataclass(frozen=True, eq=False)
class RotatedLaw(Law):
    """The axes of `Rotated`, and the variances (w, c) of parameters along them."""

    axes: list[tuple[Tensor, Tensor] | None]
    variances: list[Tensor]

    def blocks(self, shares: Shares) -> Tensor:
        parts = []
        for slopes, h, variance in self._turned(shares):
            along = h.square() @ variance.mT
            parts.append((slopes * along[:, None, :]) @ slopes.mT)
        return torch.stack(parts).sum(0)

    def joint(self, shares: Shares) -> Tensor:
        n, o = shares[0].slopes.shape[:2]
        total = shares[0].h.new_zeros(n * o, n * o)
        for slopes, h, variance in self._turned(shares):
            step = max(1, LIMIT // (n * o * h.shape[1]))
            for s, v in zip(slopes.split(step, -1), variance.split(step), strict=True):
                half = (s[..., None] * (h[:, None, :] * v.sqrt())[:, None]).flatten(2).flatten(0, 1)
                total = total + half @ half.mT
        return total

    def _turned(self, shares: Shares) -> list[tuple[Tensor, Tensor, Tensor]]:
        found = []
        for share, axes, variance in zip(shares, self.axes, self.variances, strict=True):
            slopes, h = share.slopes, share.h
            if axes is not None:
                slopes, h = slopes @ axes[0], h @ axes[1]
            found.append((slopes, h, variance))
        return found


def _reduced(prior: Tensor, half: Tensor, factor: Tensor) -> Tensor:
    """Blocks (n, o, o) of a prior less what a half (r, n o) explains, and the rounding error of the factor."""
    half = half.unflatten(1, prior.shape[:2])
    small = torch.diag_embed(rounding(prior.diagonal(dim1=-2, dim2=-1), factor))
    return prior - torch.einsum("rnk,rnl->nkl", half, half) + small
