"""Kronecker sums against their matrices."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.kronecker_sum import KroneckerSum


def dense(matrices):
    """The matrix of the sum, written out."""
    total = 0
    for j in range(len(matrices)):
        product = torch.eye(1)
        for k, A in enumerate(matrices):
            product = torch.kron(product, A if j == k else torch.eye(len(A)))
        total = total + product
    return total


def jordan(size, value=1.0):
    """A matrix that has one eigenvector only."""
    return value * torch.eye(size) + torch.diag(torch.ones(size - 1), 1)


@pytest.mark.parametrize("axes", range(1, 5))
@pytest.mark.parametrize("seed", range(8))
def test_a_solve_is_that_of_the_matrix(axes, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 6, (axes,), generator=generator).tolist()
    matrices = []
    for axis, m in enumerate(sizes):  # each pattern of defective axes occurs
        A = torch.randn(m, m, generator=generator) + 3 * m * torch.eye(m)
        matrices.append(jordan(m, 2.0) if (seed + axis) % (axis + 2) == 0 else A)
    F = torch.randn(*sizes, 2, generator=generator)
    got = KroneckerSum.of(matrices).solve(F)
    expect = torch.linalg.solve(dense(matrices), F.reshape(-1, 2)).reshape(F.shape)
    assert_close(got, expect, rtol=1e-9, atol=1e-10 * float(expect.abs().max()))


def test_a_matrix_that_no_eigenvectors_diagonalise_is_solved_by_its_schur_form():
    transport = torch.diag(torch.ones(40)) - torch.diag(torch.ones(39), -1)
    diffusion = 2 * torch.eye(30) - torch.diag(torch.ones(29), 1) - torch.diag(torch.ones(29), -1)
    solver = KroneckerSum.of([transport, diffusion])
    assert [factor.triangle is None for factor in solver.factors] == [False, True]
    U = torch.randn(40, 30)
    F = transport @ U + U @ diffusion.mT
    assert_close(solver.solve(F), U, rtol=0, atol=1e-12)


def test_the_condition_of_a_symmetric_sum_is_that_of_its_matrix():
    matrices = [torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([2.0, 3.0, 9.0]))]
    assert KroneckerSum.of(matrices).condition == pytest.approx(torch.linalg.cond(dense(matrices)).item())


def test_a_singular_sum_says_so():
    with pytest.raises(ValueError, match="singular, its eigenvalues reaching from 0 to 7"):
        KroneckerSum.of([torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([-2.0, 5.0]))])
