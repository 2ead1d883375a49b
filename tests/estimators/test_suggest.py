"""Suggestions of fitted regressors: those of their kernel, in the units that they were fitted in."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from kernelfield.core.contracts import Model
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.estimators.suggest import suggest
from kernelfield.models.active.batch import select_batch
from kernelfield.models.active.features import Covariance, Gradients
from kernelfield.models.active.selection import LargestCluster
from kernelfield.models.active.transforms import Condition, Sketch
from kernelfield.models.flow import GradientFlow
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

rng = np.random.default_rng(0)
X, POOL = rng.uniform(0, 5, (30, 2)), rng.uniform(0, 5, (60, 2))
Y = np.sin(X[:, 0])
SHORT = Training(steps=20)


@pytest.mark.parametrize("selection", ["lcmd", "max-det"])
def test_a_process_compares_rows_by_its_kernel(selection: str) -> None:
    fitted = FieldRegressor(Process(), random_state=0).fit(X, Y)
    inner, to_model = fitted.surrogate_.inner, fitted.surrogate_.to_model_X
    truth = select_batch(
        to_model(torch.as_tensor(POOL)),
        8,
        train=inner.data.X,
        base=Covariance(inner.kernel),
        transforms=(Condition(inner.noise),) if selection == "max-det" else (),
        selection=selection,
        generator=torch.Generator(),
    )
    assert suggest(fitted, X, POOL, 8, selection=selection).tolist() == truth.tolist()


def test_the_variance_that_is_left_is_that_of_predictions() -> None:
    fitted = FieldRegressor(Process(), random_state=0).fit(X, Y)
    variance = fitted.posterior(POOL, noise=False).variance[:, 0]
    assert suggest(fitted, X, POOL, 5, selection="max-diag").tolist() == variance.argsort(descending=True)[:5].tolist()
    assert suggest(fitted, X, POOL, 1, selection="max-det").item() == variance.argmax()


@pytest.mark.parametrize("model", [Ensemble(members=2, training=SHORT), LaplaceNetwork(training=SHORT)])
def test_networks_compare_rows_by_their_gradients(model: Model) -> None:
    fitted = FieldRegressor(model, random_state=0).fit(X, Y)
    inner, to_model = fitted.surrogate_.inner, fitted.surrogate_.to_model_X
    if isinstance(model, Ensemble):
        module = inner.network.module(inner.parameters[0])
    else:
        module = inner.tangent.network.module(inner.tangent.parameters)
    seed = int(np.random.RandomState(4).randint(2**31))
    truth = select_batch(
        to_model(torch.as_tensor(POOL)),
        8,
        train=to_model(torch.as_tensor(X)),
        base=Gradients(module),
        transforms=(Sketch(512),),
        generator=torch.Generator().manual_seed(seed),
    )
    found = suggest(fitted, X, POOL, 8, random_state=4)
    assert found.tolist() == truth.tolist()
    assert found.tolist() == suggest(fitted, X, POOL, 8, selection=LargestCluster(), random_state=4).tolist()
    for selection in ("bait", "max-det", "k-means++"):
        assert len(set(suggest(fitted, X, POOL, 8, selection=selection, random_state=4))) == 8


def test_units_do_not_matter() -> None:
    fitted = [FieldRegressor(Process(), random_state=0).fit(X * c, Y) for c in (1.0, 1000.0)]
    assert suggest(fitted[0], X, POOL, 6).tolist() == suggest(fitted[1], 1000 * X, 1000 * POOL, 6).tolist()


def test_what_cannot_compare_rows_is_named() -> None:
    fitted = FieldRegressor(GradientFlow(Dense() >> Relu() >> Dense()), random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match="FittedGradientFlow has no kernel to compare rows by; fit a process"):
        suggest(fitted, X, POOL, 3)
    with pytest.raises(NotFittedError):
        suggest(FieldRegressor(), X, POOL, 3)
    with pytest.raises(ValueError, match="between 1 and the 60 rows"):
        suggest(FieldRegressor(Process(), random_state=0).fit(X, Y), X, POOL, 61)
