"""A saved calibrated estimator predicts the same bits, whatever it learned."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from kernelfield.estimators import calibration_records, records
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.calibrations import METHODS
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regions import MultiOutputRegion
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.dirichlet import DirichletClassifier
from kernelfield.models.process import Process
from kernelfield.models.warped import Warped
from kernelfield.uq.recalibration.spread import StdScaling

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.uniform(-2, 2, (130, 2)), columns=["width", "height"])
Y = np.column_stack([X["width"] ** 2 + 0.3 * RNG.normal(size=130), X["height"]]) + 0.1 * RNG.normal(size=(130, 2))
AT = X[:40] + 0.1
FIELD = FieldRegressor(Process(steps=2, restarts=1), random_state=0)
LEVELS = [0.05, 0.9, 0.95]
METHOD_SETTINGS = {"mondrian": {"groups": "cluster"}, "cqr": {"levels": (0.9, 0.6826894921370859, 0.8)}}


def same(first: Calibrated, second: Calibrated) -> None:
    answers = [one.predict(AT, return_std=True, quantiles=LEVELS) for one in (first, second)]
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(first.predict_interval(AT, 0.8), second.predict_interval(AT, 0.8))


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_the_same_bits(method, outputs, tmp_path: Path) -> None:
    y = Y[:, 0] if outputs == 1 else Y
    target = {"X_target": AT} if method == "weighted" else {}
    one = Calibrated(FIELD, method=method, cv=2, random_state=0, **METHOD_SETTINGS.get(method, {})).fit(X, y, **target)
    save(one, tmp_path / "model")
    again = load(tmp_path / "model")
    same(one, again)
    assert vars(again).keys() == vars(one).keys()
    assert again.notes_ == one.notes_
    assert list(again.feature_names_in_) == ["width", "height"]
    assert again.get_params(deep=False).keys() == one.get_params(deep=False).keys()


@pytest.mark.parametrize("method", [StdScaling(shift=True), "isotonic"], ids=["a choice", "isotonic"])
def test_warped_models_and_choices_are_kept(method, tmp_path: Path) -> None:
    base = FieldRegressor(Warped(Process(steps=2, restarts=1)), random_state=0).fit(X[:60], Y[:60, 0])
    one = Calibrated(base, method=method, cv="prefit").fit(X[60:], Y[60:, 0])
    save(one, tmp_path / "model")
    same(one, load(tmp_path / "model"))
    assert load(tmp_path / "model").method == method


@pytest.mark.parametrize("method", ["temperature", "beta", "isotonic"])
def test_classifiers_answer_the_same_bits(method, tmp_path: Path) -> None:
    labels = np.where(Y[:, 0] + RNG.normal(size=130) > 1, "yes", "no")
    base = FieldClassifier(DirichletClassifier(steps=2), random_state=0)
    one = CalibratedClassifier(base, method=method, cv=2, random_state=0).fit(X, labels)
    save(one, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(again.predict_proba(AT), one.predict_proba(AT))
    np.testing.assert_array_equal(again.predict(AT), one.predict(AT))


def test_the_seed_of_an_estimator_inside_is_kept_and_a_generator_is_not(tmp_path: Path) -> None:
    base = FieldRegressor(Process(steps=0), random_state=np.random.RandomState(0))
    one = Calibrated(base, cv=2, random_state=7).fit(X, Y)
    save(one, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    assert (again.random_state, again.estimator.random_state, again.estimator_.device) == (7, None, "cpu")
    save(Calibrated(), tmp_path / "unfitted")
    assert load(tmp_path / "unfitted").get_params() == Calibrated().get_params()


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (Calibrated(Ridge(), cv=2), r"Calibrated\.estimator cannot be saved: sklearn\..*Ridge"),
        (Calibrated(FIELD, cv=KFold(2)), r"Calibrated\.cv cannot be saved: sklearn\..*KFold"),
    ],
)
def test_what_is_not_ours_is_refused(estimator, words, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        save(estimator.fit(X, Y[:, 0]), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_no_two_classes_share_a_name() -> None:
    ours = calibration_records.CALIBRATIONS
    assert all(records.RECORDS[name] is kind for name, kind in ours.items())
    assert len(set(records.RECORDS.values())) == len(records.RECORDS)
    assert not records.RECORDS.keys() & records.ESTIMATORS.keys()


@pytest.mark.parametrize("method", ["ellipsoid", "residuals", "box"])
def test_a_region_is_kept_with_its_calibration(method: str, tmp_path: Path) -> None:
    one = MultiOutputRegion(FIELD, method=method, level=0.8, random_state=0).fit(X, Y)
    save(one, tmp_path / "model")
    again = load(tmp_path / "model")
    assert vars(again).keys() == vars(one).keys()
    np.testing.assert_array_equal(again.volume(AT), one.volume(AT))
    np.testing.assert_array_equal(again.contains(X, Y), one.contains(X, Y))
    for ours, theirs in zip(one.outline(AT[:1]), again.outline(AT[:1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
