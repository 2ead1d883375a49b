"""The law of u and its derivatives given rows.

    mean = c' K^-1 y,    covariance = prior - C' K^-1 C,    c, C the covariances of what is asked with the rows.

Source: Rasmussen & Williams (2006), eq. (2.25)-(2.26) and section 9.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.numerics import rounding, schur
from kernelfield.core.posterior import Elliptical
from kernelfield.pde.likelihood import System
from kernelfield.pde.problem import Orders
from kernelfield.pde.rows import Covariances, Rows, variances

CHUNK = 2**22  # entries of a cross-covariance that are alive at once


@dataclass(frozen=True, eq=False)
class Conditioned:
    """u given rows: the representation of a solution; `inflation` multiplies its covariance."""

    system: System
    inflation: float = 1.0

    def mean(self, X: Tensor, orders: Orders) -> Tensor:
        parts = [self.cross(Rows.derivative(part, orders)) @ self.system.weights for part in self.chunks(X)]
        return torch.cat(parts)

    def posterior(self, X: Tensor, orders: Orders) -> Elliptical:
        return Elliptical(self.mean(X, orders)[:, None], Remainder(self, X, orders))

    def cross(self, asked: Rows) -> Tensor:
        """The covariance (n, N) of rows with those that are given."""
        kernel = self.system.kernel
        unknowns = {name: asked.X.new_tensor(value) for name, value in kernel.unknowns.items()}
        with torch.no_grad():
            return Covariances([asked], self.system.rows).fill(kernel.mixtures, unknowns)

    def chunks(self, X: Tensor) -> Sequence[Tensor]:
        return X.split(max(1, CHUNK // len(self.system.size)))

    def explained(self, asked: Rows) -> Tensor:
        """What is known takes from the prior: half (N, n) with prior - half^T half the posterior covariance."""
        cross = self.cross(asked) / self.system.size
        return torch.linalg.solve_triangular(self.system.factor, cross.mT, upper=False)


@dataclass(frozen=True, eq=False)
class Remainder:
    """The posterior covariance of D^orders u at points, formed only where it is asked for."""

    given: Conditioned
    X: Tensor
    orders: Orders

    @cached_property
    def _variances(self) -> Tensor:
        mixtures = self.given.system.kernel.mixtures
        parts = []
        for part in self.given.chunks(self.X):
            asked = Rows.derivative(part, self.orders)
            half, prior = self.given.explained(asked), variances(asked, mixtures)
            parts.append(prior - half.square().sum(0) + rounding(prior, half))
        return self.given.inflation * torch.cat(parts).clamp_min(0)

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self._variances

    def to_dense(self) -> Tensor:
        rows = [Rows.derivative(self.X, self.orders)]
        prior = Covariances(rows, rows).fill(self.given.system.kernel.mixtures, {})
        return self.given.inflation * schur(prior, self.given.explained(rows[0]))
