"""The page of an optimisation in a real browser: what it shows, and that it asks nothing of the network."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.uq.courses import course, report, slices

COURSES = {
    "constrained": course(60, constrained=True, failing=0.1),
    "nothing finished": course(8, failing=1.0),
    "one trial": course(1),
    "three objectives": course(80, m=3),
    "many parameters": course(40, extra=30),
}
QUICK = ("constrained", "nothing finished")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COURSES]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the file of a course's page."""
    folder = tmp_path_factory.mktemp("pages")

    @cache
    def file(name: str) -> Path:
        path = folder / f"{name}.html"
        made = COURSES[name]
        path.write_text(report(made, slices=slices(made, ["rate", "kind $a_"])).to_html(), encoding="utf-8")
        return path

    return file


def widths(page: Any) -> tuple[int, int]:
    """Of the content and of the window."""
    return tuple(page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1200, 400])
def test_every_figure_and_table_is_seen_and_nothing_overflows(opened: Any, pages: Any, name: str, width: int) -> None:
    page = opened(pages(name))
    page.set_viewport_size({"width": width, "height": 900})
    content, window = widths(page)
    assert content <= window == width
    assert page.title() == "tuning <of> a & b \N{EN DASH} optimisation report"
    seen = [*page.locator("figure svg").all(), *page.locator("table").all(), *page.locator(".verdicts li").all()]
    assert len(seen) >= 4 and (name == "nothing finished" or page.locator("figure svg").count() >= 10)
    for element in seen:
        box = element.bounding_box()
        assert box is not None and box["width"] > 100 and box["height"] > 15


def test_names_and_messages_are_text_and_not_markup(opened: Any, pages: Any) -> None:
    page = opened(pages("constrained"))
    assert "<script>document.title = 'broken'</script> & more" in page.locator(".messages pre").first.inner_text()
    ticks = page.locator("figure:has(#parallel-caption) svg text").all_text_contents()
    assert {"x<1>", "kind $a_", "relu"} <= {text.strip() for text in ticks}


def column(page: Any, index: int) -> list[str]:
    """What a column shows, of the rows that are seen."""
    rows = page.locator("table.listing tbody tr:visible").all()
    return [row.locator("th, td").nth(index).inner_text() for row in rows]


def test_the_table_is_sorted_by_a_click_and_back_by_a_second(opened: Any, pages: Any) -> None:
    page = opened(pages("constrained"))
    ranked = column(page, 0)
    heads = page.locator("table.listing thead th")
    for _ in range(2):
        page.get_by_role("button", name="Trial").click()
    assert heads.nth(0).get_attribute("aria-sort") == "descending"
    assert [int(text) for text in column(page, 0)] == sorted(map(int, ranked), reverse=True)
    page.get_by_role("button", name="loss").click()
    assert (heads.nth(0).get_attribute("aria-sort"), heads.nth(1).get_attribute("aria-sort")) == ("none", "ascending")
    assert column(page, 0) == ranked
    page.get_by_role("button", name="width").click()  # of numbers as numbers, and what is absent at the end
    shown = column(page, 7)
    present = [int(text) for text in shown if text != "\N{EN DASH}"]
    assert present == sorted(present) and 1 < len(present) < len(shown)
    assert set(shown[len(present) :]) == {"\N{EN DASH}"}


def test_the_table_is_filtered_by_words(opened: Any, pages: Any) -> None:
    page = opened(pages("constrained"))
    total = len(column(page, 0))
    page.get_by_label("Filter").fill("RELU")
    kinds = column(page, 8)
    assert 0 < len(kinds) < total and set(kinds) == {"relu"}
    assert page.locator(".filter output").inner_text() == f"{len(kinds)} of {total} trials"
    page.get_by_label("Filter").fill("relu nowhere")
    assert column(page, 0) == []
    page.get_by_label("Filter").fill("")
    assert len(column(page, 0)) == total


def test_the_table_is_whole_without_scripts(browser: Any, pages: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages("constrained").as_uri())
    assert page.locator("table.listing tbody tr").count() == int(COURSES["constrained"].counted.sum())
    assert page.locator("table.listing button").count() == 0
    assert not page.locator(".filter").is_visible()
    context.close()


def test_colours_follow_the_reader_and_paper_is_white(opened: Any, pages: Any) -> None:
    def colours(**emulated: str) -> tuple[str, str]:
        page = opened(pages("constrained"), **emulated)
        script = "element => getComputedStyle(element).{}"
        line = page.locator("figure:has(#progress-caption) svg g[id*=line2d] path[style*=model]").first
        return page.locator("body").evaluate(script.format("backgroundColor")), line.evaluate(script.format("stroke"))

    light, dark = colours(color_scheme="light"), colours(color_scheme="dark")
    assert light[0] == "rgb(255, 255, 255)"
    assert sum(map(int, dark[0][4:-1].split(","))) < 150
    assert light[1] != dark[1]
    assert colours(color_scheme="dark", media="print") == light
