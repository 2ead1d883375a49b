"""Orthonormal polynomials on the half line z > 0 under the half-normal law, and their wedge integrals.

Sources: Cho & Saul (2009), "Kernel Methods for Deep Learning", for the wedge integrals of
monomials; Gautschi (2004), "Orthogonal Polynomials", section 2.2 for the half-range rule.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

NODES = 192  # points of the quadrature that gives coefficients
END = 20.0  # beyond it the product of the normal density and of any polynomial in use is below rounding


@lru_cache
def half_line() -> tuple[Tensor, Tensor]:
    """Points z > 0, denser near zero, and the roots of their half-normal weights."""
    t, weights = np.polynomial.legendre.leggauss(NODES)
    share = (t + 1) / 2
    z = END * share**2
    density = math.sqrt(2 / math.pi) * np.exp(-0.5 * z**2)
    return torch.from_numpy(z), torch.from_numpy(np.sqrt(END * share * weights * density))


@lru_cache
def basis(order: int) -> Tensor:
    """The polynomials (k, nodes), times the roots of the weights."""
    z, roots = (t.numpy() for t in half_line())
    return torch.from_numpy(_polynomials(order, z) * roots)


@lru_cache
def wedges(order: int) -> Tensor:
    """The Chebyshev coefficients (m, k, l) in 2 theta / pi - 1 of M(theta) + M(pi - theta), which are
    those of even m, and of M(theta) - M(pi - theta), of odd m.
    """
    count = 2 * (order + 16)
    x = np.cos((np.arange(count) + 0.5) * math.pi / count)
    M = np.stack([_wedge(order, math.pi / 2 * (1 + v)) for v in x])
    m = np.arange(count)
    transform = np.cos(m[:, None] * (np.arange(count) + 0.5) * math.pi / count) * (2 / count)
    transform[0] /= 2
    return torch.from_numpy(2 * np.tensordot(transform, M, 1))


def _wedge(order: int, theta: float) -> np.ndarray:
    """M(theta), by Gauss's rules in both polar coordinates."""
    width = (math.pi - theta) / 2
    nodes, weights = np.polynomial.legendre.leggauss(math.ceil(order * width) + 20)
    radius, lengths = _gauss(order + 4)
    B = _polynomials(order, np.outer(np.cos(theta / 2 + width * nodes), radius))
    grid = np.outer(width * weights, lengths * radius / math.sqrt(2 * math.pi))
    # The angles to the second axis are those to the first one, in reverse.
    return (B * grid).reshape(order, -1) @ B[:, ::-1].reshape(order, -1).T


@lru_cache
def _gauss(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss's rule for the half-normal law."""
    diagonal, off = _recurrence(order)
    values = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off[1:], 1) + np.diag(off[1:], -1))
    # Christoffel's formula: eigenvectors would leave nothing of the smallest weights.
    return values, 1 / np.square(_polynomials(order, values)).sum(0)


def _polynomials(order: int, z: np.ndarray) -> np.ndarray:
    """B_k(z), in the shape (k, *z.shape)."""
    diagonal, off = _recurrence(order)
    values = np.ones((order, *z.shape))
    before = np.zeros_like(z)
    for k in range(order - 1):
        values[k + 1] = ((z - diagonal[k]) * values[k] - off[k] * before) / off[k + 1]
        before = values[k]
    return values


@lru_cache
def _recurrence(order: int) -> tuple[np.ndarray, np.ndarray]:
    """off_k+1 B_k+1 = (z - diagonal_k) B_k - off_k B_k-1, by Lanczos iteration on a fine grid."""
    nodes, weights = np.polynomial.legendre.leggauss(512)
    z = END / 2 * (nodes + 1)
    vectors = [np.sqrt(END / 2 * weights * np.exp(-0.5 * z**2) * math.sqrt(2 / math.pi))]
    diagonal, off = np.zeros(order), np.zeros(order)
    for k in range(order):
        following = z * vectors[-1]
        diagonal[k] = following @ vectors[-1]
        for _ in range(2):  # once would lose orthogonality to rounding
            Q = np.stack(vectors)
            following = following - Q.T @ (Q @ following)
        if k + 1 < order:
            off[k + 1] = np.linalg.norm(following)
            vectors.append(following / off[k + 1])
    return diagonal, off
