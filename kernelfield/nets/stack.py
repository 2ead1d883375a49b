"""Plain stacks of dense layers and rectifiers: the quick way to their kernel matrices.

What a layer does to a pair depends on its two points through a few numbers each: the angle phi
by which a bias turns a point, and at the end its standard deviation. They are computed once for
all points; a pair then takes, layer by layer, with P = cos phi_i cos phi_j,

    dense:      e <- P e + sin^2((phi_i - phi_j) / 2),    N <- 1 - 2 e + P N
    rectifier:  N <- (1 - kappa theta) N,    e <- e - kappa (sin theta - theta cos theta) / 2

where e is the haversine and N the NTK in units of the two standard deviations. Derivatives are
written out; those of the points' numbers in inputs and scales are left to autograd. Where a point
meets itself, e = 0 and these numbers say all: the diagonal is a sum over layers, in double
precision whatever the inputs'.

Sources: as for `dense` and `rectifiers`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernelfield.nets.algebra import Layer, Repeat, Serial
from kernelfield.nets.dense import Dense, biased, turn, weighed
from kernelfield.nets.points import Points, directions, size
from kernelfield.nets.rectifiers import Abs, Rectifier
from kernelfield.nets.tile import Desk, Sides, Task, backwards, forwards, tiles

Layers = tuple[Layer, ...]


def unrolled(arch: Layer) -> Layers | None:
    """The layers of a plain stack that begins with a dense one; None for other networks."""
    layers = _flat(arch)
    if not layers or not isinstance(layers[0], Dense):
        return None
    later = (step.w for step in layers[1:] if isinstance(step, Dense))
    return None if any(isinstance(w, tuple) for w in later) else layers


def _flat(arch: Layer) -> Layers | None:
    match arch:
        case Serial() | Repeat():
            blocks = arch.steps if isinstance(arch, Serial) else (arch.block,) * arch.times
            parts = [_flat(block) for block in blocks]
            return None if None in parts else tuple(step for part in parts for step in part or ())
        case Dense(width=None) | Rectifier() if not isinstance(arch, Abs):
            return (arch,)
        case _:
            return None


class Stack(NamedTuple):
    """What the matrix of a plain stack is made of: numbers of the points, of the layers, and its diagonal.

    Each of first and second, None for the first with themselves, has the three entries of a side of `Sides`.
    """

    first: tuple[Tensor, Tensor, Tensor]
    second: tuple[Tensor, Tensor, Tensor] | None
    kappas: Tensor
    diagonal: Tensor | None
    program: tuple[str, ...]
    tangent: bool


def prepared(layers: Layers, points1: Points, points2: Points | None, *, tangent: bool) -> Stack:
    """A plain stack between two sets of points, or of one with itself; differentiable in inputs and scales."""
    first = _numbers(layers, points1)
    second = None if points2 is None else _cast(*_numbers(layers, points2))
    diagonal = _diagonal(layers, *first[1:], tangent=tangent).detach() if second is None else None
    folds = [torch.as_tensor(s.kappa).to(points1.x) for s in layers if isinstance(s, Rectifier)]
    kappas = torch.stack(folds) if folds else points1.x.new_empty(0)
    return Stack(_cast(*first), second, kappas, diagonal, tuple(_step(layer) for layer in layers), tangent)


def stacked(layers: Layers, points1: Points, points2: Points | None, *, tangent: bool) -> Tensor:
    """The kernel matrix (n1, n2) of a plain stack, differentiable once in inputs and scales."""
    stack = prepared(layers, points1, points2, tangent=tangent)
    second = stack.second or (None,) * 3
    return _Stack.apply(*stack.first, *second, stack.kappas, stack.diagonal, stack.program, tangent)


def _cast(u: Tensor, std: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The points' numbers in the precision and the shapes of a tile."""
    return u, std[:, None].to(u), turns.to(u)


def stacked_diagonal(layers: Layers, points: Points, *, tangent: bool) -> Tensor:
    """The kernel (n,) of each point with itself."""
    return _diagonal(layers, *_numbers(layers, points)[1:], tangent=tangent).to(points.x)


def _diagonal(layers: Layers, std: Tensor, turns: Tensor, *, tangent: bool) -> Tensor:
    if not tangent:
        return std.square()
    total, shares = torch.zeros_like(std), iter(turns[::4])
    for layer in layers:
        if isinstance(layer, Dense):
            total = 1 + (total * next(shares).square() if biased(layer.b) else total)
    return total * std.square()


def _step(layer: Layer) -> str:
    match layer:
        case Dense(b=b):
            return "turn" if biased(b) else "copy"
        case _:
            return "fold"


def _numbers(layers: Layers, points: Points) -> tuple[Tensor, Tensor, Tensor]:
    """What pairs need of n points: directions (n, d), and in double precision the standard deviations
    (n,) after the last layer, and the four numbers of the `Turn` of each layer with biases (4 k, n).
    """
    first = layers[0]
    assert isinstance(first, Dense)
    if isinstance(first.w, tuple):
        points, layers = weighed(points, first.w), (Dense(1.0, first.b), *layers[1:])
    std, turns = size(points.x.double()), []
    for layer in layers:
        if isinstance(layer, Rectifier):
            std = std * layer.gain**0.5
            continue
        assert isinstance(layer, Dense) and not isinstance(layer.w, tuple)
        std = std * layer.w
        if biased(layer.b):
            std, *numbers = turn(std, layer.b)
            turns += numbers
    return directions(points), std, torch.stack(turns) if turns else std.new_empty(0, len(std))


class _Stack(torch.autograd.Function):
    """A tile at a time, forwards and backwards; of a symmetric matrix the lower half."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        std1: Tensor,
        turns1: Tensor,
        v: Tensor | None,
        std2: Tensor | None,
        turns2: Tensor | None,
        kappas: Tensor,
        diagonal: Tensor | None,
        program: tuple[str, ...],
        tangent: bool,
    ) -> Tensor:
        ctx.save_for_backward(u, std1, turns1, v, std2, turns2, kappas)
        whole, desk = _sides(u, std1, turns1, v, std2, turns2), Desk(u)
        ctx.task = task = Task(program, tangent, kappas.tolist())
        result = u.new_empty(len(u), len(whole.v))
        for rows, columns, offset in tiles(u, v):
            sides = whole.block(rows, columns)
            tile = forwards(task, sides, desk, offset, None).mul_(sides.std1)
            tile = torch.mul(tile, sides.std2.mT, out=result[rows, columns])
            if v is None:
                above = slice(columns.start, min(columns.stop, rows.start))
                mirrored = desk.mirror(tile)
                result[above, rows] = mirrored[: above.stop - above.start]
            if offset is not None:
                square = result[rows, rows]
                square.copy_(square.tril() + square.tril(-1).mT)
        if diagonal is not None:
            result.diagonal().copy_(diagonal)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, kappas = ctx.saved_tensors
        whole, symmetric = _sides(*tensors), tensors[3] is None
        slopes = Sides(*(torch.zeros_like(t) for t in whole))
        by_kappas = torch.zeros_like(kappas) if ctx.needs_input_grad[6] else None
        by_inputs = ctx.needs_input_grad[0] or ctx.needs_input_grad[3]
        desk = Desk(kappas)
        for rows, columns, offset in tiles(tensors[0], tensors[3]):
            sides = whole.block(rows, columns)
            kept: list[Any] = []
            value = forwards(ctx.task, sides, desk, offset, kept)
            G = desk.take().copy_(grad[rows, columns])
            if symmetric:  # the lower half stands for both; a square on the diagonal holds both itself
                G += grad[columns, rows].mT
            if offset is not None:
                G[:, offset:] *= 0.5
            part = backwards(ctx.task, sides, desk, kept, G, value, by_inputs=by_inputs, by_kappas=by_kappas)
            for total, slope in zip(slopes.block(rows, columns), part, strict=True):
                total += slope
        if symmetric:
            both = (s + t for s, t in zip(slopes[:3], slopes[3:], strict=True))
            return (*both, None, None, None, by_kappas, None, None, None)
        return (*slopes, by_kappas, None, None, None)


def _sides(*tensors: Tensor | None) -> Sides:
    first, second = tensors[:3], tensors[3:]
    return Sides(*first, *(first if second[0] is None else second))  # type: ignore[arg-type]
