"""A sparse preconditioner of partly observed grids: every cell leans on its nearest cells before it.

In row-major order cell i is given its k nearest observed cells N(i) before it, and the inverse factor W with these
zeros (see sparse_factor) has

    W A W' = I + E,    diag E = 0,    A = scale * K[o, o] + diag(noise[o]),

so that the trace of W A W' is known to be n_o, which leaves little of the log-determinant to chance. Near is what is
correlated: the distance of two cells is the sum over the axes of -log |correlation|, of factors of any kind. Of the
distances sorted along each axis, ranks (s, t) have (s + 1) (t + 1) cells at least as near as theirs, so that the
nearest have ranks in a hyperbolic cross.

Where a kernel is rough, what is near to a cell tells most of it; where it is smooth, `leading` does better.

Sources: Kaporin (1994), "New convergence results and preconditioning strategies for the conjugate gradient method", for
factors of unit diagonal; Kang & Katzfuss (2023), "Correlation-based sparse inverse Cholesky factorization for fast
Gaussian-process inference", for the distance.
"""

import math

import torch
from torch import Tensor

from kernelfield.linalg.kronecker import Kronecker
from kernelfield.linalg.sparse_factor import CHUNK, SparseFactor, Terms, blocks, keep

NEIGHBOURS = 64  # of a cell: 100^2 cells take a second and a half, and are known within a nat
# Near cells for each neighbour and share that is observed: half of them come later, and few nearer ones are missed.
ROOM = 3.0


def nearest(S: Kronecker, observed: Tensor, spread: Tensor, neighbours: int = NEIGHBOURS) -> SparseFactor:
    """W at the observed cells (m_1, ..., m_d) with noise `spread` (n_o,), of S but for its noise."""
    present = observed.flatten().nonzero()[:, 0]
    rows = torch.arange(len(present)).to(present)
    near = _nearest_before(S, observed, present, min(neighbours, len(present) - 1))
    half = torch.empty(len(rows), near.shape[1] + 1, dtype=torch.double, device=present.device)
    for place, index, there in blocks(near, rows):
        A = S.scale * _covariance(S, present[index]).double()
        A.diagonal(dim1=-2, dim2=-1).add_(spread[index].double())
        found = Terms.of(keep(A, there), A.new_zeros(*index.shape, 0)).half
        half[place] = found if there is None else found * there
    return SparseFactor(rows, near, half.to(spread))


def moments_of_inverse(S: Kronecker, W: SparseFactor, present: Tensor) -> list[Tensor]:
    """sum_o w_o (R^-T W'W R^-1)_oo (m_i, m_i) on each axis, W'W padded with zeros; see `Kronecker.moments`."""
    totals = [torch.zeros_like(K) for K in S.factors]
    for place, index, _ in blocks(W.neighbours, W.order):
        half, cells = W.half[place], torch.unravel_index(present[index], S.shape)
        pairs = [cell[:, :, None] * m + cell[:, None, :] for cell, m in zip(cells, S.shape, strict=True)]
        entries = [K.flatten()[pair] for K, pair in zip(S.factors, pairs, strict=True)]
        for axis, (total, pair) in enumerate(zip(totals, pairs, strict=True)):
            weight = half[:, :, None] * half[:, None, :]
            for other, entry in enumerate(entries):
                weight = weight if other == axis else weight * entry
            total.view(-1).index_add_(0, pair.flatten(), weight.flatten())
    return [C @ total @ C.mT for C, total in zip(S.inverse_rotations(), totals, strict=True)]


def _covariance(S: Kronecker, index: Tensor) -> Tensor:
    """Blocks (b, k, k) of the product of the factors between cells index (b, k)."""
    cells = torch.unravel_index(index, S.shape)
    value = torch.ones((), device=index.device)
    for K, cell in zip(S.factors, cells, strict=True):
        value = value * K[cell[:, :, None], cell[:, None, :]]
    return value


def _nearest_before(S: Kronecker, observed: Tensor, present: Tensor, k: int) -> Tensor:
    """The places (n_o, k) among the observed of the nearest observed cells before each, -1 for none."""
    mask, total = observed.flatten(), observed.numel()
    place = mask.cumsum(0) - 1
    ranks = _cross(S.shape, math.ceil(ROOM * max(k, 1) * total / len(present))).to(present.device)
    sorted_axes = [_distances(K).sort(dim=-1, stable=True) for K in S.factors]
    found = torch.full((len(present), k), -1, dtype=torch.long, device=present.device)
    for some in torch.arange(len(present)).split(max(1, CHUNK // len(ranks))):
        own = present[some]
        cells = torch.unravel_index(own, S.shape)
        flat = torch.zeros(len(some), len(ranks), dtype=torch.long, device=own.device)
        distance = flat.to(S.factors[0])
        for axis, cell, rank in zip(sorted_axes, cells, ranks.mT, strict=True):
            flat = flat * len(axis.values) + axis.indices[cell][:, rank]
            distance = distance + axis.values[cell][:, rank]
        distance[(flat >= own[:, None]) | ~mask[flat]] = torch.inf
        least, which = distance.topk(min(k, len(ranks)), largest=False)
        found[some, : which.shape[1]] = torch.where(least.isfinite(), place[flat.gather(1, which)], -1)
    return found


def _distances(K: Tensor) -> Tensor:
    """-log |correlation| (m, m) of a factor, finite."""
    tiny = torch.finfo(K.dtype).tiny
    root = K.diagonal().clamp_min(tiny).sqrt()
    return -(K / root / root[:, None]).abs().clamp(tiny, 1.0).log()


def _cross(shape: tuple[int, ...], need: int) -> Tensor:
    """The tuples of ranks (c, d) below `shape` whose rectangles hold at most `need` cells."""
    ranks, size = torch.zeros(1, 0, dtype=torch.long), torch.ones(1, dtype=torch.long)
    for m in shape:
        one = torch.arange(min(m, need))
        wider = size[:, None] * (one + 1)
        row, column = (wider <= need).nonzero(as_tuple=True)
        ranks = torch.cat([ranks[row], one[column, None]], -1)
        size = wider[row, column]
    return ranks
