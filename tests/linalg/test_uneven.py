"""Grids whose noise differs from cell to cell; what they share with missing cells is in test_latent."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.nearest import nearest
from kernelfield.linalg.sparse_factor import SparseFactor
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
    # Traces are means over four random vectors: 1e-3 is what they leave after the leading eigenvectors.
    assert max(slopes_off(factors, spread, observed, solver, found.X, Y)) < 1e-3


def test_the_trace_tells_most_of_what_a_few_eigenvectors_leave(monkeypatch):
    monkeypatch.setattr("kernelfield.linalg.leading.RANK", 200)
    monkeypatch.setattr("kernelfield.linalg.leading.CLOSE", math.inf)
    factors, spread, observed, solver = record((25, 25), 0.4, "matern12", 0.3, noise=0.03)
    exact = log_determinant(factors, spread, observed)
    determinant = solver.determinant
    assert solver.near.F.shape[1] == 200 and abs(determinant.value - exact) < 6 * determinant.error
    monkeypatch.setattr("kernelfield.linalg.uneven.SURE", math.inf)
    blind = record((25, 25), 0.4, "matern12", 0.3, noise=0.03)[-1].determinant
    assert abs(blind.value - exact) < 6 * blind.error and determinant.error < blind.error / 3


def slopes_off(factors, spread, observed, solver, X, Y):
    """How far slopes in factors, scale and noise are from those of dense algebra, as shares of the largest of each."""
    by_factors, by_scale, by_noise = dense_gradient(factors, spread, 1.3, observed, Y, c=0.7)
    pull = solver.pull(X, c=0.7)
    pairs = [(symmetric(mine), symmetric(wanted)) for mine, wanted in zip(pull.factors, by_factors, strict=True)]
    in_factors = max(off(mine, wanted) for mine, wanted in pairs)
    return in_factors, off(pull.scale, by_scale), off(pull.noise, by_noise[0])


def off(mine, wanted):
    return ((mine - wanted).abs().max() / wanted.abs().max()).item()


def log_determinant(factors, spread, observed):
    seen = observed.flatten()
    return torch.logdet((1.3 * kron(factors) + spread.flatten().diag())[seen][:, seen]).item()


def test_the_nearest_cells_tell_a_rough_grid(monkeypatch):
    """Solve and gradient as dense algebra has them, in few products, and what is said of the error is so."""
    factors, spread, observed, solver = record((22, 22), 0.4, "matern12", 0.3, noise=0.01)
    seen = observed.flatten()
    A = (1.3 * kron(factors) + spread.flatten().diag())[seen][:, seen]
    assert isinstance(solver.near, SparseFactor)
    Y = torch.randn(len(A), 2)
    found = solver.solution(Y)
    assert found.iterations <= 15
    assert_close(found.X, torch.linalg.solve(A, Y), rtol=0, atol=1e-6)
    determinant = solver.determinant
    assert determinant.error < 0.01
    assert abs(determinant.value - torch.logdet(A).item()) < 6 * determinant.error
    # Traces are means over 16 random vectors of what the nearest cells leave: over twelve seeds of them 3e-4 of the
    # largest slope in a factor, 4e-5 of that in the scale and 8e-5 of those in the noise; five times as much is chance.
    in_factors, in_scale, in_noise = slopes_off(factors, spread, observed, solver, found.X, Y)
    assert in_factors < 1.5e-3 and in_scale < 2e-4 and in_noise < 4e-4


def test_a_standard_error_is_one_over_many_seeds(monkeypatch):
    """Where few neighbours leave much, so that chance is all that parts the determinant from its value."""
    monkeypatch.setattr("kernelfield.linalg.leading.RANK", 4)
    monkeypatch.setattr("kernelfield.linalg.uneven.nearest", partial(nearest, neighbours=10))
    factors, observed = [stationary(12, 0.4, "matern12")] * 2, torch.ones(12, 12, dtype=torch.bool)
    ratios = []
    for seed in range(40):
        torch.manual_seed(seed)
        spread, generator = 0.3 * torch.randn(12, 12).exp(), torch.Generator().manual_seed(seed)
        determinant = Uneven.of(factors, spread, 1.3, generator=generator).determinant
        ratios.append((determinant.value - log_determinant(factors, spread, observed)) / determinant.error)
    # The root of the mean of 40 squares has a standard error of 1 / sqrt(80).
    assert abs(torch.tensor(ratios).square().mean().sqrt().item() - 1) < 4 / math.sqrt(80)


def test_noise_that_is_nearly_separable_keeps_the_kronecker_solve():
    factors, observed = [stationary(9, 0.3), stationary(8, 0.2)], torch.ones(9, 8, dtype=torch.bool)
    spread = 0.1 * torch.rand(9)[:, None].add(1) * torch.rand(8).add(1) * torch.rand(9, 8).mul(0.1).add(1)
    solver = Uneven.of(factors, spread, 1.3)
    assert solver.near is None
    # The trace is known: of the logarithms it leaves the square of what noise and separable noise differ by.
    wrong = solver.determinant.value - log_determinant(factors, spread, observed)
    assert abs(wrong) < 6 * solver.determinant.error and solver.determinant.error < 1e-3


@pytest.mark.parametrize(("spread", "kind"), [(0.3, type(None)), (1.0, SparseFactor)])
def test_nearest_cells_take_the_place_of_the_kronecker_solve_where_noise_is_far_from_separable(
    monkeypatch, spread, kind
):
    """A whole grid of more directions than are factored: products with S are the cheaper ones, while it is near."""
    monkeypatch.setattr("kernelfield.linalg.leading.RANK", 4)
    torch.manual_seed(0)
    factors, observed = [stationary(20, 0.2)] * 2, torch.ones(20, 20, dtype=torch.bool)
    noise = 0.01 * (spread * torch.randn(20, 20)).exp()
    solver = Uneven.of(factors, noise, 1.3, observed)
    assert isinstance(solver.near, kind)
    other = Uneven.of(factors, noise, 1.3, observed)
    found = nearest(other.kronecker, observed, other.spread) if solver.near is None else None
    monkeypatch.setitem(vars(other), "near", found)
    errors = solver.determinant.error, other.determinant.error
    # Nearest cells take ten times as long: they are to leave far less to chance.
    assert errors[0] < errors[1] if solver.near is None else errors[0] < errors[1] / 3
    wrong = solver.determinant.value - log_determinant(factors, noise, observed)
    assert abs(wrong) < 6 * solver.determinant.error


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
