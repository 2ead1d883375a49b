"""Predictions of other libraries are read as the laws that those libraries mean."""

import gpytorch
import numpy as np
import pytest
import scoringrules
import torch
from botorch.models import SingleTaskGP
from botorch.posteriors import GPyTorchPosterior
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from torch import distributions as td
from torch.testing import assert_close

from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.adapters import law_of
from kernelfield.uq.scores import evaluate

X, Y = torch.rand(12, 2, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 12).square()


def test_a_posterior_is_its_own_law():
    law = Draws(torch.zeros(1, 2, 1), torch.ones(1), torch.tensor(1.0))
    assert law_of(law) is law


def test_scikit_learn_s_mean_and_deviation():
    model = GaussianProcessRegressor(alpha=0.1).fit(X, Y)
    mean, std = model.predict(X, return_std=True)
    law = law_of((mean, std))
    assert_close(law.mean[:, 0], torch.as_tensor(mean))
    assert_close(law.variance[:, 0], torch.as_tensor(std**2))


def test_mapie_s_points_and_intervals():
    points = np.array([0.1, 1.0])
    levels = [0.9, 0.5]
    ends = np.stack([stats.norm.interval(level, [[0.0], [2.0]], [[1.0], [3.0]]) for level in levels], -1)
    intervals = ends[:, :, 0].swapaxes(0, 1)  # (n, 2, k)
    law = law_of((points, intervals), levels=levels)
    assert_close(law.mean[:, 0], torch.as_tensor(points))
    for index, level in enumerate(levels):
        found = [law.quantile((1 - level) / 2), law.quantile((1 + level) / 2)]
        assert_close(torch.cat(found, 1), torch.as_tensor(intervals[:, :, index]))
    assert_close(law.variance[:, 0], torch.tensor([1.0, 9.0]))
    with pytest.raises(ValueError, match=r"got \(2, 2, 2\) and levels=\[\]; give levels="):
        law_of((points, intervals))
    with pytest.raises(ValueError, match=r"levels=\[0.9\]"):
        law_of((points, intervals), levels=0.9)


def covariance_of_draws(normal: gpytorch.distributions.MultivariateNormal) -> torch.Tensor:
    """The covariance of what GPyTorch draws, point-major, by the linear map from noise to draws.

    Its density of several outputs side by side reads values in another order than it draws them.
    """
    size = normal.loc.shape[-1]
    with torch.no_grad():
        root = (normal.rsample(torch.Size([size]), base_samples=basis(normal, size)) - normal.mean).flatten(1)
    return root.mT @ root


def basis(normal: gpytorch.distributions.MultivariateNormal, size: int) -> torch.Tensor:
    return torch.eye(size).reshape(size, *normal.mean.shape)


@pytest.mark.parametrize("outputs", [1, 2])
def test_botorch_s_posteriors_are_joint(outputs):
    model = SingleTaskGP(X, torch.stack([Y, Y.exp()], -1)[:, :outputs])
    posterior = model.posterior(torch.rand(4, 2), observation_noise=True)
    law = law_of(posterior)
    assert_close(law.mean, posterior.mean.detach())
    assert_close(law.variance, posterior.variance.detach())
    assert_close(law.covariance, covariance_of_draws(posterior.distribution))


def test_botorch_s_mixtures_of_posteriors_are_mixtures():
    root = torch.randn(3, 5, 5)
    normals = gpytorch.distributions.MultivariateNormal(torch.randn(3, 5), root @ root.mT + torch.eye(5))
    posterior = GaussianMixturePosterior(normals)
    law = law_of(posterior)
    assert_close(law.mean, posterior.mixture_mean)
    assert_close(law.variance, posterior.mixture_variance)
    assert_close(law_of(GPyTorchPosterior(normals[0])).mean[:, 0], normals.mean[0])


def test_several_outputs_of_gpytorch_are_read_in_its_order():
    blocks = torch.randn(2, 6, 6)
    for interleaved, block in zip((True, False), blocks @ blocks.mT + torch.eye(6), strict=True):
        normal = gpytorch.distributions.MultitaskMultivariateNormal(torch.randn(3, 2), block, interleaved=interleaved)
        assert_close(law_of(normal).covariance, covariance_of_draws(normal))
        assert_close(law_of(normal).variance, normal.variance)


LOC, SCALE = torch.tensor([0.5, -1.0, 3.0]), torch.tensor([1.0, 0.3, 2.0])
DISTRIBUTIONS = {
    "normal": (td.Normal(LOC, SCALE), stats.norm(LOC, SCALE)),
    "independent": (td.Independent(td.Normal(LOC, SCALE), 1), stats.norm(LOC, SCALE)),
    "laplace": (td.Laplace(LOC, SCALE), stats.laplace(LOC, SCALE)),
    "student": (td.StudentT(torch.tensor([3.0, 4.0, 9.0]), LOC, SCALE), stats.t([3, 4, 9], LOC, SCALE)),
    "gamma": (td.Gamma(SCALE, 2.0), stats.gamma(SCALE, scale=0.5)),  # torch has its cdf, and no icdf
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_of_torch_are_those_of_scipy(name):
    law, oracle = law_of(DISTRIBUTIONS[name][0]), DISTRIBUTIONS[name][1]
    y = torch.tensor([[0.4], [0.2], [2.5]])
    other = law_of(oracle)
    for one in (law, other):
        assert_close(one.mean[:, 0], torch.as_tensor(oracle.mean()))
        assert_close(one.variance[:, 0], torch.as_tensor(oracle.var()))
        assert_close(one.cdf(y)[:, 0], torch.as_tensor(oracle.cdf(y[:, 0])))
        assert_close(one.log_prob(y)[:, 0], torch.as_tensor(oracle.logpdf(y[:, 0])))
        assert_close(one.quantile(0.9)[:, 0], torch.as_tensor(oracle.ppf(0.9)))
        assert_close(one.log_prob(y - 20)[:, 0], torch.as_tensor(oracle.logpdf(y[:, 0] - 20)))


def test_a_law_without_a_formula_is_scored_by_its_quantiles():
    y = torch.tensor([[0.4], [0.2], [2.5]])
    oracle = scoringrules.crps_laplace(y[:, 0].numpy(), LOC.numpy(), SCALE.numpy())
    for law in DISTRIBUTIONS["laplace"]:  # to 1e-4, more where the density has a corner
        assert_close(evaluate(law_of(law), y).crps[:, 0], np.asarray(oracle), rtol=1e-3, atol=1e-4)


def test_mixtures_have_no_quantile_function_and_get_one():
    law = td.MixtureSameFamily(
        td.Categorical(torch.tensor([[0.3, 0.7], [0.5, 0.5]])), td.Normal(torch.tensor([-1.0, 2.0]).expand(2, 2), 1.0)
    )
    own = law_of(law)
    assert_close(law.cdf(own.quantile(0.2)[:, 0]), torch.full((2,), 0.2))
    assert_close(own.variance[:, 0], law.variance)


def test_multivariate_normals_are_joint_or_of_rows():
    block = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    one = law_of(td.MultivariateNormal(torch.zeros(2), block))
    assert isinstance(one, Elliptical) and one.mean.shape == (2, 1)
    rows = law_of(td.MultivariateNormal(torch.zeros(3, 2), block))
    assert_close(rows.covariance, torch.block_diag(block, block, block))


def test_random_variables_of_scipy_s_new_kind():
    law, oracle = law_of(stats.Normal(mu=LOC.numpy(), sigma=SCALE.numpy())), stats.norm(LOC, SCALE)
    assert_close(law.quantile(0.9)[:, 0], torch.as_tensor(oracle.ppf(0.9)))
    uniform = law_of(stats.Uniform(a=np.zeros(2), b=np.ones(2)))
    assert_close(uniform.quantile(0.3), torch.full((2, 1), 0.3))
    assert evaluate(uniform, torch.full((2, 1), 0.5)).crps == pytest.approx(np.full((2, 1), 1 / 12), abs=1e-4)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (stats.poisson(3.0), "cannot read a law from rv_discrete_frozen; known are a kernelfield Posterior"),
        ("mean", "cannot read a law from str"),
        (td.VonMises(torch.zeros(2), torch.ones(2)), "VonMises has no distribution function in torch; give its draws"),
        (td.Dirichlet(torch.ones(2, 3)), "Dirichlet has no marginals that are known here; give its draws"),
        (td.Laplace(torch.zeros(2, 2, 2), 1.0), r"shape \(n,\) or \(n, m\), got \(2, 2, 2\)"),
        ((np.zeros(2), np.zeros(2)), "2 of 2 std are not positive, the least is 0"),
    ],
    ids=["discrete", "text", "no cdf", "no marginals", "batches", "no spread"],
)
def test_what_is_not_known_is_refused(thing, message):
    with pytest.raises(ValueError, match=message):
        law_of(thing)
