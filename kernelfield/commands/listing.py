"""The command that lists models by name."""

from collections.abc import Iterable

import typer
from rich.table import Table

from kernelfield.commands.console import as_json, out
from kernelfield.commands.options import AsJson
from kernelfield.models.entry import ANY, Entry
from kernelfield.models.zoo import CLASSIFIERS, MODELS


def models(json_too: AsJson = False) -> None:
    """List the models that `fit` and `compare` know; those of classes go with --classify."""
    if json_too:
        typer.echo(as_json([record(one) for one in (*MODELS.values(), *CLASSIFIERS.values())]), nl=False)
        return
    out.print(_table("Regression", MODELS.values()))
    out.print()
    out.print(_table("Classification, with --classify", CLASSIFIERS.values()))


def record(one: Entry) -> dict[str, object]:
    """What is known of a model, in types of JSON; null is a range without an end."""
    ranges = {"rows": one.rows, "inputs": one.inputs}
    return {
        "name": one.name,
        "task": "classification" if CLASSIFIERS.get(one.name) is one else "regression",
        "family": one.family,
        "advice": one.advice,
        **{name: [low, None if high == ANY else high] for name, (low, high) in ranges.items()},
        "quick": one.quick,
        "any_table": one.table,
    }


def _table(title: str, entries: Iterable[Entry]) -> Table:
    table = Table(box=None, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("rows", no_wrap=True, justify="right")
    table.add_column("what it is")
    members: dict[str, list[Entry]] = {}
    for one in entries:
        members.setdefault(one.family, []).append(one)
    for family, each in members.items():
        table.add_row(f"[dim]{family}[/dim]")
        for one in each:
            table.add_row(f"  {one.name}", "any" if one.rows[1] == ANY else f"to {one.rows[1]:,}", one.advice)
    return table
