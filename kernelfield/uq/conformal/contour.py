"""Where a function on a grid crosses a level, as closed polygons: marching squares.

Each cell of the grid has four corners, below the level or above it, and thus sixteen kinds. Where the
level crosses an edge of a cell is found by linear interpolation, to the order of the cell's area.
Each crossing lies in two cells and is left once and reached once, so that polygons close.

Source: Lorensen & Cline (1987), "Marching Cubes", in two dimensions.
"""

import torch
from torch import Tensor

# Corners 1, 2, 4, 8 counterclockwise from the lower left; edges 0 to 3 from the lower one. What is below
# lies on the left of a step from edge to edge. Saddles are cut so that what is below stays apart.
STEPS = {
    1: ((0, 3),),
    2: ((1, 0),),
    3: ((1, 3),),
    4: ((2, 1),),
    5: ((0, 3), (2, 1)),
    6: ((2, 0),),
    7: ((2, 3),),
    8: ((3, 2),),
    9: ((0, 2),),
    10: ((1, 0), (3, 2)),
    11: ((1, 2),),
    12: ((3, 1),),
    13: ((0, 1),),
    14: ((3, 0),),
}


def outlines(values: Tensor, x: Tensor, y: Tensor, level: float) -> list[Tensor]:
    """Closed polygons (k, 2) around { values <= level }, counterclockwise, and clockwise around its holes.

    values (p, q) at x (p,) and y (q,), both increasing; what lies beyond the grid is above the level.

    >>> grid = torch.linspace(-2, 2, 41)
    >>> (circle,) = outlines(grid[:, None] ** 2 + grid ** 2, grid, grid, 1.0)
    >>> bool((circle.norm(dim=1) - 1).abs().max() < 0.01)
    True
    """
    framed = torch.nn.functional.pad(values, (1, 1, 1, 1), value=float("inf"))
    x, y = _framed(x), _framed(y)
    below = (framed <= level).long()
    kind = below[:-1, :-1] + 2 * below[1:, :-1] + 4 * below[1:, 1:] + 8 * below[:-1, 1:]
    follows: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for i, j in (kind % 15).nonzero().tolist():
        for start, end in STEPS[int(kind[i, j])]:
            follows[_edge(i, j, start)] = _edge(i, j, end)
    polygons = []
    while follows:
        first = edge = next(iter(follows))
        ring = []
        while True:
            ring.append(_crossing(edge, framed, x, y, level))
            edge = follows.pop(edge)
            if edge == first:
                break
        polygons.append(torch.stack(ring))
    return polygons


def _framed(axis: Tensor) -> Tensor:
    return torch.cat([2 * axis[:1] - axis[1:2], axis, 2 * axis[-1:] - axis[-2:-1]])


def _edge(i: int, j: int, side: int) -> tuple[int, int, int]:
    """An edge of cell (i, j) by its first corner and its direction: 0 along x, 1 along y."""
    return [(i, j, 0), (i + 1, j, 1), (i, j + 1, 0), (i, j, 1)][side]


def _crossing(edge: tuple[int, int, int], values: Tensor, x: Tensor, y: Tensor, level: float) -> Tensor:
    i, j, along = edge
    k, l = (i, j + 1) if along else (i + 1, j)  # noqa: E741, the second corner
    a, b = values[i, j], values[k, l]
    inner = a if a <= level else b  # beyond the grid the level is met at its border
    share = (level - a) / (b - a) if bool(a.isfinite() & b.isfinite()) else (0.0 if inner is a else 1.0)
    return torch.stack([x[i] + share * (x[k] - x[i]), y[j] + share * (y[l] - y[j])])
