import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.linalg.sparse_factor import SparseFactor, Terms, blocks, keep

N, K = 12, 3


@pytest.fixture
def A():
    half = torch.randn(N, 2 * N)
    return half @ half.mT / N


def leaning(A, count, order=None):
    """The factor in which each row leans on the `count` rows before it in an order."""
    order = torch.randperm(N) if order is None else order
    place = torch.empty_like(order)
    place[order] = torch.arange(N)
    back = place[:, None] - torch.arange(count, 0, -1)
    neighbours = torch.where(back < 0, -1, order[back.clamp_min(0)])
    half = torch.zeros(N, count + 1)
    for where, index, there in blocks(neighbours, torch.arange(N)):
        block = A[index[:, :, None], index[:, None, :]]
        kept = keep(block, there)
        half[where] = Terms.of(kept, torch.ones(len(kept), count + 1, 1)).half * (1 if there is None else there)
    return SparseFactor(order, neighbours, half)


def dense(factor):
    W = torch.zeros(N, N)
    for row, (near, half) in enumerate(zip(factor.neighbours, factor.half, strict=True)):
        W[row, row] = half[-1]
        for column, value in zip(near.tolist(), half[:-1], strict=True):
            if column >= 0:
                W[row, column] = value
    return W


def test_a_term_is_the_conditional_law_of_the_last_entry(A):
    V = torch.randn(N, 2)
    terms = Terms.of(A, V)
    joint = torch.distributions.MultivariateNormal(torch.zeros(N), A)
    others = torch.distributions.MultivariateNormal(torch.zeros(N - 1), A[:-1, :-1])
    expected = joint.log_prob(V.mT) - others.log_prob(V[:-1].mT)
    density = -0.5 * terms.whitened.square() + terms.half[-1].log() - 0.5 * torch.tensor(2 * torch.pi).log()
    assert_close(density, expected)
    assert_close(terms.half @ V, terms.whitened)
    assert_close(terms.weights[:-1], torch.linalg.solve(A[:-1, :-1], V[:-1]))
    assert (terms.weights[-1] == 0).all()


def test_the_slope_is_that_of_the_log_density(A):
    V, mix = torch.randn(N, 3), torch.randn(3, 2)
    A = A.clone().requires_grad_()
    joint = torch.distributions.MultivariateNormal(torch.zeros(N), A)
    others = torch.distributions.MultivariateNormal(torch.zeros(N - 1), A[:-1, :-1])
    Y = V @ mix
    (G,) = torch.autograd.grad((joint.log_prob(Y.mT) - others.log_prob(Y[:-1].mT)).sum(), A)
    assert_close(Terms.of(A.detach(), V).slope(mix), 0.5 * (G + G.mT))


def test_with_all_rows_before_it_is_the_inverse_cholesky_factor(A):
    factor = leaning(A, N - 1, torch.arange(N))
    assert_close(dense(factor), torch.linalg.inv(torch.linalg.cholesky(A)))
    assert_close(factor.logdet(), torch.logdet(A))


def test_the_solver_is_that_of_its_dense_factor(A):
    factor, B = leaning(A, K), torch.randn(N, 2)
    W = dense(factor)
    assert_close(factor.whiten(B), W @ B)
    assert_close(factor.unwhiten(B), W.mT @ B)
    assert_close(factor.solve(B), W.mT @ W @ B)
    assert_close(factor.logdet(), -2 * torch.logdet(W.abs() * torch.eye(N)))
    assert_close(factor.inverse_diagonal(), (W.mT @ W).diagonal())
    assert_close(factor.colour(B), torch.linalg.solve(W, B))


@pytest.mark.parametrize("count", [0, 1, K, N - 1])
def test_the_divergence_from_the_exact_law_is_the_gap_of_log_determinants(A, count):
    factor = leaning(A, count)
    W = dense(factor)
    precision = W.mT @ W
    divergence = 0.5 * ((precision @ A).trace() - N - torch.logdet(precision) - torch.logdet(A))
    assert_close(divergence, 0.5 * (factor.logdet() - torch.logdet(A)), atol=1e-12, rtol=1e-10)
    if count < N - 1:  # no other factor with these zeros is nearer
        for _ in range(20):
            other = W * (1 + 0.01 * torch.randn(N, N))
            precision = other.mT @ other
            assert (precision @ A).trace() - torch.logdet(precision) > N + factor.logdet()


def test_an_extended_factor_keeps_its_rows_and_adds_those_given(A):
    whole = leaning(A, K, torch.arange(N))
    part = SparseFactor(whole.order[:8], whole.neighbours[:8], whole.half[:8])
    assert_close(dense(part.extend(whole.neighbours[8:], whole.half[8:])), dense(whole))
    narrow = part.extend(whole.neighbours[8:, 1:], whole.half[8:, 1:])  # with one neighbour less
    assert_close(narrow.half[8:, 1:], whole.half[8:, 1:])
    assert (narrow.neighbours[8:, 0] == -1).all()


def test_entries_that_are_not_there_change_nothing(A):
    there = torch.tensor([[True, False, True, True]])
    block = A[None, :4, :4]
    V = torch.randn(1, 4, 2) * there[..., None]
    padded = Terms.of(keep(block, there), V)
    rows = [0, 2, 3]
    plain = Terms.of(A[rows][:, rows][None], V[:, rows])
    assert_close(padded.half[:, rows], plain.half)
    assert_close(padded.whitened, plain.whitened)
    assert_close(padded.weights[:, rows], plain.weights)


def test_a_block_that_is_no_covariance_is_refused():
    with pytest.raises(NotPositiveDefinite, match="smallest eigenvalue is -1"):
        Terms.of(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2, 1))
