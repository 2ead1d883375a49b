"""Progress of long work, shown on a terminal and nowhere else."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text


class _Listener(logging.Handler):
    """Shows the messages of the fit."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        self.show(record.getMessage())


@contextmanager
def _listening(show: Callable[[str], None]) -> Iterator[None]:
    log = logging.getLogger("kernelfield.models.fit")
    listener, level = _Listener(show), log.level
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.setLevel(level)


@contextmanager
def status(console: Console, title: str, *, doing: str = "fitting") -> Iterator[None]:
    """A line that follows the fit, on a terminal."""
    if not console.is_terminal:
        yield
        return
    with console.status(f"{doing} {title}") as line, _listening(lambda text: line.update(f"{title}: {text}")):
        yield


@contextmanager
def bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda rows: progress.advance(task, rows)


Pass = Callable[[str, int, int, float | None], None]


@contextmanager
def passes(console: Console) -> Iterator[Pass]:
    """A progress bar of rows that go by, with their rate, on a terminal.

    Told are the stage, rows since the last word, all rows of the stage, and a loss if there is one.
    """
    rate, state = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[state]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), state)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, rows: int, total: int, loss: float | None) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[stage] = progress.add_task(stage, total=total, rate="", state="")
            progress.update(tasks[stage], advance=rows, state="" if loss is None else f"loss {loss:.4g}")
            speed = progress.tasks[tasks[stage]].speed
            progress.update(tasks[stage], rate="" if speed is None else f"{speed:,.0f} rows/s")

        def hear(text: str) -> None:
            if tasks:
                progress.update([*tasks.values()][-1], state=text)

        with _listening(hear):
            yield tell


@contextmanager
def race(console: Console, names: Sequence[str], total: int) -> Iterator[Callable[[str, str | None], None]]:
    """A progress bar each, on a terminal; told a name alone it follows that one's fit, with a word it moves it on."""
    state = TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), state)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = {name: progress.add_task(name, total=total, state="") for name in names}
        running = [names[0]]

        def tell(name: str, word: str | None) -> None:
            running[0] = name
            progress.update(tasks[name], advance=0 if word is None else 1, state="fitting" if word is None else word)

        with _listening(lambda text: progress.update(tasks[running[0]], state=text)):
            yield tell


LATEST = 12  # rows of a ledger that are seen at a time
Tell = Callable[[int, Sequence[str], str], None]


@contextmanager
def ledger(console: Console, headings: Sequence[str]) -> Iterator[Tell]:
    """The latest rows of a table that grows, on a terminal; a row told again by its key takes its own place.

    Told too is the line above the table. Elsewhere than on a terminal nothing is shown.
    """
    if not console.is_terminal:
        yield lambda key, cells, caption: None
        return
    rows: dict[int, Sequence[str]] = {}

    def drawn(caption: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=caption, title_justify="left")
        for heading in headings:
            table.add_column(heading)
        for key in sorted(rows)[-LATEST:]:
            # A column that may not wrap would take its share of the width from each of the others, however narrow.
            table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in rows[key]))
        return table

    with Live(drawn(""), console=console, transient=True) as live:

        def tell(key: int, cells: Sequence[str], caption: str) -> None:
            rows[key] = cells
            live.update(drawn(caption))

        yield tell
