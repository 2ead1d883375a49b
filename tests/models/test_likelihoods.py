"""Likelihoods against PyTorch's and SciPy's laws, and what learning asks of them against fine sums and differences."""

from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.models.likelihoods import (
    Bernoulli,
    Gaussian,
    Likelihood,
    Poisson,
    StudentT,
    likelihood_of,
    quadrature,
)

F = torch.linspace(-2, 2, 9)
LIKELIHOODS = {
    "gaussian": (Gaussian(0.4), torch.distributions.Normal(F, 0.4**0.5), torch.linspace(-1, 3, 9)),
    "student_t": (StudentT(0.4, 3.0), torch.distributions.StudentT(3.0, F, 0.4**0.5), torch.linspace(-1, 3, 9)),
    "bernoulli": (Bernoulli(), torch.distributions.Bernoulli(logits=F), (torch.arange(9) % 2).double()),
    "poisson": (Poisson(), torch.distributions.Poisson(F.exp()), torch.arange(9.0)),
}
each = pytest.mark.parametrize("name", LIKELIHOODS)


@each
def test_densities_are_pytorch_s(name):
    likelihood, law, y = LIKELIHOODS[name]
    assert_close(likelihood.log_prob(y, F), law.log_prob(y))
    assert likelihood_of(name, 0.4).learned == likelihood.learned


@each
def test_averages_are_those_of_a_fine_sum(name):
    likelihood, _, y = LIKELIHOODS[name]
    variance = torch.linspace(0.01, 1.0, 9)
    t = torch.linspace(-9, 9, 20_001)
    weight = (-0.5 * t.square()).softmax(0)
    fine = likelihood.log_prob(y[:, None], F[:, None] + variance.sqrt()[:, None] * t) @ weight
    error = 2e-3 if name == "student_t" else 1e-9  # its poles are 1.1 from the line, half a width of the widest law
    assert_close(likelihood.expected(y, F, variance), fine, rtol=0, atol=error)


@pytest.mark.parametrize(
    ("likelihood", "y", "variance", "error"),
    [
        (Poisson(), 3.0, 25.0, 1e-12),
        (Bernoulli(), 1.0, 10.0, 1e-5),
        (StudentT(1.0, 4.0), 1.0, 4.0, 1e-5),
        (StudentT(1.0, 4.0), 1.0, 100.0, 2e-2),
    ],
)
def test_quadrature_is_as_good_as_its_comment_says(likelihood, y, variance, error):
    t, place = torch.linspace(-12, 12, 100_001), torch.tensor([0.0, 0.7, 2.0])
    fine = likelihood.log_prob(torch.tensor(y), place[:, None] + variance**0.5 * t) @ (-0.5 * t.square()).softmax(0)
    found = likelihood.expected(torch.full((3,), y), place, torch.full((3,), variance))
    assert ((found - fine).abs() / fine.abs().clamp_min(1)).max() < error


@each
def test_local_slopes_are_differences(name):
    likelihood, _, y = LIKELIHOODS[name]
    Y, mean, variance = y[:, None], F[:, None], torch.linspace(0.01, 1.0, 9)[:, None]
    weight, logs, step = 0.5 + torch.rand(9), likelihood.logs(), 1e-5
    local = likelihood.local(Y, mean, variance, weight, logs)

    def value(mean, variance, logs):
        return likelihood.local(Y, mean, variance, weight, logs).value

    for i in range(0, 9, 4):
        shift = torch.zeros_like(mean)
        shift[i] = step
        pull = (value(mean + shift, variance, logs) - value(mean - shift, variance, logs)) / (2 * step)
        bend = (value(mean, variance + shift, logs) - value(mean, variance - shift, logs)) / (2 * step)
        assert local.pull[i].item() == pytest.approx(pull, rel=1e-5, abs=1e-7)
        assert local.curvature[i].item() == pytest.approx(-2 * bend, rel=1e-5, abs=1e-6)
    for i in range(len(logs)):
        shift = torch.zeros_like(logs)
        shift[i] = step
        slope = (value(mean, variance, logs + shift) - value(mean, variance, logs - shift)) / (2 * step)
        assert local.slope[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_a_gaussian_row_of_weight_w_has_a_wth_of_the_noise():
    Y, mean, v = torch.randn(4, 2), torch.randn(4, 2), torch.rand(4, 1)
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0])
    local = Gaussian(0.3).local(Y, mean, v, weight, torch.tensor([0.3]).log())
    law = torch.distributions.Normal(mean, (0.3 / weight).sqrt()[:, None])
    expect = (law.log_prob(Y) - 0.5 * v * weight[:, None] / 0.3).sum()
    assert local.value == pytest.approx(expect.item())


@pytest.mark.parametrize(("likelihood", "law"), [(Poisson(), stats.poisson), (Bernoulli(), stats.bernoulli)])
def test_discrete_laws_are_scipy_s(likelihood, law):
    mean = likelihood.mean(F).numpy()
    assert_close(likelihood.variance(F), torch.tensor(law.var(mean)))
    for y in (-1.0, 0.0, 0.5, 1.0, 2.0, 7.0):
        assert_close(likelihood.cdf(torch.tensor(y), F), torch.tensor(law.cdf(y, mean)))
    z = torch.randn(200, 1)
    expect = law.ppf(torch.special.ndtr(z).numpy(), mean)
    assert_close(likelihood.draw(z, F), torch.tensor(expect, dtype=torch.double))


def test_quadrature_has_the_moments_of_a_normal():
    z, weight = quadrature(32)
    assert_close(torch.stack([(z**k) @ weight for k in (0, 2, 4, 6)]), torch.tensor([1.0, 1.0, 3.0, 15.0]))


@dataclass(frozen=True)
class Laplace(Likelihood):
    """One of a user's own."""

    size: float = 1.0
    learned = ("size",)

    def log_prob(self, y, f):
        size = torch.as_tensor(self.size).to(f)
        return -(2 * size).log() - (y - f).abs() / size


def test_one_of_one_s_own_needs_a_density_alone():
    own = Laplace(0.7)
    assert_close(own.at(own.logs()).size, 0.7)
    law = torch.distributions.Laplace(torch.zeros(()), 0.7)
    assert_close(own.log_prob(torch.tensor(0.3), torch.tensor(0.0)), law.log_prob(torch.tensor(0.3)))
    with pytest.raises(NotImplementedError, match="Laplace has no cdf, which the law of y needs; define Laplace.cdf"):
        own.cdf(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        (Poisson(), "targets of a Poisson likelihood are counts 0, 1, 2, ..., got 0.5"),
        (Bernoulli(), "targets of a Bernoulli likelihood are zeros and ones, got 0.5"),
    ],
)
def test_targets_that_cannot_be_are_refused(likelihood, words):
    with pytest.raises(ValueError, match=words):
        likelihood.check(torch.tensor([[1.0], [0.5]]))
    assert likelihood.log_prob(torch.tensor(0.5), torch.tensor(0.0)) == -torch.inf


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="likelihood must be a Likelihood or one of gaussian, .*, got 'cauchy'"):
        likelihood_of("cauchy", 0.1)
