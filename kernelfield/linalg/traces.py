"""Traces tr(A^-1 dA) for gradients of the evidence, from probes that are solved together with the data.

With z of covariance P, any preconditioner, E (A^-1 z)(P^-1 z)' = A^-1, so that

    tr(A^-1 dA) = E (A^-1 z)' dA (P^-1 z),

which for a P near A has the variance of the symmetric form A^-1/2 dA A^-1/2.

Sources: Hutchinson (1990), "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing
Splines"; Gardner et al. (2018), "GPyTorch: Blackbox Matrix-Matrix Gaussian Process Inference", for probes of the
preconditioner's covariance; Lin et al. (2024), "Improving Linear System Solvers for Hyperparameter Optimisation in
Iterative Gaussian Processes".
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.linalg.iterative import signs
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal
from kernelfield.linalg.single import SingleFactor


@dataclass(frozen=True, eq=False)
class Probes:
    """Right-hand sides (n, q) to solve, and what their solutions are paired with.

    >>> probes = Probes.draw(torch.ones(3), 2, generator=torch.Generator().manual_seed(0))
    >>> left, right = probes.pairs(probes.right / 2)  # solutions for A = 2 I
    >>> (left * right).sum().item()  # tr A^-1
    1.5
    """

    right: Tensor
    partners: Tensor  # (n, q)

    @classmethod
    def draw(
        cls,
        like: Tensor,
        count: int = 16,
        *,
        preconditioner: LowRankPlusDiagonal | SingleFactor | None = None,
        generator: torch.Generator | None = None,
    ) -> "Probes":
        """Draw `count` probes for vectors like `like` (n,). The same generator state gives the same randomness."""
        z = signs(len(like), count, like, generator)
        return cls(z, z) if preconditioner is None else cls.of(z, preconditioner)

    @classmethod
    def of(cls, z: Tensor, preconditioner: LowRankPlusDiagonal | SingleFactor) -> "Probes":
        """The probes of random signs z (n, q)."""
        return cls(preconditioner.colour(z), preconditioner.unwhiten(z))

    def pairs(self, solved: Tensor) -> tuple[Tensor, Tensor]:
        """left, right (n, q) with E sum(left o (dA right)) = tr(A^-1 dA), given A^-1 of `self.right` (n, q).

        Each column pair times q is one unbiased estimate: their spread is the error.
        """
        return solved / solved.shape[1], self.partners
