"""FieldRegressor with weighted, repeated, unusual and wrong data."""

import numpy as np
import pandas as pd
import pytest
from gpytorch.kernels import MaternKernel
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process


class TestWeights:
    """A row of weight w counts as w copies of it."""

    def test_noise_of_a_row_is_divided_by_its_weight(self, problem) -> None:
        X, y = problem
        weight = np.random.default_rng(2).uniform(0.2, 3.0, 30)
        ours = FieldRegressor(Process(_unit_matern(), mean="zero", noise=0.2, steps=0)).fit(X, y, sample_weight=weight)
        centre, spread = np.average(X, axis=0, weights=weight), np.average(y, weights=weight)
        size_x = np.sqrt(np.average((X - centre) ** 2, axis=0, weights=weight))
        size_y = np.sqrt(np.average((y - spread) ** 2, weights=weight))
        theirs = GaussianProcessRegressor(ConstantKernel(1.0) * Matern(1.0, nu=2.5), alpha=0.2 / weight, optimizer=None)
        theirs.fit((X - centre) / size_x, (y - spread) / size_y)
        at = X[:5] + 0.2
        expected = spread + size_y * theirs.predict((at - centre) / size_x)
        np.testing.assert_allclose(ours.predict(at), expected, rtol=1e-9)

    def test_weights_and_repetitions_are_the_same_fit_to_the_last_bit(self, problem) -> None:
        X, y = problem
        weight = np.random.default_rng(3).integers(0, 4, 30)
        weighted = FieldRegressor(Process(steps=20), random_state=0).fit(X, y, sample_weight=weight)
        repeated = FieldRegressor(Process(steps=20), random_state=0).fit(X.repeat(weight, 0), y.repeat(weight))
        np.testing.assert_array_equal(weighted.predict(X), repeated.predict(X))
        assert weighted.surrogate_.log_evidence == repeated.surrogate_.log_evidence

    def test_weights_of_one_are_no_weights(self, problem) -> None:
        X, y = problem
        plain = FieldRegressor(Process(steps=5), random_state=0).fit(X, y)
        for weight in (np.ones(30), [1] * 30, 1.0):
            same = FieldRegressor(Process(steps=5), random_state=0).fit(X, y, sample_weight=weight)
            np.testing.assert_array_equal(plain.predict(X), same.predict(X))

    def test_merged_copies_leave_the_posterior_of_given_hyperparameters_as_it_is(self) -> None:
        # Two equal observations with noise 0.5 each weigh as one with noise 0.25.
        x, y = np.array([[-1.0], [1.0], [1.0]]), np.array([-1.0, 2.0, 2.0])
        ours = FieldRegressor(Process(_unit_matern(), mean="zero", noise=0.5, steps=0)).fit(x, y)
        theirs = GaussianProcessRegressor(Matern(1.0, nu=2.5), alpha=0.5, optimizer=None)
        theirs.fit((x - x.mean()) / x.std(), (y - y.mean()) / y.std())
        at = np.array([[0.3], [5.0]])
        mean, std = theirs.predict((at - x.mean()) / x.std(), return_std=True)
        got, spread = ours.predict(at, return_std=True)
        np.testing.assert_allclose(got, y.mean() + y.std() * mean, rtol=1e-9)
        np.testing.assert_allclose(spread, y.std() * np.sqrt(std**2 + 0.5), rtol=1e-9)
        assert ours.n_samples_fit_ == 2
        assert ours.notes_ == ["1 copy of another row was merged into it as a weight"]

    def test_rows_without_weight_are_left_out(self, problem) -> None:
        X, y = problem
        X, y = np.vstack([X, [[1e6, 1e6]]]), np.append(y, -1e9)
        fitted = FieldRegressor(Process(steps=0)).fit(X, y, sample_weight=[1.0] * 30 + [0.0])
        plain = FieldRegressor(Process(steps=0)).fit(X[:30], y[:30])
        np.testing.assert_array_equal(fitted.predict(X), plain.predict(X))

    def test_score_counts_rows_by_weight(self, problem) -> None:
        X, y = problem
        fitted = FieldRegressor(Process(steps=0, noise=2.0)).fit(X[:10], y[:10])
        weight = np.arange(30)
        expected = fitted.score(X.repeat(weight, 0), y.repeat(weight))
        assert fitted.score(X, y, sample_weight=weight) == pytest.approx(expected)


def _unit_matern():
    kernel = MaternKernel(2.5)
    kernel.lengthscale = 1.0
    return kernel


class TestOddData:
    """Unusual data are fitted, and what was done differently is said."""

    def test_equal_targets_are_predicted_as_they_are(self, problem) -> None:
        X, _ = problem
        fitted = FieldRegressor().fit(X, np.full(30, 0.1))
        mean, std = fitted.predict(X + 9.0, return_std=True)
        np.testing.assert_array_equal(mean, 0.1)
        assert np.isfinite(std).all()
        assert fitted.notes_ == ["all targets equal 0.1, so every prediction does"]

    def test_an_output_of_equal_targets_is_named(self, outputs) -> None:
        X, Y = outputs
        Y[:, 1] = 3.5
        fitted = FieldRegressor(Process(steps=5)).fit(X, Y)
        np.testing.assert_array_equal(fitted.predict(X)[:, 1], 3.5)
        assert fitted.notes_ == ["all targets of output 1 equal 3.5, so every prediction does"]

    def test_a_constant_column_changes_nothing(self, problem) -> None:
        X, y = problem
        model = Process(_unit_matern(), steps=0)
        plain = FieldRegressor(model).fit(X, y).predict(X)
        wider = np.column_stack([X, np.full(30, 0.1)])
        np.testing.assert_allclose(FieldRegressor(model).fit(wider, y).predict(wider), plain, rtol=1e-12)

    def test_duplicate_rows_with_other_targets_are_fitted(self, problem) -> None:
        X, y = problem
        fitted = FieldRegressor().fit(np.vstack([X, X]), np.append(y, y + 1.0))
        assert np.isfinite(fitted.predict(X)).all()
        assert fitted.n_samples_fit_ == 60

    def test_single_precision_comes_in_and_double_goes_out(self, problem) -> None:
        X, y = problem
        X, y = X.astype(np.float32), y.astype(np.float32)
        fitted = FieldRegressor(Process(steps=5), random_state=0).fit(X, y)
        double = FieldRegressor(Process(steps=5), random_state=0).fit(X.astype(float), y.astype(float))
        mean = fitted.predict(X)
        assert mean.dtype == np.float64
        np.testing.assert_array_equal(mean, double.predict(X))

    def test_lists_are_arrays(self, problem) -> None:
        X, y = problem
        fitted = FieldRegressor(Process(steps=0)).fit(X.tolist(), y.tolist())
        expected = FieldRegressor(Process(steps=0)).fit(X, y).predict(X)
        np.testing.assert_array_equal(fitted.predict(X.tolist()), expected)


X, Y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
FRAME = pd.DataFrame(X, columns=["a", "a"])
BAD_FITS = {
    "one row": (lambda: FieldRegressor().fit(X[:1], Y[:1]), "1 sample.*minimum of 2"),
    "NaN in X": (lambda: FieldRegressor().fit(np.where(X == 3, np.nan, X), Y), "Input X contains NaN"),
    "infinity in X": (lambda: FieldRegressor().fit(np.where(X == 3, np.inf, X), Y), "X contains infinity"),
    "NaN in y": (lambda: FieldRegressor().fit(X, np.where(Y == 3, np.nan, Y)), "y contains NaN"),
    "infinity in y": (lambda: FieldRegressor().fit(X, np.where(Y == 3, np.inf, Y)), "y contains infinity"),
    "lengths": (lambda: FieldRegressor().fit(X, Y[:-1]), "inconsistent numbers of samples"),
    "repeated name": (lambda: FieldRegressor().fit(FRAME, Y), "names must differ, a occurs more than once; rename"),
    "weights of zero": (lambda: FieldRegressor().fit(X, Y, sample_weight=np.zeros(6)), "weight.*zero"),
    "one weight": (lambda: FieldRegressor().fit(X, Y, sample_weight=np.eye(6)[0]), "at least 2 rows"),
    "negative weight": (lambda: FieldRegressor().fit(X, Y, sample_weight=Y - 1), "Negative values.*sample_weight"),
    "NaN weight": (lambda: FieldRegressor().fit(X, Y, sample_weight=Y * np.nan), "sample_weight contains NaN"),
    "unknown device": (lambda: FieldRegressor(device="abacus").fit(X, Y), "device must be 'cpu'.*got 'abacus'"),
    "not a model": (lambda: FieldRegressor("gp").fit(X, Y), r"model must be a Model such as Process\(\).*'gp'"),
    "noise": (lambda: FieldRegressor(Process(noise=-1.0)).fit(X, Y), "noise must be a positive.*-1"),
}
FITTED = FieldRegressor(Process(steps=0)).fit(X, Y)
BAD_QUESTIONS = {
    "more columns": (lambda: FITTED.predict(np.ones((2, 3))), "3 features.*expecting 2"),
    "a level in percent": (lambda: FITTED.predict(X, quantiles=[90]), "between 0 and 1, got 90; write 0.9"),
    "a level of zero": (lambda: FITTED.predict(X, quantiles=[0.0]), "between 0 and 1, got 0"),
    "more outputs": (lambda: FITTED.log_density(X, X), "y has 2 outputs, the fit had 1"),
    "fewer targets": (lambda: FITTED.log_density(X, Y[:3]), "inconsistent numbers of samples"),
    "NaN in X": (lambda: FITTED.posterior(X * np.nan), "Input X contains NaN"),
    "no fit": (lambda: FieldRegressor().sample_y(X), "not fitted"),
}


@pytest.mark.parametrize("case", [*BAD_FITS.values(), *BAD_QUESTIONS.values()], ids=[*BAD_FITS, *BAD_QUESTIONS])
def test_a_mistake_is_answered_with_a_sentence(case) -> None:
    call, sentence = case
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()


def test_reversed_arrays_are_read_as_any_others(problem) -> None:
    """torch takes no negative strides."""
    X, y = problem
    fitted, behind = FieldRegressor(Process(steps=0), random_state=0).fit(X, y), X[::-1, ::-1][:, ::-1]
    np.testing.assert_array_equal(fitted.predict(behind), fitted.predict(behind.copy()))
    np.testing.assert_allclose(fitted.log_density(behind, y[::-1]), fitted.log_density(X, y)[::-1])
    classes = FieldClassifier().fit(behind, y[::-1] > np.median(y))
    np.testing.assert_array_equal(classes.predict_proba(behind), classes.predict_proba(behind.copy()))
