"""The worst cases are those of sorting, and shares of the variance add up."""

import numpy as np
import pytest

from kernelfield.uq.diagnosis.cases import split, worst_cases, worst_class_cases
from tests.uq.diagnosis.worlds import classes, gaussian, world


def test_the_worst_rows_are_those_of_the_largest_nll():
    evaluation, _ = world(500, 0)
    made = worst_cases(evaluation, 7)
    order = np.argsort(-evaluation.nll[:, 0])[:7]
    assert [case.row for case in made] == order.tolist()
    assert made[0].z == pytest.approx((evaluation.y - evaluation.mean)[order[0], 0] / evaluation.std[order[0], 0])
    blind = type(evaluation)(**(vars(evaluation) | {"nll": np.full((500, 1), np.nan)}))
    z = np.abs((evaluation.y - evaluation.mean) / evaluation.std)[:, 0]
    assert [case.row for case in worst_cases(blind, 7)] == np.argsort(-z)[:7].tolist()
    assert len(worst_cases(evaluation, 1000)) == 500
    with pytest.raises(ValueError, match="at least 1, got 0"):
        worst_cases(evaluation, 0)


def test_ties_keep_their_order():
    evaluation = gaussian(np.ones(30), np.zeros(30), np.ones(30))
    assert [case.row for case in worst_cases(evaluation, 5)] == [0, 1, 2, 3, 4]


def test_the_worst_classes_are_those_held_least_probable():
    evaluation, _ = classes(300, 0)
    made = worst_class_cases(evaluation, 5)
    assert [case.row for case in made] == np.argsort(evaluation.losses)[::-1][:5].tolist()
    assert made[0].probability == pytest.approx(np.exp(-evaluation.losses.max()))


def test_the_variance_is_that_of_f_and_of_noise():
    rng = np.random.default_rng(0)
    latent = rng.uniform(0.1, 2, 1000)
    std = np.sqrt(latent**2 + 0.5)
    parts = split(gaussian(rng.standard_normal(1000), np.zeros(1000), std, latent))
    assert parts.epistemic == pytest.approx((latent**2).sum() / (std**2).sum())
    assert parts.epistemic + parts.aleatoric == pytest.approx(1)
    last = latent[np.argsort(std)[-100:]]
    assert parts.groups[-1].aleatoric == pytest.approx(0.5 / np.mean(last**2 + 0.5))
    assert sum(group.count for group in parts.groups) == 1000
    assert split(world(50, 0)[0]) is None
    with pytest.raises(ValueError, match="exceeds that of y on 1000 rows"):
        split(gaussian(std, std, std, 1.1 * std))
