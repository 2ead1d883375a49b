"""The command line: tables in; a model, predictions and an uncertainty report out. Or equations in, solutions out;
or a function in, its optimum out.

    kernelfield demo                                             see what it does
    kernelfield fit DATA.csv --target Y -o MODEL --report R.html
    kernelfield predict MODEL NEW.csv -o OUT.csv
    kernelfield report MODEL --data D.csv --target Y -o R.html
    kernelfield report --arrays P.csv --columns y=Y,mean=M,std=S -o R.html
    kernelfield calibrate MODEL --data D.csv -o NEW
    kernelfield compare DATA.csv --target Y -o R.html
    kernelfield models
    kernelfield pretrain -o NET.safetensors
    kernelfield solve NAME -o FOLDER
    kernelfield optimise MODULE:FUNCTION --space SPACE.toml --trials N
    kernelfield bench bo --suite quick -o FOLDER

Results go to standard output; notes, progress and errors to standard error, progress only to a
terminal. Exit codes: 0 done, 1 the data or the request is wrong (one sentence says what and what
to do), 2 usage, 130 interrupted. Outputs are checked before the work and written whole after it.
"""

from typing import Annotated

import typer

from kernelfield.commands.bench import app as bench
from kernelfield.commands.calibrate import calibrate
from kernelfield.commands.compare import compare
from kernelfield.commands.console import boundary
from kernelfield.commands.launch import launched
from kernelfield.commands.listing import models
from kernelfield.commands.optimise import optimise
from kernelfield.commands.pretrain import pretrain
from kernelfield.commands.report import report
from kernelfield.commands.solve import solve
from kernelfield.commands.tables import demo, fit, predict
from kernelfield.core.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (demo, fit, predict, report, calibrate, compare, models, pretrain, solve, optimise):
    app.command()(command)
app.add_typer(bench, name="bench")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kernelfield {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Regression and classification with uncertainty from tables: fit, predict, report. Also: solve, optimise."""
    with boundary():
        context.with_resource(launched(context.invoked_subcommand))
