"""The page says what was gained on the baseline, and what the lights come to."""

import pytest

from kernelfield.uq.lights import Verdict
from kernelfield.uq.page import in_short, score_rows
from kernelfield.uq.words import REGRESSION
from tests.uq.test_report import report


def test_gains_are_shares_of_the_baseline_and_nats():
    made = report(400)
    rows = {row["label"]: row for row in score_rows(REGRESSION, made, made.parts[0].whole)}
    assert rows["RMSE"]["gain"] == f"{made.skill['rmse'].value:+.1%}"
    assert rows["NLL"]["gain"] == f"{made.baseline.scores()['nll'] - made.scores()['nll']:+.3f} nats"
    assert rows["Coverage"]["gain"] == rows["R²"]["gain"] == ""


@pytest.mark.parametrize(
    ("grades", "words"),
    [
        ("good good good", "Nothing speaks against these predictions: 3 of 3 questions have a good answer."),
        ("good bad open", "Do not rely on these predictions as they are: 1 of 2 questions has a bad answer. 1 could"),
        ("open open", "Nothing could be judged"),
    ],
)
def test_the_lights_come_to_one_sentence(grades, words):
    assert in_short([Verdict(grade, "", "") for grade in grades.split()]).startswith(words)
