"""Solver: everything a model may ask of a positive-definite system A = K + noise.

A Gaussian-process model is written once, against these questions. Dense, Kronecker,
latent-Kronecker and iterative solvers answer them in their own way.
"""

from typing import Protocol

from torch import Tensor


class Solver(Protocol):
    """A = L L^T, of size n."""

    def solve(self, B: Tensor) -> Tensor:
        """A^-1 B for B (n, k)."""

    def whiten(self, B: Tensor) -> Tensor:
        """L^-1 B for B (*b, n, k)."""

    def logdet(self) -> Tensor:
        """log det A, a scalar, in nats."""
