"""Matrices of radial functions, tile by tile, with analytic derivatives.

    K_ij = outputscale * k(r_ij^2),    r_ij = |z1_i - z2_j|,    z = x / lengthscale

A profile k gives a tile's values K and slopes S = -2 outputscale * dk/d(r^2) / gain, from which all
derivatives follow:

    dK_ij / dz1_i = -gain S_ij (z1_i - z2_j)
    dK_ij / dlog lengthscale_d = gain S_ij (z1_id - z2_jd)^2

so that no n x n x d array is ever formed: sums over j are matrix products with z. Squared
distances come from one matrix product of rows centred and augmented by their norms, which
leaves an error of a few rounding errors of |z|^2 in r^2; of a symmetric matrix only the lower
half is computed, and its diagonal is exact.

Source: Rasmussen & Williams (2006), eq. (5.9); for the profiles see `profiles`.
"""

from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernelfield.core.numerics import broadcast
from kernelfield.linalg.profiles import Profile

TILE = 2**16  # elements: a few tiles of doubles fit into a core's second-level cache
NEAR = 0.5  # below eps^NEAR of |z|^2 rounding shows in r^2, which a kink at r = 0 turns into its root


def radial(z1: Tensor, z2: Tensor | None, outputscale: Tensor, profile: Profile, shape: Tensor | None = None) -> Tensor:
    """The matrix of a radial function, differentiable once in every tensor.

    Shapes: z1 (*b, n1, d) and z2 (*b, n2, d) scaled inputs, z2 None for z1 with itself;
        outputscale and shape (*b); returns (*b, n1, n2).
    """
    return _Radial.apply(z1, z2, outputscale, shape, profile)


class _Radial(torch.autograd.Function):
    """Forward and backward in row tiles: memory beyond inputs and output is O(TILE)."""

    @staticmethod
    def forward(
        ctx: Any, z1: Tensor, z2: Tensor | None, outputscale: Tensor, shape: Tensor | None, profile: Profile
    ) -> Tensor:
        ctx.save_for_backward(z1, z2, outputscale, shape)
        ctx.profile = profile
        distances = _Distances(z1, z2, profile)
        batch = broadcast(distances.batch, outputscale.shape, torch.Size() if shape is None else shape.shape)
        K = z1.new_empty(*batch, distances.n1, distances.n2)
        log_scale, shape = outputscale.log()[..., None, None], _column(shape)
        for rows, columns in distances.tiles(batch):
            a = distances.tile(rows, columns).expand(*batch, -1, -1).contiguous()
            profile.tile(a, log_scale, K[..., rows, columns], torch.empty_like(a), shape)
            if z2 is None:
                K[..., : rows.start, rows] = K[..., rows, : rows.start].mT
        if z2 is None:
            K.diagonal(dim1=-2, dim2=-1).copy_(outputscale[..., None].expand(*batch, distances.n1))
        return K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z1, z2, outputscale, shape = ctx.saved_tensors
        profile, batch = ctx.profile, grad.shape[:-2]
        distances = _Distances(z1, z2, profile)
        first, second = (z.expand(*batch, -1, -1) for z in (z1, z1 if z2 is None else z2))
        slope1, slope2 = torch.zeros_like(first), torch.zeros_like(second)
        total, shape_total = grad.new_zeros(batch), grad.new_zeros(batch)
        log_scale, column = outputscale.log()[..., None, None], _column(shape)
        for rows, columns in distances.tiles(batch):
            a = distances.tile(rows, columns).expand(*batch, -1, -1).contiguous()
            G = grad[..., rows, columns]
            if z2 is None:  # the lower half stands for both; its square block is symmetric
                G = G + grad[..., columns, rows].mT
                G[..., rows] *= 0.5
            K, S = torch.empty_like(a), torch.empty_like(a)
            profile.tile(a, log_scale, K, S, column)
            total += (G * K).sum((-2, -1))
            if profile.shaped:
                shape_total += (G * profile.shape_slope(a, K, column)).sum((-2, -1))
            W = S.mul_(G).mul_(profile.gain)
            slope1[..., rows, :] += W @ second[..., columns, :] - W.sum(-1, keepdim=True) * first[..., rows, :]
            slope2[..., columns, :] += W.mT @ first[..., rows, :] - W.sum(-2).unsqueeze(-1) * second[..., columns, :]
        shape_slope = (shape_total / shape).sum_to_size(shape.shape) if shape is not None else None
        scale_slope = (total / outputscale).sum_to_size(outputscale.shape)
        if z2 is None:
            return (slope1 + slope2).sum_to_size(z1.shape), None, scale_slope, shape_slope, None
        return slope1.sum_to_size(z1.shape), slope2.sum_to_size(z2.shape), scale_slope, shape_slope, None


def _column(shape: Tensor | None) -> Tensor | None:
    return None if shape is None else shape[..., None, None]


class _Distances:
    """Stretched squared distances of rows of z1 and z2 (*b, n, d), a tile at a time."""

    def __init__(self, z1: Tensor, z2: Tensor | None, profile: Profile) -> None:
        self.symmetric, self.kinked = z2 is None, profile.kinked
        other = z1 if z2 is None else z2
        self.n1, self.n2 = z1.shape[-2], other.shape[-2]
        self.batch = broadcast(z1.shape[:-2], other.shape[:-2])
        centre = other.mean(-2, keepdim=True)
        root = profile.stretch**0.5
        self.first, self.second = (z1 - centre) * root, (other - centre) * root
        self.left, self.right = augmented(self.first, first=True), augmented(self.second, first=False)

    def tiles(self, batch: torch.Size) -> "list[tuple[slice, slice]]":
        """Row blocks and the columns each needs: all, or those up to its diagonal."""
        step = max(1, TILE // max(1, batch.numel() * self.n2))
        blocks = [slice(start, min(start + step, self.n1)) for start in range(0, self.n1, step)]
        return [(rows, slice(0, rows.stop if self.symmetric else self.n2)) for rows in blocks]

    def tile(self, rows: slice, columns: slice) -> Tensor:
        a = (self.left[..., rows, :] @ self.right[..., columns, :].mT).clamp_min_(0)
        if self.kinked:
            refine(a, self.first[..., rows, :], self.second[..., columns, :])
        if self.symmetric:
            a[..., rows].diagonal(dim1=-2, dim2=-1).zero_()
        return a


def augmented(z: Tensor, *, first: bool) -> Tensor:
    """Rows whose inner products, one side against the other, are squared distances."""
    norm = z.square().sum(-1, keepdim=True)
    one = torch.ones_like(norm)
    return torch.cat([z * -2, norm, one] if first else [z, one, norm], -1)


def refine(a: Tensor, first: Tensor, second: Tensor) -> None:
    """Replace the squared distances of near pairs by sums of squared differences, which are exact."""
    size = second.square().sum(-1).amax() if second.shape[-2] else a.new_zeros(())
    *batch, i, j = (a < torch.finfo(a.dtype).eps ** NEAR * size).nonzero(as_tuple=True)
    left, right = (z.expand(*a.shape[:-2], -1, -1) for z in (first, second))
    a[(*batch, i, j)] = (left[(*batch, i)] - right[(*batch, j)]).square().sum(-1)


class Cross:
    """The matrix between fixed points and moving ones, and the slopes of its sums in those that move; no graph.

    Shapes: z (n, d) scaled inputs.
    """

    def __init__(self, z: Tensor, outputscale: Tensor, profile: Profile, shape: Tensor | None = None) -> None:
        self.profile, self.shape, self.log_scale = profile, _column(shape), outputscale.log()
        self.centre = z.mean(0)
        self.z = z - self.centre
        self.norm = profile.stretch * self.z.square().sum(-1)
        self.moving, self.S = self.z[:0], self.z[:0]

    def fill(self, moving: Tensor) -> Tensor:
        """K (r, n) of points (r, d)."""
        self.moving = moving - self.centre
        norm = self.moving.square().sum(-1, keepdim=True)
        a = torch.addmm(self.norm, self.moving, self.z.mT, alpha=-2 * self.profile.stretch)
        a.add_(norm, alpha=self.profile.stretch).clamp_min_(0)
        if self.profile.kinked:
            root = self.profile.stretch**0.5
            refine(a, self.moving * root, self.z * root)
        K, self.S = torch.empty_like(a), torch.empty_like(a)
        self.profile.tile(a, self.log_scale, K, self.S, self.shape)
        return K

    def pull(self, G: Tensor) -> Tensor:
        """The derivatives (r, d) of sum(G o K) in the points of the last `fill`, for G (r, n)."""
        W = self.S * G
        return torch.addcmul(W @ self.z, W.sum(-1, keepdim=True), self.moving, value=-1).mul_(self.profile.gain)


class Gram:
    """The matrix of one set of inputs at changing scales: the inner loop of a fit.

    It keeps its buffers, and views of their tiles, from call to call and touches the lower
    triangle alone, which is all that a Cholesky factorisation reads. No graph: below a hundred
    points the time is that of the calls, not of the arithmetic, so that calls are what it saves.
    Where all inputs share one lengthscale the distances are kept as well.

    Shapes: X (n, d).
    """

    def __init__(self, X: Tensor, profile: Profile, *, shared: bool = False) -> None:
        n, d = X.shape
        self.profile = profile
        self.X = X - X.mean(0)
        self.squares = self.X.square()
        self.K, self.S = X.new_empty(n, n), X.new_empty(n, n)
        self.shape_slopes = X.new_empty(n, n) if profile.shaped else None
        self.basis = torch.cat([X.new_ones(n, 1), self.X, self.squares], 1)
        self.one = self.inverse = np.ones(d)  # the latter 1 / lengthscale^2
        self.z = torch.empty_like(self.X)
        self.norm, self.log_scale, self.alpha = X.new_empty(n), X.new_empty(()), X.new_empty(())
        step = max(1, TILE // n)
        self.scratch = X.new_empty(min(step, n) * n)
        self.squared = X.new_empty(n, n) if shared else None
        self.tiles = [self._tile(slice(start, min(start + step, n))) for start in range(0, n, step)]
        if shared:
            self._scale(np.ones(d))
            for tile in self.tiles:
                if d == 1:  # nothing cancels, and evenly spaced points keep their symmetry
                    rows, columns = tile.place
                    torch.sub(self.X[rows], self.X[columns].mT, out=tile.squared).square_()
                else:
                    tile.squared.copy_(self._measure(tile))

    def _tile(self, rows: slice) -> "_Tile":
        columns = slice(0, rows.stop)
        a = self.scratch[: (rows.stop - rows.start) * rows.stop].view(-1, rows.stop)
        return _Tile(
            (rows, columns),
            a,
            a[:, rows].diagonal(),
            self.z[rows],
            self.z[columns].mT,
            self.norm[rows, None],
            self.norm[columns],
            self.K[rows, columns],
            self.S[rows, columns],
            self.S[rows, rows],
            self.basis[rows].mT,
            self.basis[columns],
            None if self.squared is None else self.squared[rows, columns],
        )

    def fill(self, lengthscale: np.ndarray, log_outputscale: float, shape: float | None = None) -> Tensor:
        """The lower triangle of K (n, n), overwritten by the next call; its diagonal is exact."""
        scale = self.one / lengthscale
        self.inverse = scale**2
        stretch = 0.0
        if self.squared is None:
            self._scale(scale * self.profile.stretch**0.5)
        else:
            stretch = self.profile.stretch * float(self.inverse[0])
        self.log_scale.fill_(log_outputscale)
        for tile in self.tiles:
            a = self._measure(tile) if tile.squared is None else torch.mul(tile.squared, stretch, out=tile.a)
            if self.shape_slopes is None or shape is None:
                self.profile.tile(a, self.log_scale, tile.K, tile.S, None)
            else:
                self.alpha.fill_(shape)
                self.profile.tile(a, self.log_scale, tile.K, tile.S, self.alpha)
                self.shape_slopes[tile.place] = self.profile.shape_slope(a, tile.K, self.alpha)
                self.shape_slopes[tile.place[0], tile.place[0]] *= 0.5
            tile.square.mul_(0.5)  # it holds both halves, where the rest stands for two
        return self.K

    def _scale(self, factors: np.ndarray) -> None:
        inverse = torch.from_numpy(factors).to(self.X)
        torch.mul(self.X, inverse, out=self.z)
        torch.mv(self.squares, inverse.square_(), out=self.norm)

    def _measure(self, tile: "_Tile") -> Tensor:
        """Squared distances of rows of z."""
        a = torch.addmm(tile.column_norm, tile.z, tile.other_z, alpha=-2, out=tile.a)
        a.add_(tile.row_norm).clamp_min_(0)
        if self.profile.kinked:
            refine(a, tile.z, tile.other_z.mT)
        tile.a_diagonal.zero_()
        return a

    def pull(self, G: Tensor) -> tuple[np.ndarray, float | None]:
        """Sums of G o dK over all entries, G (n, n) symmetric; K may have been overwritten.

        Returns the derivatives in log lengthscale (d,), or (1,) where it is shared, and log shape.
        """
        d = self.X.shape[1]
        whole = len(self.tiles) == 1
        weighted = ((tile, torch.mul(tile.S, G if whole else G[tile.place])) for tile in self.tiles)
        if self.squared is None:
            parts = [tile.row_basis @ (W @ tile.column_basis) for tile, W in weighted]
            M = reduce(torch.add, parts).cpu().numpy()  # basis' (S o G) basis, with basis [1, x, x^2]
            # sum_ij W_ij (x_i - x_j)^2, from the products of 1, x and x^2.
            slope = M[d + 1 :, 0] + M[0, d + 1 :] - 2 * M.diagonal()[1 : d + 1]
        else:
            slope = reduce(torch.add, [W.mul_(tile.squared).sum() for tile, W in weighted]).cpu().numpy()[None]
        shape = None
        if self.shape_slopes is not None:
            shape = 2 * sum((self.shape_slopes[tile.place] * G[tile.place]).sum().item() for tile in self.tiles)
        return slope * self.inverse[: len(slope)] * (2 * self.profile.gain), shape


class _Tile(NamedTuple):
    """Views of the buffers of a `Gram` for one block of rows, up to its diagonal."""

    place: tuple[slice, slice]
    a: Tensor
    a_diagonal: Tensor
    z: Tensor
    other_z: Tensor
    row_norm: Tensor
    column_norm: Tensor
    K: Tensor
    S: Tensor
    square: Tensor
    row_basis: Tensor
    column_basis: Tensor
    squared: Any  # squared distances in the units of X, or None
