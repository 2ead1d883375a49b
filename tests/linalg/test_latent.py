"""Missing cells and uneven noise against dense algebra on random grids."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotConverged
from kernelfield.linalg.kronecker import Kronecker, khatri_rao
from kernelfield.linalg.latent import Latent
from kernelfield.linalg.uneven import Uneven
from tests.linalg.grids import dense_gradient, kron, noise_matrix, random_grid, random_noise, stationary, symmetric

SEEDS = range(8)
KINDS = ("even", "separable", "uneven")
DENSE = [f"kernelfield.linalg.{name}.DENSE" for name in ("latent", "uneven")]


def case(seed, kind, share=0.3):
    """Factors, scale, noise and a mask with at least one cell of either sort where there are two."""
    factors, scale = random_grid(seed, cells=150)
    shape = [len(K) for K in factors]
    observed = torch.rand(shape) > share
    observed.view(-1)[0], observed.view(-1)[-1] = False, True
    return factors, scale, random_noise(factors, kind), observed


def build(factors, scale, noise, observed, **choices):
    if torch.is_tensor(noise):
        return Uneven.of(factors, noise, scale, observed, **choices)
    return Latent.of(Kronecker.of(factors, noise, scale), observed, **choices)


def dense(factors, scale, noise, observed):
    seen = observed.flatten()
    A = scale * kron(factors) + noise_matrix(noise, len(seen))
    return A[seen][:, seen]


def force(monkeypatch, method):
    """Sizes at which each method is chosen, whatever the case."""
    if method == "iterative":
        for limit in DENSE:
            monkeypatch.setattr(limit, 0)


def close(a, b, slack=1e-8):
    assert_close(a, b, rtol=0, atol=slack * max(b.abs().max().item(), 1e-300))


@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("seed", SEEDS)
def test_solutions_are_those_of_the_dense_matrix(seed, share, kind, method, monkeypatch):
    force(monkeypatch, method)
    given = case(seed, kind, share)
    solver, A = build(*given, tolerance=1e-11), dense(*given)
    B = torch.randn(len(A), 2)
    found = solver.solution(B)
    close(found.X, torch.linalg.solve(A, B))
    close(solver.multiply(B), A @ B)
    assert found.converged and (found.residual <= 1e-10).all()
    assert (found.iterations > 0) == (method == "iterative") == (solver.method == "iterative")
    again = solver.solution(B, start=found.X)
    assert again.iterations <= max(found.iterations, 8)
    close(again.X, torch.linalg.solve(A, B))
    crosses = [torch.randn(len(K), 4) for K in given[0]]
    k = khatri_rao(crosses)[given[3].flatten()]
    close(solver.variance_reduction(crosses), (k * torch.linalg.solve(A, k)).sum(0))
    assert torch.equal(solver.take(solver.pad(B)), B)
    assert (solver.pad(B)[~given[3].flatten()] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("seed", SEEDS)
def test_exact_methods_have_the_dense_evidence_and_gradient(seed, share, kind):
    factors, scale, noise, observed = given = case(seed, kind, share)
    solver = build(*given)
    A = dense(*given)
    assert solver.determinant.error == 0
    assert solver.logdet().item() == pytest.approx(torch.logdet(A).item(), rel=1e-10, abs=1e-9)
    Y = torch.randn(len(A), 2)
    by_factors, by_scale, by_noise = dense_gradient(factors, noise, scale, observed, Y, c=0.7)
    pull = solver.pull(solver.solve(Y), c=0.7)
    for found, expected in zip(pull.factors, by_factors, strict=True):
        close(symmetric(found), symmetric(expected))
    close(pull.scale, by_scale)
    for found, expected in zip(pull.noise if kind == "separable" else [pull.noise], by_noise, strict=True):
        close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_iterative_determinants_and_gradients_are_within_six_standard_errors(share, kind, monkeypatch):
    force(monkeypatch, "iterative")
    torch.manual_seed(3)
    factors, scale = [stationary(7, 0.3), stationary(5, 0.5, "matern12"), stationary(4, 0.4)], 1.5
    observed = torch.rand(7, 5, 4) > share
    noise = random_noise(factors, kind)
    given = (factors, scale, noise, observed)
    solver = build(*given, probes=64, generator=torch.Generator().manual_seed(5))
    A = dense(*given)
    found = solver.determinant
    assert 0 < found.error and abs(found.value - torch.logdet(A).item()) < 6 * found.error
    Y = torch.randn(len(A), 2)
    by_factors, by_scale, by_noise = dense_gradient(factors, noise, scale, observed, Y, c=0.7)
    alpha = solver.solve(Y)
    pull, replicates = solver.pull(alpha, c=0.7), solver.replicates(alpha, c=0.7)
    assert len(replicates) == 64

    def check(mean, parts, expected):
        error = torch.stack(parts).std(0) / 8
        assert_close(torch.stack(parts).mean(0), mean)
        assert ((mean - expected).abs() <= 6 * error + 1e-8 * expected.abs().max()).all()

    for i, expected in enumerate(by_factors):
        check(symmetric(pull.factors[i]), [symmetric(p.factors[i]) for p in replicates], symmetric(expected))
    check(pull.scale, [p.scale for p in replicates], by_scale)
    if kind == "separable":
        for i, expected in enumerate(by_noise):
            check(pull.noise[i], [p.noise[i] for p in replicates], expected)
    else:
        check(pull.noise, [p.noise for p in replicates], by_noise[0])


def test_the_method_follows_the_sizes(monkeypatch):
    S = Kronecker.of([stationary(6, 0.3), stationary(5, 0.3)], 0.1)
    few, many = torch.ones(6, 5, dtype=torch.bool), torch.zeros(6, 5, dtype=torch.bool)
    assert Latent.of(S, few).method == "full"
    few[0, :2] = False
    many[0, :2] = True
    assert (Latent.of(S, few).method, Latent.of(S, many).method) == ("complement", "observed")
    force(monkeypatch, "iterative")
    assert Latent.of(S, few).method == Latent.of(S, many).method == "iterative"


def test_a_full_grid_is_the_kronecker_solver():
    S = Kronecker.of([stationary(6, 0.3), stationary(5, 0.3)], 0.1)
    solver, Y = Latent.of(S, torch.ones(6, 5, dtype=torch.bool)), torch.randn(30, 1)
    close(solver.solve(Y), S.solve(Y))
    assert solver.logdet() == S.logdet()
    for mine, its in zip(solver.pull(Y).factors, S.pull(Y).factors, strict=True):
        close(mine, its)


@pytest.mark.parametrize(
    ("noise", "kind", "share"), [(1e-6, "rbf", 0.2), (1e-6, "matern12", 0.2), (1e-2, "matern12", 0.95)]
)
def test_hard_grids_are_solved_to_what_is_reported(noise, kind, share, monkeypatch):
    torch.manual_seed(1)
    factors = [stationary(24, 0.1, kind), stationary(24, 0.2, kind)]
    observed = torch.rand(24, 24) > share
    A = dense(factors, 1.0, noise, observed)
    Y = torch.randn(len(A), 1)
    exact = torch.linalg.solve(A, Y)
    # Rounding alone moves a solution by the condition times eps.
    slack = 100 * torch.linalg.cond(A).item() * torch.finfo(A.dtype).eps
    for method in ("exact", "iterative"):
        force(monkeypatch, method)
        solver = build(factors, 1.0, noise, observed, tolerance=1e-7, steps=20_000)
        found = solver.solution(Y)
        assert found.converged and found.residual.item() <= 1e-7
        assert (A @ found.X - Y).norm() <= 1.1e-7 * Y.norm()
        close(found.X, exact, slack + (0 if method == "exact" else 1e-7 * torch.linalg.cond(A).item()))


def test_a_solve_that_stops_short_warns(monkeypatch):
    force(monkeypatch, "iterative")
    observed = torch.rand(24, 24) > 0.3
    solver = build([stationary(24, 0.3), stationary(24, 0.3)], 1.0, 1e-6, observed, tolerance=1e-12, steps=10)
    with pytest.warns(NotConverged, match="relative residual"):
        assert not solver.solution(torch.randn(int(observed.sum()), 1)).converged


def test_separable_noise_is_found_and_then_one_step_is_enough(monkeypatch):
    force(monkeypatch, "iterative")
    factors = [stationary(9, 0.3), stationary(8, 0.2), stationary(3, 0.2)]
    noise = kron([torch.rand(m).add(0.01) for m in (9, 8, 3)]).reshape(9, 8, 3)
    solver = Uneven.of(factors, noise)
    found = solver.solution(torch.randn(216, 1))
    assert found.converged and found.iterations <= 3
    assert solver.determinant.error < 1e-9
    observed = torch.rand(9, 8, 3) > 0.3
    masked = Uneven.of(factors, torch.where(observed, noise, torch.nan), 1.0, observed)
    ratio = kron(masked.kronecker.noise).reshape(noise.shape)[observed] / noise[observed]
    assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)


def test_the_generator_decides_the_probes(monkeypatch):
    force(monkeypatch, "iterative")
    S, observed = Kronecker.of([stationary(9, 0.3), stationary(8, 0.2)], 0.1), torch.rand(9, 8) > 0.3

    def value(seed):
        return Latent.of(S, observed, generator=torch.Generator().manual_seed(seed)).determinant.value

    assert value(1) == value(1) != value(2)


def test_bad_input_is_refused_with_a_reason():
    S = Kronecker.of([torch.eye(2), torch.eye(3)], 0.1)
    with pytest.raises(ValueError, match="all 6 cells of the grid are missing"):
        Latent.of(S, torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask of shape \(2, 3\), got torch.bool of \(3, 2\)"):
        Latent.of(S, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="got torch.float64"):
        Latent.of(S, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"shape \(2, 3\) of the grid, got \(2, 2\)"):
        Uneven.of([torch.eye(2), torch.eye(3)], torch.ones(2, 2))
    with pytest.raises(ValueError, match="noise must be positive, got -1.0"):
        Uneven.of([torch.eye(2)], torch.tensor([1.0, -1.0]))
