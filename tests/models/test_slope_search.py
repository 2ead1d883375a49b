"""A search by slopes finds the zero of the slope, from a Hessian that is only about right."""

import numpy as np
import pytest
import torch

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Unit
from kernelfield.kernels.stationary import RBF
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.slope_search import Evaluation, descend, hessian_at

BOX = [(-5.0, 5.0)] * 3
GENERATOR = np.random.default_rng(0)
ROOT = GENERATOR.normal(size=(3, 3))
CURVATURE = ROOT @ ROOT.T + 0.1 * np.eye(3)
END = np.array([0.5, -1.0, 1.5])


def quadratic(theta):
    return Evaluation(CURVATURE @ (theta - END), 7, 1e-4)


def curved(theta):
    """The gradient of sum exp(x) - e^end x, whose Hessian changes on the way."""
    return Evaluation(np.exp(theta) - np.exp(END), 7, 1e-4)


def search(loss, hessian, *, start=None, bounds=BOX, enough=1e-14, evaluations=60):
    start = np.zeros(3) if start is None else start
    return descend(loss, start, hessian, bounds, enough=enough, evaluations=evaluations, label="test")


@pytest.mark.parametrize(("loss", "hessian"), [(quadratic, np.eye(3)), (curved, 3 * np.eye(3)), (quadratic, CURVATURE)])
def test_it_ends_where_the_slope_is_zero(loss, hessian):
    theta, found = search(loss, hessian)
    assert found.converged
    np.testing.assert_allclose(theta, END, atol=1e-5)


def test_the_right_hessian_needs_a_step_for_each_reach_and_no_more():
    _, found = search(quadratic, CURVATURE)
    assert found.evaluations <= 6  # 1.5 at most 0.7 at a time, and one that ends it
    assert found.iterations == 7 * found.evaluations
    assert found.residual == 1e-4


def test_negative_curvature_is_no_reason_to_climb():
    theta, found = search(quadratic, -CURVATURE)
    assert found.converged
    np.testing.assert_allclose(theta, END, atol=1e-5)


def test_the_box_is_kept_and_a_slope_out_of_it_counts_for_nothing():
    bounds = [(-5.0, 5.0), (-0.25, 5.0), (0.0, 0.0)]
    theta, found = search(lambda x: Evaluation(x - END, 1, 0.0), np.eye(3), bounds=bounds)
    np.testing.assert_allclose(theta, [0.5, -0.25, 0.0], atol=1e-6)
    assert found.converged


def test_a_budget_that_is_used_up_is_said():
    theta, found = search(quadratic, np.eye(3), evaluations=2)
    assert not found.converged
    assert found.evaluations == 2
    assert found.gain > 0
    start = 0.5 * END @ CURVATURE @ END
    assert 0.5 * (theta - END) @ CURVATURE @ (theta - END) <= start


def test_a_step_that_makes_it_worse_is_halved():
    theta, found = search(curved, 0.02 * np.eye(3), start=np.full(3, -4.0))
    assert found.converged
    np.testing.assert_allclose(theta, END, atol=1e-5)


def test_the_hessian_is_that_of_differences_of_values():
    X = torch.rand(30, 1)
    data = Data(X, torch.sin(5 * X) + 0.2 * torch.randn(30, 1))
    objective = Objective(covariance(RBF(), X), data, Trend.of("constant", X), Unit(), 0.1, learn=True)
    theta = objective.given()
    H = hessian_at(objective, theta, objective.bounds())
    h = 1e-3
    for i in range(3):
        for j in range(3):
            e, f = h * np.eye(3)[i], h * np.eye(3)[j]
            corners = [objective(theta + s * e + t * f)[0] for s in (1, -1) for t in (1, -1)]
            assert H[i, j] == pytest.approx((corners[0] - corners[1] - corners[2] + corners[3]) / (4 * h * h), abs=1e-4)
