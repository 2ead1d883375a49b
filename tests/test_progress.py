"""Progress goes to terminals alone and leaves the log as it found it."""

import io
import logging

import pytest
from rich.console import Console

from kernelfield.progress import bar, status


@pytest.mark.parametrize("terminal", [False, True])
def test_a_status_line_follows_the_fit_on_a_terminal(terminal: bool) -> None:
    log = logging.getLogger("kernelfield.models.fit")
    before = (list(log.handlers), log.level)
    out = io.StringIO()
    with status(Console(file=out, force_terminal=terminal, width=80), "gp"):
        assert (len(log.handlers) > len(before[0])) == terminal
        log.info("step seven")
    assert (list(log.handlers), log.level) == before
    assert ("gp" in out.getvalue()) == terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_counts_rows_on_a_terminal(terminal: bool) -> None:
    out = io.StringIO()
    with bar(Console(file=out, force_terminal=terminal, width=80), "testing", 4) as tick:
        tick(3)
    assert ("testing" in out.getvalue()) == terminal
