"""MultiOutputRegion keeps its promise, in the user's units, and pays for bent shapes no more than they cost."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge

from kernelfield.core.posterior import Draws
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.regions import METHODS, MultiOutputRegion
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.directional_quantiles import DirectionalQuantiles
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from tests.estimators.banana import banana

QUICK = {
    **{name: FieldRegressor(Process(steps=0, noise=1.0)) for name in METHODS[:3]},
    "directional": FieldRegressor(DirectionalQuantiles(width=8, training=Training(steps=30)), random_state=0),
}


def region(method: str, **choices) -> MultiOutputRegion:
    return MultiOutputRegion(QUICK[method], method=method, random_state=0, **choices)


def length(polygons: list[np.ndarray]) -> float:
    """The area inside of outlines, less that of their holes."""
    parts = [0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) for x, y in (polygon.T for polygon in polygons)]
    return float(np.sum(parts))


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    """What all methods have in common."""

    def test_new_rows_are_inside_as_often_as_promised(self, method) -> None:
        X, Y = banana(400, 0)
        fitted = region(method, level=0.8, calibration=0.5).fit(X, Y)
        X, Y = banana(1000, 1)
        low, high = stats.betabinom(1000, 161, 40).interval(1 - 1e-6)  # of 200 calibration rows
        slack = 100 if method in ("box", "residuals") else 0  # ranks, or a bound of 140 of the rows
        assert low - slack < fitted.contains(X, Y).sum() < high + slack

    def test_units_change_nothing_but_the_units(self, method) -> None:
        X, Y = banana(60, 0)
        plain = region(method).fit(X, Y)
        moved = region(method).fit(1e3 * X + 5, Y * [1e-3, 10.0] - 7)
        at, y = banana(20, 1)
        np.testing.assert_allclose(moved.volume(1e3 * at + 5), 1e-2 * plain.volume(at), rtol=1e-4)
        inside = plain.contains(at, y)
        assert np.mean(moved.contains(1e3 * at + 5, y * [1e-3, 10.0] - 7) == inside) > 0.9

    def test_an_outline_has_the_area(self, method) -> None:
        X, Y = banana(60, 0)
        fitted = region(method).fit(X, Y)
        area = length(fitted.outline(X[0]))
        assert area == pytest.approx(fitted.volume(X[:1])[0], rel=0.1 if method == "directional" else 1e-3)

    def test_a_seed_gives_the_same_region_and_a_clone_has_none(self, method) -> None:
        X, Y = banana(60, 0)
        fitted = region(method).fit(X, Y)
        again = clone(fitted)
        assert not hasattr(again, "calibration_")
        assert again.get_params()["level"] == 0.9
        np.testing.assert_array_equal(again.fit(X, Y).volume(X[:3]), fitted.volume(X[:3]))


@pytest.mark.slow
def test_a_bent_region_is_a_third_of_a_box_and_of_an_ellipse() -> None:
    X, Y = banana(2000, 0)
    model = DirectionalQuantiles(width=32, training=Training(steps=1500, batch=128, learning_rate=1e-2))
    bent = MultiOutputRegion(FieldRegressor(model, random_state=0), method="directional", random_state=0).fit(X, Y)
    box, ellipse = (region(method).fit(X[:500], Y[:500]) for method in ("box", "residuals"))
    at, y = banana(1000, 1)
    law = bent.calibration_.coverage_law(0.9)
    low, high = law.of_test(1000, 1 - 1e-6)
    assert low < bent.contains(at, y).mean() < high
    area = bent.volume(at[:20]).mean()
    assert 3 * area < box.volume(at[:20]).mean()
    assert 3 * area < ellipse.volume(at[:20]).mean()


def test_a_directional_model_has_a_law_too() -> None:
    X, Y = banana(60, 0)
    law = QUICK["directional"].fit(X, Y).posterior(X[:5])
    assert isinstance(law, Draws)
    assert law.mean.shape == (5, 2)
    assert (law.variance > 0).all()


def test_what_is_wrong_is_said() -> None:
    X, Y = banana(30, 0)
    with pytest.raises(ValueError, match="method must be one of ellipsoid, residuals, box, directional, got 'circle'"):
        MultiOutputRegion(method="circle").fit(X, Y)
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 1.5"):
        MultiOutputRegion(calibration=1.5).fit(X, Y)
    with pytest.raises(TypeError, match="got LinearRegression"):
        MultiOutputRegion(LinearRegression()).fit(X, Y)
    with pytest.raises(ValueError, match="needs FieldRegressor"):
        MultiOutputRegion(QUICK["box"], method="directional").fit(X, Y)
    fitted = region("box").fit(X, Y)
    with pytest.raises(ValueError, match="1 targets, the fit had 2"):
        fitted.contains(X, Y[:, :1])
    with pytest.raises(ValueError, match="at least 9 calibration rows, got 3"):
        region("ellipsoid", calibration=0.1).fit(X, Y).volume(X)


@pytest.mark.parametrize(
    ("estimator", "why"),
    [
        (FieldClassifier(), "labels have no regions"),
        (Calibrated(), "a region is calibrated itself"),
        (Ridge(), "Ridge$"),
    ],
)
def test_an_estimator_that_is_none_for_regions_is_refused_with_the_reason(estimator, why):
    with pytest.raises(TypeError, match=why):
        MultiOutputRegion(estimator).fit(np.arange(20.0)[:, None], np.arange(40.0).reshape(20, 2))
