"""Variational processes against brute-force optima of the bound, and what each likelihood is for."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.collapsed import whitened
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.fitted_variational import FittedVariationalProcess
from kernelfield.models.likelihoods import Likelihood, StudentT, likelihood_of
from kernelfield.models.process import Process
from kernelfield.models.svgp import VariationalProcess, shuffled
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

X = torch.linspace(-2, 2, 14)[:, None]
XS = torch.linspace(-2.5, 2.5, 4)[:, None]
HELD = {"steps": 0, "learn_noise": False, "move": False, "restarts": 1}
QUICK = {"restarts": 1, "steps": 20, "inducing": 10, "epochs": 2, "least_steps": 30}


def targets(kind, X=X):
    f, generator = torch.sin(2 * X), torch.Generator().manual_seed(3)
    match kind:
        case "poisson":
            return torch.poisson((1 + f).exp(), generator)
        case "bernoulli":
            return (torch.rand(f.shape, generator=generator) < torch.sigmoid(2 * f)).double()
        case _:
            return f + 0.1 * torch.randn(f.shape, generator=generator)


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def held(likelihood, **settings):
    kernel = RBF().requires_grad_(False)
    kernel.lengthscale = 0.8
    return VariationalProcess(kernel, likelihood, inducing=7, mean="zero", **{**HELD, **settings})


def greatest_bound(fitted, Y):
    """The bound of F at its best q(v), by L-BFGS on its mean and factor."""
    phi = whitened(fitted.basis.factor(), fitted.basis.cross(X)).detach()
    k, rest = len(phi), (fitted.kernel(X, diag=True) - phi.square().sum(0)).detach().clamp_min(0)
    mean, half = torch.zeros(k, 1, requires_grad=True), torch.eye(k).requires_grad_()
    search = torch.optim.LBFGS([mean, half], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        T = half.tril()
        f, v = phi.mT @ mean, rest + (T.mT @ phi).square().sum(0)
        fit = fitted.likelihood.expected(Y, f, v[:, None]).sum()
        value = 0.5 * (T.square().sum() + mean.square().sum() - k) - T.diagonal().abs().log().sum() - fit
        value.backward()
        return value

    search.step(loss)
    T = half.detach().tril()
    return -loss().item(), mean.detach(), T @ T.mT


@pytest.mark.parametrize("kind", ["poisson", "bernoulli", "student_t"])
def test_the_law_found_is_that_of_the_greatest_bound(kind):
    Y = targets(kind)
    if kind == "student_t":
        Y[5] += 3.0
    fitted = fit(held(StudentT(0.05, 3.0) if kind == "student_t" else kind), Data(X, Y))
    best, mean, S = greatest_bound(fitted, Y)
    assert fitted.log_bound == pytest.approx(best, abs=1e-4)
    assert_close(fitted.coefficients.mean, mean, rtol=0, atol=1e-3)
    assert_close(fitted.coefficients.spread[0], S, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["poisson", "bernoulli", "student_t", "gaussian"])
def test_laws_hold_and_survive_saving(kind, tmp_path):
    rows = torch.linspace(-2, 2, 40)[:, None]
    model = VariationalProcess("rbf", kind, **QUICK)
    fitted = FieldRegressor(model, random_state=0).fit(rows.numpy(), targets(kind, rows).numpy()[:, 0])
    law = fitted.posterior(XS.numpy())
    if kind != "student_t":  # whose variance is known, but not to a sample
        obeys_posterior_laws(law, samples=20_000)
    if kind in ("student_t", "gaussian"):
        density_integrates_to_cdf(law)
    save(fitted, tmp_path / "model")
    again = load(tmp_path / "model").posterior(XS.numpy())
    assert type(again) is type(law)
    assert torch.equal(again.mean, law.mean)
    assert torch.equal(again.quantile(0.9), law.quantile(0.9))
    assert isinstance(fitted.surrogate_.inner, FittedExpansion if kind == "gaussian" else FittedVariationalProcess)
    batch = torch.randn(2, 3, 1)
    assert_close(fitted.surrogate_.posterior(batch).mean[1], fitted.surrogate_.posterior(batch[1]).mean)
    assert "lengthscale" in fitted.surrogate_.hyperparameters()


def test_counts_are_predicted_in_counts():
    rows = torch.rand(400, 1, generator=torch.Generator().manual_seed(0)) * 4 - 2
    model = VariationalProcess("rbf", "poisson", **{**QUICK, "restarts": 4, "steps": 100})
    fitted = FieldRegressor(model, random_state=0).fit(rows.numpy(), targets("poisson", rows).numpy()[:, 0])
    rate = (1 + torch.sin(2 * X)).exp()[:, 0].numpy()
    mean, std = fitted.predict(X.numpy(), return_std=True)
    inside = slice(1, -1)  # the ends have rows on one side alone
    assert abs(mean / rate - 1)[inside].max() < 0.3  # three standard errors of some hundred counts around each place
    assert (std > 0.95 * mean**0.5).all()
    fresh = targets("poisson", rows.flip(0))
    low, high = fitted.predict(rows.flip(0).numpy(), quantiles=[0.05, 0.95])[1].T
    assert 0.87 < ((low <= fresh[:, 0].numpy()) & (fresh[:, 0].numpy() <= high)).mean() < 0.99


def test_several_outputs_have_laws_of_their_own():
    Y = torch.cat([targets("poisson"), torch.poisson(torch.full((14, 1), 9.0))], 1)
    both = fit(held("poisson"), Data(X, Y))
    for j in range(2):
        alone = fit(held("poisson"), Data(X, Y[:, j : j + 1])).posterior(XS)
        assert_close(both.posterior(XS).mean[:, j], alone.mean[:, 0], rtol=1e-6, atol=1e-8)
        assert_close(both.posterior(XS).variance[:, j], alone.variance[:, 0], rtol=1e-6, atol=1e-8)


def test_outliers_hardly_move_a_process_with_student_noise():
    rows = torch.linspace(-2, 2, 80)[:, None]
    Y = targets("gaussian", rows)
    Y[::10] += 4.0
    robust, plain = (fit(VariationalProcess("rbf", kind, **QUICK), Data(rows, Y)) for kind in ("student_t", "gaussian"))
    worst = [(law.posterior(XS[1:3]).mean - torch.sin(2 * XS[1:3])).abs().max().item() for law in (robust, plain)]
    assert worst[0] < 0.1 < worst[1]
    assert robust.likelihood.nu < 10


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["variance", "kmeans"])
def test_mini_batches_end_near_the_exact_process(choice):
    rows = torch.rand(300, 1, generator=torch.Generator().manual_seed(0)) * 4 - 2
    data = Data(rows, targets("gaussian", rows))
    exact = fit(Process("rbf", restarts=1), data)
    model = VariationalProcess("rbf", inducing=15, choice=choice, batch=60, epochs=10, restarts=1)
    fitted = fit(model, data)
    assert fitted.log_bound == pytest.approx(exact.log_evidence, abs=0.05 * 300)
    assert fitted.noise == pytest.approx(exact.noise, rel=0.1)
    assert_close(fitted.posterior(XS[1:3]).mean, exact.posterior(XS[1:3]).mean, rtol=0, atol=0.05)
    more = Data(XS[1:3], torch.sin(2 * XS[1:3]))
    assert fitted.condition(more).posterior(XS[1:3]).variance.max() < fitted.posterior(XS[1:3]).variance.max()


def test_batches_are_all_rows_once_and_of_nearly_one_size():
    data = Data(torch.arange(103.0)[:, None], torch.zeros(103, 1), torch.arange(1.0, 104.0))
    parts = list(shuffled(data, 20, torch.Generator().manual_seed(0)))
    assert {len(part.X) for part in parts} == {17, 18}
    rows = torch.cat([part.X for part in parts])[:, 0]
    assert torch.equal(rows.sort().values, data.X[:, 0]) and not torch.equal(rows, data.X[:, 0])
    assert all(torch.equal(part.weight, part.X[:, 0] + 1) for part in parts)


class Unknown(Likelihood):
    def log_prob(self, y, f):
        return -(y - f).abs()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (VariationalProcess(inducing=0), "inducing must be at least 1, got 0"),
        (VariationalProcess(epochs=0), "epochs must be at least 1, got 0"),
        (VariationalProcess(choice="all"), "choice must be 'variance' or 'kmeans', got 'all'"),
        (VariationalProcess(rate=0.0), "rate must be positive, got 0"),
        (VariationalProcess(likelihood="cauchy"), "likelihood must be a Likelihood or one of gaussian"),
        (VariationalProcess(likelihood="poisson"), "targets of a Poisson likelihood are counts"),
        (VariationalProcess(noise=-1.0), "noise must be a positive variance, got -1"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, words):
    with pytest.raises(ValueError, match=words):
        fit(model, Data(X, targets("gaussian")))


def test_what_has_no_closed_form_says_so():
    fitted = fit(held("poisson", least_steps=5), Data(X, targets("poisson")))
    with pytest.raises(NotImplementedError, match="likelihood Poisson has no closed form given more rows; refit"):
        fitted.condition(Data(X, targets("poisson")))
    own = fit(VariationalProcess(Matern(), Unknown(), least_steps=5, inducing=5, **HELD), Data(X, X))
    assert own.posterior(XS).mean.isfinite().all()
    with pytest.raises(NotImplementedError, match="Unknown has no mean"):
        _ = own.posterior(XS, noise=True).mean
    assert likelihood_of(Unknown(), 0.1).learned == ()
