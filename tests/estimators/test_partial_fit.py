"""Rows that come later are added to a fit as if they had been there, its hyperparameters held."""

import numpy as np
import pytest

from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process
from kernelfield.models.quantile import QuantileProcess
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import SparseProcess

MODELS = [
    Process(restarts=1, steps=3),
    SparseProcess(inducing=10, restarts=1, steps=2),
    RandomFeatureProcess(count=20, restarts=1, steps=2),
]


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.uniform(2, 4, (n, 2))
    return X, 7 + np.sin(3 * X[:, 0]) * X[:, 1] + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_rows_in_parts_are_rows_at_once_after_the_first_call(model) -> None:
    (X, y), (more, later) = rows(40, 0), rows(30, 1)
    weight = np.linspace(0.5, 2, 30)
    parts = FieldRegressor(model, random_state=0).partial_fit(X, y)
    first = FieldRegressor(model, random_state=0).fit(X, y)
    np.testing.assert_array_equal(parts.predict(more), first.predict(more))
    for start in (0, 1, 20):
        part = slice(start, {0: 1, 1: 20, 20: 30}[start])
        parts.partial_fit(more[part], later[part], weight[part])
    once = FieldRegressor(model, random_state=0).fit(X, y).partial_fit(more, later, weight)
    for one, other in zip(parts.predict(X, return_std=True), once.predict(X, return_std=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7)
    assert parts.n_samples_fit_ == 70
    assert np.abs(parts.predict(more) - later).mean() < np.abs(first.predict(more) - later).mean()


def test_what_cannot_be_added_is_refused() -> None:
    X, y = rows(30, 0)
    fitted = FieldRegressor(MODELS[2], random_state=0).partial_fit(X, y)
    with pytest.raises(ValueError, match="2 features"):
        fitted.partial_fit(X[:, :1], y)
    with pytest.raises(ValueError, match="the fit had 1 outputs"):
        fitted.partial_fit(X, np.column_stack([y, y]))
    assert fitted.n_samples_fit_ == 30
    with pytest.raises(NotImplementedError, match="must be refitted"):
        FieldRegressor(QuantileProcess(), random_state=0).partial_fit(X, y).partial_fit(X, y)
