"""Martingale posteriors of fitted regressors, in the user's units and by every update."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.martingale import martingale_posterior
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.copula_update import Copula
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.models.svgp import VariationalProcess


@pytest.fixture
def line() -> tuple[np.ndarray, np.ndarray]:
    X = np.linspace(0, 10, 9)[:, None]
    return X, 100 + 20 * np.sin(X[:, 0]) + X[:, 0]


def test_values_of_a_process_have_its_posterior_in_the_users_units(line) -> None:
    X, y = line
    fitted = FieldRegressor(Process("rbf", noise=0.2, steps=0)).fit(X, y)
    at, draws = np.array([[2.5], [20.0]]), 1000
    found = martingale_posterior(fitted, None, X, y, at=at, draws=draws, steps=300, inputs="shared", random_state=0)
    law = fitted.posterior(at, noise=False)
    assert found.update == "gaussian"
    assert ((found.mean - law.mean).abs() < 6 * (law.variance / draws).sqrt()).all()
    variance = found.values.var(0)[0] + found.remaining[0]  # far from all rows none is drawn, and nothing is learned
    assert abs(variance - law.variance[0]).item() < 6 * law.variance[0].item() * (2 / draws) ** 0.5
    assert found.values.var(0)[1] < 0.1 * law.variance[1]


def test_a_regression_coefficient_of_the_completed_data_is_near_that_of_the_data(line) -> None:
    X, y = line
    fitted = FieldRegressor(Process("rbf", noise=0.2, steps=0)).fit(X, y)

    def slope(X, y):
        return np.polyfit(X[:, 0], y[:, 0], 1)[0]

    found = martingale_posterior(fitted, slope, X, y, draws=60, steps=60, random_state=0)
    assert found.values.shape == (60,)
    assert abs(found.mean.item() - slope(X, y[:, None])) < 2 * found.std.item()


def test_counts_are_refitted_as_counts(line) -> None:
    X, y = line
    counts = np.random.default_rng(0).poisson(y / 50)
    model = VariationalProcess("rbf", "poisson", inducing=3, epochs=1, least_steps=5, restarts=1, steps=3)
    fitted = FieldRegressor(model, random_state=0).fit(X, counts)
    found = martingale_posterior(fitted, None, X, counts, at=X[:2], draws=2, steps=2, update="refit", random_state=0)
    assert (found.values > 0).all()


def test_a_model_that_cannot_be_conditioned_is_refitted_or_goes_by_copulas(line) -> None:
    X, y = line
    model = Ensemble(multilayer((4,)), members=2, training=Training(steps=10))
    fitted = FieldRegressor(model, random_state=0).fit(X, y)
    for update, name in (("refit", "refit"), (Copula(), "copula")):
        ask = dict(at=X[:2], draws=3, steps=4, block=2, update=update)
        found, again = (martingale_posterior(fitted, None, X, y, random_state=1, **ask) for _ in range(2))
        assert found.update == name
        assert found.values.shape == (3, 2, 1)
        torch.testing.assert_close(found.values, again.values, rtol=0, atol=0)
        assert set(found.summary()) == {"mean", "std", "q0.05", "q0.5", "q0.95", "mean_error", "truncation"}


def test_what_is_missing_is_said(line) -> None:
    X, y = line
    fitted = FieldRegressor(Process(steps=0)).fit(X, y)
    with pytest.raises(ValueError, match="give them as at="):
        martingale_posterior(fitted, None, X, y)
    with pytest.raises(ValueError, match="y has 2 outputs, the fit had 1"):
        martingale_posterior(fitted, None, X, np.column_stack([y, y]), at=X)


@pytest.mark.parametrize(
    ("estimator", "why"),
    [(FieldClassifier(), "laws of numbers"), (Calibrated(), "no martingale"), (Ridge(), "got Ridge$")],
)
def test_what_is_no_rule_that_learns_is_refused_with_the_reason(estimator, why):
    with pytest.raises(TypeError, match=why):
        martingale_posterior(estimator, None, [[0.0], [1.0]], [0.0, 1.0], at=[[0.5]])
