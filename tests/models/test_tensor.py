"""Tensors with continuous indices: recovery, calibration, and the laws of their posteriors."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import Matern
from kernelfield.models.process import Process
from kernelfield.models.tensor import TensorProcess
from tests.laws import obeys_posterior_laws


def published(X: torch.Tensor) -> torch.Tensor:
    """The product of two functions that the method was first shown on."""
    a, b = X.mT
    f = (-2 * a).exp() * (1.5 * torch.pi * a).sin() * (2 * torch.pi * b).sin() ** 2 * (2 * torch.pi * b).cos()
    return f[:, None]


def three_modes(X: torch.Tensor) -> torch.Tensor:
    """Two outputs of CP rank two."""
    a, b, c = X.mT
    one, two = (3 * a).sin() * (2 * b).cos() * (1 + c), (1 + a**2) * (4 * b).sin() * (3 * c).cos()
    return torch.stack([one + two, one - 0.5 * two], 1)


def fit(model: TensorProcess, X: torch.Tensor, Y: torch.Tensor, seed: int = 0):
    return model.fit(Data(X, Y), generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_a_product_of_two_functions_is_recovered_as_published():
    """500 rows with a noise of standard deviation 0.02: the paper reports an error of 0.004."""
    errors = []
    for seed in range(3):
        X = torch.rand(650, 2)
        model = TensorProcess(1, smoothness="matern52", restarts=2)
        fitted = fit(model, X[:500], published(X[:500]) + 0.02 * torch.randn(500, 1), seed)
        errors.append((fitted.posterior(X[500:]).mean - published(X[500:])).square().mean().sqrt())
        assert fitted.tau.noise**0.5 == pytest.approx(0.02, rel=0.15)
    assert torch.stack(errors).mean() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("form", ["cp", "tucker"])
def test_the_bound_never_falls_and_the_tensor_is_found(form):
    X = (60 * torch.rand(250, 3)).round() / 60
    Y = three_modes(X) + 0.05 * torch.randn(250, 2)
    fitted = fit(TensorProcess(3 if form == "cp" else 2, form, restarts=1, sweeps=25), X, Y)
    rises = torch.tensor(fitted.history).diff()
    assert (rises >= -1e-9 * abs(fitted.bound)).all()
    Z = torch.rand(200, 3)  # indices that were never seen
    law = fitted.posterior(Z)
    error = law.mean - three_modes(Z)
    assert error.square().mean().sqrt() < 0.05
    assert ((error.abs() / law.variance.sqrt()) < 1.96).double().mean() > 0.8


@pytest.mark.slow
def test_ranks_that_are_not_needed_fade():
    X = torch.rand(300, 2)
    fitted = fit(TensorProcess(3, restarts=1, sweeps=40), X, published(X) + 0.02 * torch.randn(300, 1))
    law, noise = fitted.posterior(X), torch.tensor(fitted.tau.noise)
    assert noise.sqrt() == pytest.approx(0.02, rel=0.2)
    size = (
        fitted.core.mean[:, 0].abs() * torch.stack([m.square.mean(0).diagonal() for m in fitted.modes]).prod(0) ** 0.5
    )
    size = size.sort().values
    assert size[1] < 0.05 * size[2]
    assert (law.mean - published(X)).square().mean().sqrt() < 0.01


@pytest.mark.slow
def test_bands_cover_what_the_prior_draws():
    """Data drawn from the model: bands of a mean-field law may be narrow, by little."""
    kernel, ends = Matern(1.5), torch.linspace(0, 1, 41)[:, None]
    kernel.lengthscale, kernel.outputscale = 0.4, 1.0
    with torch.no_grad():
        half = torch.linalg.cholesky(kernel(ends).to_dense() + 1e-10 * torch.eye(41))
    covered = []
    for seed in range(8):
        one, two = (half @ torch.randn(41, 2)).mT
        place = torch.randint(0, 41, (300, 2))
        X, f = place / 40.0, (one[place[:, 0]] * two[place[:, 1]])[:, None]
        model = TensorProcess(1, lengthscale=0.4, noise=0.01, learn_noise=False, restarts=1, sweeps=45)
        fitted = fit(model, X[:200], f[:200] + 0.1 * torch.randn(200, 1), seed)
        law = fitted.posterior(X[200:])
        covered.append(((law.mean - f[200:]).abs() < 1.96 * law.variance.sqrt()).double().mean())
    assert 0.88 < torch.stack(covered).mean() < 0.99


@pytest.mark.parametrize("form", ["cp", "tucker"])
def test_posteriors_obey_the_laws_in_batches_too(form):
    X = torch.rand(12, 2)
    Y = torch.cat([published(X), X[:, :1]], 1) + 0.1 * torch.randn(12, 2)
    fitted = fit(TensorProcess(2, form, restarts=1, sweeps=5), X, Y)
    obeys_posterior_laws(fitted.posterior(torch.rand(2, 2, 2), noise=True), samples=10_000)
    obeys_posterior_laws(fitted.posterior(X[:2]), samples=10_000)
    Z = torch.rand(2, 3, 2)
    assert_close(fitted.posterior(Z).variance[1], fitted.posterior(Z[1]).variance)
    assert_close(fitted.posterior(Z).mean[0], fitted.posterior(Z[0]).mean)
    assert fitted.posterior(Z[:, :0]).mean.shape == (2, 0, 2)
    gap = fitted.posterior(Z, noise=True).variance - fitted.posterior(Z).variance
    assert_close(gap, torch.full_like(gap, fitted.tau.noise))


def test_weights_are_repetitions():
    X, Y = torch.rand(30, 2), torch.randn(30, 1)
    model = TensorProcess(1, restarts=1, sweeps=4, learn_noise=False)
    weight = torch.ones(30)
    weight[:10] = 2.0
    one = model.fit(Data(X, Y, weight), generator=torch.Generator().manual_seed(0))
    two = fit(model, torch.cat([X, X[:10]]), torch.cat([Y, Y[:10]]))
    assert_close(one.posterior(X).mean, two.posterior(X).mean, rtol=1e-6, atol=1e-8)


def test_functions_of_a_column_are_at_hand():
    X = torch.rand(60, 2)
    fitted = fit(TensorProcess(2, lengthscale=(0.5, 0.2), restarts=1, sweeps=5), X, published(X))
    mean, variance = fitted.factor(1, torch.tensor([0.3, 0.9, 40.0]))
    assert mean.shape == variance.shape == (3, 2) and (variance > 0).all()
    # Far from the data a function is its prior.
    assert_close(mean[2], torch.zeros(2), atol=1e-9, rtol=0)
    assert_close(variance[2], fitted.modes[1].outputscales)
    assert fitted.hyperparameters()["modes.1.lengthscale"] == pytest.approx([0.2, 0.2])


def test_as_an_estimator_saved_and_loaded(tmp_path):
    X = torch.rand(60, 2)
    y = published(X)[:, 0] + 0.02 * torch.randn(60)
    fitted = FieldRegressor(TensorProcess(2, restarts=1, sweeps=10)).fit(X.numpy(), y.numpy())
    save(fitted, tmp_path / "model")
    again = load(tmp_path / "model")
    for ours, theirs in zip(fitted.predict(X, return_std=True), again.predict(X, return_std=True), strict=True):
        assert (ours == theirs).all()
    assert fitted.sample_y(X[:3], n_samples=2, random_state=0).shape[0] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"rank": (2, 3)}, "one rank for all columns"),
        ({"rank": (2, 2, 2)}, "one value or one for each of 2 columns"),
        ({"form": "train"}, "form must be 'cp' or 'tucker', got 'train'"),
        ({"smoothness": "rbf"}, "smoothness must be one of matern12.*, got 'rbf'"),
        ({"lengthscale": -1.0}, "lengthscale must be positive"),
        ({"noise": 0.0}, "noise must be a positive variance, got 0"),
        ({"sweeps": 0}, "sweeps must be at least 1, got 0"),
        ({"tolerance": -1.0}, "tolerance must not be negative"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError, match=words):
        fit(TensorProcess(**options), torch.rand(5, 2), torch.rand(5, 1))


@pytest.mark.parametrize("form", ["cp", "tucker"])
def test_conditioning_is_the_law_of_all_rows_at_the_scales_of_the_fit(form):
    X = torch.rand(80, 2)
    Y = published(X) + 0.05 * torch.randn(80, 1)
    weight = 0.5 + torch.rand(80)
    first = Data(X[:50], Y[:50], weight[:50])
    fitted = TensorProcess(2, form, restarts=1, sweeps=45).fit(first, generator=torch.Generator().manual_seed(0))
    more = fitted.condition(Data(X[50:], Y[50:], weight[50:]))
    assert len(more.data.X) == 80 and (torch.tensor(more.history).diff() >= -1e-9 * abs(more.bound)).all()
    assert more.hyperparameters()["modes.1.lengthscale"] == fitted.hyperparameters()["modes.1.lengthscale"]
    assert torch.equal(more.core.prior, fitted.core.prior)
    Z = torch.rand(200, 2)
    error, before = ((f.posterior(Z).mean - published(Z)).square().mean() for f in (more, fitted))
    assert error < before and more.posterior(Z).variance.mean() < fitted.posterior(Z).variance.mean()
    one_by_one = fitted.condition(Data(X[50:65], Y[50:65], weight[50:65])).condition(Data(X[65:], Y[65:], weight[65:]))
    gap = one_by_one.posterior(Z).mean - more.posterior(Z).mean
    assert gap.abs().max() < 0.1 * more.posterior(Z).variance.sqrt().max()
    with pytest.raises(ValueError, match="2 columns and 1 outputs, as those of the fit, got 3 and 1"):
        fitted.condition(Data(torch.rand(4, 3), torch.rand(4, 1)))


def test_the_bound_in_the_units_of_the_targets_is_below_the_evidence():
    """One column of rank one is a Gaussian process; factors and noise that know nothing of each other cost nats."""
    X = torch.linspace(0, 1, 30)[:, None]
    y = 100 * (6 * X[:, 0]).sin() + torch.randn(30)
    fitted = FieldRegressor(TensorProcess(1, restarts=1), random_state=0).fit(X, y)
    peer = FieldRegressor(Process("matern32", mean="zero", restarts=1), random_state=0).fit(X, y)
    evidence = peer.surrogate_.log_evidence
    assert evidence - 20 < fitted.surrogate_.log_bound < evidence
    with pytest.raises(NotImplementedError, match="FittedTensor has no evidence; log_bound is a lower bound of it"):
        _ = fitted.surrogate_.log_evidence


def test_points_with_other_columns_are_refused():
    X = torch.rand(9, 2)
    fitted = fit(TensorProcess(1, restarts=1, sweeps=2), X, published(X))
    with pytest.raises(ValueError, match="X must have 2 columns, one for each mode, got 3"):
        fitted.posterior(torch.rand(4, 3))


def test_lengthscales_are_told_in_the_units_of_the_inputs():
    X = torch.rand(60, 2) * torch.tensor([1.0, 100.0])
    y = (3 * X[:, 0]).sin() * (0.05 * X[:, 1]).cos()
    fitted = FieldRegressor(TensorProcess(1, lengthscale=(0.5, 2.0), sweeps=5, restarts=1), random_state=0).fit(X, y)
    told = fitted.surrogate_.hyperparameters()
    for k, given in enumerate((0.5, 2.0)):
        assert told[f"modes.{k}.lengthscale"] == pytest.approx([given * X[:, k].std(correction=0).item()])
