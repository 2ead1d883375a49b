"""Kernel matrices of architectures, tile by tile.

A tile of pairs goes through all layers while it is in the processor's cache; of a symmetric
matrix only the lower half is computed. The backward pass runs the layers of each tile again,
so that memory beyond inputs and result is that of one tile, whatever the depth.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernelfield.nets.algebra import Layer
from kernelfield.nets.points import Points, check_alike
from kernelfield.nets.stack import stacked, stacked_diagonal, unrolled
from kernelfield.nets.state import CovState, Wanted

Kind = Literal["nngp", "ntk"]
KINDS = ("nngp", "ntk")
TILE = 2**17  # pairs: fewer would cost more in calls than they save in the caches
SPACE_TILE = 2**18  # pairs of positions: with fewer, rows of points are short and operations small


def gram(
    arch: Layer, points1: Points, points2: Points | None = None, *, kind: Kind = "nngp", scales: Tensor | None = None
) -> Tensor:
    """The kernel matrix (*b, n1, n2) of a network, differentiable once in inputs and scales.

    points2: None for points1 with itself. scales (*b, k): replace those of the architecture, in
    the order of `arch.scales()`.

    Errors: ValueError for an unknown kind, an architecture that has no closed form, or inputs that
    cannot be compared.
    """
    return _evaluate(arch, points1, points2, kind, scales, paired=False)


def diagonal(
    arch: Layer, points1: Points, points2: Points | None = None, *, kind: Kind = "nngp", scales: Tensor | None = None
) -> Tensor:
    """The kernel (*b, n) of each point of points1 with itself, or with its partner in points2."""
    return _evaluate(arch, points1, points2, kind, scales, paired=True)[..., 0]


def _evaluate(
    arch: Layer, points1: Points, points2: Points | None, kind: Kind, scales: Tensor | None, *, paired: bool
) -> Tensor:
    if kind not in KINDS:
        raise ValueError(f"kind must be 'nngp' or 'ntk', got {kind!r}")
    arch.gaussian(False)
    if points2 is not None:
        check_alike(points1, points2, full=arch.wanted(Wanted(kind == "ntk")).full, paired=paired)
    if scales is None:
        scales = torch.tensor(arch.scales(), dtype=torch.float64, device=points1.x.device)
    batched = scales.ndim > 1 or points1.x.ndim > 2 or (points2 is not None and points2.x.ndim > 2)
    layers = None if batched else unrolled(arch.rebuild(iter(scales if scales.requires_grad else scales.tolist())))
    if layers is not None and not paired:
        return stacked(layers, points1, points2, tangent=kind == "ntk")
    if layers is not None and points2 is None:
        return stacked_diagonal(layers, points1, tangent=kind == "ntk")[:, None]
    if points1.space and scales.ndim > 1:  # space stands between the batch and the pairs: one at a time
        return _one_by_one(arch, points1, points2, kind, scales, paired=paired)
    problem = _Problem(arch, kind, points1, points2, paired)
    if paired and problem.rounds:
        return _evaluate(arch, points1.double(), None, kind, scales.double(), paired=True).to(points1.x)
    return _Gram.apply(points1.x, None if points2 is None else points2.x, scales, problem)


def _one_by_one(
    arch: Layer, points1: Points, points2: Points | None, kind: Kind, scales: Tensor, *, paired: bool
) -> Tensor:
    """The matrices of a batch of scales."""
    batch = torch.broadcast_shapes(scales.shape[:-1], *(p.batch for p in (points1, points2) if p is not None))
    first = points1.expand(batch)
    second = [None] * len(first) if points2 is None else points2.expand(batch)
    flat = scales.expand(*batch, -1).reshape(-1, scales.shape[-1])
    parts = [_evaluate(arch, p, q, kind, s, paired=paired) for p, q, s in zip(first, second, flat, strict=True)]
    return torch.stack(parts).unflatten(0, batch)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is asked for, beside the tensors that carry gradients."""

    arch: Layer
    kind: Kind
    points1: Points
    points2: Points | None
    paired: bool

    @property
    def other(self) -> Points:
        return self.points1 if self.points2 is None else self.points2

    @property
    def wanted(self) -> Wanted:
        return self.arch.wanted(Wanted(tangent=self.kind == "ntk"))

    @property
    def rounds(self) -> bool:
        """Whether the diagonal in single precision would show its rounding, and in double costs little."""
        return self.points1.x.dtype == torch.float32 and self.points2 is None and not self.wanted.full

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Blocks of rows and columns; of a symmetric matrix those up to the diagonal."""
        n1, n2 = len(self.points1), len(self.other)
        positions = math.prod(self.points1.columns.shape[-self.points1.space - 2 : -2])
        cell = positions**2 if self.wanted.full else positions
        step = max(1, math.isqrt((SPACE_TILE if cell > 1 else TILE) // cell))
        if self.paired:
            step = step**2
            yield from ((slice(i, min(i + step, n1)),) * 2 for i in range(0, n1, step))
            return
        for i in range(0, n1, step):
            for j in range(0, min(i + step, n2) if self.points2 is None else n2, step):
                yield slice(i, min(i + step, n1)), slice(j, min(j + step, n2))

    def tile(self, first: Points, second: Points, scales: Tensor, same: Tensor | None) -> Tensor:
        """One block (*b, r, c) of the result; (*b, r, 1) for pairs."""
        state = (CovState.of_pairs if self.paired else CovState.of_points)(first, second, self.wanted)
        state = replace(state, same=same)
        after = self._rebuilt(scales).propagate(state)
        if after.space:
            raise ValueError("the network ends with positions: add Flatten() or GlobalAvgPool() before its last layer")
        return after.covariance if after.tangent is None else after.tangent

    def same(self, rows: slice, columns: slice) -> Tensor | None:
        """Which pairs of a block are one input twice, if a layer wants to know."""
        if not self.wanted.same or self.points2 is not None:
            return None
        i, j = (torch.arange(s.start, s.stop, device=self.points1.x.device) for s in (rows, columns))
        return (i == j)[:, None] if self.paired else i[:, None] == j

    def _rebuilt(self, scales: Tensor) -> Layer:
        """The architecture with other scales, in shapes that broadcast against pairs."""
        if scales.ndim == 1:
            return self.arch.rebuild(iter(scales.unbind() if torch.is_grad_enabled() else scales.tolist()))
        return self.arch.rebuild(iter(scales[..., None, None].unbind(-3)))


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x1: Tensor, x2: Tensor | None, scales: Tensor, problem: _Problem) -> Tensor:
        ctx.save_for_backward(x1, x2, scales)
        ctx.problem = problem
        size = (len(problem.points1), 1 if problem.paired else len(problem.other))
        batches = [scales.shape[:-1], problem.points1.batch, problem.other.batch]
        result = x1.new_empty(*torch.broadcast_shapes(*batches), *size)
        for rows, columns in problem.tiles():
            tile = problem.tile(problem.points1[rows], problem.other[columns], scales, problem.same(rows, columns))
            if problem.paired:
                result[..., rows, :] = tile
            elif problem.points2 is not None:
                result[..., rows, columns] = tile
            else:
                result[..., columns, rows] = tile.mT
                result[..., rows, columns] = tile if rows != columns else tile.tril() + tile.tril(-1).mT
        if problem.rounds:
            own = _evaluate(problem.arch, problem.points1, None, problem.kind, scales, paired=True)
            result.diagonal(dim1=-2, dim2=-1).copy_(own[..., 0])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x1, x2, scales = ctx.saved_tensors
        problem: _Problem = ctx.problem
        symmetric, space = problem.points2 is None, problem.points1.space
        by_first, by_second, by_scales = ctx.needs_input_grad[:3]
        by_second = by_first if symmetric else by_second
        slope1, slope = torch.zeros_like(x1), torch.zeros_like(scales)
        slope2 = slope1 if x2 is None else torch.zeros_like(x2)
        for rows, columns in problem.tiles():
            G = grad[..., rows, slice(None) if problem.paired else columns]
            if symmetric and not problem.paired and rows != columns:
                G = G + grad[..., columns, rows].mT  # the lower half stands for both
            first = problem.points1[rows].detached(requires_grad=by_first)
            second = problem.other[columns].detached(requires_grad=by_second)
            leaf = scales.detach().requires_grad_(by_scales)
            with torch.enable_grad():
                tile = problem.tile(first, second, leaf, problem.same(rows, columns))
            places = [
                (Points(slope1, space)[rows].x, first.x),
                (Points(slope2, space)[columns].x, second.x),
                (slope, leaf),
            ]
            places = [(total, t) for total, t in places if t.requires_grad]
            if not tile.requires_grad:
                continue
            parts = torch.autograd.grad(tile, [t for _, t in places], G.expand_as(tile), materialize_grads=True)
            for (total, _), part in zip(places, parts, strict=True):
                total += part
        return (
            slope1 if by_first else None,
            slope2 if by_second and not symmetric else None,
            slope if by_scales else None,
            None,
        )
