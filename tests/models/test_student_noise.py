"""Student-t noise against quadrature, dense algebra, the Gaussian limit and data with known outliers."""

import math
import pickle

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from scipy import integrate, stats
from scipy.special import digamma, gammaln
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.posterior import Elliptical
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.process import Process
from kernelfield.models.student_noise import Bound, RobustProcess, robust_size
from kernelfield.models.warped import Warped
from kernelfield.uq.scores import evaluate

XS = torch.linspace(-2.5, 2.5, 7)[:, None]


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def rbf():
    kernel = RBF()
    kernel.lengthscale = 0.7
    return kernel


def held(nu=4.0, **options):
    return RobustProcess(rbf(), noise=0.05, nu=nu, steps=0, **options)


def sample(n=25, outputs=1, weight=None):
    X = torch.linspace(-2, 2, n)[:, None]
    Y = torch.sin(2 * X + torch.arange(outputs)) + 0.1 * torch.randn(n, outputs)
    Y[n // 3] += 4.0
    return Data(X, Y, weight)


def with_outliers(share, n=120, size=10.0):
    X = 4 * torch.rand(n, 1) - 2
    clean = torch.sin(3 * X) + 0.1 * torch.randn(n, 1)
    wild = torch.arange(n) < share * n
    return Data(X, torch.where(wild[:, None], clean + size * torch.randn(n, 1), clean)), Data(X, clean), wild


class TestBound:
    """What is maximised, and where."""

    @pytest.mark.parametrize("nu", [1.0, 4.0, 30.0])
    @pytest.mark.parametrize("gap", [0.0, 0.5, 6.0])
    def test_it_is_below_the_evidence_of_one_and_of_two_rows(self, nu, gap):
        law, k = stats.t(nu, scale=math.sqrt(0.05)), 1.0

        def one(f):
            return law.pdf(gap - f) * stats.norm.pdf(f, scale=math.sqrt(k))

        exact = math.log(integrate.quad(one, -8, 8, points=[0.0, gap], limit=400)[0])
        found = fit(held(nu, mean="zero"), Data(torch.zeros(1, 1), torch.tensor([[gap]])))
        assert exact - 1.0 < found.log_evidence < exact
        X, y = torch.tensor([[0.0], [0.6]]), np.array([gap, -0.3])
        prior = stats.multivariate_normal(cov=rbf()(X).to_dense().detach().numpy())
        grid = np.linspace(-8, 10, 601)
        f, g = np.meshgrid(grid, grid, indexing="ij")
        density = law.pdf(y[0] - f) * law.pdf(y[1] - g) * prior.pdf(np.stack([f, g], -1))
        exact = math.log(density.sum() * (grid[1] - grid[0]) ** 2)
        found = fit(held(nu, mean="zero"), Data(X, torch.as_tensor(y)[:, None]))
        assert exact - 2.0 < found.log_evidence < exact

    @pytest.mark.parametrize("m", [1, 3])
    def test_it_is_the_sum_of_expectations_that_it_is_made_of(self, m):
        """E log p(Y | f, w) - KL(f) - KL(w), each term by its textbook form, with dense matrices."""
        weight, nu, noise = 0.5 + torch.rand(9), 3.0, 0.05
        data = sample(9, m, weight)
        found = fit(held(nu, mean="zero"), data)
        K = rbf()(data.X).to_dense().detach().numpy()
        r, c, a = found.row_weights.numpy(), weight.numpy(), (nu + m) / 2
        b = a / r
        d = noise / (c * r)
        C = K - K @ np.linalg.solve(K + np.diag(d), K)
        mean = K @ np.linalg.solve(K + np.diag(d), data.Y.numpy())
        square = ((data.Y.numpy() - mean) ** 2).sum(1) + m * np.diag(C)
        log_w = digamma(a) - np.log(b)
        fit_term = (m / 2 * (log_w + np.log(c) - math.log(2 * math.pi * noise)) - c * r * square / (2 * noise)).sum()
        quadratic = (mean * np.linalg.solve(K, mean)).sum()
        determinants = np.linalg.slogdet(K)[1] - np.linalg.slogdet(C)[1]
        of_f = 0.5 * (quadratic + m * (np.trace(np.linalg.solve(K, C)) - 9 + determinants))
        of_w = (a - nu / 2) * digamma(a) - gammaln(a) + gammaln(nu / 2)
        of_w = of_w + nu / 2 * (np.log(b) - math.log(nu / 2)) + a * (nu / 2 - b) / b
        assert found.log_evidence == pytest.approx(fit_term - of_f - of_w.sum(), rel=1e-7)
        # The end is the fixed point of the update of w.
        np.testing.assert_allclose(b, nu / 2 + c * square / (2 * noise), rtol=1e-6)

    @pytest.mark.parametrize("mean", ["zero", "linear"])
    @pytest.mark.parametrize("m", [1, 2])
    @pytest.mark.parametrize("kernel", [rbf, lambda: ScaleKernel(RBFKernel())], ids=["ours", "gpytorch's"])
    @pytest.mark.parametrize("learn", [(True, True), (False, False), (True, False)], ids=str)
    def test_the_gradient_is_the_slope_in_every_variable(self, mean, m, kernel, learn):
        data = sample(8, m, 0.5 + torch.rand(8))
        trend = Trend.of(mean, data.X)
        gaussian = Objective(covariance(kernel().double(), data.X), data, trend, Unit(), 0.3, learn=learn[0])
        target = Bound(gaussian, data, trend, 3.0, learn_nu=learn[1])
        theta = target.given() + 0.1 * np.random.default_rng(0).standard_normal(len(target.given()))
        steps = 1e-5 * np.eye(len(theta))
        differences = [(target(theta + s)[0] - target(theta - s)[0]) / 2e-5 for s in steps]
        np.testing.assert_allclose(target(theta)[1], differences, atol=5e-9, rtol=1e-6)

    def test_a_search_ends_where_nothing_gains(self):
        data, _, _ = with_outliers(0.1)
        found = fit(RobustProcess("rbf", restarts=2), data)
        trend = Trend.of("constant", data.X)
        gram = covariance(found.kernel.requires_grad_(True), data.X)
        gaussian = Objective(gram, data, trend, Unit(), found.noise, learn=True)
        target = Bound(gaussian, data, trend, found.nu, learn_nu=True)
        shared = target.given()[: target.shared]
        theta = np.concatenate([shared, found.row_weights.log().numpy() / target.unit])
        value, slope = target(theta)
        prior, _ = gram.log_prior(gram.start())
        assert -value * len(data.X) == pytest.approx(found.log_evidence + prior, abs=1e-8)
        inside = [low < t < high for t, (low, high) in zip(theta, target.bounds(), strict=True)]
        assert np.abs(slope[inside]).max() < 2e-4
        assert np.abs(slope[target.shared :]).max() * target.n / target.unit < 1e-6  # rows are at their fixed point
        assert max(search.evaluations for search in found.searches) < 150


class TestGaussianLimit:
    @pytest.mark.parametrize("m", [1, 2])
    def test_many_degrees_of_freedom_are_the_gaussian_process(self, m):
        data = sample(12, m, 0.5 + torch.rand(12))
        found = fit(held(1e10), data)
        plain = fit(Process(rbf(), noise=0.05, steps=0), data)
        assert found.log_evidence == pytest.approx(plain.log_evidence, rel=1e-6)
        for noise in (False, True):
            one, other = (f.posterior(XS, noise=noise) for f in (found, plain))
            assert_close(one.mean, other.mean, rtol=1e-6, atol=1e-7)
            assert_close(one.covariance, other.covariance, rtol=1e-6, atol=1e-7)
        for one, other in zip(found.leave_one_out(), plain.leave_one_out(), strict=True):
            assert_close(one, other, rtol=1e-5, atol=1e-7)

    def test_so_is_the_slope(self):
        data = sample(12)
        trend = Trend.of("constant", data.X)
        gaussian = Objective(covariance(rbf(), data.X), data, trend, Unit(), 0.3, learn=True)
        target = Bound(gaussian, data, trend, 1e12, learn_nu=False)
        theta = np.concatenate([gaussian.given(), np.zeros(12)])
        value, slope = gaussian(gaussian.given())
        assert target(theta)[0] == pytest.approx(value, rel=1e-10)
        np.testing.assert_allclose(target(theta)[1][: len(slope)], slope, rtol=1e-9)

    def test_a_weight_is_then_a_repeated_row(self):
        """For few degrees of freedom it is not: the copies would have scales of their own."""
        X, Y, weight = sample(8).X, sample(8).Y, torch.tensor([1, 2, 1, 3, 1, 1, 2, 1])
        for nu, same in ((1e9, True), (3.0, False)):
            weighted = fit(held(nu), Data(X, Y, weight.double()))
            repeated = fit(held(nu), Data(X.repeat_interleave(weight, 0), Y.repeat_interleave(weight, 0)))
            gap = (weighted.posterior(XS).mean - repeated.posterior(XS).mean).abs().max()
            assert gap < 1e-6 if same else gap > 1e-3


class TestSurrogate:
    @pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
    def test_f_has_the_law_of_dense_algebra_with_its_row_weights(self, mean):
        data = sample(14, 2, 0.5 + torch.rand(14))
        found = fit(held(mean=mean), data)
        exact = fit(
            Process(rbf(), mean=mean, noise=0.05, steps=0), Data(data.X, data.Y, data.weight * found.row_weights)
        )
        law, expect = found.posterior(XS), exact.posterior(XS)
        assert isinstance(law, Elliptical)
        assert_close(law.mean, expect.mean)
        assert_close(law.covariance, expect.covariance)
        noisy = found.posterior(XS, noise=True)
        assert_close(noisy.variance, expect.variance + 0.05 * 4 / (4 - 2))

    @pytest.mark.parametrize("outputs", [1, 2])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_conditioning_is_refitting_with_the_hyperparameters_held(self, outputs, weighted):
        whole = sample(20, outputs, 0.5 + torch.rand(20) if weighted else None)
        rows = (slice(None, None, 2), slice(1, None, 2))
        parts = [Data(whole.X[r], whole.Y[r], whole.weight[r] if weighted else None) for r in rows]
        twice = fit(held(mean="linear"), parts[0]).condition(parts[1])
        once = fit(held(mean="linear"), parts[0].joined(parts[1]))
        assert twice.log_evidence == pytest.approx(once.log_evidence, abs=1e-7)
        assert_close(twice.row_weights, once.row_weights, rtol=1e-5, atol=1e-8)
        assert_close(twice.posterior(XS).mean, once.posterior(XS).mean, rtol=1e-5, atol=1e-6)

    def test_leaving_one_out_is_dense_algebra_without_the_row(self):
        data = sample(10, 2)
        found = fit(held(), data)
        means, variances = found.leave_one_out()
        for i in range(10):
            rest = torch.arange(10) != i
            others = Data(data.X[rest], data.Y[rest], found.row_weights[rest])
            law = fit(Process(rbf(), noise=0.05, steps=0), others).posterior(data.X[i : i + 1])
            assert_close(means[i], law.mean[0], rtol=1e-7, atol=1e-8)
            assert_close(variances[i], law.variance[0] + 0.1, rtol=1e-7, atol=1e-8)
        assert fit(held(1.5), data).leave_one_out()[1].isinf().all()

    @pytest.mark.parametrize("nu", [1.0, 5.0])
    def test_scores_are_defined_whatever_the_tails(self, nu):
        data = sample(20)
        law = fit(held(nu), data).posterior(data.X, noise=True)
        evaluation = evaluate(law, data.Y)
        for name in ("crps", "nll", "pit", "interval"):
            assert np.isfinite(getattr(evaluation, name)).all(), name


class TestRobustness:
    def test_outliers_hardly_move_the_mean(self):
        noisy, clean, wild = with_outliers(0.1)
        truth = torch.sin(3 * XS * 0.75)

        def error(noise, data):
            return (fit(Process(noise=noise), data).posterior(XS * 0.75).mean - truth).square().mean().sqrt().item()

        robust, plain, ideal = error("student_t", noisy), error(0.1, noisy), error(0.1, clean)
        assert robust < plain / 4
        assert robust < 2 * ideal + 0.01
        weights = fit(Process(noise="student_t"), noisy).row_weights
        # Some of the wild rows fall near the function by chance.
        assert (weights[wild] < 0.2).sum() >= 0.75 * wild.sum()
        assert (weights[~wild] > 0.2).float().mean() > 0.95

    def test_gross_outliers_are_no_reason_to_lose_the_function(self):
        noisy, _, _ = with_outliers(0.15, size=1e4)
        regressor = FieldRegressor(Process(noise="student_t"), random_state=0).fit(noisy.X.numpy(), noisy.Y.numpy())
        gap = torch.as_tensor(regressor.predict((0.75 * XS).numpy())) - torch.sin(2.25 * XS)
        assert gap.abs().max() < 0.15

    def test_gaussian_noise_is_found_to_be_nearly_gaussian(self):
        _, clean, _ = with_outliers(0.0)
        robust, plain = fit(Process(noise="student_t"), clean), fit(Process(), clean)
        assert robust.nu > 8
        assert_close(robust.posterior(XS * 0.75).mean, plain.posterior(XS * 0.75).mean, atol=0.05, rtol=0)

    @pytest.mark.slow
    def test_a_race_on_some_of_many_rows_goes_on_with_all(self):
        noisy, _, _ = with_outliers(0.1, n=900)
        found = fit(RobustProcess("rbf", restarts=2), noisy)
        assert found.row_weights.shape == (900,) and len(found.searches) == 3
        assert (found.posterior(XS * 0.75).mean - torch.sin(2.25 * XS)).abs().max() < 0.1
        assert found.searches[-1].steps < 60

    def test_the_size_of_targets_is_that_of_most_of_them(self):
        y = torch.randn(4001, 1)
        assert robust_size(3 * y) == pytest.approx(9.0, rel=0.15)
        assert robust_size(torch.cat([3 * y, torch.full((400, 1), 1e9)])) == pytest.approx(9.0, rel=0.5)
        assert robust_size(torch.tensor([[0.0], [0.0], [0.0], [2.0]])) == 1.0
        assert robust_size(torch.ones(4, 1)) == 1.0


class TestUse:
    def test_hyperparameters_are_told_in_the_user_s_units(self):
        noisy, _, _ = with_outliers(0.1, n=60)
        regressor = FieldRegressor(Process("rbf", noise="student_t", restarts=1), random_state=0)
        values = regressor.fit(noisy.X.numpy(), 7 * noisy.Y.numpy()).surrogate_.hyperparameters()
        inner = regressor.surrogate_.inner
        assert values["nu"] == inner.nu and 1 <= inner.nu <= 100
        assert values["noise"] == pytest.approx(inner.noise * regressor.surrogate_.to_model_y.scale.item() ** 2)
        assert values["lengthscale"] == pytest.approx(
            inner.kernel.lengthscale.item() * regressor.surrogate_.to_model_X.scale.item()
        )
        assert math.isfinite(regressor.surrogate_.log_evidence)

    def test_copies_and_weights_are_the_same_to_the_regressor(self):
        X, y, weight = np.linspace(0, 3, 12)[:, None], np.sin(np.linspace(0, 6, 12)), np.tile([1, 2, 3], 4)
        model = Process(noise="student_t", restarts=1)
        weighted = FieldRegressor(model, random_state=0).fit(X, y, sample_weight=weight)
        repeated = FieldRegressor(model, random_state=0).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
        np.testing.assert_array_equal(weighted.predict(X), repeated.predict(X))

    @pytest.mark.parametrize("outputs", [1, 2])
    def test_a_fitted_regressor_survives_pickle_and_files(self, outputs, tmp_path):
        data = sample(16, outputs)
        y = data.Y.numpy() if outputs > 1 else data.Y[:, 0].numpy()
        regressor = FieldRegressor(Process(noise="student_t", steps=3), random_state=0).fit(data.X.numpy(), y)
        save(regressor, tmp_path / "model")
        more = Data(data.X[:3] + 0.05, data.Y[:3])
        for again in (pickle.loads(pickle.dumps(regressor)), load(tmp_path / "model")):
            options = {"return_std": True, "quantiles": [0.1, 0.9]}
            for one, other in zip(regressor.predict(XS, **options), again.predict(XS, **options), strict=True):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(regressor.sample_y(XS, 2), again.sample_y(XS, 2))
            laws = [r.surrogate_.condition(more).posterior(XS) for r in (regressor, again)]
            assert torch.equal(laws[0].mean, laws[1].mean)

    def test_what_cannot_be_is_refused(self):
        data = sample(6)
        with pytest.raises(ValueError, match="'student_t', got 'laplace'"):
            fit(Process(noise="laplace"), data)
        with pytest.raises(ValueError, match="Gaussian law of the function.*InverseGamma"):
            fit(Process(noise="student_t", mixing=InverseGamma.student(4.0)), data)
        with pytest.raises(ValueError, match=r"RobustProcess\(noise"):
            fit(Process(noise="student_t", learn_noise=False), data)
        with pytest.raises(ValueError, match="exact process, got noise='student_t'"):
            fit(Warped(Process(noise="student_t")), data)
        with pytest.raises(ValueError, match="degrees of freedom, got 0"):
            fit(RobustProcess(nu=0.0), data)
        with pytest.raises(ValueError, match="positive variance, got -1"):
            fit(RobustProcess(noise=-1.0), data)
        with pytest.raises(ValueError, match="restarts must be at least 1"):
            fit(RobustProcess(restarts=0), data)

    def test_known_hyperparameters_are_held(self):
        kernel = Matern(1.5).double()
        found = fit(RobustProcess(kernel, noise=0.2, nu=7.0, learn_noise=False, learn_nu=False), sample(15))
        assert (found.noise, found.nu) == (0.2, 7.0)
        assert found.kernel.lengthscale.item() != kernel.lengthscale.item()
        still = fit(RobustProcess(kernel.requires_grad_(False), learn_noise=False, learn_nu=False), sample(15))
        assert still.searches == () and still.nu == 4.0


@parametrize_with_checks([FieldRegressor(Process("rbf", noise="student_t", restarts=1, steps=10), random_state=0)])
def test_scikit_learn_s_checks_pass(estimator, check):
    check(estimator)
