"""The law of a solution that was found on a grid: a mean in the functions of its axes, and a spread about it.

The mean is u = sum C_(i1 .. id) v_i1(x_1) ... v_id(x_d), and the covariance R R^T of a root R (n, s) that is
made when variances are first asked for: of the estimated error (`grid_error.band`) or of noise in the
source (`grid_error.noise_draws`). Derivatives of the solution have derivatives of the root.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.kronecker import at_points, contract
from kernelfield.pde.galerkin import Grid
from kernelfield.pde.problem import Orders


class Spread(Protocol):
    """A root of a covariance."""

    def root(self, X: Tensor, orders: Orders) -> Tensor:
        """R (n, s) of D^orders u at X (n, d)."""


def _unknown() -> Spread:
    raise NotImplementedError("an attempt has no spread; its solution has")


@dataclass(frozen=True, eq=False)
class GridLaw:
    """The law of u and its derivatives; see the module docstring. coefficients (r_1, ..., r_d); spread makes it."""

    grid: Grid
    coefficients: Tensor
    spread: Callable[[], Spread] = _unknown

    def mean(self, X: Tensor, orders: Orders) -> Tensor:
        return at([axis.basis.at for axis in self.grid.axes], self.coefficients, X, orders)

    def on(self, points: Sequence[Tensor], orders: Orders) -> Tensor:
        """D^orders u (n_1, ..., n_d) on a grid of points (n_j,) an axis."""
        factors = [axis.basis.at(x, o) for axis, x, o in zip(self.grid.axes, points, orders, strict=True)]
        return contract(factors, self.coefficients)

    def posterior(self, X: Tensor, orders: Orders) -> Elliptical:
        return Elliptical(self.mean(X, orders)[:, None], LowRank(lambda: self._spread.root(X, orders)))

    @cached_property
    def _spread(self) -> Spread:
        return self.spread()


@dataclass(frozen=True, eq=False)
class LowRank:
    """The matrix R R^T of a root (n, s) that is made when first asked for."""

    make: Callable[[], Tensor]

    @cached_property
    def root(self) -> Tensor:
        """R (n, s)."""
        return self.make()

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        """The diagonal (n,)."""
        return self.root.square().sum(-1)

    def to_dense(self) -> Tensor:
        """The matrix (n, n)."""
        return self.root @ self.root.mT


Functions = Callable[[Tensor, int], Tensor]  # points (n,) and an order -> values (n, k)


def at(functions: Sequence[Functions], T: Tensor, X: Tensor, orders: Orders) -> Tensor:
    """The sum (n, *rest) of products of functions with coefficients T (k_1, ..., k_d, *rest) at X (n, d).

    Points that fill a grid are recognised, and cost what a grid costs.
    """
    columns = [x.unique(return_inverse=True) for x in X.unbind(1)]
    factors = [f(x, order) for f, (x, _), order in zip(functions, columns, orders, strict=True)]
    cells = torch.Size(len(x) for x, _ in columns).numel()
    if cells <= 4 * len(X):
        return contract(factors, T)[tuple(place for _, place in columns)]
    return at_points([factor[place].mT for factor, (_, place) in zip(factors, columns, strict=True)], T)
