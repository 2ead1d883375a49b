"""Grids with missing cells: A = scale * K[o, o] + diag(noise[o]), o the observed cells.

The eigenvectors of the full grid no longer diagonalise A, but they still help. With S the full
grid's matrix (at even or separable noise), o the observed and m the missing cells,

    A^-1 y = (S^-1 (y~ + z))[o],    (S^-1)[m, m] z = -(S^-1 y~)[m],    y~ = y padded with zeros,
    log|A| = log|S| + log|(S^-1)[m, m]|,

a system with unknowns at the missing cells only, whose eigenvalues mostly crowd at 1/noise: a few
steps of conjugate gradients. Its solution makes alpha zero where nothing was observed. It loses
its advantage as the noise vanishes under a smooth kernel, or where little is observed.

`Latent` chooses its method by sizes, and says which in `method`:

    full        nothing is missing                                               exact
    observed    at most DENSE observed cells, hardly more than missing ones      exact, Cholesky of A
    complement  at most DENSE missing cells                                      exact, Cholesky of (S^-1)[m, m]
    iterative   otherwise: conjugate gradients on the complement system, and on A itself from
                where that stopped, if it has not reached the tolerance after COMPLEMENT_STEPS

Iterative log-determinants come by Lanczos quadrature with a standard error, gradients by probes (see partial).
Noise that is neither even nor separable is the subject of uneven.

Sources: Lin et al. (2025), Scalable Gaussian processes with latent Kronecker structure, for
masked products; the complement identity is that of block inverses (Schur).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.linalg import cells
from kernelfield.linalg.dense import Dense
from kernelfield.linalg.iterative import LogDeterminant, Solution, conjugate_gradients, log_determinant
from kernelfield.linalg.kronecker import Kronecker, Pull, outer, put
from kernelfield.linalg.partial import DENSE, Method, Partial, block_of, checked_mask, combine, pull_block, seed_of

EVEN = 1.1  # times as many observed as missing cells: both exact ways take as long, for solves and for gradients
REFINEMENTS, ROUNDED = 3, 50  # of an exact complement: at most, and the residual, in eps of its terms, that needs none
COMPLEMENT_STEPS = 300  # products before the complement system is given up


@dataclass(frozen=True, eq=False)
class Latent(Partial):
    """A grid with missing cells, its noise even or separable.

    Errors: ValueError where nothing is observed or the mask is not of the grid's shape; warns
    NotConverged.

    >>> K = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> solver = Latent.of(Kronecker.of([K, K], 1.0), torch.tensor([[True, True], [False, True]]))
    >>> solver.solve(torch.ones(3, 1)).shape, solver.method, round(solver.logdet().item(), 4)
    (torch.Size([3, 1]), 'complement', 1.9459)
    """

    @classmethod
    def of(
        cls,
        kronecker: Kronecker,
        observed: Tensor,
        *,
        tolerance: float = 1e-10,
        steps: int = 3000,
        probes: int = 16,
        generator: torch.Generator | None = None,
    ) -> "Latent":
        """Observe the cells where `observed` (m_1, ..., m_d) is true.

        tolerance, steps : of iterative solves. probes : of iterative determinants and gradients,
        drawn from the generator, and the same at every call.
        """
        observed = checked_mask(observed, kronecker.shape).to(kronecker.spectrum.device)
        noise = outer(kronecker.noise) if isinstance(kronecker.noise, tuple) else kronecker.noise
        spread = torch.as_tensor(noise).to(kronecker.spectrum).expand(observed.shape)[observed]
        seen, missing = len(spread), observed.numel() - len(spread)
        block: Dense | None = None
        method: Method = "iterative"
        if not missing:
            method = "full"
        elif seen <= min(DENSE, EVEN * missing):
            block, method = block_of(kronecker, observed, spread), "observed"
        elif missing <= DENSE:
            block, method = Dense.of(cells.inverse_block(kronecker, (~observed).nonzero(as_tuple=True))), "complement"
        return cls(kronecker, observed, spread, method, block, tolerance, steps, probes, seed_of(generator))

    @cached_property
    def near(self) -> None:
        return None  # the complement system takes fewer operations

    @cached_property
    def determinant(self) -> LogDeterminant:
        match self.method, self.block:
            case "full", _:
                return LogDeterminant(self.kronecker.logdet().item())
            case "observed", Dense() as block:
                return LogDeterminant(block.logdet().item())
            case "complement", Dense() as block:
                return LogDeterminant((self.kronecker.logdet() + block.logdet()).item())
        generator = torch.Generator().manual_seed(self.seed)
        if len(self.absent) <= len(self.present):
            like, apply = self.spread.new_empty(len(self.absent)), self._complement
            known = self.kronecker.logdet().item()
        else:
            like, apply, known = self.spread, self.multiply, 0.0
        found = log_determinant(apply, like, probes=self.probes, generator=generator)
        return replace(found, value=found.value + known)

    def _complement(self, B: Tensor) -> Tensor:
        """(S^-1)[m, m] B."""
        return self.kronecker.solve(put(B, self.absent, self.observed.numel()))[self.absent]

    def _exact(self, B: Tensor) -> Tensor | None:
        match self.method, self.block:
            case "full", _:
                return self.kronecker.solve(B)
            case "observed", Dense() as block:
                return block.solve(B)
            case "complement", Dense() as block:
                return self._refined(B, block)
        return None

    def _refined(self, B: Tensor, block: Dense) -> Tensor:
        """A^-1 B by the complement, which loses as many digits again as A has, and by what that leaves of B."""
        root, most = self.spread.sqrt()[:, None], self.kronecker.spectrum.max()
        rounded = ROUNDED * torch.finfo(B.dtype).eps
        most = most if self.kronecker.separable else most / self.spread.max()
        X, R = torch.zeros_like(B), B
        for _ in range(1 + REFINEMENTS):
            padded = self.pad(R)
            padded[self.absent] = -block.solve(self.kronecker.solve(padded)[self.absent])
            X = X + self.take(self.kronecker.solve(padded))
            R = B - self.multiply(X)
            # Both sides in units of the noise, in which A is at least one.
            size = most * (X * root).norm(dim=0) + (B / root).norm(dim=0)
            if ((R / root).norm(dim=0) <= rounded * size).all():
                break
        return X

    def _iterate(self, B: Tensor, start: Tensor | None) -> Solution:
        padded, n = self.pad(B), self.observed.numel()
        goal = self.tolerance * B.norm(dim=0)
        right, z, used = -self.kronecker.solve(padded)[self.absent], None, 1
        # An answer to A X = B to start from has S X[m] for its z.
        if start is not None:
            z = self.kronecker.multiply(self.pad(start))[self.absent]
        inner = self.tolerance
        while True:
            budget = min(COMPLEMENT_STEPS, self.steps) - used
            found = conjugate_gradients(
                self._complement, right, start=z, tolerance=inner, steps=max(budget, 1), quiet=True
            )
            used += found.iterations + 2
            z = found.X
            X = self.take(self.kronecker.solve(padded + put(z, self.absent, n)))
            error = (B - self.multiply(X)).norm(dim=0)
            if (error <= goal).all() or not found.converged or used >= COMPLEMENT_STEPS:
                break
            inner *= 0.3 * (goal / error).min().item()
        if (error <= goal).all():
            size = B.norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny)
            return Solution(X, error / size, used, True)
        found = conjugate_gradients(
            self.multiply, B, start=X, tolerance=self.tolerance, steps=max(self.steps - used, 1)
        )
        return replace(found, iterations=used + found.iterations)

    def _exact_pull(self, alpha: Tensor, c: float) -> Pull | None:
        S, m = self.kronecker, alpha.shape[1]
        match self.method, self.block:
            case "full", _:
                return S.pull(alpha, c=c)
            case "observed", Dense() as block:
                factors, scale, diagonal = pull_block(S, self.observed, alpha, block, c)
                if not isinstance(S.noise, tuple):
                    return Pull(factors, scale, diagonal.sum())
                return Pull(factors, scale, _pull_outer(S.noise, self.observed, diagonal))
            case "complement", Dense() as block:
                H = torch.cholesky_inverse(block.factor)
                cores, plain = cells.pull_inverse_block(S, (~self.observed).nonzero(as_tuple=True), H)
                known = S.pull(self.pad(alpha), c=c)
                extra = S.assemble(cores, plain if S.separable else plain[0].trace())
                return combine([known, extra], [1.0, m / 2])
        return None

    @property
    def _separable(self) -> bool:
        return self.kronecker.separable

    def _finish(self, parts: list[list[Tensor]], padded: Tensor, diagonal: Tensor, c: float, m: int) -> Pull:
        S = self.kronecker
        if S.separable:
            return S.assemble(parts[0], parts[1])
        return S.assemble(parts[0], c / 2 * padded.square().sum() - m / 2 * diagonal.sum())


def _pull_outer(noise: Sequence[Tensor], observed: Tensor, diagonal: Tensor) -> list[Tensor]:
    """The derivative of sum(diagonal * outer(noise)[observed]) in each vector."""
    index = observed.nonzero(as_tuple=True)
    pulled = []
    for axis, vector in enumerate(noise):
        value = diagonal
        for i, other in enumerate(noise):
            value = value * other[index[i]] if i != axis else value
        pulled.append(torch.zeros_like(vector).index_add_(0, index[axis], value))
    return pulled
