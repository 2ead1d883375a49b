"""Exact processes against scikit-learn, SciPy, dense algebra, refits and brute force."""

import math
import subprocess
import sys

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import PeriodicKernel, RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior, UniformPrior
from scipy import stats
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF as SklearnRBF
from sklearn.gaussian_process.kernels import WhiteKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.process import Process

PRIOR = GammaPrior(1.0, 15.0)

STUDENT = InverseGamma(2.0, 3.0)
XS = torch.linspace(-3, 3, 7)[:, None]


@pytest.fixture
def data():
    X = torch.linspace(-2, 2, 12)[:, None]
    return Data(X, torch.sin(2 * X) + 0.1 * torch.randn(12, 1))


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def rbf():
    kernel = RBF()
    kernel.lengthscale = 0.7
    return kernel


def held(**kwargs):
    return Process(rbf(), noise=0.05, steps=0, **kwargs)


def oracle(data):
    regressor = GaussianProcessRegressor(SklearnRBF(0.7), alpha=0.05, optimizer=None)
    return regressor.fit(data.X.numpy(), data.Y.numpy())


def test_posterior_and_evidence_are_those_of_scikit_learn(data):
    mean, cov = oracle(data).predict(XS.numpy(), return_cov=True)
    fitted = fit(held(mean="zero"), data)
    law = fitted.posterior(XS)
    assert_close(law.mean[:, 0], torch.as_tensor(mean).flatten())
    assert_close(law.covariance, torch.as_tensor(cov), atol=1e-10, rtol=1e-7)
    assert_close(law.variance.flatten(), law.covariance.diagonal(), atol=1e-12, rtol=1e-9)
    assert_close(fit_noise(fitted), law.covariance + 0.05 * torch.eye(7), atol=1e-12, rtol=0)
    assert fitted.log_evidence == pytest.approx(oracle(data).log_marginal_likelihood_value_, rel=1e-10)


def fit_noise(fitted):
    return fitted.posterior(XS, noise=True).covariance


def test_the_student_t_evidence_is_that_of_scipy(data):
    fitted = fit(held(mean="zero", mixing=STUDENT), data)
    A = (rbf()(data.X).to_dense() + 0.05 * torch.eye(12)).detach().numpy()
    law = stats.multivariate_t(shape=A * STUDENT.beta / STUDENT.alpha, df=2 * STUDENT.alpha)
    assert fitted.log_evidence == pytest.approx(law.logpdf(data.Y[:, 0].numpy()), rel=1e-10)


def test_student_t_predictions_are_the_conditional_density(data):
    # p(y* | y) = p(y*, y) / p(y), both by SciPy.
    fitted, x, y = fit(held(mean="zero", mixing=STUDENT), data), XS[:1], torch.tensor([[0.4]])
    X = torch.cat([data.X, x])
    A = (rbf()(X).to_dense() + 0.05 * torch.eye(13)).detach().numpy() * STUDENT.beta / STUDENT.alpha
    values = torch.cat([data.Y, y])[:, 0].numpy()
    joint, marginal = (stats.multivariate_t(shape=A[:n, :n], df=4.0).logpdf(values[:n]) for n in (13, 12))
    assert fitted.posterior(x, noise=True).log_prob(y).item() == pytest.approx(joint - marginal, rel=1e-9)


def test_student_t_widens_when_the_data_surprise_the_prior(data):
    loud = Data(data.X, 10 * data.Y)
    calm, surprised = (fit(held(mixing=STUDENT), d).posterior(XS) for d in (data, loud))
    assert (surprised.variance > 10 * calm.variance).all()


@pytest.mark.parametrize("mean", ["constant", "linear"])
def test_a_mean_with_a_flat_prior_is_the_limit_of_a_vague_one(data, mean):
    vague = 1e7
    H = torch.ones(12, 1) if mean == "constant" else torch.cat([torch.ones(12, 1), data.X], 1)
    Hs = torch.ones(7, 1) if mean == "constant" else torch.cat([torch.ones(7, 1), XS], 1)
    with torch.no_grad():
        A = rbf()(data.X).to_dense() + 0.05 * torch.eye(12) + vague * H @ H.T
        cross = rbf()(data.X, XS).to_dense() + vague * H @ Hs.T
        prior = rbf()(XS).to_dense() + vague * Hs @ Hs.T
    Y = data.Y + 3.0 + 2.0 * data.X
    law = fit(held(mean=mean), Data(data.X, Y)).posterior(XS)
    # The oracle cancels seven digits.
    assert_close(law.mean, cross.T @ torch.linalg.solve(A, Y), atol=1e-4, rtol=1e-4)
    assert_close(law.covariance, prior - cross.T @ torch.linalg.solve(A, cross), atol=1e-5, rtol=1e-4)


def test_the_evidence_is_that_at_the_best_constant(data):
    A = (rbf()(data.X).to_dense() + 0.05 * torch.eye(12)).detach().numpy()
    law = stats.multivariate_normal(cov=A)
    best = max(law.logpdf(data.Y[:, 0].numpy() - c) for c in np.linspace(-1, 1, 4001))
    assert fit(held(), data).log_evidence == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("mixing", [Unit(), STUDENT], ids=["gaussian", "student-t"])
@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
@pytest.mark.parametrize("weighted", [False, True])
def test_conditioning_is_refitting_with_the_hyperparameters_held(data, mean, mixing, weighted):
    weight = 0.5 + torch.rand(12) if weighted else None
    Y = torch.cat([data.Y, data.Y.flip(0)], 1)
    whole = Data(data.X, Y, weight)
    parts = [Data(data.X[r], Y[r], weight[r] if weighted else None) for r in (slice(7), slice(7, 12))]
    twice = fit(held(mean=mean, mixing=mixing), parts[0]).condition(parts[1])
    once = fit(held(mean=mean, mixing=mixing), whole)
    for noise in (False, True):
        first, second = (f.posterior(XS, noise=noise) for f in (twice, once))
        assert_close(first.mean, second.mean, atol=1e-9, rtol=1e-9)
        assert_close(first.covariance, second.covariance, atol=1e-9, rtol=1e-9)
    assert twice.log_evidence == pytest.approx(once.log_evidence, abs=1e-9)


@pytest.mark.parametrize("mixing", [Unit(), STUDENT], ids=["gaussian", "student-t"])
@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
def test_leaving_one_out_is_fitting_without_it(data, mean, mixing):
    Y = torch.cat([data.Y, data.Y.flip(0)], 1)
    means, variances = fit(held(mean=mean, mixing=mixing), Data(data.X, Y)).leave_one_out()
    for i in range(12):
        rest = torch.arange(12) != i
        law = fit(held(mean=mean, mixing=mixing), Data(data.X[rest], Y[rest])).posterior(data.X[i : i + 1], noise=True)
        assert_close(means[i], law.mean[0], atol=1e-9, rtol=1e-9)
        assert_close(variances[i], law.variance[0], atol=1e-9, rtol=1e-8)


def test_leaving_one_out_allows_for_weights(data):
    weight = 0.5 + torch.rand(12)
    means, variances = fit(held(), Data(data.X, data.Y, weight)).leave_one_out()
    law = fit(held(), Data(data.X[1:], data.Y[1:], weight[1:])).posterior(data.X[:1])
    assert_close(means[0], law.mean[0], atol=1e-9, rtol=1e-9)
    assert_close(variances[0], law.variance[0] + 0.05 / weight[0], atol=1e-9, rtol=1e-8)


def test_a_row_of_weight_three_is_three_equal_rows(data):
    weight = torch.ones(12)
    weight[4] = 3.0
    rows = torch.tensor([*range(12), 4, 4])
    one, three = fit(held(), Data(data.X, data.Y, weight)), fit(held(), Data(data.X[rows], data.Y[rows]))
    assert_close(one.posterior(XS).mean, three.posterior(XS).mean, atol=1e-8, rtol=1e-8)
    assert_close(one.posterior(XS).covariance, three.posterior(XS).covariance, atol=1e-8, rtol=1e-8)


def test_a_batch_of_points_has_the_posterior_of_each(data):
    fitted, X = fit(held(), data), torch.randn(2, 3, 4, 1)
    law = fitted.posterior(X)
    for i in range(2):
        for j in range(3):
            alone = fitted.posterior(X[i, j])
            assert_close(law.mean[i, j], alone.mean)
            assert_close(law.covariance[i, j], alone.covariance, atol=1e-10, rtol=1e-9)


def test_outputs_are_independent_and_share_the_kernel(data):
    Y = torch.cat([data.Y, data.Y**2], 1)
    law = fit(held(), Data(data.X, Y)).posterior(XS)
    alone = [fit(held(), Data(data.X, Y[:, [i]])).posterior(XS) for i in range(2)]
    assert_close(law.mean, torch.cat([a.mean for a in alone], 1))
    joint = law.covariance.reshape(7, 2, 7, 2)
    assert_close(joint[:, 0, :, 0], alone[0].covariance)
    assert_close(joint[:, 0, :, 1], torch.zeros(7, 7))


def test_variances_stay_positive_where_data_determine_the_function():
    X = torch.linspace(0, 1, 60)[:, None]
    fitted = fit(Process(RBF(), noise=1e-10, steps=0), Data(X, torch.sin(X)))
    assert (fitted.posterior(X).variance >= 0).all()
    fitted.posterior(X).rsample((2,))


def test_predictions_have_gradients_in_the_inputs(data):
    fitted = fit(held(), data)

    def moments(X):
        law = fitted.posterior(X)
        return law.mean, law.variance

    assert torch.autograd.gradcheck(moments, XS[:3].clone().requires_grad_())


def test_fitting_improves_the_evidence_and_leaves_the_model_alone(data):
    model = Process(rbf(), noise=1.0)
    before = fit(clone(model).set_params(steps=0), data).log_evidence
    fitted = fit(model, data)
    assert fitted.log_evidence > before + 1.0
    assert model.kernel.lengthscale.item() == pytest.approx(0.7)
    assert len(fitted.searches) == 4
    assert all(search.converged and search.slope < 1e-3 for search in fitted.searches)


def test_the_optimum_is_that_of_scikit_learn(data):
    kernel = SklearnRBF(1.0) * 1.0
    theirs = GaussianProcessRegressor(kernel + WhiteKernel(0.1), alpha=0.0, n_restarts_optimizer=4, random_state=0)
    theirs.fit(data.X.numpy(), data.Y[:, 0].numpy())
    ours = fit(Process(RBF(), mean="zero"), data)
    assert ours.log_evidence == pytest.approx(theirs.log_marginal_likelihood_value_, abs=1e-4)


def test_held_parameters_stay_where_they_were_put(data):
    kernel = rbf()
    kernel.raw_lengthscale.requires_grad_(False)
    fitted = fit(Process(kernel, noise=0.02, learn_noise=False), data)
    assert fitted.kernel.lengthscale.item() == pytest.approx(0.7)
    assert fitted.noise == pytest.approx(0.02)
    assert fitted.kernel.outputscale.item() != pytest.approx(1.0)


@pytest.mark.parametrize("kernel", [rbf, lambda: ScaleKernel(RBFKernel())], ids=["ours", "gpytorch"])
def test_a_model_with_everything_held_needs_no_search(kernel, data):
    kernel = kernel().requires_grad_(False)
    fitted = fit(Process(kernel, noise=0.05, learn_noise=False), data)
    assert fitted.searches == ()
    assert fitted.log_evidence == fit(Process(kernel, noise=0.05, steps=0), data).log_evidence


GENERAL = {
    "scale": lambda: ScaleKernel(RBFKernel(ard_num_dims=2)),
    "sum": lambda: Matern(active_dims=(0,)) + ScaleKernel(PeriodicKernel(active_dims=(1,))),
    "product": lambda: RBF() * gpytorch.kernels.LinearKernel(),
    "batchless": lambda: gpytorch.kernels.MaternKernel(1.5),
}


@pytest.mark.parametrize("name", GENERAL)
def test_any_gpytorch_kernel_can_be_fitted(name):
    X = torch.rand(40, 2)
    data = Data(X, torch.sin(5 * X[:, :1]) + X[:, 1:])
    fitted = fit(Process(GENERAL[name](), restarts=2), data)
    assert fitted.log_evidence > fit(Process(GENERAL[name](), steps=0), data).log_evidence
    assert (fitted.posterior(X).mean - data.Y).square().mean() < 0.05


def test_a_kernel_of_ours_and_the_same_of_gpytorch_s_end_at_the_same_evidence(data):
    ours, theirs = (fit(Process(k), data) for k in (RBF(), ScaleKernel(RBFKernel())))
    assert ours.log_evidence == pytest.approx(theirs.log_evidence, abs=1e-4)


def test_units_of_the_inputs_make_no_difference():
    X = torch.rand(30, 3)
    Y = torch.sin(4 * X[:, :1]) + X[:, 1:2]
    units = torch.tensor([1e5, 1.0, 1e-4])
    ones, others = fit(Process(), Data(X, Y)), fit(Process(), Data(X * units, Y))
    # The prior on lengthscales is a density in them, so that units shift it by a constant.
    assert_close(ones.posterior(X).mean, others.posterior(X * units).mean, atol=1e-3, rtol=0)


def test_fifty_inputs_of_which_two_matter_are_learned_from_eighty_rows():
    X = torch.rand(120, 50)
    Y = torch.sin(4 * X[:, :1]) + X[:, 1:2]
    fitted = fit(Process(), Data(X[:80], Y[:80]))
    error = (fitted.posterior(X[80:]).mean - Y[80:]).square().mean()
    assert error < 0.1 * Y.var()


def test_many_rows_race_on_few_and_end_at_the_optimum_of_all():
    X = torch.rand(800, 1)
    data = Data(X, torch.sin(8 * X) + 0.2 * torch.randn(800, 1))
    fitted = fit(Process(RBF(), restarts=2), data)
    assert len(fitted.searches) == 3
    direct = fit(Process(fitted.kernel.requires_grad_(True), noise=fitted.noise, restarts=1), data)
    assert fitted.log_evidence == pytest.approx(direct.log_evidence, abs=1e-3 * 800)


def test_the_same_seed_gives_the_same_numbers(data):
    first, second = (fit(Process(), data) for _ in range(2))
    assert first.log_evidence == second.log_evidence
    assert_close(first.posterior(XS).mean, second.posterior(XS).mean, atol=0, rtol=0)


def test_equal_targets_and_repeated_or_constant_inputs_can_be_fitted():
    X = torch.cat([torch.rand(10, 1), torch.ones(10, 1)], 1).repeat(2, 1)
    for Y in (torch.full((20, 1), 7.0), torch.rand(20, 1)):
        for mean in ("constant", "linear"):
            law = fit(Process(mean=mean, restarts=2), Data(X, Y)).posterior(X)
            assert law.mean.isfinite().all()
            assert (law.variance >= 0).all()


def test_hyperparameters_are_named_and_positive(data):
    values = fit(Process(restarts=1), data).hyperparameters()
    assert set(values) == {"lengthscale", "outputscale", "noise"}
    assert all(v > 0 for v in values.values())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Process(noise=0.0), "noise must be a positive variance, got 0; give"),
        (Process(noise=-0.1), "got -0.1"),
        (Process(noise=math.nan), "got nan"),
        (Process(learn_noise=False, noise_prior=PRIOR), "holds the noise at 0.1, .* leave one of them"),
        (Process(noise_prior=0.01), "noise_prior must be a GPyTorch prior of all .*, got 0.01"),
        (Process(noise_prior=UniformPrior(0.2, 0.5)), "with soft bounds, SmoothedBoxPrior.*, got Uniform"),
        (
            Process(noise="student_t", noise_prior=PRIOR),
            "no variance for a prior, got noise_prior=Gamma",
        ),
        (Process(mean="quadratic"), "mean must be .*, got 'quadratic'"),
        (Process("cubic"), "kernel must be a GPyTorch kernel or one of .*, got 'cubic'"),
        (Process(restarts=0), "restarts must be at least 1, got 0"),
        (Process(steps=-1), "steps must be at least 0, got -1"),
        (Process(RBF(ard_num_dims=3)), "RBF has 3 lengthscales and the data 1 inputs; make it with ard_num_dims=1"),
        (Process(ScaleKernel(RBFKernel(ard_num_dims=2))), "RBFKernel has 2 lengthscales"),
        (Process(RBF(active_dims=(4,))), "active_dims of RBF names input 4, and the data have 1 inputs"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, words, data):
    with pytest.raises(ValueError, match=words):
        fit(model, data)


def test_a_fit_too_large_for_memory_is_refused_before_it_allocates(data, monkeypatch):
    monkeypatch.setattr("kernelfield.core.numerics.free_memory", lambda device: 5_000)
    with pytest.raises(
        MemoryError, match=r"exact fit of 12 rows needs about .* GiB .*random sample of at most \d+ rows"
    ):
        fit(Process(solver="cholesky"), data)


def test_a_sum_with_a_kernel_of_low_rank_is_factored_by_us_alone(data):
    kernel = ScaleKernel(RBFKernel()) + ScaleKernel(gpytorch.kernels.LinearKernel())
    fitted = fit(Process(kernel, steps=0), data)
    with torch.no_grad():
        base, line = kernel.kernels
        expect = base.outputscale * torch.exp(-((XS - XS.mT) ** 2) / (2 * base.base_kernel.lengthscale**2))
        expect = expect + line.outputscale * line.base_kernel.variance.squeeze() * XS @ XS.mT
    assert_close(fitted.posterior(XS).scale.prior.to_dense().detach(), expect)
    assert_close(fitted.posterior(XS).scale.prior.diagonal().detach(), expect.diagonal())


def test_memory_for_the_distances_is_reckoned_where_one_input_is_all():
    one, two = (Process()._bytes_each(Data(torch.rand(5, d), torch.rand(5, 1))) for d in (1, 2))
    assert one == two + torch.get_default_dtype().itemsize


def test_a_first_fit_and_prediction_do_without_sympy():
    """Importing it takes ten times as long as they do, and torch.broadcast_shapes does so at its first call."""
    script = (
        "import sys, torch\n"
        "from kernelfield.core.contracts import Data\n"
        "from kernelfield.models.process import Process\n"
        "X = torch.rand(9, 2)\n"
        "fitted = Process(restarts=1).fit(Data(X, X[:, :1]), generator=torch.Generator())\n"
        "fitted.posterior(X).variance\n"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
