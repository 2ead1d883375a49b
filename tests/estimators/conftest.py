"""One regression problem for the tests of the estimator: a smooth function far from zero."""

import numpy as np
import pytest


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (30, 2))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.normal(size=30) + 100.0


@pytest.fixture
def outputs(problem) -> tuple[np.ndarray, np.ndarray]:
    X, y = problem
    return X, np.column_stack([y, 1e3 * np.cos(X[:, 1])])
