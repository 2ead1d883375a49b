"""A Cholesky factor in single precision, as a preconditioner of a system in double precision.

    P = L L' = A + shift + E,    A = K + diag(noise),

is made in half the memory and half the time of a factor in double precision, and its rounding E does no harm to a
solve by iterations. Rounding in the largest eigenvalue is what may break the factor down, but most of it lies along
that eigenvalue's vector: a sixteenth of it is the first shift that is tried. The eigenvalues of P^-1 A lie between
about noise / (noise + shift) and little more than one, so that few iterations are left whatever the kernel. Where a
factor of low rank leaves hundreds, because the noise is small and the spectrum decays slowly, this is quicker, as
long as n^2 single numbers fit.

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
from kernelfield.linalg.product import KernelProduct
from kernelfield.linalg.thin import thin

PANEL = 512  # columns of a panel: matrix products are then most of the work
BLOCK = 1024  # rows of a panel that are in double precision at once, within a core's caches
POWERS = 6  # products that estimate the largest eigenvalue
MARGIN = (
    8.0  # roundings by which P may exceed A where that counts, shift and E; with a shift of one 3.7 was the most seen
)
FIRST = 1 / 16  # of the rounding in the largest eigenvalue: a third of the iterations that the whole of it takes
GROWTH = 4.0  # of the shift where the factor breaks down
TRIES = 8


@dataclass(frozen=True, eq=False)
class SingleFactor:
    """P = L L' for lower L (n, n) in float32, whose upper triangle is not read; `least` is below all of P^-1 A.

    >>> class Identity:
    ...     diagonal = torch.ones(3, dtype=torch.float64)
    ...     rows = staticmethod(lambda index: torch.eye(3, dtype=torch.float64)[index])
    ...     __call__ = staticmethod(lambda V: V)
    >>> P = SingleFactor.of(Identity(), torch.ones(3, dtype=torch.float64))
    >>> [round(x, 5) for x in P.solve(torch.ones(3, 1, dtype=torch.float64)).flatten().tolist()]
    [0.5, 0.5, 0.5]
    """

    factor: Tensor
    least: float

    @classmethod
    def of(cls, product: KernelProduct, spread: Tensor) -> "SingleFactor":
        """The factor of K + diag(spread), spread (n,), with the least shift of a ladder that succeeds.

        Errors: NotPositiveDefinite where none does.
        """
        rounding = torch.finfo(torch.float32).eps * _largest(product, spread)
        shift = FIRST * rounding
        for _ in range(TRIES):
            L = _assembled(product, spread + shift)
            if _factored(L):
                noise = spread.min().item()
                return cls(L, noise / (noise + MARGIN * max(shift, rounding)))
            shift *= GROWTH
        raise NotPositiveDefinite(
            f"the kernel matrix has no Cholesky factor in single precision, even with {shift / GROWTH:.2g} added to "
            "its diagonal; check the inputs and the kernel's hyperparameters"
        )

    def solve(self, B: Tensor) -> Tensor:
        """P^-1 B for B (n, k)."""
        return self.unwhiten(self.whiten(B.double())).to(B)

    def whiten(self, B: Tensor) -> Tensor:
        """L^-1 B."""
        X = B.to(torch.float64, copy=True)
        for start in range(0, len(X), PANEL):
            here = slice(start, start + PANEL)
            X[here] = torch.linalg.solve_triangular(self._part(here, here), X[here], upper=False)
            for below in self._below(start):
                X[below].sub_(thin(self._part(below, here), X[here]))
        return X.to(B)

    def unwhiten(self, B: Tensor) -> Tensor:
        """L^-T B, so that unwhiten(whiten(B)) = solve(B)."""
        X = B.to(torch.float64, copy=True)
        for start in reversed(range(0, len(X), PANEL)):
            here = slice(start, start + PANEL)
            for below in self._below(start):
                X[here].sub_(thin(self._part(below, here).mT, X[below]))
            X[here] = torch.linalg.solve_triangular(self._part(here, here).mT, X[here], upper=True)
        return X.to(B)

    def colour(self, z: Tensor) -> Tensor:
        """L z: a draw with covariance P for standard normal z (n, k)."""
        wide, X = z.double(), torch.empty_like(z)
        for start in range(0, len(z), PANEL):
            here = slice(start, start + PANEL)
            own = self._part(here, here).tril() @ wide[here]
            for before in _blocks(0, start):
                own.add_(thin(self._part(here, before), wide[before]))
            X[here] = own
        return X

    def logdet(self) -> Tensor:
        """log det P, in nats."""
        return 2 * self.factor.diagonal().double().log().sum()

    def _below(self, start: int) -> Iterator[slice]:
        """The rows below a panel, block by block."""
        return _blocks(start + PANEL, len(self.factor))

    def _part(self, rows: slice, columns: slice) -> Tensor:
        return self.factor[rows, columns].double()


def _blocks(start: int, end: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, end)) for first in range(start, end, BLOCK))


def _largest(product: KernelProduct, spread: Tensor) -> float:
    """About the largest eigenvalue of A, from below."""
    v = torch.ones_like(spread)[:, None]
    size = v.norm()
    for _ in range(POWERS):
        v = v / size
        v = product(v) + spread[:, None] * v
        size = v.norm()
    return size.item()


def _assembled(product: KernelProduct, added: Tensor) -> Tensor:
    """The lower triangle of K + diag(added) in single precision, by blocks of rows."""
    n = len(added)
    A = torch.empty(n, n, dtype=torch.float32, device=added.device)
    for start in range(0, n, PANEL):
        end = min(start + PANEL, n)
        rows = product.rows(torch.arange(start, end, device=added.device))[:, :end]
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
