"""Progress goes to terminals alone and leaves the log as it found it."""

import io
import logging

import pytest
from rich.console import Console

from kernelfield.progress import bar, ledger, race, status


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


@pytest.mark.parametrize("terminal", [False, True])
def test_a_race_shows_every_model_and_follows_the_one_that_runs(terminal: bool) -> None:
    log = logging.getLogger("kernelfield.models.fit")
    before = (list(log.handlers), log.level)
    out = io.StringIO()
    with race(Console(file=out, force_terminal=terminal, width=120), ["gp", "nngp"], 2) as tell:
        tell("gp", None)
        log.info("step seven")
        tell("gp", "NLL 3.2")
        tell("nngp", None)
        log.info("step [nine]")
    assert (list(log.handlers), log.level) == before
    assert all((word in out.getvalue()) == terminal for word in ("gp", "nngp", "NLL 3.2", "1/2", "step [nine]"))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_ledger_shows_its_latest_rows_each_once(terminal: bool) -> None:
    out = io.StringIO()
    with ledger(Console(file=out, force_terminal=terminal, width=120), ("trial", "value")) as tell:
        for number in range(15):
            tell(number, (f"<{number}>", "running"), "none of 15")
        tell(14, ("<14>", "0.[25]"), "1 of 15")
    last = out.getvalue().rpartition("1 of 15")[2]
    assert all((word in last) == terminal for word in ("<14>", "<3>", "0.[25]"))
    assert "<2>" not in last


def test_a_long_cell_of_a_ledger_is_cut_and_leaves_the_others_their_width() -> None:
    out = io.StringIO()
    with ledger(Console(file=out, force_terminal=True, width=60), ("trial", "value", "best so far")) as tell:
        tell(7, ("7", "failed: " + "long " * 60, "0.25"), "1 of 2")
    [row] = [line for line in out.getvalue().splitlines() if line.startswith("7 ")]
    assert row.split("…")[1].strip() == "0.25"
