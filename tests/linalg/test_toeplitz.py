"""Toeplitz products against the dense matrix, and eigenproblems by halves against the whole."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.toeplitz import HALVES, Toeplitz, centrosymmetric, centrosymmetric_eigh, symmetric_eigh
from tests.linalg.grids import stationary


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 101])
def test_products_are_those_of_the_dense_matrix(n):
    column, B = torch.randn(n), torch.randn(n, 3)
    A = Toeplitz(column).dense()
    assert_close(A[0], column)
    assert_close(A.diagonal(-1), column[1:2].expand(n - 1)) if n > 1 else None
    assert torch.equal(A, A.mT) and centrosymmetric(A)
    assert_close(Toeplitz(column) @ B, A @ B, atol=1e-12, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 101])
def test_the_halves_have_the_eigenvectors_of_the_whole(n):
    root = torch.randn(n, n)
    A = root + root.mT
    A = A + A.flip(0, 1)  # centrosymmetric but not Toeplitz
    for matrix, (values, Q) in (
        (A, centrosymmetric_eigh(A)),
        (Toeplitz(A[0]).dense(), Toeplitz(A[0]).eigh()),
    ):
        size = matrix.abs().max().item() * n
        assert_close(Q @ torch.diag(values) @ Q.mT, matrix, atol=1e-14 * size, rtol=0)
        assert_close(Q.mT @ Q, torch.eye(n), atol=1e-13, rtol=0)
        assert_close(values.sort().values, torch.linalg.eigvalsh(matrix), atol=1e-14 * size, rtol=0)
        assert_close(Q.flip(0).abs(), Q.abs(), atol=0, rtol=0)


def test_a_matrix_that_is_not_its_own_reversal_is_taken_whole():
    n = HALVES + 5
    K = stationary(n, 0.2)
    assert centrosymmetric(K)
    K[0, 0] += 1e-9
    assert not centrosymmetric(K)
    for A in (K, stationary(n, 0.2), stationary(HALVES - 1, 0.2)):
        values, Q = symmetric_eigh(A)
        assert_close(Q @ torch.diag(values) @ Q.mT, A, atol=1e-13, rtol=0)
