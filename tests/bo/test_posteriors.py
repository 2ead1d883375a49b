import math

import pytest
import torch
from botorch.sampling.get_sampler import get_sampler
from botorch.sampling.normal import IIDNormalSampler, SobolQMCNormalSampler
from gpytorch.distributions import MultivariateNormal
from torch.testing import assert_close

from kernelfield.bo.posteriors import GaussianPosterior, LawPosterior
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Binned, Draws, Elliptical
from tests.laws import obeys_posterior_laws


def gaussian(*batch: int, outputs: int = 1, independent: bool = True) -> Elliptical:
    n = 3
    roots = torch.randn(*batch, outputs, n, n)
    blocks = roots @ roots.mT
    if independent:
        dense = torch.diag_embed(blocks.movedim(-3, -1)).transpose(-3, -2).flatten(-2).flatten(-3, -2)
    else:
        root = torch.randn(*batch, n * outputs, n * outputs)
        dense = root @ root.mT
    return Elliptical(torch.randn(*batch, n, outputs), dense)


@pytest.mark.parametrize("independent", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_a_gaussian_law_is_that_of_gpytorch(batch: tuple[int, ...], outputs: int, independent: bool) -> None:
    law = gaussian(*batch, outputs=outputs, independent=independent)
    posterior = GaussianPosterior(law, independent=independent)
    distribution = posterior.distribution
    assert_close(posterior.mean, law.mean)
    assert_close(distribution.variance.reshape(law.mean.shape), law.variance)
    value = torch.randn(*batch, 3, outputs)
    # GPyTorch's own log_prob of a matrix misplaces its entries where outputs are blocks, as of 1.15.
    flat = value.mT.flatten(-2) if independent else value.flatten(-2)
    log_prob = MultivariateNormal.log_prob(distribution, flat)
    assert_close(log_prob, law.joint_log_prob(value))
    assert posterior._extended_shape(torch.Size([5])) == (5, *batch, 3, outputs)


@pytest.mark.parametrize("outputs", [1, 2])
def test_gaussian_draws_are_gpytorchs_for_the_same_noise(outputs: int) -> None:
    posterior = GaussianPosterior(gaussian(2, outputs=outputs), independent=True)
    z = torch.randn(7, *posterior.base_sample_shape)
    ours = posterior.rsample_from_base_samples(torch.Size([7]), z)
    assert_close(ours, super(GaussianPosterior, posterior).rsample_from_base_samples(torch.Size([7]), z))
    with pytest.raises(ValueError, match=r"do not start with \(3,\)"):
        posterior.rsample_from_base_samples(torch.Size([3]), z)


def test_a_singular_law_is_drawn_from_without_a_warning() -> None:
    twins = GaussianPosterior(Elliptical(torch.zeros(2, 1), torch.ones(2, 2)), independent=True)
    values = twins.rsample(torch.Size([50]))
    assert_close(values[:, 0], values[:, 1], atol=1e-3, rtol=0)
    assert twins.rsample().shape == (1, 2, 1)


LAWS = {
    "student": lambda: Elliptical(torch.randn(4, 3, 2), torch.eye(6).expand(4, 6, 6), InverseGamma.student(9.0)),
    "functions": lambda: Draws(torch.randn(4, 5, 3, 2), torch.full((5,), 0.2), torch.zeros(())),
    "histogram": lambda: Binned(torch.randn(4, 3, 2, 6), torch.arange(7.0).expand(2, 7), tails=True),
}


@pytest.mark.parametrize("name", LAWS)
def test_any_law_has_draws_that_a_sampler_repeats(name: str) -> None:
    torch.manual_seed(1)
    law = LAWS[name]()
    obeys_posterior_laws(law, samples=20_000)
    posterior = LawPosterior(law)
    sampler = get_sampler(posterior, torch.Size([4096]), seed=0)
    values = sampler(posterior)
    assert isinstance(sampler, SobolQMCNormalSampler)
    assert values.shape == posterior._extended_shape(torch.Size([4096])) == (4096, 4, 3, 2)
    assert torch.equal(values, sampler(posterior))
    assert torch.equal(values[0, 0], law.draw(sampler.base_samples.expand(4096, 4, -1))[0, 0])
    assert ((values.mean(0) - law.mean).abs() <= 6 * (law.variance / 4096).sqrt()).all()
    assert_close(posterior.variance, law.variance)
    assert posterior.rsample().shape == (1, 4, 3, 2)
    assert_close(posterior.quantile(torch.tensor([0.2, 0.7]))[1], law.quantile(0.7))
    assert_close(posterior.distribution.mean, law.mean)


def test_tails_of_a_student_t_are_in_the_draws() -> None:
    law = Elliptical(torch.zeros(1, 1), torch.eye(1), InverseGamma.student(4.0))
    values = LawPosterior(law).rsample(torch.Size([40_000])).flatten()
    expected = 2 * (1 - law.cdf(torch.full((1, 1), 5.0))).item()  # 0.0075, and 6e-7 for a normal law
    assert abs((values.abs() > 5).double().mean().item() - expected) < 6 * math.sqrt(expected / 40_000)


def test_an_infinite_variance_is_refused_by_analytic_acquisitions_only() -> None:
    posterior = LawPosterior(Elliptical(torch.zeros(1, 1), torch.eye(1), InverseGamma.student(2.0)))
    with pytest.raises(ValueError, match="the variance of this law is infinite"):
        _ = posterior.variance
    assert posterior.rsample(torch.Size([3])).isfinite().all()


def test_a_law_too_wide_for_sobol_numbers_gets_independent_ones() -> None:
    law = Draws(torch.zeros(1, 25_000, 1), torch.ones(1), torch.zeros(()))
    assert isinstance(get_sampler(LawPosterior(law), torch.Size([2])), IIDNormalSampler)


def test_the_density_is_that_of_the_law() -> None:
    law = LAWS["student"]()
    assert_close(LawPosterior(law).density(torch.zeros(())), law.log_prob(torch.zeros(())).exp())
