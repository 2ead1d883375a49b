"""The machine against subgradient descent in the dual, scikit-learn's checks and attacks."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, make_moons
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernelfield.estimators.machine import KernelMachine
from kernelfield.kernels.network import NetworkKernel
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

DEEP = Dense(1.5, 0.5) >> Relu() >> Dense(1.5, 0.5) >> Relu() >> Dense()


@parametrize_with_checks([KernelMachine()])
def test_it_keeps_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_subgradient_descent_of_the_network_ends_at_the_machine():
    X, y = make_moons(24, noise=0.15, random_state=0)
    penalty, sign = 0.1, 2 * y - 1
    fitted = KernelMachine(DEEP, penalty=penalty).fit(X, y)
    K = NetworkKernel(DEEP, "ntk")(torch.tensor(X)).to_dense().detach().numpy()
    steps, a, b, mean = 40_000, np.zeros(24), 0.0, np.zeros(24)
    for t in range(steps):
        rate = 1 / (penalty * (t + 20))
        wrong = (sign * (K @ a + b) < 1) * sign / 24  # the subgradient in the outputs
        a, b = (1 - rate * penalty) * a + rate * wrong, b + rate * wrong.sum()
        if t >= steps // 2:
            mean += (K @ a + b) / (steps - steps // 2)
    np.testing.assert_allclose(fitted.decision_function(X), mean, atol=0.01)


@pytest.mark.parametrize("network", [None, DEEP, NetworkKernel(DEEP, "nngp")], ids=["default", "deep", "kernel"])
def test_it_learns_two_and_three_classes(network):
    X, y = make_moons(200, noise=0.1, random_state=0)
    X = np.column_stack([X, np.ones(200)])  # the default network has no biases
    assert KernelMachine(network).fit(X[:100], y[:100]).score(X[100:], y[100:]) > 0.95
    X, y = load_iris(return_X_y=True)
    assert KernelMachine(network).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.93


def test_no_move_within_the_certified_radius_changes_a_label():
    X, y = load_iris(return_X_y=True)
    X, y = X[50:] - X[50:].mean(0), y[50:]
    fitted = KernelMachine(Dense(1.3) >> Relu() >> Dense(0.7), penalty=1e-2).fit(X[::2], y[::2])
    X = X[1::2]
    machine = fitted._two_layers()
    np.testing.assert_allclose(machine(torch.tensor(X)), fitted.decision_function(X), atol=1e-10)
    radius = fitted.certified_radius(X)
    assert (radius > 0).all()
    assert np.median(radius) > 0.05
    moves = np.random.default_rng(0).choice([-1.0, 1.0], (100, *X.shape))
    for move in moves:
        np.testing.assert_array_equal(fitted.predict(X + radius[:, None] * move), fitted.predict(X))


def test_what_has_no_certificate_is_named():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(NotImplementedError, match="3 classes"):
        KernelMachine().fit(X, y).certified_radius(X)
    with pytest.raises(NotImplementedError, match="got the NNGP of"):
        KernelMachine(kind="nngp").fit(X[:100], y[:100]).certified_radius(X)
    with pytest.raises(NotImplementedError, match="without biases"):
        KernelMachine(Dense(b=0.5) >> Relu() >> Dense()).fit(X[:100], y[:100]).certified_radius(X)


def test_a_penalty_that_is_none_is_refused():
    with pytest.raises(ValueError, match="penalty must be positive, got 0; a small one is a hard margin"):
        KernelMachine(penalty=0.0).fit([[0.0], [1.0]], [0, 1])
