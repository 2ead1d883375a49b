"""Kronecker solvers against dense algebra on random grids, and against automatic differentiation."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.linalg.kronecker import Kronecker, at_points, contract, khatri_rao
from tests.linalg.grids import dense_gradient, kron, noise_matrix, random_grid, random_noise, stationary, symmetric

SEEDS = range(12)
NOISES = ("even", "separable")


def close(a, b, slack=1e-10):
    """To `slack` of the largest entry."""
    assert_close(a, b, rtol=0, atol=slack * max(b.abs().max().item(), 1e-300))


def grid(seed, kind):
    factors, scale = random_grid(seed)
    noise = random_noise(factors, kind)
    K = scale * kron(factors)
    return Kronecker.of(factors, noise, scale), K + noise_matrix(noise, len(K)), K


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_is_that_of_the_dense_matrix(seed, kind):
    solver, A, K = grid(seed, kind)
    n = len(A)
    B, eye = torch.randn(n, 3), torch.eye(n)
    close(solver.solve(B), torch.linalg.solve(A, B))
    close(solver.solve(B[:, :1]), torch.linalg.solve(A, B[:, :1]))
    close(solver.multiply(B), A @ B)
    assert solver.logdet().item() == pytest.approx(torch.logdet(A).item(), rel=1e-10, abs=1e-10 * n)
    close(solver.inverse_diagonal(), torch.linalg.inv(A).diagonal())
    close(solver.unwhiten(solver.whiten(B)), torch.linalg.solve(A, B))
    close(solver.whiten(B).mT @ solver.whiten(B), B.mT @ torch.linalg.solve(A, B))
    close(solver.whiten(B.expand(2, n, 3)), solver.whiten(B).expand(2, n, 3))
    close(solver.whiten(solver.colour(eye)), eye)
    close(solver.colour(eye) @ solver.colour(eye).mT, A)
    close(solver.colour_prior(eye) @ solver.colour_prior(eye).mT, K)


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("seed", SEEDS)
def test_points_off_the_grid_are_read_as_by_dense_algebra(seed, kind, monkeypatch):
    solver, A, _ = grid(seed, kind)
    # Blocks of a few cells, so that there is more than one.
    monkeypatch.setattr("kernelfield.linalg.kronecker.BLOCK", 40)
    one, two = ([torch.randn(m, q) for m in solver.shape] for q in (5, 3))
    k1, k2 = khatri_rao(one), khatri_rao(two)
    for j in range(5):
        close(k1[:, j], kron([c[:, j] for c in one]))
    close(solver.variance_reduction(one), (k1 * torch.linalg.solve(A, k1)).sum(0))
    close(solver.reduction(one, two), k1.mT @ torch.linalg.solve(A, k2))
    T = torch.randn(len(A), 2)
    close(at_points(one, T.reshape(*solver.shape, 2)), k1.mT @ T)
    close(at_points(one, T[:, 0].reshape(solver.shape)), k1.mT @ T[:, 0])


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_is_that_of_the_dense_evidence(seed, kind):
    factors, scale = random_grid(seed, cells=150)
    noise = random_noise(factors, kind)
    solver = Kronecker.of(factors, noise, scale)
    everything = torch.ones(solver.shape, dtype=torch.bool)
    Y = torch.randn(everything.numel(), 1 + seed % 3)
    by_factors, by_scale, by_noise = dense_gradient(factors, noise, scale, everything, Y, c=0.7)
    for pull in (solver.pull(solver.solve(Y), c=0.7), solver.pull_whitened(solver.whiten(Y), c=0.7)):
        for found, expected in zip(pull.factors, by_factors, strict=True):
            close(symmetric(found), symmetric(expected), 1e-9)
        close(pull.scale, by_scale, 1e-9)
        for found, expected in zip([pull.noise] if kind == "even" else pull.noise, by_noise, strict=True):
            close(found, expected, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(64, 64), (16, 16, 16)])
def test_four_thousand_cells_agree_to_ten_digits(sizes):
    factors = [stationary(m, 0.1 + 0.1 * i, "matern12") for i, m in enumerate(sizes)]
    solver = Kronecker.of(factors, 0.01, 2.0)
    A = 2 * kron(factors)
    A.diagonal().add_(0.01)
    half, Y = torch.linalg.cholesky(A), torch.randn(4096, 1)
    alpha = torch.cholesky_solve(Y, half)
    close(solver.solve(Y), alpha)
    assert solver.logdet().item() == pytest.approx(2 * half.diagonal().log().sum().item(), rel=1e-10)
    inverse = torch.cholesky_inverse(half)
    pull = solver.pull(alpha)
    G = (alpha @ alpha.mT - inverse) / 2
    assert pull.noise.item() == pytest.approx(G.trace().item(), rel=1e-10)
    rest = kron(factors[1:])
    blocks = [
        [(G[i : i + len(rest), j : j + len(rest)] * rest).sum() for j in range(0, 4096, len(rest))]
        for i in range(0, 4096, len(rest))
    ]
    close(pull.factors[0], 2 * torch.tensor(blocks))


def test_contraction_leaves_axes_without_a_factor():
    T, F, G = torch.randn(3, 4, 5, 2), torch.randn(2, 3), torch.randn(6, 5)
    close(contract([F, None, G], T), torch.einsum("abcz,pa,rc->pbrz", T, F, G))
    close(contract([None, None, None], T), T)
    H = torch.randn(7, 4)
    close(contract([F, H, G], T), torch.einsum("abcz,pa,qb,rc->pqrz", T, F, H, G))
    close(contract([F, H], T), torch.einsum("abcz,pa,qb->pqcz", T, F, H))


def test_the_variance_is_differentiable_where_the_points_are():
    solver, _, _ = grid(3, "even")
    crosses = [torch.randn(m, 2, requires_grad=True) for m in solver.shape]
    assert torch.autograd.gradcheck(lambda *c: solver.variance_reduction(c), crosses)
    assert torch.autograd.gradcheck(lambda *c: solver.reduction(c, c), crosses)


def test_single_precision_stays_single():
    factors = [stationary(5, 0.3).float(), stationary(60, 0.3).float()]
    solver = Kronecker.of(factors, 0.1)
    Y = torch.randn(300, 1, dtype=torch.float32)
    pull = solver.pull(solver.solve(Y))
    for value in (solver.logdet(), solver.colour(Y), *pull.factors, pull.noise, pull.scale):
        assert value.dtype == torch.float32


def test_eigenvalues_that_round_below_zero_count_as_zero():
    factors = [stationary(80, 1.0), stationary(60, 0.8)]
    assert torch.linalg.eigvalsh(factors[0]).min() < 0
    assert Kronecker.of(factors, 1e-8).spectrum.min() >= 1e-8


@pytest.mark.parametrize(
    ("factors", "noise", "scale", "sentence"),
    [
        ([], 0.1, 1.0, "at least one axis"),
        ([torch.ones(2, 3)], 0.1, 1.0, r"factor 0 must be a square matrix, got shape \(2, 3\)"),
        ([torch.tensor([[float("nan")]])], 0.1, 1.0, "factor 0 holds NaN"),
        ([torch.eye(2)], 0.0, 1.0, "noise must be positive, got 0.0"),
        ([torch.eye(2)], 0.1, -1.0, "scale must be positive, got -1.0"),
        ([torch.eye(2), torch.eye(3)], [torch.ones(2)], 1.0, "a vector for each axis"),
        ([torch.eye(2)], [torch.tensor([1.0, -2.0])], 1.0, "noise must be positive, got -2.0 on axis 0"),
        ([torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])], 0.1, 1.0, "factor 1 of the grid is not positive"),
    ],
)
def test_bad_input_is_refused_with_a_reason(factors, noise, scale, sentence):
    with pytest.raises(ValueError, match=sentence):
        Kronecker.of(factors, noise, scale)


def test_an_indefinite_factor_is_named_as_such():
    with pytest.raises(NotPositiveDefinite, match="factor 0"):
        Kronecker.of([torch.tensor([[1.0, 2.0], [2.0, 1.0]])], 5.0)
