"""FieldClassifier keeps the scikit-learn conventions and answers with probabilities."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_moons
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF as TheirRBF
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators import regressor
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.persistence import load, save
from kernelfield.kernels.stationary import RBF
from kernelfield.models.dirichlet import DirichletClassifier
from kernelfield.models.infinitely_deep import InfinitelyDeepClassifier
from kernelfield.models.laplace import LaplaceClassifier
from kernelfield.models.process import Process
from kernelfield.models.support_vector import SupportVectorClassifier
from kernelfield.models.variational import VariationalClassifier
from kernelfield.models.zoo import CLASSIFIERS, classifier
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.singular import Sinh

SHORT = {"epochs": 1, "least_steps": 3, "steps": 3}
QUICK = {"inducing": 12, "epochs": 1, "least_steps": 60, "rate": 0.2}
LATENT = {
    "laplace": LaplaceClassifier(steps=5),
    "dirichlet": DirichletClassifier(steps=5),
    "variational": VariationalClassifier(**QUICK),
    "heavy tails": VariationalClassifier(**QUICK, mixing=InverseGamma(2.0, 2.0)),
}
LAWLESS = {  # models with probabilities and no latent functions
    "infinitely deep": InfinitelyDeepClassifier(),
    "infinitely deep sinh": InfinitelyDeepClassifier(Sinh(6.13539), radius=3.0),
    "support vector": SupportVectorClassifier(),
    "support vector of two layers": SupportVectorClassifier(Dense() >> Relu() >> Dense(), penalty=1e-2),
}
MODELS = LATENT | LAWLESS
CHECKED = (LaplaceClassifier(steps=2), InfinitelyDeepClassifier(), SupportVectorClassifier())


@parametrize_with_checks([FieldClassifier(model, random_state=0) for model in CHECKED])
def test_every_scikit_learn_convention_is_kept(estimator, check) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X[::3], np.array(["setosa", "versicolor", "virginica"])[y[::3]], X[1::3], y[1::3]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_learns_three_classes_and_two(model, iris) -> None:
    X, y, X_test, index = iris
    fitted = FieldClassifier(model, random_state=0).fit(X, y)
    probabilities = fitted.predict_proba(X_test)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(fitted.predict(X_test), fitted.classes_[probabilities.argmax(1)])
    np.testing.assert_array_equal(fitted.predict(X_test), fitted.classes_[fitted.decision_function(X_test).argmax(1)])
    assert fitted.score(X_test, fitted.classes_[index]) > 0.9

    two = FieldClassifier(model, random_state=0).fit(X, y == "setosa")
    assert two.classes_.tolist() == [False, True]
    odds = two.decision_function(X_test)
    assert odds.shape == (50,)
    np.testing.assert_array_equal(two.predict(X_test), odds > 0)
    assert two.score(X_test, index == 0) == 1.0


@pytest.mark.parametrize("model", LATENT.values(), ids=LATENT)
def test_decisions_are_log_odds_and_latent_functions_have_a_law(model, iris) -> None:
    X, y, X_test, _ = iris
    fitted = FieldClassifier(model, random_state=0).fit(X, y)
    np.testing.assert_allclose(fitted.decision_function(X_test), np.log(fitted.predict_proba(X_test)))
    assert fitted.posterior(X_test).mean.shape == (50, 3)
    two = FieldClassifier(model, random_state=0).fit(X, y == "setosa")
    odds = np.divide(*two.predict_proba(X_test).T[::-1])
    np.testing.assert_allclose(np.exp(two.decision_function(X_test)), odds)


@pytest.mark.parametrize("model", LAWLESS.values(), ids=LAWLESS)
def test_a_model_without_latent_functions_says_so(model, iris) -> None:
    fitted = FieldClassifier(model, random_state=0).fit(*iris[:2])
    with pytest.raises(NotImplementedError, match="probabilities of classes and no law of latent functions; ask for"):
        fitted.posterior(iris[2])


def test_decisions_of_a_support_vector_machine_are_its_outputs(iris) -> None:
    X, y, X_test, _ = iris
    fitted = FieldClassifier(LAWLESS["support vector of two layers"], random_state=0).fit(X, y == "virginica")
    rows, inner = fitted.to_model_X_(torch.tensor(X_test)), fitted.surrogate_
    np.testing.assert_array_equal(fitted.decision_function(X_test), inner.decision(rows)[:, 0])
    odds = inner.sharpness * fitted.decision_function(X_test)
    np.testing.assert_allclose(fitted.predict_proba(X_test)[:, 1], 1 / (1 + np.exp(-odds)), rtol=1e-12)


def test_at_its_training_points_an_infinitely_deep_network_is_sure_of_their_labels(iris) -> None:
    X, y, _, _ = iris
    keep = np.unique(X, axis=0, return_index=True)[1]
    fitted = FieldClassifier(InfinitelyDeepClassifier()).fit(X[keep], y[keep])
    np.testing.assert_array_equal(fitted.predict_proba(X[keep]), y[keep][:, None] == fitted.classes_)
    assert np.isfinite(fitted.decision_function(X[keep])).all()
    text = FieldClassifier(InfinitelyDeepClassifier()).fit(X[keep], y[keep].astype(object))
    assert text.predict(X[keep]).tolist() == y[keep].tolist()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_units_of_inputs_change_nothing(model, iris) -> None:
    X, y, X_test, _ = iris
    factor, shift = np.array([1e-6, 1e4, 1.0, 3.0]), np.array([5.0, -1e3, 0.0, 1.0])
    plain = FieldClassifier(model, random_state=0).fit(X, y).predict_proba(X_test)
    moved = FieldClassifier(model, random_state=0).fit(X * factor + shift, y).predict_proba(X_test * factor + shift)
    np.testing.assert_allclose(moved, plain, atol=1e-6)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_same_seed_gives_the_same_answer(model, iris) -> None:
    X, y, X_test, _ = iris
    first, second = (clone(FieldClassifier(model, random_state=3)).fit(X, y).predict_proba(X_test) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_answers_agree_with_scikit_learn_at_the_same_hyperparameters() -> None:
    X, y = make_moons(60, noise=0.2, random_state=0)
    theirs = GaussianProcessClassifier(6.0 * TheirRBF([0.8, 1.9]), optimizer=None).fit(X, y)
    kernel = RBF(ard_num_dims=2)
    kernel.lengthscale = torch.tensor([0.8, 1.9] / X.std(0))
    kernel.outputscale = 6.0
    ours = FieldClassifier(LaplaceClassifier(kernel, steps=0, law="mode")).fit(X, y)
    evidence = theirs.log_marginal_likelihood()
    assert ours.surrogate_.log_evidence == pytest.approx(evidence, rel=1e-9)
    mean, variance = theirs.base_estimator_.latent_mean_and_variance(X + 0.3)
    law = ours.posterior(X + 0.3)
    np.testing.assert_allclose(law.mean[:, 0], mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(law.variance[:, 0], variance, rtol=1e-6, atol=1e-6)
    # Theirs approximates the sigmoid by five error functions.
    np.testing.assert_allclose(ours.predict_proba(X + 0.3), theirs.predict_proba(X + 0.3), atol=2e-4)


def test_rows_are_answered_alone(iris, monkeypatch) -> None:
    X, y, X_test, _ = iris
    fitted = FieldClassifier(LaplaceClassifier(steps=2)).fit(X, y)
    whole = fitted.predict_proba(X_test)
    monkeypatch.setattr(regressor, "BLOCK", 1)
    monkeypatch.setattr(regressor, "LEAST_ROWS", 7)
    np.testing.assert_allclose(fitted.predict_proba(X_test), whole, rtol=1e-9)


def test_a_fitted_classifier_survives_pickle_and_a_grid_search(iris) -> None:
    X, y, X_test, _ = iris
    search = GridSearchCV(FieldClassifier(LaplaceClassifier(steps=2)), {"model__kernel": ["rbf", "matern32"]}, cv=2)
    fitted = search.fit(X, y).best_estimator_
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X_test), fitted.predict_proba(X_test))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_saved_classifier_answers_as_before(model, iris, tmp_path) -> None:
    X, y, X_test, _ = iris
    fitted = FieldClassifier(model, random_state=0).fit(X, y)
    save(fitted, tmp_path / "three")
    again = load(tmp_path / "three")
    np.testing.assert_array_equal(again.predict_proba(X_test), fitted.predict_proba(X_test))
    np.testing.assert_array_equal(again.decision_function(X_test), fitted.decision_function(X_test))
    assert again.predict(X_test).tolist() == fitted.predict(X_test).tolist()
    assert again.surrogate_.hyperparameters() == fitted.surrogate_.hyperparameters()


def test_a_saved_machine_is_certified_as_before(iris, tmp_path) -> None:
    X, y, X_test, _ = iris
    fitted = FieldClassifier(MODELS["support vector of two layers"], random_state=0).fit(X, y == "setosa")
    save(fitted, tmp_path / "two")
    again = load(tmp_path / "two")
    np.testing.assert_array_equal(again.certified_radius(X_test), fitted.certified_radius(X_test))
    assert (fitted.certified_radius(X_test) > 0).all()


def test_the_names_of_columns_are_kept(iris) -> None:
    X, y, _, _ = iris
    table = pd.DataFrame(X, columns=list("abcd"))
    assert FieldClassifier(LaplaceClassifier(steps=0)).fit(table, y).feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="column names must differ, a occurs"):
        FieldClassifier().fit(table.set_axis(list("abca"), axis=1), y)


class TestBadInput:
    def test_one_class(self, iris) -> None:
        with pytest.raises(ValueError, match="one class only, setosa"):
            FieldClassifier().fit(iris[0], ["setosa"] * len(iris[0]))

    def test_labels_that_are_measurements(self, iris) -> None:
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            FieldClassifier().fit(iris[0], iris[0][:, 0] + 0.05)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_missing_inputs(self, iris, bad) -> None:
        X = iris[0].copy()
        X[3, 1] = bad
        with pytest.raises(ValueError, match="contains NaN|contains infinity"):
            FieldClassifier().fit(X, iris[1])

    def test_missing_labels(self, iris) -> None:
        y = np.arange(len(iris[0]), dtype=float)
        y[2] = np.nan
        with pytest.raises(ValueError, match="contains NaN"):
            FieldClassifier().fit(iris[0], y)

    def test_labels_that_the_fit_has_not_seen_are_wrong_and_no_error(self, iris) -> None:
        X, y, _, _ = iris
        fitted = FieldClassifier(LaplaceClassifier(steps=0)).fit(X, y)
        assert fitted.score(X, ["unseen"] * len(X)) == 0.0

    def test_a_model_for_numbers(self, iris) -> None:
        with pytest.raises(TypeError, match="must be a classifier such as LaplaceClassifier"):
            FieldClassifier(Process(steps=0)).fit(iris[0], iris[1])
        with pytest.raises(TypeError, match="must be a Model"):
            FieldClassifier("laplace").fit(iris[0], iris[1])


@pytest.mark.parametrize(
    "labels", [["low", "high"], pytest.param(["a", "b", "c"], marks=pytest.mark.slow), [0, 1]], ids=str
)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_loaded_classifier_gives_the_same_probabilities(name, labels, tmp_path) -> None:
    X = np.random.default_rng(0).uniform(-2, 2, (30, 3))
    y = np.array(labels)[np.arange(30) % len(labels)]
    model = classifier(name)
    quick = {key: value for key, value in SHORT.items() if key in model.get_params()}
    estimator = FieldClassifier(model.set_params(**quick), random_state=0).fit(X, y)
    save(estimator, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), estimator.predict(X))
