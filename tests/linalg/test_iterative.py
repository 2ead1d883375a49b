"""Conjugate gradients and Lanczos quadrature against dense algebra."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotConverged, NotPositiveDefinite
from kernelfield.linalg.iterative import conjugate_gradients, log_determinant, refined, signs


def system(n, condition=1e3):
    Q, _ = torch.linalg.qr(torch.randn(n, n))
    return (Q * torch.logspace(0, -torch.tensor(condition).log10().item(), n)) @ Q.mT


class Counted:
    """A product that counts the columns it is asked for."""

    def __init__(self, A):
        self.A, self.columns, self.calls = A, 0, 0

    def __call__(self, X):
        self.columns += X.shape[1]
        self.calls += 1
        return self.A @ X


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_answer_is_as_near_as_it_says(k):
    A, B = system(80), torch.randn(80, k)
    apply = Counted(A)
    found = conjugate_gradients(apply, B, tolerance=1e-10)
    assert found.converged and (found.residual <= 1e-10).all()
    assert found.iterations == apply.calls
    # A residual of 1e-10 is a difference of which rounding leaves few digits.
    # A residual of 1e-12 is a difference of numbers near one: three digits of it are not rounding.
    assert_close(found.residual, (B - A @ found.X).norm(dim=0) / B.norm(dim=0), atol=1e-15, rtol=1e-3)
    assert_close(found.X, torch.linalg.solve(A, B), atol=1e-6, rtol=0)


def test_a_block_needs_fewer_steps_than_its_columns_alone():
    A, B = system(200, 1e3), torch.randn(200, 6)
    alone = max(conjugate_gradients(lambda X: A @ X, b[:, None], tolerance=1e-8).iterations for b in B.mT)
    assert conjugate_gradients(lambda X: A @ X, B, tolerance=1e-8).iterations < alone / 2


def test_repeated_zero_and_finished_columns_break_nothing():
    A = system(50)
    b = torch.randn(50, 1)
    B = torch.cat([b, 2 * b, torch.zeros(50, 1), A @ torch.ones(50, 1), 1e-8 * torch.randn(50, 1)], 1)
    start = torch.linalg.solve(A, B) * torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])
    found = conjugate_gradients(lambda X: A @ X, B, start=start, tolerance=1e-9)
    assert found.converged
    assert_close(A @ found.X, B, atol=1e-8, rtol=0)
    assert (found.X[:, 2] == 0).all()
    nothing = conjugate_gradients(lambda X: A @ X, torch.zeros(50, 2))
    assert nothing.converged and (nothing.X == 0).all()


def test_the_first_steps_minimise_the_energy_norm_over_the_krylov_space():
    A, b = system(40, 50.0), torch.randn(40, 1)
    with pytest.warns(NotConverged):
        found = conjugate_gradients(lambda X: A @ X, b, tolerance=1e-14, steps=5)
    basis, _ = torch.linalg.qr(torch.cat([torch.linalg.matrix_power(A, j) @ b for j in range(5)], 1))
    best = basis @ torch.linalg.solve(basis.mT @ A @ basis, basis.mT @ b)
    assert_close(found.X, best, atol=1e-9, rtol=0)


def test_a_good_preconditioner_and_a_good_start_save_steps():
    A, B = system(200, 1e3), torch.randn(200, 2)
    plain = conjugate_gradients(lambda X: A @ X, B, tolerance=1e-8)
    exact = conjugate_gradients(lambda X: A @ X, B, precondition=lambda R: torch.linalg.solve(A, R), tolerance=1e-8)
    assert exact.converged and exact.iterations <= 3 < plain.iterations
    near = torch.linalg.solve(A, B) * (1 + 1e-6)
    warm = conjugate_gradients(lambda X: A @ X, B, start=near, tolerance=1e-5)
    assert warm.iterations == 2 and torch.equal(warm.X, near)


def test_an_answer_that_is_further_off_than_asked_says_how_far():
    A, B = system(200, 1e8), torch.randn(200, 1)
    with pytest.warns(NotConverged, match=r"stopped after \d+ products at a relative residual of .*asked for 1e-12"):
        found = conjugate_gradients(lambda X: A @ X, B, tolerance=1e-12, steps=20)
    assert not found.converged and found.iterations <= 21
    assert found.residual.item() == pytest.approx((B - A @ found.X).norm().item() / B.norm().item(), rel=1e-6)
    with pytest.warns(NotConverged):  # below rounding: it ends by itself
        conjugate_gradients(lambda X: X + A @ X, B, tolerance=1e-20, steps=10_000)


def test_the_log_determinant_is_within_six_of_its_standard_errors():
    A = system(150, 1e4)
    exact = torch.logdet(A).item()
    errors = []
    for seed in range(8):
        found = log_determinant(lambda X: A @ X, A[0], generator=torch.Generator().manual_seed(seed))
        assert abs(found.value - exact) < 6 * found.error
        errors.append((found.value - exact) / found.error)
    # The error is one standard error, neither many nor few.
    assert 0.3 < torch.tensor(errors).square().mean().sqrt().item() < 3


def test_more_probes_are_nearer_and_the_seed_decides():
    A = system(200, 1e3)

    def run(probes, seed):
        return log_determinant(lambda X: A @ X, A[0], probes=probes, generator=torch.Generator().manual_seed(seed))

    assert run(8, 1) == run(8, 1) != run(8, 2)
    assert run(64, 1).error < run(8, 1).error


def test_a_matrix_of_few_eigenvalues_is_exhausted_exactly():
    Q, _ = torch.linalg.qr(torch.randn(60, 60))
    values = torch.tensor([1e-3, 1.0, 50.0]).repeat(20)
    A = (Q * values) @ Q.mT
    steps = Counted(A)
    found = log_determinant(steps, A[0], probes=2000, generator=torch.Generator().manual_seed(0))
    assert abs(found.value - values.log().sum().item()) < 6 * found.error
    assert steps.calls <= 10
    one = log_determinant(lambda X: 3.0 * X, torch.ones(1), probes=3)
    assert one.value == pytest.approx(torch.tensor(3.0).log().item()) and one.error < 1e-12


def test_signs_are_fair():
    z = signs(1000, 50, torch.ones(1), torch.Generator().manual_seed(0))
    assert (z.abs() == 1).all() and abs(z.mean().item()) < 6 / 50_000**0.5


@pytest.mark.parametrize("tolerance", [1e-4, 1e-12])
def test_refinement_has_the_precision_of_the_exact_products(tolerance):
    A, B = system(120, 1e4), torch.randn(120, 3)
    single = A.float()
    exact, coarse = Counted(A), Counted(single)
    found = refined(exact, lambda V: coarse(V.float()).double(), B, tolerance=tolerance)
    assert found.converged and (found.residual <= tolerance).all()
    assert_close(found.residual, (B - A @ found.X).norm(dim=0) / B.norm(dim=0), rtol=1e-3, atol=1e-14)
    assert exact.calls <= 8 < coarse.calls and found.iterations == exact.calls + coarse.calls
    again = refined(exact, lambda V: coarse(V.float()).double(), B, start=found.X, tolerance=2 * tolerance)
    assert again.iterations == 1
    # Single precision by itself stays far from that.
    alone = conjugate_gradients(lambda V: (single @ V.float()).double(), B, tolerance=1e-12, quiet=True)
    assert ((B - A @ alone.X).norm(dim=0) > 1e-8 * B.norm(dim=0)).all()


def test_refinement_that_coarse_products_cannot_carry_says_so():
    A, B = system(120, 1e6), torch.randn(120, 1)
    noise = torch.randn(120, 120) * 1e-3
    with pytest.warns(NotConverged, match="refinement stopped after"):
        found = refined(lambda V: A @ V, lambda V: (A + noise @ noise.mT) @ V, B, tolerance=1e-8, steps=2000)
    assert not found.converged
    assert_close(found.residual, (B - A @ found.X).norm(dim=0) / B.norm(dim=0))
    assert refined(lambda V: A @ V, lambda V: A @ V, 0 * B).converged


def test_a_known_trace_takes_its_share_of_the_error():
    A = system(150, 30.0)
    exact, squares = torch.logdet(A).item(), []
    for seed in range(8):
        plain, known = (
            log_determinant(lambda X: A @ X, A[0], generator=torch.Generator().manual_seed(seed), trace=trace)
            for trace in (None, A.trace().item())
        )
        assert known.error < 0.6 * plain.error
        assert abs(known.value - exact) < 6 * known.error
        squares.append(((known.value - exact) / known.error) ** 2)
    assert 0.3 < torch.tensor(squares).mean().sqrt().item() < 3
    flat = log_determinant(lambda X: 2 * X, A[0], trace=300.0)
    assert flat.value == pytest.approx(150 * torch.tensor(2.0).log().item()) and flat.error < 1e-9


@pytest.mark.parametrize("steps", [2, 3, 5, 6])
def test_a_quadrature_cut_short_counts_what_its_last_step_changed(steps):
    A, values = system(150, 1e4), []
    for count in (steps - 1, steps):
        found = log_determinant(lambda X: A @ X, A[0], steps=count, generator=torch.Generator().manual_seed(0))
        values.append(found.value)
    assert found.error >= (1 - 1e-9) * abs(values[1] - values[0])


def test_a_single_probe_has_no_spread_and_is_refused():
    with pytest.raises(ValueError, match="probes must be at least 2, .* got 1"):
        log_determinant(lambda X: 2 * X, torch.ones(3), probes=1)
    assert log_determinant(lambda X: 2 * X, torch.ones(3), probes=2).error < 1e-12


def test_an_indefinite_matrix_has_no_log_determinant():
    A = system(60, 1e2)
    with pytest.raises(NotPositiveDefinite, match="an eigenvalue of about -"):
        log_determinant(lambda X: A @ X - 0.5 * torch.linalg.matrix_norm(A, 2) * X, A[0])


def test_two_standard_errors_of_a_few_probes_hold_the_determinant_nineteen_times_in_twenty():
    """Six probes: five degrees of freedom, of which an error that did not know it would hold 90%."""
    torch.manual_seed(0)
    root = torch.randn(40, 40, dtype=torch.double) / 40**0.5
    A = torch.eye(40, dtype=torch.double) + root @ root.mT
    exact, held, times = torch.logdet(A).item(), 0, 600
    for seed in range(times):
        generator = torch.Generator().manual_seed(seed)
        found = log_determinant(lambda X: A @ X, A[0], probes=6, generator=generator)
        held += abs(found.value - exact) < 2 * found.error
    # Three standard errors above the share that would hold without.
    assert held / times > 0.9 + 3 * (0.9 * 0.1 / times) ** 0.5
