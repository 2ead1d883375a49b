"""Low-rank preconditioners against dense algebra, LAPACK and enumeration of what randomness allows."""

import itertools

import pytest
import torch
from scipy.linalg.lapack import dpstrf
from torch.testing import assert_close

from kernelfield.linalg import preconditioner
from kernelfield.linalg.iterative import conjugate_gradients, log_determinant
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal, grow, low_rank

HOWS = ("random", "pivoted", "nystrom")


def matern(n, lengthscale=0.7, d=3):
    r = torch.cdist(X := torch.rand(n, d), X) * 5**0.5 / lengthscale
    return (1 + r + r.square() / 3) * torch.exp(-r)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def factor(K, rank, how="random", seed=0):
    return low_rank(lambda index: K[index], K.diagonal(), rank, how=how, generator=seeded(seed))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("rank", [1, 40, 170, 300])
def test_what_is_left_is_positive_semidefinite_and_zero_at_the_pivots(how, rank):
    K = matern(300)
    F = factor(K, rank, how)
    E = K - F @ F.mT
    assert F.shape == (300, rank) and F.dtype == torch.float64
    assert torch.linalg.eigvalsh(E)[0] > -1e-11
    assert (E.diagonal().abs() < 1e-12).sum() >= rank
    best = torch.linalg.eigvalsh(K)[: 300 - rank].sum()
    assert best - 1e-10 <= E.trace() <= 40 * best + 1e-10
    if rank > 2:
        assert_close(factor(K, rank // 2, how) if how != "nystrom" else F[:, : rank // 2], F[:, : rank // 2])


def test_greedy_pivots_are_those_of_lapack(monkeypatch):
    monkeypatch.setattr(preconditioner, "GREED", 1.0)
    scale = torch.rand(200).add(0.5)
    K = matern(200) * scale * scale[:, None]
    F = factor(K, 60, "pivoted")
    upper, pivots, _, _ = dpstrf(K.numpy(), lower=0)
    expected = torch.zeros(60, 200)
    expected[:, torch.from_numpy(pivots).long() - 1] = torch.from_numpy(upper).triu()[:60]
    assert_close(F, expected.mT, atol=1e-10, rtol=0)


def test_every_greedy_pivot_is_near_the_largest_of_what_is_left():
    K = matern(300)
    F = factor(K, 80, "pivoted")
    for used in range(80):
        left = K.diagonal() - F[:, :used].square().sum(1)
        # The new column takes all that its own row had.
        pivot = torch.where(left > 1e-9, (left - F[:, used].square()).abs(), torch.inf).argmin()
        assert left[pivot] >= preconditioner.GREED * left.max() - 1e-12


def test_random_pivots_have_the_law_of_one_at_a_time():
    K = torch.tensor([[2.0, 1.2, 0.3, 0.0], [1.2, 1.0, 0.2, 0.1], [0.3, 0.2, 0.7, 0.4], [0.0, 0.1, 0.4, 0.5]])
    law = {}
    for i, j in itertools.permutations(range(4), 2):
        left = K.diagonal() - K[i].square() / K[i, i]
        law[i, j] = (K[i, i] / K.trace() * left[j] / left.sum()).item()
    assert sum(law.values()) == pytest.approx(1)
    draws, counts, generator = 1000, dict.fromkeys(law, 0), seeded()
    for _ in range(draws):
        F = low_rank(lambda index: K[index], K.diagonal(), 2, generator=generator)
        first = (F[:, :1] @ F[:, :1].mT - K).abs()
        i = int(first.sum(0).argmin())
        left = K - F[:, :1] @ F[:, :1].mT
        j = int((left - F[:, 1:] @ F[:, 1:].mT).abs().sum(0).add(torch.eye(4)[i] * 9).argmin())
        counts[i, j] += 1
    for pair, p in law.items():
        assert abs(counts[pair] - draws * p) < 6 * (draws * p * (1 - p)) ** 0.5 + 1


@pytest.mark.parametrize("how", HOWS)
def test_an_exhausted_matrix_gives_a_smaller_rank(how):
    V = torch.randn(50, 7)
    K = V @ V.mT
    F = factor(K, 30, how)
    assert F.shape == (50, 7)
    assert_close(F @ F.mT, K, atol=1e-10, rtol=0)
    assert factor(torch.zeros(5, 5), 3, how).shape == (5, 0)


def test_rows_in_single_precision_end_where_they_end():
    K = matern(200, 3.0).float()
    F = low_rank(lambda index: K[index], K.diagonal(), 200, generator=seeded())
    assert F.dtype == torch.float64 and F.shape[1] < 200 and F.isfinite().all()
    assert (K - F @ F.mT).abs().max() < 1e-3


NOISES = [1.0, 3e-3, 1e-9, torch.linspace(-1, 1, 120).mul(4).exp() * 1e-3]


@pytest.mark.parametrize("noise", NOISES, ids=["large", "small", "tiny", "uneven"])
@pytest.mark.parametrize("rank", [1, 30, 110])
def test_every_question_is_answered_as_by_the_dense_matrix(noise, rank):
    K = matern(120, 2.0)
    F = factor(K, rank)
    P = LowRankPlusDiagonal(F, noise)
    A = F @ F.mT + torch.diag(torch.as_tensor(noise).expand(120))
    B = torch.randn(120, 4)
    slack = 1e-14 * 120 * torch.linalg.cond(A).item()
    assert_close(P.multiply(B), A @ B)
    assert (A @ P.solve(B) - B).abs().max() < slack + 1e-12
    assert_close(P.unwhiten(P.whiten(B)), P.solve(B), rtol=1e-9, atol=1e-13 * P.solve(B).abs().max().item())
    assert P.logdet().item() == pytest.approx(torch.linalg.slogdet(A)[1].item(), abs=slack + 1e-9)
    half = P.colour(torch.eye(120))
    assert_close(half @ half.mT, A, atol=1e-8, rtol=0)
    assert_close(P.whiten(half), torch.eye(120), atol=1e-6, rtol=0)
    assert_close(P.diagonal, A.diagonal())


def test_single_precision_vectors_keep_theirs():
    P = LowRankPlusDiagonal(factor(matern(60), 20), 1e-2)
    B = torch.randn(60, 2)
    for ask in (P.solve, P.whiten, P.unwhiten, P.colour):
        assert ask(B.float()).dtype == torch.float32
        assert_close(ask(B.float()).double(), ask(B), rtol=1e-4, atol=1e-4)


def test_more_rank_takes_fewer_products_and_leaves_less_to_chance():
    K, noise = matern(600, 1.5), 3e-3
    A, b = K + noise * torch.eye(600), torch.randn(600, 1)
    exact, products, errors = torch.logdet(A).item(), [], []
    for rank in (10, 60, 250):
        P = LowRankPlusDiagonal(factor(K, rank), noise)
        solution = conjugate_gradients(lambda V: A @ V, b, precondition=P.solve, tolerance=1e-8)
        assert (A @ solution.X - b).norm() <= 1e-8 * b.norm()
        products.append(solution.iterations)
        trace = P.trace(lambda V: A @ V, A.diagonal())
        assert trace == pytest.approx(torch.trace(P.solve(A)).item(), rel=1e-9)
        plain, known = (
            log_determinant(lambda V: A @ V, b[:, 0], generator=seeded(), preconditioner=P, trace=t)
            for t in (None, trace)
        )
        assert abs(plain.value - exact) < 6 * plain.error and abs(known.value - exact) < 6 * known.error
        errors.append((plain.error, known.error))
    assert products[0] > 3 * products[1] > 6 * products[2]
    assert errors[0][0] > errors[2][0] > 4 * errors[2][1]


@pytest.mark.slow
def test_the_rank_grows_while_it_pays_and_foresees_the_products():
    K, noise = matern(1500, 2.0, 6), 3e-3
    A, b = K + noise * torch.eye(1500), torch.randn(1500, 1)

    def grown(**choices):
        return grow(lambda index: K[index], K.diagonal(), noise, generator=seeded(), **choices)

    ranks = [grown(entry=entry).F.shape[1] for entry in (1.0, 50.0, 2000.0)]
    assert ranks[0] < ranks[1] < ranks[2]
    made = grown(entry=200.0)
    P = LowRankPlusDiagonal(made.F, noise)
    taken = conjugate_gradients(lambda V: A @ V, b, precondition=P.solve, tolerance=1e-4).iterations
    assert 0.5 < made.iterations / taken < 2
    assert made.reason.startswith(f"rank {made.F.shape[1]} of 1500: ") and "would save" in made.reason
    assert grown(entry=2000.0, most=100).reason == "rank 100 of 1500: the most that was allowed"
    assert grown(entry=2000.0, most=100).F.shape[1] == 100


@pytest.mark.parametrize("how", HOWS)
def test_bad_input_is_refused_with_a_reason(how):
    K = matern(20)
    for rank in (0, 21):
        with pytest.raises(ValueError, match=f"rank must be between 1 and the 20 rows of the matrix, got {rank}"):
            factor(K, rank, how)
    holed = K.clone()
    holed[:, 3] = torch.nan
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        low_rank(lambda index: holed[index], K.diagonal(), 5, how=how)
    for entry in (-1.0, torch.nan):
        diagonal = K.diagonal().clone()
        diagonal[2] = entry
        with pytest.raises(ValueError, match="diagonal of a kernel matrix must not be negative or NaN, got"):
            low_rank(lambda index: K[index], diagonal, 5, how=how)
    for noise in (0.0, torch.linspace(-1, 1, 20), torch.nan):
        with pytest.raises(ValueError, match="noise must be positive for a preconditioner, got"):
            LowRankPlusDiagonal(factor(K, 3, how), noise)
    with pytest.raises(ValueError, match="how must be 'random', 'pivoted' or 'nystrom', got 'greedy'"):
        factor(K, 3, "greedy")
    with pytest.raises(ValueError, match="noise must be positive for a preconditioner, got 0"):
        grow(lambda index: K[index], K.diagonal(), 0.0)
