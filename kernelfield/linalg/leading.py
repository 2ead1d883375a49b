"""A low-rank preconditioner of partly observed grids: the leading eigenvectors of the grid, at the observed cells.

With scale * K = C' diag(v) C on the whole grid, C and v products of those of the axes, the r largest entries of v and
their rows of C at the observed cells o make a factor F (n_o, r), and

    P = F F' + diag(noise[o])

is near to A = scale * K[o, o] + diag(noise[o]) where kernels are smooth: what F leaves out is positive semidefinite
and at most v_(r+1) on the whole grid. Neither the mask nor the noise needs any structure.

Where nothing is missing its condition number is at most 1 + v_(r+1) / min noise. Where a kernel is rough `nearest` is
the better preconditioner.
"""

import math

import torch
from torch import Tensor

from kernelfield.linalg.kronecker import BLOCK, Kronecker, put
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal

LEVEL = 1e-3  # of the noise: what is left out below it costs a step or two, and nothing of a determinant that shows
RANK = 512  # the most eigenvectors
CLOSE = 1.0  # of the noise: where more is left out the kernel is rough, and nearest cells tell more of it
ROOM = 2**25  # numbers of F at most: 256 MB in double precision


def leading(S: Kronecker, present: Tensor, spread: Tensor) -> LowRankPlusDiagonal | None:
    """P at the cells `present` (n_o,) with noise `spread` (n_o,), or None where a kernel is rough.

    S is that of separable noise.
    """
    shares = (S.spectrum - 1).flatten()
    most = min(RANK, ROOM // len(present), len(present))
    top = shares.topk(min(most + 1, len(shares)))
    rank = min(int((top.values > LEVEL).sum()), most)
    if rank < len(top.values) and top.values[rank] > CLOSE:
        return None
    return LowRankPlusDiagonal(_factor(S, present, top.indices[:rank]), spread)


def _factor(S: Kronecker, present: Tensor, chosen: Tensor) -> Tensor:
    """F (n_o, r) of the eigenvectors whose places in the spectrum are chosen (r,)."""
    F = torch.full((1, 1), math.sqrt(S.scale)).to(S.spectrum)
    cells, places = torch.unravel_index(present, S.shape), torch.unravel_index(chosen, S.shape)
    for C, v, cell, place in zip(S.inverse_rotations(), S.values, cells, places, strict=True):
        F = F * (v.sqrt()[:, None] * C)[place].mT[cell]
    return F


def moments_of_inverse(S: Kronecker, P: LowRankPlusDiagonal, present: Tensor) -> list[Tensor]:
    """sum_o w_o (R^-T P^-1 R^-1)_oo (m_i, m_i) on each axis, P^-1 padded with zeros; see `Kronecker.moments`."""
    n, columns = S.spectrum.numel(), P.columns.to(S.spectrum)
    diagonal = columns.new_zeros(n).index_copy_(0, present, (1 / P.spread).to(columns)).reshape(S.shape)
    others = [K.diagonal() for K in S.factors]
    found = [(C * S.trace(axis, diagonal, others)) @ C.mT for axis, C in enumerate(S.inverse_rotations())]
    for part in columns.split(max(1, BLOCK // n), 1):
        rotated = S.rotate(put(part, present, n))
        for total, moment in zip(found, S.moments(rotated, rotated), strict=True):
            total -= moment
    return found
