"""Sparse factors of grids: what they keep of the matrix, the neighbours, the moments."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.kronecker import Kronecker, put
from kernelfield.linalg.nearest import moments_of_inverse, nearest
from tests.linalg.grids import factor, kron


def grid(kinds, shape, share, seed=0):
    """A grid, its observed cells and their noise, and the dense matrix between them."""
    torch.manual_seed(seed)
    factors = [factor(m, kind) for m, kind in zip(shape, kinds, strict=True)]
    observed = torch.rand(shape) >= share
    spread = 0.03 * torch.randn(shape).exp()[observed]
    seen = observed.flatten()
    A = (1.3 * kron(factors))[seen][:, seen] + spread.diag()
    return Kronecker.of(factors, [torch.ones(m) for m in shape], 1.3), observed, spread, A


CASES = [
    (("matern12", "rbf"), (7, 6), 0.0),
    (("matern12", "rbf"), (7, 6), 0.3),
    (("eye", "dense", "matern12"), (3, 4, 5), 0.2),
    (("low rank",), (30,), 0.5),
    (("constant", "matern12"), (4, 1), 0.0),
]


@pytest.mark.parametrize(("kinds", "shape", "share"), CASES)
def test_neighbours_are_those_of_most_correlation(monkeypatch, kinds, shape, share):
    monkeypatch.setattr("kernelfield.linalg.nearest.ROOM", 30.0)  # all are candidates
    S, observed, spread, A = grid(kinds, shape, share)
    K = (A - spread.diag()) / 1.3
    size = K.diagonal().sqrt()
    correlation = (K / size / size[:, None]).abs()
    for k in (1, 5):
        for i, row in enumerate(nearest(S, observed, spread, k).neighbours):
            found = row[row >= 0]
            assert (found < i).all() and len(found) == min(k, i, row.shape[0]) == len(found.unique())
            # Cells of the same correlation are as near as each other.
            wanted = correlation[i, :i].sort(descending=True).values[: len(found)]
            assert_close(correlation[i, found].sort(descending=True).values, wanted, rtol=1e-9, atol=1e-200)


@pytest.mark.parametrize(("kinds", "shape", "share"), CASES)
def test_the_diagonal_is_one_whatever_the_neighbours_and_nothing_is_left_with_all(kinds, shape, share):
    S, observed, spread, A = grid(kinds, shape, share)
    for k in (1, 4, len(A)):
        W = nearest(S, observed, spread, k)
        inner = W.whiten(W.whiten(A).mT)
        assert_close(inner.diagonal(), torch.ones(len(A)), rtol=0, atol=1e-9)
    assert_close(inner, torch.eye(len(A)), rtol=0, atol=1e-9)
    assert_close(W.logdet(), torch.logdet(A))


@pytest.mark.parametrize(("kinds", "shape", "share"), CASES)
def test_moments_are_those_of_the_inverse(kinds, shape, share):
    S, observed, spread, A = grid(kinds, shape, share)
    W, present = nearest(S, observed, spread, 4), observed.flatten().nonzero()[:, 0]
    columns = S.rotate(put(W.unwhiten(torch.eye(len(A))), present, math.prod(shape)))
    for mine, wanted in zip(moments_of_inverse(S, W, present), S.moments(columns, columns), strict=True):
        # Eigenvalues of zero are known up to rounding, and weights of zero with them.
        assert_close(mine, wanted, rtol=0, atol=1e-6 * wanted.abs().max().item())
