"""Progress of long work, shown on a terminal and nowhere else."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status


class _Listener(logging.Handler):
    """Shows the messages of the fit in a status line."""

    def __init__(self, status: Status, title: str) -> None:
        super().__init__()
        self.status, self.title = status, title

    def emit(self, record: logging.LogRecord) -> None:
        self.status.update(f"{self.title}: {record.getMessage()}")


@contextmanager
def status(console: Console, title: str, *, doing: str = "fitting") -> Iterator[None]:
    """A line that follows the fit, on a terminal."""
    if not console.is_terminal:
        yield
        return
    log = logging.getLogger("kernelfield.models.fit")
    with console.status(f"{doing} {title}") as status:
        listener, level = _Listener(status, title), log.level
        log.addHandler(listener)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(listener)
            log.setLevel(level)


@contextmanager
def bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda rows: progress.advance(task, rows)
