"""Two classes: the logistic likelihood around latent values, for Laplace's approximation.

    log p(y | f) = log sigmoid(f) or log sigmoid(-f),    pi = sigmoid(f),    W = pi (1 - pi)
    B = I + W^1/2 K W^1/2 = L L',    R = W^1/2 B^-1 W^1/2 = (K + W^-1)^-1

    d log q = sum(G o dK),    G = (a a' - R) / 2 + (u a' + a u') / 2
    u = (I - R K) s,    s_i = d(-log|B| / 2) / df_i = -(1 - (B^-1)_ii) (1 - 2 pi_i) / 2

since W_i times the latent variance of row i is 1 - (B^-1)_ii.

Source: Rasmussen & Williams (2006), algorithms 3.1, 3.2 and 5.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.models.mode import Curvature


@dataclass(frozen=True, eq=False)
class Logistic(Curvature):
    """The logistic likelihood of labels Y (n, 1), zeros and ones, around f (n, 1)."""

    iterations = 0.0  # one factor of one small matrix
    K: Tensor
    f: Tensor
    gradient: Tensor  # y - pi (n, 1)
    root: Tensor  # W^1/2 (n,)
    factor: Tensor  # L (n, n)

    @classmethod
    def at(cls, K: Tensor, Y: Tensor, f: Tensor) -> "Logistic":
        # sigmoid(f) sigmoid(-f) keeps its figures where 1 - pi would not.
        root = (torch.sigmoid(f) * torch.sigmoid(-f)).sqrt()[:, 0]
        B = (K * root).mul_(root[:, None])
        B.diagonal().add_(1)
        return cls(K, f, cls.gradient_at(Y, f), root, cholesky(B))

    @staticmethod
    def log_likelihood(Y: Tensor, f: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid((2 * Y - 1) * f).sum()

    @staticmethod
    def gradient_at(Y: Tensor, f: Tensor) -> Tensor:
        return Y - torch.sigmoid(f)

    @staticmethod
    def curved(f: Tensor, V: Tensor) -> Tensor:
        return (torch.sigmoid(f) * torch.sigmoid(-f))[..., None] * V

    def solve(self, B: Tensor) -> Tensor:
        root = self.root[:, None]
        # Two triangular solves: cholesky_solve copies the factor, which costs more than they do.
        half = torch.linalg.solve_triangular(self.factor, root * B, upper=False)
        return root * torch.linalg.solve_triangular(self.factor.mT, half, upper=True)

    def half_logdet(self) -> Tensor:
        return self.factor.diagonal().log().sum()

    def slope(self) -> Tensor:
        inverse = torch.cholesky_inverse(self.factor)
        s = -0.5 * (1 - inverse.diagonal()) * (1 - 2 * torch.sigmoid(self.f[:, 0]))
        R = inverse.mul_(self.root).mul_(self.root[:, None])
        a = self.gradient
        # R is at hand, so one product with it is cheaper than a solve.
        u = s[:, None] - R @ (self.K @ s[:, None])
        half = u + 0.5 * a
        return R.mul_(-0.5).addmm_(0.5 * half, a.mT).addmm_(0.5 * a, half.mT)

    def explained(self, cross: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.linalg.solve_triangular(self.factor, self.root[:, None] * cross, upper=False)
        return own[None], own[None, :0]
