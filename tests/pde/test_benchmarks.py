"""Every benchmark's exact solution satisfies its equation and its boundary values."""

import pytest
import torch

from kernelfield.pde.benchmarks import benchmarks, viscous_burgers

ALL = benchmarks()


def derivative(value, X, orders):
    for axis, order in enumerate(orders):
        for _ in range(order):
            (slope,) = torch.autograd.grad(value.sum(), X, create_graph=True, allow_unused=True)
            value = slope[:, axis]
    return value


@pytest.mark.parametrize("name", [name for name in ALL if name != "burgers"])
def test_the_exact_solution_solves_the_problem(name):
    problem = ALL[name].problem
    ends = torch.tensor(problem.domain)
    X = ends[:, 0] + torch.rand(40, problem.dims) * ends.diff(dim=1)[:, 0]
    X = X if problem.inside is None else X[problem.inside(X)]
    X.requires_grad_(True)
    residual = problem.residual(X, lambda orders: derivative(problem.exact(X), X, orders)).detach()
    size = max(float(problem.source(X.detach()).abs().max()), 1.0)
    assert float(residual.abs().max()) < 1e-10 * size
    for side, value in problem.sides.items():
        axis, place = problem.side(side)
        face = X.detach().clone()
        face[:, axis] = place
        face = face if problem.inside is None else face[problem.inside(face)]
        assert (value(face) - problem.exact(face)).abs().max() < 1e-12


def test_the_reference_for_burgers_satisfies_the_equation_by_differences():
    problem, h = viscous_burgers(0.05), 1e-3
    X = torch.stack([torch.rand(30) * 1.8 - 0.9, torch.rand(30) * 0.9 + 0.05], 1)

    def at(dx, dt):
        return problem.exact(X + torch.tensor([dx, dt]))

    u = at(0, 0)
    u_t = (at(0, h) - at(0, -h)) / (2 * h)
    u_x = (8 * (at(h, 0) - at(-h, 0)) - at(2 * h, 0) + at(-2 * h, 0)) / (12 * h)
    u_xx = (16 * (at(h, 0) + at(-h, 0)) - at(2 * h, 0) - at(-2 * h, 0) - 30 * u) / (12 * h * h)
    assert (u_t + u * u_x - 0.05 * u_xx).abs().max() < 1e-3  # second order in time
    start = torch.stack([torch.linspace(-1, 1, 9), torch.zeros(9)], 1)
    assert torch.allclose(problem.exact(start), problem.sides["t-"](start), atol=1e-12)
