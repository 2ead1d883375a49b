"""Where an equation is held to: a grid, the boundary of the domain, and points between for a check.

The grid is even along each axis and includes the sides; points outside of a masked domain are left
out. The boundary of a mask is found on the lines of the grid by bisection, so that a mask of any shape
needs no description of its edge.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.pde.problem import Field, Problem, evaluate

BISECTIONS = 50  # halve a cell to below rounding
NUDGE = 1e-9  # of the extent: how far inside of a side the mask is asked whether the side belongs to the domain


@dataclass(frozen=True, eq=False)
class Points:
    """interior (n, d); values and slopes: (points, targets) and (points, axis, targets) on the boundary.

    offset (k, d): midpoints of the cells, of which `kept` (one entry a cell, in the shape of the cells)
    are in the domain.
    """

    interior: Tensor
    values: tuple[Tensor, Tensor]
    slopes: tuple[tuple[Tensor, int, Tensor], ...]
    offset: Tensor
    kept: Tensor


def place(problem: Problem, counts: Sequence[int], device: torch.device) -> Points:
    """Points of a grid with these counts along the axes.

    Errors: ValueError for fewer than four points on an axis, or a mask without points.
    """
    if len(counts) != problem.dims or min(counts) < 4:
        raise ValueError(f"grid must hold at least 4 points for each of {problem.dims} axes, got {tuple(counts)}")
    ends = zip(problem.domain, counts, strict=True)
    axes = [torch.linspace(low, high, count, dtype=torch.double, device=device) for (low, high), count in ends]
    cells = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
    grid, offset = (_product(a) for a in (axes, cells))
    kept = _inside(problem, offset)
    within, sharp = _inside(problem, grid), _on_edge(problem, grid)
    interior = grid[within & ~sharp]
    if not len(interior) or not kept.any():
        raise ValueError(f"inside= of {problem.name} holds for no point of a grid of {tuple(counts)}; check its sign")
    values = [(face, fixed) for name, fixed in problem.sides.items() for face in [_face(problem, axes, name)]]
    if problem.inside is not None and callable(problem.boundary):
        values += [(edge, problem.boundary) for edge in (*_edges(problem, axes), grid[within & sharp])]
    slopes = [
        (face, problem.side(name)[0], evaluate(fixed, face, what=f"the slope on side {name}"))
        for name, fixed in problem.slopes.items()
        for face in [_face(problem, axes, name)]
    ]
    shape = [len(c) for c in cells]
    return Points(interior, _joined(problem, values, grid), tuple(slopes), offset[kept], kept.reshape(shape))


def _product(axes: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def _inside(problem: Problem, X: Tensor) -> Tensor:
    if problem.inside is None:
        return torch.ones(len(X), dtype=torch.bool, device=X.device)
    answer = problem.inside(X)
    if answer.shape != X.shape[:1] or answer.dtype != torch.bool:
        raise ValueError(f"inside= must give one bool a point, got {tuple(answer.shape)} of {answer.dtype}")
    return answer


def _on_edge(problem: Problem, X: Tensor) -> Tensor:
    """Whether a point of the mask has points outside of it at no distance, as at a re-entrant corner."""
    found = torch.zeros(len(X), dtype=torch.bool, device=X.device)
    if problem.inside is not None:
        low, high = X.new_tensor(problem.domain).unbind(-1)
        for signs in itertools.product((-1.0, 1.0), repeat=problem.dims):
            near = X + NUDGE * (high - low) * X.new_tensor(signs)
            found |= ~_inside(problem, torch.minimum(torch.maximum(near, low), high))
    return found


def _face(problem: Problem, axes: Sequence[Tensor], name: str) -> Tensor:
    """The points of the grid on a side, as far as the side belongs to the domain."""
    axis, at = problem.side(name)
    own = [a if d != axis else a.new_tensor([at]) for d, a in enumerate(axes)]
    face = _product(own)
    middle = face.new_tensor([(low + high) / 2 for low, high in problem.domain])
    return face[_inside(problem, face + NUDGE * (middle - face))]


def _edges(problem: Problem, axes: Sequence[Tensor]) -> list[Tensor]:
    """Points where lines of the grid cross the edge of the mask, found by bisection along each axis."""
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    answers = _inside(problem, grid.reshape(-1, len(axes))).reshape(grid.shape[:-1])
    found = []
    for axis in range(len(axes)):
        count = grid.shape[axis]
        crossing = answers.narrow(axis, 0, count - 1) != answers.narrow(axis, 1, count - 1)
        low, high = (grid.narrow(axis, start, count - 1)[crossing] for start in (0, 1))
        first = answers.narrow(axis, 0, count - 1)[crossing]
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            same = (_inside(problem, middle) == first)[:, None]
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        found.append(torch.where(first[:, None], low, high))
    return found


def _joined(problem: Problem, parts: Sequence[tuple[Tensor, Field]], grid: Tensor) -> tuple[Tensor, Tensor]:
    """All points with values, each once: a corner belongs to several sides."""
    if not parts:
        return grid[:0], grid[:0, 0]
    X = torch.cat([face for face, _ in parts])
    Y = torch.cat([evaluate(fixed, face, what=f"the boundary value of {problem.name}") for face, fixed in parts])
    extent = X.new_tensor([high - low for low, high in problem.domain])
    keys = (X / extent * 1e9).round()
    _, inverse = keys.unique(dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(X), device=X.device)
    first = first.scatter_reduce(0, inverse, torch.arange(len(X), device=X.device), "amin")
    return X[first], Y[first]


def weak_norm(problem: Problem, points: Points, residual: Tensor) -> float:
    """About the root mean square of the error of u that a residual (k,) at the offset points stands for.

    The residual is expanded in sines, and each divided by what the operator multiplies it by, with all
    terms taken as positive: slow parts of a residual matter far more to u than fast ones.
    """
    values = residual.new_zeros(points.kept.shape)
    values[points.kept] = residual
    waves = []
    for d, (low, high) in enumerate(problem.domain):
        count = values.shape[d]
        number = torch.arange(1, count + 1).to(residual)
        sines = torch.sin(torch.pi * number[:, None] * (number - 0.5) / count) * (2 / count) ** 0.5
        values = torch.tensordot(sines, values, dims=([1], [d])).movedim(0, d)
        waves.append(torch.pi * number / (high - low))
    symbol = torch.zeros_like(values)
    for term in problem.operator:
        size = float(term.at(points.offset).square().mean().sqrt())
        factors = [wave**order for wave, order in zip(waves, term.orders, strict=True)]
        for letter, factor in enumerate(factors):
            factors[letter] = factor.reshape([-1 if d == letter else 1 for d in range(len(waves))])
        symbol = symbol + size * torch.stack(torch.broadcast_tensors(*factors)).prod(0)
    least = float(symbol[symbol > 0].min()) if (symbol > 0).any() else 1.0
    return float((values / symbol.clamp_min(least)).norm() / residual.numel() ** 0.5)
