"""Matrices between single cells, and their derivatives, against dense algebra on random grids."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg import cells
from kernelfield.linalg.kronecker import Kronecker
from tests.linalg.grids import kron, noise_matrix, random_grid, random_noise


def close(a, b):
    assert_close(a, b, rtol=0, atol=1e-10 * max(b.abs().max().item(), 1e-300))


def case(seed, kind="even"):
    """A solver, its dense matrix, the flat indices of some cells in any order, and those along the axes."""
    factors, scale = random_grid(seed, cells=150)
    noise = random_noise(factors, kind)
    K = scale * kron(factors)
    chosen = torch.randperm(len(K))[: 1 + len(K) // 2]
    solver = Kronecker.of(factors, noise, scale)
    return solver, K + noise_matrix(noise, len(K)), chosen, torch.unravel_index(chosen, solver.shape)


@pytest.mark.parametrize("seed", range(8))
def test_the_covariance_of_cells_and_its_derivative(seed):
    solver, _, chosen, index = case(seed)
    leaves = [K.clone().requires_grad_() for K in solver.factors]
    expected = kron(leaves)[chosen][:, chosen]
    close(cells.covariance(solver.factors, index), expected.detach())
    G = torch.randn(len(chosen), len(chosen))
    for found, wanted in zip(
        cells.pull_covariance(solver.factors, index, G), torch.autograd.grad((G * expected).sum(), leaves), strict=True
    ):
        close(found, wanted)


@pytest.mark.parametrize("block", [7, 10**6])
@pytest.mark.parametrize("kind", ["even", "separable"])
@pytest.mark.parametrize("seed", range(8))
def test_a_block_of_the_inverse_and_its_moments(seed, kind, block, monkeypatch):
    monkeypatch.setattr("kernelfield.linalg.cells.BLOCK", block)
    solver, A, chosen, index = case(seed, kind)
    inverse = torch.linalg.inv(A)
    close(cells.inverse_block(solver, index), inverse[chosen][:, chosen])
    root = torch.randn(len(chosen), len(chosen))
    H = root @ root.mT
    R = kron(solver.rotations)
    back = torch.linalg.inv(R)
    T = back.mT @ inverse[:, chosen] @ H @ inverse[chosen] @ back
    d = len(solver.shape)
    T = T.reshape(*solver.shape, *solver.shape)
    for weights, moments in zip((solver.values, solver.ones), cells.pull_inverse_block(solver, index, H), strict=True):
        for axis in range(d):
            left, right = "abcd"[:d], "".join("pqrs"[i] if i == axis else "abcd"[i] for i in range(d))
            others = [i for i in range(d) if i != axis]
            weighed = ",".join(["", *("abcd"[i] for i in others)])
            equation = f"{left}{right}{weighed}->{'abcd'[axis]}{'pqrs'[axis]}"
            close(moments[axis], torch.einsum(equation, T, *(weights[i] for i in others)))
