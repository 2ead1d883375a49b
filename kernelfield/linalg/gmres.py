"""GMRES: systems of any operator that can be applied, preconditioned from the right.

    minimise |b - A M^-1 z| over z in span{b, A M^-1 b, (A M^-1)^2 b, ...},    x = M^-1 z

by Arnoldi's process with its basis orthogonalised twice. From the right, the residual that is minimised
and reported is that of the system itself and not of a preconditioned one. SciPy's works on NumPy vectors; here
tensors stay on their device.

Sources: Saad & Schultz (1986), "GMRES: A Generalized Minimal Residual Algorithm for Solving Nonsymmetric Linear
Systems".
"""

import torch
from torch import Tensor

from kernelfield.linalg.iterative import Product, Solution

BASIS = 60  # vectors kept before a restart


def gmres(apply: Product, b: Tensor, *, precondition: Product, tolerance: float, most: int = 300) -> Solution:
    """x with A x = b for tensors of any one shape, to |b - A x| <= tolerance |b| or after `most` products.

    The solution's `residual` is that of the whole, a scalar.

    >>> found = gmres(lambda x: 2 * x, torch.ones(3), precondition=lambda x: x, tolerance=1e-6)
    >>> round(found.X.sum().item(), 4)
    1.5
    """
    size = float(b.norm())
    x, residual, done = torch.zeros_like(b), b, 0
    if not size:
        return Solution(x, residual.norm(), 0, True)
    while True:
        before = float(residual.norm())
        correction, used = _cycle(apply, precondition, residual, tolerance * size, min(BASIS, most - done))
        x, done = x + correction, done + used
        residual = b - apply(x)
        left = residual.norm()
        # A cycle that gains nothing has met rounding: another would repeat it.
        if left <= tolerance * size or done >= most or left > 0.9 * before:
            return Solution(x, left / size, done, bool(left <= tolerance * size))


def _cycle(apply: Product, precondition: Product, residual: Tensor, target: float, most: int) -> tuple[Tensor, int]:
    """The correction of one cycle and the number of products with A it took."""
    size = float(residual.norm())
    basis = residual.new_empty(most + 1, residual.numel())
    basis[0] = residual.flatten() / size
    H = residual.new_zeros(most + 1, most)
    right = residual.new_zeros(most + 1)
    right[0] = size
    weights, used = right[:0], 0
    for k in range(most):
        w = apply(precondition(basis[k].reshape(residual.shape))).flatten()
        for _ in range(2):
            overlap = basis[: k + 1] @ w
            w = w - overlap @ basis[: k + 1]
            H[: k + 1, k] += overlap
        H[k + 1, k] = w.norm()
        used = k + 1
        weights = torch.linalg.lstsq(H[: k + 2, : k + 1], right[: k + 2, None]).solution[:, 0]
        left = float((right[: k + 2] - H[: k + 2, : k + 1] @ weights).norm())
        if left <= target or not H[k + 1, k] > 0:
            break
        basis[k + 1] = w / H[k + 1, k]
    combined = (weights @ basis[:used]).reshape(residual.shape)
    return precondition(combined), used
