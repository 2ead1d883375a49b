"""Lights of several outputs are one, advice is of what is red, and sentences say what was found."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.diagnosis.drift import drift
from kernelfield.uq.diagnosis.groups import Column, Group
from kernelfield.uq.lights import Verdict, advice, compared, conditional, drifted, shared, unfamiliar
from tests.uq.diagnosis.worlds import world

RED = Verdict("bad", "Intervals are too narrow", "They are.", "calibration", 0.8, 0.7, 0.85, 100, 0.9, "Recalibrate.")


def test_outputs_that_lack_the_same_share_their_words():
    alike = shared([unfamiliar(None), unfamiliar(None)], ["a", "b"])
    assert alike == unfamiliar(None)


def test_the_worst_output_sets_the_grade():
    green = replace(RED, grade="good", remedy="")
    made = shared([green, RED, replace(green, grade="open", title="Too few rows")], ["a", "b", "c"])
    assert (made.grade, made.title) == ("bad", "Intervals keep their promise for 1 of 2 outputs judged")
    assert made.sentence == "Except for b (intervals are too narrow). Open for c (too few rows)."
    assert made.remedy == "b: recalibrate."
    unknown = shared([replace(green, grade="open", title=title) for title in ("No gain", "Too few rows")], ["a", "b"])
    assert (unknown.title, unknown.sentence) == ("Open for all 2 outputs", "Open for a (no gain), b (too few rows).")


def test_each_output_has_advice_of_its_own():
    both = shared([RED, RED], ["a", "b"])
    assert advice([both]) == ["a: recalibrate.", "b: recalibrate."]
    groups = shared([replace(RED, name="conditional", remedy="Not in Bern.")] * 2, ["a", "b"])
    assert advice([both, groups])[2:] == ["a: not in Bern.", "b: not in Bern. Judge groups again after recalibration."]


def test_advice_is_of_red_lights_and_groups_wait_for_recalibration():
    groups = replace(RED, name="conditional", remedy="Not in Bern.")
    assert advice([RED, groups, drifted(None, 100)]) == [
        "Recalibrate.",
        "Not in Bern. Judge groups again after recalibration.",
    ]
    assert advice([groups]) == ["Not in Bern."]
    assert advice([]) == []


def test_rows_of_an_alarm_are_counted_from_one():
    evaluation, columns = world(3000, 1, lambda at: np.where(at["day"] > 150, 1.7, 1.0))
    found = drift(evaluation, columns["day"])
    assert f"(row {found.alarm + 1:,})" in drifted(found, 3000).sentence
    assert "accuracy is furthest from its promise" in drifted(found, 3000, noun="accuracy").sentence


def test_p_values_of_rounding_do_not_choose_the_worst_group():
    def failing(name: str, share: float, p: float) -> Column[Group]:
        group = Group("here", 500, share, 0.87, 0.93, 0.5, 1.0, 1.0, p, 0.9)
        return Column(name, (group,), statistic=9.0, p_value=p, adjusted=p)

    columns = [failing("slight", 0.75, 1e-16), failing("grave", 0.25, 3e-16), failing("likely", 0.1, 1e-9)]
    made = conditional(columns, None, 5000, subject="The 90% intervals hold")
    assert "grave is here" in made.sentence


def test_columns_that_cannot_be_cut_are_not_called_missing():
    made = [conditional([], None, 500, subject="", given=given).sentence for given in (0, 1, 3)]
    assert made[0] == "No columns were given by which rows could be grouped (--group)."
    assert made[1].startswith("The only column given cannot be cut into groups")
    assert made[2].startswith("None of 3 columns given can be cut into groups")


def test_a_good_answer_on_groups_has_the_title_of_its_kind():
    group = Group("here", 500, 0.9, 0.87, 0.93, 0.5, 1.0, 1.0, 0.8, 0.9)
    column = Column("x", (group,), statistic=0.1, p_value=0.8, adjusted=0.8)
    made = conditional([column], None, 500, subject="", title="Right everywhere")
    assert (made.grade, made.title) == ("good", "Right everywhere")


def test_few_rows_win_no_comparison():
    wide, narrow = np.linspace(2, 3, 100)[:, None], np.linspace(1, 1.1, 100)[:, None]
    few = compared(narrow[:19], wide[:19], "CRPS", "a rule")
    assert (few.grade, few.title) == ("open", "Too few rows for a comparison with the baseline")
    assert few.sentence.endswith("but of 19 rows; at least 20 are needed to judge.")
    assert compared(narrow, wide, "CRPS", "a rule").grade == "good"


@pytest.mark.parametrize(("factor", "grade"), [(0.99, "open"), (1.01, "good")])
def test_a_gain_is_held_against_student_s_law(factor, grade):
    n, level = 20, 0.01
    spread = np.linspace(-1, 1, n)
    error = spread.std(ddof=1) / n**0.5
    gain = spread + factor * stats.t(n - 1).ppf(1 - level / 2) * error
    assert compared(10 - gain, np.full(n, 10.0), "CRPS", "a rule", level=level).grade == grade
