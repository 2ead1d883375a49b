"""Grids whose noise differs from cell to cell; what they share with missing cells is in test_latent."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.uneven import Uneven
from tests.linalg.grids import dense_gradient, kron, stationary, symmetric


def record(shape, length, kind, share, *, noise=0.01, probes=16):
    torch.manual_seed(0)
    factors = [stationary(m, length, kind) for m in shape]
    observed = torch.rand(shape) >= share
    spread = noise * torch.randn(shape).exp()
    return factors, spread, observed, Uneven.of(factors, spread, 1.3, observed, probes=probes)


@pytest.fixture(autouse=True)
def iterative(monkeypatch):
    monkeypatch.setattr("kernelfield.linalg.uneven.DENSE", 0)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_leading_eigenvectors_leave_next_to_nothing_of_a_smooth_grid(share):
    """Solve, determinant and gradient: few products, and errors far below those of probes."""
    factors, spread, observed, solver = record((12, 10, 6), 0.3, "rbf", share, probes=4)
    seen = observed.flatten()
    A = (1.3 * kron(factors) + spread.flatten().diag())[seen][:, seen]
    Y = torch.randn(len(A), 2)
    assert solver.near.F.shape[1] < 0.7 * len(A)
    found = solver.solution(Y)
    assert found.iterations <= 12
    assert_close(found.X, torch.linalg.solve(A, Y), rtol=0, atol=1e-7)
    determinant = solver.determinant
    assert determinant.error < 0.02
    assert abs(determinant.value - torch.logdet(A).item()) < max(6 * determinant.error, 1e-6)
    by_factors, by_scale, by_noise = dense_gradient(factors, spread, 1.3, observed, Y, c=0.7)
    # Traces are means over four random vectors: 1e-3 is what they leave after the leading eigenvectors.
    pull = solver.pull(found.X, c=0.7)
    for mine, wanted in zip(pull.factors, by_factors, strict=True):
        assert_close(symmetric(mine), symmetric(wanted), rtol=0, atol=1e-3 * wanted.abs().max().item())
    assert_close(pull.scale, by_scale, rtol=1e-3, atol=0)
    assert_close(pull.noise, by_noise[0], rtol=0, atol=1e-3 * by_noise[0].abs().max().item())


def test_the_trace_tells_most_of_what_a_few_eigenvectors_leave(monkeypatch):
    monkeypatch.setattr("kernelfield.linalg.leading.RANK", 200)
    factors, spread, observed, solver = record((25, 25), 0.4, "matern12", 0.3, noise=0.03)
    seen = observed.flatten()
    exact = torch.logdet((1.3 * kron(factors) + spread.flatten().diag())[seen][:, seen]).item()
    determinant = solver.determinant
    assert solver.near is not None and abs(determinant.value - exact) < 6 * determinant.error
    monkeypatch.setattr("kernelfield.linalg.uneven.SURE", math.inf)
    blind = record((25, 25), 0.4, "matern12", 0.3, noise=0.03)[-1].determinant
    assert abs(blind.value - exact) < 6 * blind.error and determinant.error < blind.error / 3


def test_rough_grids_and_noise_that_is_nearly_separable_keep_the_kronecker_solve():
    assert record((40, 40), 0.3, "matern12", 0.3, noise=1e-4)[-1].near is None
    factors = [stationary(9, 0.3), stationary(8, 0.2)]
    assert Uneven.of(factors, torch.full((9, 8), 0.1)).near is None


def test_a_kernel_below_the_noise_leaves_the_noise_alone():
    solver = Uneven.of([stationary(9, 0.3)] * 2, 1 + torch.rand(9, 9), 1e-9)
    assert solver.near.F.shape == (81, 0)
    assert solver.solution(torch.randn(81, 1)).iterations <= 4
    assert_close(solver.logdet(), solver.spread.log().sum())


def test_gradients_are_unbiased_whatever_the_rank(monkeypatch):
    """With few of the eigenvectors, probes have to find the rest."""
    monkeypatch.setattr("kernelfield.linalg.leading.RANK", 4)
    monkeypatch.setattr("kernelfield.linalg.leading.CLOSE", math.inf)
    factors, spread, observed, solver = record((7, 5, 4), 0.4, "rbf", 0.3, noise=0.3, probes=64)
    assert solver.near.F.shape[1] == 4
    Y = torch.randn(len(solver.spread), 2)
    by_factors, by_scale, by_noise = dense_gradient(factors, spread, 1.3, observed, Y, c=0.7)
    replicates = solver.replicates(solver.solve(Y), c=0.7)

    def check(parts, wanted):
        parts = torch.stack(parts)
        assert ((parts.mean(0) - wanted).abs() <= 6 * parts.std(0) / 8 + 1e-8 * wanted.abs().max()).all()

    for i, wanted in enumerate(by_factors):
        check([symmetric(p.factors[i]) for p in replicates], symmetric(wanted))
    check([p.scale for p in replicates], by_scale)
    check([p.noise for p in replicates], by_noise[0])
