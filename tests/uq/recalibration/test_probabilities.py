"""Recalibrated class probabilities agree with scikit-learn's, sum to one and improve what is held out."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.recalibration.probabilities import BetaProbabilities, IsotonicProbabilities, TemperatureScaling


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose inputs are its probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return X.argmax(1)


def simulated(n: int, k: int, sharper: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities whose logits are `sharper` times those of the labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    return (sharper * logits).softmax(1), labels


@pytest.mark.parametrize("k", [2, 4])
def test_the_temperature_is_that_of_scikit_learn(k):
    p, y = simulated(800, k, 2.5, 0)
    fitted = TemperatureScaling().fit(p, y)
    oracle = CalibratedClassifierCV(FrozenEstimator(Given().fit(p.numpy(), y.numpy())), method="temperature")
    oracle.fit(p.numpy(), y.numpy())
    assert_allclose(fitted.apply(p).numpy(), oracle.predict_proba(p.numpy()), atol=1e-6)
    assert 2.5 / 1.4 < fitted.temperature < 2.5 * 1.4


def test_temperature_keeps_the_order_of_classes_and_survives_zeros():
    p, y = simulated(200, 3, 2.0, 1)
    p[0] = torch.tensor([1.0, 0.0, 0.0])
    y[0] = 2
    fitted = TemperatureScaling().fit(p, y)
    assert (fitted.apply(p).argmax(1) == p.argmax(1)).all()
    assert fitted.apply(p).isfinite().all()


def test_beta_calibration_is_an_unpenalised_logistic_regression():
    p, y = simulated(2000, 2, 2.0, 2)
    fitted = BetaProbabilities().fit(p, y)
    features = np.stack([np.log(p[:, 1].numpy()), -np.log(p[:, 0].numpy())], 1)
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(features, y.numpy())
    assert_allclose([fitted.a, fitted.b, fitted.c], [*oracle.coef_[0], oracle.intercept_[0]], atol=1e-3)
    assert_allclose(fitted.apply(p).numpy(), oracle.predict_proba(features), atol=1e-4)


def test_beta_curves_never_fall():
    """Labels against the probabilities: the likeliest rising curve is a constant, the share of ones."""
    p, y = simulated(1000, 2, 1.0, 3)
    fitted = BetaProbabilities().fit(p, 1 - y)
    assert min(fitted.a, fitted.b) >= 0
    assert_close(fitted.apply(p)[:, 1], torch.full((1000,), (1 - y).double().mean().item()), atol=2e-2, rtol=0)


@pytest.mark.parametrize("k", [2, 3])
def test_isotonic_regression_is_that_of_scikit_learn_away_from_certainty(k):
    p, y = simulated(3000, k, 2.0, 4)
    found = IsotonicProbabilities().fit(p, y).apply(p).numpy()
    oracle = CalibratedClassifierCV(FrozenEstimator(Given().fit(p.numpy(), y.numpy())), method="isotonic")
    expect = oracle.fit(p.numpy(), y.numpy()).predict_proba(p.numpy())
    assert np.abs(found - expect).max() < 3 / 3000
    assert_allclose(found.sum(1), 1)


def test_nothing_is_called_impossible_by_isotonic_regression():
    p, y = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(50, 1), torch.tensor([0, 1]).repeat(50)
    assert_close(IsotonicProbabilities().fit(p, y).apply(p).amin(), torch.tensor(1 / 102))


CHOICES = [TemperatureScaling(), BetaProbabilities(), IsotonicProbabilities()]


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_overconfident_probabilities_improve_on_held_out_rows(choice):
    fitted = choice.fit(*simulated(2000, 2, 3.0, 5))
    p, y = simulated(5000, 2, 3.0, 6)
    before, after = (ClassEvaluation.of(q.numpy(), y.numpy()) for q in (p, fitted.apply(p)))
    assert after.log_loss < before.log_loss - 0.1
    assert after.brier < before.brier
    assert fitted.rows == 2000 and "2000 held-out rows" in fitted.notes()[0]
    assert fitted.hyperparameters()


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_bad_probabilities_and_labels_are_refused(choice):
    p, y = simulated(200, 2, 1.0, 7)
    with pytest.raises(ValueError, match=rf"needs at least {choice.least} calibration rows, got 9"):
        choice.fit(p[:9], y[:9])
    with pytest.raises(ValueError, match="sum to one"):
        choice.fit(2 * p, y)
    with pytest.raises(ValueError, match="columns of the probabilities, 0 to 1, got"):
        choice.fit(p, y + 5)
    fitted = choice.fit(p, y)
    with pytest.raises(ValueError, match=r"need probabilities \(n, 2\)"):
        fitted.apply(torch.full((4, 3), 1 / 3))
    with pytest.raises(ValueError, match="the probabilities holds 8 entries"):
        fitted.apply(torch.full((4, 2), torch.nan))


def test_beta_calibration_is_for_two_classes():
    with pytest.raises(ValueError, match="two classes, got 3; use TemperatureScaling"):
        BetaProbabilities().fit(*simulated(100, 3, 1.0, 8))
