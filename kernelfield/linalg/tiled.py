"""Products with matrices whose entries are computed tile by tile, and never kept.

    out_I += T V_J,    out_J += T' V_I,    T = K_IJ

A tile T of rows I and columns J is computed where it stays in the processor's caches, used, and overwritten by the
next one, so that memory is that of a few tiles beside inputs and answer. Of a symmetric matrix only the lower half
is computed, and each tile serves twice.

`Entries` say what a tile is computed from; `linalg.entries` has radial functions, inner products, and sums and
products of others, which are fused tile by tile. The slopes of F = sum_ij (A_i . B_j) K_ij take tiles alone as well:
G = A_I B_J' is what a tile's entries are worth, and entries know what that is worth in their `roots`, the numbers of
points and of the whole matrix that they are made of. Automatic differentiation takes it on from there.

Source: Charlier et al. (2021), "Kernel Operations on the GPU, with Autodiff, without Memory Overflows", for
products that are differentiated without their matrix.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BYTES = 2**19  # of a tile: a few of them fit into a core's second-level cache, and calls cost little beside one
DEVICE_BYTES = 2**26  # of a tile on an accelerator, which a small one would leave idle
ROWS = 256  # a tile is wide and low, so that little of the upper half is computed along the diagonal
DEVICE_ROWS = 2048
COARSE = 4  # times the rows and columns of a tile where a call is dear


class Lazy(NamedTuple):
    """How tensors enter a formula of lazy ones: row by row (n1, c), column by column (n2, c), or whole (c,)."""

    rows: Callable[[Tensor], Any]
    columns: Callable[[Tensor], Any]
    whole: Callable[[Tensor], Any]


class Entries(ABC):
    """The entries of a matrix between n1 and n2 points.

    roots : the tensors that they are made of, and may be differentiated in. shape : (n1, n2).
    symmetric : whether the n2 points are the n1; rows and columns of a tile are then the same or have none in common.
    passes : the price of a tile, in passes over it of an elementary operation. coarse : whether a call for one costs
    so much that tiles should be large. obstacle : why there is no `formula`; None if there is one.
    """

    roots: tuple[Tensor, ...]
    shape: tuple[int, int]
    symmetric: bool
    passes: float
    coarse = False
    obstacle: str | None = None

    @abstractmethod
    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Some entries (r, c); the caller may overwrite them, and the next call does."""

    def unscaled(self) -> "tuple[Entries, float]":
        """Entries that are these but for a factor, which costs less on a product than on each tile."""
        return self, 1.0

    @abstractmethod
    def pull(self, rows: slice, columns: slice, G: Tensor, slopes: list[Tensor]) -> None:
        """Add the slopes of sum(G o tile), G (r, c), to those in the roots; G may be overwritten."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """The entries (n,) of points with themselves, of a symmetric matrix."""

    @abstractmethod
    def formula(self, lazy: Lazy) -> Any:
        """The matrix as a formula of lazy tensors, differentiable in the roots, if there is no `obstacle`."""


class Scratch:
    """Arrays of a tile's shape, used again for the next: new memory would cost more than arithmetic."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.arrays: dict[int, Tensor] = {}

    def __call__(self, place: int, rows: slice, columns: slice) -> Tensor:
        """Array number `place`, of whatever values."""
        r, c = rows.stop - rows.start, columns.stop - columns.start
        held = self.arrays.get(place)
        if held is None or held.numel() < r * c:
            held = self.arrays[place] = self.like.new_empty(r * c)
        return held[: r * c].view(r, c)


def tiles(entries: Entries) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of the tiles that cover a matrix, or the lower half of a symmetric one."""
    n1, n2 = entries.shape
    step, width = _sizes(entries)
    for i in range(0, n1, step):
        rows = slice(i, min(i + step, n1))
        end = i if entries.symmetric else n2
        yield from ((rows, slice(j, min(j + width, end))) for j in range(0, end, width))
        if entries.symmetric:
            yield rows, rows


def _sizes(entries: Entries) -> tuple[int, int]:
    """Rows and columns of a tile: each thread works on a part of it that fits into its own caches."""
    like = entries.roots[0]
    on_cpu = like.device.type == "cpu"
    rows, size = (ROWS, BYTES * torch.get_num_threads()) if on_cpu else (DEVICE_ROWS, DEVICE_BYTES)
    if entries.coarse and on_cpu:
        rows, size = COARSE * rows, COARSE**2 * size
    return rows, max(1, size // (rows * like.element_size()))


def multiply(entries: Entries, V: Tensor) -> Tensor:
    """K V (n1, k) for V (n2, k); no graph.

    Errors: ValueError for a V of other rows or another precision than the entries'.
    """
    require_alike(entries, V, entries.shape[1])
    across, out = V.mT.contiguous(), V.new_zeros(V.shape[1], entries.shape[0])  # along the rows, see `linalg.thin`
    entries, factor = entries.unscaled()
    with torch.no_grad():
        for rows, columns in tiles(entries):
            T = entries.tile(rows, columns)
            out[:, rows].addmm_(across[:, columns], T.mT)
            if entries.symmetric and rows != columns:
                out[:, columns].addmm_(across[:, rows], T)
        return out.mul_(factor).mT


def multiply_transposed(entries: Entries, U: Tensor) -> Tensor:
    """K' U (n2, k) for U (n1, k); no graph."""
    if entries.symmetric:
        return multiply(entries, U)
    require_alike(entries, U, entries.shape[0])
    across, out = U.mT.contiguous(), U.new_zeros(U.shape[1], entries.shape[1])
    entries, factor = entries.unscaled()
    with torch.no_grad():
        for rows, columns in tiles(entries):
            out[:, columns].addmm_(across[:, rows], entries.tile(rows, columns))
        return out.mul_(factor).mT


def slopes(entries: Entries, A: Tensor, B: Tensor) -> list[Tensor]:
    """The slopes of sum(A o (K B)) in the roots, for A (n1, k) and B (n2, k); no graph."""
    require_alike(entries, A, entries.shape[0])
    require_alike(entries, B, entries.shape[1])
    found = [torch.zeros_like(root) for root in entries.roots]
    # A tile below the diagonal of a symmetric matrix stands for its mirror image too.
    left, right = (torch.cat([A, B], 1), torch.cat([B, A], 1)) if entries.symmetric else (A, B)
    with torch.no_grad():
        for rows, columns in tiles(entries):
            twice = entries.symmetric and rows != columns
            G = left[rows] @ right[columns].mT if twice else A[rows] @ B[columns].mT
            entries.pull(rows, columns, G, found)
    return found


def dense(entries: Entries) -> Tensor:
    """The matrix (n1, n2) itself; no graph."""
    K = entries.roots[0].new_empty(entries.shape)
    with torch.no_grad():
        for rows, columns in tiles(entries):
            K[rows, columns] = entries.tile(rows, columns)
            if entries.symmetric and rows != columns:
                K[columns, rows] = K[rows, columns].mT
        if entries.symmetric:
            K.diagonal().copy_(entries.diagonal())
    return K


def product(entries: Entries, V: Tensor) -> Tensor:
    """K V (n1, k) for V (n2, k), differentiable once in V and in the roots, in memory O(n k + a tile)."""
    return _Product.apply(entries, V, *entries.roots)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entries: Entries, V: Tensor, *roots: Tensor) -> Tensor:
        ctx.entries = entries
        ctx.save_for_backward(V)
        return multiply(entries, V)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (V,) = ctx.saved_tensors
        by_V = multiply_transposed(ctx.entries, grad) if ctx.needs_input_grad[1] else None
        if not any(ctx.needs_input_grad[2:]):
            return None, by_V, *(None for _ in ctx.entries.roots)
        return None, by_V, *slopes(ctx.entries, grad, V)


def require_alike(entries: Entries, V: Tensor, n: int) -> None:
    """Refuse a V of other than n rows, or of another precision than the entries'."""
    like = entries.roots[0]
    if V.ndim != 2 or len(V) != n:
        raise ValueError(
            f"a matrix between {' and '.join(map(str, entries.shape))} points multiplies {n} rows (n, k), "
            f"got an array of shape {tuple(V.shape)}"
        )
    if V.dtype != like.dtype:
        raise ValueError(f"the points are {like.dtype} and the array to multiply {V.dtype}; convert one of them")
