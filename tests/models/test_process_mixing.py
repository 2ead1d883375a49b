"""Processes under every mixing law: evidence, posterior, predictions and what is learned."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.mixing_density import Grid, LogDensity
from kernelfield.core.mixing_laws import BetaPrime, BurrXII, Gamma, HalfCauchy, LogNormal
from kernelfield.core.posterior import Elliptical
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.process import Process

STUDENT = InverseGamma(2.5, 0.4)
USER = LogDensity(lambda s, a: -(a + 1) * s.log() - 0.4 / s, {"a": 2.5})
XS = torch.linspace(-3, 3, 5)[:, None]
LAWS = {  # with the density of s by SciPy
    "student": (STUDENT, stats.invgamma(2.5, scale=0.4)),
    "gamma": (Gamma(1.5, 2.0), stats.gamma(1.5, scale=0.5)),
    "burr": (BurrXII(2.0, 1.5, 0.7), stats.burr12(2.0, 1.5, scale=0.7)),
    "log-normal": (LogNormal(1.3, 2.0), stats.lognorm(1.3, scale=2.0)),
    "beta prime": (BetaPrime(0.7, 1.4, 3.0), stats.betaprime(0.7, 1.4, scale=3.0)),
    "user's": (USER, stats.invgamma(2.5, scale=0.4)),
}
EVERY = pytest.mark.parametrize("name", LAWS)
LEARNABLE = [law for law, _ in LAWS.values()]


@pytest.fixture
def data():
    X = torch.linspace(-2, 2, 10)[:, None]
    return Data(X, torch.sin(2 * X) + 0.1 * torch.randn(10, 1))


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def held(mixing, **options):
    kernel = RBF()
    kernel.lengthscale = 0.7
    return Process(kernel, noise=0.05, steps=0, mixing=mixing, **options)


def system(X):
    kernel = RBF()
    kernel.lengthscale = 0.7
    return kernel(X).to_dense().detach() + 0.05 * torch.eye(len(X))


def log_density_by_sums(oracle, A, y):
    """log E over s of the normal density with the covariance s A."""
    u, step = np.linspace(-60, 60, 40_001, retstep=True)
    n, S = len(y), float(y @ torch.linalg.solve(A, y))
    log_p = np.log(np.maximum(oracle.pdf(np.exp(u)), 1e-300)) + u
    return logsumexp(log_p - n / 2 * u - S / 2 * np.exp(-u)) + math.log(step) - 0.5 * float((2 * math.pi * A).logdet())


@EVERY
def test_the_evidence_is_the_mixture_of_normal_densities(name, data):
    law, oracle = LAWS[name]
    expect = log_density_by_sums(oracle, system(data.X), data.Y[:, 0])
    assert fit(held(law, mean="zero"), data).log_evidence == pytest.approx(expect, abs=1e-10)


def test_the_student_t_process_is_in_closed_form(data):
    fitted = fit(held(STUDENT, mean="zero"), data)
    A, n = system(data.X), 10
    law = stats.multivariate_t(shape=(A * 0.4 / 2.5).numpy(), df=5.0)
    assert fitted.log_evidence == pytest.approx(law.logpdf(data.Y[:, 0].numpy()), rel=1e-12)
    cross = system(torch.cat([data.X, XS]))[:n, n:]
    S = float(data.Y[:, 0] @ torch.linalg.solve(A, data.Y[:, 0]))
    shape = system(XS) - cross.T @ torch.linalg.solve(A, cross)
    predicted = fitted.posterior(XS, noise=True)
    df = 5 + n
    covariance = (0.8 + S) / df * df / (df - 2) * shape
    assert_close(predicted.covariance, covariance, rtol=1e-12, atol=1e-12)
    theirs = stats.multivariate_t(predicted.mean[:, 0].numpy(), ((0.8 + S) / df * shape).numpy(), df=df)
    y = torch.randn(5, 1)
    assert predicted.joint_log_prob(y).item() == pytest.approx(theirs.logpdf(y[:, 0].numpy()), rel=1e-12)


def test_quadrature_of_an_inverse_gamma_is_the_closed_form(data):
    exact, other = (fit(held(law), data) for law in (STUDENT, USER))
    assert other.log_evidence == pytest.approx(exact.log_evidence, abs=1e-10)
    assert other.scale_law.mean == pytest.approx(exact.scale_law.mean, rel=1e-10)
    theirs, ours = exact.posterior(XS), other.posterior(XS)
    assert_close(ours.covariance, theirs.covariance, rtol=1e-10, atol=1e-10)
    assert_close(ours.quantile(0.03), theirs.quantile(0.03), rtol=1e-10, atol=1e-10)
    assert_close(ours.log_prob(XS), theirs.log_prob(XS), rtol=1e-10, atol=1e-10)
    assert_close(ours.cdf(XS), theirs.cdf(XS), rtol=1e-10, atol=1e-10)
    assert ours.joint_log_prob(XS).item() == pytest.approx(theirs.joint_log_prob(XS).item(), abs=1e-10)
    z = torch.randn(100, ours.width)
    assert_close(ours.draw(z), theirs.draw(z), rtol=1e-6, atol=1e-6)


@EVERY
def test_predictions_are_the_conditional_density(name, data):
    law, oracle = LAWS[name]
    X, y = torch.cat([data.X, XS[:2]]), torch.cat([data.Y, torch.tensor([[0.4], [3.0]])])
    joint, marginal = (log_density_by_sums(oracle, system(X[:n]), y[:n, 0]) for n in (12, 10))
    predicted = fit(held(law, mean="zero"), data).posterior(XS[:2], noise=True)
    assert predicted.joint_log_prob(y[10:]).item() == pytest.approx(joint - marginal, abs=1e-9)


@EVERY
def test_samples_have_the_moments_of_the_law(name, data):
    predicted = fit(held(LAWS[name][0]), data).posterior(XS[:2])
    values = predicted.rsample((40_000,), torch.Generator().manual_seed(1))[..., 0]
    assert_close(values.T.cov(), predicted.covariance, rtol=0.06, atol=0.01)
    for i in range(2):
        level = predicted.cdf(values[..., None])[:, i, 0]
        assert stats.kstest(level.numpy(), "uniform").pvalue > 1e-3


def test_five_values_are_jointly_student_t_and_not_five_student_t(data):
    root = torch.tril(torch.randn(5, 5)) + 2 * torch.eye(5)
    law = Elliptical(torch.zeros(5, 1), root @ root.T, InverseGamma.student(4.0))
    generator = torch.Generator().manual_seed(3)
    joint = law.rsample((20_000,), generator)[..., 0]
    alone = law.mixing.scale(torch.randn(20_000, 5, generator=generator)) * torch.randn(20_000, 5, generator=generator)

    def level(values):
        # The Mahalanobis form of a multivariate t, over its dimension, has an F law.
        forms = torch.linalg.solve_triangular(root, values.T, upper=False).square().sum(0) / 5
        return stats.kstest(forms.numpy(), stats.f(5, 4).cdf).pvalue

    assert level(joint) > 1e-3
    assert level(alone @ root.T) < 1e-6


@pytest.mark.parametrize("law", [BurrXII(2.0, 1.5, 0.7), Grid((0.5, 3.0), (2.0, 1.0))], ids=["burr", "grid"])
@pytest.mark.parametrize("mean", ["zero", "linear"])
def test_conditioning_and_leaving_out_are_refitting(law, mean, data):
    Y = torch.cat([data.Y, data.Y.flip(0)], 1)
    whole, part = Data(data.X, Y), Data(data.X[:9], Y[:9])
    fitted, fewer = fit(held(law, mean=mean), whole), fit(held(law, mean=mean), part)
    twice = fewer.condition(Data(data.X[9:], Y[9:]))
    assert twice.log_evidence == pytest.approx(fitted.log_evidence, abs=1e-9)
    assert_close(twice.posterior(XS).covariance, fitted.posterior(XS).covariance, atol=1e-9, rtol=1e-9)
    means, variances = fitted.leave_one_out()
    left = fewer.posterior(data.X[9:], noise=True)
    assert_close(means[9:], left.mean, atol=1e-9, rtol=1e-9)
    assert_close(variances[9:], left.variance, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("learn", [True, False], ids=["noise learned", "noise known"])
@pytest.mark.parametrize("law", LEARNABLE, ids=LAWS.keys())
def test_the_gradient_in_shapes_is_the_slope(law, learn, data):
    whole = Data(data.X, torch.cat([data.Y, 2 * data.Y.flip(0)], 1))
    gram = covariance(RBF(), data.X)
    target = Objective(gram, whole, Trend.of("constant", data.X), law, 0.3, learn=learn, learn_mixing=True)
    theta, h = target.given() + 0.1, 1e-5
    assert len(theta) == 2 + learn + len(law.shapes) == len(target.bounds())
    differences = [(target(theta + s)[0] - target(theta - s)[0]) / (2 * h) for s in h * np.eye(len(theta))]
    np.testing.assert_allclose(target(theta)[1], differences, atol=2e-9, rtol=1e-6)


@pytest.mark.parametrize("law", [InverseGamma.student(5.0), BurrXII(2.0, 2.0)], ids=["student", "burr"])
def test_shapes_are_learned_and_the_unit_is_held(law, data):
    still = fit(Process(RBF(), mixing=law, restarts=1), data)
    fitted = fit(Process(RBF(), mixing=law, restarts=1, learn_mixing=True), data)
    assert fitted.log_evidence > still.log_evidence
    assert type(fitted.mixing) is type(law) and fitted.mixing != law
    assert still.mixing == law
    shapes = {name: value for name, value in fitted.hyperparameters().items() if name.startswith("mixing.")}
    assert shapes == {f"mixing.{name}": value for name, value in fitted.mixing.shapes.items()}
    if isinstance(law, InverseGamma):
        assert fitted.mixing.spread == pytest.approx(1.0)
    assert fitted.log_evidence == pytest.approx(-fitted.searches[0].last * 10, abs=1e-6)


@pytest.mark.parametrize(
    "law", [BurrXII(2.0, 1.5), Grid((0.5, 3.0)), HalfCauchy()], ids=["burr", "grid", "half-cauchy"]
)
def test_a_fitted_law_is_kept_in_a_file(law, data, tmp_path):
    estimator = FieldRegressor(Process("rbf", mixing=law, steps=3)).fit(data.X.numpy(), data.Y[:, 0].numpy())
    save(estimator, tmp_path / "model")
    again, X = load(tmp_path / "model"), XS.numpy()
    assert again.model.mixing == law
    for one, other in zip(*(e.predict(X, return_std=True, quantiles=[0.1]) for e in (estimator, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_infinite_variance_is_called_infinite():
    one = Data(torch.zeros(1, 1), torch.ones(1, 1))
    predicted = fit(held(InverseGamma(0.4, 1.0), mean="zero"), one).posterior(XS)
    assert (predicted.variance == math.inf).all()
    assert predicted.quantile(0.9).isfinite().all()
    with pytest.raises(ValueError, match="infinite, so that there is no covariance; use scale, quantiles"):
        _ = predicted.covariance
    known = Elliptical(torch.zeros(1, 1), torch.zeros(1, 1), HalfCauchy())
    assert known.variance.item() == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Process(mixing="student"), "mixing must be a law such as .*, got 'student'"),
        (Process(learn_mixing=True), r"Unit\(\) has no shape to learn, .*; leave learn_mixing out"),
        (Process(mixing=HalfCauchy(), learn_mixing=True), "has no shape to learn"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, words, data):
    with pytest.raises(ValueError, match=words):
        fit(model, data)


def test_targets_without_residuals_are_refused_where_the_law_needs_some(data):
    flat = Data(data.X, torch.zeros(10, 1))
    with pytest.raises(ValueError, match="10 observations with the quadratic form 0 have no density under BurrXII"):
        fit(held(BurrXII(2.0, 1.0)), flat)
    assert fit(held(STUDENT), flat).posterior(XS).variance.isfinite().all()
    assert fit(held(Unit()), flat).posterior(XS).variance.isfinite().all()
