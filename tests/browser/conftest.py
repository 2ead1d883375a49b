"""A real browser for the pages, without a network; tests that need it are skipped where there is none."""

from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
QUIET = ("background-networking", "component-update", "sync")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", *(f"--disable-{what}" for what in QUIET)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright; pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """A function that opens a file; in the end its page must have asked for nothing else and complained of nothing."""
    heard: list[str] = []
    asked: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900})

    def go(path: Path, **emulated: str) -> Any:
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.emulate_media(**emulated)
        page.goto(path.as_uri())
        go.expected.append(path.as_uri())
        return page

    go.expected = []
    yield go
    context.close()
    assert heard == []
    assert asked == go.expected
