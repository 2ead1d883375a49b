"""What is predicted without a row, in closed form, is what a factor of the other rows predicts."""

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data, LeavesOneOut
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.linalg.sparse_factor import SparseFactor
from kernelfield.models import vecchia
from kernelfield.models.process import Process
from kernelfield.models.vecchia import FittedNearestNeighbours, NearestNeighbourProcess
from kernelfield.models.vecchia_evidence import Conditionals, factored

N = 40
HELD = {"noise": 0.05, "steps": 0}


def table(*, weighted: bool = False) -> Data:
    X = torch.rand(N, 2)
    Y = torch.stack([torch.sin(6 * X[:, 0]) * X[:, 1], 3 + X[:, 1]], -1) + 0.2 * torch.randn(N, 2)
    return Data(X, Y, 0.3 + torch.rand(N) if weighted else None)


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def refitted(fitted: FittedNearestNeighbours, i: int) -> FittedNearestNeighbours:
    """The process of all rows but i, of which those that leaned on i lean on their other neighbours."""
    old, n = fitted.data, len(fitted.data.X)
    rest = torch.cat([torch.arange(i), torch.arange(i + 1, n)])
    place = torch.full((n + 1,), -1)  # the last is for neighbours that there are not, -1
    place[rest] = torch.arange(n - 1)
    data = Data(old.X[rest], old.Y[rest], None if old.weight is None else old.weight[rest])
    order, near = fitted.factor.order, place[fitted.factor.neighbours[rest]]
    case = Conditionals(data, fitted.trend, near, torch.arange(n - 1))
    half, _ = factored(case, fitted.kernel, fitted.noise)
    factor = SparseFactor(place[order[order != i]], near, half)
    return FittedNearestNeighbours.of(
        fitted.kernel, fitted.noise, data, fitted.trend.kind, factor, fitted.neighbours, fitted.loss
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("neighbours", [4, 13, 60])  # leaning on some rows, on all of 39 but one, and on all
@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
def test_closed_form_is_the_refit_without_the_row(mean, neighbours, weighted, monkeypatch) -> None:
    monkeypatch.setattr(vecchia, "CHUNK", 500)  # several blocks
    data, XS = table(weighted=weighted), torch.rand(5, 2)
    kernel = Matern(1.5) if mean == "constant" else ScaleKernel(RBFKernel())
    fitted = fit(NearestNeighbourProcess(kernel, mean, neighbours=neighbours, **HELD), data)
    assert isinstance(fitted, LeavesOneOut)
    means, variances = fitted.leave_one_out()
    elsewhere = fitted.without_each(XS)
    assert elsewhere.shape == (5, N, 2)
    for i in range(N):
        refit = refitted(fitted, i)
        law = refit.posterior(data.X[i : i + 1])
        weight = 1.0 if data.weight is None else data.weight[i].item()
        assert_close(means[i], law.mean[0], rtol=1e-8, atol=1e-8)
        assert_close(variances[i], law.variance[0] + 0.05 / weight, rtol=1e-8, atol=1e-8)
        assert_close(elsewhere[:, i], refit.posterior(XS).mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mean", ["zero", "linear"])
def test_with_all_rows_as_neighbours_it_is_that_of_the_exact_process(mean) -> None:
    data, kernel = table(weighted=True), Matern()
    near = fit(NearestNeighbourProcess(kernel, mean, neighbours=N, **HELD), data)
    exact = fit(Process(kernel, mean, **HELD), data)
    for ours, theirs in zip(near.leave_one_out(), exact.leave_one_out(), strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert_close(near.without_each(data.X), exact.without_each(data.X), rtol=1e-9, atol=1e-9)


def test_more_copies_of_a_row_than_neighbours_each_lack_one() -> None:
    data = Data(torch.ones(N, 1), torch.randn(N, 1))
    model = NearestNeighbourProcess(RBF(), "zero", neighbours=2, **HELD)  # six rows tell of each
    mean, variance = fit(model, data).leave_one_out()
    assert_close(variance, torch.full_like(variance, 1.05 - 6 / 6.05))
    assert (mean[:, 0] * 6.05 / 6 - data.Y[:, 0]).abs().min() > 0  # none of them is told of itself


def test_one_row_leaves_the_prior() -> None:
    data = Data(torch.ones(1, 2), torch.ones(1, 1))
    mean, variance = fit(NearestNeighbourProcess(RBF(), "zero", **HELD), data).leave_one_out()
    assert (mean.item(), variance.item()) == (0.0, pytest.approx(1.05))
    with pytest.raises(ValueError, match="row 0 alone determines a coefficient of the mean"):
        fit(NearestNeighbourProcess(RBF(), **HELD), data).leave_one_out()


def test_a_row_that_alone_determines_a_coefficient_is_named() -> None:
    X = torch.cat([torch.zeros(N - 1, 1), torch.ones(1, 1)])
    fitted = fit(NearestNeighbourProcess("rbf", "linear", neighbours=5, **HELD), Data(X, torch.randn(N, 1)))
    for ask in (fitted.leave_one_out, lambda: fitted.without_each(X)):
        with pytest.raises(ValueError, match=f"row {N - 1} alone determines a coefficient of the mean"):
            ask()


def test_rows_left_out_fall_into_their_intervals_as_often_as_these_say() -> None:
    # Draws of process and noise with the hyperparameters that are held: standardised gaps are standard normal.
    n = 1500
    kernel = Matern(1.5)
    kernel.lengthscale = 0.3
    X = torch.rand(n, 2)
    half = torch.linalg.cholesky(kernel(X).to_dense().detach() + 1e-10 * torch.eye(n))
    Y = half @ torch.randn(n, 20) + 0.05**0.5 * torch.randn(n, 20)
    mean, variance = fit(NearestNeighbourProcess(kernel, neighbours=10, **HELD), Data(X, Y)).leave_one_out()
    z = (Y - mean) / variance.sqrt()
    assert z.square().mean().item() == pytest.approx(1, abs=6 * (2 / 30_000) ** 0.5)


def test_an_estimator_leaves_rows_out_and_jackknife_takes_no_refit() -> None:
    rng = np.random.default_rng(0)
    X = rng.random((80, 2))
    y = 40 + 3 * np.sin(6 * X[:, 0]) + 0.1 * rng.standard_normal(80)
    field = FieldRegressor(NearestNeighbourProcess(neighbours=6, restarts=1, steps=20), random_state=0)
    mean, std = field.fit(X, y).leave_one_out()
    assert np.abs((mean - y) / std).max() < 5
    calibrated = Calibrated(field, method="jackknife+").fit(X, y)
    assert any("from one fit" in note for note in calibrated.notes_)
    assert field.without_each(X[:3]).shape == (3, 80)


def test_rows_that_came_later_are_left_out_too() -> None:
    data, kernel = table(), Matern()
    part = Data(data.X[:30], data.Y[:30])
    model = NearestNeighbourProcess(kernel, neighbours=7, ordering="given", **HELD)
    joined = fit(model, part).condition(Data(data.X[30:], data.Y[30:]))
    for ours, theirs in zip(joined.leave_one_out(), fit(model, data).leave_one_out(), strict=True):
        assert_close(ours, theirs)
    assert_close(joined.without_each(data.X), fit(model, data).without_each(data.X))
