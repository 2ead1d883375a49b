"""Symmetric Toeplitz matrices: stationary kernels on equally spaced points.

Such a matrix is its first column c, A[i, j] = c[|i - j|]. Embedded in a circulant matrix, whose
eigenvectors are Fourier modes, a product costs O(n log n) and no matrix is formed.

Read from both ends it is the same matrix, J A J = A with J the reversal: it is centrosymmetric,
and so is the matrix of any kernel k(|x - x'|) on points that are symmetric about their middle.
Its eigenvectors can then be chosen even or odd, and are those of two matrices of half the size.
For n = 2h, with B the upper left block and C the upper right one, its columns reversed,

    (B + C) u = value u  gives  [u; J u] / sqrt 2,     (B - C) u = value u  gives  [u; -J u] / sqrt 2,

a quarter of the arithmetic of the whole. An odd n leaves its middle row to the even half.

Source: Cantoni & Butler (1976), Eigenvalues and eigenvectors of symmetric centrosymmetric matrices.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

HALVES = 48  # points from which two eigenproblems of half the size are faster than one, measured
# Roundings of the largest entry of its diagonal by which a matrix may miss its own reversal: points are rounded, which
# a short lengthscale magnifies. The eigenproblem of n points rounds by n of them.
ALIKE = 256


@dataclass(frozen=True, eq=False)
class Toeplitz:
    """The symmetric matrix with the first column `column` (n,).

    >>> A = Toeplitz(torch.tensor([2.0, 1.0, 0.5]))
    >>> (A @ torch.ones(3, 1)).flatten().tolist()
    [3.5, 4.0, 3.5]
    """

    column: Tensor

    def dense(self) -> Tensor:
        """The matrix (n, n), equal to its transpose and to its reversal to the last digit."""
        index = torch.arange(len(self.column), device=self.column.device)
        return self.column[(index[:, None] - index).abs()]

    def __matmul__(self, B: Tensor) -> Tensor:
        """A B for B (n, k), by Fourier transforms."""
        n = len(self.column)
        spectrum = torch.fft.rfft(torch.cat([self.column, self.column[1:-1].flip(0)]))
        length = max(2 * n - 2, 1)
        padded = torch.fft.rfft(B, n=length, dim=0)
        return torch.fft.irfft(spectrum[:, None] * padded, n=length, dim=0)[:n]

    def eigh(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (n,), not sorted, and eigenvectors (n, n) in columns."""
        return centrosymmetric_eigh(self.dense())


def centrosymmetric(A: Tensor) -> bool:
    """Whether A (n, n) equals its own reversal, but for a few roundings."""
    slack = ALIKE * torch.finfo(A.dtype).eps * A.diagonal().abs().max()
    half = (len(A) + 1) // 2
    return bool((A[:half] - A[len(A) - half :].flip(0, 1)).abs_().max() <= slack)


def symmetric_eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric A (n, n), by halves where that is right and faster."""
    if len(A) >= HALVES and centrosymmetric(A):
        return centrosymmetric_eigh(A)
    values, vectors = torch.linalg.eigh(A)
    return values, vectors


def centrosymmetric_eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), even ones first and rising within each parity, and eigenvectors (n, n) of A = A' = J A J."""
    n = len(A)
    half, middle = divmod(n, 2)
    corner, across = A[:half, :half], A[:half, n - half :].flip(1)
    even = A.new_empty(half + middle, half + middle)
    torch.add(corner, across, out=even[:half, :half])
    if middle:
        even[half, :half] = even[:half, half] = math.sqrt(2) * A[:half, half]
        even[half, half] = A[half, half]
    even_values, even_vectors = torch.linalg.eigh(even)
    del even
    odd_values, odd_vectors = torch.linalg.eigh(corner - across)
    vectors = A.new_zeros(n, n)
    split = half + middle
    torch.mul(even_vectors[:half], math.sqrt(0.5), out=vectors[:half, :split])
    torch.mul(odd_vectors, math.sqrt(0.5), out=vectors[:half, split:])
    if middle:
        vectors[half, :split] = even_vectors[half]
    vectors[n - half :, :split] = vectors[:half, :split].flip(0)
    vectors[n - half :, split:] = vectors[:half, split:].flip(0).neg_()
    return torch.cat([even_values, odd_values]), vectors
