"""Scores that are no means: their values are those of the report's other parts, and intervals hold the truth."""

import numpy as np
import pytest

from kernelfield.uq.calibration import Calibration
from kernelfield.uq.class_calibration import adaptive_ece, classwise_ece, selective_risk, worst_gap
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.order import order
from kernelfield.uq.whole import whole_class_scores, whole_scores
from tests.uq.diagnosis.worlds import gaussian


def predicted(n: int, factor: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    std = rng.uniform(0.5, 2, n)
    return gaussian(factor * std * rng.normal(size=n), np.zeros(n), std)


def labelled(n: int, seed: int = 0, k: int = 3) -> ClassEvaluation:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(k), n)
    return ClassEvaluation.of(p, (rng.random((n, 1)) > p.cumsum(1)[:, :-1]).sum(1))


def test_values_of_regression_are_those_of_their_parts():
    one = predicted(500, 1.1)
    calibration, ordered = Calibration.of(one), order(one)
    found = whole_scores(one, calibration, ordered)
    expected = {
        "miscalibration": calibration.area,
        "ence": ordered.spread.ence,
        "correlation": ordered.correlation.value,
        "ause": ordered.sparsified.ause,
    }
    assert {name: score.value for name, score in found.items()} == pytest.approx(expected, rel=1e-9)
    assert all(score.low <= score.value <= score.high for score in found.values())
    assert found["ence"].chance == pytest.approx(ordered.spread.ence_by_chance, rel=0.15)


def test_the_ence_knows_right_deviations_from_wrong_ones():
    for seed in range(3):
        assert whole_scores(one := predicted(1000, 1.0, seed), None, order(one))["ence"].low < 0.01
        wrong = whole_scores(one := predicted(1000, 1.25, seed), None, order(one))["ence"]
        assert 0.1 < wrong.low < 0.25 < wrong.high < 0.4


def test_deviations_of_any_size_have_the_same_ence():
    one, unit = predicted(300, 1.2), 1e120
    huge = gaussian(unit * one.y[:, 0], np.zeros(300), unit * one.std[:, 0])
    found = [whole_scores(each, None, order(one))["ence"] for each in (one, huge)]
    assert found[0].low == pytest.approx(found[1].low) and found[0].high == pytest.approx(found[1].high)


def test_values_of_classes_are_those_of_their_parts():
    one = labelled(400)
    found = whole_class_scores(one)
    expected = {
        "ece": one.ece,
        "ece_debiased": one.ece_debiased,
        "classwise_ece": classwise_ece(one),
        "adaptive_ece": adaptive_ece(one),
        "worst_gap": worst_gap(one),
        "aurc": selective_risk(one).aurc,
    }
    assert {name: score.value for name, score in found.items()} == pytest.approx(expected, rel=1e-9)
    assert found["ece"].chance == one.null().mean
    assert all(score.low <= score.value <= score.high for score in found.values())


def test_right_probabilities_have_errors_that_may_be_none():
    low = [
        [score.low for name, score in whole_class_scores(labelled(300, seed)).items() if name != "aurc"]
        for seed in range(10)
    ]
    assert np.mean(np.array(low) <= 0) >= 0.95 - 4 * (0.05 * 0.95 / 10) ** 0.5


def test_one_row_and_one_bin_have_what_they_can():
    assert whole_class_scores(labelled(1)) == {}
    assert whole_class_scores(labelled(2))["ece"].value == labelled(2).ece
    one = gaussian(np.arange(12.0), np.zeros(12), np.ones(12))
    assert whole_scores(one, None, order(one))["ence"].value == order(one).spread.ence
