"""Variances by iterations come with bounds that hold, and paths with the law that they say."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotConverged
from kernelfield.kernels.products import kernel_product
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.linalg.iterative import Solution
from kernelfield.linalg.single import SingleFactor
from kernelfield.models import iterative_posterior
from kernelfield.models.iterative_evidence import System
from kernelfield.models.iterative_posterior import Waves, has_waves, solve

N, NOISE = 300, 1e-3


def problem(kernel=None, noise=NOISE, queries=40):
    """A, its products, and covariances with points of which some are rows."""
    own = kernel or Matern(2.5)
    own.lengthscale = 0.4
    X = torch.rand(N, 2)
    Z = torch.cat([X[:10], torch.rand(queries - 10, 2)])
    with torch.no_grad():
        K, A = own(X, Z).to_dense(), own(X).to_dense() + noise * torch.eye(N)
        prior = own(Z, diag=True)
    return kernel_product(own, X), torch.full((N,), noise), K, A, prior


def systems(product, spread, rank):
    return System.low_rank(product, spread, rank, 0), System.single(product, spread, SingleFactor.of(product, spread))


@pytest.mark.parametrize("accuracy", [1e-1, 1e-4, 1e-8])
@pytest.mark.parametrize("rank", [10, 100])
def test_variances_are_as_accurate_as_was_asked_for_and_never_too_small(accuracy, rank):
    product, spread, K, A, prior = problem()
    truth = prior - (K * torch.linalg.solve(A, K)).sum(0)
    for system in systems(product, spread, rank):
        error = prior - solve(system, K, prior, accuracy).diagonal - truth
        assert (error >= -1e-12).all()
        assert (error <= accuracy * truth + 1e-12).all()


def test_a_point_has_the_same_variance_in_any_company():
    product, spread, K, _, prior = problem()
    for system in systems(product, spread, 30):
        whole = prior - solve(system, K, prior, 1e-6).diagonal
        for part in (slice(3, 4), slice(0, 12), slice(20, 40)):
            alone = prior[part] - solve(system, K[:, part], prior[part], 1e-6).diagonal
            assert_close(alone, whole[part], rtol=1e-6, atol=0)


def test_blocks_of_points_make_no_difference(monkeypatch):
    product, spread, K, _, prior = problem()
    system = System.low_rank(product, spread, 30, 0)
    whole = solve(system, K, prior, 1e-8)
    monkeypatch.setattr(iterative_posterior, "COLUMNS", 7)
    assert_close(solve(system, K, prior, 1e-8).diagonal, whole.diagonal, rtol=1e-6, atol=1e-9)


def test_the_bound_holds_whatever_the_solution_is():
    product, spread, K, A, _ = problem()
    for system in systems(product, spread, 30):
        x = torch.linalg.solve(A, K) + 1e-2 * torch.randn_like(K)
        r = K - A @ x
        left = (K * torch.linalg.solve(A, K)).sum(0) - (x * (K + r)).sum(0)
        bound = (r * system.preconditioner.solve(r)).sum(0) / system.least
        assert (left >= 0).all()
        assert (left <= bound).all()


def test_the_joint_matrix_is_known_from_above():
    product, spread, K, A, prior = problem()
    found = solve(System.low_rank(product, spread, 20, 0), K, prior, 1e-3).to_dense()
    truth = K.mT @ torch.linalg.solve(A, K)
    assert_close(found, found.mT)
    assert torch.linalg.eigvalsh(truth - found).min() > -1e-10
    assert_close(found, truth, atol=1e-5, rtol=1e-3)  # the accuracy asked for, 1e-3


def test_variances_have_gradients_in_the_covariances():
    product, spread, K, A, prior = problem(queries=12)
    system, K = System.low_rank(product, spread, 30, 0), K.requires_grad_()
    (found,) = torch.autograd.grad(solve(system, K, prior, 1e-10).diagonal.sum(), K)
    # The form is right to 1e-10, and its slope, linear in the error of the solution, to the root of that.
    assert_close(found, 2 * torch.linalg.solve(A, K.detach()), atol=1e-4, rtol=1e-3)


def test_what_cannot_be_reached_is_said_with_how_far_it_came(monkeypatch):
    product, spread, K, _, prior = problem(Matern(0.5), noise=1e-8)
    system = System.low_rank(product, spread, 2, 0)
    gives_up = lambda self, B, **options: Solution(torch.zeros_like(B), torch.ones(B.shape[1]), 0, False)  # noqa: E731
    monkeypatch.setattr(System, "solution", gives_up)
    with pytest.warns(NotConverged, match="variances of .* points are known within .* asked for 0.0001"):
        solve(system, K, prior, 1e-4)


@pytest.mark.parametrize("kernel", [RBF, lambda: Matern(1.5, active_dims=(1,))], ids=["rbf", "matern of one input"])
def test_waves_have_the_covariance_of_the_kernel(kernel):
    own, X = kernel(), torch.rand(6, 2)
    own.lengthscale, own.outputscale = 0.5, 1.7
    waves = Waves.of(own.requires_grad_(False), 2, 0, X)
    features = waves(X, torch.eye(waves.width))
    # The law of a sum of random waves over their frequencies, and its spread, bound the error.
    assert_close(features @ features.mT, own(X).to_dense(), atol=6 * 1.7 / waves.width**0.5, rtol=0)
    assert_close((features @ features.mT).diagonal(), torch.full((6,), 1.7))


def test_kernels_without_a_known_spectrum_have_no_waves():
    assert has_waves(RBF()) and has_waves(Matern(0.5))
    assert not has_waves(RationalQuadratic()) and not has_waves(RBF() + RBF())


def test_no_warning_where_all_is_well():
    product, spread, K, _, prior = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(System.low_rank(product, spread, 50, 0), K, prior, 1e-6)


def test_the_last_round_is_looked_at_too(monkeypatch):
    product, spread, K, _, prior = problem()
    system = System.low_rank(product, spread, 10, 0)
    rounds, solution = [], System.solution
    monkeypatch.setattr(System, "solution", lambda self, B, **options: rounds.append(1) or solution(self, B, **options))
    solve(system, K, prior, 1e-6)
    monkeypatch.setattr(iterative_posterior, "ROUNDS", len(rounds))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(system, K, prior, 1e-6)
