import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Elliptical
from kernelfield.models.likelihoods import Bernoulli, Gaussian, Likelihood, Poisson
from kernelfield.models.observed import Observed
from tests.laws import obeys_posterior_laws

LATENT = Elliptical(torch.tensor([[0.3], [1.2]]), torch.tensor([[0.5, 0.2], [0.2, 0.3]]))


@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli()], ids=["poisson", "bernoulli"])
def test_laws_hold(likelihood):
    obeys_posterior_laws(Observed(LATENT, likelihood), samples=20_000)


def fine():
    """The law of exp(f) at the first point, by a sum over a line."""
    t = torch.linspace(-10, 10, 20_001)
    return (LATENT.mean[0, 0] + LATENT.variance[0, 0].sqrt() * t).exp().numpy(), (-0.5 * t.square()).softmax(0).numpy()


def test_probabilities_of_counts_are_averages_over_rates():
    law, (rate, weight) = Observed(LATENT, Poisson()), fine()
    for y in (0.0, 1.0, 4.0, 11.0):
        at = torch.full((2, 1), y)
        assert law.log_prob(at)[0].exp().item() == pytest.approx(stats.poisson.pmf(y, rate) @ weight, rel=1e-8)
        assert law.cdf(at)[0].item() == pytest.approx(stats.poisson.cdf(y, rate) @ weight, rel=1e-8)
    assert law.log_prob(torch.full((2, 1), 0.5)).isneginf().all()


def test_moments_of_counts_are_those_of_a_lognormal_rate():
    law = Observed(LATENT, Poisson())
    m, v = LATENT.mean, LATENT.variance
    mean = (m + v / 2).exp()
    assert_close(law.mean, mean, rtol=1e-10, atol=0)
    assert_close(law.variance, mean + mean.square() * torch.expm1(v), rtol=1e-8, atol=0)


def test_quantiles_are_whole_numbers_and_scale_with_the_counts():
    law = Observed(LATENT, Poisson())
    for p in (0.05, 0.5, 0.95):
        count = law.quantile(p)
        assert torch.equal(count, count.round())
        assert (law.cdf(count) >= p).all() and (law.cdf(count - 1) < p).all()
        assert_close(law.affine(torch.tensor([0.1]), torch.tensor([3.0])).quantile(p), 3 + 0.1 * count)


def test_neighbours_share_their_rate():
    draws = Observed(LATENT, Poisson()).rsample((40_000,), torch.Generator().manual_seed(0))[..., 0]
    mean = Observed(LATENT, Poisson()).mean[:, 0]
    expect = mean.prod() * torch.expm1(torch.tensor(0.2))  # Cov(exp f, exp g) = E exp f E exp g (exp(c) - 1)
    assert torch.cov(draws.T)[0, 1].item() == pytest.approx(expect.item(), rel=0.15)


def test_a_density_keeps_its_units():
    own = Observed(LATENT, Gaussian(0.2)).affine(torch.tensor([2.0]), torch.tensor([1.0]))
    law = torch.distributions.Normal(1 + 2 * LATENT.mean, 2 * (LATENT.variance + 0.2).sqrt())
    assert_close(own.log_prob(torch.tensor([[1.0], [5.0]])), law.log_prob(torch.tensor([[1.0], [5.0]])))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="the law of f must be Gaussian"):
        Observed(Elliptical(torch.zeros(1, 1), torch.eye(1), InverseGamma(2.0, 2.0)), Poisson())

    class Bare(Likelihood):
        def log_prob(self, y, f):
            return y * f

    with pytest.raises(NotImplementedError, match="Bare has no mean"):
        _ = Observed(LATENT, Bare()).mean
