"""Unknown coefficients: their law, and their share of the band, against quadrature and simulation."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.bumps import GaussianBump
from kernelfield.kernels.derived import Mixture
from kernelfield.pde.conditioned import Conditioned
from kernelfield.pde.likelihood import Evidence, Kernel, System
from kernelfield.pde.problem import Problem, Term, Unknown
from kernelfield.pde.rows import Part, Rows
from kernelfield.pde.solve import solve
from kernelfield.pde.unknowns import Averaged, covariance_of, doubts, estimates


def swing(t):
    return (-0.5 * t).exp() * (6 * t).cos()  # of u'' + u' + 36.25 u = 0


def spring_rows(noise=0.05, count=20, **free):
    """The equation at 40 times with its stiffness the sum of the unknowns, and noisy readings."""
    generator = torch.Generator().manual_seed(3)
    t = torch.linspace(0, 3, 40)[:, None]
    one = torch.ones(40)
    parts = (Part(one, (2,)), Part(one, (1,)), *(Part(one, (0,), name) for name in free))
    at = 3 * torch.rand(count, 1, generator=generator)
    readings = swing(at[:, 0]) + noise * torch.randn(count, generator=generator)
    rows = (Rows(t, parts, torch.zeros(40)), Rows.derivative(at, (0,), readings))
    waves = Mixture(GaussianBump(), torch.zeros(2), torch.full((2,), 0.5), torch.tensor([0.9, 1.0]))
    return rows, Kernel((waves,), (1e-4, noise**2), free)


def settled(unknowns, rows, kernel):
    """The kernel at the values of best evidence, one after the other, by Newton's steps."""
    for _ in range(6):
        evidence = Evidence(kernel, rows, [0, 1], unknowns, given=1)
        slope = evidence.count * evidence(evidence.start)[1][-len(unknowns) :]
        step = covariance_of(evidence) @ slope
        values = {u.name: kernel.unknowns[u.name] - float(d) for u, d in zip(unknowns, step, strict=True)}
        kernel = Kernel(kernel.mixtures, kernel.noises, values)
    return kernel, Evidence(kernel, rows, [0, 1], unknowns, given=1)


def test_the_law_is_that_of_quadrature_over_the_coefficient():
    k = Unknown("k", 36.0, 5.0, 80.0)
    kernel, evidence = settled([k], *spring_rows(k=36.0))
    covariance = covariance_of(evidence)
    found = estimates(evidence, covariance)["k"]
    system = System.of(kernel, evidence.rows)
    averaged = Averaged.of(Conditioned(system), evidence, covariance)
    values = np.linspace(found.value - 5 * found.std, found.value + 5 * found.std, 81)
    theta = np.tile(evidence.start, (81, 1))
    theta[:, -1] = values
    logs = np.array([-evidence.count * evidence(row)[0] for row in theta])
    weights = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
    mean = weights @ values
    assert found.value == pytest.approx(mean, abs=0.15 * found.std)
    assert found.std == pytest.approx(math.sqrt(weights @ (values - mean) ** 2), rel=0.1)
    X = torch.linspace(0, 3, 25)[:, None]
    for orders in ((0,), (1,)):
        laws = [
            Conditioned(System.of(Kernel(kernel.mixtures, kernel.noises, {"k": v}), evidence.rows)).posterior(X, orders)
            for v in values.tolist()
        ]
        means, w = torch.stack([law.mean[:, 0] for law in laws]), torch.from_numpy(weights)[:, None]
        centre = (w * means).sum(0)
        wanted = (w * (torch.stack([law.variance[:, 0] for law in laws]) + (means - centre).square())).sum(0)
        law, alone = averaged.posterior(X, orders), averaged.given.posterior(X, orders)
        assert (wanted > 1.5 * alone.variance[:, 0]).any()
        assert_close(law.variance[:, 0], wanted, rtol=0.15, atol=0)
        assert_close(law.covariance.diagonal(), law.variance[:, 0])


def test_coefficients_of_which_only_the_sum_is_told_are_as_open_as_their_bounds():
    unknowns = [Unknown("a", 18.0, 0.0, 40.0), Unknown("b", 18.0, 0.0, 40.0)]
    kernel, evidence = settled(unknowns, *spring_rows(a=18.0, b=18.0))
    covariance = covariance_of(evidence)
    # Uniform laws of a and b have the variance 40^2 / 12 in their difference over the root of two.
    assert (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) / 2 == pytest.approx(1600 / 12, rel=1e-3)
    assert covariance.sum() < 2.0
    alone = Conditioned(System.of(kernel, evidence.rows))
    averaged = Averaged.of(alone, evidence, covariance)
    X = torch.linspace(0, 3, 25)[:, None]
    # What does not matter to u does not widen its band.
    single = Averaged.of(*single_of(kernel))
    assert_close(averaged.posterior(X, (0,)).variance, single.posterior(X, (0,)).variance, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("a", [18.0, 10.0, 1.0])
def test_coefficients_that_nothing_tells_are_open_whatever_the_sign_of_rounding(a):
    unknowns = [Unknown("a", a), Unknown("b", 36.0 - a)]
    rows, kernel = spring_rows(a=a, b=36.0 - a)
    evidence = Evidence(kernel, rows, [0, 1], unknowns, given=1)
    covariance = covariance_of(evidence)
    assert all(found.std > 1e3 for found in estimates(evidence, covariance).values())
    averaged, single = Averaged.of(Conditioned(System.of(kernel, rows)), evidence, covariance), single_of(kernel)
    X = torch.linspace(0, 3, 25)[:, None]
    expected = Averaged.of(*single).posterior(X, (0,)).variance
    assert_close(averaged.posterior(X, (0,)).variance, expected, rtol=0.05, atol=1e-6)


def test_neither_the_estimates_nor_the_band_depend_on_the_units_of_the_coefficients():
    X, found = torch.linspace(0, 3, 25)[:, None], []
    for units in ((1.0, 1.0), (1e-9, 1e9)):
        unknowns = [Unknown(name, s / u, 0.0, 40 / u) for name, s, u in zip("ab", (1.0, 36.0), units, strict=True)]
        rows, kernel = damped(*units)
        evidence = Evidence(kernel, rows, [0, 1], unknowns, given=1)
        covariance = covariance_of(evidence)
        averaged = Averaged.of(Conditioned(System.of(kernel, rows)), evidence, covariance)
        stds = [one.std * u for one, u in zip(estimates(evidence, covariance).values(), units, strict=True)]
        found.append(torch.cat([averaged.posterior(X, (0,)).variance[:, 0], torch.tensor(stds)]))
    # Curvatures are differences of slopes, whose rounding is another one in other units: 2e-8 of the answers here.
    assert_close(*found, rtol=1e-6, atol=0)


def damped(first, second):
    """u'' + a u' + b u = 0 with unknown a and b in any units."""
    (equation, readings), kernel = spring_rows(b=36.0 / second)
    one = torch.ones(40)
    parts = (Part(one, (2,)), Part(first * one, (1,), "a"), Part(second * one, (0,), "b"))
    rows = (Rows(equation.X, parts, equation.targets), readings)
    return rows, Kernel(kernel.mixtures, kernel.noises, {"a": 1.0 / first, "b": 36.0 / second})


def test_a_coefficient_between_bounds_that_meet_is_known():
    unknowns = [Unknown("a", 18.0, 0.0, 40.0), Unknown("b", 18.25, 18.25, 18.25)]
    kernel, evidence = settled(unknowns, *spring_rows(a=18.0, b=18.25))
    covariance = covariance_of(evidence)
    nearly = [unknowns[0], Unknown("b", 18.25, 18.25 - 1e-6, 18.25 + 1e-6)]
    alone = covariance_of(Evidence(kernel, evidence.rows, [0, 1], nearly, given=1))
    assert estimates(evidence, covariance)["b"].std == 0
    assert covariance[0, 0] == pytest.approx(alone[0, 0], rel=1e-3)


class Curve:
    """An evidence of one unknown that is known in nats, with its slope by differences."""

    def __init__(self, nats, start, low=-math.inf, high=math.inf):
        self.nats, self.count, self.free = nats, 7, (Unknown("k", start, low, high),)
        self.start = np.array([start])

    def __call__(self, theta):
        k, h = float(theta[0]), 1e-6
        slope = (self.nats(k + h) - self.nats(k - h)) / (2 * h)
        return self.nats(k) / self.count, np.array([slope / self.count])


def test_where_the_evidence_does_not_curve_a_standard_deviation_is_where_it_falls_by_half_a_nat():
    normal = covariance_of(Curve(lambda k: (k - 2.0) ** 2 / (2 * 0.3**2), 2.0))
    assert math.sqrt(normal[0, 0]) == pytest.approx(0.3, rel=1e-6)
    # A double well, from the hump between: half a nat up at k^4 - k^2 = 0.5.
    hump = covariance_of(Curve(lambda k: k**4 - k**2, 0.0))
    assert math.sqrt(hump[0, 0]) == pytest.approx(math.sqrt((1 + 3**0.5) / 2), rel=0.02)
    flat = covariance_of(Curve(lambda k: math.exp(-(k**2)), 9.0))
    assert math.sqrt(flat[0, 0]) > 1e3


def test_what_the_observations_do_not_tell_is_said():
    rows, kernel = spring_rows(a=18.0, b=18.0)
    evidence = Evidence(kernel, rows, [0, 1], [Unknown("a", 18.0), Unknown("b", 18.0)], given=1)
    found = estimates(evidence, covariance_of(evidence))
    assert "do not tell a (standard deviation" in doubts(System.of(kernel, rows), evidence, found)
    rows, kernel = spring_rows(k=36.0)
    evidence = Evidence(kernel, rows, [0, 1], [Unknown("k", 36.0)], given=1)
    found = estimates(evidence, covariance_of(evidence))
    assert doubts(System.of(kernel, rows), evidence, found) == ""


def test_a_start_too_far_is_said_to_leave_the_observations_to_noise():
    t = 3 * torch.rand(12, 1, generator=torch.Generator().manual_seed(0))
    operator = (Term(1.0, (2,)), Term(Unknown("k", 100.0), (0,)))
    spring = Problem("spring", ((0.0, 3.0),), operator, lambda X: 0 * X[:, 0], lambda X: (6 * X[:, 0]).sin())
    solution = solve(spring, grid=40, steps=20, observations=Data(t, (6 * t).sin()))
    assert abs(solution.estimates["k"].value - 36) > 10
    assert "the start of k was too far, and Unknown(..., low=, high=) is searched" in solution.message


def single_of(kernel):
    k = Unknown("k", 36.0, 5.0, 80.0)
    rows = spring_rows(k=sum(kernel.unknowns.values()))[0]
    one = Kernel(kernel.mixtures, kernel.noises, {"k": sum(kernel.unknowns.values())})
    evidence = Evidence(one, rows, [0, 1], [k], given=1)
    return Conditioned(System.of(one, rows)), evidence, covariance_of(evidence)


@pytest.mark.slow
def test_bands_hold_the_motion_whose_stiffness_was_learned():
    t, shares, hits = torch.linspace(0, 4, 200)[:, None], [], []
    operator = (Term(1.0, (2,)), Term(1.0, (1,)), Term(Unknown("k", 20.0, 5.0, 80.0), (0,)))
    spring = Problem("spring", ((0.0, 4.0),), operator, lambda X: 0 * X[:, 0], {}, exact=lambda X: swing(X[:, 0]))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        at = 4 * torch.rand(25, 1, generator=generator)
        readings = swing(at) + 0.1 * torch.randn(25, 1, generator=generator)
        solution = solve(spring, grid=48, steps=20, observations=Data(at, readings))
        shares.append(solution.coverage(t))
        found = solution.estimates["k"]
        hits.append(abs(found.value - 36.25) < 1.96 * found.std)
    # 20 motions with few free numbers each: the standard error of the mean share is about 0.03.
    assert 0.85 < sum(shares) / 20 and sum(hits) >= 16
