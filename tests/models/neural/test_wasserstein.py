import numpy as np
import pytest
import scipy.linalg
import torch
from torch.testing import assert_close

from kernelfield.models.neural.wasserstein import root, wasserstein


def covariance(n: int, rank: int, seed: int) -> torch.Tensor:
    half = torch.randn(n, rank, generator=torch.Generator().manual_seed(seed))
    return half @ half.mT


def test_of_numbers_is_the_square_of_the_difference_of_standard_deviations():
    for a, b in ((4.0, 1.0), (2.0, 2.0), (1e-8, 3.0)):
        expected = torch.tensor((a**0.5 - b**0.5) ** 2)
        assert_close(wasserstein(torch.tensor([[a]]), torch.tensor([[b]])), expected, atol=1e-14, rtol=1e-12)


def test_of_commuting_matrices_adds_up_over_eigenvalues():
    Q, _ = torch.linalg.qr(torch.randn(6, 6))
    a, b = torch.rand(6), torch.rand(6)
    expected = (a.sqrt() - b.sqrt()).square().sum()
    assert_close(wasserstein(Q * a @ Q.mT, Q * b @ Q.mT), expected)


@pytest.mark.parametrize(("one", "other"), [(8, 8), (3, 8), (8, 2), (4, 4)])
def test_agrees_with_square_roots_of_matrices(one, other):
    A, K = covariance(8, one, 0), covariance(8, other, 1)
    half = scipy.linalg.sqrtm(A.numpy() + 1e-14 * np.eye(8)).real
    between = scipy.linalg.sqrtm(half @ K.numpy() @ half + 1e-14 * np.eye(8)).real
    expected = A.trace() + K.trace() - 2 * np.trace(between)
    assert_close(wasserstein(A, K), expected, rtol=0, atol=1e-5)  # roots of 1e-14 on singular directions


def test_is_symmetric_and_nothing_for_equal_laws():
    A, K = covariance(7, 7, 0), covariance(7, 7, 1)
    assert_close(wasserstein(A, K), wasserstein(K, A))
    assert abs(wasserstein(A, A).item()) < 1e-12 * A.trace()


@pytest.mark.parametrize("target", [covariance(5, 5, 0), covariance(5, 2, 0), torch.eye(5)])
def test_the_gradient_is_that_of_differences_also_at_coinciding_eigenvalues(target):
    for K in (covariance(5, 5, 1), 2 * torch.eye(5)):
        K = K.requires_grad_()

        def symmetric(K):
            return wasserstein(target, (K + K.mT) / 2)

        assert torch.autograd.gradcheck(symmetric, (K,))


def test_the_gradient_vanishes_where_the_laws_are_equal():
    A = covariance(6, 6, 0)
    K = A.clone().requires_grad_()
    wasserstein(A, K).backward()
    assert K.grad.abs().max() < 1e-10


def test_a_root_keeps_the_rank_that_rounding_leaves():
    A = covariance(9, 4, 2)
    assert root(A).shape == (9, 4)
    assert_close(root(A) @ root(A).mT, A)
