"""Linear problems: against brute-force conditioning, manufactured solutions, and simulation of noise."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.bumps import GaussianBump
from kernelfield.kernels.derived import Mixture
from kernelfield.pde.benchmarks import benchmarks, manufactured
from kernelfield.pde.collocation import solve_collocation
from kernelfield.pde.conditioned import Conditioned
from kernelfield.pde.likelihood import JITTER, Evidence, Kernel, System
from kernelfield.pde.problem import Problem, Term, Unknown
from kernelfield.pde.rows import Part, Rows

SECOND = Term(1.0, (2,))


def rows_in_the_plane():
    """A value and an equation with variable coefficients, an unknown factor in one term."""
    X, Z = torch.rand(5, 2), torch.rand(6, 2)
    parts = (Part(1 + Z[:, 0], (2, 0)), Part(Z[:, 1], (0, 1), "k"))
    return Rows.derivative(X, (0, 0), torch.randn(5)), Rows(Z, parts, torch.randn(6))


def kernel_in_the_plane(**unknowns):
    one = Mixture(GaussianBump(), torch.tensor([0.1, -0.5]), torch.tensor([-0.2, 0.1]), torch.tensor([0.0, 0.6]))
    two = Mixture(GaussianBump(), torch.tensor([0.0]), torch.tensor([-0.4]), torch.tensor([0.3]))
    return Kernel((one, two), (0.0, 0.02), unknowns)


def brute_covariance(rows, kernel, k):
    """cov of rows by automatic differentiation of the kernel, entry by entry."""

    def base(x, z):
        value = torch.ones(())
        for mixture, a, b in zip(kernel.mixtures, x, z, strict=True):
            length, mu = mixture.log_lengths.exp(), mixture.frequencies
            terms = (-0.5 * ((a - b) / length) ** 2).exp() * (2 * math.pi * mu * (a - b)).cos()
            value = value * (mixture.log_weights.exp() * terms).sum()
        return value

    def apply(value, x, group, i):
        total = torch.zeros(())
        for part in group.parts:
            d = value
            for axis, order in enumerate(part.orders):
                for _ in range(order):
                    d = torch.autograd.grad(d, x, create_graph=True)[0][axis]
            total = total + (k if part.unknown else 1.0) * part.coefficient[i] * d
        return total

    entries = [(group, i) for group in rows for i in range(len(group.X))]
    K = torch.empty(len(entries), len(entries))
    for a, (one, i) in enumerate(entries):
        for b, (two, j) in enumerate(entries):
            x, z = (group.X[n].clone().requires_grad_(True) for group, n in ((one, i), (two, j)))
            K[a, b] = apply(apply(base(x, z), x, one, i), z, two, j).detach()
    return K


def test_evidence_and_posterior_are_those_of_brute_force_conditioning():
    rows, kernel = rows_in_the_plane(), kernel_in_the_plane(k=0.7)
    K = brute_covariance(rows, kernel, 0.7)
    noisy = K + torch.diag(torch.cat([torch.zeros(5), torch.full((6,), 0.02)]) + JITTER * K.diagonal())
    y = torch.cat([group.targets for group in rows])
    law = torch.distributions.MultivariateNormal(torch.zeros(11), noisy)
    evidence = Evidence(kernel, rows, [1], [Unknown("k", 0.7)])
    expect = -(law.log_prob(y) + 11 / 2 * math.log(2 * math.pi)) / 11
    assert evidence(evidence.start)[0] == pytest.approx(float(expect), rel=1e-9)
    asked = Rows.derivative(torch.rand(3, 2), (1, 0))
    joint = brute_covariance((*rows, asked), kernel, 0.7)
    cross = torch.linalg.solve(noisy, joint[:11, 11:])
    posterior = Conditioned(System.of(kernel, rows)).posterior(asked.X, (1, 0))
    assert_close(posterior.mean[:, 0], cross.mT @ y)
    assert_close(posterior.covariance, joint[11:, 11:] - joint[11:, :11] @ cross, rtol=1e-7, atol=1e-8)
    assert_close(posterior.variance[:, 0], posterior.covariance.diagonal(), rtol=1e-7, atol=1e-8)


def test_evidence_given_the_first_groups_is_a_difference_of_evidences():
    rows, kernel, unknown = rows_in_the_plane(), kernel_in_the_plane(k=0.7), Unknown("k", 0.7)
    both = Evidence(kernel, rows, [1], [unknown])
    first = Evidence(replace(kernel, noises=(0.0,), unknowns={}), rows[:1], [], [])
    part = Evidence(kernel, rows, [1], [unknown], given=1)
    expect = 11 * both(both.start)[0] - 5 * first(first.start)[0]
    assert 6 * part(part.start)[0] == pytest.approx(expect, rel=1e-10)


@pytest.mark.parametrize("given", [0, 1])
def test_the_slope_of_the_evidence_is_that_of_differences(given):
    rows = rows_in_the_plane()
    evidence = Evidence(kernel_in_the_plane(k=0.7), rows, [1], [Unknown("k", 0.7)], given=given)
    theta = evidence.start
    slope = evidence(theta)[1]
    for i in range(len(theta)):
        ahead, behind = theta.copy(), theta.copy()
        ahead[i] += 1e-5
        behind[i] -= 1e-5
        assert slope[i] == pytest.approx((evidence(ahead)[0] - evidence(behind)[0]) / 2e-5, rel=1e-5, abs=1e-7)


def wave(frequency):
    return lambda X: (frequency * X[:, 0]).sin() + 0.3 * X[:, 0] ** 2


MANUFACTURED = {
    "frequency 37": (wave(37.0), ((0.0, 4.0),), [SECOND]),
    "frequency 73, another domain": (wave(73.0), ((-1.0, 1.0),), [SECOND]),
    "first-order terms": (wave(20.0), ((-1.0, 1.0),), [SECOND, Term(10.0, (1,)), Term(-3.0, (0,))]),
    "variable": (
        wave(30.0),
        ((0.0, 1.0),),
        [Term(lambda X: 1 + 0.5 * (3 * X[:, 0]).sin(), (2,)), Term(lambda X: X[:, 0], (1,))],
    ),
    "oscillator": (wave(20.0), ((0.0, 2.0),), [SECOND, Term(900.0, (0,))]),
    "layer": (lambda X: torch.tanh(20 * (X[:, 0] - 0.4)), ((0.0, 1.0),), [SECOND]),
}


@pytest.mark.parametrize("case", MANUFACTURED.values(), ids=MANUFACTURED)
def test_manufactured_solutions_are_found_in_few_steps(case):
    exact, domain, operator = case
    solution = solve_collocation(manufactured("m", exact, domain, operator), grid=128, steps=8, kernel="spectral")
    assert solution.relative_l2() < 5e-6
    assert solution.coverage() > 0.9
    X = solution.problem.test_points(50).requires_grad_(True)
    (slope,) = torch.autograd.grad(exact(X).sum(), X)
    gap = solution.mean(X.detach(), (1,)) - slope[:, 0]
    assert gap.norm() < 1e-4 * slope.norm()


def test_an_initial_value_and_slope_determine_an_oscillation():
    problem = Problem(
        "oscillator",
        ((0.0, 6.0),),
        (SECOND, Term(25.0, (0,))),
        lambda X: 0 * X[:, 0],
        {"x-": lambda X: 0 * X[:, 0] + 1},
        slopes={"x-": lambda X: 0 * X[:, 0] - 2},
        exact=lambda X: (5 * X[:, 0]).cos() - 0.4 * (5 * X[:, 0]).sin(),
    )
    assert solve_collocation(problem, grid=64, steps=10).relative_l2() < 1e-6


@pytest.mark.slow
def test_bands_cover_where_the_source_is_noisy():
    shares = []
    for seed in range(4):
        noise = torch.randn(100, generator=torch.Generator().manual_seed(seed))

        def source(X, noise=noise):
            places = (X[:, 0] / 3 * 99).round().long()
            return -144 * (12 * X[:, 0]).sin() + 0.6 + 2.0 * noise[places]

        problem = Problem("noisy", ((0.0, 3.0),), (SECOND,), source, wave(12.0), exact=wave(12.0))
        solution = solve_collocation(problem, grid=100, kernel="spectral")
        assert solution.relative_l2() < 0.2
        shares.append(solution.coverage())
    assert sum(shares) / 4 > 0.85


@pytest.mark.slow
def test_an_unknown_coefficient_is_learned_from_observations():
    def exact(X):
        return (-0.5 * X[:, 0]).exp() * (6 * X[:, 0]).cos()

    X = torch.rand(25, 1) * 4
    Y = exact(X)[:, None] + 0.01 * torch.randn(25, 1)
    stiffness = Unknown("k", 20.0, 5.0, 80.0)
    operator = (SECOND, Term(1.0, (1,)), Term(stiffness, (0,)))
    problem = Problem("spring", ((0.0, 4.0),), operator, lambda X: 0 * X[:, 0], {}, exact=exact)
    solution = solve_collocation(problem, grid=64, observations=Data(X, Y))
    found = solution.estimates["k"]
    assert abs(found.value - 36.25) < 4 * found.std < 2.0
    assert solution.relative_l2() < 0.05
    with pytest.raises(ValueError, match="unknown coefficients k need observations="):
        solve_collocation(problem)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("P1", 5e-6), ("P2", 5e-6), ("P3", 1e-3), ("P4", 5e-6), ("P5", 1e-4)])
def test_the_published_problems_on_a_line_are_solved_to_their_targets(name, most):
    assert solve_collocation(benchmarks()[name].problem).relative_l2() < most


def test_what_collocation_cannot_do_is_refused_with_the_solver_that_can():
    with pytest.raises(ValueError, match="nonlinear, .* solver='newton'"):
        solve_collocation(benchmarks()["A1"].problem)
    with pytest.raises(ValueError, match="kernel must be .* got 'rbf'"):
        solve_collocation(benchmarks()["P1"].problem, kernel="rbf", grid=16)
