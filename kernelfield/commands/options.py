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
DataFiles = Annotated[
    list[Path],
    typer.Argument(metavar="DATA...", help="Tables, a folder or 'data/*.parquet': .csv, .tsv, .parquet, .arrow."),
]
CheckpointFolder = Annotated[
    Path | None,
    option("--checkpoint", metavar="DIR", text="Keep the fit here each minute; given again, go on from there."),
]
Corrected = Annotated[
    bool | None,
    typer.Option(
        "--calibrate/--no-calibrate",
        help="Let half of the held-out rows correct the uncertainty, where that helps.",
        show_default="where an approximation is chosen by rows",
    ),
]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder that `fit` wrote.")]
Targets = Annotated[list[str], option("--target", metavar="COLUMN", text="What to predict; may be repeated.")]
Drop = Annotated[list[str] | None, option("--drop", metavar="COLUMN", text="Not to learn from; may be repeated.")]
ModelName = Annotated[
    str | None, option("--model", metavar="NAME", text="One that `kernelfield models` lists.", show_default="by rows")
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
NewCheckpoint = Annotated[Path, option("--output", "-o", metavar="FILE", text="Checkpoint to write, a .safetensors.")]
PriorName = Annotated[
    str, option("--prior", metavar="NAME", text="Law of tasks: general, processes, networks, or rbf, a fixed process.")
]
MostRows = Annotated[
    int | None, option("--rows", metavar="NUMBER", text="Most rows of a task.", min=1, show_default="by the prior")
]
MostColumns = Annotated[
    int | None, option("--columns", metavar="NUMBER", text="Most columns.", min=1, show_default="by the prior")
]
Steps = Annotated[
    int | None, option("--steps", metavar="NUMBER", text="Of the training.", min=1, show_default="by the prior")
]
Layers = Annotated[int, typer.Option("--layers", min=1, metavar="NUMBER", help="Of the transformer.")]
Width = Annotated[int, typer.Option("--width", min=4, metavar="NUMBER", help="Of its layers, a multiple of four.")]
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
Objective = Annotated[str | None, typer.Argument(metavar="[TARGET]", help="The function to optimise, module:function.")]
ShellCommand = Annotated[
    str | None,
    option("--command", metavar="TEXT", text="Instead: a command, './train --lr {lr}', that prints its value last."),
]
SpaceForms = Annotated[
    list[str], option("--space", metavar="SPACE", text="A TOML or JSON file, or NAME=LOW:HIGH[:log], NAME=A,B; repeat.")
]
Trials = Annotated[int, typer.Option("--trials", min=1, metavar="NUMBER", help="In all, with those of earlier runs.")]
Batch = Annotated[int, typer.Option("--batch", min=1, metavar="NUMBER", help="Points suggested together.")]
Workers = Annotated[int, typer.Option("--workers", min=1, metavar="NUMBER", help="Evaluations at a time.")]
StorageUrl = Annotated[
    str | None,
    option("--storage", metavar="URL", text="sqlite:///F.db, journal:F or postgresql://...", show_default="NAME.db"),
]
StudyName = Annotated[str | None, option("--name", metavar="NAME", text="Of the study.", show_default="of the target")]
Surrogate = Annotated[str, option("--surrogate", metavar="NAME", text="One that `kernelfield models` lists.")]
AcquisitionName = Annotated[str, option("--acquisition", metavar="NAME", text="auto, log_ei, ucb, thompson, ...")]
Objectives = Annotated[int, typer.Option("--objectives", min=1, metavar="NUMBER", help="Values of each trial.")]
Maximise = Annotated[bool, typer.Option("--maximise", help="More is better.")]
Seconds = Annotated[float | None, option("--seconds", metavar="NUMBER", text="After which no trial is begun.")]
Gain = Annotated[float | None, option("--gain", metavar="NUMBER", text="Stop when less is expected of a trial.")]
SearchPage = Annotated[Path | None, option("--output", "-o", metavar="FILE", text="HTML report to write.")]
SearchFile = Annotated[Path | None, option("--json", metavar="FILE", text="Write the trials and the report as JSON.")]
Suite = Annotated[str | None, option("--suite", metavar="NAME", text="Of problems: bnnbo, quality or quick.")]
ProblemNames = Annotated[
    str | None, option("--problems", metavar="A,B,C", text="Instead: problems, with settings as ackley:dimensions=3.")
]
SamplerNames = Annotated[
    str,
    option(
        "--surrogates",
        metavar="A,B,C",
        text="Of `kernelfield models`; also botorch, optuna-gp, optuna-tpe and random.",
    ),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, metavar="NUMBER", help="Runs of each, with seeds from 0.")]
RunTrials = Annotated[
    int | None,
    option("--trials", metavar="NUMBER", text="Of each run.", min=2, show_default="by the protocol"),
]
ProtocolName = Annotated[str, option("--protocol", metavar="NAME", text="fixed; or paper, as in Li et al. (2024).")]
Jobs = Annotated[int, typer.Option("--jobs", min=1, metavar="NUMBER", help="Processes, of one thread each.")]
RunFolder = Annotated[Path, option("--output", "-o", metavar="FOLDER", text="For a file a run; those in it are kept.")]
TableOnly = Annotated[bool, typer.Option("--table", help="Run nothing; show what the folder holds.")]
ModelFolderOrNone = Annotated[
    Path | None, typer.Argument(metavar="[MODEL_DIR]", help="Folder that `fit` wrote; or --arrays instead.")
]
UnseenOrNone = Annotated[Path | None, option("--data", metavar="FILE", text="Table of rows that the fit has not seen.")]
TargetsOrNone = Annotated[
    list[str] | None, option("--target", metavar="COLUMN", text="What the model predicts; may be repeated.")
]
Arrays = Annotated[
    Path | None, option("--arrays", metavar="FILE", text="Instead of a model: a table with predictions of any program.")
]
ColumnLayout = Annotated[
    str | None,
    option(
        "--columns", metavar="LAYOUT", text="Of --arrays: y=A,mean=B,std=C; lower=, upper=, level=; 0.05=; proba=p_."
    ),
]
Groups = Annotated[
    list[str] | None,
    option("--group", metavar="COLUMN", text="Whose values are looked at one by one; may be repeated."),
]
TimeColumn = Annotated[str | None, option("--time", metavar="COLUMN", text="That orders the rows: numbers or dates.")]
OutsideFile = Annotated[
    Path | None, option("--ood", metavar="FILE", text="Rows from elsewhere, which the model should be unsure of.")
]
Rivals = Annotated[
    list[Path] | None,
    option(
        "--compare", metavar="PATH", text="Another model folder (or table of predictions) on the same rows; repeat."
    ),
]
FailOn = Annotated[
    list[str] | None,
    option("--fail-on", metavar="CONDITION", text="Exit with 1 if it holds, as coverage90<0.87; may be repeated."),
]
MarkdownFile = Annotated[Path | None, option("--markdown", metavar="FILE", text="Write a short summary, for a log.")]
