"""Calibrated keeps the scikit-learn conventions, whatever it calibrates and however."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernelfield.core.posterior import Elliptical
from kernelfield.estimators import calibrated as calibrated_module
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process

FIELD = FieldRegressor(Process(steps=2, restarts=1), random_state=0)


@parametrize_with_checks([Calibrated(Ridge(), method="split", cv=0.5)])
def test_every_scikit_learn_convention_is_kept(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        Calibrated(FIELD, cv=2),
        Calibrated(BayesianRidge(), method="jackknife+"),
        Calibrated(Ridge(), method="cv+", cv=3),
        Calibrated(FIELD, method="mondrian", cv=2),
    ]
)
def test_every_convention_is_kept_by_every_way_to_calibrate(estimator, check) -> None:
    check(estimator)


def problem(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return X, X[:, 0] + (0.2 + np.abs(X[:, 1])) * rng.normal(size=n)


@pytest.mark.parametrize("cv", [3, 0.4, KFold(4)], ids=str)
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("base", [FIELD, Ridge()], ids=["field", "ridge"])
def test_answers_have_the_shape_of_the_targets(base, outputs, cv) -> None:
    X, y = problem(80)
    Y = y if outputs == 1 else np.column_stack([y, -3 * y])
    calibrated = Calibrated(base, cv=cv, random_state=0).fit(X, Y)
    mean, std, quantiles = calibrated.predict(X[:7], return_std=True, quantiles=[0.1, 0.5, 0.9])
    assert mean.shape == std.shape == Y[:7].shape
    assert quantiles.shape == (*Y[:7].shape, 3)
    ends = calibrated.predict_interval(X[:7], 0.8)
    np.testing.assert_allclose(ends, quantiles[..., [0, 2]], rtol=1e-12)
    np.testing.assert_array_equal(calibrated.predict(X[:7]), mean)
    law = calibrated.posterior(X[:7])
    np.testing.assert_allclose(law.mean.numpy().reshape(mean.shape), mean)
    assert calibrated.notes_


def test_blocks_of_rows_change_nothing(monkeypatch) -> None:
    X, y = problem()
    for method in ("isotonic", "jackknife+", "normalised"):
        one = Calibrated(FIELD, method=method, cv=2, random_state=0).fit(X, y)
        whole = one.predict(X, return_std=True, quantiles=[0.1])
        monkeypatch.setattr(calibrated_module, "ROWS", 17)
        for first, second in zip(whole, one.predict(X, return_std=True, quantiles=[0.1]), strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-12)
        monkeypatch.undo()


def test_it_is_searched_over_cloned_and_piped() -> None:
    X, y = problem(60)
    calibrated = Calibrated(Ridge(), method="split", cv=2, random_state=0)
    search = GridSearchCV(make_pipeline(StandardScaler(), calibrated), {"calibrated__estimator__alpha": [0.1, 1e6]})
    assert search.fit(X, y).best_params_ == {"calibrated__estimator__alpha": 0.1}
    assert clone(calibrated).get_params()["cv"] == 2
    inside = Calibrated(make_pipeline(StandardScaler(), FIELD), cv=2, random_state=0).fit(X, y)
    assert isinstance(inside.posterior(X[:3]), Elliptical)  # a pipeline's law is that of its last step


def test_tables_keep_their_names_and_texts() -> None:
    X, y = problem(160)
    frame = pd.DataFrame(X, columns=["width", "height"])
    frame["city"] = np.where(np.arange(160) % 2, "Rome", "Oslo")
    noisy = y + np.where(frame["city"] == "Rome", 5.0, 0.1) * np.random.default_rng(1).normal(size=160)
    columns = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    base = make_pipeline(columns, Ridge())
    calibrated = Calibrated(base, method="mondrian", groups="city", cv=2, random_state=0).fit(frame, noisy)
    assert list(calibrated.feature_names_in_) == list(frame)
    widths = np.diff(calibrated.predict_interval(frame.iloc[:2], 0.9))[:, 0]
    assert widths[1] > 2 * widths[0]
    with pytest.raises(ValueError, match="feature names"):
        calibrated.predict(frame[["city", "width", "height"]])
    with pytest.raises(ValueError, match="no column of X is called 'town'; it has width, height, city"):
        Calibrated(base, method="mondrian", groups="town", cv=2).fit(frame, noisy)


def test_metadata_reaches_the_estimator_and_weights_are_refused() -> None:
    X, y = problem(60)
    with pytest.raises(ValueError, match="counts each row once"), config_context(enable_metadata_routing=True):
        Calibrated(Ridge().set_fit_request(sample_weight=True), cv=2).fit(X, y, sample_weight=np.ones(60))
    with pytest.raises(ValueError, match="sample_weight"):
        Calibrated(Ridge(), cv=2).fit(X, y, sample_weight=np.ones(60))
    groups = np.arange(60) % 3
    with config_context(enable_metadata_routing=True):
        one = Calibrated(Ridge(), method="cv+", cv=GroupKFold(3).set_split_request(groups=True))
        member = one.fit(X, y, groups=groups).calibrator_.left.member
    assert all(len(set(member[groups == g])) == 1 for g in range(3))
