"""Several classes: the softmax likelihood around latent values, for Laplace's approximation.

One latent function a class, with independent priors of one covariance K. With pi = softmax(f),
D_c = diag(pi_c), and sums over the classes c,

    B_c = I + D_c^1/2 K D_c^1/2 = L_c L_c',    E_c = D_c^1/2 B_c^-1 D_c^1/2,    sum E_c = M M'
    log |I + K W| = sum log |B_c| + log |sum E_c|,    W = diag(pi) - pi pi' in each row

    R_cd = 1[c = d] E_c - V_c' V_d,    V_c = M^-1 E_c,    R = (K + W^-1)^-1
    d log q = sum(G o dK),    G = sum (a_c a_c' - R_cc) / 2 + (u_c a_c' + a_c u_c') / 2
    u = (I - R K) s,    s = d(-log |I + K W| / 2) / df

s needs the latent covariance S of the classes at each row, scaled by the roots of pi:
T_cd = pi_c^1/2 S_cd pi_d^1/2 = 1[c = d] (1 - (B_c^-1)_ii) + column sums of U_c o U_d, with
U_c = M^-1 D_c^1/2 (I - B_c^-1), which has no division by a small probability.

Source: Rasmussen & Williams (2006), algorithms 3.3 and 3.4; the slope of the evidence extends
their section 5.5.1 to several classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.models.mode import Curvature

BLOCKS = 6  # of rows of a symmetric product: 7/12 of the operations of the whole


@dataclass(frozen=True, eq=False)
class Softmax(Curvature):
    """The softmax likelihood of one-hot labels Y (n, k) around f (n, k)."""

    iterations = 0.25  # k n^3 operations for factors and inverses, 2 k n^2 for a product with K
    K: Tensor
    f: Tensor
    gradient: Tensor  # y - pi (n, k)
    root: Tensor  # pi^1/2, class by class (k, n)
    factors: Tensor  # L_c (k, n, n)
    inverses: Tensor  # B_c^-1 (k, n, n)
    total: Tensor  # M (n, n)
    shares: Tensor  # sum E_c (n, n)

    @classmethod
    def at(cls, K: Tensor, Y: Tensor, f: Tensor) -> "Softmax":
        root = (0.5 * f.log_softmax(-1)).exp().mT.contiguous()
        B = (K * root[:, None, :]).mul_(root[:, :, None])
        B.diagonal(dim1=-2, dim2=-1).add_(1)
        factors = cholesky(B)
        inverses = torch.cholesky_inverse(factors)
        shares = torch.zeros_like(K)
        for own, inverse in zip(root, inverses, strict=True):
            shares += (inverse * own).mul_(own[:, None])
        return cls(K, f, cls.gradient_at(Y, f), root, factors, inverses, cholesky(shares), shares)

    @staticmethod
    def log_likelihood(Y: Tensor, f: Tensor) -> Tensor:
        return (Y * f.log_softmax(-1)).sum()

    @staticmethod
    def gradient_at(Y: Tensor, f: Tensor) -> Tensor:
        return Y - f.softmax(-1)

    @staticmethod
    def curved(f: Tensor, V: Tensor) -> Tensor:
        pi = f.softmax(-1)[..., None]
        return pi * (V - (pi * V).sum(-2, keepdim=True))

    def solve(self, B: Tensor) -> Tensor:
        own = self._weighted(B.mT)
        shared = torch.cholesky_solve(own.sum(0)[:, None], self.total)[:, 0]
        return (own - self._weighted(shared)).mT

    def _weighted(self, B: Tensor) -> Tensor:
        """E_c b_c for B (k, n) or one b (n,)."""
        return self.root * (self.inverses @ (self.root * B)[..., None])[..., 0]

    def half_logdet(self) -> Tensor:
        own = self.factors.diagonal(dim1=-2, dim2=-1).log().sum()
        return own + self.total.diagonal().log().sum()

    def slope(self) -> Tensor:
        a = self.gradient
        T, V = self._row_covariance()
        u = self._moved(self.root.square().mT, T)
        u = u - self.solve(self.K @ u)
        half = u + 0.5 * a
        explained = _gram(V.flatten(1))
        return explained.sub_(self.shares).mul_(0.5).addmm_(0.5 * half, a.mT).addmm_(0.5 * a, half.mT)

    def _row_covariance(self) -> tuple[Tensor, Tensor]:
        """T (n, k, k), and V' in the order (n, k, n), in which all sums over rows are of neighbours."""
        left = self.inverses.diagonal(dim1=-2, dim2=-1).mT
        U = self.inverses.transpose(0, 1).neg()
        U.diagonal(dim1=0, dim2=-1).add_(1)
        U.mul_(self.root)
        U = torch.linalg.solve_triangular(self.total.mT, U.flatten(0, 1), upper=True, left=False).view_as(U)
        T = torch.diag_embed(1 - left) + U @ U.mT
        unit = torch.linalg.solve_triangular(self.total, torch.eye(len(left)).to(left), upper=False).mT
        across = self.root.mT[:, :, None]
        return T, torch.addcmul(-U, unit[:, None, :], across).mul_(across)

    def _moved(self, pi: Tensor, T: Tensor) -> Tensor:
        """s (n, k): minus half the trace of S dW, where dpi_d / df_c = pi_c (1[c = d] - pi_d)."""
        diagonal = T.diagonal(dim1=-2, dim2=-1)
        joint = torch.einsum("icd,ic,id->icd", T, pi.sqrt(), pi.sqrt())  # pi_c S_cd pi_d
        rows = joint.sum(-1)  # pi_c (S pi)_c
        trace = diagonal - pi * diagonal.sum(-1, keepdim=True)
        mean = rows - pi * rows.sum(-1, keepdim=True)
        return -0.5 * (trace - 2 * mean)

    def explained(self, cross: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.linalg.solve_triangular(self.factors, self.root[:, :, None] * cross, upper=False)
        weighted = self.root[:, :, None] * (self.inverses @ (self.root[:, :, None] * cross))
        return own, torch.linalg.solve_triangular(self.total, weighted, upper=False)


def _gram(A: Tensor) -> Tensor:
    """A A' for A (n, p), of which only the blocks up to the diagonal are computed."""
    n = len(A)
    product = A.new_empty(n, n)
    size = -(-n // BLOCKS)
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        torch.mm(A[rows], A[: rows.stop].mT, out=product[rows, : rows.stop])
        product[: rows.start, rows] = product[rows, : rows.start].mT
    return product
