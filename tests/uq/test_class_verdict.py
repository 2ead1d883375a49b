"""Verdicts on classes are green for probabilities that are right, and red for those that are not."""

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.class_verdict import class_verdicts, honesty
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.findings import diagnose_classes
from kernelfield.uq.lights import LIGHTS, Verdict
from tests.uq.diagnosis.worlds import classes


def lights(n: int, seed: int, sharpness=lambda _: 1.0) -> dict[str, Verdict]:
    evaluation, columns = classes(n, seed, sharpness)
    outside = np.full((50, 3), 1 / 3) + 0.01 * np.random.default_rng(seed).standard_normal((50, 1)) * [1, -1, 0]
    rule = ClassEvaluation.of(np.full((n, 3), 1 / 3), evaluation.labels)
    found = diagnose_classes(evaluation, columns=columns, time=columns["day"], outside=outside)
    return {one.name: one for one in class_verdicts(evaluation, rule, found)}


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 1000])
def test_no_light_is_red_for_probabilities_that_are_right(n):
    red = [[one.name for one in lights(n, seed).values() if one.grade == "bad"] for seed in range(100)]
    assert sum(map(bool, red)) <= 5


def test_the_calibration_light_keeps_its_level():
    red = [honesty(classes(n, seed)[0], level=0.2).grade == "bad" for n in (40, 600) for seed in range(25)]
    assert np.mean(red) <= 0.2 + 3 * (0.16 / 50) ** 0.5


def test_probabilities_that_are_right_are_green_where_there_is_enough_to_judge():
    made = lights(10_000, 0)
    assert list(made) == list(LIGHTS)
    assert {one.grade for one in made.values()} == {"good"}
    assert made["conditional"].title == "Probabilities hold in every group"
    assert "accuracy is furthest from its promise" in made["drift"].sentence
    assert not any("nterval" in one.title + one.sentence for one in made.values())


def test_sure_statements_that_are_wrong_are_red():
    made = lights(2000, 1, lambda _: 3.0)
    assert (made["calibration"].title, made["tails"].grade) == ("Probabilities are too sure", "bad")
    evaluation, _ = classes(2000, 1, lambda _: 3.0)
    sure = evaluation.confidence >= 0.99
    assert made["tails"].value == pytest.approx(1 - evaluation.right[sure].mean())
    wrong, n = int((~evaluation.right[sure]).sum()), int(sure.sum())
    assert made["tails"].low == pytest.approx(stats.beta.ppf(0.025, wrong, n - wrong + 1))  # Clopper & Pearson
    assert made["tails"].high == pytest.approx(stats.beta.ppf(0.975, wrong + 1, n - wrong))
    assert (made["calibration"].low, made["calibration"].high) == (None, None)
    assert honesty(classes(2000, 1, lambda _: 0.4)[0]).title == "Probabilities are not sure enough"


def test_a_gap_below_a_percentage_point_is_green():
    labels = (np.arange(1_000_000) % 1000 < 695).astype(int)
    verdict = honesty(ClassEvaluation.of(np.tile([0.3, 0.7], (1_000_000, 1)), labels))
    assert verdict.grade == "good"
    assert "too small to matter" in verdict.sentence


def test_what_was_not_given_is_open():
    evaluation, _ = classes(15, 0)
    made = {one.name: one for one in class_verdicts(evaluation, None, diagnose_classes(evaluation))}
    assert {one.grade for one in made.values()} == {"open"}
    assert "At least 20 rows" in made["calibration"].sentence


def test_the_baseline_is_called_what_it_is():
    evaluation, _ = classes(500, 0)
    rule = ClassEvaluation.of(np.full((500, 3), 1 / 3), evaluation.labels)
    worse = class_verdicts(rule, evaluation, rule="the shares of the test rows")[1]
    assert worse.remedy.endswith("it does worse than always predicting the shares of the test rows.")
    assert "than that of always predicting the shares of the test rows" in worse.sentence
