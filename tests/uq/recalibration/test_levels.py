"""Recalibrated levels hold what they promise on new rows, and change little where nothing was wrong."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.testing import assert_close

from kernelfield.core.posterior import Binned, Draws
from kernelfield.uq.recalibration.curves import BetaCurve
from kernelfield.uq.recalibration.levels import BetaLevels, IsotonicLevels, even_ranks, through_ranks
from kernelfield.uq.recalibration.normal_scores import normal_score
from kernelfield.uq.scores import evaluate

CHOICES = [IsotonicLevels(), BetaLevels()]


def standard(n: int, outputs: int = 1) -> Draws:
    return Draws(torch.zeros(1, n, outputs), torch.ones(1), torch.ones(n, outputs))


def skewed(n: int) -> torch.Tensor:
    """Values of a shifted Gamma law of shape three, which the standard normal law says nothing of."""
    return torch.from_numpy(stats.gamma(3, loc=-1, scale=1.5).rvs((n, 1), random_state=n))


def bent(n: int, seed: int) -> torch.Tensor:
    """Values whose levels in the standard normal law follow a Beta curve."""
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed))
    return BetaCurve(0.4, 0.8, 0.5).inverse(z)


@pytest.mark.parametrize(
    ("choice", "values"),
    [
        (IsotonicLevels(), lambda n: skewed(n)),
        (IsotonicLevels(), lambda n: bent(n, n)),
        (BetaLevels(), lambda n: bent(n, n)),
    ],
    ids=["isotonic, skewed", "isotonic, bent", "beta, bent"],
)
def test_levels_of_a_wrong_law_become_right_on_new_rows(choice, values):
    law = choice.fit(standard(4000), values(4000)).apply(standard(20_000))
    y = values(20_000)
    # The calibration's own error and that of the new rows, either of them at one in a thousand.
    allowed = stats.kstwo.ppf(0.999, 4000) + stats.kstwo.ppf(0.999, 20_000)
    assert stats.kstest(law.cdf(y).flatten().numpy(), "uniform").statistic < allowed
    assert stats.kstest(standard(20_000).cdf(y).flatten().numpy(), "uniform").statistic > 2 * allowed


def test_isotonic_densities_come_close_to_the_right_ones():
    """The expected NLL exceeds the entropy by the divergence, which pieces and their noise keep small."""
    law = IsotonicLevels().fit(standard(4000), skewed(4000)).apply(standard(20_000))
    y = skewed(20_000)
    right = -stats.gamma(3, loc=-1, scale=1.5).logpdf(y).mean()
    loss = -law.log_prob(y).mean().item()
    error = 6 * stats.gamma(3, scale=1.5).logpdf(y + 1).std() / len(y) ** 0.5
    assert right - error < loss < right + error + 0.03
    assert -standard(20_000).log_prob(y).mean() > right + 3


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_little_is_changed_where_nothing_was_wrong(choice):
    y = torch.randn(2000, 1)
    law = choice.fit(standard(2000), y).apply(standard(2000))
    assert abs(law.mean[0, 0].item()) < 6 / 2000**0.5
    assert abs(law.variance[0, 0].item() - 1) < 6 * (2 / 2000) ** 0.5
    new = torch.randn(20_000, 1)
    cost = (standard(20_000).log_prob(new) - choice.fit(standard(2000), y).apply(standard(20_000)).log_prob(new)).mean()
    assert cost.item() < 0.02


def test_a_law_four_times_too_narrow_becomes_a_gaussian_of_the_right_deviation():
    """The curve is a line then, and the tails go on as they should: four deviations beyond all data."""
    law = IsotonicLevels().fit(standard(2000), 4 * torch.randn(2000, 1)).apply(standard(1))
    ratio = law.quantile(stats.norm.cdf(5.0)).item() / 20
    assert 0.7 < ratio < 1.4


def test_the_curve_passes_through_the_ranks_of_the_scores():
    scores = torch.randn(500).sort().values
    ranks = even_ranks(500)
    curve = through_ranks(scores, ranks)
    assert len(curve.scores) == 10  # sqrt(500) / 2 is 11 pieces
    assert_close(torch.special.ndtr(curve.forward(scores[ranks - 1])), torch.from_numpy(ranks / 501))


def test_the_slopes_of_tails_are_right_for_a_line_of_exact_normal_scores():
    """Scores 2 z + 1 of evenly spread z: every slope is one half, but for the finite sum."""
    z = torch.special.ndtri((torch.arange(100_000) + 0.5) / 100_000)
    curve = through_ranks(2 * z + 1, even_ranks(100_000))
    assert_close(curve.slopes, torch.full_like(curve.slopes, 0.5), rtol=5e-3, atol=0)


def test_ties_have_the_middle_of_their_levels():
    """A law of two bins sees each value at one of few levels; the curve still rises and the law has a density."""
    law = Binned(torch.zeros(200, 1, 2), torch.tensor([[0.0, 1.0, 2.0]]), tails=True)
    y = torch.tensor([0.5, 0.5, 0.5, 1.5]).repeat(50)[:, None]
    fitted = IsotonicLevels().fit(law, y)
    assert (fitted.curves[0].slopes > 0).all()
    assert fitted.apply(law).log_prob(y).isfinite().all()


def test_the_beta_curve_is_the_one_of_greatest_likelihood():
    y = skewed(400)
    curve = BetaLevels().fit(standard(400), y).curves[0]
    u = stats.norm.cdf(y.flatten().numpy())
    u = np.clip(u, 1e-300, 1 - 1e-16)

    def loss(theta):
        a, b, c = np.exp(theta[0]), np.exp(theta[1]), theta[2]
        logit = c + a * np.log(u) - b * np.log1p(-u)
        return np.mean(2 * np.logaddexp(0, -logit) + logit - np.log(a / u + b / (1 - u)))

    y = torch.from_numpy(stats.norm.ppf(u))[:, None]  # both see the same levels
    curve = BetaLevels().fit(standard(400), y).curves[0]
    best = optimize.minimize(
        loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-13, "maxiter": 5000}
    )
    found = np.array([np.log(curve.a), np.log(curve.b), curve.c])
    np.testing.assert_allclose(found, best.x, atol=2e-3)
    assert loss(found) <= best.fun + 1e-8


def test_outputs_are_recalibrated_one_by_one():
    y = torch.cat([0.5 * torch.randn(400, 1), 2 + torch.randn(400, 1)], 1)
    both = IsotonicLevels().fit(standard(400, 2), y)
    alone = IsotonicLevels().fit(standard(400), y[:, 1:])
    assert_close(both.apply(standard(5, 2)).quantile(0.3)[:, 1:], alone.apply(standard(5)).quantile(0.3))
    with pytest.raises(ValueError, match="learned for 2 outputs, got a law of 1"):
        both.apply(standard(5))


def test_recalibration_improves_every_score_on_held_out_rows():
    before = evaluate(standard(5000), skewed(5000)).scores()
    after = evaluate(IsotonicLevels().fit(standard(1000), skewed(1000)).apply(standard(5000)), skewed(5000)).scores()
    assert all(after[name] < before[name] for name in ("nll", "crps", "interval90", "rmse"))
    assert abs(after["coverage90"] - 0.9) < 0.05


def test_far_misses_are_told_apart():
    """Values ten deviations out have levels that round to one and normal scores that do not."""
    y = 10 * torch.randn(400, 1)
    assert normal_score(standard(400), y).abs().max() > 20
    law = BetaLevels().fit(standard(400), 5 * torch.randn(400, 1)).apply(standard(1))
    assert 3.5 < law.variance.sqrt().item() < 7


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_notes_and_numbers_say_what_was_learned(choice):
    fitted = choice.fit(standard(100, 2), torch.randn(100, 2))
    assert "on 100 held-out rows" in fitted.notes()[0]
    assert all(len(values) == 2 for values in fitted.hyperparameters().values())
    with pytest.raises(ValueError, match=rf"needs at least {choice.least} calibration rows, got 5"):
        choice.fit(standard(5), torch.randn(5, 1))
