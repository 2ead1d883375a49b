"""Solving a problem: which solver suits it.

    "separable"    linear, on a grid of a box
    "grid_newton"  the same for nonlinear problems
    "collocation"  linear, on scattered points: domains that are no box, unknown coefficients, any kernel
    "newton"       the same for nonlinear problems
    "map"          most probable values on a grid, as published by Fang et al. (2024); slow, and without variances

"auto" takes grids where there is a box and nothing is unknown: they are quicker and mostly more accurate. Initial
values on a line, given with their slopes, are the exception. The solution's `method` names what was taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from kernelfield.core.contracts import Data
from kernelfield.pde.collocation import solve_collocation
from kernelfield.pde.grid_newton import newton_on_grid
from kernelfield.pde.map import solve_map
from kernelfield.pde.newton import solve_newton
from kernelfield.pde.problem import Problem
from kernelfield.pde.separable import solve_on_grid
from kernelfield.pde.solution import Solution

SOLVERS: dict[str, Callable[..., Solution]] = {
    "collocation": solve_collocation,
    "newton": solve_newton,
    "separable": solve_on_grid,
    "grid_newton": newton_on_grid,
    "map": solve_map,
}
SCATTERED = ("collocation", "newton")


def solve(
    problem: Problem,
    *,
    solver: str = "auto",
    kernel: str = "auto",
    grid: int | Sequence[int] | None = None,
    observations: Data | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Solution:
    """Solve a problem; see the module docstring for the solvers.

    kernel : "auto", "spectral" (Gaussian bumps) or "student_t", for the solvers on scattered points.
    grid : points along each axis, one number or one for each; None lets the source decide.
    observations : values of u that unknown coefficients are learned from.
    seed : of the draws that a grid's error bars are made of.
    options : of the solver, see `solve_collocation`, `solve_newton`, `solve_on_grid`, `newton_on_grid`, `solve_map`.

    Errors: ValueError for an unknown solver, or one that cannot do what the problem needs, naming one that can.

    >>> from kernelfield.pde.problem import Term
    >>> sine = Problem("sine", ((0.0, 3.0),), (Term(1.0, (2,)),), lambda X: -X[:, 0].sin(), lambda X: X[:, 0].sin())
    >>> round(solve(sine).mean(torch.tensor([[0.5]], dtype=torch.double)).item(), 5)  # sin(1/2)
    0.47943
    """
    able = suitable(problem, observations)
    if solver != "auto" and solver not in SOLVERS:
        raise ValueError(f"solver must be 'auto', {', '.join(map(repr, SOLVERS))}, got {solver!r}")
    if solver != "auto" and solver not in able:
        raise ValueError(f"solver {solver!r} cannot do {_why(problem, observations)}; take {able[0]!r} or 'auto'")
    chosen = able[0] if solver == "auto" else solver
    if chosen in SCATTERED:
        options |= {"kernel": kernel, "grid": grid, "observations": observations, "device": device}
    else:
        if kernel != "auto":
            raise ValueError(f"solver {chosen!r} chooses its own kernel, got kernel={kernel!r}; take {SCATTERED[0]!r}")
        options |= {"nodes": grid}
        if chosen != "map":
            options |= {"generator": torch.Generator().manual_seed(seed)}
    return SOLVERS[chosen](problem, **options)


def suitable(problem: Problem, observations: Data | None = None) -> list[str]:
    """The solvers that can do a problem, the best first."""
    linear = problem.nonlinearity is None
    scattered = "collocation" if linear else "newton"
    if problem.inside is not None or problem.unknowns or observations is not None:
        return [scattered]
    on_grid = "separable" if linear else "grid_newton"
    if not problem.slopes:
        return [on_grid, scattered, "map"]
    return [scattered, on_grid] if problem.dims == 1 else [on_grid, scattered]


def _why(problem: Problem, observations: Data | None) -> str:
    needs = {
        "a nonlinear equation": problem.nonlinearity is not None,
        "a linear equation": problem.nonlinearity is None,
        "a domain that is no box": problem.inside is not None,
        "unknown coefficients": bool(problem.unknowns),
        "observations": observations is not None,
        "slopes at the boundary": bool(problem.slopes),
    }
    return f"{problem.name}, which has {' and '.join(name for name, present in needs.items() if present)}"
