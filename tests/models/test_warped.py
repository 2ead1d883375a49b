"""Warped processes against the change of variables, log-normal closed forms and simulation."""

import gpytorch
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.process import Process
from kernelfield.models.warped import Transformed, Warped
from kernelfield.models.warps import YeoJohnson
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

XS = torch.linspace(0, 3, 7)[:, None]


def log_warp():
    """log(1 + y)."""
    one = torch.ones(1)
    return YeoJohnson(0 * one, 0 * one, one, 0 * one, one)


def back(z):
    """The inverse of that warp, which goes on below zero as 1/2 - (1 - y)^2 / 2."""
    return torch.where(z >= 0, z.expm1(), 1 - (1 - 2 * z.clamp_max(0)).sqrt())


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def sample(n, seed=0):
    """Log-normal observations around exp(1.5 sin 3x)."""
    generator = torch.Generator().manual_seed(seed)
    X = 3 * torch.rand(n, 1, generator=generator)
    return Data(X, (1.5 * torch.sin(3 * X) + 0.2 * torch.randn(n, 1, generator=generator)).exp())


def held(**kwargs):
    return Process(RBF(), noise=0.05, steps=0, **kwargs)


@pytest.mark.parametrize("mixing", [{}, {"mixing": InverseGamma(3.0, 2.0)}], ids=["gauss", "student"])
def test_with_a_warp_held_evidence_and_law_are_those_of_the_change_of_variables(mixing):
    data = sample(20)
    inner = fit(held(**mixing), Data(data.X, data.Y.log1p()))
    fitted = fit(Warped(held(**mixing), log_warp()), data)
    assert fitted.log_evidence == pytest.approx(inner.log_evidence - data.Y.log1p().sum().item(), rel=1e-12)
    law, other = fitted.posterior(XS, noise=True), inner.posterior(XS, noise=True)
    for p in (1e-6, 0.05, 0.5, 0.999):
        assert_close(law.quantile(p), back(other.quantile(p)), rtol=1e-12, atol=1e-12)
    y = torch.linspace(0.1, 3, 7)[:, None]
    assert_close(law.log_prob(y), other.log_prob(y.log1p()) - y.log1p(), rtol=1e-12, atol=1e-12)
    assert_close(law.cdf(y), other.cdf(y.log1p()), rtol=1e-12, atol=1e-12)
    z = torch.randn(3, law.width)
    assert_close(law.draw(z), back(other.draw(z)), rtol=1e-12, atol=1e-12)


def test_moments_are_those_of_a_log_normal():
    law = fit(Warped(held(), log_warp()), sample(20)).posterior(XS, noise=True)
    assert isinstance(law, Transformed)
    loc, variance = law.inner.mean, law.inner.variance
    mean = (loc + variance / 2).exp()
    # Moved far up the logarithm, as the warp is none below zero.
    spread = YeoJohnson(torch.zeros(1), torch.full((1,), -50.0), torch.ones(1), torch.zeros(1), torch.ones(1))
    shifted = Transformed(law.inner.affine(torch.ones(1), torch.full((1,), 9.0)), spread, torch.ones(1), torch.zeros(1))
    assert_close(shifted.mean, mean * torch.tensor(9.0).exp() - 51, rtol=1e-12, atol=1e-9)
    assert_close(shifted.variance, (mean * torch.tensor(9.0).exp()).square() * variance.expm1(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("noise", [True, False])
def test_laws(noise):
    law = fit(Warped(held(), log_warp()), sample(20)).posterior(XS, noise=noise)
    obeys_posterior_laws(law)
    density_integrates_to_cdf(law)


@pytest.mark.parametrize("warp", ["yeo-johnson", "spline"])
def test_log_normal_targets_choose_a_logarithm_and_predict_better(warp):
    data, new = sample(120), sample(300, seed=1)
    plain, fitted = fit(Process(restarts=2), data), fit(Warped(Process(restarts=2), warp), data)
    score = fitted.posterior(new.X, noise=True).log_prob(new.Y).mean()
    truth = torch.distributions.LogNormal(1.5 * torch.sin(3 * new.X), 0.2).log_prob(new.Y).mean()
    assert score > plain.posterior(new.X, noise=True).log_prob(new.Y).mean() + 0.4
    assert score > truth - 0.2
    assert fitted.log_evidence > plain.log_evidence + 50
    y = torch.linspace(0.4, 4, 50)[:, None]
    together = torch.corrcoef(torch.cat([fitted.warp.forward(y), y.log()], 1).mT)[0, 1]
    assert together > 0.99


def test_the_evidence_is_never_less_than_that_without_a_warp():
    X = torch.linspace(0, 3, 20)[:, None]
    data = Data(X, torch.sin(3 * X) + 0.1 * torch.randn(20, 1))
    standard = Data(X, (data.Y - data.Y.mean()) / data.Y.std(correction=0))
    plain = fit(Process(restarts=1), standard).log_evidence - 20 * data.Y.std(correction=0).log().item()
    for warp in ("yeo-johnson", "spline"):
        assert fit(Warped(Process(restarts=1), warp), data).log_evidence >= plain - 1e-9


def test_held_parameters_stay_and_several_outputs_have_a_warp_each():
    data = sample(25)
    kernel = Matern(1.5)
    kernel.lengthscale = 0.6
    kernel.raw_lengthscale.requires_grad_(False)
    both = Data(data.X, torch.cat([data.Y, -data.Y], 1))
    fitted = fit(Warped(Process(kernel, mean="zero", restarts=1)), both)
    assert fitted.inner.kernel.lengthscale.item() == pytest.approx(0.6)
    law = fitted.posterior(XS, noise=True)
    assert law.mean.shape == (7, 2)
    powers = fitted.hyperparameters()["warp_power"]
    assert powers[0] < 1 < powers[1]


def test_conditioning_is_a_fit_to_all_rows():
    data = sample(30)
    model = Warped(held(), log_warp())
    first, rest = Data(data.X[:20], data.Y[:20]), Data(data.X[20:], data.Y[20:])
    joined, whole = fit(model, first).condition(rest), fit(model, data)
    assert joined.log_evidence == pytest.approx(whole.log_evidence, rel=1e-9)
    assert_close(joined.posterior(XS).quantile(0.3), whole.posterior(XS).quantile(0.3), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mixing", [{}, {"mixing": InverseGamma(3.0, 2.0)}], ids=["gauss", "student"])
def test_leaving_a_row_out_is_a_fit_without_it(mixing):
    data = sample(12)
    data = Data(data.X, torch.cat([data.Y, 2 + data.X], 1))
    log = log_warp()
    both = YeoJohnson(*(torch.cat([t, t]) for t in vars(log).values()))
    model = Warped(held(**mixing), both)
    means, variances = fit(model, data).leave_one_out()
    assert means.shape == variances.shape == (12, 2)
    for i in range(12):
        others = torch.arange(12) != i
        law = fit(model, Data(data.X[others], data.Y[others])).posterior(data.X[[i]], noise=True)
        assert_close(means[[i]], law.mean, rtol=1e-8, atol=1e-10)
        assert_close(variances[[i]], law.variance, rtol=1e-8, atol=1e-10)


def test_constant_targets_have_no_warp_to_learn():
    X = torch.linspace(0, 1, 9)[:, None]
    law = fit(Warped(Process(restarts=1)), Data(X, torch.full((9, 1), 4.0))).posterior(X)
    assert_close(law.mean, torch.full((9, 1), 4.0), rtol=0, atol=1e-6)


def test_an_estimator_gives_quantiles_in_the_units_of_the_targets():
    data = sample(60)
    regressor = FieldRegressor(Warped(Process(restarts=1)), random_state=0)
    regressor.fit(data.X.numpy(), 1000 * data.Y[:, 0].numpy())
    mean, std, quantiles = regressor.predict(XS.numpy(), return_std=True, quantiles=[0.01, 0.5])
    assert (quantiles[:, 0] > 0).all() and (std > 0).all()
    truth = 1000 * (1.5 * torch.sin(3 * XS)).exp()
    assert_close(torch.tensor(quantiles[1:, 1:]), truth[1:], rtol=0.3, atol=0)
    assert (mean > quantiles[:, 1]).all()  # a log-normal is skewed


def test_what_cannot_be_warped_is_refused():
    with pytest.raises(ValueError, match="warp must be a Warp or one of yeo-johnson, spline, got 'log'"):
        fit(Warped(warp="log"), sample(9))
    with pytest.raises(ValueError, match="evidence of an exact process, got RBFKernel"):
        fit(Warped(gpytorch.kernels.RBFKernel()), sample(9))


@pytest.mark.parametrize("warp", ["yeo-johnson", "spline"])
def test_a_fitted_one_is_saved_and_loaded_to_the_last_bit(warp, tmp_path):
    data = sample(25)
    regressor = FieldRegressor(Warped(Process(restarts=1, steps=5), warp), random_state=0)
    regressor.fit(data.X.numpy(), data.Y[:, 0].numpy())
    save(regressor, tmp_path / "model.kf")
    twin = load(tmp_path / "model.kf")
    one, other = (r.predict(XS.numpy(), quantiles=[0.1])[1] for r in (regressor, twin))
    assert (one == other).all()
