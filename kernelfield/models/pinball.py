"""Joint quantile regression with a kernel, solved on the eigenvectors of two matrices.

With K (n, n) the kernel of the inputs and B (k, k) that of the levels t_1 < ... < t_k, the k functions
of the levels, f = K A B / ridge, and their offsets b are those that make small

    sum_ij w_i pinball(y_i - f_ij - b_j, t_j) + ridge / 2 |f|^2,    pinball(r, t) = max(t r, (t - 1) r),

where |f|^2 is the squared norm in the space of the kernel K x B. They are so exactly if A is a
slope of the pinball losses and its columns have no sum:

    A_ij = w_i t_j where y_i > f_ij + b_j,   w_i (t_j - 1) where y_i < f_ij + b_j,   between them where
    y_i = f_ij + b_j,    sum_i A_ij = 0.

The last says that the share t_j of the weights lies below the quantile of level t_j. The solver is
the alternating direction method of multipliers on residuals R = Y - f - b with a step s: least
squares for f and b, of which the eigenvectors of K and B make a division; then

    v = Y - F - U,    R = v - clamp(v, w (t - 1) / s, w t / s),    U = R - v,

with over-relaxation, and s moved to keep the errors of R and of A alike, which costs nothing.

Sources: Takeuchi, Le, Sears & Smola (2006), "Nonparametric Quantile Estimation"; Sangnier, Fercoq &
d'Alche-Buc (2016), "Joint quantile regression in vector-valued RKHSs"; Boyd, Parikh, Chu, Peleato &
Eckstein (2011), "Distributed Optimization and Statistical Learning via the Alternating Direction Method
of Multipliers", sections 3.4.1 and 3.4.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RELAXATION = 1.6
BALANCE, FACTOR = 5.0, 2.0  # errors that differ by more than BALANCE move the step by FACTOR
CHECK = 10  # sweeps between looks at the errors
SETTLED = 2000  # sweeps after which the step stays, as it must for the method to converge
ROUNDING = 1e-12  # eigenvalues below this share of the largest one are none


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues and eigenvectors of a positive semi-definite matrix."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> "Spectrum":
        values, vectors = torch.linalg.eigh(matrix)
        return cls(torch.where(values > ROUNDING * values[-1], values, 0.0), vectors)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Coefficients A (m, n, k) and offsets b (m, k) of m outputs, and how they were found.

    error : the largest violation of the conditions, of a slope in weights or of a residual in the
        spread of the targets.
    """

    coefficients: Tensor
    offsets: Tensor
    residuals: Tensor
    error: float
    sweeps: int


def pinball(residual: Tensor, level: Tensor | float) -> Tensor:
    """The pinball loss of y - q.

    >>> pinball(torch.tensor([2.0, -2.0]), 0.9)
    tensor([1.8000, 0.2000])
    """
    return torch.maximum(level * residual, (level - 1) * residual)


def solve(
    inputs: Spectrum,
    among: Spectrum,
    levels: Tensor,
    Y: Tensor,
    weight: Tensor,
    ridge: float,
    *,
    tolerance: float,
    sweeps: int,
    start: Fitted | None = None,
) -> Fitted:
    """The joint quantile regression of each of m outputs.

    Shapes: inputs of K (n, n), among of B (k, k), levels (k,), Y (n, m), weight (n,).
    start : the answer of a problem alike.
    """
    Q, P, ones = inputs.vectors, among.vectors, inputs.vectors.sum(0)[:, None]
    gain = inputs.values[:, None] * among.values / ridge
    spread = Y.std(0, correction=0).amax().clamp_min(torch.finfo(Y.dtype).tiny)
    targets = Y.mT.unsqueeze(-1)  # (m, n, 1)
    low, high = weight[:, None] * (levels - 1), weight[:, None] * levels
    step = (weight.mean() / spread).item()
    R = (targets.expand(-1, -1, len(levels)) * 0.0) if start is None else start.residuals
    A = torch.zeros_like(R) if start is None else start.coefficients
    U, F = -A / step, targets - R
    error, offsets = float("inf"), R[:, 0]
    for sweep in range(1, sweeps + 1):
        before = F
        wanted = Q.mT @ (targets - R - U) @ P
        divisor = gain + 1 / step
        share = ones / divisor
        turned = (share * wanted).sum(1, keepdim=True) / (share * ones).sum(0)  # the offsets, times P
        A = Q @ ((wanted - ones * turned) / divisor) @ P.mT
        F = targets - R - U - A / step
        mixed = RELAXATION * F + (1 - RELAXATION) * (targets - R)
        v = targets - mixed - U
        R = v - v.clamp(low / step, high / step)
        U = R - v
        if sweep % CHECK and sweep < sweeps:
            continue
        offsets = (turned @ P.mT)[:, 0]
        apart = ((R - targets + F).abs().max() / spread).item()
        slack = ((A + step * U).abs().max() / weight.max()).item()
        error = max(apart, slack, step * (F - before).abs().max().item() / weight.max().item())
        if error < tolerance:
            break
        if sweep < SETTLED and not BALANCE > apart / max(slack, 1e-300) > 1 / BALANCE:
            factor = FACTOR if apart > slack else 1 / FACTOR
            step, U = step * factor, U / factor
    return Fitted(A, offsets, R, error, sweep)
