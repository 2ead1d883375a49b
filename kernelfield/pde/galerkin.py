"""A linear equation on a grid, in the functions that the kernels of the axes span.

With the bases v of `axis` the solution is u = sum_(i1 .. id) C_(i1 .. id) v_i1(x_1) ... v_id(x_d), and the equation

    sum_t c_t(x) D^(o_t) u = f    at the inner nodes, projected on the functions free of boundary values,

becomes, for Q_j the orthonormal values of those functions at the inner nodes of axis j, and u = lift + free part Y,

    (Q_1 x ... x Q_d)^T [ sum_t c_t D^(o_t) (lift + free Y) - f ] = 0,

as many equations as unknowns. Where a basis has full rank this is collocation at the nodes (Kansa's method with
product kernels); where the kernel spans less, the projection leaves the rest of the residual orthogonal to the solution
space, so that symmetric operators stay nearly symmetric and modes that only sampling makes are not among the unknowns.

A term whose derivatives are along one axis with a coefficient of that axis gives a matrix along that axis alone, by
Q_j^T free = 1 on all others: the sum of those is a Kronecker sum, solved directly. Other coefficients are averaged over
the other axes, which gives a Kronecker sum that preconditions GMRES for the operator itself. Boundary values are
lifted axis after axis, C += lift_j (values_j - rows_j C), exact where sides agree at edges.

Sources: Kansa (1990), "Multiquadrics"; Canuto et al. (2006), "Spectral Methods", for projections; Lynch,
Rice & Thomas (1964), "Direct Solution of Partial Difference Equations by Tensor Product Methods".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.linalg.gmres import gmres
from kernelfield.linalg.kronecker import contract
from kernelfield.linalg.kronecker_sum import KroneckerSum
from kernelfield.pde.axis import Axis
from kernelfield.pde.problem import Orders

TOLERANCE = 1e-11  # of the right-hand side, for GMRES
PRODUCTS = 300  # with the operator, at most
EXACT = 1e-13  # of a coefficient: how far it may be from one of its axis alone and count as that

Coefficient = float | Tensor  # a number, or values (n_1, ..., n_d) at the inner nodes
Terms = Sequence[tuple[Coefficient, Orders]]


@dataclass(frozen=True)
class Report:
    """How one right-hand side was solved: the relative residual and the products with the operator it took."""

    residual: float
    iterations: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Grid:
    """The product of d axes."""

    axes: tuple[Axis, ...]

    def derivative(self, C: Tensor, orders: Orders) -> Tensor:
        """D^orders (n_1, ..., n_d, *rest) at the inner nodes, for coefficients C (r_1, ..., r_d, *rest)."""
        return contract([self._values[j][order] for j, order in enumerate(orders)], C)

    @cached_property
    def _values(self) -> list["_Derivatives"]:
        return [_Derivatives(axis) for axis in self.axes]

    def project(self, F: Tensor) -> Tensor:
        """The equations (r_1 - b_1, ..., r_d - b_d, *rest) from values at the inner nodes."""
        return contract([axis.test.mT for axis in self.axes], F)

    def free(self, Y: Tensor) -> Tensor:
        """Coefficients of functions without boundary values."""
        return contract([axis.free for axis in self.axes], Y)

    def lift(self, values: Sequence[Tensor]) -> Tensor:
        """Coefficients with the given boundary values.

        values : for axis j an array of the shape of the coefficients with b_j in the place of r_j: its conditions,
        with the coefficients of the values along the other axes.
        """
        C = values[0].new_zeros(*(axis.basis.rank for axis in self.axes), *values[0].shape[len(self.axes) :])
        for j, (axis, given) in enumerate(zip(self.axes, values, strict=True)):
            if axis.conditions:
                C = C + contract(self._only(j, axis.lift), given - contract(self._only(j, axis.rows), C))
        return C

    def _only(self, j: int, matrix: Tensor) -> list[Tensor | None]:
        return [matrix if k == j else None for k in range(len(self.axes))]

    def matrix(self, j: int, order: int, coefficient: Coefficient) -> Tensor:
        """The matrix along axis j of a derivative along it, times a coefficient of that axis, a number or (n_j,)."""
        axis = self.axes[j]
        values = self._values[j][order] @ axis.free
        weighted = coefficient[:, None] * values if isinstance(coefficient, Tensor) else coefficient * values
        return axis.test.mT @ weighted


class _Derivatives(dict[int, Tensor]):
    """Values (n, r) of the derivatives of an axis' functions at the inner nodes, made when first asked for."""

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.axis = axis

    def __missing__(self, order: int) -> Tensor:
        axis = self.axis
        self[order] = axis.basis.at(axis.inner_nodes, order) if order else axis.basis.values[axis.inner]
        return self[order]


@dataclass(frozen=True, eq=False)
class LinearOperator:
    """sum_t c_t D^(o_t) on a grid, with its solver; `direct` tells whether that is exact or a preconditioner.

    Errors: ValueError where the Kronecker sum is singular.
    """

    grid: Grid
    terms: Terms
    solver: KroneckerSum
    direct: bool

    @classmethod
    def of(cls, grid: Grid, terms: Terms) -> "LinearOperator":
        """The operator with these terms."""
        matrices = [axis.test.new_zeros(axis.test.shape[1], axis.test.shape[1]) for axis in grid.axes]
        direct = True
        for coefficient, orders in terms:
            along = [j for j, order in enumerate(orders) if order]
            if len(along) > 1:
                direct = False  # a mixed derivative has no place in a sum of axes
                continue
            places = along or range(len(orders))
            profiles, exact = _profiles(coefficient, list(places), len(orders))
            direct = direct and exact
            for j, profile in zip(places, profiles, strict=True):
                matrices[j] = matrices[j] + grid.matrix(j, orders[j], profile)
        return cls(grid, terms, KroneckerSum.of(matrices), direct)

    def apply(self, C: Tensor) -> Tensor:
        """The operator's values (n_1, ..., n_d, *rest) at the inner nodes, for coefficients C."""
        value = C.new_zeros(())
        for coefficient, orders in self.terms:
            if isinstance(coefficient, Tensor):
                coefficient = coefficient.reshape(*coefficient.shape, *[1] * (C.ndim - coefficient.ndim))
            value = value + coefficient * self.grid.derivative(C, orders)
        return value

    def solve(self, F: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, Report]:
        """Coefficients for a right-hand side F (n_1, ..., n_d, *rest) and boundary values as `lift` takes them."""
        C = self.grid.lift(values)
        Y, report = self.correct(self.grid.project(F - self.apply(C)))
        return C + self.grid.free(Y), report

    def correct(self, R: Tensor, *, tolerance: float = TOLERANCE, most: int = PRODUCTS) -> tuple[Tensor, Report]:
        """Y (r_1 - b_1, ..., *rest) that the projected operator takes to R, by `most` products with it."""

        def apply(Y: Tensor) -> Tensor:
            return self.grid.project(self.apply(self.grid.free(Y)))

        if self.direct:
            Y = self.solver.solve(R)
            Y = Y + self.solver.solve(R - apply(Y))  # what rounding took from the derivatives
            left = float((R - apply(Y)).norm() / R.norm().clamp_min(1e-300))
            return Y, Report(left, 2, True)
        found = gmres(apply, R, precondition=self.solver.solve, tolerance=tolerance, most=most)
        return found.X, Report(float(found.residual), found.iterations, found.converged)


def _profiles(c: Coefficient, axes: Sequence[int], dims: int) -> tuple[list[Coefficient], bool]:
    """The nearest sum of functions of these single axes, c ~ sum_j c_j(x_j), and whether it is exact."""
    if not isinstance(c, Tensor):
        return [c / len(axes)] * len(axes), True
    mean = c.mean()
    profiles = []
    for j in axes:
        averaged = c.mean([k for k in range(dims) if k != j]) if dims > 1 else c
        profiles.append(averaged - mean * (1 - 1 / len(axes)))
    total = sum(p.reshape(-1, *[1] * (dims - j - 1)) for j, p in zip(axes, profiles, strict=True))
    return list(profiles), bool((c - total).abs().max() <= EXACT * c.abs().max())


def boundary_values(grid: Grid, at: Callable[[int, int], Tensor]) -> list[Tensor]:
    """What `Grid.lift` takes, from at(j, i): the values of condition i of axis j on the nodes of the other axes."""
    given = []
    for j, axis in enumerate(grid.axes):
        others: list[Tensor | None] = [None if k == j else other.basis.values.mT for k, other in enumerate(grid.axes)]
        shape = [len(other.basis.nodes) for other in grid.axes]
        shape[j] = 0
        parts = [at(j, i).unsqueeze(j) for i in range(len(axis.conditions))]
        empty = axis.rows.new_zeros(shape)
        given.append(contract(others, torch.cat([empty, *parts], j)))
    return given
