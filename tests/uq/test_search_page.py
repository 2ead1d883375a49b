"""The page of an optimisation is whole, escaped and small, whatever the trials were."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from kernelfield.uq.plots import COLOURS
from kernelfield.uq.search import Course, Parameter
from kernelfield.uq.search_page import leading
from kernelfield.uq.search_plots import _stairs, near
from kernelfield.uq.search_report import SearchReport
from kernelfield.uq.search_tables import best_rows, headings, messages, spoken
from kernelfield.uq.words import number
from tests.uq.courses import course, report, slices

COURSES = {
    "0": lambda: course(0),
    "1": lambda: course(1),
    "none finished": lambda: course(8, failing=1.0),
    "none feasible": lambda: replace(course(20, constrained=True), constraints=np.ones((20, 2))),
    "usual": lambda: course(60, constrained=True, failing=0.1),
    "three objectives": lambda: course(40, m=3, constrained=True),
    "equal values": lambda: replace(course(20), values=np.full((20, 1), 3.0), means=None, stds=None),
    "equal values, predicted": lambda: replace(course(20), values=np.full((20, 1), 3.0)),
    "huge": lambda: replace(course(20), values=course(20).values * 1e300, means=None, stds=None),
    "maximum": lambda: replace(course(20), directions=["maximize"], optimum=1e3),
    "regret of nothing": lambda: replace(course(20), values=np.zeros((20, 1)), optimum=0.0),
}


QUICK = ("0", "none finished", "usual")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COURSES]


@cache
def page(name: str) -> str:
    made = COURSES[name]()
    few = slices(made, ["x<1>", "kind $a_"])
    return report(made, slices=few).to_html()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_stands_alone_whatever_the_trials_were(name: str) -> None:
    text = page(name)
    assert text.lower().startswith("<!doctype html")
    assert not re.search(r"https?://|//cdn|\bsrc=|@import|\burl\((?!#)", text)
    assert text.count("<script>") == ("Best trials" in text)
    assert "document.title" not in re.sub(r"&lt;script&gt;.*?&lt;/script&gt;", "", text)
    assert not any(colour in text for colour in COLOURS)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert all(caption in ids for caption in re.findall(r'aria-labelledby="([^"]*)"', text))
    assert text.count('role="img"') == text.count("<figure>") == text.count("<figcaption")
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"\bnan\b|\binf\b", drawn)


def test_the_page_has_a_figure_for_every_question() -> None:
    text = page("usual")
    for title in (
        "Does it still improve?",
        "How far is it from the optimum?",
        "Were predictions near what was observed?",
        "Does it learn from its errors?",
        "Could it be trusted at the time?",
        "Where are good trials?",
        "Importance of parameters",
        "How much was hoped for?",
        "How long did trials take?",
        "Failed trials",
        "Best trials",
        "Provenance",
        "Hyperparameters",
    ):
        assert f">{title}</h" in text
    assert "tuning &lt;of&gt; a &amp; b" in text
    assert "x&lt;1&gt;" in text and "x<1>" not in text
    assert "two trials ran twice" in text


@pytest.mark.slow
def test_three_objectives_have_a_volume_and_a_trade_off_of_each_pair() -> None:
    text = page("three objectives")
    assert text.count("What is the trade-off?") == 3
    assert "Does the front still advance?" in text
    assert "Was the surrogate right about memory?" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [course(2000, extra=196, failing=0.05, constrained=True), course(2000, m=3)],
    ids=["200 parameters", "3 objectives"],
)
def test_a_page_of_two_thousand_trials_is_below_one_and_a_half_megabytes(made: Course) -> None:
    text = report(made).to_html()
    assert len(text.encode()) < 1_500_000
    assert "The 12 most important of 200 parameters." in text or len(made.parameters) == 4
    assert f"400 of {int(made.finished.sum()):,} trials." in text


def test_the_table_holds_the_best_trials_and_what_was_said_of_them() -> None:
    made = course(60, constrained=True, failing=0.1)
    rows = list(best_rows(made, ["width", "kind $a_"]))
    heads = headings(made, ["width", "kind $a_"])
    assert heads == ["Trial", "loss", "Predicted", "Slack", "Seconds", "width", "kind $a_"]
    assert [row["cells"][0]["value"] for row in rows] == [str(trial) for trial in made.order[:50]]
    for row, trial in zip(rows, made.order.tolist(), strict=False):
        cells = dict(zip(heads, row["cells"], strict=True))
        assert float(cells["loss"]["value"]) == made.values[trial, 0]
        assert float(cells["Slack"]["value"]) == -made.constraints[trial].max() >= 0
        said = made.means[trial, 0]
        assert cells["Predicted"]["text"].startswith(number(float(said)) if np.isfinite(said) else "\N{EN DASH}")
        assert cells["kind $a_"]["text"] == str(made.params[trial]["kind $a_"])
        assert (cells["width"]["value"] == "") == ("width" not in made.params[trial])


def test_only_a_front_of_several_objectives_is_bold() -> None:
    made = course(30, m=2)
    rows = list(best_rows(made, []))
    assert [row["front"] for row in rows] == [trial in made.front for trial in made.order]
    assert not any(row["front"] for row in best_rows(course(30), []))


def test_equal_messages_are_written_once_and_long_ones_keep_their_end() -> None:
    n = 20
    told = ["boom"] * 15 + ["x" * 5000 + "the end"] + ["", " ", "", ""]
    states = ["failed"] * 18 + ["complete"] * 2
    values = np.array([np.nan] * 18 + [np.inf, 1.0])[:, None]
    found = messages(Course([], [{}] * n, values, ["minimize"], states, messages=told))
    assert found[0] == {"trials": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more", "message": "boom"}
    assert found[1]["message"].endswith("xthe end") and len(found[1]["message"]) == 2002
    assert found[2] == {"trials": "16, 17", "message": "(no message)"}
    assert found[3] == {"trials": "18", "message": "complete, with values that are not finite: inf"}


def test_the_most_important_parameters_come_first() -> None:
    made = course(5, extra=3)
    weights = {"p2": 0.5, "rate": 0.2, "p0": 0.0}
    assert leading(SearchReport(made, importances=weights)) == ["p2", "rate", "p0", "x<1>", "width", "kind $a_", "p1"]


def test_provenance_is_written_for_a_reader() -> None:
    assert spoken({"a": 0.123456, "b": [1, 2]}) == "a: 0.1235, b: 1, 2"
    assert spoken(list(range(14))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (14 in all)"
    assert spoken(None) is None


def test_an_axis_leaves_out_what_is_far_worse_than_most_but_never_the_best() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 1e6])
    assert near(values, -1.0).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert near(-values, 1.0).tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert near(np.array([-1e6, 1.0, 2.0]), -1.0).tolist() == [-1e6, 1.0, 2.0]
    assert near(np.array([5.0, 5.0, 5.0, 9.0]), -1.0).tolist() == [5.0, 5.0, 5.0, 9.0]


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_the_edge_of_a_front_encloses_its_hypervolume(signs: tuple[int, int]) -> None:
    turned = np.array(signs, dtype=float)
    made = replace(course(40, m=2), directions=["maximize" if sign > 0 else "minimize" for sign in signs])
    x, y = _stairs(made.values[made.front], turned, made.corner)
    x, y = turned[0] * (x - made.corner[0]), turned[1] * (y - made.corner[1])
    assert -np.sum(np.diff(x) * y[1:]) == pytest.approx(made.hypervolume[-1], rel=1e-12)


def test_a_parameter_without_importance_or_slices_is_still_drawn() -> None:
    made = Course([Parameter("x", "real", 0, 1)], [{"x": 0.1}, {}], [[1.0], [2.0]], ["minimize"], ["complete"] * 2)
    text = SearchReport(made).to_html()
    assert "Where are good trials?" in text and ">absent</text>" in text
    assert "What the surrogate believes" not in text and "Which parameters matter?" not in text
