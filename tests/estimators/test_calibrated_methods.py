"""What each method of Calibrated says is what its definition says, on rows that a model has not seen."""

import numpy as np
import pytest
import torch
from mapie.regression import CrossConformalRegressor, SplitConformalRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.model_selection import KFold, LeaveOneOut, cross_val_predict

from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrations import METHODS
from kernelfield.estimators.predictive import Pooled, gaussian, law_of, pooled
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 2))
Y = X[:, 0] + (0.2 + np.abs(X[:, 1])) * RNG.normal(size=150)
AT = RNG.normal(size=(200, 2))
FIELD = FieldRegressor(Process(noise=0.3, steps=0), random_state=0)
FOLDS = KFold(5, shuffle=True, random_state=1)


def test_split_is_that_of_mapie() -> None:
    base = Ridge().fit(X[:90], Y[:90])
    ours = Calibrated(base, method="split", cv="prefit").fit(X[90:], Y[90:])
    theirs = SplitConformalRegressor(base, confidence_level=0.9, prefit=True).conformalize(X[90:], Y[90:])
    np.testing.assert_allclose(ours.predict_interval(AT, 0.9), theirs.predict_interval(AT)[1][..., 0], rtol=1e-12)
    assert ours.estimator_ is base


@pytest.mark.parametrize(("method", "splitter"), [("jackknife+", LeaveOneOut()), ("cv+", FOLDS)])
def test_resampling_is_that_of_mapie(method, splitter) -> None:
    ours = Calibrated(Ridge(), method=method, cv=FOLDS).fit(X, Y)
    theirs = CrossConformalRegressor(Ridge(), confidence_level=0.9, cv=splitter).fit_conformalize(X, Y)
    np.testing.assert_allclose(ours.predict_interval(AT, 0.9), theirs.predict_interval(AT)[1][..., 0], rtol=1e-12)
    np.testing.assert_allclose(ours.predict(AT), Ridge().fit(X, Y).predict(AT), rtol=1e-12)


def test_folds_calibrate_by_predictions_out_of_fold_and_the_final_fit_has_all_rows() -> None:
    ours = Calibrated(BayesianRidge(), method="std", cv=FOLDS).fit(X, Y)
    mean, std = np.empty(150), np.empty(150)
    for train, test in FOLDS.split(X):
        mean[test], std[test] = BayesianRidge().fit(X[train], Y[train]).predict(X[test], return_std=True)
    factor = np.sqrt(np.mean(((Y - mean) / std) ** 2))
    whole, spread = BayesianRidge().fit(X, Y).predict(AT, return_std=True)
    got, got_std = ours.predict(AT, return_std=True)
    np.testing.assert_allclose(got, whole, rtol=1e-12)
    np.testing.assert_allclose(got_std, factor * spread, rtol=1e-10)


def test_points_have_the_deviation_of_their_errors_out_of_fold() -> None:
    ours = Calibrated(Ridge(), method="std", cv=FOLDS).fit(X, Y)
    gap = Y - cross_val_predict(Ridge(), X, Y, cv=FOLDS)
    _, std = ours.predict(AT, return_std=True)
    np.testing.assert_allclose(std, np.sqrt(np.mean(gap**2)), rtol=1e-10)
    np.testing.assert_allclose(ours.spread_, np.sqrt(np.mean(gap**2)))


def test_a_share_is_held_out_and_seeded() -> None:
    one, same, other = (Calibrated(Ridge(), method="split", cv=0.4, random_state=seed).fit(X, Y) for seed in (0, 0, 1))
    assert one.calibrator_.rows == 60
    np.testing.assert_array_equal(one.predict_interval(AT), same.predict_interval(AT))
    assert not np.array_equal(one.predict(AT), other.predict(AT))
    assert not np.allclose(one.predict(AT), Ridge().fit(X, Y).predict(AT))  # it was fitted to the rest alone


class TestJackknifeOfAProcess:
    """The n models come from one fit, and are those of n refits with what was learned held."""

    @pytest.mark.parametrize("mixing", [None, InverseGamma.student(4.0)], ids=["gaussian", "student-t"])
    def test_it_is_the_explicit_one(self, mixing) -> None:
        model = Process(noise=0.3, steps=0) if mixing is None else Process(noise=0.3, steps=0, mixing=mixing)
        ours = Calibrated(FieldRegressor(model), method="jackknife+").fit(X[:40], Y[:40])
        assert ours.calibrator_.members is None
        inside, kernel = ours.estimator_.surrogate_, ours.estimator_.surrogate_.inner.kernel
        x, y = inside.to_model_X(torch.tensor(X[:40])), inside.to_model_y(torch.tensor(Y[:40, None]))
        new = inside.to_model_X(torch.tensor(AT))
        low, high = [], []
        for i in range(40):
            rest = torch.arange(40) != i
            held = Process(kernel, noise=0.3, steps=0)
            fitted = held.fit(type(inside.inner.data)(x[rest], y[rest]), generator=torch.Generator())
            unit, shift = inside.to_model_y.scale, inside.to_model_y.shift
            gap = (Y[i] - (fitted.posterior(x[i : i + 1]).mean * unit + shift)).abs().item()
            mean = (fitted.posterior(new).mean * unit + shift).flatten().numpy()
            low.append(mean - gap)
            high.append(mean + gap)
        expected = np.stack([np.sort(low, 0)[3], np.sort(high, 0)[36]], -1)  # ranks 4 and 37 of 40, for 90%
        np.testing.assert_allclose(ours.predict_interval(AT, 0.9), expected, rtol=1e-8, atol=1e-8)

    def test_repeated_rows_and_other_models_are_refitted(self) -> None:
        rows = np.r_[0:12, 0]
        twice = Calibrated(FIELD, method="jackknife+").fit(X[rows], Y[rows])
        assert len(twice.calibrator_.members) == 13
        assert "13 refits" in twice.notes_[-1]
        sure = Calibrated(GaussianProcessRegressor(alpha=0.3), method="jackknife+").fit(X[:12], Y[:12])
        assert len(sure.calibrator_.members) == 12


QUICK = [pytest.param(name, marks=pytest.mark.slow) if name == "jackknife+" else name for name in METHODS]


@pytest.mark.parametrize("method", QUICK)
def test_every_method_covers_what_it_says(method) -> None:
    target = {"X_target": AT} if method == "weighted" else {}
    inside = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(500, 2))
        y = x[:, 0] + (0.2 + np.abs(x[:, 1])) * rng.normal(size=500)
        calibrated = Calibrated(BayesianRidge(), method=method, cv=3, random_state=seed).fit(x[:200], y[:200], **target)
        ends = calibrated.predict_interval(x[200:], 0.9)
        inside.append((ends[:, 0] <= y[200:]) & (y[200:] <= ends[:, 1]))
    # Errors of the calibration (1000 rows in all) and of the test (1500); levels of a factor for heavy tails are rough.
    tolerance = 4 * (0.09 / 1000 + 0.09 / 1500) ** 0.5
    assert abs(np.mean(inside) - 0.9) < tolerance + (0.02 if method == "std" else 0.01)


def test_intervals_answer_for_quantiles() -> None:
    ours = Calibrated(Ridge(), method="split", cv=3, random_state=0).fit(X, Y)
    mean, quantiles = ours.predict(AT, quantiles=[0.05, 0.5, 0.95])
    np.testing.assert_array_equal(quantiles[:, [0, 2]], ours.predict_interval(AT, 0.9))
    np.testing.assert_array_equal(quantiles[:, 1], mean)


class TestRefusals:
    """What cannot be calibrated says why, and what would help."""

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"method": "platt"}, "method must be one of std, isotonic, .* got 'platt'"),
            ({"method": 3}, "or a choice that has fit, got 3"),
            ({"method": "normalised"}, r"needs a regressor with predict\(return_std=True\)"),
            ({"method": "weighted"}, "X_target"),
            ({"method": "cv+", "cv": 0.3}, "needs folds, got cv=0.3"),
            ({"method": "cv+", "cv": "prefit"}, "not 'prefit'"),
            ({"cv": 1}, "at least 2 folds, got 1"),
            ({"cv": True}, "a number of folds, a share of the rows, 'prefit' or a splitter, got True"),
            ({"cv": 1.5}, "leaves 0 rows to calibrate on and 150 to fit"),
            ({"cv": [(np.arange(100), np.arange(100, 150))]}, "must test each of the 150 rows once"),
            ({"cv": 0.05}, "at least 10 calibration rows, got 8"),
        ],
    )
    def test_settings(self, settings, words) -> None:
        with pytest.raises(ValueError, match=words):
            Calibrated(Ridge(), **settings).fit(X, Y)

    def test_a_level_that_the_rows_do_not_reach(self) -> None:
        for method in ("split", "jackknife+"):
            one = Calibrated(Ridge(), method=method, cv=2).fit(X[:30], Y[:30])
            with pytest.raises(ValueError, match=r"0\.99 needs at least 99 .*got 30"):
                one.predict_interval(AT, 0.99)
        with pytest.raises(ValueError, match="write 0.9 for 90%"):
            one.predict_interval(AT, 90)


def test_laws_of_parts_are_one_law_of_all() -> None:
    parts = [law_of(FIELD.fit(X[:40], Y[:40]), AT[:3]), gaussian(np.ones((2, 1)), np.full((2, 1), 2.0))]
    one, other = pooled(parts), Pooled(tuple(parts))
    assert not isinstance(one, Pooled)
    y = torch.linspace(-1, 1, 5)[:, None].double()
    for ask in ("mean", "variance"):
        torch.testing.assert_close(getattr(one, ask), getattr(other, ask))
    for ask in ("cdf", "log_prob", "normal_score"):
        expected = torch.cat(
            [
                getattr(p, ask)(v) if ask != "normal_score" else (v - p.mean) / p.variance.sqrt()
                for p, v in zip(parts, y.split([3, 2]), strict=True)
            ]
        )
        torch.testing.assert_close(getattr(other, ask)(y), expected)
    torch.testing.assert_close(other.at_normal_score(other.normal_score(y)), y)
    torch.testing.assert_close(other.quantile(0.3), one.quantile(0.3))
    z = torch.randn(6, other.width)
    torch.testing.assert_close(other.draw(z)[:, 3:], parts[1].draw(z[:, 3:]))
    two = torch.tensor([2.0]).double()
    torch.testing.assert_close(other.affine(two, two).mean, 2 * one.mean + 2)
