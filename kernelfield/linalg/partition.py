"""The rows of a kernel matrix, shared out among ranks.

Rank r of w has the rows R_r of K (n, n). Every rank has all points X (n, d), which are few numbers, and
all right-hand sides, and the answers are put together so that every rank has the same:

    K V = [K(X_1, X) V; ...; K(X_w, X) V]                     gathered: n k numbers
    K(Z, X) V = [K(Z_1, X) V; ...]                            gathered: q k numbers, the queries Z being shared out
    d sum(A o K B) = sum over r of d sum(A_r o K(X_r, X) B)   summed: p numbers

An iteration on vectors, such as conjugate gradients, is then done by every rank in the same way; what
would have cost n^2 costs n^2 / w. A rank keeps its rows, n^2 / w numbers, where they fit into the memory of its
machine and enough products are to come, and computes them for each product else.

Source: Wang et al. (2019), Exact Gaussian processes on a million data points, section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from kernelfield.core.numerics import MEMORY_SHARE, free_memory
from kernelfield.linalg.product import KernelProduct
from kernelfield.linalg.ranks import Ranks
from kernelfield.linalg.thin import thin

WORTH = 3  # products from which on it is worth while to keep rows, as reading them is a few times quicker
BLOCK = 256  # rows that are computed at once to be kept


class Rectangular(KernelProduct, Protocol):
    """A kernel matrix whose products with other points can be differentiated too."""

    def pull_cross(self, X: Tensor, A: Tensor, B: Tensor) -> list[Tensor]:
        """The gradient of sum(A o (K(X, points) B)), A (q, k) and B (n, k), in the order of `pull`."""


@dataclass(frozen=True, eq=False)
class Partition:
    """A kernel matrix at X (n, d), each rank of which multiplies its rows; made by `partition`.

    local : what one rank can do alone. kept : this rank's rows (r, n), or None.

    Errors: RankLost, of all methods but `diagonal`.
    """

    local: Rectangular
    X: Tensor
    ranks: Ranks
    kept: Tensor | None
    reason: str
    method = "distributed"

    def __call__(self, V: Tensor) -> Tensor:
        piece = self.local.cross(self._own, V) if self.kept is None else thin(self.kept, V)
        return self.ranks.gather(piece, len(self.X))

    def rows(self, index: Tensor) -> Tensor:
        return self._shared(index, self.local.rows)

    @cached_property
    def diagonal(self) -> Tensor:
        return self.ranks.broadcast(self.local.diagonal)

    def cross(self, X: Tensor, V: Tensor) -> Tensor:
        return self._shared(X, lambda part: self.local.cross(part, V))

    def pull(self, A: Tensor, B: Tensor) -> list[Tensor]:
        return self.ranks.sums(self.local.pull_cross(self._own, A[self.ranks.rows(len(self.X))], B))

    @cached_property
    def _own(self) -> Tensor:
        return self.X[self.ranks.rows(len(self.X))]

    def _shared(self, rows: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """What rows have for an answer, each rank asking for some; rows too few to share are asked for by all."""
        if len(rows) < self.ranks.world:
            return self.ranks.broadcast(ask(rows))
        return self.ranks.gather(ask(rows[self.ranks.rows(len(rows))]), len(rows))


def partition(local: Rectangular, X: Tensor, ranks: Ranks, *, products: int = 100) -> Partition:
    """Share out the matrix of a kernel at X (n, d), of which `local` is what one rank can do alone.

    products : how many are expected.

    Errors: ValueError for more ranks than rows.

    >>> from types import SimpleNamespace
    >>> from kernelfield.linalg.ranks import ALONE
    >>> X = torch.tensor([[0.0], [1.0], [2.0]])
    >>> K = torch.exp(-torch.cdist(X, X))
    >>> whole = partition(SimpleNamespace(rows=lambda index: K[index]), X, ALONE)
    >>> torch.equal(whole(X), K @ X), whole.reason
    (True, 'each of 1 ranks keeps its 3 rows of the matrix, 3.35e-08 GiB')
    """
    n, own = len(X), ranks.rows(len(X))
    count = own.stop - own.start
    size = X.element_size() * count * n
    room = MEMORY_SHARE * free_memory(X.device) / (2 * ranks.neighbours)  # half of it is left to vectors and tiles
    whole = Partition(local, X, ranks, None, "")
    if products < WORTH or size > room:
        why = (
            f"{size / 2**30:.3g} GiB would not fit" if size > room else f"{products} products are too few to keep them"
        )
        return replace(whole, reason=f"each of {ranks.world} ranks computes its {count} rows for each product: {why}")
    kept = X.new_empty(count, n)
    index = torch.arange(own.start, own.stop, device=X.device)
    for part, place in zip(index.split(BLOCK), kept.split(BLOCK), strict=True):
        place.copy_(local.rows(part))
    return replace(
        whole,
        kept=kept,
        reason=f"each of {ranks.world} ranks keeps its {count} rows of the matrix, {size / 2**30:.3g} GiB",
    )
