"""The page of a report in a real browser: phone and desktop, light and dark, and nothing asked of the network."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_search_page import widths
from tests.uq import test_class_report, test_report

MADE = {
    "regression": test_report.full,
    "two outputs": lambda: test_report.full(m=2),
    "few rows": lambda: test_report.report(3),
    "classes": test_class_report.full,
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the file of a report's page."""
    folder = tmp_path_factory.mktemp("pages")

    @cache
    def file(name: str) -> Path:
        path = folder / f"{name}.html"
        path.write_text(MADE[name]().to_html(), encoding="utf-8")
        return path

    return file


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_everything_is_seen_and_nothing_overflows(opened: Any, pages: Any, name: str, width: int, scheme: str) -> None:
    page = opened(pages(name), color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    content, window = widths(page)
    assert content <= window == width
    seen = [*page.locator("figure svg").all(), *page.locator("table").all(), *page.locator(".verdicts li").all()]
    assert len(seen) >= 10
    for element in seen:
        box = element.bounding_box()
        assert box is not None and box["width"] > 100 and box["height"] > 15
    ink, paper = (
        page.locator("body").evaluate(f"e => getComputedStyle(e).{what}") for what in ("color", "backgroundColor")
    )
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")


def brightness(colour: str) -> int:
    return sum(map(int, colour[4:-1].split(",")))


def test_a_hostile_name_stays_text(opened: Any, pages: Any) -> None:
    page = opened(pages("classes"))
    assert test_report.BAD in page.locator("table.listing thead").inner_text()
    assert page.locator("script").count() == 1


def test_worst_cases_are_sorted_and_filtered_by_keyboard_alone(opened: Any, pages: Any) -> None:
    page = opened(pages("regression"))
    head = page.get_by_role("button", name="Deviations off")
    head.focus()
    page.keyboard.press("Enter")

    def shown(index: int) -> list[str]:
        rows = page.locator("table.listing tbody tr:visible").all()
        return [row.locator("th, td").nth(index).inner_text() for row in rows]

    off = [float(text.replace("\N{MINUS SIGN}", "-")) for text in shown(4)]
    assert len(off) == 20 and off == sorted(off)
    page.get_by_label("Filter").focus()
    page.keyboard.type("bern")
    assert set(shown(5)) == {"Bern"}


def test_every_figure_is_described_by_its_caption(opened: Any, pages: Any) -> None:
    page = opened(pages("regression"))
    for figure in page.locator("figure").all():
        name = figure.locator("svg").get_attribute("aria-labelledby")
        assert len(figure.locator(f"#{name}").inner_text()) > 40
