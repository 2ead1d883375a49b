"""The distance between two Gaussians in optimal transport, with its gradient.

The squared 2-Wasserstein distance of centred Gaussians with covariances A and K is

    tr A + tr K - 2 tr (A^1/2 K A^1/2)^1/2 = tr A + tr K - 2 |R' S|_1,    A = R R', K = S S',

where |.|_1 is the sum of the singular values s of R' S = U diag(s) V'. For any roots R and S the
values are the same, and as they are not squared on the way the small ones are right to the rounding
of the largest. The gradient in K is I - T, with T = R U diag(1 / s) U' R' the matrix of the optimal
map from K to A. It has no differences of singular values, so that coinciding ones do no harm.

Sources: Dowson & Landau (1982), "The Fréchet Distance between Multivariate Normal Distributions";
Bhatia, Jain & Lim (2019), "On the Bures-Wasserstein Distance between Positive Definite Matrices".
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def wasserstein(target: Tensor, K: Tensor) -> Tensor:
    """The squared 2-Wasserstein distance of covariances (n, n); differentiable once, in K alone.

    >>> A, K = torch.diag(torch.tensor([4.0, 1.0])), torch.eye(2)
    >>> round(wasserstein(A, K).item(), 4)  # (2 - 1)^2 + (1 - 1)^2
    1.0
    """
    return wasserstein_from(root(target), K)


def wasserstein_from(R: Tensor, K: Tensor) -> Tensor:
    """The squared distance of R R' and K, for a root (n, r) that is computed once."""
    return _Distance.apply(K, R)


def root(A: Tensor) -> Tensor:
    """R (n, r) with R R' = A, up to the rounding of its largest eigenvalue."""
    values, vectors = torch.linalg.eigh(A)
    least = len(A) * torch.finfo(A.dtype).eps * values[-1].clamp_min(0)
    kept = values > least
    return vectors[:, kept] * values[kept].sqrt()


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, K: Tensor, R: Tensor) -> Tensor:
        U, s, _ = torch.linalg.svd(R.mT @ root(K), full_matrices=False)
        kept = s > len(K) * torch.finfo(K.dtype).eps * s.max()
        ctx.save_for_backward(R @ U[:, kept] / s[kept].sqrt())
        return R.square().sum() + K.diagonal().sum() - 2 * s.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (half,) = ctx.saved_tensors
        slope = -half @ half.mT
        slope.diagonal().add_(1)
        return grad * slope, None
