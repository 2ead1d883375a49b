"""Test functions at points where the literature gives their values."""

import numpy as np
import pytest
from scipy.optimize import minimize

from kernelfield.data.synthetic import BOREHOLE, borehole, borehole_sample, hartmann6, hartmann6_sample


def test_the_minimum_of_hartmann6_is_where_the_literature_has_it():
    start = np.array([0.2, 0.15, 0.48, 0.28, 0.31, 0.66])
    best = minimize(lambda x: hartmann6(x[None])[0], start, tol=1e-12)
    assert best.fun == pytest.approx(-3.32237, abs=1e-5)


def test_the_flow_is_proportional_to_the_difference_of_heads():
    X, flow = borehole_sample(5, np.random.default_rng(0))
    wider = X.copy()
    wider[:, 3] += X[:, 3] - X[:, 5]  # twice the difference
    np.testing.assert_allclose(borehole(wider), 2 * flow)


def test_without_leaks_the_flow_is_that_between_the_aquifers():
    X = np.array([[0.1, 1000.0, 1e5, 1000.0, 100.0, 800.0, 1e-9, 1e4]])
    series = 2 * np.pi * 200.0 / (np.log(1e4) * (1 / 1e5 + 1 / 100.0))  # transmissivities in series
    np.testing.assert_allclose(borehole(X), series, rtol=1e-9)


def test_samples_lie_in_their_boxes():
    low, high = np.transpose(list(BOREHOLE.values()))
    X, y = borehole_sample(50, np.random.default_rng(0))
    assert ((X >= low) & (X <= high)).all()
    assert y.shape == (50,)
    X, y = hartmann6_sample(50, np.random.default_rng(0))
    assert X.min() >= 0
    assert (y < 0).all()
