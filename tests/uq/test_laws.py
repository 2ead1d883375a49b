"""Laws of draws and functions obey the laws of posteriors, and are what they are made from."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td
from torch.testing import assert_close

from kernelfield.uq.laws import Functions, Marginals, Sample
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws


def laplace(inverse: bool) -> Marginals:
    law = td.Laplace(torch.randn(3, 2), 0.5 + torch.rand(3, 2))
    return Marginals(Functions(law.mean, law.variance, law.cdf, law.log_prob, law.icdf if inverse else None))


SMOOTH = {"functions": lambda: laplace(True), "functions, by bisection": lambda: laplace(False)}


@pytest.mark.parametrize("name", SMOOTH)
def test_laws(name):
    law = SMOOTH[name]()
    obeys_posterior_laws(law)
    obeys_posterior_laws(law.affine(torch.tensor([0.5, 4.0]), torch.tensor([3.0, -1.0])))
    density_integrates_to_cdf(law)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.37, 0.5, 0.9, 0.99])
def test_quantiles_of_a_sample_are_numpy_s_of_the_type_weibull(p):
    values = torch.randn(12, 3, 2)
    expected = np.quantile(values, p, axis=0, method="weibull")
    assert_close(Sample(values).quantile(p), torch.as_tensor(expected))


def test_a_further_draw_lies_below_a_quantile_of_a_sample_as_often_as_its_level_says():
    generator = torch.Generator().manual_seed(0)
    values, y = torch.randn(9, 100_000, 1, generator=generator), torch.randn(100_000, 1, generator=generator)
    for p in (0.1, 0.5, 0.9):
        share = (y < Sample(values).quantile(p)).double().mean().item()
        assert share == pytest.approx(p, abs=6 * 0.5 / 100_000**0.5)


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_levels_of_a_value_among_a_sample_are_uniform_ties_or_not(rounded):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(8, 40_000, 1, generator=generator)
    values = values.round() if rounded else values
    low, high = Sample(values[1:]).jump(values[0])
    level = low + (high - low) * torch.rand(low.shape, generator=generator)
    assert stats.kstest(level.flatten().numpy(), "uniform").pvalue > 1e-3
    if rounded:
        assert stats.kstest(low.flatten().numpy(), "uniform").pvalue < 1e-9


def test_draws_of_a_sample_are_its_rows_as_they_came():
    law = Sample(torch.randn(6, 3, 2))
    drawn = law.rsample((6000,), torch.Generator().manual_seed(0))
    counts = (drawn[:, None] == law.values).all(-1).all(-1).sum(0)
    assert counts.sum() == 6000
    assert (counts - 1000).abs().max() < 6 * 29  # six standard errors of a count of 1000 in 6000
    assert_close(law.variance, law.values.var(0))
    moved = law.affine(torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0]))
    assert_close(moved.values, law.values * torch.tensor([2.0, 3.0]) + torch.tensor([1.0, -1.0]))
    assert_close(law.cdf(law.quantile(0.5)), torch.full((3, 2), 0.5))
    assert law.log_prob(torch.zeros(3, 2)).isnan().all()


@pytest.mark.parametrize("shape", [(1, 4, 2), (4, 2)])
def test_one_draw_is_no_sample(shape):
    with pytest.raises(ValueError, match="at least two draws"):
        Sample(torch.zeros(shape))
