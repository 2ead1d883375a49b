"""The search for a grid and its kernels: attempts, each with a score, and refinement where all scores are poor.

An attempt is a problem solved on one `Layout`. Its score is the relative root mean square of the residual at the points
halfway between the nodes, where no equation was asked for, plus the relative misfit to boundary values between the
nodes of the sides. It is relative to `Problem.size`. The exact solution is never looked at.

Where the best score is above COARSE, something is smaller than what source and boundary values showed, such as a front
that the equation makes. Then, round by round,

    tail_j = |C in the last quarter of the functions of axis j| / |C|

tells the axes that are to blame, all within SHARE of the worst: functions are in order of their singular values, so
that the last ones are the finest. These axes get GROWTH times the nodes, bumps of SPACINGS node spacings, and the
frequencies of the previous solution beside those of the data; a nonlinear problem goes on from that solution. Rounds
end with a good score, without room for more nodes, or when STALLS of them in a row have gained nothing, of scores
that tell something at all.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kernelfield.core.numerics import NotConverged
from kernelfield.pde.discretisation import Layout, given_values, mesh, require_box, unused
from kernelfield.pde.galerkin import LinearOperator, Report
from kernelfield.pde.grid_error import band, noise_draws
from kernelfield.pde.grid_law import GridLaw, Spread
from kernelfield.pde.grid_seeds import choose_nodes, frequencies, strong_frequencies, warn_above_nyquist
from kernelfield.pde.problem import Orders, Problem
from kernelfield.pde.solution import Solution

# Lengthscales of the bumps about frequencies and of that about zero, in lengths of the axis: from waves that keep
# their phase, for regular solutions, to a background that follows layers at the boundary.
WIDTHS = ((0.3, 0.3), (0.1, 0.1), (0.05, 0.05), (0.3, 0.05))
FINE = 1e-9  # a score that no other width needs to improve
COARSE = 1e-3  # a score that asks for refinement
POOR = 1e-2  # a score that counts as a failure
GROWTH = 1.6  # of the nodes of an axis in a round
SPACINGS = 6.0  # lengthscales of refined axes in node spacings: the narrowest bump whose copies join without ripples
SHARE = 0.1  # of the worst tail: the axes that are refined
ROUNDS, STALLS = 6, 2
GAIN = 0.8  # of the best score: what a round must reach
BLIND = 0.5  # a score that tells nothing of how far the next grid is from resolving a front
ROOM = {1: 2048, 2: 512**2, 3: 96**3}  # the most nodes in all
LONGEST = 2048  # the most nodes an axis: its matrices are dense
NOISY = 10.0  # standard deviations of noise in the source, relative to it: a residual that noise explains


@dataclass(frozen=True, eq=False)
class Attempt:
    """A problem solved on one layout.

    operator : linearised at the solution. residual : between the nodes, relative; score : with the misfit to boundary
    values; see the module docstring.
    """

    problem: Problem
    layout: Layout
    law: GridLaw
    operator: LinearOperator
    report: Report
    residual: float
    score: float
    history: tuple[float, ...] = ()
    converged: bool = True
    message: str = ""

    def solution(
        self, seconds: float, *, draws: int, generator: torch.Generator | None, noise: float = 0.0
    ) -> Solution:
        """What the user gets.

        Warns NotConverged where an iteration or the search has not reached its end.
        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        axes = self.law.grid.axes
        sizes = " x ".join(str(len(axis.basis.nodes)) for axis in axes)
        ranks = " x ".join(str(axis.basis.rank) for axis in axes)
        way = "direct" if self.operator.direct else f"GMRES, {self.report.iterations} iterations"
        condition = {f"kernel {name}": a.basis.condition for name, a in zip(self.problem.names, axes, strict=True)}
        condition["operator"] = self.operator.solver.condition
        complaint = " ".join(part for part in (self._complaint(noise), self.message) if part)
        if complaint:
            warnings.warn(f"{self.problem.name}: {complaint}", NotConverged, stacklevel=3)
        return Solution(
            self.problem,
            replace(self.law, spread=partial(self._spread, draws, generator, noise)),
            f"grid of {sizes} nodes, {ranks} functions of spectral mixtures of widths {self.layout}, Kronecker sum "
            f"({way})",
            condition,
            seconds,
            self.residual,
            self.history,
            not complaint,
            " ".join(part for part in (complaint, unused(self.problem)) if part),
        )

    def _complaint(self, noise: float) -> str:
        if not self.report.converged:
            steps = f"{self.report.iterations} steps"
            return f"GMRES stopped at a relative residual of {self.report.residual:.2g} after {steps}."
        points = mesh([axis.inner_nodes for axis in self.law.grid.axes])
        size = float(self.problem.source(points).square().mean().sqrt()) if noise else math.inf
        if not self.score <= max(POOR, NOISY * noise**0.5 / size):
            return (
                f"the residual between the nodes is {self.score:.2g} of the size of the equation's terms: the solution "
                "has parts that this grid does not resolve; take more nodes or narrower widths."
            )
        return ""

    def _spread(self, draws: int, generator: torch.Generator, noise: float) -> Spread:
        if noise:
            return noise_draws(self.operator, noise, draws, generator)
        return band(self.problem, self.law, self.layout, draws, generator)


def best_attempt(
    problem: Problem,
    nodes: int | Sequence[int] | None,
    widths: Sequence[tuple[float, float]],
    solve: Callable[[Problem, Layout, GridLaw | None], Attempt],
    *,
    noise: float = 0.0,
) -> Attempt:
    """The attempt with the least score; see the module docstring. Numbers of nodes that are given stay as they are.

    solve : the attempt on a layout, from an earlier solution if there is one.
    """
    require_box(problem)
    if not widths:
        raise ValueError("widths must hold at least one pair, such as (0.3, 0.3), got none")
    counts = _counts(problem, nodes)
    if not noise:  # which has waves of all frequencies
        warn_above_nyquist(problem, counts)
    found = tuple(frequencies(problem, Layout(counts, (), ()).places(problem)))
    attempts: list[Attempt] = []
    for pair in widths:
        attempts.append(solve(problem, Layout(counts, found, (pair,) * problem.dims), None))
        if attempts[-1].score < FINE or (nodes is None and not attempts[-1].converged):
            break
    best = min(attempts, key=lambda attempt: attempt.score)
    return best if noise or nodes is not None else _refined(best, solve)


def _counts(problem: Problem, nodes: int | Sequence[int] | None) -> tuple[int, ...]:
    counts = (nodes,) * problem.dims if isinstance(nodes, int) else tuple(nodes or choose_nodes(problem))
    if len(counts) != problem.dims or min(counts) < 8:
        raise ValueError(f"nodes must be at least 8 for each of {problem.dims} axes, got {nodes}")
    return counts


def _refined(best: Attempt, solve: Callable[[Problem, Layout, GridLaw | None], Attempt]) -> Attempt:
    """The best of the attempts on finer and finer grids."""
    problem, last, stalls = best.problem, best, 0
    for _ in range(ROUNDS):
        layout = _finer(last)
        if best.score <= COARSE or stalls == STALLS or layout is None:
            break
        last = solve(problem, layout, last.law if last.converged else None)
        stalls = 0 if last.score < GAIN * best.score or last.score > BLIND else stalls + 1
        best = last if last.score < best.score else best
    return best


def _finer(attempt: Attempt) -> Layout | None:
    """The next layout, or None where there is no room."""
    layout, C = attempt.layout, attempt.law.coefficients
    tails = []
    for j in range(C.ndim):
        along = C.movedim(j, 0)
        tails.append(float(along[3 * len(along) // 4 :].norm()))
    chosen = [tail >= SHARE * max(tails) and count < LONGEST for tail, count in zip(tails, layout.counts, strict=True)]
    counts = tuple(
        min(math.ceil(GROWTH * count), LONGEST) if grows else count
        for count, grows in zip(layout.counts, chosen, strict=True)
    )
    if not any(chosen) or math.prod(counts) > ROOM.get(C.ndim, 0):
        return None
    widths = tuple(
        (SPACINGS / (count - 1),) * 2 if grows else pair
        for pair, count, grows in zip(layout.widths, counts, chosen, strict=True)
    )
    values = attempt.law.on([axis.basis.nodes for axis in attempt.law.grid.axes], (0,) * C.ndim)
    own = strong_frequencies(values, [axis.basis.nodes for axis in attempt.law.grid.axes])
    found = tuple(torch.cat(pair) for pair in zip(layout.found, own, strict=True))
    return Layout(counts, found, widths)


def measure(problem: Problem, law: GridLaw) -> tuple[float, float]:
    """The relative residual between the nodes, and the score."""
    offset = [axis.offset for axis in law.grid.axes]
    X = mesh(offset)

    def derivative(orders: Orders) -> Tensor:
        return law.on(offset, orders).flatten()

    residual, size = problem.residual(X, derivative), problem.size(X, derivative)
    share = 0.0
    for j, row in enumerate(given_values(problem, law.grid, between=True)):
        axis = law.grid.axes[j]
        for c, values in zip(axis.conditions, row, strict=True):
            points = list(offset)
            points[j] = axis.basis.nodes[[0, -1]][c.end : c.end + 1]
            orders = tuple(c.order if k == j else 0 for k in range(len(offset)))
            gap = float((law.on(points, orders).squeeze(j) - values).square().mean())
            scale = float(law.on(offset, orders).square().mean())
            share = max(share, gap / scale if scale else 0.0)
    relative = float(residual.square().mean().sqrt()) / size if size else 0.0
    return relative, relative + share**0.5
