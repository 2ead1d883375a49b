"""Conditions on a report's numbers say what they mean, and refuse what means nothing."""

import math

import pytest

from kernelfield.uq.conditions import Condition

NUMBERS = {"coverage90": 0.85, "crps": 1.5, "nll": -2.0, "bad_lights": 1.0, "ence": math.nan}


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("coverage90<0.87", True),
        ("coverage90 < 87%", True),
        ("coverage90<0.85", False),
        ("coverage90<=0.85", True),
        ("crps>1.5", False),
        ("crps>=1.5", True),
        ("nll > -2.5", True),
        ("nll<-1e-3", True),
        ("bad_lights>0", True),
    ],
)
def test_a_condition_is_compared_with_the_number_of_its_name(text, true):
    assert Condition.parse(text).holds(NUMBERS) is true


@pytest.mark.parametrize("text", ["", "coverage90", "coverage90<", "<0.9", "crps=1", "crps<x", "crps<nan", "a<1<2"])
def test_what_is_no_condition_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"as coverage90<0\.87, got"):
        Condition.parse(text)


def test_an_unknown_name_lists_those_there_are_and_the_nearest():
    with pytest.raises(ValueError, match=r"'coverage9'; did you mean coverage90\? It has coverage90, crps, nll"):
        Condition.parse("coverage9<0.87").holds(NUMBERS)


def test_a_number_that_the_report_could_not_have_is_an_error_and_no_pass():
    with pytest.raises(ValueError, match=r"ence>0\.1 cannot be judged"):
        Condition.parse("ence>0.1").holds(NUMBERS)
