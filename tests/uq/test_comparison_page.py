"""The page of a comparison stands alone, names every model, and shares the style of the reports."""

import re
from dataclasses import replace

import numpy as np
import pytest

from kernelfield.uq.comparison import Comparison, Contender
from kernelfield.uq.comparison_page import behind, by_fold
from kernelfield.uq.plots import COLOURS
from kernelfield.uq.report import Report
from kernelfield.uq.scores import baseline
from tests.uq.test_comparison import comparison, world


def texts(svg: str) -> str:
    return " ".join(re.findall(r">([^<>]+)</text>", svg))


def test_a_page_stands_alone_and_says_what_the_record_says() -> None:
    result = comparison(
        failures={"grid": "the rows are no <grid>"},
        advice={"true": "what is", "near": "nearly", "wide": "unsure", "grid": "of cells"},
        notes=["column 'x' was filled"],
        provenance={"seed": 0, "data": None},
    )
    page = result.to_html()
    assert page.lower().startswith("<!doctype html")
    assert not re.search(r"https?://(?!www.w3.org)", page)
    assert "the rows are no &lt;grid&gt;" in page
    for words in (
        "not distinguishable from the best",
        "column &#39;x&#39; was filled",
        "what is",
        "3 models",
        "118 rows",
    ):
        assert words in page
    row = re.search(r"wide <small>.*?</tr>", page, re.DOTALL)[0]
    wide = result.standings[2]
    assert f"+{wide.difference:.3f} [+{wide.low:.3f}, +{wide.high:.3f}]" in row
    assert f"{wide.contender.scores()['coverage90']:.1%}" in row
    assert page.count("<svg ") == 2 + 3
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert not any(colour in page for colour in COLOURS)


def test_the_style_is_that_of_the_reports() -> None:
    evaluation = comparison().best.pooled()
    report = Report("gp", ["y"], evaluation, baseline(evaluation.y, evaluation.y), 10).to_html()
    styles = [re.search(r"<style>.*?</style>", page, re.DOTALL)[0] for page in (report, comparison().to_html())]
    assert styles[0] == styles[1]


def test_one_model_alone_has_a_page_without_differences() -> None:
    page = comparison(contenders=[world()["wide"]]).to_html()
    assert "How far behind the best?" not in page
    assert "<h1>1 model " in page


@pytest.mark.parametrize("shift", [0.0, 0.02, 30.0, np.inf])
def test_figures_hold_every_name_wherever_it_stands(shift: float) -> None:
    models = world()
    far = models["near"]
    moved = replace(far, name="far", evaluations=[replace(e, nll=e.nll + shift) for e in far.evaluations])
    result = Comparison(["y"], [models["true"], models["wide"], moved], models["mean"])
    drawn = behind(result.standings, "NLL", prefix="b-")
    assert all(name in texts(drawn) for name in ("true", "wide", "far"))
    drawn = by_fold([one.contender for one in result.standings], "nll", "NLL", prefix="f-")
    assert all(name in texts(drawn) for name in ("true", "wide", "far"))
    assert "nan" not in drawn


def test_equal_models_have_figures_too() -> None:
    one = world()["true"]
    twins = [Contender(name, one.evaluations) for name in ("a", "b")]
    result = Comparison(["y"], twins, world()["mean"])
    assert result.standings[1].open
    assert "b" in texts(behind(result.standings, "NLL", prefix="b-"))
