"""What grids with missing cells and with uneven noise have in common; see latent.

Both are systems A = scale * K[o, o] + diag(noise[o]) at the observed cells o of a grid, next to the
system S of a full grid. A method is exact where it factors a matrix, and iterative otherwise; then
gradients come from random signs z on the whole grid,

    E z (A~^-1 z - S^-1 z)' = A~^-1 - S^-1,    A~^-1 = A^-1 padded with zeros,

which leaves to chance only what S, known exactly, has not explained.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kernelfield.linalg.dense import Dense
from kernelfield.linalg.iterative import LogDeterminant, Solution, signs
from kernelfield.linalg.kronecker import BLOCK, Kronecker, Pull, contract, khatri_rao

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
        kinds = [(True, S.values), (False, S.ones)] if self._separable else [(True, S.values)]
        known = [_fixed(S, S.moments(rotated, rotated, weighted=w), values, c, m) for w, values in kinds]
        generator = torch.Generator().manual_seed(self.seed)
        pulls = []
        for start in range(0, self.probes, group := max(1, BLOCK // n)):
            z = signs(n, min(group, self.probes - start), alpha, generator)
            left = self.pad(self.solve(self.take(z))) - S.solve(z)
            for one, other in zip(z.mT, left.mT, strict=True):
                a, b = S.rotate(one[:, None]), S.rotate(other[:, None])
                parts = []
                for bases, (weighted, _) in zip(known, kinds, strict=True):
                    moments = S.moments(a, b, weighted=weighted)
                    parts.append([base - m / 4 * (M + M.mT) for base, M in zip(bases, moments, strict=True)])
                pulls.append(self._finish(parts, padded, one * other, c, m))
        return pulls

    @abstractmethod
    def _finish(self, parts: list[list[Tensor]], padded: Tensor, diagonal: Tensor, c: float, m: int) -> Pull:
        """A gradient from its moments, weighted and plain, and the diagonal (n,) of A~^-1 - S^-1."""

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


def put(B: Tensor, index: Tensor, n: int) -> Tensor:
    """B (c, k) in rows `index` of zeros (n, k)."""
    return B.new_zeros(n, B.shape[1]).index_copy_(0, index, B)


def _fixed(S: Kronecker, moments: list[Tensor], values: Sequence[Tensor], c: float, m: int) -> list[Tensor]:
    """What of the gradient's moments is known exactly, on each axis."""
    inverse = S.spectrum.reciprocal()
    for axis, moment in enumerate(moments):
        moment.mul_(c / 2).diagonal().sub_(S.trace(axis, inverse, values), alpha=m / 2)
    return moments


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
