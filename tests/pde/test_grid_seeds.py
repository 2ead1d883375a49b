"""Frequencies and numbers of nodes against problems of which they are known."""

import math
import warnings

import pytest
import torch

from kernelfield.kernels.spectral_start import AboveNyquist
from kernelfield.pde.discretisation import mesh
from kernelfield.pde.grid_seeds import bands, choose_nodes, frequencies, highest_frequencies, warn_above_nyquist
from kernelfield.pde.problem import Problem, Term

LAPLACE = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))
BOX = ((0.0, 1.0), (0.0, 2.0))


def places(counts, domain=BOX):
    return [torch.linspace(low, high, count) for (low, high), count in zip(domain, counts, strict=True)]


def zero(X):
    return 0 * X[:, 0]


def test_the_strongest_frequencies_are_those_of_the_source():
    def source(X):
        return (2 * math.pi * 9 * X[:, 0]).sin() * (2 * math.pi * 4 * X[:, 1]).cos()

    found = frequencies(Problem("p", BOX, LAPLACE, source, zero), places((90, 90)))
    for values, truth in zip(found, (9, 4), strict=True):
        assert abs(values[0] - truth) <= 1.0


def test_the_symbol_brings_out_slow_parts():
    """A part of equal size in the solution is 81 times smaller in the source, and yet the two come out alike."""

    def source(X):
        return 81 * (2 * math.pi * 18 * X[:, 0]).sin() + (2 * math.pi * 6 * X[:, 0]).sin() / 81

    problem = Problem("p", ((0.0, 4.0),), (Term(1.0, (2,)),), source, zero)
    (found,) = frequencies(problem, places((600,), problem.domain))
    assert ((found - 6).abs() < 0.3).any() and ((found - 18).abs() < 0.3).any()


def test_boundary_values_count_where_there_is_no_source():
    def side(X):
        return (2 * math.pi * 7 * X[:, 1]).sin()

    problem = Problem("p", BOX, LAPLACE, zero, {"x-": side, "x+": zero, "y-": zero, "y+": zero})
    found = frequencies(problem, places((60, 80)))
    assert abs(found[1][0] - 7) <= 0.5


def test_an_operators_own_waves_are_found_from_those_of_the_other_axis():
    """Helmholtz: frequencies s and sqrt(k^2 / (2 pi)^2 - s^2) go together."""

    def side(X):
        return (2 * math.pi * 3 * X[:, 1]).sin()

    operator = (*LAPLACE, Term((2 * math.pi * 5) ** 2, (0, 0)))
    problem = Problem("p", BOX, operator, zero, {"x-": side, "x+": side, "y-": zero, "y+": zero})
    found = frequencies(problem, places((100, 100)))
    assert (found[0] - 4).abs().min() < 0.1


def test_nodes_follow_the_highest_frequency():
    def source(X):
        return (2 * math.pi * 30 * X[:, 0]).sin() * X[:, 1]

    problem = Problem("p", BOX, LAPLACE, source, zero)
    tops = highest_frequencies(problem)
    assert tops[0] == pytest.approx(30, abs=4) and tops[1] < 4
    counts = choose_nodes(problem)
    assert counts[0] > 2 * 2 * 30 and counts[1] == 100


def test_a_source_of_rounding_errors_is_none():
    def noise(X):
        return 1e-13 * (1e6 * X[:, 0]).sin()

    problem = Problem("p", BOX, LAPLACE, noise, lambda X: 1 + X[:, 0])
    assert choose_nodes(problem) == (100, 100)


def test_constants_but_for_rounding_have_no_waves():
    """A side along which the value is 1e9 to the last digit, and a source that is 3."""

    def nearly(value):
        return lambda X: value * (1 + 1e-15 * (1e4 * X.sum(-1)).sin())

    laplacian = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))
    problem = Problem("flat", ((0.0, 1.0),) * 2, laplacian, nearly(3.0), nearly(1e9))
    assert highest_frequencies(problem) == [0.0, 0.0] and choose_nodes(problem) == (100, 100)
    axis = torch.linspace(0, 1, 100, dtype=torch.double)
    calm = Problem("calm", ((0.0, 1.0),) * 2, laplacian, lambda X: 3 + 0 * X[:, 0], lambda X: 1e9 + 0 * X[:, 0])
    assert [f.tolist() for f in frequencies(problem, [axis] * 2)] == [f.tolist() for f in frequencies(calm, [axis] * 2)]


def test_waves_above_nyquist_are_warned_of():
    def source(X):
        return (2 * math.pi * 30 * X[:, 0]).sin()

    problem = Problem("p", BOX, LAPLACE, source, zero)
    with pytest.warns(AboveNyquist, match=r"cycles a unit along x and 40 nodes tell frequencies up to 19\.5"):
        warn_above_nyquist(problem, (40, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_above_nyquist(problem, (100, 40))


def test_bands_cover_each_frequency_once():
    made = bands(torch.tensor([5.0, 5.1, 0.1, 12.0]), 2.0, 0.3, 0.3)
    assert made.frequencies == (0.0, 5.0, 12.0)
    assert made.lengthscales == pytest.approx((0.6, 0.6, 0.6))


def test_mesh_runs_fastest_along_the_last_axis():
    assert mesh([torch.tensor([0.0, 1.0]), torch.tensor([5.0, 6.0])]).tolist() == [[0, 5], [0, 6], [1, 5], [1, 6]]
