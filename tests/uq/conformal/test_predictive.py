"""Predictive systems have the ranks of residuals as levels, keep dependence, and are laws."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.conformal.conformity import Absolute, Distributional, Normalised, Quantiles
from kernelfield.uq.conformal.predictive import PredictiveSystem, growing_ranks
from kernelfield.uq.scores import nll
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws
from tests.uq.conformal.simulated import gaussian, heteroscedastic

SCORES = [Absolute(), Normalised(), Distributional()]


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_levels_are_ranks_of_residuals(score):
    """At the value whose residual is the i-th of n, F = i / (n + 1), for every rank that is kept."""
    law, y, _ = heteroscedastic(200, 1, 0)
    fitted = PredictiveSystem(score).fit(law, y)
    residuals = score.signed(law, y).flatten().sort().values
    for i in growing_ranks(200):
        place = score.place(law, residuals[i - 1].expand(200, 1))
        assert_close(fitted.apply(law).cdf(place), torch.full((200, 1), i / 201))


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_every_level_is_near_its_rank(score):
    """Within the step to the next rank that is kept, i^(1/2) at i from the nearer end."""
    law, y, _ = heteroscedastic(500, 1, 1)
    levels = PredictiveSystem(score).fit(law, y).apply(law).cdf(y).flatten()
    order = score.signed(law, y).flatten().argsort()
    i = torch.arange(1, 501)
    assert ((levels[order] - i / 501).abs() * 501 <= torch.minimum(i, 501 - i).sqrt() + 1e-6).all()


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_the_law_obeys_the_laws_of_posteriors(score):
    law, y, _ = heteroscedastic(300, 2, 2)
    new = PredictiveSystem(score).fit(law, y).apply(Draws(law.values[:, :5], law.weights, law.noise[:5]))
    obeys_posterior_laws(new, samples=10_000)
    density_integrates_to_cdf(new)


def test_a_joint_gaussian_keeps_its_correlations():
    A = torch.randn(40, 40)
    law = Elliptical(torch.zeros(40, 1), A @ A.mT)
    new = PredictiveSystem().fit(law, 2 * law.rsample()).apply(law)
    z = torch.randn(2000, law.width)
    ranks = [stats.spearmanr(draws.flatten(1)[:, :5]).statistic for draws in (law.draw(z), new.draw(z))]
    np.testing.assert_allclose(*ranks)
    student = Elliptical(torch.zeros(40, 1), A @ A.mT, InverseGamma.student(5.0))
    reference = Normalised().reference(student)
    assert_close(reference.covariance, student.covariance)


def test_densities_cost_little_where_the_law_was_right():
    """Laws that were right lose 0.42 nats where each rank has a piece of its own; here far less."""
    law, new = (gaussian(torch.zeros(n, 1), torch.ones(1)) for n in (1000, 20_000))
    y = torch.randn(20_000, 1)
    system = PredictiveSystem().fit(law, torch.randn(1000, 1)).apply(new)
    assert (nll(system, y) - nll(new, y)).mean() < 0.08


def test_the_interval_is_between_two_ranks():
    law = gaussian(torch.zeros(99, 1), torch.full((1,), 2.0))
    low, high = PredictiveSystem().fit(law, 2 * torch.arange(1.0, 100)[:, None]).interval(law, 0.9)
    assert_close((low[0, 0].item(), high[0, 0].item()), (2 * 5.0, 2 * 95.0))


def test_kept_ranks_rise_from_the_first_to_the_last():
    for n in (20, 21, 50, 1000, 100_000):
        ranks = growing_ranks(n)
        assert ranks[0] == 1 and ranks[-1] == n and (np.diff(ranks) > 0).all()
        assert (np.sort(n + 1 - ranks) == ranks).all()


def test_bad_choices_are_refused():
    law, y, _ = heteroscedastic(30, 1, 3)
    with pytest.raises(ValueError, match=r"needs signed residuals, got Quantiles\("):
        PredictiveSystem(Quantiles()).fit(law, y)
    small, few, _ = heteroscedastic(10, 1, 3)
    with pytest.raises(ValueError, match="a predictive system needs at least 20 calibration rows, got 10"):
        PredictiveSystem().fit(small, few)
    with pytest.raises(ValueError, match="0.975 needs at least 39 calibration rows, got 30"):
        PredictiveSystem().fit(law, y).interval(law, 0.95)
    fitted = PredictiveSystem().fit(law, y)
    assert fitted.rows == 30 and "of 30 rows" in fitted.notes()[0] and len(fitted.hyperparameters()) == 3
