"""Grids whose noise differs from cell to cell: A = scale * K[o, o] + diag(noise[o]), o the observed cells.

`Uneven` factors A up to DENSE cells (`observed`) and iterates otherwise (`iterative`): conjugate gradients,
preconditioned by the leading eigenvectors of the grid with the true noise (see leading); where there are too many, by
what a cell's nearest tell of it (see nearest); or, where nothing is missing and noise is nearly separable, or smooth
kernels leave the nearest cells little to tell, by the full grid's S at the separable noise nearest to the true one in
least squares of its logarithm (the geometric mean times a factor for each axis).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.linalg.iterative import LogDeterminant, Preconditioner, Solution, conjugate_gradients, log_determinant
from kernelfield.linalg.kronecker import Kronecker, Pull, outer
from kernelfield.linalg.leading import leading
from kernelfield.linalg.nearest import nearest
from kernelfield.linalg.partial import DENSE, Method, Partial, block_of, checked_mask, pull_block, seed_of
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal
from kernelfield.linalg.sparse_factor import SparseFactor

SURE = 0.1  # nats: a larger error of a determinant is worth the columns of products that its trace takes
EVEN = 1.5  # times the least noise, in units of the separable one: a few steps with S
# With S a determinant is uncertain by about sqrt(n) / 5 times the mean square of the log of noise over separable noise,
# with nearest cells by up to sqrt(n) / 300 for each cell that a direction above the noise has to itself. These take
# ten times as long, and are worth it where an error is less than half; measured on grids of 70^2 to 300^2 cells.
WORTH = 30.0
SWEEPS = 30  # of fitting log noise by one vector an axis; one is enough where nothing is missing


@dataclass(frozen=True, eq=False)
class Uneven(Partial):
    """A grid with noise of its own in every cell, complete or with missing cells.

    Gradients in the noise are a tensor of the grid's shape. Errors: as `Latent`.

    >>> K = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    >>> solver = Uneven.of([K, K], torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    >>> solver.method, round(solver.logdet().item(), 4)
    ('observed', 4.6827)
    """

    @classmethod
    def of(
        cls,
        factors: Sequence[Tensor],
        noise: Tensor,
        scale: float = 1.0,
        observed: Tensor | None = None,
        *,
        tolerance: float = 1e-10,
        steps: int = 3000,
        probes: int = 16,
        generator: torch.Generator | None = None,
    ) -> "Uneven":
        """Noise (m_1, ..., m_d) in each cell; what it is at missing cells does not matter. See `Latent.of`."""
        shape = tuple(len(K) for K in factors)
        noise = noise.to(factors[0])
        if tuple(noise.shape) != shape:
            raise ValueError(f"noise must have the shape {shape} of the grid, got {tuple(noise.shape)}")
        observed = torch.ones_like(noise, dtype=torch.bool) if observed is None else observed
        observed = checked_mask(observed, shape).to(noise.device)
        spread = noise[observed]
        if not (spread > 0).all():
            raise ValueError(f"noise must be positive, got {spread.min().item()}")
        kronecker = Kronecker.of(factors, _nearest_separable(noise, observed), scale)
        dense = len(spread) <= DENSE
        block = block_of(kronecker, observed, spread) if dense else None
        method: Method = "observed" if dense else "iterative"
        return cls(kronecker, observed, spread, method, block, tolerance, steps, probes, seed_of(generator))

    @cached_property
    def near(self) -> LowRankPlusDiagonal | SparseFactor | None:
        if self.block is not None:
            return None
        S, ratio, whole = self.kronecker, self.spread / self._even, not len(self.absent)
        if whole and ratio.max() <= EVEN * ratio.min():
            return None
        P = leading(S, self.present, self.spread)
        above = (1 - S.spectrum.reciprocal()).sum()  # directions in which the kernel exceeds the noise
        if P is not None or (whole and WORTH * ratio.log().square().mean() * above <= len(ratio)):
            return P
        return nearest(S, self.observed, self.spread)

    @property
    def _even(self) -> Tensor:
        """The separable noise (n_o,)."""
        assert isinstance(self.kronecker.noise, tuple)
        return self.take(outer(self.kronecker.noise).reshape(-1, 1))[:, 0]

    @cached_property
    def determinant(self) -> LogDeterminant:
        if self.block is not None:
            return LogDeterminant(self.block.logdet().item())
        S, near = self.kronecker, self.near
        match near:
            case None:  # tr S^-1 A, of S^-1 times what the noise has more than that of S
                more = self.spread - self._even
                return self._quadrature(S, len(more) + (S.inverse_diagonal() * more).sum().item())
            case SparseFactor():
                return self._quadrature(near, float(len(self.spread)))
        found = self._quadrature(near)
        if not near.F.shape[1] or found.error < SURE:
            return found
        diagonal = self.take(S.scale * outer([K.diagonal() for K in S.factors]).reshape(-1, 1))[:, 0] + self.spread
        return self._quadrature(near, near.trace(self.multiply, diagonal))

    def _quadrature(self, near: Preconditioner, trace: float | None = None) -> LogDeterminant:
        return log_determinant(
            self.multiply,
            self.spread,
            probes=self.probes,
            generator=torch.Generator().manual_seed(self.seed),
            preconditioner=near,
            trace=trace,
        )

    def _exact(self, B: Tensor) -> Tensor | None:
        return None if self.block is None else self.block.solve(B)

    def _iterate(self, B: Tensor, start: Tensor | None) -> Solution:
        def by_kronecker(R: Tensor) -> Tensor:
            return self.take(self.kronecker.solve(self.pad(R)))

        precondition = by_kronecker if self.near is None else self.near.solve
        return conjugate_gradients(
            self.multiply, B, precondition=precondition, start=start, tolerance=self.tolerance, steps=self.steps
        )

    def _exact_pull(self, alpha: Tensor, c: float) -> Pull | None:
        if self.block is None:
            return None
        factors, scale, diagonal = pull_block(self.kronecker, self.observed, alpha, self.block, c)
        return Pull(factors, scale, self.pad(diagonal[:, None]).reshape(self.observed.shape))

    @property
    def _separable(self) -> bool:
        return False  # the separable part is a fit, and nobody's parameter

    def _finish(self, parts: list[list[Tensor]], padded: Tensor, diagonal: Tensor, c: float, m: int) -> Pull:
        by_cell = (c / 2 * padded.square().sum(1) - m / 2 * diagonal).reshape(self.observed.shape)
        made = self.kronecker.assemble(parts[0], by_cell.sum())
        return made._replace(noise=by_cell * self.observed)


def _nearest_separable(noise: Tensor, observed: Tensor) -> list[Tensor]:
    """Vectors (m_i,) whose outer product is nearest to noise in its logarithm, at the observed cells."""
    count = observed.to(noise)
    left = torch.where(observed, noise, 1.0).log()
    fitted = [noise.new_zeros(m) for m in noise.shape]
    for _ in range(SWEEPS):
        for axis, part in enumerate(fitted):
            others = [i for i in range(noise.ndim) if i != axis]
            number = count.sum(others) if others else count
            mean = (left.sum(others) if others else left) / number.clamp_min(1)
            part += mean
            left = left - mean.reshape([-1 if i == axis else 1 for i in range(noise.ndim)]) * count
    return [part.exp() for part in fitted]
