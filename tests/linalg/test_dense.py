"""The dense solver against plain inverses, and its extension against a factor from scratch."""

import torch
from torch.testing import assert_close

from kernelfield.linalg.dense import Conditional, Dense


def system(n):
    root = torch.randn(n, n, dtype=torch.float64)
    return root @ root.mT + torch.eye(n, dtype=torch.float64)


def test_every_answer_is_that_of_the_inverse():
    A, B = system(6), torch.randn(6, 2, dtype=torch.float64)
    solver, inverse = Dense.of(A), torch.linalg.inv(A)
    assert_close(solver.solve(B), inverse @ B)
    assert_close(solver.unwhiten(solver.whiten(B)), inverse @ B)
    assert_close(solver.whiten(B).square().sum(0), (B * (inverse @ B)).sum(0))
    assert_close(solver.logdet(), torch.logdet(A))
    assert_close(solver.inverse_diagonal(), inverse.diagonal())


def test_an_extended_factor_is_the_factor_of_the_whole():
    A = system(7)
    extended = Dense.of(A[:5, :5]).extend(A[:5, 5:], A[5:, 5:])
    assert_close(extended.factor, torch.linalg.cholesky(A), atol=1e-12, rtol=1e-10)


def test_a_conditional_matrix_has_the_diagonal_of_its_dense_form():
    prior = system(3)
    explained, trend = 0.3 * torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    lazy = Conditional(prior, lambda: (explained, trend), 0.5, outputs=2)
    expect = prior - explained.mT @ explained + trend.mT @ trend + 0.5 * torch.eye(3)
    assert_close(lazy.to_dense(), torch.kron(expect, torch.eye(2)), atol=1e-12, rtol=0)
    assert_close(lazy.diagonal(), lazy.to_dense().diagonal())


def test_a_variance_that_rounds_below_zero_is_not_negative():
    prior = torch.ones(1, 1, dtype=torch.float64)
    terms = prior * (1 + 1e-12), torch.zeros(0, 1, dtype=torch.float64)
    lazy = Conditional(prior, lambda: terms, 0.0, outputs=1)
    assert lazy.diagonal().item() == 0.0
