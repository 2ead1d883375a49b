"""What a fitted grid says at points anywhere: contractions of factors, never an n x q matrix.

For q points the cross-covariance with the n cells is a column-wise Kronecker product of crosses (m_i, q), one an
axis, so that a mean costs O(n q) multiplications in one matrix product and O(n q / m_a) numbers at
most. Where the points lie on a grid themselves, of u_1 x ... x u_a cells, each axis is contracted once
for all of them, in O(n u_i) operations, and the answer is looked up.

Joint draws of many points are made by Matheron's rule (`core.pathwise`) from a prior draw on the product of
the axes of the cells and the points together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.pathwise import Linear
from kernelfield.kernels.grid import GridKernel
from kernelfield.linalg.kronecker import Kronecker, at_points, contract, khatri_rao
from kernelfield.models.axes import Axes, distinct
from kernelfield.models.covariance import Lazy, matrix
from kernelfield.models.fields import root
from kernelfield.models.grid_evidence import System

SPREAD_OUT = 4  # times as many cells as points: beyond, points are taken one by one and not as a grid
JOINT = 128  # numbers whose joint draws come from a factored matrix whatever the structure
ROOM = 16  # times the cells and points together: the largest product of axes on which priors are drawn


@dataclass(frozen=True, eq=False)
class Query:
    """Points as places on axes of u_i points: axes (u_i, c_i), places (q,) each, and crosses (m_i, u_i).

    With coregionalised outputs the last cross is their matrix, and there is one entry for each point and output.
    """

    axes: tuple[Tensor, ...]
    places: tuple[Tensor, ...]
    crosses: tuple[Tensor, ...]

    @classmethod
    def of(cls, kernel: GridKernel, points: Sequence[Tensor], X: Tensor, coregion: Tensor | None) -> "Query":
        """Points X (q, d), seen from a grid with these points on its axes."""
        found = [distinct(x) for x in kernel.slices(X)]
        axes, places = [u for u, _ in found], [place for _, place in found]
        crosses = [matrix(k, p, u) for k, p, u in zip(kernel.axes, points, axes, strict=True)]
        if coregion is not None:
            m = len(coregion)
            places = [place.repeat_interleave(m) for place in places]
            places.append(torch.arange(m, device=X.device).repeat(len(X)))
            crosses.append(coregion)
        return cls(tuple(axes), tuple(places), tuple(crosses))

    @cached_property
    def cells(self) -> Tensor | None:
        """The number (q,) of each point's cell where the points are nearly a grid, or None."""
        sizes = [cross.shape[1] for cross in self.crosses]
        if math.prod(sizes) > SPREAD_OUT * len(self.places[0]):
            return None
        cells = torch.zeros_like(self.places[0])
        for place, size in zip(self.places, sizes, strict=True):
            cells = cells * size + place
        return cells

    def columns(self, chosen: Tensor | slice = slice(None)) -> list[Tensor]:
        """The crosses (m_i, q) of the points, or of those chosen."""
        return [cross[:, place[chosen]] for cross, place in zip(self.crosses, self.places, strict=True)]

    def contract(self, crosses: Sequence[Tensor], T: Tensor) -> Tensor:
        """sum over the grid of T (m_1, ..., m_a, *rest) times the crosses (m_i, u_i) at the points: (q, *rest)."""
        if self.cells is None:
            return at_points([cross[:, p] for cross, p in zip(crosses, self.places, strict=True)], T)
        whole = contract([cross.mT for cross in crosses], T)
        return whole.flatten(0, len(crosses) - 1)[self.cells]

    def mean(self, T: Tensor) -> Tensor:
        """k' T (q, k) for T (n, k)."""
        shape = [len(cross) for cross in self.crosses]
        if not T.shape[1]:
            return T.new_empty(len(self.places[0]), 0)
        return self.contract(self.crosses, T.reshape(*shape, -1))

    def reduction(self, solver: System) -> Tensor:
        """k' A^-1 k (q,)."""
        if self.cells is None or not isinstance(solver, Kronecker):
            return solver.variance_reduction(self.columns())
        squares = [(R @ cross).square() for R, cross in zip(solver.rotations, self.crosses, strict=True)]
        return self.contract(squares, solver.spectrum.reciprocal())


@dataclass(frozen=True, eq=False)
class Conditioned:
    """The scale matrix of functions on a grid at points X (*b, q, d), formed only where it is asked for.

        prior - k' A^-1 k + gap' (H' A^-1 H)^-1 gap + noise I,    once for each independent output

    scale multiplies the products of crosses: they are of the kernels of the axes alone. unsure (p, Q) is the
    half of the third term.
    """

    prior: Kernel
    X: Tensor
    query: Query
    solver: System
    unsure: Callable[[], Tensor]
    scale: float
    noise: float
    coregion: Tensor | None
    independent: int  # outputs

    @cached_property
    def _unsure(self) -> Tensor:
        return self.unsure()

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        prior = Lazy(self.prior, self.X).diagonal().reshape(-1)
        if self.coregion is not None:
            prior = torch.outer(prior, self.coregion.diagonal()).flatten()
        explained = self.scale**2 * self.query.reduction(self.solver)
        value = (prior - explained).clamp_min(0) + self._rounding * prior
        value = value + self._unsure.square().sum(0) + self.noise
        return value.reshape(*self.X.shape[:-2], -1).repeat_interleave(self.independent, -1)

    @property
    def _rounding(self) -> float:
        """Of a difference whose terms come from one contraction an axis, relative to them."""
        return sum(len(cross) for cross in self.query.crosses) * torch.finfo(self.X.dtype).eps

    def to_dense(self) -> Tensor:
        """The joint matrix (*b, q * m, q * m), point-major."""
        prior = Lazy(self.prior, self.X).to_dense()
        if self.coregion is not None:
            prior = _kron(prior, self.coregion)
        size = prior.shape[-1]
        explained = []
        for start in range(0, prior[..., 0, 0].numel() * size, size):
            explained.append(_reduction(self.solver, self.query.columns(slice(start, start + size))))
        unsure = self._unsure.unflatten(-1, (-1, size)).movedim(0, -2)
        value = prior - self.scale**2 * torch.stack(explained).reshape(prior.shape)
        value += (unsure.mT @ unsure).reshape(prior.shape)
        value.diagonal(dim1=-2, dim2=-1).add_(self._rounding * prior.diagonal(dim1=-2, dim2=-1) + self.noise)
        return _kron(value, torch.eye(self.independent).to(value))


def _reduction(solver: System, crosses: Sequence[Tensor]) -> Tensor:
    """k' A^-1 k (q, q) between all points of crosses (m_i, q)."""
    if isinstance(solver, Kronecker):
        return solver.reduction(crosses, crosses)
    k = solver.take(khatri_rao(crosses))
    return k.mT @ solver.solve(k)


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """The Kronecker products (*b, n m, n m) of left (*b, n, n) and right (m, m)."""
    joint = torch.einsum("...ij,kl->...ikjl", left, right)
    return joint.flatten(-4, -3).flatten(-2, -1)


def paths(
    kernel: GridKernel,
    grid: Axes,
    query: Query,
    coregion: Tensor | None,
    spread: Tensor,
    predict: Callable[[Tensor], Tensor],
    noise: float,
    independent: int,
) -> Linear | None:
    """Joint draws at the points of a query (*s, q, m) by Matheron's rule, or None where they need too large a grid.

    spread (n, 1), the std of the noise at each cell, zero where nothing was observed; predict, the universal kriging
    prediction (Q, k) of observations (n, k), which looks at observed cells alone.
    """
    pairs = zip(grid.points, query.axes, strict=True)
    joined = [distinct(torch.cat(pair)) for pair in pairs]
    sizes = [len(points) for points, _ in joined]
    here = [index[:m] for (_, index), m in zip(joined, grid.shape, strict=True)]
    there = [index[m:][place] for (_, index), m, place in zip(joined, grid.shape, query.places, strict=False)]
    if coregion is not None:
        sizes.append(len(coregion))
        here.append(torch.arange(len(coregion), device=spread.device))
        there.append(query.places[-1])
    n, q, cells = len(spread), len(there[0]), math.prod(sizes)
    if cells > ROOM * (n + q):
        return None
    roots = [root(matrix(k, points, points)) for k, (points, _) in zip(kernel.axes, joined, strict=True)]
    roots += [] if coregion is None else [root(coregion)]
    roots[0] = roots[0] * kernel.outputscale.sqrt()
    at = torch.zeros_like(there[0])
    for place, size in zip(there, sizes, strict=True):
        at = at * size + place
    widths = [count * independent for count in (cells, n, q if noise else 0)]

    def function(z: Tensor) -> Tensor:
        lead = z.shape[:-1]
        parts = z.reshape(-1, z.shape[-1]).split(widths, -1)
        samples = len(parts[0])
        prior, error, fresh = (part.mT.reshape(-1, independent * samples) for part in parts)
        field = contract(roots, prior.reshape(*sizes, -1))
        data = field
        for axis, index in enumerate(here):
            data = data.index_select(axis, index)
        deviation = field.flatten(0, len(sizes) - 1)[at] - predict(data.reshape(n, -1) + spread * error)
        if noise:
            deviation = deviation + math.sqrt(noise) * fresh
        # (q, outputs, samples); a coregionalised output is part of q already
        outputs = independent if coregion is None else len(coregion)
        return deviation.reshape(-1, outputs, samples).movedim(-1, 0).reshape(*lead, -1, outputs)

    return Linear(sum(widths), function)
