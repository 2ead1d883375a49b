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


@dataclass(frozen=True, eq=False)
class Softmax(Curvature):
    """The softmax likelihood of one-hot labels Y (n, k) around f (n, k)."""

    K: Tensor
    f: Tensor
    gradient: Tensor  # y - pi (n, k)
    root: Tensor  # pi^1/2, class by class (k, n)
    factors: Tensor  # L_c (k, n, n)
    E: Tensor  # (k, n, n)
    total: Tensor  # M (n, n)

    @classmethod
    def at(cls, K: Tensor, Y: Tensor, f: Tensor) -> "Softmax":
        root = (0.5 * f.log_softmax(-1)).exp().mT.contiguous()
        outer = root[:, :, None] * root[:, None, :]
        B = K * outer
        B.diagonal(dim1=-2, dim2=-1).add_(1)
        factors = cholesky(B)
        E = torch.cholesky_inverse(factors).mul_(outer)
        return cls(K, f, cls.gradient_at(Y, f), root, factors, E, cholesky(E.sum(0)))

    @staticmethod
    def log_likelihood(Y: Tensor, f: Tensor) -> Tensor:
        return (Y * f.log_softmax(-1)).sum()

    @staticmethod
    def gradient_at(Y: Tensor, f: Tensor) -> Tensor:
        return Y - f.softmax(-1)

    def newton(self, f: Tensor, gradient: Tensor) -> Tensor:
        pi = self.root.square().mT
        b = pi * (f - (pi * f).sum(-1, keepdim=True)) + gradient
        return b - self._solve(self.K @ b)

    def half_logdet(self) -> Tensor:
        own = self.factors.diagonal(dim1=-2, dim2=-1).log().sum()
        return own + self.total.diagonal().log().sum()

    def _solve(self, B: Tensor) -> Tensor:
        """R B for B (n, k)."""
        own = torch.einsum("cij,jc->ic", self.E, B)
        shared = torch.cholesky_solve(own.sum(-1, keepdim=True), self.total)
        return own - torch.einsum("cij,jl->ic", self.E, shared)

    def slope(self) -> Tensor:
        a, n = self.gradient, len(self.K)
        T, V = self._row_covariance()
        pi = self.root.square().mT
        u = self._moved(pi, T)
        u = u - self._solve(self.K @ u)
        half = u + 0.5 * a
        V = V.reshape(-1, n)  # (k n, n): the sum over the classes is one product
        explained = V.mT @ V
        return explained.sub_(self.E.sum(0)).mul_(0.5).addmm_(0.5 * half, a.mT).addmm_(0.5 * a, half.mT)

    def _row_covariance(self) -> tuple[Tensor, Tensor]:
        """T (n, k, k) and V (k, n, n) of the module docstring."""
        n = len(self.K)
        root = self.root[:, :, None]
        inverse = torch.cholesky_inverse(self.factors)
        left = inverse.diagonal(dim1=-2, dim2=-1)
        own = torch.diag_embed((1 - left).mT)
        inverse.neg_().diagonal(dim1=-2, dim2=-1).add_(1)
        U = torch.linalg.solve_triangular(self.total, inverse.mul_(root), upper=False)
        T = own + torch.einsum("cij,dij->jcd", U, U)
        unit = torch.linalg.solve_triangular(self.total, torch.eye(n).to(self.K), upper=False)
        across = self.root[:, None, :]
        return T, (unit * across).sub_(U).mul_(across)

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
        return own, torch.linalg.solve_triangular(self.total, self.E @ cross, upper=False)
