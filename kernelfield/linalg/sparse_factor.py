"""Inverse factors of covariances in which each row leans on a few others (Vecchia's approximation).

With rows in an order, N(i) some rows before i and A the covariance, the density is replaced by

    p(y) ~ prod_i p(y_i | y_N(i)),    y_i | y_N ~ normal(b_i'y_N, v_i),    b_i = A_NN^-1 A_Ni,    v_i = A_ii - A_iN b_i.

So y has the precision W'W, where row i of W holds l_i = (-b_i, 1) / sqrt(v_i) at N(i) and i: W is lower triangular in
the order, sparse and known without a factorisation of anything larger than a block. Of all factors with these
zeros it is the one of least Kullback-Leibler divergence from the exact law, which is

    KL = 1/2 sum_i (log v_i - log v_i with all earlier rows).

With A_C the block of N(i) and i, and r the residuals of m outputs, e = l'r_C and a = A_NN^-1 r_N with a zero for i,
one term and its derivative are

    log p_i = -|e|^2 / 2 - m/2 log(2 pi v_i),    d log p_i = sum(G o dA_C),
    G = (l h' + h l') / 2,                       h = a e + (|e|^2 - m) / 2 l,

a matrix of rank two: differences of the evidences of C and N, in closed form.

Sources: Vecchia (1988), "Estimation and Model Identification for Continuous Spatial Processes"; Schaefer, Katzfuss
& Owhadi (2021), "Sparse Cholesky Factorization by Kullback-Leibler Minimization"; Guinness (2021), "Gaussian
Process Learning via Fisher Scoring of Vecchia's Approximation", for the sum of blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import spsolve_triangular
from torch import Tensor

from kernelfield.core.numerics import cholesky

CHUNK = 2**17  # entries of the blocks that are worked on at once: a few such arrays fit into a core's cache


@dataclass(frozen=True, eq=False)
class Terms:
    """The conditional laws of the last entries of blocks of k + 1, for c columns of values."""

    half: Tensor  # l (*b, k + 1)
    whitened: Tensor  # l'V (*b, c)
    weights: Tensor  # A_NN^-1 V_N, with zeros for the last entry (*b, k + 1, c)

    @classmethod
    def of(cls, A: Tensor, V: Tensor) -> "Terms":
        """The laws under covariances A (*b, k + 1, k + 1), of which the lower triangle is read, at V (*b, k + 1, c).

        Errors: NotPositiveDefinite.

        >>> A, V = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[4.0], [3.0]])
        >>> round(Terms.of(A, V).whitened.item(), 4)  # (3 - 4/2) / sqrt(3/2)
        0.8165
        """
        factor = cholesky(A)
        white = torch.linalg.solve_triangular(factor, V, upper=False)
        inside = torch.nn.functional.pad(white, (0, 1))
        inside[..., -1, :-1] = 0.0
        inside[..., -1, -1] = 1.0
        back = torch.linalg.solve_triangular(factor.mT, inside, upper=True)
        return cls(back[..., -1], white[..., -1, :], back[..., :-1])

    def slope(self, mix: Tensor) -> Tensor:
        """G (*b, k + 1, k + 1) of the m outputs V @ mix, for mix (c, m)."""
        e = self.whitened @ mix
        h = (self.weights @ mix @ e.unsqueeze(-1)).squeeze(-1)
        h = h + (0.5 * (e.square().sum(-1) - mix.shape[1]))[..., None] * self.half
        return 0.5 * (self.half[..., :, None] * h[..., None, :] + h[..., :, None] * self.half[..., None, :])


def blocks(neighbours: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """The rows (t,) with their neighbours (t, k), -1 for none, some at a time.

    Yields their places, the indices (b, k + 1) of their blocks, the row itself last, and which entries there are,
    (b, k + 1), or None where all are.
    """
    size = max(1, CHUNK // (neighbours.shape[1] + 1) ** 2)
    for start in range(0, len(rows), size):
        place = slice(start, start + size)
        index = torch.cat([neighbours[place], rows[place, None]], -1)
        there = index >= 0
        yield place, index.clamp_min(0), None if there.all() else there


def keep(A: Tensor, there: Tensor | None) -> Tensor:
    """Blocks A (b, k, k) in which the entries that are not `there` are independent of all others."""
    if there is None:
        return A
    pairs = there[:, :, None] & there[:, None, :]
    return torch.where(pairs, A, torch.eye(A.shape[-1]).to(A))


@dataclass(frozen=True, eq=False)
class SparseFactor:
    """The solver of a covariance whose inverse is W'W; see the module docstring.

    order : the rows, each after those that it leans on (n,); neighbours (n, k), -1 for none, and half (n, k + 1), row
        by row.

    >>> half = torch.tensor([[0.0, 0.5], [-1.0, 1.0]])  # y_0 of variance 4, y_1 one more step of variance 1
    >>> steps = SparseFactor(torch.arange(2), torch.tensor([[-1], [0]]), half)
    >>> steps.solve(torch.tensor([[4.0], [4.0]])).flatten().tolist()  # of [[4, 4], [4, 5]]
    [1.0, 0.0]
    """

    order: Tensor
    neighbours: Tensor
    half: Tensor

    @property
    def index(self) -> Tensor:
        """Where the entries of W stand: columns (n, k + 1), the row's own where there is none and the entry is zero."""
        own = torch.arange(len(self.half)).to(self.neighbours)[:, None]
        return torch.cat([torch.where(self.neighbours < 0, own, self.neighbours), own], -1)

    def whiten(self, B: Tensor) -> Tensor:
        """W B for B (n, c)."""
        return torch.einsum("nk,nkc->nc", self.half, B[self.index])

    def unwhiten(self, B: Tensor) -> Tensor:
        """W'B for B (n, c)."""
        spread = self.half[:, :, None] * B[:, None, :]
        return torch.zeros_like(B).index_add_(0, self.index.flatten(), spread.flatten(0, 1))

    def solve(self, B: Tensor) -> Tensor:
        return self.unwhiten(self.whiten(B))

    def logdet(self) -> Tensor:
        """The log determinant of the covariance."""
        return -2 * self.half[:, -1].log().sum()

    def inverse_diagonal(self) -> Tensor:
        """The diagonal (n,) of W'W."""
        return torch.zeros_like(self.half[:, 0]).index_add_(0, self.index.flatten(), self.half.square().flatten())

    def colour(self, z: Tensor) -> Tensor:
        """W^-1 z for z (n, c): draws of the whole law, by one sparse triangular solve."""
        n, width = self.half.shape
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(n).to(self.order)
        columns, values = place[self.index][self.order], self.half[self.order]
        rows = torch.arange(n).repeat_interleave(width)
        entries = (values.flatten().cpu().numpy(), (rows.numpy(), columns.flatten().cpu().numpy()))
        W = csr_array(entries, shape=(n, n))
        drawn = spsolve_triangular(W, z[self.order].cpu().double().numpy(), lower=True)
        out = torch.empty_like(z)
        out[self.order] = torch.from_numpy(drawn).to(z)
        return out

    def extend(self, neighbours: Tensor, half: Tensor) -> "SparseFactor":
        """The factor with more rows after all others, for the t new rows' neighbours (t, j) and half (t, j + 1)."""
        k = max(neighbours.shape[1], self.neighbours.shape[1])
        more = torch.arange(len(self.half), len(self.half) + len(half)).to(self.order)
        return replace(
            self,
            order=torch.cat([self.order, more]),
            neighbours=torch.cat([_wide(self.neighbours, k, -1), _wide(neighbours, k, -1)]),
            half=torch.cat([_wide(self.half, k + 1, 0.0), _wide(half, k + 1, 0.0)]),
        )


def _wide(rows: Tensor, width: int, fill: float) -> Tensor:
    """Rows with more columns in front."""
    return torch.nn.functional.pad(rows, (width - rows.shape[1], 0), value=fill)
