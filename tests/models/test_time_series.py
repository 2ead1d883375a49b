"""The process on a line is the dense one."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.process import Process
from kernelfield.models.time_series import TimeSeriesProcess
from tests.laws import obeys_posterior_laws


def record(n: int, *, weights: bool = False) -> Data:
    X = 10 * torch.rand(n, 1)
    Y = torch.cat([X.sin(), X.cos() + 0.3 * X], 1) + 0.1 * torch.randn(n, 2)
    return Data(X, Y, 0.5 + torch.rand(n) if weights else None)


def both(data: Data, name: str = "matern52", mean: str = "constant", **options):
    models = (kind(name, mean, **options) for kind in (TimeSeriesProcess, Process))
    return [model.fit(data, generator=torch.Generator().manual_seed(0)) for model in models]


@pytest.mark.parametrize("mixing", [Unit(), InverseGamma.student(5.0)])
@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
@pytest.mark.parametrize("name", ["matern12", "matern32", "matern52"])
def test_predictions_and_evidence_are_those_of_the_dense_process(name, mean, mixing):
    line, dense = both(record(120, weights=True), name, mean, mixing=mixing, steps=0, noise=0.02)
    X = torch.cat([12 * torch.rand(30, 1) - 1, line.data.X[:3]])
    assert_close(torch.tensor(line.log_evidence), torch.tensor(dense.log_evidence), rtol=1e-12, atol=1e-9)
    for noise in (False, True):
        ours, theirs = line.posterior(X, noise=noise), dense.posterior(X, noise=noise)
        for quantity in (
            lambda p: p.mean,
            lambda p: p.variance,
            lambda p: p.scale.to_dense(),
            lambda p: p.quantile(0.9),
        ):
            assert_close(quantity(ours), quantity(theirs), rtol=1e-9, atol=1e-10)
    for ours, theirs in zip(line.leave_one_out(), dense.leave_one_out(), strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_the_fit_ends_where_the_dense_one_does():
    line, dense = both(record(60), restarts=2)
    assert_close(torch.tensor(line.log_evidence), torch.tensor(dense.log_evidence), rtol=1e-7, atol=0)
    assert line.noise == pytest.approx(dense.noise, rel=1e-3)
    held, _ = both(record(60), learn_noise=False, restarts=1, noise=0.07)
    assert held.noise == pytest.approx(0.07)


@pytest.mark.slow
def test_the_race_of_the_starts_goes_on_with_all_rows():
    line, dense = both(record(800), restarts=2, steps=30)
    assert_close(torch.tensor(line.log_evidence), torch.tensor(dense.log_evidence), rtol=1e-5, atol=0)


def test_conditioning_is_fitting_with_more_rows():
    data = record(80)
    part = Data(data.X[:50], data.Y[:50])
    model = TimeSeriesProcess(steps=0)
    grown = model.fit(part, generator=torch.Generator()).condition(Data(data.X[50:], data.Y[50:]))
    kernel = model.fit(part, generator=torch.Generator()).kernel
    whole = TimeSeriesProcess(kernel, steps=0).fit(data, generator=torch.Generator())
    assert_close(grown.posterior(data.X).mean, whole.posterior(data.X).mean, rtol=1e-10, atol=1e-10)


def test_posteriors_obey_the_laws_in_batches_too():
    fitted = TimeSeriesProcess(steps=0, noise=0.05).fit(record(40), generator=torch.Generator())
    obeys_posterior_laws(fitted.posterior(torch.rand(2, 3, 1) * 10, noise=True))
    X = torch.rand(2, 3, 1)
    assert_close(fitted.posterior(X).variance[1], fitted.posterior(X[1]).variance)
    assert fitted.posterior(X[:, :0]).mean.shape == (2, 0, 2)


def test_a_long_record_needs_no_matrix_of_its_length():
    """A dense matrix of 200,000 rows would be 300 GiB."""
    X = torch.sort(torch.rand(200_000, 1) * 2000, 0).values
    data = Data(X, X.sin() + 0.1 * torch.randn_like(X))
    fitted = TimeSeriesProcess(Matern(1.5), steps=0, noise=0.01).fit(data, generator=torch.Generator())
    law = fitted.posterior(X[1000:-1000:50] + 1e-3)
    assert (law.mean - (X[1000:-1000:50] + 1e-3).sin()).square().mean().sqrt() < 0.05
    assert law.variance.shape == law.mean.shape


def test_as_an_estimator_saved_and_loaded(tmp_path):
    data = record(50)
    fitted = FieldRegressor(TimeSeriesProcess(restarts=1, steps=5)).fit(data.X.numpy(), data.Y.numpy())
    save(fitted, tmp_path / "model")
    again = load(tmp_path / "model")
    for ours, theirs in zip(
        fitted.predict(data.X, return_std=True), again.predict(data.X, return_std=True), strict=True
    ):
        assert (ours == theirs).all()


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (TimeSeriesProcess(), Data(torch.rand(5, 2), torch.rand(5, 1)), "one input, its time, and the data have 2"),
        (TimeSeriesProcess("rbf"), record(5), "kernel must be a Matern or one of matern12.*, got 'rbf'"),
        (TimeSeriesProcess(RBF()), record(5), "kernel must be a Matern"),
        (TimeSeriesProcess(Matern(batch_shape=torch.Size([2]))), record(5), "must be one kernel"),
        (TimeSeriesProcess(noise=-1.0), record(5), "noise must be a positive variance, got -1"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, data, words):
    with pytest.raises(ValueError, match=words):
        model.fit(data, generator=torch.Generator())
