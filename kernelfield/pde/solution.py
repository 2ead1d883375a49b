"""What a solver hands back: the law of the solution, and how the solving went."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from kernelfield.core.posterior import Elliptical
from kernelfield.pde.problem import Orders, Problem, evaluate, require_orders


class Representation(Protocol):
    """What a solver leaves behind: u and its derivatives anywhere in the domain."""

    def mean(self, X: Tensor, orders: Orders) -> Tensor:
        """D^orders u (n,) at X (n, d)."""

    def posterior(self, X: Tensor, orders: Orders) -> Elliptical:
        """The law of D^orders u at X (n, d): m = 1 output, its scale lazy so that variances need no joint matrix.

        Errors: NotImplementedError for a solver without variances.
        """


@dataclass(frozen=True)
class Estimate:
    """An unknown coefficient as learned: its value and the standard deviation of its posterior."""

    value: float
    std: float


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved problem.

    representation : what `posterior` asks.
    method : the solver, the kernel and the sizes that were used, in words.
    condition : condition numbers of the matrices that were solved with, by name.
    offset_residual : the relative residual at points between those that were solved at.
    history : what the solver minimised, step by step; of Gauss-Newton the relative residuals.
    converged and message : whether it ended as it should, and what there is to say of it.
    estimates : the unknown coefficients by name.

    Units: those of the problem.
    """

    problem: Problem
    representation: Representation
    method: str
    condition: Mapping[str, float]
    seconds: float
    offset_residual: float
    history: tuple[float, ...] = ()
    converged: bool = True
    message: str = ""
    estimates: Mapping[str, Estimate] = field(default_factory=dict)

    def posterior(self, X: Tensor, orders: Orders | None = None) -> Elliptical:
        """The law of u, or of its derivative of these orders, at X (n, d)."""
        return self.representation.posterior(*self._asked(X, orders))

    def mean(self, X: Tensor, orders: Orders | None = None) -> Tensor:
        """The posterior mean (n,) of u, or of its derivative of these orders, at X (n, d)."""
        return self.representation.mean(*self._asked(X, orders))

    def variance(self, X: Tensor, orders: Orders | None = None) -> Tensor:
        """The posterior variance (n,) of u, or of its derivative of these orders, at X (n, d)."""
        return self.posterior(X, orders).variance[:, 0]

    def residual(self, X: Tensor) -> Tensor:
        """Left-hand side less f (n,) of the mean at X (n, d)."""
        X, _ = self._asked(X, None)
        return self.problem.residual(X, lambda orders: self.representation.mean(X, orders))

    def relative_l2(self, X: Tensor | None = None) -> float:
        """|mean - exact| / |exact| at X (n, d), by default on `problem.test_points()`.

        Errors: ValueError where the exact solution is not known.
        """
        X, exact = self._truth(X)
        return float(torch.linalg.vector_norm(self.mean(X) - exact) / torch.linalg.vector_norm(exact))

    def coverage(self, X: Tensor | None = None, level: float = 0.95) -> float:
        """The share of the points X (n, d) at which the central band of this level holds the exact solution."""
        X, exact = self._truth(X)
        rank = self.posterior(X).cdf(exact[:, None])
        return float(((rank - 0.5).abs() <= level / 2).double().mean())

    def _truth(self, X: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.problem.exact is None:
            raise ValueError(f"the exact solution of {self.problem.name} is not known; measure residual(X) instead")
        X = self.problem.test_points() if X is None else X
        return X, evaluate(self.problem.exact, X, what=f"the exact solution of {self.problem.name}")

    def _asked(self, X: Tensor, orders: Orders | None) -> tuple[Tensor, Orders]:
        dims = self.problem.dims
        if X.ndim != 2 or X.shape[1] != dims or X.dtype != torch.double:
            raise ValueError(f"need points (n, {dims}) in double precision, got {tuple(X.shape)} of {X.dtype}")
        orders = (0,) * dims if orders is None else orders
        require_orders(orders)
        if len(orders) != dims:
            raise ValueError(f"orders must hold one number for each of {dims} axes, got {orders}")
        return X, orders
