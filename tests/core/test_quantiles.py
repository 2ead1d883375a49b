"""A law by its quantiles obeys the laws of posteriors, and is the Gaussian law where its quantiles are."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch.testing import assert_close

from kernelfield.core.quantiles import Quantiles, correction, crossed, rearranged
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

LEVELS = torch.tensor([0.03, 0.2, 0.4, 0.7, 0.95])


def skewed(m=1, batch=()):
    gaps = torch.randn(*batch, 3, m, 1), 0.2 + torch.rand(*batch, 3, m, 4)
    return Quantiles(LEVELS, torch.cat(gaps, -1).cumsum(-1))


@pytest.mark.parametrize("shape", [{}, {"m": 2}, {"m": 2, "batch": (2,)}], ids=str)
def test_laws(shape):
    law = skewed(**shape)
    obeys_posterior_laws(law)
    obeys_posterior_laws(law.affine(torch.tensor([0.5, 4.0])[: shape.get("m", 1)], torch.tensor([3.0])))


def test_density_is_the_slope_of_the_cdf():
    density_integrates_to_cdf(skewed(m=2))


@pytest.mark.parametrize("levels", [[0.1, 0.25], [0.025, 0.975], [0.01, 0.2, 0.5, 0.55, 0.999]])
def test_quantiles_of_a_gaussian_are_that_gaussian(levels):
    oracle = stats.norm([[3.0], [-1.0]], [[2.0], [0.1]])
    values = stats.norm.ppf(levels, [[[3.0]], [[-1.0]]], [[[2.0]], [[0.1]]])
    law = Quantiles(torch.tensor(levels), torch.as_tensor(values))
    y = law.mean + law.variance.sqrt() * torch.tensor([[[-6.0]], [[0.0]], [[1.3]], [[5.0]]])
    assert_close(law.mean, torch.as_tensor(oracle.mean()))
    assert_close(law.variance, torch.as_tensor(oracle.var()))
    assert_close(law.cdf(y), torch.as_tensor(oracle.cdf(y)))
    assert_close(torch.special.ndtr(law.score(y)), law.cdf(y))
    assert_close(law.log_prob(y), torch.as_tensor(oracle.logpdf(y)))
    assert_close(law.quantile(1e-9), torch.as_tensor(oracle.ppf(1e-9)))


def test_quantiles_at_the_given_levels_are_the_given_ones():
    law = skewed(m=2)
    for index, level in enumerate(LEVELS.tolist()):
        assert_close(law.quantile(level), law.values[..., index])
        assert_close(law.cdf(law.values[..., index]), torch.full((3, 2), level))


def test_moments_are_integrals_of_the_quantile_function():
    law = skewed()
    for i in range(3):
        knots = [0.0, *LEVELS[1:-1].tolist(), 1.0]

        def moment(power, i=i, knots=knots):
            def integrand(p):
                return law.quantile(p)[i, 0].item() ** power

            return sum(quad(integrand, a, b, epsabs=1e-10, limit=200)[0] for a, b in pairwise(knots))

        first = moment(1)
        assert law.mean[i, 0].item() == pytest.approx(first, abs=1e-7)
        assert law.variance[i, 0].item() == pytest.approx(moment(2) - first**2, abs=1e-6)


def test_a_point_beside_quantiles_is_the_mean_and_moves_with_them():
    law = Quantiles(LEVELS, torch.randn(3, 2, 5).sort(-1).values, torch.full((3, 2), 9.0))
    assert_close(law.mean, torch.full((3, 2), 9.0))
    assert_close(law.variance, Quantiles(LEVELS, law.values).variance)
    assert_close(law.affine(torch.tensor([2.0, 3.0]), torch.ones(2)).mean, torch.tensor([[19.0, 28.0]]).expand(3, 2))


def test_equal_quantiles_are_an_atom():
    """Rain: none in half of all cases. Below the atom there is nothing, above it a density."""
    law = Quantiles(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[[0.0, 0.0, 2.0]]]))
    at = lambda y: torch.tensor([[y]])  # noqa: E731
    assert [side.item() for side in law.jump(at(0.0))] == [0.0, 0.5]
    assert law.cdf(at(-1e-9)).item() == 0
    assert law.log_prob(at(-1.0)).item() == -math.inf
    assert law.log_prob(at(0.0)).isnan()
    spread = 2 / stats.norm.ppf(0.9)
    assert law.log_prob(at(1.0)).item() == pytest.approx(stats.norm.logpdf(1.0, scale=spread))
    assert law.mean.item() == pytest.approx(spread / math.sqrt(2 * math.pi))


def test_an_atom_among_quantiles_is_jumped_over():
    law = Quantiles(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([[[-1.0, 1.0, 1.0, 2.0]]]))
    below, upto = law.jump(torch.ones(1, 1))
    assert_close(torch.cat([below, upto]), torch.tensor([[0.4], [0.6]]))
    top = Quantiles(torch.tensor([0.1, 0.4, 0.6]), torch.tensor([[[-1.0, 1.0, 1.0]]]))
    assert [side.item() for side in top.jump(torch.ones(1, 1))] == pytest.approx([0.4, 1.0])


def test_quantiles_that_are_all_equal_are_one_value():
    law = Quantiles(LEVELS, torch.full((1, 1, 5), 2.0))
    assert law.mean.item() == 2 and law.variance.item() == 0
    assert law.cdf(torch.tensor([[1.9], [2.0], [2.1]])).flatten().tolist() == [0.0, 1.0, 1.0]
    assert law.quantile(0.3).item() == 2


def test_rearranged_quantiles_are_those_of_draws_that_cross():
    """The quantile function in order is that of g(u) for u uniform, where g is not in order."""
    u = (torch.arange(1000) + 0.5) / 1000
    crossing = u + 0.3 * torch.sin(9 * u)
    truth = u + 0.1 * u.square()
    sorted_ = rearranged(crossing)
    assert crossed(crossing) > 0.2 and crossed(sorted_) == 0
    assert ((sorted_ - truth).square().mean() < (crossing - truth).square().mean()).item()
    assert_close(sorted_.mean(), crossing.mean())


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_correction_is_numpy_s_quantile_of_the_type_weibull(weight):
    levels, residuals = torch.tensor([0.01, 0.1, 0.37, 0.5, 0.9, 0.99]), torch.randn(2, 30, 6)
    found = correction(residuals, levels, torch.full((30,), weight))
    for j, level in enumerate(levels.tolist()):
        expected = np.quantile(residuals[..., j], level, axis=1, method="weibull")
        assert_close(found[:, j], torch.as_tensor(expected))


def test_weights_of_a_correction_are_repetitions_where_rows_are_many():
    residuals, weight = torch.randn(2000, 1), torch.arange(2000) % 3 + 1
    levels = torch.tensor([0.2])
    repeated = correction(residuals.repeat_interleave(weight, 0), levels, torch.ones(int(weight.sum())))
    # Places differ by parts of one row in 2000, and residuals there by about 1 / 2000 over the density of 0.28.
    assert_close(correction(residuals, levels, weight.double()), repeated, atol=0.01, rtol=0)
    plain = correction(torch.cat([residuals[:1000], residuals[1000:] + 1]), levels, torch.ones(2000))
    heavy = correction(
        torch.cat([residuals[:1000], residuals[1000:] + 1]), levels, 1 + 9.0 * (torch.arange(2000) > 999)
    )
    assert (heavy > plain + 0.1).all()


def test_a_corrected_quantile_holds_its_share_of_new_values_exactly():
    """The new value is one of n + 1 that are exchangeable: at level r / (n + 1) it lies below with that probability."""
    values = torch.randn(19, 40_000, generator=torch.Generator().manual_seed(3))
    levels = torch.tensor([2, 17]) / 19
    moved = correction(values[:18].T.unsqueeze(-1).expand(-1, -1, 2), levels, torch.ones(18))
    share = (values[18][:, None] < moved).double().mean(0)
    assert_close(share, levels, atol=6 * 0.31 / 200, rtol=0)


@pytest.mark.parametrize(
    ("levels", "values", "message"),
    [
        ([0.5, 0.1], [0.0, 1.0], "at least two increasing"),
        ([0.5], [0.0], "at least two increasing"),
        ([0.1, 90.0], [0.0, 1.0], "between 0 and 1, got 0.1 to 90"),
        ([0.1, 0.9], [0.0, 1.0, 2.0], "need 2 values a point"),
    ],
)
def test_bad_levels_are_refused(levels, values, message):
    with pytest.raises(ValueError, match=message):
        Quantiles(torch.tensor(levels), torch.tensor(values)[None, None])
