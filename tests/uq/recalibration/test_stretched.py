"""Stretching scales spreads about means, keeps the family where it is closed, and obeys the laws of laws."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.uq.recalibration.stretched import Stretched, stretched
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws
from tests.uq.recalibration.laws_of_families import CLOSED, FAMILIES, law_of

FACTOR, SHIFT = torch.tensor([2.0, 0.5]), torch.tensor([0.3, -1.0])


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_and_variance_are_shifted_and_scaled(name):
    law = law_of(name)
    other = stretched(law, FACTOR, SHIFT)
    assert (type(other) is type(law)) == (name in CLOSED)
    assert_close(other.mean, law.mean + SHIFT)
    assert_close(other.variance, FACTOR.square() * law.variance)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_exact_family_is_the_wrapper_s_law(name):
    law = law_of(name)
    exact, wrapped = stretched(law, FACTOR, SHIFT), Stretched(law, FACTOR, SHIFT)
    y = law.mean + torch.randn_like(law.mean)
    z = torch.randn(3, law.width)
    assert_close(exact.cdf(y), wrapped.cdf(y))
    assert_close(exact.log_prob(y), wrapped.log_prob(y))
    assert_close(exact.quantile(0.2), wrapped.quantile(0.2))
    assert_close(exact.draw(z), wrapped.draw(z))


def test_the_joint_covariance_of_a_gaussian_is_scaled_on_both_sides():
    law = law_of("gaussian")
    rows = FACTOR.repeat(len(law.mean))
    assert_close(stretched(law, FACTOR, SHIFT).covariance, rows[:, None] * law.covariance * rows)


def test_a_stretched_law_obeys_the_laws_of_posteriors():
    law = Stretched(law_of("members"), FACTOR, SHIFT)
    obeys_posterior_laws(law)
    density_integrates_to_cdf(law)
