"""A Cholesky factor in single precision, as a preconditioner of a system in double precision.

    P = F F' + L L',    L L' = A - F F' + shift + E,    A = K + diag(noise),

is made in half the memory and half the time of a factor in double precision, and its rounding E does no harm to a
solve by iterations. A partial Cholesky factor F of K (`preconditioner.low_rank`) takes the leading eigenvalues away
first, so that L only rounds what is left, which is smaller by orders of magnitude. The shift is of the size of
rounding in the largest eigenvalue of that, without which the factor may break down. The eigenvalues of P^-1 A lie
between about noise / (noise + shift) and little more than one, so that few iterations are left whatever the kernel.
Where a factor of low rank alone leaves hundreds, because the noise is small and the spectrum decays slowly, this is
quicker, as long as n^2 single numbers fit. With G = L^-1 F,

    P = L (I + G G') L',

so that the questions to P are those to a triangular matrix and to `LowRankPlusDiagonal`.

L is read as it is, but products with it are in double precision, panel by panel: P is then exactly symmetric,
and log|P| exactly its determinant.

Sources: Higham (2002), "Accuracy and Stability of Numerical Algorithms", section 10.1; Carson & Higham (2018),
"Accelerating the Solution of Linear Systems by Iterative Refinement in Three Precisions".
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal, low_rank
from kernelfield.linalg.product import KernelProduct
from kernelfield.linalg.thin import thin

RANK = 256  # of F, at most: L^-1 F takes a few hundredths of the time that L takes for the rows that it is for
LEAST_SHARE = 8  # rows a column of F
PANEL = 512  # columns of a panel: matrix products are then most of the work
BLOCK = 1024  # rows of a panel that are in double precision at once, within a core's caches
POWERS = 6  # products that estimate the largest eigenvalue
MARGIN = 8.0  # shifts by which P may exceed A where that counts: the shift itself and E; 3.7 is the most that was seen
GROWTH = 4.0  # of the shift where the factor breaks down
TRIES = 6


@dataclass(frozen=True, eq=False)
class Triangle:
    """Lower L (n, n) in float32, whose upper triangle is not read, and questions to it in double precision."""

    factor: Tensor

    def divide(self, B: Tensor) -> Tensor:
        """L^-1 B for B (n, k)."""
        X = B.clone()
        for start in range(0, len(X), PANEL):
            here = slice(start, start + PANEL)
            X[here] = torch.linalg.solve_triangular(self._part(here, here), X[here], upper=False)
            for below in _blocks(start + PANEL, len(X)):
                X[below].sub_(thin(self._part(below, here), X[here]))
        return X

    def divide_transposed(self, B: Tensor) -> Tensor:
        """L^-T B."""
        X = B.clone()
        for start in reversed(range(0, len(X), PANEL)):
            here = slice(start, start + PANEL)
            for below in _blocks(start + PANEL, len(X)):
                X[here].sub_(thin(self._part(below, here).mT, X[below]))
            X[here] = torch.linalg.solve_triangular(self._part(here, here).mT, X[here], upper=True)
        return X

    def multiply(self, B: Tensor) -> Tensor:
        """L B."""
        X = torch.empty_like(B)
        for start in range(0, len(B), PANEL):
            here = slice(start, start + PANEL)
            X[here] = self._part(here, here).tril() @ B[here]
            for before in _blocks(0, start):
                X[here].add_(thin(self._part(here, before), B[before]))
        return X

    def logdet(self) -> Tensor:
        return self.factor.diagonal().double().log().sum()

    def _part(self, rows: slice, columns: slice) -> Tensor:
        return self.factor[rows, columns].double()


def _blocks(start: int, end: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, end)) for first in range(start, end, BLOCK))


@dataclass(frozen=True, eq=False)
class SingleFactor:
    """P = L (I + G G') L' = L Q Q' L' for a triangle L and a matrix I + G G' = Q Q'; `least` is below all of P^-1 A.

    >>> class Identity:
    ...     diagonal = torch.ones(3, dtype=torch.float64)
    ...     rows = staticmethod(lambda index: torch.eye(3, dtype=torch.float64)[index])
    ...     __call__ = staticmethod(lambda V: V)
    >>> P = SingleFactor.of(Identity(), torch.ones(3, dtype=torch.float64))
    >>> [round(x, 5) for x in P.solve(torch.ones(3, 1, dtype=torch.float64)).flatten().tolist()]
    [0.5, 0.5, 0.5]
    """

    triangle: Triangle
    inner: LowRankPlusDiagonal
    least: float

    @classmethod
    def of(cls, product: KernelProduct, spread: Tensor) -> "SingleFactor":
        """The factor of K + diag(spread), spread (n,), with the least shift of a ladder that succeeds.

        Errors: NotPositiveDefinite where none does.
        """
        n = len(spread)
        F = low_rank(product.rows, product.diagonal, max(1, min(RANK, n // LEAST_SHARE)), how="pivoted")
        shift = torch.finfo(torch.float32).eps * _largest(product, spread, F)
        for _ in range(TRIES):
            L = Triangle(_assembled(product, spread + shift, F))
            if _factored(L.factor):
                noise = spread.min().item()
                return cls(L, LowRankPlusDiagonal(L.divide(F), 1.0), noise / (noise + MARGIN * shift))
            shift *= GROWTH
        raise NotPositiveDefinite(
            f"the kernel matrix has no Cholesky factor in single precision, even with {shift / GROWTH:.2g} added to "
            "its diagonal; check the inputs and the kernel's hyperparameters"
        )

    def solve(self, B: Tensor) -> Tensor:
        """P^-1 B for B (n, k)."""
        return self.triangle.divide_transposed(self.inner.solve(self.triangle.divide(B.double()))).to(B)

    def whiten(self, B: Tensor) -> Tensor:
        """(L Q)^-1 B."""
        return self.inner.whiten(self.triangle.divide(B.double())).to(B)

    def unwhiten(self, B: Tensor) -> Tensor:
        """(L Q)^-T B, so that unwhiten(whiten(B)) = solve(B)."""
        return self.triangle.divide_transposed(self.inner.unwhiten(B.double())).to(B)

    def colour(self, z: Tensor) -> Tensor:
        """L Q z: a draw with covariance P for standard normal z (n, k)."""
        return self.triangle.multiply(self.inner.colour(z.double())).to(z)

    def logdet(self) -> Tensor:
        """log det P, in nats."""
        return 2 * self.triangle.logdet() + self.inner.logdet()


def _largest(product: KernelProduct, spread: Tensor, F: Tensor) -> float:
    """About the largest eigenvalue of A - F F', from below."""
    v = torch.ones_like(spread)[:, None]
    size = v.norm()
    for _ in range(POWERS):
        v = v / size
        v = product(v) - F.to(v) @ (F.mT.to(v) @ v) + spread[:, None] * v
        size = v.norm()
    return size.item()


def _assembled(product: KernelProduct, added: Tensor, F: Tensor) -> Tensor:
    """The lower triangle of K - F F' + diag(added) in single precision, by blocks of rows."""
    n = len(added)
    A = torch.empty(n, n, dtype=torch.float32, device=added.device)
    for start in range(0, n, PANEL):
        end = min(start + PANEL, n)
        rows = product.rows(torch.arange(start, end, device=added.device))[:, :end].double()
        rows = rows.addmm(F[start:end], F[:end].mT, alpha=-1)
        rows[:, start:].diagonal().add_(added[start:end])
        A[start:end, :end] = rows
    return A


def _factored(A: Tensor) -> bool:
    """Put the Cholesky factor in the place of the lower triangle of A, panel by panel; whether that succeeded."""
    n = len(A)
    for start in range(0, n, PANEL):
        end = min(start + PANEL, n)
        done = A[start:end, :start]
        A[start:, start:end].addmm_(A[start:, :start], done.mT, alpha=-1)
        corner, info = torch.linalg.cholesky_ex(A[start:end, start:end])
        if info.item():
            return False
        A[start:end, start:end] = corner
        A[end:, start:end] = torch.linalg.solve_triangular(corner.mT, A[end:, start:end], upper=True, left=False)
    return True
