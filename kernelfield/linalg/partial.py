"""What grids with missing cells and with uneven noise have in common; see latent and uneven.

Both are systems A = scale * K[o, o] + diag(noise[o]) at the observed cells o of a grid, next to the
system S of a full grid. A method is exact where it factors a matrix, and iterative otherwise; then
gradients come from random signs z,

    E z (A~^-1 z - S^-1 z)' = A~^-1 - S^-1,    A~^-1 = A^-1 padded with zeros,

or, where P = L L', of the leading eigenvectors of S (see leading) or of nearest cells (see nearest), is near to A,

    E (L^-T z) (L^-T (M^-1 z - z))' = A^-1 - P^-1,    M = L^-1 A L^-T,

which leaves to chance only what S or P, known exactly, have not explained.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kernelfield.linalg import cells, leading, nearest
from kernelfield.linalg.dense import Dense
from kernelfield.linalg.iterative import (
    LogDeterminant,
    Solution,
    conjugate_gradients,
    signs,
)
from kernelfield.linalg.kronecker import BLOCK, Kronecker, Pull, contract, khatri_rao, put
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal
from kernelfield.linalg.sparse_factor import SparseFactor

DENSE = 3000  # cells up to which a matrix between them is factored: seconds, and 72 MB in double precision

Method = Literal["full", "observed", "complement", "iterative"]


@dataclass(frozen=True, eq=False)
class Partial(ABC):
    """The solver of A at the n_o observed cells, in row-major order.

    Right-hand sides are (n_o, k); `pad` puts them on the grid and `take` reads them from it.
    """

    kronecker: Kronecker  # S
    observed: Tensor  # bool (m_1, ..., m_d)
    spread: Tensor  # noise (n_o,)
    method: Method
    block: Dense | None  # the factored matrix of an exact method
    tolerance: float
    steps: int
    probes: int
    seed: int

    @cached_property
    def present(self) -> Tensor:
        """Flat indices (n_o,) of the observed cells."""
        return self.observed.flatten().nonzero()[:, 0]

    @cached_property
    def absent(self) -> Tensor:
        """Flat indices of the missing cells."""
        return (~self.observed).flatten().nonzero()[:, 0]

    def pad(self, B: Tensor) -> Tensor:
        """B (n_o, k) on the grid (n, k), zero where nothing was observed."""
        return put(B, self.present, self.observed.numel())

    def take(self, T: Tensor) -> Tensor:
        """T (n, k) at the observed cells."""
        return T[self.present]

    def multiply(self, B: Tensor) -> Tensor:
        """A B for B (n_o, k)."""
        grid = self.pad(B).reshape(*self.observed.shape, -1)
        product = contract(self.kronecker.factors, grid).reshape(-1, B.shape[1])
        return torch.addcmul(self.spread[:, None] * B, self.take(product), B.new_tensor(self.kronecker.scale))

    def solve(self, B: Tensor) -> Tensor:
        return self.solution(B).X

    @cached_property
    @abstractmethod
    def near(self) -> LowRankPlusDiagonal | SparseFactor | None:
        """P, where the method is iterative and quicker for it."""

    def solution(self, B: Tensor, start: Tensor | None = None) -> Solution:
        """`solve` with its residual and iterations; start (n_o, k), an answer to nearly the same question."""
        X = self._exact(B)
        if X is None:
            return self._iterate(B, start)
        error = (B - self.multiply(X)).norm(dim=0) / B.norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny)
        return Solution(X, error, 0, True)

    def logdet(self) -> Tensor:
        return self.spread.new_tensor(self.determinant.value)

    @cached_property
    @abstractmethod
    def determinant(self) -> LogDeterminant:
        """log|A| with its standard error."""

    def variance_reduction(self, crosses: Sequence[Tensor]) -> Tensor:
        """k' A^-1 k (q,) for q points off the grid, k the column-wise Kronecker product of crosses (m_i, q)."""
        size = max(1, BLOCK // self.observed.numel())
        parts = []
        for start in range(0, crosses[0].shape[1], size):
            k = self.take(khatri_rao([c[:, start : start + size] for c in crosses]))
            parts.append((k * self.solve(k)).sum(0))
        return torch.cat(parts)

    def pull(self, alpha: Tensor, *, c: float = 1.0) -> Pull:
        """The gradient of c/2 tr alpha' A alpha - m/2 log|A| for alpha (n_o, m) = A^-1 Y; see `Kronecker.pull`.

        Exact where the method is; the mean of `replicates` otherwise. noise: as the noise was given.
        """
        exact = self._exact_pull(alpha, c)
        return combine(self.replicates(alpha, c=c), [1 / self.probes] * self.probes) if exact is None else exact

    def replicates(self, alpha: Tensor, *, c: float = 1.0) -> list[Pull]:
        """Unbiased estimates of the gradient, one for each probe: their spread is the error of an iterative pull."""
        S, m, n = self.kronecker, alpha.shape[1], self.observed.numel()
        padded = self.pad(alpha)
        rotated = S.rotate(padded)
        kinds = [True, False] if self._separable else [True]  # whether moments are weighted
        known = []
        for weighted in kinds:
            pairs = zip(S.moments(rotated, rotated, weighted=weighted), self._moments_nearby(weighted), strict=True)
            known.append([c / 2 * own - m / 2 * near for own, near in pairs])
        diagonal = self._diagonal_nearby()
        generator = torch.Generator().manual_seed(self.seed)
        pulls = []
        for start in range(0, self.probes, group := max(1, BLOCK // n)):
            z = signs(n, min(group, self.probes - start), alpha, generator)
            for one, other in zip(*self._pairs(z), strict=True):
                a, b = S.rotate(one[:, None]), S.rotate(other[:, None])
                parts = []
                for bases, weighted in zip(known, kinds, strict=True):
                    moments = S.moments(a, b, weighted=weighted)
                    parts.append([base - m / 4 * (M + M.mT) for base, M in zip(bases, moments, strict=True)])
                pulls.append(self._finish(parts, padded, diagonal + one * other, c, m))
        return pulls

    @abstractmethod
    def _finish(self, parts: list[list[Tensor]], padded: Tensor, diagonal: Tensor, c: float, m: int) -> Pull:
        """A gradient from its moments, weighted and plain, and the diagonal (n,) of A~^-1."""

    def _pairs(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Two (q, n), for signs z (n, q), whose outer products have the mean A~^-1 - S^-1, or A^-1 - P^-1."""
        S, near = self.kronecker, self.near
        if near is None:
            return z.mT, (self.pad(self.solve(self.take(z))) - S.solve(z)).mT
        seen = self.take(z)
        found = conjugate_gradients(
            lambda V: near.whiten(self.multiply(near.unwhiten(V))), seen, tolerance=self.tolerance, steps=self.steps
        )
        return self.pad(near.unwhiten(seen)).mT, self.pad(near.unwhiten(found.X - seen)).mT

    def _diagonal_nearby(self) -> Tensor:
        """The diagonal (n,) of S^-1 or P^-1."""
        if self.near is None:
            return self.kronecker.inverse_diagonal()
        return self.pad(self.near.inverse_diagonal()[:, None].to(self.spread))[:, 0]

    def _moments_nearby(self, weighted: bool) -> list[Tensor]:
        """The moments (m_i, m_i) of S^-1 or P^-1 on each axis; see `Kronecker.moments`."""
        S = self.kronecker
        match self.near:
            case LowRankPlusDiagonal() as P:
                return leading.moments_of_inverse(S, P, self.present)
            case SparseFactor() as W:
                return nearest.moments_of_inverse(S, W, self.present)
        inverse, weights = S.spectrum.reciprocal(), S.values if weighted else S.ones
        return [S.trace(axis, inverse, weights).diag() for axis in range(len(S.shape))]

    @abstractmethod
    def _exact(self, B: Tensor) -> Tensor | None:
        """A^-1 B where a factored matrix gives it."""

    @abstractmethod
    def _exact_pull(self, alpha: Tensor, c: float) -> Pull | None:
        """The gradient where a factored matrix gives it."""

    @abstractmethod
    def _iterate(self, B: Tensor, start: Tensor | None) -> Solution:
        """A^-1 B by conjugate gradients."""

    @property
    @abstractmethod
    def _separable(self) -> bool:
        """Whether the gradient is asked in vectors of noise along the axes."""


def combine(pulls: Sequence[Pull], weights: Sequence[float]) -> Pull:
    """The weighted sum of gradients."""

    def total(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(0)

    factors = [total(parts) for parts in zip(*(pull.factors for pull in pulls), strict=True)]
    noises = [pull.noise for pull in pulls]
    if isinstance(noises[0], Tensor):
        noise: Tensor | list[Tensor] = total(noises)  # type: ignore[arg-type]
    else:
        noise = [total(parts) for parts in zip(*noises, strict=True)]
    return Pull(factors, total([pull.scale for pull in pulls]), noise)


def seed_of(generator: torch.Generator | None) -> int:
    return 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))


def checked_mask(observed: Tensor, shape: tuple[int, ...]) -> Tensor:
    if observed.dtype != torch.bool or tuple(observed.shape) != shape:
        raise ValueError(f"observed must be a mask of shape {shape}, got {observed.dtype} of {tuple(observed.shape)}")
    if not observed.any():
        raise ValueError(f"all {observed.numel()} cells of the grid are missing; nothing can be learnt from them")
    return observed


def block_of(kronecker: Kronecker, observed: Tensor, spread: Tensor) -> Dense:
    A = cells.covariance(kronecker.factors, observed.nonzero(as_tuple=True)).mul_(kronecker.scale)
    A.diagonal().add_(spread)
    return Dense.of(A)


def pull_block(
    kronecker: Kronecker, observed: Tensor, alpha: Tensor, block: Dense, c: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The gradient in the factors and the scale, and the diagonal (n_o,) of G."""
    inverse = torch.cholesky_inverse(block.factor)
    G = inverse.addmm_(alpha, alpha.mT, beta=-alpha.shape[1] / 2, alpha=c / 2)
    pulled = cells.pull_covariance(kronecker.factors, observed.nonzero(as_tuple=True), G)
    by_scale = (pulled[0] * kronecker.factors[0]).sum()
    return [kronecker.scale * K for K in pulled], by_scale, G.diagonal()
