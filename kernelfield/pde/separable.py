"""Linear problems on a box: a grid, kernels from the data, and a direct or a preconditioned solve.

Everything that has to be chosen is chosen from the equation and its data:

    nodes     from the highest frequency of the source and the boundary values (`grid_seeds`)
    bands     from the source over the symbol of the operator, boundary values and its own waves (`grid_seeds`)
    widths    of the bumps: each of WIDTHS is solved, and that one kept whose solution has the least residual, with its
              misfit to boundary values, at the points halfway between the nodes

The exact solution, where a problem has one, is never looked at.
"""

import time
from collections.abc import Sequence

import torch

from kernelfield.pde.attempt import WIDTHS, Attempt, best_attempt, measure
from kernelfield.pde.discretisation import Layout, given_values, mesh, terms_at
from kernelfield.pde.galerkin import LinearOperator, boundary_values
from kernelfield.pde.grid_error import DRAWS
from kernelfield.pde.grid_law import GridLaw
from kernelfield.pde.problem import Problem, evaluate
from kernelfield.pde.solution import Solution


def solve_on_grid(
    problem: Problem,
    *,
    nodes: int | Sequence[int] | None = None,
    widths: Sequence[tuple[float, float]] = WIDTHS,
    noise: float = 0.0,
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Solution:
    """Solve a linear problem on a box; see the module docstring.

    nodes : how many along each axis; numbers that are given are not refined. widths : what to choose from.
    noise : the variance of independent noise in the source's values, which bands are then made of; see `grid_error`.
    draws : the rank of the covariance, whose generator starts from 0 unless given.

    Errors: ValueError for a problem that is nonlinear, has unknown coefficients, no box, too few conditions, or an
    operator that is singular. Warns AboveNyquist where the nodes cannot tell the data's waves, NotConverged where the
    residual between the nodes stays large.

    >>> from kernelfield.pde.problem import Term
    >>> problem = Problem(
    ...     "waves", ((0.0, 1.0), (0.0, 1.0)), (Term(1.0, (2, 0)), Term(1.0, (0, 2))),
    ...     source=lambda X: -500 * (20 * X[:, 0]).sin() * (10 * X[:, 1]).cos(),
    ...     boundary=lambda X: (20 * X[:, 0]).sin() * (10 * X[:, 1]).cos(),
    ... )
    >>> solution = solve_on_grid(problem)
    >>> round(solution.mean(torch.tensor([[0.3, 0.4]], dtype=torch.double)).item(), 5)  # sin(6) cos(4)
    0.18264
    """
    start = time.perf_counter()
    if problem.nonlinearity is not None:
        raise ValueError(f"{problem.name} is nonlinear, which solve_on_grid cannot do; use newton_on_grid")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be a variance, not negative and finite, got {noise}")
    best = best_attempt(problem, nodes, widths, _attempt, noise=noise)
    return best.solution(time.perf_counter() - start, draws=draws, generator=generator, noise=noise)


def _attempt(problem: Problem, layout: Layout, start: GridLaw | None) -> Attempt:
    """A linear problem needs no start."""
    grid = layout.grid(problem)
    inner = [axis.inner_nodes for axis in grid.axes]
    operator = LinearOperator.of(grid, terms_at(problem.operator, inner))
    F = evaluate(problem.source, mesh(inner), what="the source").reshape([len(x) for x in inner])
    values = given_values(problem, grid)
    C, report = operator.solve(F, boundary_values(grid, lambda j, i: values[j][i]))
    law = GridLaw(grid, C)
    return Attempt(problem, layout, law, operator, report, *measure(problem, law))
