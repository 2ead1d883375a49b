"""Networks and sparse processes of the zoo are saved and loaded with all that they learned."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator

from kernelfield.core.contracts import Data, Model
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.entry import FINITE, LEARNED, SPARSE
from kernelfield.models.zoo import MODELS, classifier, model
from kernelfield.models.zoo_networks import NETWORK_CLASSIFIERS

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (40, 3))
Y = np.sin(X[:, 0]) + 100.0
KIND = np.where(X[:, 1] > 0.3, "high", "low")
AT = X + 0.3
NAMES = [name for name, one in MODELS.items() if one.family in (FINITE, LEARNED, SPARSE)]


def quick(one: Model) -> Model:
    """With as few steps as its settings allow."""
    few = {"steps": 3, "training__steps": 3, "rounds": 1, "warmup": 5, "draws": 5, "members": 3, "chains": 2}
    few |= {f"sampler__{name}": value for name, value in few.items()} | {"training__steps": 3}
    return one.set_params(**{name: value for name, value in few.items() if name in one.get_params()})


def again(estimator: BaseEstimator, folder: Path) -> BaseEstimator:
    save(estimator, folder)
    loaded = load(folder)
    assert repr(loaded) == repr(estimator)
    assert vars(loaded).keys() == vars(estimator).keys()
    assert loaded.surrogate_.hyperparameters() == estimator.surrogate_.hyperparameters()
    return loaded


@pytest.mark.filterwarnings("ignore::kernelfield.core.numerics.NotConverged")  # after three steps
@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_answers_the_same_bits(name: str, tmp_path: Path) -> None:
    estimator = FieldRegressor(quick(model(name)), random_state=1).fit(X, Y)
    loaded = again(estimator, tmp_path / "model")
    options = {"return_std": True, "quantiles": [0.1, 0.9]}
    for one, other in zip(estimator.predict(AT, **options), loaded.predict(AT, **options), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(estimator.sample_y(AT, 2), loaded.sample_y(AT, 2))
    more = Data(torch.tensor(X[:4] + 0.5), torch.tensor(Y[:4, None]))
    try:
        wiser = estimator.surrogate_.condition(more)
    except NotImplementedError as error:  # then the loaded one says the same
        with pytest.raises(NotImplementedError, match=re.escape(str(error))):
            loaded.surrogate_.condition(more)
        return
    law, other = (one.posterior(torch.tensor(AT)) for one in (wiser, loaded.surrogate_.condition(more)))
    assert torch.equal(law.mean, other.mean) and torch.equal(law.variance, other.variance)


@pytest.mark.filterwarnings("ignore::kernelfield.core.numerics.NotConverged")
@pytest.mark.parametrize("name", [one.name for one in NETWORK_CLASSIFIERS])
def test_a_loaded_classifier_answers_the_same_bits(name: str, tmp_path: Path) -> None:
    estimator = FieldClassifier(quick(classifier(name)), random_state=1).fit(X, KIND)
    loaded = again(estimator, tmp_path / "model")
    np.testing.assert_array_equal(estimator.predict_proba(AT), loaded.predict_proba(AT))
    np.testing.assert_array_equal(estimator.predict(AT), loaded.predict(AT))
