"""What a nearest-neighbour process would predict had each of its rows been left out, from one fit.

Held are the hyperparameters, the order of the rows and their neighbours: without row i, those that leaned on it lean
on the rest of their neighbours, and predictions on the nearest rows other than i. All of it takes rows out of blocks.
With Q = A_C^-1 for a block C of rows that holds i,

    A_{C without i}^-1 = Q - Q_:i Q_i: / Q_ii,

so that the weights Q k(x) of a prediction from C lose Q_:i b_i / Q_ii, and a row j that leans on i has with the
variance 1 / u_j the whitened values

    g_j = u'V / sqrt(u_j),    u = Q_:j - Q_:i Q_ij / Q_ii,    V = [Y H].

The best coefficients of the mean without i are those of the sums of g g' over all rows but i.

Sources: as of `kernelfield.models.leave_one_out`, for each block; Datta, Banerjee, Finley & Gelfand (2016),
"Hierarchical Nearest-Neighbor Gaussian Process Models for Large Geostatistical Datasets", for the blocks.
"""

from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.linalg.sparse_factor import blocks, keep
from kernelfield.models.evidence import Fit
from kernelfield.models.leave_one_out import require_determined
from kernelfield.models.vecchia_evidence import Conditionals, present, system


@dataclass(frozen=True, eq=False)
class MeansWithoutEach:
    """Fits of the mean without each of n rows: coefficients (n, p, m), and factors (n, p, p) of their precisions."""

    coefficients: Tensor
    factor: Tensor

    @classmethod
    def of(cls, case: Conditionals, kernel: Kernel, noise: float, mean: Fit) -> "MeansWithoutEach":
        """From the conditionals of all rows, in any order, and the fit of the mean to all.

        Errors: ValueError if a row alone determines a coefficient of the mean.
        """
        m = case.data.Y.shape[1]
        n, p = len(case.data.X), case.values.shape[1] - m
        if not p:
            return cls(case.data.X.new_empty(n, 0, m), case.data.X.new_empty(n, 0, 0))
        whole = mean.factor @ mean.factor.mT
        left = torch.cat([whole @ mean.coefficients, whole], -1) - _lost(case, kernel, noise)
        known, precision = left.split([m, p], -1)
        share = torch.linalg.solve_triangular(mean.factor, precision, upper=False)
        share = torch.linalg.solve_triangular(mean.factor, share.mT, upper=False)
        least = torch.linalg.eigvalsh(share)[:, 0]
        require_determined(least, torch.ones_like(least))
        factor = cholesky(precision)
        return cls(torch.cholesky_solve(known, factor), factor)


def _lost(case: Conditionals, kernel: Kernel, noise: float) -> Tensor:
    """What the sum of g_H g' (p, m + p) over all rows loses with each of them, (n, p, m + p)."""
    spread, values, X, m = case.spread(noise), case.values, case.data.X, case.data.Y.shape[1]
    lost = values.new_zeros(len(X), values.shape[1] - m, values.shape[1])

    def products(g: Tensor) -> Tensor:
        return g[..., m:, None] * g[..., None, :]

    for place, index, there in blocks(case.neighbours, case.rows):
        factor = cholesky(keep(system(kernel, X[index], spread[index]), there))
        Q = torch.cholesky_inverse(factor)
        U = torch.cholesky_solve(present(values[index], there), factor)
        own = Q[:, -1, -1:]
        ratio = Q[:, -1, :-1] / Q.diagonal(dim1=-2, dim2=-1)[:, :-1]
        # A row that its neighbour alone determines has nothing left but rounding, which must not become a root of it.
        left = (own - ratio * Q[:, -1, :-1]).clamp_min(torch.finfo(own.dtype).eps * own)
        whole = products(U[:, -1] / own.sqrt())
        without = (U[:, -1:] - ratio[..., None] * U[:, :-1]) / left.sqrt()[..., None]
        change = whole[:, None] - products(without)  # zero where there is no neighbour
        lost.index_add_(0, index[:, :-1].flatten(), change.flatten(0, 1))
        lost.index_add_(0, case.rows[place], whole)
    return lost


def sums_without_each(system: Tensor, cross: Tensor, values: Tensor) -> Tensor:
    """b'V (*b, k, c) of predictions from a block that lack one of its k rows.

    Of their covariances (*b, k, k), those with the new point (*b, k, 1), and V (*b, k, c).

    >>> A, k, V = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0], [1.0]]), torch.tensor([[4.0], [6.0]])
    >>> [round(one, 6) for one in sums_without_each(A, k, V).flatten().tolist()]  # half of the other
    [3.0, 2.0]
    """
    factor = cholesky(system)
    precision = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)[..., None]
    weights = torch.cholesky_solve(cross, factor)
    return (weights * values).sum(-2, keepdim=True) - weights / precision * torch.cholesky_solve(values, factor)
