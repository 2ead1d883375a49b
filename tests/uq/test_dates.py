"""Dates, which are computed with as days since 1970, are shown as dates wherever a report shows them."""

import re
from functools import cache

import numpy as np
import pytest

from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.report import Report
from kernelfield.uq.rows import Rows

DAYS = 19_723.0 + np.arange(600) // 5  # from 2024-01-01 on; errors grow with 2024-03-22
LATE = np.arange(600) >= 400


@cache
def made(kind: str) -> Report | ClassReport:
    rng = np.random.default_rng(0)
    columns = {"day": DAYS, "shift": np.arange(600) % 40.0}
    rows = Rows(columns, groups=["shift"], time="day", dates=["day"])
    if kind == "classes":
        return ClassReport.from_arrays(
            (rng.random(600) > np.where(LATE, 0.4, 0.9)).astype(int), np.tile([0.9, 0.1], (600, 1)), rows=rows
        )
    y = rng.standard_normal(600) * np.where(LATE, 4.0, 1.0)
    return Report.from_arrays(y, mean=np.zeros(600), std=np.ones(600), rows=rows)


KINDS = pytest.mark.parametrize("kind", ["regression", "classes"])


@KINDS
def test_sentences_say_dates(kind):
    words = " ".join(f"{verdict.sentence} {verdict.remedy}" for verdict in made(kind).verdicts)
    assert "Alarm at 2024-0" in words
    assert "day is 2024-0" in words or "day > 2024-0" in words
    assert not re.search(r"\b19[78]\d\d\b", words)


@KINDS
def test_the_page_says_dates(kind):
    texts = re.findall(r">([^<]+)<", made(kind).to_html())
    assert not [text for text in texts if re.search(r"(?<![\d.,])19,?[78]\d\d(?![\d.,])", text)]
    ticks = [text for text in texts if re.fullmatch(r"2024-0\d-01", text)]
    assert len(ticks) >= 6  # of the two figures over time
    assert any(text.startswith("2024-01-01 to 2024-01-12") for text in texts)


@KINDS
def test_columns_that_were_asked_for_come_first_and_value_by_value(kind):
    report = made(kind)
    findings = report.findings if isinstance(report, ClassReport) else report.parts[0].findings
    assert (findings.columns[0].name, len(findings.columns[0].groups)) == ("shift", 40)
