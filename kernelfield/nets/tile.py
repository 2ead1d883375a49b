"""One tile of the kernel matrix of a plain stack: its values, and its gradients; see `stack`.

All arithmetic is in place. A forward pass that keeps nothing has seven arrays; one that keeps what
its gradient needs takes new ones for each layer.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernelfield.core.numerics import slow_functions
from kernelfield.nets.points import resolved
from kernelfield.nets.rectifiers import contact

BYTES = 2**19  # of an array: calls cost little beside it, and what a layer works on nearly stays in the caches
ROWS = 128  # a tile is wide and low: less of the upper half is computed along the diagonal


class Task(NamedTuple):
    program: tuple[str, ...]  # "copy", a dense layer without biases, "turn", one with, or "fold"
    tangent: bool
    kappas: list[float]  # of the folds


class Sides(NamedTuple):
    """What `stack` knows of the points of a tile's rows, then of its columns: r and c of them.

    Shapes: directions (r, d), standard deviations (r, 1), numbers of the k layers with biases (4 k, r).
    """

    u: Tensor
    std1: Tensor
    turns1: Tensor
    v: Tensor
    std2: Tensor
    turns2: Tensor

    def block(self, rows: slice, columns: slice) -> "Sides":
        first, second = (self.u[rows], self.std1[rows]), (self.v[columns], self.std2[columns])
        return Sides(*first, self.turns1[:, rows], *second, self.turns2[:, columns])

    def turns(self) -> list["_Turns"]:
        first, second = self.turns1[..., None].unbind(), self.turns2[:, None].unbind()
        return [_Turns(*first[k : k + 4], *second[k : k + 4]) for k in range(0, len(first), 4)]


class _Turns(NamedTuple):
    """What `dense.Turn` says of one layer, of rows (r, 1), then of columns (1, c)."""

    share1: Tensor
    bias1: Tensor
    sin1: Tensor
    cos1: Tensor
    share2: Tensor
    bias2: Tensor
    sin2: Tensor
    cos2: Tensor

    def both(self, out: Tensor) -> Tensor:
        """P."""
        return torch.mul(self.share1, self.share2, out=out)

    def between(self, out: Tensor) -> Tensor:
        """sin((phi_i - phi_j) / 2)."""
        return torch.mul(self.sin1, self.cos2, out=out).addcmul_(self.cos1, self.sin2, value=-1)


def _pairs(like: Tensor) -> int:
    """The most entries of a tile: at least a square of ROWS."""
    return max(BYTES // like.element_size(), ROWS**2)


class Desk:
    """Arrays of one tile's shape, used again for the next: new memory would cost more than arithmetic."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.arrays: list[Tensor] = []

    def clear(self, rows: int, columns: int) -> None:
        self.shape, self.taken = (rows, columns), 0

    def take(self) -> Tensor:
        rows, columns = self.shape
        if self.taken == len(self.arrays):
            self.arrays.append(self.like.new_empty(max(_pairs(self.like), rows * columns)))
        elif self.arrays[self.taken].numel() < rows * columns:
            self.arrays[self.taken] = self.like.new_empty(rows * columns)
        self.taken += 1
        return self.arrays[self.taken - 1][: rows * columns].view(rows, columns)

    def mirror(self, tile: Tensor) -> Tensor:
        """A tile transposed, in contiguous memory, where torch turns it block by block."""
        return self.take().view(tile.shape[::-1]).copy_(tile.mT)


def tiles(u: Tensor, v: Tensor | None) -> Iterator[tuple[slice, slice, int | None]]:
    """Blocks of rows and columns, and the diagonal of the block on which points meet themselves.

    Of a symmetric matrix there are those up to its diagonal.
    """
    n1, n2 = len(u), len(u if v is None else v)
    wide = _pairs(u) // ROWS**2 * ROWS  # a square of the diagonal is in one block
    for i in range(0, n1, ROWS):
        rows = slice(i, min(i + ROWS, n1))
        end = n2 if v is not None else rows.stop
        for j in range(0, end, wide):
            columns = slice(j, min(j + wide, end))
            yield rows, columns, i - j if v is None and columns.stop == end else None


def forwards(task: Task, sides: Sides, desk: Desk, offset: int | None, kept: list[Any] | None) -> Tensor:
    """The NTK or the correlations of a tile, in units of the standard deviations.

    offset: the diagonal of the tile on which points meet themselves. kept: takes what `backwards`
    needs to know of each layer.
    """
    desk.clear(len(sides.u), len(sides.v))
    cosine = torch.mm(sides.u, sides.v.mT, out=desk.take())
    if offset is not None:
        cosine.diagonal(offset).zero_()  # not worth a search for close points
    if kept is None and _stays_apart(task, sides, cosine):
        return _apart(task, sides, desk, cosine)
    unit = cosine.new_ones(())
    e = resolved(torch.sub(unit / 2, cosine, alpha=0.5, out=desk.take()), sides.u, sides.v)
    if offset is not None:
        e.diagonal(offset).zero_()
    N = desk.take().zero_() if task.tangent else e
    one, two, spare = desk.take(), desk.take(), desk.take()
    turns, folds = iter(sides.turns()), iter(task.kappas)
    torch.sub(unit, e, alpha=2, out=cosine)
    for step in task.program:
        if kept is not None and step != "copy":
            one, two = desk.take(), desk.take()
        e_after, N_after = (e, N) if kept is None else (desk.take(), desk.take() if task.tangent else N)
        if step == "fold":
            kappa = next(folds)
            half, sine = _half_angle(e, one, two, spare)
            record: tuple[Any, ...] = (e, N, half, sine)
            # Rounding may take e below zero where two points are one.
            e = torch.addcmul(e, half, cosine, value=kappa, out=e_after).sub_(sine, alpha=kappa).clamp_min_(0)
            if task.tangent:
                N = torch.addcmul(N, N, half, value=-2 * kappa, out=N_after)
        else:
            record = ()
            if step == "turn":
                numbers = next(turns)
                both, between = numbers.both(one), numbers.between(two)
                record = (e, N, both, between, numbers)
                e = torch.mul(e, both, out=e_after).addcmul_(between, between)
            torch.sub(unit, e, alpha=2, out=cosine)
            if task.tangent:
                scaled = step == "turn"
                N = torch.addcmul(cosine, N, both, out=N_after) if scaled else torch.add(N, cosine, out=N_after)
        if kept is not None:
            kept.append(record)
    return N if task.tangent else torch.sub(unit, e, alpha=2, out=cosine)


def _stays_apart(task: Task, sides: Sides, cosine: Tensor) -> bool:
    """Whether the angles of a tile are large enough, and stay so, for their cosines to say them.

    The smallest one stays the smallest while rectifiers keep the order of angles, as they do for
    kappa <= 1 / pi; those nearer to |u| fold the largest angles back.
    """
    if any(kappa * math.pi > 1 + 1e-6 for kappa in task.kappas):
        return False
    enough = torch.finfo(cosine.dtype).eps ** 0.25
    least, most = (float(v) for v in torch.aminmax(cosine))
    if (1 + least) / 2 < enough:
        return False
    least_shares = sides.turns1[::4].amin(1) * sides.turns2[::4].amin(1)
    e, shares, folds = (1 - most) / 2, iter(least_shares.tolist()), iter(task.kappas)
    for step in task.program:
        if step == "fold":
            half = math.asin(math.sqrt(max(e, 0)))
            e += next(folds) * (half * (1 - 2 * e) - math.sin(2 * half) / 2)
        elif step == "turn":
            e *= next(shares)
        if e < enough:
            return False
    return True


def _apart(task: Task, sides: Sides, desk: Desk, cosine: Tensor) -> Tensor:
    """`forwards` for a tile without close points, with fewer operations.

    A rectifier and the dense layer behind it are one step: with sigma = P (1 - kappa theta),

        rho <- sigma rho + P kappa sin theta + sin phi_i sin phi_j,    N <- rho + sigma N.
    """
    unit, one, two, three = cosine.new_ones(()), desk.take(), desk.take(), desk.take()
    turns, folds = iter(sides.turns()), iter(task.kappas)
    N: Tensor | None = None
    for fold, dense in _steps(task.program):
        numbers = next(turns) if dense == "turn" else None
        both = sigma = None if numbers is None else numbers.both(three)
        if fold:
            kappa = next(folds)
            theta, sine = _angle(cosine, one, two)
            if both is None:
                sigma = torch.add(unit, theta, alpha=-kappa, out=one)
                cosine.mul_(sigma).add_(sine, alpha=kappa)
            else:
                sigma = torch.addcmul(both, theta, both, value=-kappa, out=one)
                cosine.mul_(sigma).addcmul_(both, sine, value=kappa)
        elif both is not None:
            cosine.mul_(both)
        if numbers is not None:
            cosine.addcmul_(numbers.bias1, numbers.bias2)
        if N is None:
            N = desk.take().copy_(cosine) if task.tangent else None
        elif dense and sigma is not None:
            N = torch.addcmul(cosine, N, sigma, out=N)
        elif dense:
            N.add_(cosine)
        elif sigma is not None:
            N.mul_(sigma)
    return cosine if N is None else N


def _half_angle(e: Tensor, half: Tensor, sine: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
    """asin sqrt(e) and sqrt(e - e^2) for 0 <= e <= 1, half of an angle and half of its sine."""
    if not slow_functions():
        return torch.sqrt(e, out=half).asin_(), torch.addcmul(e, e, e, value=-1, out=sine).sqrt_()
    torch.sub(e.new_ones(()), e, out=sine).clamp_min_(0)
    root, other = _root(e, spare, half), _root(sine, spare, sine)
    torch.atan2(root, other, out=spare)
    other.mul_(root)
    return half.copy_(spare), other


def _root(x: Tensor, spare: Tensor, out: Tensor) -> Tensor:
    """sqrt(x) for x >= 0."""
    torch.clamp(x, min=torch.finfo(x.dtype).tiny, out=spare).rsqrt_()
    return torch.mul(x, spare, out=out)


def _angle(cosine: Tensor, theta: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """The angles of cosines strictly between -1 and 1, and their sines."""
    square = torch.addcmul(cosine.new_ones(()), cosine, cosine, value=-1, out=sine)
    if not slow_functions():
        return torch.acos(cosine, out=theta), square.sqrt_()
    sine = square.mul_(torch.rsqrt(square, out=theta))
    return torch.atan2(sine, cosine, out=theta), sine


def _steps(program: tuple[str, ...]) -> Iterator[tuple[bool, str]]:
    """Rectifiers with the dense layers behind them: whether there is one, and what the layer is, if any."""
    fold = False
    for step in program:
        if step != "fold":
            yield fold, step
        elif fold:
            yield True, ""
        fold = step == "fold"
    if fold:
        yield True, ""


def backwards(
    task: Task,
    sides: Sides,
    desk: Desk,
    kept: list[Any],
    G: Tensor,
    value: Tensor,
    *,
    by_inputs: bool,
    by_kappas: Tensor | None,
) -> tuple[Tensor | float, ...]:
    """Gradients of sum(G o K) in the points' numbers of a tile, in the order of `Sides`.

    G is overwritten, value is what `forwards` gave. by_inputs: whether the directions need theirs.
    by_kappas: takes the gradients in the kappas.
    """
    scratch, other = desk.take(), desk.take()
    weighted = torch.mul(G, value, out=scratch)
    by_std1, by_std2 = weighted @ sides.std2, weighted.mT @ sides.std1
    by_N = G.mul_(sides.std1).mul_(sides.std2.mT)
    by_e = desk.take().zero_() if task.tangent else by_N.mul_(-2)
    by_turns1, by_turns2, fold = torch.zeros_like(sides.turns1), torch.zeros_like(sides.turns2), len(task.kappas)
    k = len(by_turns1)
    for step in reversed(task.program):
        if task.tangent and step != "fold":
            by_e.sub_(by_N, alpha=2)
        record = kept.pop()
        if step == "turn":
            e, N, both, between, numbers = record
            by_both = torch.mul(by_e, e, out=scratch)
            by_both = by_both.addcmul_(by_N, N) if task.tangent else by_both
            by_between = between.mul_(by_e).mul_(2)
            k -= 4
            for totals, sign, matrix, (share, sin, cos) in (
                (by_turns1, 1, (by_both, by_between), (numbers.share2.mT, numbers.sin2.mT, numbers.cos2.mT)),
                (by_turns2, -1, (by_both.mT, by_between.mT), (numbers.share1, numbers.sin1, numbers.cos1)),
            ):
                totals[k] = (matrix[0] @ share)[:, 0]
                totals[k + 2 : k + 4] = (matrix[1] @ torch.cat([sign * cos, -sign * sin], 1)).mT
            by_e.mul_(both)
            if task.tangent:
                by_N.mul_(both)
        elif step == "fold":
            fold -= 1
            kappa = task.kappas[fold]
            e, N, half, sine = record
            through = torch.mul(by_N, N, out=scratch) if task.tangent else None
            if by_kappas is not None:
                chord = torch.addcmul(half, e, half, value=-2, out=other).sub_(sine)
                by_kappas[fold] += (by_e * chord).sum() - (0 if through is None else 2 * (through * half).sum())
            by_e.addcmul_(by_e, half, value=-2 * kappa)
            if through is not None:
                # The slope has a kink at e = 0; its symmetric derivative there is 0.
                if float(sine.min()) <= contact(sine):
                    sine.masked_fill_(sine <= contact(sine), torch.inf)
                by_e.addcdiv_(through, sine, value=-kappa)
                by_N.addcmul_(by_N, half, value=-2 * kappa)
    half_e = by_e.mul_(-0.5)
    by_u, by_v = (half_e @ sides.v, half_e.mT @ sides.u) if by_inputs else (0.0, 0.0)
    return by_u, by_std1, by_turns1, by_v, by_std2, by_turns2
