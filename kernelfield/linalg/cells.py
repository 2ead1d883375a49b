"""Matrices between single cells of a grid, where a grid is observed in part.

Cells come as their index along each axis, d vectors (c,). With V the rows of a Kronecker product
at those cells, two matrices (c, c) and their derivatives are needed:

    K_cc[j, k] = prod_i K_i[j_i, k_i],                     the covariance of the cells,
    (S^-1)_cc  = V diag(1/e) V',  V = R' at the cells,     of S = R^-1 diag(e) R^-T on the whole grid.

The second sums over the whole grid for each pair. All pairs with the same indices (a, b) on one
axis share the sum over that axis, sum_p R[p, a] R[p, b] / e[p, o], so that only the cells o of the
other axes are left: 2 c^2 n / m_i operations instead of 2 c^2 n.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kernelfield.linalg.kronecker import BLOCK, Kronecker, outer

Cells = Sequence[Tensor]


def covariance(factors: Sequence[Tensor], cells: Cells) -> Tensor:
    """K_1 x ... x K_d between the cells (c, c)."""
    value = factors[0][cells[0][:, None], cells[0]]
    for K, index in zip(factors[1:], cells[1:], strict=True):
        value *= K[index[:, None], index]
    return value


def pull_covariance(factors: Sequence[Tensor], cells: Cells, G: Tensor) -> list[Tensor]:
    """The derivative of sum(G o covariance) in each factor (m_i, m_i)."""
    pulled = []
    for axis, K in enumerate(factors):
        others = [i for i in range(len(factors)) if i != axis]
        weighted = G * covariance([factors[i] for i in others], [cells[i] for i in others]) if others else G
        rows = G.new_zeros(len(K), len(G)).index_add_(0, cells[axis], weighted)
        pulled.append(G.new_zeros(len(K), len(K)).index_add_(0, cells[axis], rows.mT.contiguous()).mT)
    return pulled


def inverse_block(solver: Kronecker, cells: Cells) -> Tensor:
    """(S^-1)_cc (c, c) of the solver's S."""
    lead = max(range(len(cells)), key=lambda axis: solver.shape[axis])
    order, index, bounds = _sorted(cells[lead], solver.shape[lead])
    R, n_cells = solver.rotations[lead], len(order)
    block = R.new_zeros(n_cells, n_cells)
    for V, span in _others(solver, cells, lead, order):
        weights = _unfold(solver.spectrum, lead)[:, span].reciprocal()
        for a in range(len(R)):
            start, stop = bounds[a], bounds[a + 1]
            if start == stop:
                continue
            shared = R.mT @ (R[:, a, None] * weights)
            block[start:stop, start:] += V[start:stop] @ (V[start:] * shared[index[start:]]).mT
    block = block.triu_() + block.triu(1).mT
    back = order.argsort()
    return block[back[:, None], back]


def pull_inverse_block(solver: Kronecker, cells: Cells, H: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The moments of T = S^-1[:, c] H S^-1[c, :] on each axis, for symmetric H (c, c).

    In rotated coordinates, sum_o w_o T[(., o), (., o)] with w the other axes' eigenvalues, and with
    w = 1: what `Kronecker.assemble` takes.
    """
    weighted, plain = zip(*(_moments(solver, cells, axis, H) for axis in range(len(cells))), strict=True)
    return list(weighted), list(plain)


def _moments(solver: Kronecker, cells: Cells, axis: int, H: Tensor) -> tuple[Tensor, Tensor]:
    order, index, bounds = _sorted(cells[axis], solver.shape[axis])
    R, H = solver.rotations[axis], H[order[:, None], order]
    values = solver.values[:axis] + solver.values[axis + 1 :]
    weights = outer(values).flatten() if values else R.new_ones(1)
    core, plain = torch.zeros_like(R), torch.zeros_like(R)
    for V, span in _others(solver, cells, axis, order):
        inverse = _unfold(solver.spectrum, axis)[:, span].reciprocal()
        for a in range(len(R)):
            start, stop = bounds[a], bounds[a + 1]
            if start == stop:
                continue
            pairs = (H[:, start:stop] @ V[start:stop]).mul_(V)
            folded = inverse.new_zeros(inverse.shape).index_add_(0, index, pairs)
            folded = (R @ folded).mul_(inverse)
            plain.addcmul_(R[:, a, None], inverse @ folded.mT)
            core.addcmul_(R[:, a, None], inverse @ (folded * weights[span]).mT)
    return core, plain


def _sorted(index: Tensor, size: int) -> tuple[Tensor, Tensor, list[int]]:
    """The order of the cells along one axis, their sorted index, and where each row of cells begins and ends."""
    order = index.argsort(stable=True)
    counts = torch.bincount(index, minlength=size).cumsum(0)
    return order, index[order], [0, *counts.tolist()]


def _others(solver: Kronecker, cells: Cells, axis: int, order: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Columns of R at the cells, multiplied over all axes but one, in blocks (c, o) of bounded size."""
    others = [i for i in range(len(cells)) if i != axis]
    size = solver.spectrum.numel() // solver.shape[axis]
    step = max(1, BLOCK // max(1, len(order)))
    for start in range(0, size, step):
        stop = min(start + step, size)
        V = solver.spectrum.new_ones(len(order), stop - start)
        grid = torch.arange(start, stop, device=V.device)
        for i, rows in zip(others, torch.unravel_index(grid, [solver.shape[i] for i in others]), strict=True):
            V *= solver.rotations[i][rows[:, None], cells[i][order]].mT
        yield V, slice(start, stop)


def _unfold(T: Tensor, axis: int) -> Tensor:
    """T (m_1, ..., m_d) as (m_i, n / m_i)."""
    return T.movedim(axis, 0).reshape(T.shape[axis], -1)
