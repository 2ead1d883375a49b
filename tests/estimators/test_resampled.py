"""jackknife+ of processes in basis functions and of pipelines is that of models which each lack a row."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler, TargetEncoder

from kernelfield.core.contracts import Data
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.collapsed import Rows
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import SparseProcess

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (40, 2))
Y = np.column_stack([np.sin(2 * X[:, 0]), X[:, 1]]) + 0.2 * RNG.normal(size=(40, 2))
AT = RNG.uniform(-2, 2, (7, 2))
MODELS = {"sparse": SparseProcess(inducing=8, steps=2, restarts=1), "features": RandomFeatureProcess(steps=2)}


def explicit(final: FieldRegressor, X: np.ndarray, Y: np.ndarray, at: np.ndarray, level: float) -> np.ndarray:
    """jackknife+ by its definition, from expansions that were given all rows but one."""
    scaled, n = final.surrogate_, len(X)
    inner, map_y = scaled.inner, scaled.to_model_y
    rows = Data(scaled.to_model_X(torch.tensor(X)), map_y(torch.tensor(Y)))
    gaps, means = [], []
    for i in range(n):
        kept = torch.arange(n) != i
        data = Data(rows.X[kept], rows.Y[kept])
        one = FittedExpansion.of(
            inner.basis, inner.noise, inner.trend, inner.centre, Rows.of(data, inner.trend, inner.centre)
        )
        own, new = (
            (one.posterior(x).mean * map_y.scale + map_y.shift).numpy()
            for x in (rows.X[i : i + 1], scaled.to_model_X(torch.tensor(at)))
        )
        gaps.append(np.abs(Y[i] - own[0]))
        means.append(new)
    gaps, means = np.array(gaps)[:, None], np.array(means)
    place = int(np.ceil((n + 1) * level - 1e-9))
    low = -np.sort(gaps - means, axis=0)[place - 1]
    return np.stack([low, np.sort(means + gaps, axis=0)[place - 1]], -1)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_intervals_of_expansions_are_those_of_their_definition(model, tmp_path: Path):
    one = Calibrated(FieldRegressor(model, random_state=0), method="jackknife+").fit(X, Y)
    assert one.calibrator_.members is None
    expected = explicit(one.estimator_, X, Y, AT, 0.8)
    np.testing.assert_allclose(one.predict_interval(AT, 0.8), expected, rtol=1e-7, atol=1e-9)
    save(one, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_interval(AT, 0.8), one.predict_interval(AT, 0.8))


@pytest.mark.parametrize("model", [Process(steps=2, restarts=1), MODELS["sparse"]], ids=["process", "sparse"])
def test_a_pipeline_has_the_intervals_of_its_last_step_on_inputs_that_it_transformed(model):
    steps = StandardScaler(), PolynomialFeatures(2, include_bias=False)
    whole = Calibrated(make_pipeline(*steps, FieldRegressor(model, random_state=0)), method="jackknife+").fit(
        X, Y[:, 0]
    )
    assert whole.calibrator_.members is None
    before = make_pipeline(*steps).fit(X)
    apart = Calibrated(FieldRegressor(model, random_state=0), method="jackknife+").fit(before.transform(X), Y[:, 0])
    expected = apart.predict_interval(before.transform(AT), 0.8)
    np.testing.assert_allclose(whole.predict_interval(AT, 0.8), expected, rtol=1e-10)


def test_transformations_that_look_at_y_are_fitted_again_without_each_row():
    pipeline = make_pipeline(TargetEncoder(cv=2), FieldRegressor(Process(steps=0), random_state=0))
    one = Calibrated(pipeline, method="jackknife+").fit((X[:6] > 0).astype(int), Y[:6, 0])
    assert len(one.calibrator_.members) == 6
