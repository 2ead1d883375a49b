"""The objective of deep kernel machines against closed forms, the wide network and the likelihood it bounds."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import minimize
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.gram_machine import Machine, Objective
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import Relu


def rows(n, d=2, m=1, weighted=False):
    X = torch.randn(n, d)
    Y = torch.sin(2 * X[:, :1]) * torch.arange(1, m + 1) + 0.1 * torch.randn(n, m)
    return Data(X, Y, 0.5 + torch.rand(n) if weighted else None)


def machine(data, layers=1, kernel="linear", *, Z=None, noise=0.0, bias=0.0):
    Z = data.X if Z is None else Z
    ones = torch.ones(layers + 1)
    factors = torch.eye(len(Z)).repeat(layers, 1, 1)
    output, v = torch.tensor(1.0), torch.tensor(noise)
    return Machine(kernel, Z, torch.ones(data.X.shape[1]), ones, bias * ones, output, v, factors, nugget=0.0)


def power(A, p):
    values, vectors = torch.linalg.eigh(A)
    return vectors @ torch.diag(values**p) @ vectors.mT


def between(first, last, share):
    """first (first^-1 last)^share, the point at this share of the geodesic between two matrices."""
    root, back = power(first, 0.5), power(first, -0.5)
    return root @ power(back @ last @ back, share) @ root


@pytest.mark.parametrize("layers", [1, 2])
def test_linear_layers_of_equal_width_are_on_the_geodesic_to_the_targets(layers):
    n, m = 4, 6
    data = Data(torch.randn(n, 8), torch.randn(n, m))
    start = machine(data, layers)
    objective = Objective(start, data, float(m), "grams", 0.0)
    options = {"gtol": 1e-13, "ftol": 0.0, "maxiter": 5000, "maxcor": 60, "maxls": 60, "maxfun": 20000}
    end = minimize(objective, objective.start, jac=True, method="L-BFGS-B", options=options)
    first, last = data.X @ data.X.mT / 8, data.Y @ data.Y.mT / m
    K = first
    for index, V in enumerate(objective.machine(torch.from_numpy(end.x)).factors, 1):
        half = torch.linalg.cholesky(K) @ V
        K = half @ half.mT
        assert_close(K, between(first, last, index / (layers + 1)), atol=1e-7, rtol=1e-7)


def test_the_geometric_mean_has_no_slope():
    n, m = 5, 7
    data = Data(torch.randn(n, 9), torch.randn(n, m))
    start = machine(data)
    first = data.X @ data.X.mT / 9
    mean = between(first, data.Y @ data.Y.mT / m, 0.5)
    factor = torch.linalg.cholesky(first)
    white = torch.linalg.solve_triangular(factor, torch.linalg.cholesky(mean), upper=False)
    objective = Objective(replace(start, factors=white[None]), data, float(m), "grams", 0.0)
    value, slope = objective(objective.start)
    assert abs(slope).max() < 5e-9
    assert value < objective(objective.start + 1e-3)[0]


def test_a_very_wide_machine_has_the_evidence_of_the_infinitely_wide_network():
    data = rows(15, weighted=True)
    start = machine(data, 1, Relu(), noise=0.05, bias=0.1)
    objective = Objective(start, data, 1e8, "grams", 0.0)
    end = minimize(objective, objective.start, jac=True, method="L-BFGS-B", options={"gtol": 1e-10})
    dense = Dense(1.0, 0.1**0.5) >> Relu() >> Dense(2**0.5, 0.1**0.5) >> Relu() >> Dense(2**0.5)
    K = gram(dense, Points(data.X)) + 0.05 * torch.diag(1 / data.weight)
    expect = MultivariateNormal(torch.zeros(15), K).log_prob(data.Y[:, 0])
    assert -15 * end.fun == pytest.approx(expect.item(), abs=1e-5)


@pytest.mark.parametrize("kernel", ["rbf", "linear", Relu()], ids=["rbf", "linear", "relu"])
def test_slopes_are_those_of_differences(kernel):
    data = rows(7, weighted=True)
    start = machine(data, 2, kernel, Z=torch.randn(2 if kernel == "linear" else 3, 2), noise=0.1, bias=0.2)
    objective = Objective(start, data, 3.0, "all", 1e-6)
    theta = torch.from_numpy(objective.start) + 0.1 * torch.randn(len(objective.start))
    assert torch.autograd.gradcheck(lambda t: objective.value(objective.machine(t)), theta.requires_grad_())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_bound_with_all_rows_inducing_is_the_likelihood(weighted):
    data = rows(8, m=2, weighted=weighted)
    exact = machine(data, 1, "rbf", noise=0.1)
    V = torch.eye(8) + 0.2 * torch.randn(8, 8).tril()
    exact = replace(exact, factors=V[None])
    copy = Data(data.X.clone(), data.Y, data.weight)
    assert exact.log_likelihood(copy).item() == pytest.approx(exact.log_likelihood(data).item(), abs=1e-7)


def test_more_inducing_rows_bound_the_evidence_more_closely():
    data = rows(12)
    exact = machine(data, 0, "rbf", noise=0.1).log_likelihood(data).item()
    bounds = [machine(data, 0, "rbf", Z=data.X[:k], noise=0.1).log_likelihood(data).item() for k in (3, 6, 9)]
    assert bounds[0] < bounds[1] < bounds[2] < exact


def test_a_noise_that_is_learned_has_a_log_normal_prior():
    data = rows(9)
    start = machine(data, 1, "rbf", noise=0.1, bias=0.1)
    held, learned = (Objective(start, data, 7.0, learn, 1e-6).value(start) for learn in ("grams", "all"))
    assert (learned - held).item() == pytest.approx(math.log(0.1 / 1e-2) ** 2 / (2 * 2.0**2 * 9), rel=1e-9)


def test_learning_scales_alone_leaves_the_grams_of_the_wide_network():
    data = rows(9)
    start = machine(data, 2, "rbf", noise=0.1, bias=0.1)
    whole, scales = (Objective(start, data, 7.0, learn, 1e-6) for learn in ("all", "scales"))
    assert len(whole.start) - len(scales.start) == 2 * 45
    value, slope = scales(scales.start + 0.1)
    theta = whole.start.copy()
    theta[-len(scales.start) :] += 0.1
    same, longer = whole(theta)
    assert value == pytest.approx(same, rel=1e-12)
    assert slope == pytest.approx(longer[-len(slope) :], rel=1e-9, abs=1e-12)
    assert_close(scales.machine(torch.from_numpy(scales.start)).factors, start.factors)
