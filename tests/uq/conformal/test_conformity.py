"""Scores and their intervals are inverse to each other, for every family of laws."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.uq.conformal.conformity import Absolute, Distributional, Normalised, Quantiles
from kernelfield.uq.recalibration.normal_scores import normal_score
from tests.uq.recalibration.laws_of_families import FAMILIES, law_of

SCORES = [Absolute(), Normalised(), Distributional(), Quantiles((0.8,)), Quantiles((0.8,), symmetric=True)]
RESIDUALS = [Absolute(), Normalised(), Distributional()]


@pytest.mark.parametrize("score", SCORES, ids=repr)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_value_is_inside_exactly_if_its_scores_are_within_the_bound(name, score):
    law = law_of(name)
    bound = 0.3 + torch.rand(score.sides, *law.mean.shape)
    low, high = score.interval(law, bound, 0.8)
    y = low + torch.linspace(-0.5, 1.5, 19)[:, None, None] * (high - low)
    within = torch.stack([(score.of(law, row, 0.8) <= bound).all(0) for row in y])
    clear = ((y - low).abs() > 1e-6) & ((y - high).abs() > 1e-6)
    assert (within == ((low <= y) & (y <= high)))[clear].all()


@pytest.mark.parametrize("score", RESIDUALS, ids=repr)
@pytest.mark.parametrize("name", FAMILIES)
def test_residuals_are_normal_scores_of_their_reference_law(name, score):
    law = law_of(name)
    y = law.mean + torch.randn_like(law.mean)
    assert_close(normal_score(score.reference(law), y), score.signed(law, y), atol=1e-7, rtol=1e-7)
    assert_close(score.place(law, score.signed(law, y)), y, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_an_infinite_bound_is_the_whole_line(score):
    law = law_of("members")
    low, high = score.interval(law, torch.full((score.sides, *law.mean.shape), torch.inf), 0.8)
    assert (low == -torch.inf).all() and (high == torch.inf).all()
