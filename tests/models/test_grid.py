"""Processes on grids against the same processes by dense algebra."""

import gpytorch
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Elliptical
from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.spectral import SpectralProduct
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models import grid_posterior
from kernelfield.models.grid import GridProcess
from kernelfield.models.process import Process
from tests.laws import obeys_posterior_laws

X = torch.cartesian_prod(torch.linspace(-1, 1, 8), torch.rand(6).sort().values, torch.tensor([0.0, 0.7, 1.0]))
Y = torch.stack([torch.sin(3 * X[:, 0]) * X[:, 1] + X[:, 2], X.prod(1)], -1) + 0.1 * torch.randn(len(X), 2)
NEW = torch.rand(13, 3) * 2 - 0.5
KEPT = torch.randperm(len(X))[:100]
WEIGHT = 0.3 + torch.rand(100)
TWICE = torch.cat([KEPT, KEPT[:9], KEPT[:4]])
TABLES = {
    "whole": Data(X, Y),
    "in another order": Data(X.flip(0), Y.flip(0)),
    "cells missing": Data(X[KEPT], Y[KEPT]),
    "most cells missing": Data(X[KEPT[:40]], Y[KEPT[:40]]),
    "uneven weights": Data(X[KEPT], Y[KEPT], WEIGHT),
    "rows repeated": Data(X[TWICE], Y[TWICE] + 0.1 * torch.randn(113, 2)),
    "weighted rows repeated": Data(X[TWICE], Y[TWICE] + 0.1 * torch.randn(113, 2), 0.2 + torch.rand(113)),
}


def product(outputscale=0.7):
    axes = [Matern(1.5), RBF(), Matern(0.5)]
    for kernel, lengthscale in zip(axes, (0.8, 0.5, 1.2), strict=True):
        kernel.lengthscale = lengthscale
    kernel = GridKernel(axes)
    kernel.outputscale = outputscale
    return kernel


def fit(model, data, seed=0):
    return model.fit(data, generator=torch.Generator().manual_seed(seed))


def held(model=GridProcess, **options):
    return model(product(), noise=0.05, steps=0, **options)


@pytest.mark.parametrize("mixing", [Unit(), InverseGamma(2.0, 3.0)], ids=["gaussian", "student"])
@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
@pytest.mark.parametrize("table", TABLES)
def test_a_grid_has_the_law_of_the_dense_process(table, mean, mixing):
    data, options = TABLES[table], {"mean": mean, "mixing": mixing}
    ours, dense = fit(held(**options), data), fit(held(Process, **options), data)
    assert ours.log_evidence == pytest.approx(dense.log_evidence, rel=1e-11)
    assert ours.scale_law.mean == pytest.approx(dense.scale_law.mean, rel=1e-10)
    assert ours.report.residual < 1e-12
    for X in (NEW, data.X[:5], torch.stack([NEW, NEW.flip(0)])):
        for noise in (False, True):
            law, expected = (fitted.posterior(X, noise=noise) for fitted in (ours, dense))
            assert_close(law.mean, expected.mean, atol=1e-10, rtol=1e-10)
            assert_close(law.variance, expected.variance, atol=1e-10, rtol=1e-10)
            assert_close(law.covariance, expected.covariance, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("table", ["whole", "cells missing", "weighted rows repeated"])
def test_learned_hyperparameters_are_those_of_the_dense_process(table):
    kernel = GridKernel([Matern(), Matern(), Matern()])
    ours = fit(GridProcess(kernel, restarts=1), TABLES[table])
    dense = fit(Process(kernel, restarts=1), TABLES[table])
    assert ours.log_evidence == pytest.approx(dense.log_evidence, abs=1e-3)
    assert ours.noise == pytest.approx(dense.noise, rel=1e-2)
    # Both searches stop where the evidence is flat to 1e-3 nats, short of the same hyperparameters.
    assert_close(ours.posterior(NEW).mean, dense.posterior(NEW).mean, atol=1e-2, rtol=0)


def test_the_default_kernels_have_the_evidence_of_a_dense_search():
    kernel = GridKernel([Matern() for _ in range(3)])
    ours, dense = (fit(model, TABLES["whole"]) for model in (GridProcess(), Process(kernel)))
    assert ours.log_evidence > dense.log_evidence - 1.0  # the lengthscale prior costs a little evidence
    assert ours.hyperparameters().keys() == {"outputscale", "noise", *(f"axes.{i}.lengthscale" for i in range(3))}
    assert len(ours.searches) == 4 and all(search.steps for search in ours.searches)


def test_lengthscale_priors_count_all_inputs():
    """A factor's prior is that of one of three inputs, not of a function of one."""
    ours, radial = fit(GridProcess(steps=0), TABLES["whole"]), fit(Process(steps=0), TABLES["whole"])
    for i, kernel in enumerate(ours.kernel.axes):
        assert kernel.lengthscale_prior.loc.item() == pytest.approx(radial.kernel.lengthscale_prior.loc[i].item())


def coregionalised(table, **options):
    return fit(GridProcess(product(1.0), noise=0.05, steps=0, coregionalised=True, **options), TABLES[table])


def stacked(table, fitted, mean):
    """The dense process of all outputs: an input more for the output, a column of the trend for each."""
    data, B = TABLES[table], fitted.coregion
    n, m = data.Y.shape
    A = torch.kron(product(1.0)(data.X).to_dense().detach(), B)
    spread = torch.full((n,), 0.05) if data.weight is None else 0.05 / data.weight
    A = A + torch.diag(spread.repeat_interleave(m))
    raw = {"zero": torch.zeros(n, 0), "constant": torch.ones(n, 1)}[mean]
    H = torch.kron(raw, torch.eye(m))
    cross = torch.kron(product(1.0)(data.X, NEW).to_dense().detach(), B)
    prior = torch.kron(product(1.0)(NEW).to_dense().detach(), B)
    news = torch.kron(raw[:1].expand(len(NEW), -1), torch.eye(m))
    return A, H, cross, prior, news, data.Y.reshape(-1, 1)


@pytest.mark.parametrize("mean", ["zero", "constant"])
@pytest.mark.parametrize("table", ["whole", "cells missing", "uneven weights"])
def test_coregionalised_outputs_are_one_axis_more(table, mean):
    fitted = coregionalised(table, mean=mean)
    A, H, cross, prior, news, y = stacked(table, fitted, mean)
    W = torch.linalg.solve(A, torch.cat([y, H], 1))
    M = H.T @ W[:, 1:]
    b = torch.linalg.solve(M, H.T @ W[:, :1])
    alpha, gap = W[:, :1] - W[:, 1:] @ b, news - cross.T @ W[:, 1:]
    covariance = prior - cross.T @ torch.linalg.solve(A, cross) + gap @ torch.linalg.solve(M, gap.T)
    law = fitted.posterior(NEW)
    assert_close(law.mean.reshape(-1, 1), news @ b + cross.T @ alpha, atol=1e-10, rtol=1e-9)
    assert_close(law.covariance, covariance, atol=1e-10, rtol=1e-9)
    assert_close(law.variance.flatten(), covariance.diagonal(), atol=1e-10, rtol=1e-9)
    assert fitted.outputs == 2
    best = torch.distributions.MultivariateNormal((H @ b)[:, 0], A).log_prob(y[:, 0]).item()
    assert fitted.log_evidence == pytest.approx(best, rel=1e-10)


def test_outputs_missing_from_some_cells_need_an_axis_of_outputs():
    x = torch.linspace(0, 1, 7)
    values = torch.sin(5 * x[:, None, None] + x[:, None]) * torch.tensor([1.0, -0.5]) + 0.05 * torch.randn(7, 7, 2)
    values[2, 3, 0] = values[4, 4, 1] = torch.nan
    with pytest.raises(ValueError, match="coregionalised=True"):
        GridProcess().fit_values([x, x], values, generator=torch.Generator())
    model = GridProcess(coregionalised=True, noise=1e-2, restarts=1)
    fitted = model.fit_values([x, x], values, generator=torch.Generator())
    mean = fitted.posterior(torch.stack([x[[2, 3]], x[[4, 4]]])).mean
    exact = torch.sin(5 * x[2] + x[3])
    assert mean[0, 0].item() == pytest.approx(exact.item(), abs=0.15)  # borrowed from the other output, too
    correlation = fitted.coregion[0, 1] / fitted.coregion.diagonal().prod().sqrt()
    assert correlation < -0.9


def test_learning_the_covariance_of_outputs_raises_the_evidence():
    apart, together = (fit(GridProcess(coregionalised=c, restarts=1), TABLES["whole"]) for c in (False, True))
    assert together.log_evidence > apart.log_evidence


@pytest.mark.parametrize("options", [{}, {"coregionalised": True}], ids=["independent", "coregionalised"])
@pytest.mark.parametrize("table", ["whole", "cells missing", "uneven weights"])
@pytest.mark.parametrize("where", ["scattered", "gridded"])
@pytest.mark.parametrize("noise", [False, True])
def test_paths_have_the_joint_covariance_of_the_posterior(table, options, where, noise, monkeypatch):
    points = NEW[:4] if where == "scattered" else torch.cat([X[:4], X[:4] + torch.tensor([0.01, 0.0, 0.0])])
    fitted = fit(held(**options), TABLES[table])
    matrix = fitted.posterior(points, noise=noise)
    monkeypatch.setattr(grid_posterior, "ROOM", 1000)
    monkeypatch.setattr("kernelfield.models.grid.JOINT", 0)
    law = fitted.posterior(points, noise=noise)
    assert isinstance(matrix, Elliptical) and isinstance(law, Pathwise)
    root = (law.draw(torch.eye(law.width)) - law.mean).flatten(-2)
    assert_close(root.mT @ root, matrix.covariance, atol=1e-10, rtol=0)
    assert_close(law.mean, matrix.mean)
    z = torch.randn(2, 3, law.width)
    assert torch.equal(law.draw(z), law.draw(z))
    assert_close(law.draw(z)[1], law.draw(z[1]))


def test_large_queries_are_drawn_along_paths_that_obey_the_laws(monkeypatch):
    monkeypatch.setattr("kernelfield.models.grid.JOINT", 5)
    x = torch.linspace(0, 1, 5)
    data = Data(torch.cartesian_prod(x, x)[2:], torch.randn(23, 1))
    law = fit(GridProcess([RBF(), RBF()], mixing=InverseGamma(4.5, 6.0), steps=0), data).posterior(data.X[:6] + 0.2)
    assert isinstance(law, Pathwise)
    obeys_posterior_laws(law, 20_000)


def test_points_on_a_grid_are_contracted_axis_by_axis(monkeypatch):
    fitted = fit(held(), TABLES["whole"])
    law = fitted.posterior(X + 0.1)
    monkeypatch.setattr(grid_posterior, "SPREAD_OUT", 0)
    one_by_one = fitted.posterior(X + 0.1)
    assert_close(law.mean, one_by_one.mean, atol=1e-12, rtol=0)
    assert_close(law.variance, one_by_one.variance, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mean", ["zero", "linear"])
@pytest.mark.parametrize("table", ["cells missing", "weighted rows repeated"])
def test_conditioning_is_a_fit_to_all_rows(table, mean):
    data = TABLES[table]
    weight = torch.ones(len(data.X)) if data.weight is None else data.weight
    parts = [Data(data.X[r], data.Y[r], weight[r]) for r in (slice(70), slice(70, None))]
    twice, once = fit(held(mean=mean), parts[0]).condition(parts[1]), fit(held(mean=mean), data)
    assert twice.log_evidence == pytest.approx(once.log_evidence, rel=1e-10)
    assert_close(twice.posterior(NEW).mean, once.posterior(NEW).mean)
    assert_close(twice.posterior(NEW).variance, once.posterior(NEW).variance)


def test_new_points_off_the_grid_extend_its_axes():
    start = fit(held(), TABLES["whole"])
    more = Data(NEW[:1], torch.zeros(1, 2))
    extended, dense = start.condition(more), fit(held(Process), TABLES["whole"]).condition(more)
    assert extended.grid.shape == (9, 7, 4)
    assert_close(extended.posterior(NEW).mean, dense.posterior(NEW).mean)
    assert extended.log_evidence == pytest.approx(dense.log_evidence, rel=1e-9)
    with pytest.raises(ValueError, match="make a grid of .* cells, of which"):
        start.condition(Data(torch.randn(60, 3), torch.zeros(60, 2)))


def test_an_axis_of_places_and_one_of_times():
    places, times = torch.randn(9, 2), torch.linspace(0, 1, 7)
    XX = torch.cat([places.repeat_interleave(7, 0), times.repeat(9)[:, None]], 1)
    YY = torch.sin(XX.sum(1, keepdim=True))
    kernel = GridKernel([Matern(ard_num_dims=2), RBF()], columns=[(0, 1), (2,)])
    ours = fit(GridProcess(kernel, axes=[(0, 1), 2], steps=0), Data(XX, YY))
    dense = fit(Process(kernel, steps=0), Data(XX, YY))
    assert_close(ours.posterior(XX + 0.1).mean, dense.posterior(XX + 0.1).mean)
    by_name = fit(GridProcess(["matern32", None], axes=[(0, 1), 2], steps=5), Data(XX, YY))
    assert by_name.kernel.axes[0].ard_num_dims == 2
    values = YY.reshape(9, 7)
    again = GridProcess(kernel, steps=0).fit_values([places, times], values, generator=torch.Generator())
    assert_close(again.posterior(XX).mean, ours.posterior(XX).mean)


def test_a_spectral_product_is_fitted_factor_by_factor():
    kernel = SpectralProduct(2, dims=3)
    kernel.lengthscales = 0.8
    ours, dense = fit(GridProcess(kernel, steps=0), TABLES["whole"]), fit(Process(kernel, steps=0), TABLES["whole"])
    assert ours.log_evidence == pytest.approx(dense.log_evidence, rel=1e-9)
    assert fit(GridProcess(kernel, steps=10, restarts=1), TABLES["whole"]).log_evidence > ours.log_evidence


def test_a_large_grid_races_on_a_part_of_it(monkeypatch):
    monkeypatch.setattr("kernelfield.models.grid.RACE", 2**9)
    x = torch.linspace(0, 1, 60)
    values = torch.sin(9 * x[:, None]) * torch.cos(4 * x) + 0.1 * torch.randn(60, 60)
    values[torch.rand(60, 60) < 0.01] = torch.nan
    fitted = GridProcess(restarts=2, steps=30).fit_values([x, x], values, generator=torch.Generator().manual_seed(0))
    assert len(fitted.searches) == 3 and fitted.searches[-1].evaluations < 40
    assert fitted.noise == pytest.approx(0.01, rel=0.1)
    assert fitted.report.method == "complement"


def test_gpytorch_has_the_same_evidence_on_a_full_grid():
    x = torch.linspace(0, 1, 9)
    values = torch.randn(9, 9)
    kernel = GridKernel([RBF(), RBF()])
    ours = GridProcess(kernel, mean="zero", steps=0).fit_values([x, x], values, generator=torch.Generator())
    theirs = gpytorch.kernels.RBFKernel()
    theirs.lengthscale = 1.0
    points = torch.cartesian_prod(x, x)
    A = theirs(points).to_dense().detach() + 0.1 * torch.eye(81)
    law = torch.distributions.MultivariateNormal(torch.zeros(81), A)
    assert ours.log_evidence == pytest.approx(law.log_prob(values.flatten()).item(), rel=1e-10)


REFUSED = {
    "a radial kernel": (GridProcess(Matern(ard_num_dims=3)), "one kernel an axis.*one distance.*use Process"),
    "a radial kernel on an axis": (GridProcess([Matern(ard_num_dims=2), RBF(), RBF()]), "made for 2 columns"),
    "too few kernels": (GridProcess([RBF(), RBF()]), "2 kernels for a grid of 3 axes"),
    "other axes": (GridProcess(GridKernel([RBF(), RBF()])), r"axes \[\(0,\), \(1,\)\] and the grid"),
    "an unknown name": (GridProcess("matern"), "kernel must be"),
    "a noise of zero": (GridProcess(noise=0.0), "noise must be a positive variance"),
    "an unknown mean": (GridProcess(mean="quadratic"), "mean must be"),
    "no start": (GridProcess(restarts=0), "restarts must be at least 1"),
}


@pytest.mark.parametrize(("model", "words"), REFUSED.values(), ids=REFUSED)
def test_choices_that_fit_no_grid_are_refused(model, words):
    with pytest.raises(ValueError, match=words):
        fit(model, TABLES["whole"])


def test_a_model_is_a_choice_that_can_be_copied():
    model = GridProcess([RBF(), "matern32", None], axes=[0, 1, 2], noise=0.3)
    again = clone(model)
    assert again.noise == 0.3 and [type(k) for k in again.kernels] == [RBF, str, type(None)]
    kernel = product()
    fit(GridProcess(kernel, steps=3), TABLES["whole"])
    assert_close(kernel.outputscale.detach(), torch.tensor(0.7))
    assert np.all([p.requires_grad for n, p in kernel.named_parameters() if n.endswith("raw_lengthscale")])
