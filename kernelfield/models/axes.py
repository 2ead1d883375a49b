"""Grids found in tables of points: the axes, the cell of each row, missing cells and repeated rows.

A table of n rows is a grid where its rows lie on the product of the values that each axis takes: m_1 x ... x m_a
cells, some of which may be missing. An axis is one column, or several that move together, such
as longitude and latitude of stations. Values of a column that differ by less than a share of its span are one value.

Rows of one cell are merged into their weighted mean, which has the sum W of their weights. That is exact:
with R = sum w (y - mean)^2,

    prod_i N(y_i | f, s / w_i) = N(mean | f, s / W) sqrt(prod w_i / W) (2 pi s)^((1 - rows) / 2) exp(-R / 2s).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import require_memory
from kernelfield.kernels.grid import Columns, checked_columns, in_turn

TOLERANCE = 1e-6  # of the span of a column: below it two values are one; single precision resolves 1e-7
FULL_ENOUGH = 0.5  # a table with more than this share of the cells is a grid whatever its size
LEAST_SHARE = 0.02  # of the cells: with fewer, a grid of mostly missing cells costs more than its rows
LEAST_ROWS = 2  # a value on an axis, on average: scattered points have one row a value
FEW_PAIRS = 4  # times fewer pairs of values of two columns than there could be: they move together
ANYWHERE = "another model, such as Process (gp on the command line), which takes points anywhere"
VECTORS = 12  # of one number a cell and output, alive at once in a fit


@dataclass(frozen=True, eq=False)
class Axes:
    """A product of point sets: points (m_i, c_i) of each axis and the columns of X that they fill."""

    points: tuple[Tensor, ...]
    columns: Columns

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(points) for points in self.points)

    @property
    def cells(self) -> int:
        return math.prod(self.shape)

    def rows(self, cells: Tensor | None = None) -> Tensor:
        """The points (n, d) of all cells, the last axis fastest, or of those given by number (n,)."""
        first = self.points[0]
        numbers = torch.arange(self.cells, device=first.device) if cells is None else cells
        X = first.new_empty(len(numbers), 1 + max(c for own in self.columns for c in own))
        for points, own, place in zip(self.points, self.columns, self.unravel(numbers), strict=True):
            X[:, list(own)] = points[place]
        return X

    def unravel(self, cells: Tensor) -> list[Tensor]:
        """The place on each axis of cells given by number."""
        places = []
        for size in reversed(self.shape):
            places.append(cells % size)
            cells = cells // size
        return places[::-1]

    def ravel(self, places: Sequence[Tensor]) -> Tensor:
        """The numbers of cells given by their place on each axis."""
        cells = torch.zeros_like(places[0])
        for place, size in zip(places, self.shape, strict=True):
            cells = cells * size + place
        return cells


@dataclass(frozen=True, eq=False)
class Cells:
    """Observations on the cells of a grid.

    values (n, m), zero where missing; observed (n, m); weight (n,) of the noise's precision, None for ones;
    rows, the number of rows that were merged; scatter, R of the module docstring summed over cells and outputs;
    log_weights, the sum over the rows of log w less that over the cells of log W.
    """

    axes: Axes
    values: Tensor
    observed: Tensor
    weight: Tensor | None
    rows: int
    scatter: float = 0.0
    log_weights: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether no cell is missing."""
        return bool(self.observed.all())

    @property
    def present(self) -> Tensor:
        """The cells (n,) with any observation."""
        return self.observed.any(-1)

    @property
    def points(self) -> Tensor:
        """The points (k, d) of the cells with any observation."""
        return self.axes.rows(self.present.nonzero()[:, 0])

    def data(self) -> Data:
        """The observed cells as rows, merged ones as one.

        Errors: ValueError where an output is missing from a cell that another one has.
        """
        present = self.present
        if not bool((self.observed == present[:, None]).all()):
            raise ValueError("a table has no place for cells of which some outputs are missing; use values, observed")
        weight = None if self.weight is None else self.weight[present]
        return Data(self.points, self.values[present], weight)


def recognise(
    X: Tensor, columns: Sequence[int | Sequence[int]] | None = None, tolerance: float = TOLERANCE
) -> tuple[Axes, Tensor]:
    """The grid on which the rows of X (n, d) lie, and the number (n,) of the cell of each.

    columns : the columns of each axis, in the order of the axes; None is one axis a column, and then a
    table with few rows a value, or few of the cells, is refused.

    Errors: ValueError for a table that is no grid, with its sizes and the remedy; for an axis of one point; for
    columns that do not fit.

    >>> axes, cells = recognise(torch.tensor([[0.0, 5.0], [1.0, 5.0], [0.0, 7.0], [1.0, 7.0], [2.0, 5.0]]))
    >>> axes.shape, cells.tolist()
    ((3, 2), [0, 2, 1, 3, 4])
    """
    chosen = checked_columns(range(X.shape[1]) if columns is None else columns)
    if sorted(c for own in chosen for c in own) != list(range(X.shape[1])):
        raise ValueError(
            f"the axes {list(chosen)} must hold each of the {X.shape[1]} columns of the inputs once; "
            "put columns that move together, such as the coordinates of a place, into one axis"
        )
    points, places = [], []
    for own in chosen:
        labels, values = zip(*(_levels(X[:, c], tolerance) for c in own), strict=True)
        codes, place = torch.unique(torch.stack(labels, -1), dim=0, return_inverse=True)
        points.append(torch.stack([value[codes[:, i]] for i, value in enumerate(values)], -1))
        places.append(place)
    axes = Axes(tuple(points), chosen)
    cells = axes.ravel(places)
    for own, size in zip(chosen, axes.shape, strict=True):
        if size < 2:
            raise ValueError(
                f"the axis of columns {list(own)} has one point, {_shown(axes.points[chosen.index(own)][0])}, and an "
                "axis needs at least two; leave out columns that are constant"
            )
    if columns is None:
        _require_grid(X, axes, len(cells.unique()), places)
    return axes, cells


def distinct(X: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows (k, d) of X (n, d), ascending, and the number (n,) of each: a quicker torch.unique.

    >>> distinct(torch.tensor([[2.0, 1.0], [0.0, 5.0], [2.0, 1.0]]))
    (tensor([[0., 5.],
            [2., 1.]]), tensor([1, 0, 1]))
    """
    order = torch.arange(len(X), device=X.device)
    for column in X.flip(1).unbind(1):
        order = order[column[order].argsort(stable=True)]
    ordered = X[order]
    fresh = torch.cat([order.new_ones(min(1, len(X))), (ordered[1:] != ordered[:-1]).any(1).long()])
    number = torch.empty_like(order)
    number[order] = fresh.cumsum(0) - 1
    return ordered[fresh.bool()], number


def _levels(x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The number of the level of each entry of x (n,), and the levels, ascending."""
    ordered, order = x.sort()
    width = tolerance * (ordered[-1] - ordered[0])
    starts = torch.cat([x.new_zeros(1, dtype=torch.long), (ordered.diff() > width).long().cumsum(0)])
    first = torch.cat([starts.new_ones(1, dtype=torch.bool), starts.diff() > 0])
    last = torch.cat([first[1:], first.new_ones(1)])
    labels = torch.empty_like(starts)
    labels[order] = starts
    return labels, (ordered[first] + ordered[last]) / 2


def _require_grid(X: Tensor, axes: Axes, distinct: int, places: list[Tensor]) -> None:
    share = distinct / axes.cells
    if share > FULL_ENOUGH:
        return
    together = _together(axes, distinct, places)
    if share >= LEAST_SHARE and LEAST_ROWS * max(axes.shape) <= distinct and not together:
        return
    sizes = " x ".join(str(size) for size in axes.shape)
    advice = together or f"use {ANYWHERE}"
    raise ValueError(
        f"the {distinct} distinct rows are no grid: their columns take {sizes} different values, and a grid of "
        f"them has {axes.cells} cells, of which {100 * share:.2g}% are there; {advice}"
    )


def _together(axes: Axes, distinct: int, places: list[Tensor]) -> str:
    """The advice to make one axis of two columns, where that leaves few cells missing."""
    for i, first in enumerate(places):
        for j in range(i + 1, len(places)):
            pairs = len((first * axes.shape[j] + places[j]).unique())
            rest = axes.cells // (axes.shape[i] * axes.shape[j])
            tied = FEW_PAIRS * pairs <= axes.shape[i] * axes.shape[j]
            if tied and rest > 1 and distinct > FULL_ENOUGH * pairs * rest:
                others = [(c,) for c in range(len(places)) if c not in (i, j)]
                return (
                    f"columns {i} and {j} come in {pairs} pairs, so they may be one axis: GridProcess("
                    f"axes={[(i, j), *others]}); or use {ANYWHERE}"
                )
    return ""


def _shown(point: Tensor) -> str:
    return ", ".join(f"{value:g}" for value in point.tolist())


def gather(data: Data, columns: Sequence[int | Sequence[int]] | None = None, tolerance: float = TOLERANCE) -> Cells:
    """The rows of a table as cells of the grid that they lie on; see `recognise`."""
    axes, cells = recognise(data.X, columns, tolerance)
    return place(axes, cells, data)


def place(axes: Axes, cells: Tensor, data: Data) -> Cells:
    """Rows as observations on the cells (n,) of known axes; rows of one cell are merged."""
    n, m = axes.cells, data.Y.shape[1]
    require_memory(
        VECTORS * n * m * data.Y.element_size(),
        data.X.device,
        what=f"a grid of {n} cells",
        remedy="use fewer points on its axes, or another model",
    )
    counts = torch.bincount(cells, minlength=n)
    observed = (counts > 0)[:, None].expand(n, m)
    values = data.Y.new_zeros(n, m)
    if counts.max() == 1:
        values[cells] = data.Y
        weight = None
        if data.weight is not None:
            weight = data.weight.new_ones(n)
            weight[cells] = data.weight
        return Cells(axes, values, observed, weight, len(cells))
    each = data.Y.new_ones(len(cells)) if data.weight is None else data.weight
    total = each.new_zeros(n).index_add_(0, cells, each)
    weight = torch.where(counts > 0, total, 1.0)
    values.index_add_(0, cells, each[:, None] * data.Y).div_(weight[:, None])
    scatter = (each[:, None] * (data.Y - values[cells]).square()).sum().item()
    log_weights = (each.log().sum() - weight.log().sum()).item()
    return Cells(axes, values, observed, weight, len(cells), scatter, log_weights)


def tabulate(axes: Sequence[Tensor], values: Tensor) -> Cells:
    """Cells from the points of each axis, (m_i,) or (m_i, c_i), and values (*shape) or (*shape, m), NaN where missing.

    Errors: ValueError for values of another shape, an axis of one point or with repeated points, no value at all,
    an infinite one.

    >>> tabulate([torch.arange(2.0), torch.arange(3.0)], torch.full((2, 3), 1.5)).whole
    True
    """
    points = [torch.as_tensor(p).to(values) for p in axes]
    points = [p[:, None] if p.ndim == 1 else p for p in points]
    shape = tuple(len(p) for p in points)
    if tuple(values.shape[: len(shape)]) != shape or values.ndim not in (len(shape), len(shape) + 1):
        raise ValueError(
            f"the axes have {shape} points, and values the shape {tuple(values.shape)}; values need one entry a "
            "cell, in the order of the axes, and may have a last axis for several outputs"
        )
    for i, p in enumerate(points):
        if p.ndim != 2 or not p.isfinite().all():
            raise ValueError(f"axis {i} must hold finite points (m,) or (m, c), got the shape {tuple(p.shape)}")
        if len(p) < 2:
            raise ValueError(f"axis {i} has {len(p)} points, and an axis needs at least two; drop it")
        if len(torch.unique(p, dim=0)) < len(p):
            raise ValueError(f"axis {i} holds a point twice among its {len(p)}; give each point once")
    columns = in_turn([p.shape[1] for p in points])
    table = values.reshape(math.prod(shape), -1)
    observed = ~table.isnan()
    if not observed.any():
        raise ValueError(f"all {observed.numel()} values are missing; give at least one that is not NaN")
    if table.isinf().any():
        raise ValueError(f"values hold {int(table.isinf().sum())} infinite entries; remove them or make them NaN")
    return Cells(Axes(tuple(points), columns), table.nan_to_num(0.0), observed, None, int(observed.any(-1).sum()))
