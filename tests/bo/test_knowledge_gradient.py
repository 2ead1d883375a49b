"""The knowledge gradient: envelopes by quadrature, gains by conditioning on all that could be observed."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kernelfield.bo.conditioned import Belief
from kernelfield.bo.fitting import fit, recipe
from kernelfield.bo.improvement import log_partial_expectation
from kernelfield.bo.knowledge_gradient import KnowledgeGradient, Maxima, log_expected_gain
from tests.bo.surrogates import fitted, points, rows

NORMAL = torch.distributions.Normal(0.0, 1.0)


def quadrature(mean: Tensor, slope: Tensor) -> Tensor:
    """The gain by the midpoint rule on 20 standard deviations, exact to 1e-6 where the envelope bends."""
    z = torch.linspace(-10, 10, 20_001)
    weight = NORMAL.log_prob(z).exp() * (z[1] - z[0])
    top = (mean[..., None] + slope[..., None] * z).amax(-2)
    return ((top - mean.amax(-1, keepdim=True)) * weight).sum(-1)


@pytest.mark.parametrize("size", [1e-2, 1.0, 10.0])
def test_the_gain_is_that_of_quadrature(size: float) -> None:
    mean, slope = torch.randn(6, 25), size * torch.randn(6, 25)
    mean[0, 3:9] = mean[0, 3]  # lines that meet in one point, equal ones and parallel ones
    mean[1], slope[1] = mean[1, :5].repeat(5), slope[1, :5].repeat(5)
    slope[2, ::2] = slope[2, 0]
    slope[3, 1:] = slope[3, 0]
    slope[4, 2:] = slope[4, 0]
    found = log_expected_gain(mean, slope)
    assert found[3] == -math.inf
    assert_close(found.exp(), quadrature(mean, slope), rtol=1e-6, atol=1e-6 * size)


def test_a_gain_that_underflows_has_a_logarithm_and_slopes() -> None:
    mean = torch.tensor([[0.0, -80.0], [0.0, 0.0]]).requires_grad_()
    found = log_expected_gain(mean, torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
    assert_close(found[:1], log_partial_expectation(torch.tensor([-40.0])) + math.log(2.0))
    (slope,) = torch.autograd.grad(found[:1].sum(), mean)
    assert slope.isfinite().all() and slope[0, 1] > 0 and (slope[1] == 0).all()


def test_slopes_of_the_gain_are_those_of_central_differences() -> None:
    mean, slope = torch.randn(3, 12).requires_grad_(), torch.randn(3, 12).requires_grad_()
    assert torch.autograd.gradcheck(log_expected_gain, (mean, slope), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["gp", "last layer", "ensemble"])
def test_the_knowledge_gradient_is_what_observations_add_to_the_best_mean(name: str) -> None:
    surrogate, rivals, X = fitted(name), points(8, seed=11), points(60, seed=12)
    gain = KnowledgeGradient(surrogate, rivals)
    X = X[gain(X).topk(3).indices]  # where there is something to learn
    z = torch.linspace(-9, 9, 3001)[:, None, None]
    weight = NORMAL.log_prob(z[:, 0, 0]).exp() * (z[1] - z[0]).item()
    with torch.no_grad():
        for x, value in zip(X, gain(X).exp(), strict=True):
            places = torch.cat([rivals, x[None]])
            before = surrogate.posterior(places).mean[:, 0]
            law = surrogate.posterior(x[None], noise=True)
            y = law.mean + law.variance.sqrt() * z
            told = Belief(surrogate).told(x.expand(len(z), 1, -1), y)
            after = told.law(places.expand(len(z), -1, -1)).mean[..., 0]
            # The best place of before is expected to gain nothing; the midpoint rule errs by the square of a step.
            own = ((after.amax(-1) - after[:, int(before.argmax())]) * weight).sum()
            assert_close(value, own, rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("name", ["gp", "student", "last layer", "ensemble"])
def test_slopes_in_x_are_those_of_central_differences(name: str) -> None:
    gain, X, step = KnowledgeGradient(fitted(name), points(10, seed=3)), points(4, seed=4), 1e-6
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gain(x).sum(), x)
    move = torch.randn_like(X)
    found = (gain(X + step * move) - gain(X - step * move)).detach() / (2 * step)
    assert_close((slope * move).sum(1), found, rtol=1e-4, atol=1e-4)


def test_of_two_outputs_the_first_counts() -> None:
    both, rivals = fitted("gp", 2), points(6, seed=3)
    alone = Belief(both).chosen([0])
    assert_close(KnowledgeGradient(both, rivals)(points(4)), KnowledgeGradient(alone, rivals)(points(4)))


def test_many_points_are_taken_block_by_block() -> None:
    gain, X = KnowledgeGradient(fitted("gp"), points(90, seed=3)), points(300, seed=5)
    assert_close(gain(X), torch.cat([gain(part) for part in X.split(100)]), rtol=1e-6, atol=1e-6)


def test_drawn_maxima_are_where_functions_may_be_greatest() -> None:
    surrogate, near = fitted("gp"), rows().X
    maxima = Maxima.drawn(surrogate, near, 200, torch.Generator().manual_seed(0))
    assert maxima.points.shape == (200, 2) and maxima.values.shape == (200, 1)
    law, there = surrogate.posterior(points(2000, seed=9)), surrogate.posterior(maxima.points)
    best, std = law.mean.max(), there.variance.sqrt()
    assert (there.mean + 5 * std > best - 0.1 * law.mean.std()).all()
    assert ((maxima.values - there.mean).abs() < 5 * std + 1e-6).all()


def test_a_law_of_single_points_is_refused() -> None:
    data = rows()
    surrogate = fit(recipe("prior-fitted"), data.X, data.Y[:, 0], generator=torch.Generator()).surrogate
    with pytest.raises(ValueError, match="histograms says nothing of how points depend"):
        Maxima.drawn(surrogate, data.X, 4, torch.Generator())
