"""FieldRegressor keeps the scikit-learn conventions and answers in the units of the data."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators import regressor
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels import stationary
from kernelfield.models.neural.deep_kernel_machine import DeepKernelMachine
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.function_space import FunctionSpace
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess

MODELS = {
    "gp": Process(steps=10),
    "linear": Process("rbf", mean="linear", steps=10),
    "student-t": Process(mixing=InverseGamma.student(5.0), steps=10),
}
LEVELS = [0.05, 0.5, 0.9]


@parametrize_with_checks([FieldRegressor(Process(steps=2), random_state=0), FieldRegressor()])
def test_every_scikit_learn_convention_is_kept(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_learns_in_the_units_of_the_data(model, problem) -> None:
    X, y = problem
    fitted = FieldRegressor(model, random_state=0).fit(X[:20], y[:20])
    mean, std = fitted.predict(X[20:], return_std=True)
    assert mean.shape == std.shape == (10,)
    assert fitted.score(X[20:], y[20:]) > 0.8
    assert (np.abs(mean - y[20:]) < 6 * std).all()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_units_of_inputs_and_targets_change_nothing_but_the_units(model, problem) -> None:
    X, y = problem
    plain = FieldRegressor(model, random_state=0).fit(X, y)
    moved = FieldRegressor(model, random_state=0).fit(X * [1e-6, 1e4] + [5.0, -1e3], 1e-3 * y - 7.0)
    at = X[:5] + 0.1
    mean, std = plain.predict(at, return_std=True)
    mean_moved, std_moved = moved.predict(at * [1e-6, 1e4] + [5.0, -1e3], return_std=True)
    # The paths of the searches part by rounding that the large offsets magnify.
    np.testing.assert_allclose(mean_moved, 1e-3 * mean - 7.0, rtol=1e-6)
    np.testing.assert_allclose(std_moved, 1e-3 * std, rtol=1e-6)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_same_seed_gives_the_same_answer(model, problem) -> None:
    X, y = problem
    first, second = (clone(FieldRegressor(model, random_state=3)).fit(X, y).predict(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_predictions_agree_with_scikit_learn_at_the_same_hyperparameters(problem) -> None:
    X, y = problem
    kernel = 1.7 * Matern([0.8, 1.9], nu=2.5) + WhiteKernel(0.04)
    theirs = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(X, y - y.mean())
    ours = FieldRegressor(Process(_matern(X, y, 1.7, [0.8, 1.9]), mean="zero", noise=0.04 / y.var(), steps=0))
    ours.fit(X, y)
    at = X[:7] + 0.3
    mean, std = theirs.predict(at, return_std=True)
    _, cov = theirs.predict(at, return_cov=True)
    got_mean, got_std, got_cov = ours.predict(at, return_std=True, return_cov=True)
    np.testing.assert_allclose(got_mean, mean + y.mean(), rtol=1e-9)
    np.testing.assert_allclose(got_std, std, rtol=1e-8)
    np.testing.assert_allclose(got_cov, cov, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.surrogate_.log_evidence, theirs.log_marginal_likelihood(), rtol=1e-10)


def _matern(X: np.ndarray, y: np.ndarray, outputscale: float, lengthscale: list[float]):
    """The kernel in standardised units of one with these hyperparameters in the user's."""
    kernel = stationary.Matern(2.5, ard_num_dims=2)
    kernel.lengthscale = torch.tensor(lengthscale / X.std(0))
    kernel.outputscale = outputscale / y.var()
    return kernel


class TestShapes:
    """Answers are shaped by the y of the fit, in the order mean, std, cov, quantiles."""

    def test_one_output(self, problem) -> None:
        X, y = problem
        fitted = FieldRegressor(Process(steps=0)).fit(X, y)
        answers = fitted.predict(X[:4], return_std=True, return_cov=True, quantiles=LEVELS)
        assert [a.shape for a in answers] == [(4,), (4,), (4, 4), (4, 3)]
        assert fitted.sample_y(X[:4], 6).shape == (4, 6)
        assert fitted.log_density(X[:4], y[:4]).shape == (4,)

    def test_several_outputs(self, outputs) -> None:
        X, Y = outputs
        fitted = FieldRegressor(Process(steps=0)).fit(X, Y)
        answers = fitted.predict(X[:4], return_std=True, return_cov=True, quantiles=LEVELS)
        assert [a.shape for a in answers] == [(4, 2), (4, 2), (4, 4, 2), (4, 2, 3)]
        assert fitted.sample_y(X[:4], 6).shape == (4, 2, 6)
        assert fitted.log_density(X[:4], Y[:4]).shape == (4, 2)

    def test_one_column_stays_a_column(self, problem) -> None:
        X, y = problem
        fitted = FieldRegressor(Process(steps=0)).fit(X, y[:, None])
        answers = fitted.predict(X[:4], return_std=True, return_cov=True, quantiles=LEVELS)
        assert [a.shape for a in answers] == [(4, 1), (4, 1), (4, 4, 1), (4, 1, 3)]

    def test_the_mean_comes_alone_and_others_in_their_order(self, problem) -> None:
        X, y = problem
        fitted = FieldRegressor(Process(steps=0)).fit(X, y)
        mean, std, cov, quantiles = fitted.predict(X, return_std=True, return_cov=True, quantiles=[0.5])
        np.testing.assert_array_equal(fitted.predict(X), mean)
        np.testing.assert_array_equal(fitted.predict(X, return_cov=True)[1], cov)
        np.testing.assert_array_equal(fitted.predict(X, quantiles=[0.5])[1], quantiles)
        np.testing.assert_allclose(np.sqrt(np.diag(cov)), std)
        np.testing.assert_allclose(quantiles[:, 0], mean)


def test_covariance_of_several_outputs_has_their_variances_on_its_diagonal(outputs) -> None:
    X, Y = outputs
    fitted = FieldRegressor(Process(steps=5)).fit(X, Y)
    _, std, cov = fitted.predict(X, return_std=True, return_cov=True)
    np.testing.assert_allclose(np.diagonal(cov).T, std**2)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_quantiles_and_densities_are_those_of_the_law(model, problem) -> None:
    X, y = problem
    fitted = FieldRegressor(model).fit(X, y)
    mean, std, quantiles = fitted.predict(X, return_std=True, quantiles=LEVELS)
    if isinstance(model.mixing, InverseGamma):
        df = 5.0 + len(X) - 1  # the constant mean costs one
        law = stats.t(df, mean, std * np.sqrt((df - 2) / df))
    else:
        law = stats.norm(mean, std)
    np.testing.assert_allclose(quantiles, law.ppf(np.array(LEVELS)[:, None]).T, rtol=1e-9)
    np.testing.assert_allclose(fitted.log_density(X, y), law.logpdf(y), rtol=1e-9)


def test_a_density_is_one_over_the_units_of_y(outputs) -> None:
    X, Y = outputs
    plain, scaled = (FieldRegressor(Process(steps=0)).fit(X, factor * Y) for factor in (1.0, 8.0))
    change = scaled.log_density(X, 8 * Y) - plain.log_density(X, Y)
    np.testing.assert_allclose(change, -np.log(8.0), rtol=1e-9)
    evidence = scaled.surrogate_.log_evidence - plain.surrogate_.log_evidence
    np.testing.assert_allclose(evidence, -Y.size * np.log(8.0), rtol=1e-9)


def test_samples_have_the_joint_law_of_y(problem) -> None:
    X, y = problem
    fitted = FieldRegressor(Process(steps=5)).fit(X, y)
    at, count = X[:3] + 0.5, 40_000
    mean, cov = fitted.predict(at, return_cov=True)
    draws = fitted.sample_y(at, count, random_state=1)
    error = np.sqrt(np.diag(cov) / count)
    assert (np.abs(draws.mean(1) - mean) < 6 * error).all()
    spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / count)  # standard error of a covariance
    assert (np.abs(np.cov(draws) - cov) < 6 * spread).all()
    np.testing.assert_array_equal(fitted.sample_y(at, 2, random_state=5), fitted.sample_y(at, 2, random_state=5))


def test_the_law_of_the_function_is_narrower_by_the_noise(problem) -> None:
    X, y = problem
    fitted = FieldRegressor(Process(noise=0.3, steps=0)).fit(X, y)
    f, observed = fitted.posterior(X, noise=False), fitted.posterior(X)
    gap = (observed.variance - f.variance).numpy()
    np.testing.assert_allclose(gap, 0.3 * y.var(), rtol=1e-9)


def test_predictions_do_not_depend_on_the_blocks(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem
    fitted = FieldRegressor(Process(steps=5)).fit(X, y)
    at = np.random.default_rng(1).uniform(-2, 2, (1000, 2))
    whole = [*fitted.predict(at, return_std=True, quantiles=LEVELS), fitted.log_density(at, at[:, 0])]
    monkeypatch.setattr(regressor, "BLOCK", 1)
    monkeypatch.setattr(regressor, "LEAST_ROWS", 7)
    blocks = [*fitted.predict(at, return_std=True, quantiles=LEVELS), fitted.log_density(at, at[:, 0])]
    for one, many in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-10)


def blocks_of(fitted: FieldRegressor, X: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows are predicted at once, where 9000 numbers fit."""
    seen: list[int] = []
    law = fitted.surrogate_.posterior

    def watched(X, *, noise):
        seen.append(len(X))
        return law(X, noise=noise)

    object.__setattr__(fitted.surrogate_, "posterior", watched)
    monkeypatch.setattr(regressor, "BLOCK", 9000)
    monkeypatch.setattr(regressor, "LEAST_ROWS", 7)
    fitted.predict(np.tile(X, (3000 // len(X), 1)), return_std=True)
    assert sum(seen) == 3000
    return seen


def test_blocks_are_bounded_in_their_cross_covariance(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem
    assert max(blocks_of(FieldRegressor(Process(steps=0)).fit(X, y), X, monkeypatch)) == 300


BRIEF = Training(steps=2)
BOUNDED = {
    "basis": (RandomFeatureProcess(count=90, steps=0), 9000 // 90),
    "inducing points": (DeepKernelMachine(inducing=18, steps=2), 9000 // 18),
    "inducing rows": (FunctionSpace(inducing=18, training=BRIEF), 9000 // 18),
    "network": (Ensemble(multilayer((4,)), members=2, training=BRIEF), 9000 // (4 + 4 + 1 + 1 + 1)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_blocks_do_not_shrink_with_the_rows_of_a_fit_that_predictions_do_not_see(name, problem, monkeypatch) -> None:
    model, rows = BOUNDED[name]
    X, y = problem
    more = np.random.default_rng(2).normal(size=(500, 2))
    for at, target in ((X, y), (more, more.sum(1))):
        assert max(blocks_of(FieldRegressor(model, random_state=0).fit(at, target), X, monkeypatch)) == rows


class TestScikitLearn:
    """The estimator composes with the rest of scikit-learn."""

    def test_nested_parameters_can_be_searched(self, problem) -> None:
        X, y = problem
        grid = {"model__noise": [1e-2, 10.0], "model__mean": ["constant", "linear"]}
        search = GridSearchCV(FieldRegressor(Process(steps=0)), grid, cv=3).fit(X, y)
        assert search.best_params_["model__noise"] == 1e-2

    def test_names_of_a_frame_are_kept_and_checked(self, problem) -> None:
        X, y = problem
        frame = pd.DataFrame(X, columns=["width", "height"])
        fitted = FieldRegressor(Process(steps=0)).fit(frame, pd.Series(y))
        assert fitted.feature_names_in_.tolist() == ["width", "height"]
        with pytest.raises(ValueError, match="feature names should match"):
            fitted.predict(frame[["height", "width"]])
        with pytest.raises(ValueError, match="depth"):
            fitted.predict(frame.rename(columns={"height": "depth"}))

    def test_frames_go_through_a_pipeline(self, problem) -> None:
        X, y = problem
        frame = pd.DataFrame(X, columns=["width", "height"])
        pipeline = make_pipeline(StandardScaler(), FieldRegressor(Process(steps=0)))
        pipeline.set_output(transform="pandas").fit(frame, y)
        assert pipeline[-1].feature_names_in_.tolist() == ["width", "height"]
        mean, _ = pipeline.predict(frame, return_std=True)
        np.testing.assert_allclose(mean, FieldRegressor(Process(steps=0)).fit(X, y).predict(X), rtol=1e-9)

    def test_pickle_keeps_every_bit(self, problem) -> None:
        X, y = problem
        fitted = FieldRegressor(Process(steps=5)).fit(X, y)
        again = pickle.loads(pickle.dumps(fitted))
        for one, other in zip(fitted.predict(X, return_std=True), again.predict(X, return_std=True), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_copy_of_the_choice_has_no_fit(self, problem) -> None:
        fitted = FieldRegressor(Process(noise=0.3, steps=0), random_state=7).fit(*problem)
        fresh = clone(fitted)
        assert (fresh.model.noise, fresh.random_state) == (0.3, 7)
        assert not hasattr(fresh, "surrogate_")
