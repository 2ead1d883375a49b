"""A factor in single precision is an exactly known preconditioner, and near to the matrix."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.kernels.products import kernel_product
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.linalg.iterative import conjugate_gradients, log_determinant
from kernelfield.linalg.single import PANEL, SingleFactor


def system(n=PANEL + 130, noise=1e-4, kernel=None, d=2):
    """More rows than a panel has, so that panels meet; K, A and the products of K."""
    X, kernel = torch.rand(n, d), kernel or RBF()
    kernel.lengthscale = 0.3
    product = kernel_product(kernel, X)
    K = kernel(X).to_dense().detach()
    return product, torch.full((n,), noise), K + noise * torch.eye(n)


def dense(P):
    """P itself, of what is stored."""
    L, G = P.triangle.factor.double().tril(), P.inner.F
    return L @ (torch.eye(len(L)) + G @ G.mT) @ L.mT


def test_its_answers_are_those_of_the_matrix_that_it_stores():
    product, spread, _ = system()
    P = SingleFactor.of(product, spread)
    M = dense(P)
    B = torch.randn(len(M), 3)
    assert_close(P.unwhiten(P.whiten(B)), torch.linalg.solve(M, B), rtol=1e-6, atol=1e-6)
    assert_close(P.solve(B), torch.linalg.solve(M, B), rtol=1e-6, atol=1e-6)
    half = P.colour(torch.eye(len(M)))
    assert_close(half @ half.mT, M)
    assert_close(P.whiten(half), torch.eye(len(M)))
    assert_close(P.logdet(), torch.linalg.slogdet(M)[1])


@pytest.mark.parametrize("noise", [1e-1, 1e-4, 1e-8])
@pytest.mark.parametrize("kernel", [RBF, lambda: Matern(1.5)], ids=["rbf", "matern"])
def test_the_matrix_lies_between_the_bound_and_the_factor(noise, kernel):
    product, spread, A = system(noise=noise, kernel=kernel())
    P = SingleFactor.of(product, spread)
    left = P.whiten(P.whiten(A).mT)
    values = torch.linalg.eigvalsh((left + left.mT) / 2)
    assert values.min() >= P.least
    assert values.max() <= 1 + 1e-4
    assert P.triangle.factor.dtype == torch.float32


@pytest.mark.parametrize("lengthscale", [3.0, 300.0])
def test_the_bound_holds_where_all_rows_are_nearly_alike(lengthscale):
    """The rounding of the factor is then several times its shift."""
    kernel, X, noise = RBF(), torch.rand(400, 1), 1e-6
    kernel.lengthscale = lengthscale
    product = kernel_product(kernel, X)
    P = SingleFactor.of(product, torch.full((400,), noise))
    left = P.whiten(P.whiten(product(torch.eye(400)) + noise * torch.eye(400)).mT)
    assert torch.linalg.eigvalsh((left + left.mT) / 2).min() >= P.least


def test_noise_of_each_row_is_its_own():
    product, _, _ = system(n=300)
    spread = 0.01 + torch.rand(300)
    P, K = dense(SingleFactor.of(product, spread)), product(torch.eye(300))
    assert_close(P, K + spread.diag(), atol=1e-5, rtol=1e-5)
    assert_close((P - K).diagonal(), spread, atol=1e-5, rtol=1e-5)


def test_what_leads_is_taken_away_before_it_is_rounded():
    """The rounding in the largest eigenvalue, some hundreds, is many times the noise."""
    kernel, X, noise = Matern(1.5), torch.rand(800, 3), 1e-6
    kernel.lengthscale = 2.0
    product = kernel_product(kernel, X)
    A = product(torch.eye(800)) + noise * torch.eye(800)
    P = SingleFactor.of(product, torch.full((800,), noise))
    assert torch.finfo(torch.float32).eps * torch.linalg.eigvalsh(A)[-1] > 30 * noise
    assert (dense(P) - A).norm(2) < noise


def test_it_solves_in_few_iterations_what_takes_thousands():
    product, spread, A = system(noise=1e-5, kernel=Matern(1.5))
    B = torch.randn(len(A), 2)
    P = SingleFactor.of(product, spread)
    found = conjugate_gradients(lambda X: A @ X, B, precondition=P.solve, tolerance=1e-9)
    plain = conjugate_gradients(lambda X: A @ X, B, tolerance=1e-9, steps=300, quiet=True)
    assert found.converged and found.iterations <= 40
    assert not plain.converged
    assert_close(found.X, torch.linalg.solve(A, B), atol=1e-3, rtol=1e-5)


def test_little_of_the_log_determinant_is_left_to_chance():
    product, spread, A = system(noise=1e-5, kernel=Matern(1.5))
    P = SingleFactor.of(product, spread)
    generator = torch.Generator().manual_seed(0)
    found = log_determinant(lambda X: A @ X, spread, generator=generator, preconditioner=P)
    assert found.value == pytest.approx(torch.linalg.slogdet(A)[1].item(), abs=4 * found.error + 1e-6)
    assert found.error < 1e-3 * len(A)


def test_a_matrix_that_is_not_positive_is_refused():
    class Negative:
        def __call__(self, V):
            return 2 * V.sum(0) - V

        def rows(self, index):
            return (2 - torch.eye(20))[index]

        diagonal = torch.ones(20)

    with pytest.raises(NotPositiveDefinite, match="no Cholesky factor in single precision"):
        SingleFactor.of(Negative(), torch.full((20,), 0.1))


def test_single_vectors_get_single_answers_of_the_same_factor():
    product, spread, _ = system()
    P, B = SingleFactor.of(product, spread), torch.randn(len(spread), 2)
    for answer in (P.solve, P.whiten, P.unwhiten, P.colour):
        found = answer(B.float())
        assert found.dtype == torch.float32
        assert_close(found.double(), answer(B), rtol=1e-4, atol=1e-5 * answer(B).abs().max().item())
