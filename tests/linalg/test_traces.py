"""Traces by probes against dense algebra."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.preconditioner import LowRankPlusDiagonal, low_rank
from kernelfield.linalg.traces import Probes


def problem():
    X = torch.rand(150, 2)
    r = torch.cdist(X, X) * 3
    K, by_length = torch.exp(-r.square() / 2), r.square() * torch.exp(-r.square() / 2)
    A = K + 1e-2 * torch.eye(150)
    P = LowRankPlusDiagonal(
        low_rank(lambda i: K[i], K.diagonal(), 40, generator=torch.Generator().manual_seed(0)), 1e-2
    )
    return A, by_length, P


@pytest.mark.parametrize("preconditioned", [False, True])
def test_pairs_have_the_trace_for_their_mean(preconditioned):
    A, dA, P = problem()
    probes = Probes.draw(
        A[0], 400, preconditioner=P if preconditioned else None, generator=torch.Generator().manual_seed(1)
    )
    left, right = probes.pairs(torch.linalg.solve(A, probes.right))
    for change in (dA, torch.eye(150)):
        each = 400 * (left * (change @ right)).sum(0)
        exact = torch.linalg.solve(A, change).trace()
        assert abs(each.mean() - exact) < 6 * each.std() / 20
        assert_close((left * (change @ right)).sum(), each.mean())


def test_with_all_of_the_signs_the_trace_is_exact():
    A, dA, P = problem()
    probes = Probes.draw(A[0], 4, preconditioner=P)
    signs = P.whiten(probes.right)
    assert_close(signs.abs(), torch.ones_like(signs), rtol=1e-6, atol=1e-6)
    assert_close(probes.partners, P.solve(probes.right), rtol=1e-6, atol=1e-6)
    basis = Probes(P.colour(torch.eye(150)) * 150, P.unwhiten(torch.eye(150)))
    left, right = basis.pairs(torch.linalg.solve(A, basis.right))
    assert_close((left * (dA @ right)).sum(), torch.linalg.solve(A, dA).trace(), rtol=1e-6, atol=0)


def test_a_preconditioner_leaves_less_to_chance():
    A, dA, P = problem()
    spread = []
    for preconditioner in (None, P):
        probes = Probes.draw(A[0], 400, preconditioner=preconditioner, generator=torch.Generator().manual_seed(1))
        left, right = probes.pairs(torch.linalg.solve(A, probes.right))
        spread.append((left * (dA @ right)).sum(0).std())
    assert spread[1] < 0.7 * spread[0]
