"""Kronecker sums: (A_1 + ... + A_d) acting each along its own axis of an array, solved without their matrix.

    (S u)_(i1 ... id) = sum_j sum_k (A_j)_(ij k) u_(i1 .. k .. id),    S = A_1 x I x ... x I + ... + I x ... x A_d

With d = 2 this is Sylvester's equation A_1 U + U A_2^T = F. An axis whose matrix has well-conditioned
eigenvectors is diagonalised, A = P diag(a) P^-1, and becomes a shift by a. Any other is brought to its
Schur form A = Q T Q^H, which is unitary and always stable, and T is solved from its last row upwards: row k is
a system in the other axes, shifted by T_kk. Derivatives along a second-order axis are of the first kind, those along
time are of the second. Cost: O(n sum_j m_j) a solve after O(sum_j m_j^3), for n = prod_j m_j.

Sources: Bartels & Stewart (1972), "Solution of the Matrix Equation AX + XB = C"; Golub & Van Loan (2013).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.linalg import schur
from torch import Tensor

from kernelfield.linalg.kronecker import contract

NORMAL = 1e4  # condition of the eigenvectors above which the Schur form is used; its square of rounding is still small
SINGULAR = 1e-13  # of the largest eigenvalue: a sum of eigenvalues that counts as zero


@dataclass(frozen=True, eq=False)
class _Factor:
    """A = basis middle inverse, with a diagonal or an upper triangular middle; complex (m, m)."""

    values: Tensor  # (m,) the eigenvalues
    basis: Tensor
    inverse: Tensor
    triangle: Tensor | None  # None where the middle is diagonal
    condition: float  # of the basis

    @classmethod
    def of(cls, A: Tensor) -> "_Factor":
        values, vectors = torch.linalg.eig(A)
        condition = float(torch.linalg.cond(vectors))
        if condition <= NORMAL:
            eye = torch.eye(len(A)).to(vectors)
            return cls(values, vectors, torch.linalg.solve(vectors, eye), None, condition)
        # LAPACK's Schur decomposition is not in torch.
        T, Q = (torch.as_tensor(part).to(vectors) for part in schur(A.cpu().numpy(), output="complex"))
        return cls(T.diagonal(), Q, Q.mH, T, 1.0)


@dataclass(frozen=True, eq=False)
class KroneckerSum:
    """The solver of S for real square matrices (m_1, m_1), ..., (m_d, m_d); see the module docstring.

    Errors: ValueError where S is singular, as Helmholtz' operator is at a resonance.

    >>> solver = KroneckerSum.of([torch.eye(2), 2 * torch.eye(3)])
    >>> round(solver.solve(torch.ones(2, 3)).sum().item(), 6)
    2.0
    """

    factors: tuple[_Factor, ...]

    @classmethod
    def of(cls, matrices: Sequence[Tensor]) -> "KroneckerSum":
        """Factor A_1, ..., A_d."""
        solver = cls(tuple(_Factor.of(A) for A in matrices))
        least, largest = solver.range
        if not least > SINGULAR * largest:
            raise ValueError(
                f"the operator is singular, its eigenvalues reaching from {least:.2g} to {largest:.2g}: it has "
                "waves of its own in this domain; change a coefficient, the domain or the boundary conditions"
            )
        return solver

    @cached_property
    def _sums(self) -> Tensor:
        total = self.factors[0].values
        for factor in self.factors[1:]:
            total = total[..., None] + factor.values
        return total

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest modulus of an eigenvalue of S."""
        moduli = self._sums.abs()
        return float(moduli.min()), float(moduli.max())

    @property
    def condition(self) -> float:
        """The ratio of extreme eigenvalues, times the conditions of the eigenvectors: a bound, sharp for normal S."""
        least, largest = self.range
        bound = largest / least
        for factor in self.factors:
            bound *= factor.condition
        return bound

    def solve(self, F: Tensor) -> Tensor:
        """S^-1 F for real F (m_1, ..., m_d, *rest)."""
        d = len(self.factors)
        F = contract([factor.inverse for factor in self.factors], F.to(self.factors[0].basis))
        shift = F.new_zeros([1] * F.ndim)
        for axis, factor in enumerate(self.factors):
            if factor.triangle is None:
                shift = shift + factor.values.reshape(-1, *[1] * (F.ndim - axis - 1))
        triangular = tuple(axis for axis in range(d) if self.factors[axis].triangle is not None)
        front = tuple(range(len(triangular)))
        triangles = [factor.triangle for factor in self.factors if factor.triangle is not None]
        U = _back_substitute(triangles, F.movedim(triangular, front), shift.movedim(triangular, front))
        return contract([factor.basis for factor in self.factors], U.movedim(front, triangular)).real


def _back_substitute(triangles: Sequence[Tensor], F: Tensor, shift: Tensor) -> Tensor:
    """U with (shift + sum of triangles along the first axes) U = F; shift has size one along those axes."""
    if not triangles:
        return F / shift
    T, *others = triangles
    if not others and shift.numel() == 1:
        eye = torch.eye(len(T)).to(T)
        return torch.linalg.solve_triangular(T + shift.reshape(()) * eye, F.reshape(len(T), -1), upper=True).reshape(
            F.shape
        )
    U = torch.empty_like(F)
    for k in reversed(range(len(T))):
        known = F[k] - torch.tensordot(T[k, k + 1 :], U[k + 1 :], 1)
        U[k] = _back_substitute(others, known, shift[0] + T[k, k])
    return U
