"""What commands do alike: say things, refuse in one sentence, check outputs before the work."""

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table

from kernelfield.core.files import require_writable
from kernelfield.linalg.ranks import here

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def boundary() -> Iterator[None]:
    """Turn what is wrong with the data or the request into one sentence and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted; every file is whole, as it was before or finished", style="red")
        raise typer.Exit(130) from None
    except (ValueError, OSError, MemoryError, ImportError, NotImplementedError, torch.OutOfMemoryError) as error:
        sentence = str(error) or f"{type(error).__name__} without further words"
        err.quiet = not here().speaks(sentence)
        err.print(f"error: {sentence}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from None


def say(*notes: str) -> None:
    for text in notes:
        err.print(f"note: {text}", style="yellow", soft_wrap=True, markup=False)


def check_outputs(inputs: Sequence[Path | None], outputs: Sequence[Path | None], folder: Path | None = None) -> None:
    """Refuse files that cannot be written, meet each other or an input, or lie in a model's folder."""
    for path in filter(None, outputs):
        require_writable(path)
    taken = {path.resolve(): "is to be read" for path in inputs if path}
    for path in filter(None, outputs):
        place = path.resolve()
        if place in taken:
            raise ValueError(f"{path} {taken[place]} already and cannot be written too; give the output another name")
        if folder and (place == folder.resolve() or folder.resolve() in place.parents):
            raise ValueError(f"{path} lies in the folder of the model {folder}; give it a place outside")
        taken[place] = "is to be written"


def require_pages() -> None:
    """Errors: ImportError, with the remedy, if what pages need is not installed; before any work."""
    importlib.import_module("kernelfield.uq.page")


def as_json(content: object) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_files(**files: Path | None) -> None:
    for what, path in files.items():
        if path:
            out.print(f"{what}: {path}", soft_wrap=True, markup=False)
