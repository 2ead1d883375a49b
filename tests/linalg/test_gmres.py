"""GMRES against direct solves."""

import torch
from torch.testing import assert_close

from kernelfield.linalg.gmres import BASIS, gmres


def system(n):
    return torch.randn(n, n) / n**0.5 + 3 * torch.eye(n)


def test_it_solves_a_system_that_is_not_symmetric():
    A, b = system(30), torch.randn(5, 6)
    found = gmres(lambda x: (A @ x.flatten()).reshape(5, 6), b, precondition=lambda x: x, tolerance=1e-12)
    assert found.converged
    assert_close(found.X.flatten(), torch.linalg.solve(A, b.flatten()), rtol=0, atol=1e-10)


def test_a_perfect_preconditioner_needs_one_product():
    A, b = system(30), torch.randn(30)
    found = gmres(lambda x: A @ x, b, precondition=lambda x: torch.linalg.solve(A, x), tolerance=1e-10)
    assert (found.iterations, found.converged) == (1, True)


def test_it_ends_exactly_after_as_many_products_as_there_are_different_eigenvalues():
    values = torch.tensor([1.0, 2.0, 5.0]).repeat(20)
    found = gmres(lambda x: values * x, torch.randn(60), precondition=lambda x: x, tolerance=1e-10)
    assert found.iterations == 3


def test_the_reported_residual_is_that_of_the_system_and_restarts_go_on():
    values = torch.logspace(0, 3, 400)
    b = torch.randn(400)
    found = gmres(lambda x: values * x, b, precondition=lambda x: x, tolerance=1e-6, most=2000)
    assert found.iterations > BASIS
    assert_close(found.residual, (b - values * found.X).norm() / b.norm())
    assert found.converged and found.residual <= 1e-6


def test_too_few_products_are_reported_as_such():
    values = torch.logspace(0, 3, 400)
    found = gmres(lambda x: values * x, torch.randn(400), precondition=lambda x: x, tolerance=1e-6, most=10)
    assert not found.converged and found.iterations == 10 and found.residual > 1e-6


def test_zero_has_the_solution_zero():
    assert gmres(lambda x: x, torch.zeros(4), precondition=lambda x: x, tolerance=1e-6).X.abs().max() == 0
