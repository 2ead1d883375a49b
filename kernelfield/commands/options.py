"""The arguments and options that commands share, with their checks and the words that explain them."""

from pathlib import Path
from typing import Annotated, Any

import typer


def _between(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"must lie between 0 and 1, got {value:g}; write 0.9 for 90%")
    return value


def _share(value: float | None) -> float | None:
    if value is not None and not 0 <= value < 1:
        raise typer.BadParameter(f"must be a share of the rows, at least 0 and below 1, got {value:g}")
    return value


def option(*names: str, metavar: str, text: str, **settings: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, **settings)


DataFile = Annotated[Path, typer.Argument(metavar="DATA", help="Table: .csv, .tsv (also .gz) or .parquet.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder that `fit` wrote.")]
Targets = Annotated[list[str], option("--target", metavar="COLUMN", text="What to predict; may be repeated.")]
Drop = Annotated[list[str] | None, option("--drop", metavar="COLUMN", text="Not to learn from; may be repeated.")]
ModelName = Annotated[
    str | None, option("--model", metavar="NAME", text="One that `kernelfield models` lists.", show_default="gp, gpc")
]
Classify = Annotated[bool, typer.Option("--classify", help="The target holds classes: text, or whole numbers.")]
TestShare = Annotated[
    float | None,
    option("--test-size", metavar="SHARE", text="Rows to test on; 0 for none.", callback=_share, show_default="0.2"),
]
TestFile = Annotated[Path | None, option("--test", metavar="FILE", text="Table to test on, instead of a share.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="NUMBER", help="Of the split and of the fit.")]
Level = Annotated[float, option("--level", metavar="P", text="Probability of the intervals.", callback=_between)]
ReportFile = Annotated[Path | None, option("--report", metavar="FILE", text="Write an HTML report.")]
JsonFile = Annotated[Path | None, option("--json", metavar="FILE", text="Write the report as JSON.")]
NewModel = Annotated[Path, option("--output", "-o", metavar="MODEL_DIR", text="Folder for the model.")]
NewTable = Annotated[Path, option("--output", "-o", metavar="OUT", text="Table to write.")]
NewPage = Annotated[Path, option("--output", "-o", metavar="FILE", text="HTML file to write.")]
Unseen = Annotated[Path, option("--data", metavar="FILE", text="Table of rows that the fit has not seen.")]
NamedProblem = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One that --list shows.")]
ShowProblems = Annotated[bool, typer.Option("--list", help="List the problems that have a name.")]
EquationFile = Annotated[Path | None, option("--equation", metavar="FILE", text="A problem of your own, as TOML.")]
SolutionFolder = Annotated[Path | None, option("--output", "-o", metavar="FOLDER", text="For the solution's files.")]
SolverName = Annotated[str, option("--solver", metavar="NAME", text="One of `kernelfield.pde.solve`.")]
Nodes = Annotated[
    list[int] | None, option("--nodes", metavar="NUMBER", text="Along each axis; once for all, or once each.", min=2)
]
Picture = Annotated[bool, typer.Option("--picture/--no-picture", help="Draw solution.png.")]
DemoFolder = Annotated[Path, option("--output-dir", metavar="FOLDER", text="For report.html and report.json.")]
ModelNames = Annotated[
    str | None,
    option("--models", metavar="A,B,C", text="Of `kernelfield models`, with commas.", show_default="by data size"),
]
Folds = Annotated[int, typer.Option("--folds", min=2, metavar="NUMBER", help="Parts, each tested on once.")]
ComparisonPage = Annotated[Path | None, option("--output", "-o", metavar="FILE", text="HTML report to write.")]
ComparisonFile = Annotated[Path | None, option("--json", metavar="FILE", text="Write the comparison as JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
