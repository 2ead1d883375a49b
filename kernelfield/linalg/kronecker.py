"""Gaussian processes on a full grid: A = scale * K_1 x ... x K_d + noise.

On a grid of m_1 x ... x m_d = n cells, in row-major order (the last axis runs fastest), a product
kernel has a Kronecker product for its matrix. With K_i = Q_i diag(v_i) Q_i' on each axis,

    A = (Q_1 x ... x Q_d) diag(e) (Q_1 x ... x Q_d)',    e = scale * v_1 x ... x v_d + noise,

so that an answer costs O(n sum m_i) and n x n matrices never occur. Noise that is a Kronecker
product itself, N = diag(s_1) x ... x diag(s_d), is as exact: K_i is replaced by
N_i^(-1/2) K_i N_i^(-1/2) and the noise by one. Both are written below with

    R_i = Q_i' N_i^(-1/2):    R K R' = diag(v_1 x ... x v_d),  R N R' = 1,  A^-1 = R' diag(1/e) R.

The gradient of the evidence, dlog p = sum(G o dA) with G = c/2 alpha alpha' - m/2 A^-1, needs G
on each axis only. With a = R^-T alpha and w the product of the other axes' eigenvalues,

    dlog p / dK_i = scale R_i' [ c/2 sum_o w_o a_o a_o' - m/2 diag(sum_o w_o / e_o) ] R_i,

o over the cells of the other axes. Nothing is divided by a difference of eigenvalues, so it holds
where they coincide; O(n m_i) an axis.

Sources: Saatci (2011), Scalable inference for structured Gaussian process models;
Rakitsch et al. (2013) for separable noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernelfield.core.numerics import JITTER, NotPositiveDefinite
from kernelfield.linalg.toeplitz import symmetric_eigh

BLOCK = 2**21  # numbers held at once where points off the grid are taken block by block


class Pull(NamedTuple):
    """The gradient of a log evidence: dlog p = sum_i sum(factors[i] o dK_i) + scale dscale + noise dnoise.

    factors : (m_i, m_i) each. noise : a scalar, or vectors (m_i,) where the noise is separable.
    """

    factors: list[Tensor]
    scale: Tensor
    noise: Tensor | list[Tensor]


@dataclass(frozen=True, eq=False)
class Kronecker:
    """The solver of A = scale * K_1 x ... x K_d + noise, for d >= 1 factors of any kind.

    Gradients do not pass through the factorisation: `pull` gives them in closed form.

    Shapes: n = m_1 ... m_d. Errors: ValueError; NotPositiveDefinite, naming the factor.

    >>> K = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> solver = Kronecker.of([K, K], noise=1.0)
    >>> round(solver.logdet().item(), 4)  # of the eigenvalues 3.25, 1.75, 1.75, 1.25
    2.521
    """

    factors: tuple[Tensor, ...]  # K_i (m_i, m_i)
    scale: float
    noise: float | tuple[Tensor, ...]
    rotations: tuple[Tensor, ...]  # R_i (m_i, m_i)
    values: tuple[Tensor, ...]  # v_i (m_i,), at least zero
    spectrum: Tensor  # e (m_1, ..., m_d), the eigenvalues of A, or of N^(-1/2) A N^(-1/2)

    @classmethod
    def of(cls, factors: Sequence[Tensor], noise: float | Sequence[Tensor], scale: float = 1.0) -> "Kronecker":
        """Factor A, of which K_i (m_i, m_i) and a number, or vectors (m_i,), of noise are given."""
        _check(factors, noise, scale)
        rotations, values = [], []
        with torch.no_grad():
            for axis, K in enumerate(factors):
                root = None if isinstance(noise, int | float) else noise[axis].to(K).sqrt()
                v, Q = symmetric_eigh(K if root is None else K / root[:, None] / root)
                rotations.append(Q.mT if root is None else Q.mT / root)
                values.append(_not_negative(v, axis))
            # A single axis has its eigenvalues for the product, which is not to be changed in place.
            spectrum = outer([values[0] * scale, *values[1:]]).add_(noise if isinstance(noise, int | float) else 1.0)
        kept = float(noise) if isinstance(noise, int | float) else tuple(s.to(factors[0]) for s in noise)
        return cls(tuple(factors), float(scale), kept, tuple(rotations), tuple(values), spectrum)

    @property
    def shape(self) -> tuple[int, ...]:
        """(m_1, ..., m_d)."""
        return tuple(self.spectrum.shape)

    @property
    def separable(self) -> bool:
        return isinstance(self.noise, tuple)

    def multiply(self, B: Tensor) -> Tensor:
        """A B for B (n, k), from the factors as they were given."""
        T = self._grid(B)
        noise = B * (outer(self.noise).reshape(-1, 1) if isinstance(self.noise, tuple) else self.noise)
        return noise.add_(self._rows(contract(self.factors, T)), alpha=self.scale)

    def solve(self, B: Tensor) -> Tensor:
        T = contract(self.rotations, self._grid(B))
        T = T.div_(self._over(T))
        return self._rows(contract([R.mT for R in self.rotations], T))

    def whiten(self, B: Tensor) -> Tensor:
        if B.ndim > 2:
            return torch.stack([self.whiten(b) for b in B])
        T = contract(self.rotations, self._grid(B))
        return self._rows(T.mul_(self._over(T).rsqrt()))

    def unwhiten(self, B: Tensor) -> Tensor:
        """L^-T B for B (n, k), so that unwhiten(whiten(B)) = solve(B)."""
        T = self._grid(B)
        return self._rows(contract([R.mT for R in self.rotations], T * self._over(T).rsqrt()))

    def colour(self, z: Tensor) -> Tensor:
        """L z for z (n, k), which has covariance A where z is standard normal; A = L L'."""
        T = self._grid(z)
        return self._rows(contract([C.mT for C in self.inverse_rotations()], T * self._over(T).sqrt()))

    def colour_prior(self, z: Tensor) -> Tensor:
        """A root of scale * K_1 x ... x K_d times z (n, k): the same without the noise."""
        T = self._grid(z)
        root = outer([v.sqrt() for v in self.values]) * math.sqrt(self.scale)
        root = root.reshape(*self.shape, *[1] * (T.ndim - root.ndim))
        return self._rows(contract([C.mT for C in self.inverse_rotations()], T * root))

    def logdet(self) -> Tensor:
        value = self.spectrum.log().sum()
        if isinstance(self.noise, tuple):
            n = self.spectrum.numel()
            value = value + sum(n / len(s) * s.log().sum() for s in self.noise)
        return value

    def inverse_diagonal(self) -> Tensor:
        """The diagonal (n,) of A^-1."""
        return contract([R.mT.square() for R in self.rotations], self.spectrum.reciprocal()).flatten()

    def variance_reduction(self, crosses: Sequence[Tensor]) -> Tensor:
        """k' A^-1 k (q,) for q points off the grid, k the column-wise Kronecker product of crosses (m_i, q).

        Memory: no more than a block of points at once, whatever q.
        """
        squares = [(R @ c).square() for R, c in zip(self.rotations, crosses, strict=True)]
        return at_points(squares, self.spectrum.reciprocal())

    def reduction(self, crosses1: Sequence[Tensor], crosses2: Sequence[Tensor]) -> Tensor:
        """k_1' A^-1 k_2 (q1, q2) between two sets of points off the grid; see `variance_reduction`."""
        U = [R @ c for R, c in zip(self.rotations, crosses1, strict=True)]
        V = [R @ c for R, c in zip(self.rotations, crosses2, strict=True)]
        inverse, q1, q2 = self.spectrum.reciprocal(), U[0].shape[1], V[0].shape[1]
        size = max(1, BLOCK // max(1, q2 * max(self.shape)))
        # A pair of points is one point whose crosses are the products of theirs.
        parts = [
            at_points([(u[:, i : i + size, None] * v[:, None]).flatten(1) for u, v in zip(U, V, strict=True)], inverse)
            for i in range(0, q1, size)
        ]
        return torch.cat(parts).reshape(q1, q2) if parts else inverse.new_empty(q1, q2)

    def pull(self, alpha: Tensor, *, c: float = 1.0) -> Pull:
        """The gradient of c/2 tr alpha' A alpha (alpha held) - m/2 log|A|, for alpha (n, m) = A^-1 Y.

        That is the log evidence's; c is one for a Gaussian process, see models/evidence.
        """
        return self._pull(self.rotate(alpha), c)

    def pull_whitened(self, whitened: Tensor, *, c: float = 1.0) -> Pull:
        """`pull` from L^-1 Y (n, m), as `whiten` gives it: half the work where alpha is not needed."""
        T = self._grid(whitened)
        return self._pull(T * self._over(T).rsqrt(), c)

    def _pull(self, rotated: Tensor, c: float) -> Pull:
        axes, m = range(len(self.shape)), rotated.shape[-1] if rotated.ndim > self.spectrum.ndim else 1
        # What needs 1/e comes first, so that it is gone before the largest arrays are made.
        inverse = self.spectrum.reciprocal()
        by_noise = c / 2 * rotated.square().sum() - m / 2 * inverse.sum()
        kinds = [self.values, self.ones] if self.separable else [self.values]
        traces = [[self.trace(axis, inverse, weights) for axis in axes] for weights in kinds]
        del inverse
        parts = [self.moments(rotated, rotated, weighted=weights is self.values) for weights in kinds]
        del rotated
        for moments, sums in zip(parts, traces, strict=True):
            for moment, trace in zip(moments, sums, strict=True):
                moment.mul_(c / 2).diagonal().sub_(trace, alpha=m / 2)
        return self.assemble(parts[0], parts[1] if self.separable else by_noise)

    def rotate(self, B: Tensor) -> Tensor:
        """R^-T B on the grid (m_1, ..., m_d, k) for B (n, k), without the last axis where k = 1."""
        return contract(self.inverse_rotations(), self._grid(B))

    @property
    def ones(self) -> tuple[Tensor, ...]:
        """Vectors of ones in the place of `values`: what separable noise has for eigenvalues."""
        return tuple(torch.ones_like(v) for v in self.values)

    def moments(self, left: Tensor, right: Tensor, *, weighted: bool = True) -> list[Tensor]:
        """sum_o w_o left_o right_o' (m_i, m_i) on each axis, for rotated left and right; w = 1 if not weighted."""
        if not weighted:
            return [_moment(axis, left, right) for axis in range(len(self.shape))]
        # The weights of all axes at once, in a root on either side; the axis' own is taken out again. Eigenvalues
        # of zero would not come out, and are no weight at the square of the rounding either.
        tiny = torch.finfo(left.dtype).eps ** 2
        roots = [v.clamp_min(tiny * v.max().clamp_min(torch.finfo(v.dtype).tiny / tiny)).sqrt() for v in self.values]
        weights = outer(roots)
        same = left is right
        left = left * weights.reshape(*self.shape, *[1] * (left.ndim - weights.ndim))
        right = left if same else right * weights.reshape(*self.shape, *[1] * (right.ndim - weights.ndim))
        del weights
        return [_moment(axis, left, right).div_(root).div_(root[:, None]) for axis, root in enumerate(roots)]

    def trace(self, axis: int, diagonal: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """sum_o w_o diagonal_o (m_i,) over the cells o of the other axes, for diagonal (m_1, ..., m_d)."""
        before, after = self._others(axis, weights)
        return before @ (diagonal.reshape(-1, len(after)) @ after).reshape(len(before), -1)

    def _others(self, axis: int, weights: Sequence[Tensor]) -> list[Tensor]:
        """Weights of the axes before one and of those after it, flat."""
        one = self.spectrum.new_ones(1)
        return [outer([one, *part]).flatten() for part in (weights[:axis], weights[axis + 1 :])]

    def assemble(self, cores: Sequence[Tensor], noise: Tensor | Sequence[Tensor]) -> Pull:
        """The gradient from its parts in rotated coordinates.

        cores (m_i, m_i), of weight w, are overwritten; noise the trace, or where it is separable the parts of
        weight one.
        """
        by_scale = torch.dot(self.values[0], cores[0].diagonal())
        pairs = zip(self.rotations, cores, strict=True)
        factors = [torch.mm(R.mT @ core, R, out=core).mul_(self.scale) for R, core in pairs]
        if isinstance(noise, Tensor):
            return Pull(factors, by_scale, noise)
        pairs = zip(self.rotations, noise, strict=True)
        return Pull(factors, by_scale, [(R * (core @ R)).sum(0) for R, core in pairs])

    def inverse_rotations(self) -> list[Tensor]:
        """R_i^-T."""
        if not isinstance(self.noise, tuple):
            return list(self.rotations)
        return [R * s for R, s in zip(self.rotations, self.noise, strict=True)]

    def _grid(self, B: Tensor) -> Tensor:
        """B (n, k) as (m_1, ..., m_d, k), or without the last axis where k = 1."""
        return B.reshape(self.shape if B.shape[1] == 1 else (*self.shape, B.shape[1]))

    def _rows(self, T: Tensor) -> Tensor:
        return T.reshape(self.spectrum.numel(), -1)

    def _over(self, T: Tensor) -> Tensor:
        return self.spectrum.reshape(*self.shape, *[1] * (T.ndim - self.spectrum.ndim))


def contract(factors: Sequence[Tensor | None], T: Tensor) -> Tensor:
    """Apply factor i (r_i, m_i) along axis i of T (m_1, ..., m_d, *rest); None leaves an axis as it is.

    (F_1 x ... x F_d) vec(T) for each entry of the rest, in 2 n r_i operations an axis.

    >>> contract([torch.ones(1, 2), None], torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[4.0, 6.0]]
    """
    d = len(factors)
    rest = T.shape[d:]
    if all(factor is not None for factor in factors):
        sizes = [len(factor) for factor in factors]  # type: ignore[arg-type]
        # Each product moves its axis to the end: after the last they are in order, and every product is
        # one large multiplication instead of a batch of small ones.
        for factor in factors:
            T = T.reshape(factor.shape[1], -1).mT @ factor.mT  # type: ignore[union-attr]
        return T.reshape(-1, math.prod(sizes)).mT.reshape(*sizes, *rest) if rest else T.reshape(sizes)
    for axis, factor in enumerate(factors):
        if factor is not None:
            before, after = T.shape[:axis], T.shape[axis + 1 :]
            T = (factor @ T.reshape(-1, T.shape[axis], math.prod(after))).reshape(*before, len(factor), *after)
    return T


def at_points(crosses: Sequence[Tensor], T: Tensor) -> Tensor:
    """sum over the grid of T (m_1, ..., m_d, *rest) times the crosses (m_i, q), giving (q, *rest).

    With T = alpha on the grid this is the posterior mean at q points off it. Memory: a block of
    points at once.

    >>> at_points([torch.ones(2, 1), torch.tensor([[1.0], [0.0]])], torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [4.0]
    """
    d = len(crosses)
    grid, rest = T.shape[:d], T.shape[d:]
    rows = T.reshape(grid.numel(), -1).mT  # (k, n)
    lead = rows.reshape(-1, grid[-1])
    size = max(1, BLOCK // len(lead))
    parts = []
    for start in range(0, crosses[0].shape[1], size):
        block = [c[:, start : start + size] for c in crosses]
        value = lead @ block[-1]
        for c in reversed(block[:-1]):
            value = (value.reshape(-1, *c.shape) * c).sum(-2)
        parts.append(value)
    value = torch.cat(parts, -1) if parts else lead.new_empty(len(rows), 0)
    return value.mT.reshape(-1, *rest)


def khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """The column-wise Kronecker product (m_1 ... m_d, q) of factors (m_i, q)."""
    value = factors[0]
    for factor in factors[1:]:
        value = (value[:, None] * factor).reshape(-1, factor.shape[1])
    return value


def put(B: Tensor, index: Tensor, n: int) -> Tensor:
    """B (c, k) in rows `index` of zeros (n, k)."""
    return B.new_zeros(n, B.shape[1]).index_copy_(0, index, B)


def _moment(axis: int, left: Tensor, right: Tensor) -> Tensor:
    """The product (m_i, m_i) of two tensors unfolded along an axis."""
    rows = left.transpose(0, axis).reshape(left.shape[axis], -1)
    return rows @ (rows if left is right else right.transpose(0, axis).reshape(left.shape[axis], -1)).mT


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """The outer product (m_1, ..., m_d) of d >= 1 vectors (m_i,)."""
    value = vectors[0]
    for vector in vectors[1:]:
        value = value[..., None] * vector
    return value


def _not_negative(values: Tensor, axis: int) -> Tensor:
    """Eigenvalues with what rounding took below zero put back: less than the jitter a Cholesky factor would need.

    In single precision that may be more than any jitter: n eps times the largest.
    """
    least, mean = values.min().item(), values.mean().item()
    lost = len(values) * torch.finfo(values.dtype).eps * values.max().item()
    if not least >= -max(JITTER[-1] * mean, lost):
        raise NotPositiveDefinite(
            f"factor {axis} of the grid is not positive semi-definite: its smallest eigenvalue is {least:.3g} "
            f"where their mean is {mean:.3g}; check the kernel and the points of this axis"
        )
    return values.clamp_min(0)


def _check(factors: Sequence[Tensor], noise: float | Sequence[Tensor], scale: float) -> None:
    if not factors:
        raise ValueError("a grid needs at least one axis; give a covariance matrix for each")
    for axis, K in enumerate(factors):
        if K.ndim != 2 or K.shape[0] != K.shape[1] or not K.numel():
            raise ValueError(f"factor {axis} must be a square matrix, got shape {tuple(K.shape)}")
        if not K.isfinite().all():
            raise ValueError(f"factor {axis} holds NaN or infinite values; check the kernel's hyperparameters")
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if isinstance(noise, int | float):
        if not noise > 0:
            raise ValueError(f"noise must be positive, got {noise}")
        return
    sizes, wanted = [tuple(s.shape) for s in noise], [(len(K),) for K in factors]
    if sizes != wanted:
        raise ValueError(f"separable noise needs a vector for each axis, of shapes {wanted}, got {sizes}")
    for axis, s in enumerate(noise):
        if not (s > 0).all():
            raise ValueError(f"noise must be positive, got {s.min().item()} on axis {axis}")
