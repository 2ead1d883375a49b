"""Copula updates: Polya's urn where they are one, and the conditional law of a Gaussian copula elsewhere."""

import pytest
import torch
from scipy import stats

from kernelfield.core.contracts import Data
from kernelfield.models.copula_update import Copula
from kernelfield.models.predictive_resampling import OfLimit, predictive_resampling
from tests.models.test_predictive_resampling import Fixed, source


def urn(n: int, steps: int, p: float) -> float:
    """The variance of a probability p after steps of Polya's urn with n balls."""
    return p * (1 - p) * (1 - n * (n + steps + 1) / ((n + 1) * (n + steps)))


def test_copulas_of_correlation_one_are_polyas_urn() -> None:
    data = Data(torch.linspace(0, 1, 9)[:, None], torch.zeros(9, 1))
    copula = Copula(correlation=1.0, input_correlation=0.0, rate=1.0, bins=20)
    levels = torch.special.ndtri(torch.tensor([[0.25], [0.8]]))
    draws, steps = 1500, 200
    functional = OfLimit(torch.zeros(2, 1), lambda law: law.cdf(levels)[..., 0])
    found = predictive_resampling(
        Fixed(), functional, data=data, draws=draws, steps=steps, update=copula, generator=source(5)
    )
    for j, p in enumerate((0.25, 0.8)):
        variance = urn(9, steps, p)
        assert abs(found.mean[j].item() - p) < 6 * (variance / draws) ** 0.5
        assert abs(found.values[:, j].var().item() - variance) < 6 * found.variance_error[j].item()
        limit = stats.beta(9 * p, 9 * (1 - p))
        assert found.quantile(0.9)[j].item() == pytest.approx(limit.ppf(0.9), abs=0.03)


def test_a_step_of_a_copula_has_the_mean_and_the_variance_of_its_conditional_law() -> None:
    copula, p = Copula(correlation=0.8), 0.3
    v = (torch.arange(20_000).double() + 0.5)[:, None] / 20_000
    moved = copula.moved(torch.full((20_000, 1, 1, 1), p), v, torch.full((20_000, 1), 0.4))[:, 0, 0, 0]
    score = stats.norm.ppf(p)
    both = stats.multivariate_normal([0, 0], [[1, 0.64], [0.64, 1]]).cdf([score, score])  # of two of one v
    assert moved.mean().item() == pytest.approx(p, abs=1e-5)
    assert moved.var().item() == pytest.approx(0.16 * (both - p**2), rel=1e-3)


def test_far_from_what_was_drawn_a_copula_changes_little() -> None:
    weights = Copula(input_correlation=0.9).weights(torch.tensor([[0.0], [3.0]]), torch.zeros(1, 1))
    joint = stats.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]])
    expected = [joint.pdf([a, 0]) / stats.norm.pdf(a) / stats.norm.pdf(0) for a in (0.0, 3.0)]
    assert weights[:, 0].tolist() == pytest.approx(expected, rel=1e-9)
    assert weights[1] < 1e-6


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 0.8"):
        Copula(correlation=0)
    with pytest.raises(ValueError, match="got 3 and 100"):
        Copula(rate=3)
