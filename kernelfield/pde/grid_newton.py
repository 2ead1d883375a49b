"""Nonlinear problems on a box: Newton's method on a grid.

With the bases of `galerkin` the equation L u + N(x, u, D u, ...) = f is a system R(C) = 0 for coefficients C. Each step
solves its linearisation,

    Q^T [L + sum_o (dN / d D^o u) D^o] free Y = -R(C),    C <- C + t free Y,

by GMRES, preconditioned with the Kronecker sum in which the slopes dN / d D^o u, functions of all axes, are averaged
to functions of one. t is halved until the residual falls as it should (Armijo), which keeps far starts from
diverging; where no t does, the last state is what is returned, and the solution says so. The start is the
solution of the linear part, and on a refined grid the solution before.

Sources: Kelley (1995), "Iterative Methods for Linear and Nonlinear Equations".
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernelfield.pde.attempt import WIDTHS, Attempt, best_attempt, measure
from kernelfield.pde.discretisation import Layout, given_values, mesh, terms_at
from kernelfield.pde.galerkin import Grid, LinearOperator, Report, Terms, boundary_values
from kernelfield.pde.grid_error import DRAWS, slopes_of
from kernelfield.pde.grid_law import GridLaw
from kernelfield.pde.problem import Nonlinear, Problem, evaluate
from kernelfield.pde.solution import Solution

STEPS = 50
HALVINGS = 20
CONVERGED = 1e-10  # of the first residual: below, derivatives have no more digits
ACCEPTABLE = 1e-7  # of the first residual: where a step that gains nothing has met rounding
ARMIJO = 1e-4  # the share of the decrease that the slope promises
LOOSE = 1e-4  # of the residual, for GMRES within a step: the next step corrects the rest
PRODUCTS = 60  # of GMRES within a step
PATIENCE, SLOW = 5, 0.5  # steps that must bring the residual below a share of what it was


def newton_on_grid(
    problem: Problem,
    *,
    nodes: int | Sequence[int] | None = None,
    widths: Sequence[tuple[float, float]] = WIDTHS,
    steps: int = STEPS,
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Solution:
    """Solve a nonlinear problem on a box; as `solve_on_grid`, which says what is chosen and how.

    The solution's `history` holds the residuals, relative to the first, and `converged` tells how it ended.

    Errors: ValueError for a linear problem, and as `solve_on_grid`.

    >>> from kernelfield.pde.problem import Term
    >>> problem = Problem(
    ...     "u u'' = -sin^2", ((0.0, 3.0),), (Term(1e-3, (2,)),),
    ...     source=lambda X: -1e-3 * X[:, 0].sin() - X[:, 0].sin().square() - 0.0 * X[:, 0],
    ...     boundary=lambda X: X[:, 0].sin(),
    ...     nonlinear=lambda u: -u.square(),
    ... )
    >>> newton_on_grid(problem).converged
    True
    """
    start = time.perf_counter()
    if problem.nonlinearity is None:
        raise ValueError(f"{problem.name} is linear, and Newton's method has nothing to do; use solve_on_grid")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    best = best_attempt(problem, nodes, widths, partial(_attempt, steps=steps))
    return best.solution(time.perf_counter() - start, draws=draws, generator=generator)


@dataclass(frozen=True, eq=False)
class _System:
    """R(C) and its linearisation."""

    problem: Problem
    grid: Grid
    terms: Terms
    source: Tensor

    @property
    def nonlinear(self) -> Nonlinear:
        part = self.problem.nonlinearity
        if part is None:
            raise ValueError(f"{self.problem.name} is linear")
        return part

    @property
    def points(self) -> Tensor:
        return mesh([axis.inner_nodes for axis in self.grid.axes])

    def residual(self, C: Tensor) -> Tensor:
        """The projected residual."""
        values = [self.grid.derivative(C, orders).flatten() for orders in self.nonlinear.orders]
        total = self.nonlinear.at(self.points, values).reshape(self.source.shape) - self.source
        for coefficient, orders in self.terms:
            total = total + coefficient * self.grid.derivative(C, orders)
        return self.grid.project(total)

    def linearised(self, C: Tensor) -> LinearOperator:
        """The operator at C."""
        values = [self.grid.derivative(C, orders) for orders in self.nonlinear.orders]
        return LinearOperator.of(self.grid, [*self.terms, *slopes_of(self.nonlinear, self.points, values)])


def _attempt(problem: Problem, layout: Layout, start: GridLaw | None, *, steps: int) -> Attempt:
    grid = layout.grid(problem)
    inner = [axis.inner_nodes for axis in grid.axes]
    source = evaluate(problem.source, mesh(inner), what="the source").reshape([len(x) for x in inner])
    system = _System(problem, grid, terms_at(problem.operator, inner), source)
    given = given_values(problem, grid)
    values = boundary_values(grid, lambda j, i: given[j][i])
    if start is None:
        C, report = LinearOperator.of(grid, system.terms).solve(source, values)
    else:
        lifted = grid.lift(values)
        inside = start.on(inner, (0,) * problem.dims) - grid.derivative(lifted, (0,) * problem.dims)
        C, report = lifted + grid.free(grid.project(inside)), Report(0.0, 0, True)
    C, history, message = _descend(system, C, steps)
    law = GridLaw(grid, C)
    return Attempt(
        problem,
        layout,
        law,
        system.linearised(C),
        report,
        *measure(problem, law),
        history=history,
        converged=not message,
        message=message,
    )


def _descend(system: _System, C: Tensor, steps: int) -> tuple[Tensor, tuple[float, ...], str]:
    """Newton's method from C: the last good state, relative residuals, and what went wrong, if anything."""
    R = system.residual(C)
    first = float(R.norm().clamp_min(system.grid.project(system.source).norm()))
    history = [float(R.norm()) / first if first else 0.0]
    for step in range(1, steps + 1):
        if history[-1] <= CONVERGED:
            return C, tuple(history), ""
        Y, _ = system.linearised(C).correct(-R, tolerance=LOOSE, most=PRODUCTS)
        slow = step > PATIENCE and history[-1] > SLOW * history[-1 - PATIENCE]
        found = None if slow else _line_search(system, C, system.grid.free(Y), float(R.norm()))
        if found is None:
            if history[-1] <= ACCEPTABLE:
                return C, tuple(history), ""
            message = (
                f"Newton's method stopped after {step - 1} steps at a relative residual of {history[-1]:.2g}, as no "
                "part of the next step reduced it; this is the last good state."
            )
            return C, tuple(history), message
        C, R = found
        history.append(float(R.norm()) / first)
    if history[-1] <= ACCEPTABLE:
        return C, tuple(history), ""
    return C, tuple(history), f"Newton's method used up its {steps} steps at a relative residual of {history[-1]:.2g}."


def _line_search(system: _System, C: Tensor, direction: Tensor, size: float) -> tuple[Tensor, Tensor] | None:
    """The first of steps 1, 1/2, 1/4, ... that reduces the residual enough, and the residual there."""
    t = 1.0
    for _ in range(HALVINGS):
        trial = C + t * direction
        R = system.residual(trial)
        if float(R.norm()) <= (1 - ARMIJO * t) * size:  # not so where it is not finite
            return trial, R
        t /= 2
    return None
