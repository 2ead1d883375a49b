"""Plain stacks of dense layers and rectifiers: the quick way to their kernel matrices.

What a layer does to a pair depends on its two points through a few numbers each: the angle phi
by which a bias turns a point, and at the end its standard deviation. They are computed once for
all points; a pair then takes, layer by layer, with P = cos phi_i cos phi_j,

    dense:      e <- P e + sin^2((phi_i - phi_j) / 2),    N <- 1 - 2 e + P N
    rectifier:  N <- (1 - kappa theta) N,    e <- e - kappa (sin theta - theta cos theta) / 2

where e is the haversine and N the NTK in units of the two standard deviations. Derivatives are
written out; those of the points' numbers in inputs and scales are left to autograd.

Sources: as for `dense` and `rectifiers`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernelfield.nets.algebra import Layer, Repeat, Serial
from kernelfield.nets.dense import Dense, biased, turn, weighed
from kernelfield.nets.points import Points, directions, haversine, size
from kernelfield.nets.rectifiers import Abs, Rectifier, contact

TILE = 2**18  # bytes of an array: those that a layer works on nearly stay in a second-level cache
ROWS = 64  # a tile is wide and low: operations that broadcast cost some time for each row
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


def stacked(layers: Layers, points1: Points, points2: Points | None, *, tangent: bool) -> Tensor:
    """The kernel matrix (n1, n2) of a plain stack, differentiable once in inputs and scales."""
    first = _numbers(layers, points1)
    second = (None, None, None) if points2 is None else _numbers(layers, points2)
    kappas = [torch.as_tensor(s.kappa).to(points1.x) for s in layers if isinstance(s, Rectifier)]
    task = _Task(tuple(_step(layer) for layer in layers), tangent)
    return _Stack.apply(*first, *second, torch.stack(kappas) if kappas else points1.x.new_empty(0), task)


def _step(layer: Layer) -> str:
    match layer:
        case Dense(b=b):
            return "turn" if biased(b) else "copy"
        case _:
            return "fold"


def _numbers(layers: Layers, points: Points) -> tuple[Tensor, Tensor, Tensor]:
    """What pairs need of n points: directions (n, d), standard deviations (n, 1) after the last
    layer, and the three numbers of the `Turn` of each layer with biases, together (n, 3 k).
    """
    first = layers[0]
    assert isinstance(first, Dense)
    if isinstance(first.w, tuple):
        points, layers = weighed(points, first.w), (Dense(1.0, first.b), *layers[1:])
    std, turns = size(points.x)[:, None], []
    for layer in layers:
        if isinstance(layer, Rectifier):
            std = std * layer.gain**0.5
            continue
        assert isinstance(layer, Dense) and not isinstance(layer.w, tuple)
        std = std * layer.w
        if biased(layer.b):
            std, *numbers = turn(std, layer.b)
            turns += numbers
    return directions(points), std, torch.cat(turns, 1).mT.contiguous() if turns else std.mT[:0]


class _Task(NamedTuple):
    program: tuple[str, ...]  # "copy", a dense layer without biases, "turn", one with, or "fold"
    tangent: bool


class _Sides(NamedTuple):
    """The points' numbers of both sides, see `_numbers`."""

    u: Tensor
    std1: Tensor
    turns1: Tensor
    v: Tensor
    std2: Tensor
    turns2: Tensor

    def block(self, rows: slice, columns: slice) -> "_Sides":
        first, second = (self.u[rows], self.std1[rows]), (self.v[columns], self.std2[columns])
        return _Sides(*first, self.turns1[:, rows], *second, self.turns2[:, columns])

    def turns(self) -> list[tuple[Tensor, ...]]:
        """cos phi, sin(phi / 2), cos(phi / 2) of each layer, for rows (r, 1), then for columns (1, c)."""
        first, second = self.turns1[..., None].unbind(), self.turns2[:, None].unbind()
        return [(*first[k : k + 3], *second[k : k + 3]) for k in range(0, len(first), 3)]


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
        task: _Task,
    ) -> Tensor:
        ctx.save_for_backward(u, std1, turns1, v, std2, turns2, kappas)
        ctx.task = task
        whole = _sides(u, std1, turns1, v, std2, turns2)
        result, scratch = u.new_empty(len(u), len(whole.v)), u.new_empty(4, TILE // u.element_size())
        for rows, columns in _tiles(u, v):
            tile = _tile(task, whole.block(rows, columns), kappas.tolist(), scratch)
            if v is None:
                result[columns, rows] = tile.mT
            result[rows, columns] = tile
            if v is None and columns.stop == rows.stop:
                square = result[rows, rows]
                square.copy_(square.tril() + square.tril(-1).mT)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *sides, kappas = ctx.saved_tensors
        whole, symmetric = _sides(*sides), sides[3] is None
        slopes = [torch.zeros_like(t) for t in whole[: 3 if symmetric else 6]]
        by_kappas = torch.zeros_like(kappas)
        for rows, columns in _tiles(sides[0], sides[3]):
            G = grad[rows, columns]
            if symmetric:  # the lower half stands for both; a square on the diagonal holds both itself
                G = G + grad[columns, rows].mT
                if columns.stop == rows.stop:
                    G[:, rows.start - columns.start :] *= 0.5
            parts = _pull(ctx.task, whole.block(rows, columns), kappas.tolist(), G, by_kappas)
            for place, totals, part in ((rows, slopes[:3], parts[:3]), (columns, slopes[-3:], parts[3:])):
                totals[0][place] += part[0]
                totals[1][place] += part[1]
                totals[2][:, place] += part[2]
        return (*slopes, *[None] * (6 - len(slopes)), by_kappas, None)


def _sides(*tensors: Tensor | None) -> _Sides:
    first, second = tensors[:3], tensors[3:]
    return _Sides(*first, *(first if second[0] is None else second))  # type: ignore[arg-type]


def _tiles(u: Tensor, v: Tensor | None) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows and columns; of a symmetric matrix those up to the diagonal."""
    n1, n2 = len(u), len(u if v is None else v)
    wide = max(1, TILE // u.element_size() // ROWS**2) * ROWS  # a square of the diagonal is in one block
    for i in range(0, n1, ROWS):
        stop = min(i + ROWS, n1)
        for j in range(0, stop if v is None else n2, wide):
            yield slice(i, stop), slice(j, min(j + wide, stop if v is None else n2))


def _tile(task: _Task, sides: _Sides, kappas: list[float], scratch: Tensor) -> Tensor:
    """One block of the result. Works in place: every pass over new memory would cost as much again."""
    e = haversine(sides.u, sides.v).clamp_(0, 1)
    N, one, two, cosine = (s[: e.numel()].view(e.shape) for s in scratch)
    N.zero_()
    unit = e.new_ones(())
    turns, folds = iter(sides.turns()), iter(kappas)
    torch.sub(unit, e, alpha=2, out=cosine)
    for step in task.program:
        if step == "fold":
            kappa = next(folds)
            half = torch.sqrt(e, out=one).asin_()
            sine = torch.addcmul(e, e, e, value=-1, out=two).sqrt_()
            # Rounding may take e below zero where two points are one.
            e.addcmul_(half, cosine, value=kappa).sub_(sine, alpha=kappa).clamp_min_(0)
            if task.tangent:
                N.addcmul_(N, half, value=-2 * kappa)
            continue
        if step == "turn":
            share1, sin1, cos1, share2, sin2, cos2 = next(turns)
            both = torch.mul(share1, share2, out=one)
            between = torch.mul(sin1, cos2, out=two).addcmul_(cos1, sin2, value=-1)
            e.mul_(both).addcmul_(between, between)
        torch.sub(unit, e, alpha=2, out=cosine)
        if task.tangent:
            N = torch.addcmul(cosine, N, both, out=N) if step == "turn" else N.add_(cosine)
    if not task.tangent:
        torch.sub(unit, e, alpha=2, out=N)
    return N.mul_(sides.std1).mul_(sides.std2.mT)


def _pull(task: _Task, sides: _Sides, kappas: list[float], G: Tensor, by_kappas: Tensor) -> tuple[Tensor, ...]:
    """Gradients of sum(G o K) in the points' numbers of a block; those in kappas are added up."""
    e = haversine(sides.u, sides.v)
    N = torch.zeros_like(e)
    kept: list[Any] = []
    turns, folds = iter(sides.turns()), iter(kappas)
    for step in task.program:
        if step == "fold":
            kappa = next(folds)
            half = e.sqrt().asin_()
            sine = torch.addcmul(e, e, e, value=-1).clamp_min_(0).sqrt_()
            chord = torch.addcmul(half, e, half, value=-2).sub_(sine)
            kept.append((e, N, half, sine, chord))
            e = torch.add(e, chord, alpha=kappa).clamp_min_(0)
            N = torch.addcmul(N, N, half, value=-2 * kappa) if task.tangent else N
            continue
        if step == "turn":
            numbers = next(turns)
            share1, sin1, cos1, share2, sin2, cos2 = numbers
            both, between = share1 * share2, torch.addcmul(sin1 * cos2, cos1, sin2, value=-1)
            kept.append((e, N, both, between, numbers))
            e = torch.addcmul(e * both, between, between)
            N = N * both if task.tangent else N
        if task.tangent:
            N = torch.sub(N, e, alpha=2).add_(1)

    value = N if task.tangent else 1 - 2 * e
    weighted = G * value
    by_std1, by_std2 = weighted @ sides.std2, weighted.mT @ sides.std1
    by_value = G * sides.std1 * sides.std2.mT
    by_e, by_N = (torch.zeros_like(e), by_value) if task.tangent else (-2 * by_value, N)
    by_turns1, by_turns2, fold = [], [], len(kappas)
    for step in reversed(task.program):
        if task.tangent and step != "fold":
            by_e = torch.sub(by_e, by_N, alpha=2)
        if step == "turn":
            e, N, both, between, (share1, sin1, cos1, share2, sin2, cos2) = kept.pop()
            by_both = torch.addcmul(by_e * e, by_N, N) if task.tangent else by_e * e
            by_between = 2 * between * by_e
            by_turns1 += [-by_between @ sin2.mT, by_between @ cos2.mT, by_both @ share2.mT]
            by_turns2 += [by_between.mT @ sin1, -by_between.mT @ cos1, by_both.mT @ share1]
            by_e, by_N = by_e * both, by_N * both if task.tangent else N
        elif step == "fold":
            fold -= 1
            kappa = kappas[fold]
            e, N, half, sine, chord = kept.pop()
            by_kappas[fold] += (by_e * chord).sum()
            slope = torch.rsub(half, 1, alpha=2 * kappa)
            by_e = by_e * slope
            if task.tangent:
                by_slope = by_N * N
                by_kappas[fold] -= 2 * (by_slope * half).sum()
                # The slope has a kink at e = 0; its symmetric derivative there is 0.
                by_e.sub_(torch.where(sine > contact(e), by_slope / sine, 0), alpha=kappa)
                by_N = by_N * slope
    half_e = -0.5 * by_e
    return (
        half_e @ sides.v,
        by_std1,
        _in_order(by_turns1, sides.turns1),
        half_e.mT @ sides.u,
        by_std2,
        _in_order(by_turns2, sides.turns2),
    )


def _in_order(columns: list[Tensor], turns: Tensor) -> Tensor:
    """The gradients (n, 1) of the turns, found from the last to the first, as rows."""
    return torch.cat(columns[::-1], 1).mT if columns else torch.zeros_like(turns)
