"""The Laplace kernel that predicts most like a neural tangent kernel.

On a sphere the Laplace kernel exp(-|x - x'| / l) and the NTK of a rectifier network with biases
have the same functions in their spaces: their eigenvalues both fall as k^-d on the sphere of d
dimensions, and their posterior means agree closely once the lengthscale l is fitted. Off the
sphere they agree less, as the NTK grows with the norm of its inputs.

Sources: Lencevicius (2022), "An Empirical Analysis of the Laplace and Neural Tangent Kernels",
sections 4-5; Geifman et al. (2020), "On the Similarity between the Laplace and Neural Tangent
Kernels", theorems 3 and 5.
"""

import math
from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from scipy.optimize import minimize_scalar
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.kernels.stationary import Matern

REACH = (1e-2, 1e3)  # of lengthscales that are tried, in mean distances of the inputs
TRIALS = 25  # coarse lengthscales, evenly in the logarithm, before the best is refined


@dataclass(frozen=True, eq=False)
class LaplaceMatch:
    """A Laplace kernel, as Matern(0.5), and the correlation of its posterior mean with the other."""

    kernel: Matern
    correlation: float


def matched_laplace(kernel: Kernel, X: Tensor, Y: Tensor, XS: Tensor, *, noise: float) -> LaplaceMatch:
    """The Laplace kernel whose posterior mean at XS correlates best with that of `kernel`.

    kernel: such as NetworkKernel(arch, "ntk"). The output scale is the kernel's mean variance on X.

    Shapes: X (n, d), Y (n, m), XS (q, d) with q of two or more.
    Units: noise is a variance in squared units of Y.
    Errors: ValueError where the mean to match is constant.
    """
    with torch.no_grad():
        target = _mean(kernel, X, Y, XS, noise)
        if not (target.amax(0) > target.amin(0)).all():
            raise ValueError("the mean to match is constant on XS; give at least two points where it differs")
        laplace = Matern(0.5).to(X)
        laplace.outputscale = kernel(X, diag=True).mean()
        distance = torch.cdist(X, X).mean()

        def loss(log_length: float) -> float:
            laplace.lengthscale = distance * math.exp(log_length)
            return 1 - _correlation(_mean(laplace, X, Y, XS, noise), target)

        low, high = (math.log(reach) for reach in REACH)
        step = (high - low) / (TRIALS - 1)
        start = min((low + i * step for i in range(TRIALS)), key=loss)
        best = minimize_scalar(loss, bounds=(start - step, start + step), method="bounded")
        return LaplaceMatch(laplace, 1 - loss(best.x))


def _mean(kernel: Kernel, X: Tensor, Y: Tensor, XS: Tensor, noise: float) -> Tensor:
    """The posterior mean (q, m) of a process without trend."""
    K = kernel(X).to_dense()
    factor = cholesky(K + noise * torch.eye(len(X)).to(K))
    return kernel(XS, X).to_dense() @ torch.cholesky_solve(Y, factor)


def _correlation(one: Tensor, other: Tensor) -> float:
    """The least correlation over outputs."""
    one, other = one - one.mean(0), other - other.mean(0)
    return ((one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0))).min().item()
