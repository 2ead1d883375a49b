"""Kernels over finite sets: n points that are known by their numbers 0 to n - 1.

Selection needs three things of a kernel: its diagonal, single columns, and sums of columns. They
cost O(n p) with explicit features phi of p numbers, k(i, j) = phi_i . phi_j, and n evaluations a
column otherwise; the matrix (n, n) is never held.

    conditioned on the values at points t, observed with noise:
        k(i, j) - k(i, t) (K_tt + noise I)^-1 k(t, j)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.numerics import cholesky, require_memory

BLOCK = 2**23  # numbers of a kernel matrix that are held at a time, 64 MiB


class FiniteKernel(ABC):
    """A kernel at `size` points."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number n of points."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its numbers are."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """k(i, i), shape (n,)."""

    @abstractmethod
    def block(self, rows: slice, columns: Tensor) -> Tensor:
        """k(i, j) for i of a slice and j of a list (c,) of numbers, shape (r, c)."""

    @abstractmethod
    def total(self, count: int) -> Tensor:
        """The sum of the first `count` columns, shape (n,)."""


@dataclass(frozen=True, eq=False)
class FeatureKernel(FiniteKernel):
    """Products of features (n, p).

    >>> kernel = FeatureKernel(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    >>> kernel.diagonal()
    tensor([1., 5.])
    """

    features: Tensor

    @property
    def size(self) -> int:
        return len(self.features)

    @property
    def device(self) -> torch.device:
        return self.features.device

    def diagonal(self) -> Tensor:
        return torch.linalg.vector_norm(self.features, dim=1).square()

    def block(self, rows: slice, columns: Tensor) -> Tensor:
        return self.features[rows] @ self.features[columns].mT

    def total(self, count: int) -> Tensor:
        return self.features @ self.features[:count].sum(0)


@dataclass(frozen=True, eq=False)
class PointKernel(FiniteKernel):
    """A GPyTorch kernel at points (n, d), at the hyperparameters it has.

    Errors: ValueError for a batch of kernels.
    """

    kernel: Kernel
    points: Tensor

    def __post_init__(self) -> None:
        if self.kernel.batch_shape:
            raise ValueError(
                f"selection needs one kernel, got a batch of shape {tuple(self.kernel.batch_shape)}; "
                "take one of them, or their sum"
            )

    @property
    def size(self) -> int:
        return len(self.points)

    @property
    def device(self) -> torch.device:
        return self.points.device

    @torch.no_grad()
    def diagonal(self) -> Tensor:
        return self.kernel(self.points, diag=True)

    @torch.no_grad()
    def block(self, rows: slice, columns: Tensor) -> Tensor:
        return self.kernel(self.points[rows], self.points[columns]).to_dense()

    def total(self, count: int) -> Tensor:
        return _summed(self, count)


@dataclass(frozen=True, eq=False)
class ScaledKernel(FiniteKernel):
    """A kernel times a number."""

    inner: FiniteKernel
    factor: float

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def diagonal(self) -> Tensor:
        return self.factor * self.inner.diagonal()

    def block(self, rows: slice, columns: Tensor) -> Tensor:
        return self.factor * self.inner.block(rows, columns)

    def total(self, count: int) -> Tensor:
        return self.factor * self.inner.total(count)


@dataclass(frozen=True, eq=False)
class ConditionedKernel(FiniteKernel):
    """The covariance that is left after observations; half (t, n) is L^-1 k(t, :) with L L' = K_tt + noise I."""

    prior: FiniteKernel
    half: Tensor

    @property
    def size(self) -> int:
        return self.prior.size

    @property
    def device(self) -> torch.device:
        return self.prior.device

    def diagonal(self) -> Tensor:
        explained = torch.linalg.vector_norm(self.half, dim=0).square()
        return (self.prior.diagonal().double() - explained).clamp_min(0)

    def block(self, rows: slice, columns: Tensor) -> Tensor:
        return self.prior.block(rows, columns).double() - self.half[:, rows].mT @ self.half[:, columns]

    def total(self, count: int) -> Tensor:
        return self.prior.total(count).double() - self.half.mT @ self.half[:, :count].sum(1)


def conditioned(kernel: FiniteKernel, given: Tensor, noise: float) -> ConditionedKernel:
    """The covariance left by observations, of variance `noise`, at the points `given` (t,); in double precision.

    Errors: MemoryError where (t, n) numbers do not fit.
    """
    need = 8 * 2 * len(given) * kernel.size
    remedy = "give features, by Sketch or LowRank, which are conditioned in memory that does not grow with the labels"
    require_memory(need, given.device, what=f"conditioning {kernel.size} points on {len(given)}", remedy=remedy)
    step = max(1, BLOCK // max(1, len(given)))
    rows = [slice(start, start + step) for start in range(0, kernel.size, step)]
    cross = torch.cat([kernel.block(part, given).double() for part in rows])
    L = cholesky(cross[given] + noise * torch.eye(len(given)).to(cross))
    return ConditionedKernel(kernel, torch.linalg.solve_triangular(L, cross.mT, upper=False))


def _summed(kernel: FiniteKernel, count: int) -> Tensor:
    """The sum of columns, block by block."""
    columns = torch.arange(count, device=kernel.device).split(max(1, BLOCK // kernel.size))
    return reduce(torch.add, (kernel.block(slice(None), part).sum(1) for part in columns))
