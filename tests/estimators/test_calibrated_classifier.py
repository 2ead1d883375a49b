"""CalibratedClassifier keeps the scikit-learn conventions and makes probabilities honest."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.models.dirichlet import DirichletClassifier


@parametrize_with_checks([CalibratedClassifier(LogisticRegression(), cv=2, random_state=0)])
def test_every_scikit_learn_convention_is_kept(estimator, check) -> None:
    check(estimator)


def copies(n: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that say the same thing five times, which naive Bayes takes for five things."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    return (y + 1.2 * rng.normal(size=n))[:, None].repeat(5, axis=1), np.array(["a", "b", "c"])[y]


@pytest.mark.parametrize("cv", [5, 0.4, StratifiedKFold(3), "prefit"], ids=str)
@pytest.mark.parametrize(("method", "classes"), [("temperature", 2), ("temperature", 3), ("beta", 2), ("isotonic", 3)])
def test_probabilities_become_honest(method, classes, cv) -> None:
    n, new = 3000, copies(8000, classes, seed=1)
    base = GaussianNB().fit(*copies(n, classes, seed=2))
    calibrated = CalibratedClassifier(base, method=method, cv=cv, random_state=0).fit(*copies(n, classes))
    before, p = calibrated.estimator_.predict_proba(new[0]), calibrated.predict_proba(new[0])
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-12)
    assert log_loss(new[1], p) < log_loss(new[1], before) - 0.1
    hits = (calibrated.predict(new[0]) == new[1]).mean()
    # Four standard errors of a share of the rows that calibrate and of the new ones.
    rows = 0.4 * n if cv == 0.4 else n
    assert abs(p.max(1).mean() - hits) < 4 * (0.25 / rows + 0.25 / 8000) ** 0.5 < before.max(1).mean() - hits
    assert calibrated.notes_


def test_temperature_leaves_the_labels_and_is_that_of_predictions_out_of_fold() -> None:
    X, y = copies(300, 3)
    folds = StratifiedKFold(4)
    calibrated = CalibratedClassifier(GaussianNB(), cv=folds).fit(X, y)
    np.testing.assert_array_equal(calibrated.predict(X), GaussianNB().fit(X, y).predict(X))
    unseen = cross_val_predict(GaussianNB(), X, y, cv=folds, method="predict_proba")
    logits, T = np.log(unseen), calibrated.calibrator_.temperature

    def loss(t: float) -> float:
        p = np.exp(logits / t)
        return log_loss(y, p / p.sum(1, keepdims=True))

    assert all(loss(T) < loss(T * factor) for factor in (0.99, 1.01))


def test_the_default_is_a_field_classifier_of_named_columns() -> None:
    X, y = copies(60)
    frame = pd.DataFrame(X[:, :2] + [0, 1], columns=["width", "height"])
    base = FieldClassifier(DirichletClassifier(steps=2), random_state=0)
    calibrated = CalibratedClassifier(base, cv=2, random_state=0).fit(frame, y)
    assert list(calibrated.feature_names_in_) == ["width", "height"]
    with pytest.raises(ValueError, match="feature names"):
        calibrated.predict(frame[["height", "width"]])
    assert isinstance(CalibratedClassifier()._base(), FieldClassifier)


def test_it_is_searched_over_and_piped() -> None:
    X, y = copies(120)
    pipe = make_pipeline(StandardScaler(), CalibratedClassifier(GaussianNB(), cv=3, random_state=0))
    grid = {"calibratedclassifier__estimator__var_smoothing": [1e-9, 1e-3]}
    search = GridSearchCV(pipe, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert np.isfinite(search.best_score_)


def test_a_class_that_a_fold_has_not_seen_has_no_chance_there() -> None:
    X, y = copies(80)
    y = y.astype(object)
    y[0] = "rare"
    with pytest.warns(UserWarning, match="least populated class"):
        calibrated = CalibratedClassifier(LogisticRegression(), cv=2, random_state=0).fit(X, y)
    assert list(calibrated.classes_) == ["a", "b", "rare"]
    assert calibrated.predict_proba(X[:3]).shape == (3, 3)


class TestRefusals:
    """What cannot be calibrated says why."""

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"method": "platt"}, "one of temperature, beta, isotonic, got 'platt'"),
            ({"method": "beta"}, "beta calibration is for two classes, got 3"),
            ({"cv": 1}, "at least 2 folds, got 1"),
            ({"cv": 0.01}, "at least 10 calibration rows, got 2"),
        ],
    )
    def test_settings(self, settings, words) -> None:
        with pytest.raises(ValueError, match=words):
            CalibratedClassifier(GaussianNB(), **settings).fit(*copies(150, 3))

    def test_one_class(self) -> None:
        with pytest.raises(ValueError, match="one class only, a,"):
            CalibratedClassifier(GaussianNB()).fit(np.zeros((9, 1)), ["a"] * 9)

    def test_a_class_without_rows_to_calibrate_on(self) -> None:
        base = GaussianNB().fit(*copies(100, 3))
        X, y = copies(100, 2)
        with pytest.raises(ValueError, match="knows the class c"):
            CalibratedClassifier(base, cv="prefit").fit(X, y)
