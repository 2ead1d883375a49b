"""What runs on a CUDA device has the answers of the CPU; all of it is skipped where there is none."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield import FieldClassifier, FieldRegressor, kernel_matmul, kernel_product
from kernelfield.core.contracts import Model
from kernelfield.core.numerics import free_memory
from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.kronecker import Kronecker
from kernelfield.models import zoo
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FEW = {"steps": 3, "restarts": 2, "training": Training(steps=5), "inducing": 20, "members": 2, "chains": 2, "epochs": 2}
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(60, 2))
Y = np.sin(5 * X[:, 0]) + X[:, 1] + 0.05 * RNG.normal(size=60)
CHAOTIC = {"hmc", "nuts", "sghmc", "functional-prior", "hmc-classifier"}  # rounding grows along their paths


def few(model: Model) -> Model:
    """The model with few steps."""
    names = {field.name for field in dataclasses.fields(model)}  # type: ignore[arg-type]
    return model.set_params(**{name: value for name, value in FEW.items() if name in names})


@pytest.mark.parametrize("name", [name for name, entry in zoo.MODELS.items() if entry.table and entry.takes(2)])
def test_a_regressor_answers_as_on_the_cpu(name: str) -> None:
    here, there = (
        FieldRegressor(few(zoo.model(name)), device=device, random_state=0).fit(X, Y) for device in ("cpu", "cuda")
    )
    answers = [one.predict(X[:9] + 0.01, return_std=True) for one in (here, there)]
    assert np.isfinite(answers[1]).all()
    if name not in CHAOTIC:
        np.testing.assert_allclose(answers[1], answers[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name, entry in zoo.CLASSIFIERS.items() if entry.takes(2)])
def test_a_classifier_answers_as_on_the_cpu(name: str) -> None:
    here, there = (
        FieldClassifier(few(zoo.classifier(name)), device=device, random_state=0).fit(X, Y > 0.5).predict_proba(X[:9])
        for device in ("cpu", "cuda")
    )
    if name not in CHAOTIC:
        np.testing.assert_allclose(there, here, atol=1e-3)


@pytest.mark.parametrize("solver", ["cholesky", "iterative"])
def test_an_exact_process_has_one_answer(solver: str) -> None:
    model = Process("rbf", solver=solver, steps=5, restarts=1)
    here, there = (FieldRegressor(model, device=device, random_state=0).fit(X, Y) for device in ("cpu", "cuda"))
    for ours, theirs in zip(here.predict(X, return_std=True), there.predict(X, return_std=True), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["stored", "tiled"])
def test_products_and_slopes(method: str) -> None:
    points, V = torch.rand(700, 3, dtype=torch.float64), torch.randn(700, 4, dtype=torch.float64)
    kernel = Matern(2.5).double()
    here, there = (
        kernel_product(kernel, points, method=method),
        kernel_product(kernel.cuda(), points.cuda(), method=method),
    )
    assert_close(there(V.cuda()).cpu(), here(V))
    for theirs, ours in zip(there.pull(V.cuda(), V.cuda()), here.pull(V, V), strict=True):
        assert_close(theirs.cpu(), ours)
    moved = points.cuda().requires_grad_()
    kernel_matmul(kernel, moved, None, V.cuda()).sum().backward()
    assert moved.grad is not None and moved.grad.isfinite().all()


def test_a_grid_is_solved_there() -> None:
    x = torch.linspace(0, 1, 20, dtype=torch.float64)
    K, y = (-((x[:, None] - x) / 0.2).square()).exp(), torch.randn(8000, 1, dtype=torch.float64)
    here, there = Kronecker.of([K] * 3, 0.1, 1.0), Kronecker.of([K.cuda()] * 3, 0.1, 1.0)
    assert_close(there.solve(y.cuda()).cpu(), here.solve(y))


def test_the_memory_of_the_card_is_known() -> None:
    assert 0 < free_memory(torch.device("cuda")) <= torch.cuda.get_device_properties(0).total_memory
