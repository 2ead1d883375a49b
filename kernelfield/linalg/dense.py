"""Dense systems: one Cholesky factorisation, extended as rows arrive.

Source: Rasmussen & Williams (2006), algorithm 2.1 and appendix A.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky, rounding, schur
from kernelfield.core.posterior import LazyMatrix


@dataclass(frozen=True, eq=False)
class Dense:
    """Cholesky solver; O(n^3) once, O(n^2) a question. For n up to about 10^4.

    Errors: NotPositiveDefinite.

    >>> solver = Dense.of(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
    >>> solver.solve(torch.ones(2, 1)).flatten().tolist()
    [0.25, 0.1111111119389534]
    """

    factor: Tensor  # lower triangular (n, n)

    @classmethod
    def of(cls, A: Tensor) -> "Dense":
        """Factor A (n, n), of which the lower triangle is read."""
        return cls(cholesky(A))

    def solve(self, B: Tensor) -> Tensor:
        return torch.cholesky_solve(B, self.factor)

    def whiten(self, B: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.factor, B, upper=False)

    def unwhiten(self, B: Tensor) -> Tensor:
        """L^-T B for B (n, k), so that unwhiten(whiten(B)) = solve(B)."""
        return torch.linalg.solve_triangular(self.factor.mT, B, upper=True)

    def logdet(self) -> Tensor:
        return 2 * self.factor.diagonal().log().sum()

    def inverse_diagonal(self) -> Tensor:
        """The diagonal (n,) of A^-1."""
        return torch.cholesky_inverse(self.factor).diagonal()

    def extend(self, border: Tensor, corner: Tensor) -> "Dense":
        """The solver of [[A, border], [border^T, corner]]: O(n^2 k) for k new rows.

        Shapes: border (n, k), corner (k, k).
        """
        n, k = border.shape
        half = self.whiten(border)
        factor = self.factor.new_zeros(k + n, k + n).mT  # column by column, as LAPACK keeps it
        factor[:n, :n] = self.factor
        factor[n:, :n] = half.mT
        factor[n:, n:] = cholesky(schur(corner, half))
        return Dense(factor)


@dataclass(frozen=True, eq=False)
class Conditional:
    """The scale matrix of m independent outputs given data, formed only where it is asked for.

        prior - explained^T explained + trend^T trend + noise I,    once for each output

    prior, a lazy matrix of q points; `terms` gives explained (*b, n, q), what the data take away,
    and trend (*b, p, q), what not knowing the p coefficients of the mean adds: a mean alone never
    pays for them. Point-major joint order.
    """

    prior: LazyMatrix
    terms: Callable[[], tuple[Tensor, Tensor]]
    noise: Tensor | float
    outputs: int

    @cached_property
    def _terms(self) -> tuple[Tensor, Tensor]:
        return self.terms()

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        explained, trend = self._terms
        prior = self.prior.diagonal(dim1=dim1, dim2=dim2)
        # A sum of squares could round above the prior where the data determine f.
        value = prior - explained.square().sum(-2) + rounding(prior, explained)
        value = value.clamp_min(0) + trend.square().sum(-2) + self.noise
        return value.repeat_interleave(self.outputs, -1)

    def to_dense(self) -> Tensor:
        """The joint matrix (*b, q * m, q * m)."""
        explained, trend = self._terms
        value = schur(self.prior.to_dense(), explained) + trend.mT @ trend
        eye = torch.eye(value.shape[-1]).to(value)
        joint = torch.einsum("...ij,kl->...ikjl", value + self.noise * eye, torch.eye(self.outputs).to(value))
        size = value.shape[-1] * self.outputs
        return joint.reshape(*value.shape[:-2], size, size)
