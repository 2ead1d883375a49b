"""Lights of several outputs are one, and advice is of what is red."""

from dataclasses import replace

from kernelfield.uq.lights import Verdict, advice, drifted, shared, unfamiliar

RED = Verdict("bad", "Intervals are too narrow", "They are.", "calibration", 0.8, 0.7, 0.85, 100, 0.9, "Recalibrate.")


def test_outputs_that_lack_the_same_share_their_words():
    alike = shared([unfamiliar(None), unfamiliar(None)], ["a", "b"])
    assert alike == unfamiliar(None)


def test_the_worst_output_sets_the_grade():
    green = replace(RED, grade="good", remedy="")
    made = shared([green, RED, replace(green, grade="open", title="Too few rows")], ["a", "b", "c"])
    assert (made.grade, made.title) == ("bad", "Intervals keep their promise for 1 of 3 outputs")
    assert made.sentence == "Except for b (intervals are too narrow), c (too few rows)."
    assert made.remedy == "b: recalibrate."


def test_advice_is_of_red_lights_and_groups_wait_for_recalibration():
    groups = replace(RED, name="conditional", remedy="Not in Bern.")
    assert advice([RED, groups, drifted(None, 100)]) == [
        "Recalibrate.",
        "Not in Bern. Judge groups again after recalibration.",
    ]
    assert advice([groups]) == ["Not in Bern."]
    assert advice([]) == []
