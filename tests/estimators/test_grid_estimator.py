"""Grid processes inside the estimator: standardised grids stay grids, and what is saved answers the same bits."""

import numpy as np
import pytest
import torch
from gpytorch.kernels import LinearKernel
from numpy.testing import assert_allclose

from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.spectral import SpectralProduct
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.grid import FittedGrid, GridProcess
from kernelfield.models.process import Process

RNG = np.random.default_rng(0)
GRID = np.stack(np.meshgrid(1e5 + 30 * np.arange(9.0), 1e-3 * RNG.uniform(size=7), indexing="ij"), -1).reshape(-1, 2)
Y = np.sin(GRID[:, 0] / 60) * np.cos(2e3 * GRID[:, 1]) * 40 + 500 + RNG.normal(size=63)
TWO = np.column_stack([Y, 2 * Y + RNG.normal(size=63)])
ORDER = RNG.permutation(63)[:50]


def kernel():
    return GridKernel([Matern(1.5), RBF()])


@pytest.mark.parametrize("targets", [Y, TWO], ids=["one output", "two outputs"])
@pytest.mark.parametrize("rows", [np.arange(63), ORDER, np.r_[ORDER, ORDER[:7]]], ids=["all", "some", "repeated"])
def test_a_standardised_grid_is_a_grid_still(rows, targets):
    models = GridProcess(kernel(), steps=0), Process(kernel(), steps=0)
    ours, dense = (FieldRegressor(model, random_state=0).fit(GRID[rows], targets[rows]) for model in models)
    assert isinstance(ours.surrogate_.inner, FittedGrid)
    new = GRID[:5] + np.array([4.0, 1e-5])
    for one, other in zip(ours.predict(new, return_std=True), dense.predict(new, return_std=True), strict=True):
        assert_allclose(one, other, rtol=1e-9)
    assert ours.surrogate_.log_evidence == pytest.approx(dense.surrogate_.log_evidence, rel=1e-10)
    assert_allclose(ours.predict(new, return_cov=True)[1], dense.predict(new, return_cov=True)[1], rtol=1e-8)
    assert ours.sample_y(new, 3).shape == (5, *targets.shape[1:], 3)


def test_lengthscales_are_reported_in_the_units_of_their_columns():
    places = RNG.normal(size=(6, 2)) * [10.0, 0.1]
    X = np.column_stack([np.repeat(places, 5, 0), np.tile(np.arange(5.0), 6)])
    made = GridKernel([Matern(ard_num_dims=2), RBF()], columns=[(0, 1), (2,)])
    fitted = FieldRegressor(GridProcess(made, axes=[(0, 1), 2], steps=0)).fit(X, X.sum(1))
    values = fitted.surrogate_.hyperparameters()
    assert_allclose(values["axes.0.lengthscale"], X[:, :2].std(0), rtol=1e-6)
    assert values["axes.1.lengthscale"] == pytest.approx(X[:, 2].std(), rel=1e-6)
    assert values["noise"] == pytest.approx(0.1 * X.sum(1).var())


def test_scattered_rows_get_the_advice_to_use_another_model():
    with pytest.raises(ValueError, match="are no grid.*such as Process"):
        FieldRegressor(GridProcess()).fit(RNG.normal(size=(40, 2)), RNG.normal(size=40))


MADE = {
    "whole": lambda: FieldRegressor(GridProcess(steps=3), random_state=0).fit(GRID, Y),
    "cells missing": lambda: FieldRegressor(GridProcess(kernel(), steps=0)).fit(GRID[ORDER], TWO[ORDER]),
    "weights": lambda: FieldRegressor(GridProcess(steps=2, restarts=1)).fit(GRID, Y, RNG.uniform(1, 2, 63)),
    "coregionalised": lambda: FieldRegressor(GridProcess(coregionalised=True, steps=2, restarts=1)).fit(GRID, TWO),
    "spectral": lambda: FieldRegressor(GridProcess(SpectralProduct(2, dims=2), steps=2, restarts=1)).fit(GRID, Y),
    "a list": lambda: FieldRegressor(GridProcess([RBF() + LinearKernel(), None], steps=0)).fit(GRID, Y),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_loaded_grid_answers_the_same_bits(make, tmp_path):
    estimator = make()
    save(estimator, tmp_path / "model")
    again = load(tmp_path / "model")
    new = GRID + np.array([4.0, 1e-5])
    for one, other in zip(estimator.predict(new, return_std=True), again.predict(new, return_std=True), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(estimator.sample_y(new[:3], 2), again.sample_y(new[:3], 2))
    assert again.surrogate_.log_evidence == estimator.surrogate_.log_evidence
    assert again.surrogate_.hyperparameters() == estimator.surrogate_.hyperparameters()
    assert again.surrogate_.inner.report.method == estimator.surrogate_.inner.report.method
    assert torch.equal(again.surrogate_.inner.cells.observed, estimator.surrogate_.inner.cells.observed)
