"""The evidence by iterations is that of a Cholesky factor, and its slope has the errors that it says."""

import math
import weakref

import numpy as np
import pytest
import torch
from gpytorch.priors import GammaPrior
from scipy import stats
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.kernels.products import kernel_product
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.linalg.single import SingleFactor
from kernelfield.models import iterative_evidence
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.iterative_evidence import PROBES, Ladder, StochasticEvidence, System, half_width, spread_of

N = 150


def rows(n=N, *, outputs=1, weighted=False):
    X = torch.rand(n, 2)
    Y = torch.sin(5 * X[:, :1]) + X[:, 1:] ** 2 + 0.2 * torch.randn(n, outputs)
    return Data(X, Y, 0.5 + torch.rand(n) if weighted else None)


def kernel():
    made = Matern(1.5, ard_num_dims=2)
    made.lengthscale, made.outputscale = torch.tensor([0.6, 1.2]), 0.8
    return made


def both(data, mixing=None, *, mean="constant", learn_mixing=False, solver="iterative", noise_prior=None):
    """The exact objective and the stochastic one, of the same rows."""
    own, mixing = kernel(), mixing or Unit()
    trend = Trend.of(mean, data.X)
    options = {"learn": True, "learn_mixing": learn_mixing, "noise_prior": noise_prior}
    exact = Objective(covariance(own, data.X), data, trend, mixing, 0.05, **options)
    ladder = Ladder(solver, 40, 1)
    return exact, StochasticEvidence(exact, data, trend, lambda: kernel_product(own, data.X), ladder)


class Basis:
    """All unit vectors in place of random signs: their mean, times n, is the trace itself."""

    def __init__(self, evidence, monkeypatch):
        n = len(evidence.data.X)
        monkeypatch.setattr(iterative_evidence, "PROBES", n)
        evidence.w = math.sqrt(n) * torch.eye(n)


@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
@pytest.mark.parametrize(
    ("mixing", "learn_mixing"), [(Unit(), False), (InverseGamma(2.0, 3.0), False), (InverseGamma(2.0, 3.0), True)]
)
@pytest.mark.parametrize(("outputs", "weighted"), [(1, False), (2, True)])
def test_with_all_directions_for_random_ones_the_slope_is_exact(
    mean, mixing, learn_mixing, outputs, weighted, monkeypatch
):
    data = rows(60, outputs=outputs, weighted=weighted)
    prior = GammaPrior(1.0, 15.0)
    exact, evidence = both(data, mixing, mean=mean, learn_mixing=learn_mixing, noise_prior=prior)
    Basis(evidence, monkeypatch)
    monkeypatch.setattr(iterative_evidence, "SEARCHING", 1e-10)
    theta = exact.given()
    found = evidence(theta)
    np.testing.assert_allclose(found.gradient, exact(theta)[1], atol=1e-8, rtol=1e-6)
    assert found.residual <= 1e-9


def test_the_slope_is_off_by_what_the_fisher_information_says():
    data = rows()
    exact, _ = both(data)
    theta = exact.given()
    truth, found = exact(theta)[1], []
    for seed in range(30):
        _, evidence = both(data)
        evidence.ladder.factored = True
        evidence.w = iterative_evidence.signs(N, PROBES, data.X, torch.Generator().manual_seed(seed))
        found.append(evidence(theta).gradient)
    spread, n = np.std(found, 0, ddof=1), len(data.X)
    bound = np.sqrt(np.diag(fisher(data, theta, exact)) / PROBES) / n
    assert (np.abs(np.mean(found, 0) - truth) <= 5 * spread / math.sqrt(30) + 1e-4).all()
    # Signs spare the diagonals, so that the bound is not reached; chance goes past it once in a thousand.
    assert (spread <= bound * math.sqrt(stats.chi2.ppf(0.999, 29) / 29)).all()
    assert (spread >= 0.5 * bound).any()


def fisher(data, theta, objective):
    """1/2 tr(A^-1 dA_i A^-1 dA_j), by differences of A."""
    own, h = kernel(), 1e-5

    def matrix(values):
        covariance(own, data.X).assign(values[:-1])
        return own(data.X).to_dense().detach() + math.exp(values[-1]) * torch.eye(len(data.X))

    A = matrix(theta)
    slopes = [(matrix(theta + h * e) - matrix(theta - h * e)) / (2 * h) for e in np.eye(len(theta))]
    parts = [torch.linalg.solve(A, dA) for dA in slopes]
    return np.array([[0.5 * (a * b.mT).sum().item() for b in parts] for a in parts])


def test_a_second_evaluation_starts_from_the_first():
    data = rows()
    exact, evidence = both(data)
    first = evidence(exact.given())
    again = evidence(exact.given())
    assert again.iterations < first.iterations
    # Both solves end at the tolerance of a search, 1e-3 of the right-hand sides, and not at the same point.
    np.testing.assert_allclose(again.gradient, first.gradient, atol=1e-2)


def test_a_factor_serves_matrices_near_its_own(monkeypatch):
    data, made, of = rows(), [], SingleFactor.of
    monkeypatch.setattr(SingleFactor, "of", lambda *given: made.append(of(*given)) or made[-1])
    exact, evidence = both(data)
    Basis(evidence, monkeypatch)
    monkeypatch.setattr(iterative_evidence, "SEARCHING", 1e-10)
    evidence.ladder.factored, theta = True, exact.given()
    for step, factors in ((0.0, 1), (0.1, 1), (-0.1, 1)):
        np.testing.assert_allclose(evidence(theta + step).gradient, exact(theta + step)[1], atol=1e-8, rtol=1e-6)
        assert len(made) == factors
    monkeypatch.setattr(iterative_evidence, "worth_of_a_factor", lambda n: 0)
    np.testing.assert_allclose(evidence(theta + 1).gradient, exact(theta + 1)[1], atol=1e-8, rtol=1e-6)
    assert len(made) == 2


def test_the_last_factor_makes_room_for_the_next(monkeypatch):
    made, alive, of = [], [], SingleFactor.of

    def counted(*given):
        alive.append(sum(one() is not None for one in made))
        factor = of(*given)
        made.append(weakref.ref(factor))
        return factor

    monkeypatch.setattr(SingleFactor, "of", counted)
    monkeypatch.setattr(iterative_evidence, "worth_of_a_factor", lambda n: 0)
    exact, evidence = both(rows())
    evidence.ladder.factored = True
    for step in (0.0, 1.0):
        evidence(exact.given() + step)
    assert alive == [0, 0]


def test_a_search_that_goes_on_has_the_factor_that_it_had():
    data = rows()
    (exact, first), (_, second) = both(data), both(data)
    first.ladder.factored, theta = True, exact.given()
    for step in (0.0, 0.05):
        first(theta + step)
    state = {name: value.clone() for name, value in first.state().items()}
    second.restore(state)
    assert second.ladder.held is None  # a search that has ended needs none
    np.testing.assert_array_equal(first(theta + 0.1).gradient, second(theta + 0.1).gradient)
    np.testing.assert_array_equal(second.held_at, theta)


def test_the_log_determinant_is_within_its_interval_in_nineteen_of_twenty_seeds():
    data = rows(400)
    A = kernel()(data.X).to_dense().detach() + 0.01 * torch.eye(400)
    truth, inside = torch.linalg.slogdet(A)[1].item(), 0
    for seed in range(20):
        product = kernel_product(kernel(), data.X)
        found = System.low_rank(product, torch.full((400,), 0.01), 20, seed).determinant(seed)
        inside += abs(found.value - truth) <= half_width(found.error)
        assert half_width(found.error) < 0.05 * abs(truth)
    assert inside >= 18  # 19 are expected, and fewer than 18 once in thirteen


def test_noise_is_shared_out_by_weights():
    data = rows(10, weighted=True)
    assert_close(spread_of(0.3, data), 0.3 / data.weight)
    assert_close(spread_of(0.3, Data(data.X, data.Y)), torch.full((10,), 0.3))


def hard(noise):
    """Little noise under a kernel of slow decay, of which a low rank explains little."""
    own, X = Matern(0.5), torch.rand(200, 2)
    product = kernel_product(own, X)
    return product, torch.full((200,), noise), own(X).to_dense().detach() + noise * torch.eye(200)


def test_a_factor_is_made_where_a_low_rank_leaves_much_to_iterations(monkeypatch):
    monkeypatch.setattr(iterative_evidence, "worth_of_a_factor", lambda n: 5)
    product, spread, A = hard(1e-5)
    B, ladder = torch.randn(200, 1), Ladder("iterative", 5, 0)
    system, found = ladder.solution(product, spread, B, tolerance=1e-8)
    assert ladder.factored
    assert system.rank == 200
    assert found.iterations > 5
    assert_close(found.X, torch.linalg.solve(A, B), atol=1e-4, rtol=1e-5)
    assert ladder.system(product, spread).rank == 200  # and the next matrix has one at once


def test_an_easy_matrix_gets_no_factor():
    product, spread, A = hard(1.0)
    B, ladder = torch.randn(200, 3), Ladder("iterative", 20, 0)
    system, found = ladder.solution(product, spread, B, tolerance=1e-8)
    assert not ladder.factored
    assert system.rank == 20
    assert_close(found.X, torch.linalg.solve(A, B), atol=1e-6, rtol=1e-6)


def test_a_rank_above_that_of_the_matrix_is_cut():
    own = RBF()
    own.lengthscale = 50.0
    X = torch.rand(100, 1)
    system = System.low_rank(kernel_product(own, X), torch.full((100,), 0.1), 60, 0)
    assert system.rank < 20
