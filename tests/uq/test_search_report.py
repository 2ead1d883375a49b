"""Verdicts on an optimisation say what its figures say, and the numbers are strict JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kernelfield.uq.search import Course, Parameter
from kernelfield.uq.search_report import SearchReport, Slice
from tests.uq.courses import MESSAGE, course, report


def titles(made: Course) -> list[str]:
    return [verdict.title for verdict in SearchReport(made).verdicts()]


@pytest.mark.parametrize(("boast", "word"), [(0.6, "overconfident"), (1.0, "honest"), (3.0, "underconfident")])
def test_a_surrogate_is_judged_by_the_share_that_its_intervals_held(boast, word):
    made = course(100, boast=boast)
    _, honesty, gain = SearchReport(made).verdicts()
    held = np.mean(
        (made.evaluations[0].low <= made.evaluations[0].y) & (made.evaluations[0].y <= made.evaluations[0].high)
    )
    assert honesty.title == f"The surrogate is {word}"
    assert honesty.sentence.startswith(f"The surrogate's 90% intervals held {held:.0%} of 88 trials")
    assert gain.title == "The surrogate is better than the baseline"


def test_a_surrogate_that_knows_nothing_is_no_better_than_the_baseline():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 1))
    made = Course(
        [], [{}] * 200, values, ["minimize"], ["complete"] * 200, means=np.ones((200, 1)), stds=np.ones((200, 1))
    )
    assert "The surrogate is worse than the baseline" in titles(made)


def test_few_predictions_are_not_judged():
    assert titles(course(12))[1] == "Too few predictions to judge the surrogate"


def test_a_late_gain_leaves_the_question_open():
    values = np.linspace(9, 1, 30)[:, None]
    falling = Course([], [{}] * 30, values, ["minimize"], ["complete"] * 30)
    assert titles(falling) == ["Best value 1, at trial 29, still improving"]
    assert titles(replace(falling, values=values[::-1])) == ["Best value 1, at trial 0"]
    both = replace(falling, directions=["minimize"] * 2, values=np.hstack([values, values]), objectives=())
    assert titles(both) == ["1 trial that no other dominates, still improving"]
    turned = replace(both, values=np.hstack([values, values])[::-1])
    assert titles(turned) == ["1 trial that no other dominates"]


def test_nothing_found_is_said():
    assert titles(course(8, failing=1.0)) == ["No trial has a finite value", "6 trials failed"]
    made = course(20, constrained=True)
    broken = replace(made, constraints=np.ones_like(made.constraints))
    assert titles(broken)[0] == "No trial keeps the constraints"
    assert titles(Course([], [], np.empty((0, 1)), ["minimize"], [])) == ["No trial has a finite value"]


@pytest.mark.parametrize(("failing", "grade"), [(0.1, "open"), (0.6, "bad")])
def test_failures_are_counted_among_the_trials_that_ended(failing, grade):
    made = course(100, failing=failing)
    verdict = SearchReport(made).verdicts()[-1]
    failed, ended = made.counts["failed"], 99
    assert (verdict.grade, verdict.title) == (grade, f"{failed} trials failed")
    assert f"{failed / ended:.0%} of {ended} that ended" in verdict.sentence


def test_each_objective_has_its_own_answers():
    found = titles(course(60, m=2))
    assert found[1:3] == ["loss: the surrogate is honest", "loss: the surrogate is better than the baseline"]
    assert found[3].startswith("speed: ")


@pytest.mark.parametrize(
    "made", [course(0), course(1), course(30, m=3, constrained=True, failing=0.2)], ids=["0", "1", "30"]
)
def test_the_numbers_are_strict_json_with_the_same_keys(made):
    content = json.loads(json.dumps(report(made).to_dict(), allow_nan=False))
    assert list(content) == list(report(course(5)).to_dict())
    assert len(content["trials"]) == len(made.params)
    for index, trial in enumerate(content["trials"]):
        assert trial["number"] == index
        assert trial["values"] == [value if np.isfinite(value) else None for value in made.values[index]]
        assert trial["message"] == (MESSAGE if trial["state"] == "failed" else "")
        assert trial["params"] == dict(made.params[index])


def test_a_choice_that_json_has_no_form_for_is_written_as_text():
    made = Course(
        [Parameter("f", "categorical", choices=(len, (1, 2)))],
        [{"f": len}, {"f": (1, 2)}],
        [[1.0], [2.0]],
        ["minimize"],
        ["complete"] * 2,
    )
    content = json.loads(json.dumps(SearchReport(made).to_dict(), allow_nan=False))
    assert [trial["params"]["f"] for trial in content["trials"]] == [str(len), [1, 2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"importances": {"z": 1.0}}, "must be of parameters of the course, got 'z'"),
        ({"slices": [Slice("z", [0.0], np.zeros((1, 1)), np.ones((1, 1)))]}, "got 'z'"),
        ({"slices": [Slice("rate", [0.1], np.zeros((1, 2)), np.ones((1, 2)))]}, "a column for each of 1 objectives"),
    ],
)
def test_slices_and_importances_are_of_the_course(change, words):
    with pytest.raises(ValueError, match=words):
        replace(report(course(8)), **change)


def test_a_slice_has_a_value_for_each_point_of_its_grid():
    with pytest.raises(ValueError, match=r"of 2 values needs mean and std \(k, m\), got \(\(3, 1\), \(3, 1\)\)"):
        Slice("x", [0.0, 1.0], np.zeros((3, 1)), np.ones((3, 1)))
