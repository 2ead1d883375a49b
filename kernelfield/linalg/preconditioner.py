"""Preconditioners of low rank: P = F F' + D for A = K + D, from some rows of K and its diagonal.

A partial Cholesky factor of K for the pivots S has F F' = K[:, S] K[S, S]^-1 K[S, :], and what it leaves,
E = K - F F', is positive semidefinite with a known diagonal. The pivots are chosen

    random     with probability diag E / tr E (randomly pivoted Cholesky), in blocks: candidates are drawn from
               the diagonal as it was at the start of a block and accepted with probability (diagonal now /
               diagonal then), which leaves their law that of one at a time
    pivoted    where diag E is largest, up to the factor GREED (the greedy choice, without chance)
    nystrom    uniformly

and none needs more than its rows of K: O(n r) entries and n r^2 operations. With G = D^-1/2 F the inverse is

    P^-1 = D^-1/2 (I - Q Q') D^-1/2,    Q = G L^-T,    L L' = I + G'G,

the Woodbury identity in orthogonal form; it is accurate as F is graded, its columns falling in size. An indefinite
preconditioner ends conjugate gradients, so all of this is in double precision, whatever the vectors are.

Grids have a better preconditioner, the Kronecker product itself at separable noise: `kronecker.Kronecker`,
which answers the same questions (`iterative.Preconditioner`), its leading eigenvectors (`leading`) or its
nearest cells (`nearest`).

Sources: Chen, Epperly, Tropp & Webber (2025), Randomly pivoted Cholesky; Epperly, Tropp & Webber (2024), Embrace
rejection: kernel matrix approximation by accelerated randomly pivoted Cholesky; Harbrecht, Peters & Schneider
(2012), On the low-rank approximation by the pivoted Cholesky decomposition; Williams & Seeger (2001), Using the
Nystroem method to speed up kernel machines.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kernelfield.linalg.thin import thin

Choice = Literal["random", "pivoted", "nystrom"]
Rows = Callable[[Tensor], Tensor]  # indices (r,) to rows (r, n) of K

BLOCK = 128  # candidates at a time: enough for matrix products to be fast, few enough for most to be accepted
GREED = 0.9  # a pivot's share of the largest diagonal, at the least
LEAST = 1e3  # times eps and its diagonal entry, below which what is left of an entry is rounding
LEVEL = 1e-8  # share of the largest diagonal below which a pivot would amplify rounding
FIRST = 64  # rank from which `grow` doubles
STORED = 50.0  # operations of a matrix product in the time that reading a number takes


def low_rank(
    rows: Rows,
    diagonal: Tensor,
    rank: int,
    *,
    how: Choice = "random",
    generator: torch.Generator | None = None,
) -> Tensor:
    """F (n, r) in double precision with K ~ F F', from rows and the diagonal (n,) of K.

    r is less than `rank` where K is F F' to rounding before. The first columns are the factor of lower rank.

    Errors: ValueError for a rank outside of 1 to n, and where K holds NaN or a negative diagonal.

    >>> K = torch.ones(5, 5, dtype=torch.float64)
    >>> low_rank(lambda index: K[index], K.diagonal(), 3, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([5, 1])
    """
    if not 1 <= rank <= len(diagonal):
        raise ValueError(f"rank must be between 1 and the {len(diagonal)} rows of the matrix, got {rank}")
    partial = _Partial(rows, diagonal, how, generator)
    partial.grow(rank)
    return partial.F.mT


@dataclass(frozen=True, eq=False)
class Grown:
    """F (n, r) whose rank was chosen, why in a sentence, and the products that a solve is expected to take."""

    F: Tensor
    iterations: float
    reason: str


def grow(
    rows: Rows,
    diagonal: Tensor,
    noise: float,
    *,
    entry: float = STORED,
    columns: int = 1,
    tolerance: float = 1e-4,
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> Grown:
    """F of a rank that is worth its cost: doubled while the products it is expected to save cost more.

    With e = |E|_F^2 / tr E, an eigenvalue of what is left, weighted by itself, conjugate gradients take about

        m = sqrt(1 + e / noise) log(2 / tolerance) / 2

    products. e comes with the pivots: these are drawn with probabilities E_ii / tr E, so the mean of |E_i|^2 / E_ii
    over them estimates it. The rank goes from r to 2 r where m(r)^2 / m(r / 2), what m(2 r) is if it falls on as it
    fell, saves more operations than are added,

        product  n^2 max(entry, 2 columns)    build  3 n r^2    precondition  2 n r max(STORED, 2 columns).

    entry : cost of an entry of K in a product in units of one operation of a matrix product: STORED for one that
    is read from memory, some hundreds for one that is computed afresh. columns : solved at a time. most : rank.

    Errors: ValueError as `low_rank`, and unless the noise is positive.

    >>> K = torch.ones(600, 600, dtype=torch.float64)
    >>> found = grow(lambda index: K[index], K.diagonal(), 1.0, generator=torch.Generator().manual_seed(0))
    >>> found.F.shape[1], found.reason
    (1, 'rank 1 of 600: nothing is left above rounding')
    """
    if not noise > 0:
        raise ValueError(f"noise must be positive for a preconditioner, got {noise:g}")
    n = len(diagonal)
    most = n if most is None else min(most, n)
    product, each = n * n * max(entry, 2.0 * columns), 2.0 * n * max(STORED, 2.0 * columns)
    partial, taken = _Partial(rows, diagonal, "random", generator), list[float]()
    rank = min(FIRST, most)
    while True:
        partial.grow(rank)
        used = len(partial.F)
        taken.append(max(1.0, math.sqrt(1 + partial.typical / noise) * math.log(2 / tolerance) / 2))
        if used < rank:
            return Grown(partial.F.mT, taken[-1], f"rank {used} of {n}: nothing is left above rounding")
        if rank >= most:
            return Grown(partial.F.mT, taken[-1], f"rank {used} of {n}: the most that was allowed")
        wider = min(2 * rank, most)
        # Before there is a trend, a rank is as good as its square root.
        fall = taken[-1] / taken[-2] if len(taken) > 1 else 0.5**0.5
        saved = taken[-1] - max(1.0, taken[-1] * min(fall, 1.0))
        cost = 3.0 * n * (wider**2 - rank**2) + each * ((taken[-1] - saved) * wider - taken[-1] * rank)
        if saved * product <= cost:
            reason = (
                f"rank {used} of {n}: {wider} would save {saved:.1f} of about {taken[-1]:.0f} products, "
                f"and costs as much as {cost / product:.1f}"
            )
            return Grown(partial.F.mT, taken[-1], reason)
        rank = wider


class _Partial:
    """A partial Cholesky factor under way."""

    def __init__(self, rows: Rows, diagonal: Tensor, how: Choice, generator: torch.Generator | None) -> None:
        if how not in ("random", "pivoted", "nystrom"):
            raise ValueError(f"how must be 'random', 'pivoted' or 'nystrom', got {how!r}")
        if not (diagonal >= 0).all():
            raise ValueError(
                f"the diagonal of a kernel matrix must not be negative or NaN, got {diagonal.min().item():g}; "
                "check the inputs and the kernel's hyperparameters"
            )
        self.rows, self.how, self.generator = rows, how, generator
        self.left = diagonal.double().clone()  # of E
        self.least = LEAST * torch.finfo(diagonal.dtype).eps * self.left  # below it, a difference is rounding
        self.F = self.left.new_empty(0, len(self.left))  # transposed
        self.typical = self.left.sum().item()  # |E|_F^2 / tr E; where nothing is known, its bound

    def grow(self, rank: int) -> None:
        """Add pivots up to a rank, or until nothing is left above rounding."""
        F, used = self.left.new_empty(rank, len(self.left)), len(self.F)
        F[:used] = self.F
        while used < rank:
            self.left = torch.where(self.left > self.least, self.left, 0.0)
            if not self.left.any():
                self.typical = 0.0
                break
            candidates = self._candidates()
            row = self.rows(candidates).double()
            E = row[:, candidates] - F[:used, candidates].mT @ F[:used, candidates]
            accepted, L = self._eliminate(E, candidates, rank - used)
            pivots = candidates[accepted]
            new = row[accepted].addmm_(F[:used, pivots].mT, F[:used], alpha=-1)
            self.typical = (new.square().sum(1) / E.diagonal()[accepted]).mean().item()
            new = torch.linalg.solve_triangular(L, new, upper=False, out=new)
            F[used : used + len(pivots)] = new
            used += len(pivots)
            self.left.sub_(new.square_().sum(0)).index_fill_(0, pivots, 0.0)
            if not (self.left.isfinite().all() and E.isfinite().all()):
                raise ValueError(
                    "the kernel matrix holds NaN or infinite values; check the inputs and the kernel's hyperparameters"
                )
            if self.how == "nystrom":  # what was passed over stays so
                self.left.index_fill_(0, candidates, 0.0)
        self.F = F[:used]

    def _candidates(self) -> Tensor:
        match self.how:
            case "random":
                total = self.left.cumsum(0)
                size = min(BLOCK, len(total))
                where = torch.searchsorted(total, self._uniform(size) * total[-1])
                return where.clamp_max_(int(self.left.nonzero()[-1]))
            case "pivoted":
                return self.left.topk(min(BLOCK, int((self.left > 0).sum()))).indices
            case "nystrom":
                among = self.left.nonzero()[:, 0]
                return among[self._uniform(len(among)).argsort()[:BLOCK]]

    def _eliminate(self, E: Tensor, candidates: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Which candidates (a,) become pivots, in their order, and the Cholesky factor (a, a) of E among them."""
        E, least = E.cpu(), torch.maximum(self.least[candidates], LEVEL * self.left.max()).cpu()
        bars = least.new_zeros(len(E))
        if self.how == "random":
            bars = (self._uniform(len(E)) * self.left[candidates]).cpu()
        elif self.how == "pivoted":
            bars.fill_(GREED * self.left.index_fill(0, candidates, 0.0).max().item())
            bars.clamp_(max=float(E.diagonal().max()) / 2)  # the first of all is always taken
        least = torch.maximum(bars, least)
        left, L, accepted = E.diagonal().clone(), torch.zeros_like(E), list[int]()
        for i in range(len(E)):
            j = int(left.argmax()) if self.how == "pivoted" else i
            if not left[j] > least[j]:
                continue
            a = len(accepted)
            column = (E[:, j] - L[:, :a] @ L[j, :a]) / left[j].sqrt()
            L[:, a] = column
            left -= column.square()
            left[j] = 0.0
            accepted.append(j)
            if len(accepted) == most:
                break
        index = torch.tensor(accepted, dtype=torch.long)
        return index.to(candidates.device), L[index, : len(accepted)].tril().to(candidates.device)

    def _uniform(self, k: int) -> Tensor:
        device = "cpu" if self.generator is None else self.generator.device
        return torch.rand(k, dtype=torch.float64, device=device, generator=self.generator).to(self.left.device)


@dataclass(frozen=True, eq=False)
class LowRankPlusDiagonal:
    """P = F F' + diag(noise) = L L', with L = D^1/2 (I + G G')^1/2: O(n r^2) once, O(n r) a question.

    Shapes: F (n, r), noise a number or (n,). Vectors (n, k) of either precision; answers have theirs.

    Errors: ValueError unless the noise is positive.

    >>> P = LowRankPlusDiagonal(torch.tensor([[1.0], [1.0]]), 2.0)
    >>> P.solve(torch.ones(2, 1)).flatten().tolist(), round(P.logdet().exp().item(), 6)
    ([0.25, 0.25], 8.0)
    """

    F: Tensor
    noise: Tensor | float

    def __post_init__(self) -> None:
        if not self.spread.min() > 0:
            raise ValueError(f"noise must be positive for a preconditioner, got {self.spread.min().item():g}")

    def solve(self, B: Tensor) -> Tensor:
        """P^-1 B."""
        Y, L = self._parts
        Z = B.double() / self._root
        return ((Z - thin(Y, torch.cholesky_solve(thin(Y.mT, Z), L))) / self._root).to(B)

    def whiten(self, B: Tensor) -> Tensor:
        """L^-1 B."""
        return self._along(B.double() / self._root, -1 / (1 + self._inner[1])).to(B)

    def unwhiten(self, B: Tensor) -> Tensor:
        """L^-T B, so that unwhiten(whiten(B)) = solve(B)."""
        return (self._along(B.double(), -1 / (1 + self._inner[1])) / self._root).to(B)

    def colour(self, z: Tensor) -> Tensor:
        """L z: a draw with covariance P for standard normal z (n, k)."""
        t = self._inner[1]
        return (self._along(z.double(), 1 / (t * (1 + t))) * self._root).to(z)

    def multiply(self, B: Tensor) -> Tensor:
        """P B."""
        F, Z = self.F.double(), B.double()
        return (thin(F, thin(F.mT, Z)) + self.spread[:, None] * Z).to(B)

    def trace(self, apply: Callable[[Tensor], Tensor], diagonal: Tensor) -> float:
        """tr P^-1 A for A known by its products and its diagonal (n,): r columns of products.

        With it, `iterative.log_determinant` has a fraction of its error.
        """
        Y, L = self._parts
        total = (diagonal.double() / self.spread).sum()
        for columns in torch.eye(len(L)).to(L).split(BLOCK, 1):
            W = Y @ torch.linalg.solve_triangular(L.mT, columns, upper=True) / self._root
            total -= (W * apply(W.to(diagonal)).double()).sum()
        return total.item()

    def logdet(self) -> Tensor:
        """log det P, in nats."""
        return self.spread.log().sum() + 2 * self._parts[1].diagonal().log().sum()

    @property
    def diagonal(self) -> Tensor:
        """The diagonal (n,) of P."""
        return self.F.double().square().sum(1) + self.spread

    def inverse_diagonal(self) -> Tensor:
        """The diagonal (n,) of P^-1."""
        return 1 / self.spread - self.columns.square().sum(1)

    @property
    def columns(self) -> Tensor:
        """W (n, r) with P^-1 = D^-1 - W W'."""
        Y, L = self._parts
        return torch.linalg.solve_triangular(L, Y.mT, upper=False).mT / self._root

    def _along(self, Z: Tensor, weights: Tensor) -> Tensor:
        """Z + Q V diag(weights) V' Q' Z."""
        Y, L = self._parts
        V = self._inner[0]
        inner = V.mT @ torch.linalg.solve_triangular(L, thin(Y.mT, Z), upper=False)
        return Z + thin(Y, torch.linalg.solve_triangular(L.mT, V @ (weights[:, None] * inner), upper=True))

    @cached_property
    def spread(self) -> Tensor:
        """The noise (n,)."""
        return torch.as_tensor(self.noise, dtype=torch.float64, device=self.F.device).expand(len(self.F))

    @cached_property
    def _root(self) -> Tensor:
        return self.spread.sqrt()[:, None]

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor]:
        """Y (n, r) and L (r, r) with Q = Y L^-T and L L' = I + Y'Y."""
        Y = self.F.double() / self._root
        M = Y.mT @ Y
        M.diagonal().add_(1)
        return Y, torch.linalg.cholesky(M)

    @cached_property
    def _inner(self) -> tuple[Tensor, Tensor]:
        """V (r, r) and t (r,) with I - Q'Q = V t^2 V'."""
        L = self._parts[1]
        _, t, turned = torch.linalg.svd(torch.linalg.solve_triangular(L.mT, torch.eye(len(L)).to(L), upper=True))
        return turned.mT, t
