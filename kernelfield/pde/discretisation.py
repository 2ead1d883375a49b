"""A problem on the nodes of a grid: which boundary conditions are used, and all functions at the points asked for.

An axis takes as many conditions as its highest order. Where it has one more, as a transport equation with values on all
sides, those on the side that the flow comes from are taken, and the solution says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.pde.axis import Axis, AxisBasis, Condition
from kernelfield.pde.galerkin import Grid
from kernelfield.pde.grid_seeds import bands
from kernelfield.pde.problem import Orders, Problem, Term, evaluate

Widths = tuple[tuple[float, float], ...]  # for each axis lengthscales of bumps about frequencies and of that about zero


@dataclass(frozen=True, eq=False)
class Layout:
    """What makes a grid: for each axis a number of nodes, frequencies (k,), and lengthscales in lengths of the axis."""

    counts: tuple[int, ...]
    found: tuple[Tensor, ...]
    widths: Widths

    def places(self, problem: Problem) -> list[Tensor]:
        """The nodes (n_j,) of each axis."""
        pairs = zip(problem.domain, self.counts, strict=True)
        return [torch.linspace(low, high, count, dtype=torch.double) for (low, high), count in pairs]

    def grid(self, problem: Problem) -> Grid:
        """The grid of the kernels with bands at the frequencies.

        Errors: ValueError for too few boundary conditions.
        """
        axes = []
        rows = zip(self.places(problem), self.found, self.widths, conditions(problem), strict=True)
        for x, f, widths, ends in rows:
            axes.append(Axis.of(AxisBasis.of(x, bands(f, float(x[-1] - x[0]), *widths)), ends))
        return Grid(tuple(axes))

    def __str__(self) -> str:
        each = [f"{peaks:.3g} and {background:.3g}" for peaks, background in self.widths]
        return each[0] if len(set(each)) == 1 else " by ".join(each)


def require_box(problem: Problem) -> None:
    if problem.inside is not None:
        raise ValueError(f"{problem.name} has a domain that is no box, which no grid fits; use collocation")
    if problem.unknowns:
        names = ", ".join(unknown.name for unknown in problem.unknowns)
        raise ValueError(
            f"{problem.name} has unknown coefficients ({names}), which a grid does not learn; use collocation"
        )


def conditions(problem: Problem) -> list[list[Condition]]:
    """The boundary conditions that are used, by axis: as many as the axis' highest order.

    Errors: ValueError for an axis with fewer.
    """
    used = []
    for j, name in enumerate(problem.names):
        order = _order(problem, j)
        given = [Condition(f"{name}{'-+'[end]}", end, 0) for end in (0, 1) if f"{name}{'-+'[end]}" in problem.sides]
        given += [Condition(f"{name}{'-+'[end]}", end, 1) for end in (0, 1) if f"{name}{'-+'[end]}" in problem.slopes]
        if len(given) < order:
            raise ValueError(
                f"{problem.name} has derivatives of order {order} along {name} and {len(given)} boundary conditions "
                f"there; give {order}, values or slopes, on the sides {name}- and {name}+"
            )
        if order == 1 and len(given) > 1:
            given = [c for c in given if c.end == _inflow(problem, j)] or given
        used.append(given[:order])
    return used


def _order(problem: Problem, j: int) -> int:
    nonlinear = problem.nonlinearity.orders if problem.nonlinearity else ()
    return max([term.orders[j] for term in problem.operator] + [orders[j] for orders in nonlinear], default=0)


def _inflow(problem: Problem, j: int) -> int:
    """The end of an axis of first order that the solution is carried from.

    With c u_t + a u_xx the start where c and a differ in sign, as heat has it; in pure transport where c is positive.
    """
    middle = torch.tensor([[(low + high) / 2 for low, high in problem.domain]], dtype=torch.double)
    flow = sum(float(t.at(middle)) for t in problem.operator if t.orders[j] == 1 and t.total == 1)
    diffusion = sum(float(t.at(middle)) for t in problem.operator if max(t.orders) == 2 and t.total == 2)
    return int(flow * (-diffusion or 1.0) < 0)


def unused(problem: Problem) -> str:
    """A sentence on boundary conditions that were not needed, or nothing."""
    used = {(c.side, c.order) for axis in conditions(problem) for c in axis}
    left = [s for s in problem.sides if (s, 0) not in used] + [s for s in problem.slopes if (s, 1) not in used]
    return (
        f"Boundary values on {', '.join(left)} were not used: the order of the equation asks for none." if left else ""
    )


def mesh(axes: Sequence[Tensor]) -> Tensor:
    """The points (n, d) of a grid, the last axis fastest."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def terms_at(operator: Sequence[Term], points: Sequence[Tensor]) -> list[tuple[float | Tensor, Orders]]:
    """The terms with coefficients on a grid, (n_1, ..., n_d), or as numbers where they are."""
    shape = [len(x) for x in points]
    return [
        (term.at(mesh(points)).reshape(shape) if callable(term.coefficient) else float(term.coefficient), term.orders)  # type: ignore[arg-type]
        for term in operator
    ]


def given_values(problem: Problem, grid: Grid, *, between: bool = False) -> list[list[Tensor]]:
    """The values of the conditions of each axis at nodes of the other axes, or halfway between those."""
    values = []
    for j, axis in enumerate(grid.axes):
        points = [other.offset if between else other.basis.nodes for other in grid.axes]
        shape = [len(x) for k, x in enumerate(points) if k != j]
        row = []
        for c in axis.conditions:
            points[j] = axis.basis.nodes[[0, -1]][c.end : c.end + 1]
            function = (problem.slopes if c.order else problem.sides)[c.side]
            row.append(evaluate(function, mesh(points), what=f"the boundary value of {c.side}").reshape(shape))
        values.append(row)
    return values
