"""The command line: tables in; a model, predictions and an uncertainty report out. Or equations in, solutions out.

    kernelfield demo                                             see what it does
    kernelfield fit DATA.csv --target Y -o MODEL --report R.html
    kernelfield predict MODEL NEW.csv -o OUT.csv
    kernelfield report MODEL --data D.csv --target Y -o R.html
    kernelfield models
    kernelfield solve NAME -o FOLDER

Results go to standard output; notes, progress and errors to standard error, progress only to a
terminal. Exit codes: 0 done, 1 the data or the request is wrong (one sentence says what and what
to do), 2 usage, 130 interrupted. Outputs are checked before the work and written whole after it.
"""

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes

from kernelfield.core.files import require_writable, require_writable_folder, write_whole
from kernelfield.core.version import __version__
from kernelfield.data.tables import Problem, listed, read_table, require_kind, separate, text_columns, write_table
from kernelfield.estimators.persistence import require_savable
from kernelfield.models.zoo import CLASSIFIERS, MODELS
from kernelfield.progress import bar, status
from kernelfield.tabular import Provenance, TableClassifier, TableModel, Tabular, load_table, split
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.report import Report, provenance

TEST_SHARE = 0.2
DEMO = ("gp", "gp-rbf", "gp-linear", "student-t")
CAPTION = """\
RMSE and CRPS are in units of the target, NLL in nats a value; less is better.
Honest 90% intervals cover 90% of the values, but for chance."""

REGRESSION = {"rmse": "RMSE", "nll": "NLL", "crps": "CRPS", "coverage90": "90% coverage"}
CLASSES = {"log_loss": "log loss", "brier": "Brier", "ece": "ECE", "accuracy": "accuracy"}
CLASS_CAPTION = (
    "Log loss in nats, Brier scores from 0 to 2, ECE the calibration error; less is better of all but accuracy."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def _between(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"must lie between 0 and 1, got {value:g}; write 0.9 for 90%")
    return value


def _share(value: float | None) -> float | None:
    if value is not None and not 0 <= value < 1:
        raise typer.BadParameter(f"must be a share of the rows, at least 0 and below 1, got {value:g}")
    return value


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kernelfield {__version__}")
        raise typer.Exit


def _option(*names: str, metavar: str, text: str, **settings: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, **settings)


DataFile = Annotated[Path, typer.Argument(metavar="DATA", help="Table: .csv, .tsv (also .gz) or .parquet.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Folder that `fit` wrote.")]
Targets = Annotated[list[str], _option("--target", metavar="COLUMN", text="What to predict; may be repeated.")]
Drop = Annotated[list[str] | None, _option("--drop", metavar="COLUMN", text="Not to learn from; may be repeated.")]
ModelName = Annotated[
    str | None, _option("--model", metavar="NAME", text="One that `kernelfield models` lists.", show_default="gp, gpc")
]
Classify = Annotated[bool, typer.Option("--classify", help="The target holds classes: text, or whole numbers.")]
TestShare = Annotated[
    float | None,
    _option("--test-size", metavar="SHARE", text="Rows to test on; 0 for none.", callback=_share, show_default="0.2"),
]
TestFile = Annotated[Path | None, _option("--test", metavar="FILE", text="Table to test on, instead of a share.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="NUMBER", help="Of the split and of the fit.")]
Level = Annotated[float, _option("--level", metavar="P", text="Probability of the intervals.", callback=_between)]
ReportFile = Annotated[Path | None, _option("--report", metavar="FILE", text="Write an HTML report.")]
JsonFile = Annotated[Path | None, _option("--json", metavar="FILE", text="Write the report as JSON.")]
NewModel = Annotated[Path, _option("--output", "-o", metavar="MODEL_DIR", text="Folder for the model.")]
NewTable = Annotated[Path, _option("--output", "-o", metavar="OUT", text="Table to write.")]
NewPage = Annotated[Path, _option("--output", "-o", metavar="FILE", text="HTML file to write.")]
Unseen = Annotated[Path, _option("--data", metavar="FILE", text="Table of rows that the fit has not seen.")]
NamedProblem = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One that --list shows.")]
ShowProblems = Annotated[bool, typer.Option("--list", help="List the problems that have a name.")]
EquationFile = Annotated[Path | None, _option("--equation", metavar="FILE", text="A problem of your own, as TOML.")]
SolutionFolder = Annotated[Path | None, _option("--output", "-o", metavar="FOLDER", text="For the solution's files.")]
SolverName = Annotated[str, _option("--solver", metavar="NAME", text="One of `kernelfield.pde.solve`.")]
Nodes = Annotated[
    list[int] | None, _option("--nodes", metavar="NUMBER", text="Along each axis; once for all, or once each.", min=2)
]
Picture = Annotated[bool, typer.Option("--picture/--no-picture", help="Draw solution.png.")]
DemoFolder = Annotated[Path, _option("--output-dir", metavar="FOLDER", text="For report.html and report.json.")]


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Regression and classification with uncertainty from tables: fit, predict, report. Equations too: solve."""


@app.command()
def demo(output_dir: DemoFolder = Path("kernelfield-demo")) -> None:
    """Compare models on real data: 442 diabetes patients, ten measurements, a year's progression."""
    with _boundary():
        if not output_dir.exists():
            require_writable_folder(output_dir.resolve().parent)
            output_dir.mkdir()
        page, record = output_dir / "report.html", output_dir / "report.json"
        _check_outputs([], [page, record])
        _require_pages()
        problem = separate(load_diabetes(as_frame=True, scaled=False).frame, ["target"])
        train, test = split(problem, TEST_SHARE, 0)
        reports = []
        with bar(_err, "comparing models", len(DEMO)) as tick:
            for name in DEMO:
                made = {**provenance(seed=0), "data": "diabetes (scikit-learn)", "test_share": str(TEST_SHARE)}
                model, notes = TableModel.fit(train, name, 0, made)
                reports.append(model.report(test, notes))
                tick(1)
        best = min(reports, key=lambda one: one.evaluation.scores()["nll"])
        write_whole(page, best.to_html())
        write_whole(record, _json(best.to_dict()))
        _print_scores(f"Diabetes: learned from {len(train.target)} patients, tested on {len(test.target)}", reports)
        _print_files(**{f"Report on {best.model}, the best by NLL": page, "The same as JSON": record})


@app.command()
def fit(
    data: DataFile,
    target: Targets,
    output: NewModel,
    model: ModelName = None,
    classify: Classify = False,
    test_size: TestShare = None,
    test: TestFile = None,
    seed: Seed = 0,
    drop: Drop = None,
    report: ReportFile = None,
    json_file: JsonFile = None,
) -> None:
    """Fit a model to a table and measure it on rows it has not seen."""
    if test is not None and test_size is not None:
        raise typer.BadParameter("give --test or --test-size, not both")
    with _boundary():
        kind: type[Tabular] = TableClassifier if classify else TableModel
        name = model or ("gpc" if classify else "gp")
        kind.unfitted(name, seed)  # an unknown name fails here, before the data are read
        if classify and len(target) > 1:
            raise ValueError(f"a classifier has one target, got {listed(target)}; fit one model to each")
        share = TEST_SHARE if test_size is None else test_size
        if report is not None and test is None and not share:
            raise ValueError("a report needs rows to test on; give --test-size above 0, --test FILE or no --report")
        require_savable(output)
        _check_outputs([data, test], [report, json_file], folder=output)
        if report:
            _require_pages()
        train, held, notes = _problems(data, target, drop or [], test, share, seed, classify)
        made = provenance(seed=seed, data=data) | {"test": str(test) if test else f"{share:g} of the rows, at random"}
        fitted, more = _fit(kind, train, name, seed, made)
        result = None if held is None else _measure(fitted, held, [*notes, *more])
        if result is None:
            _say("no row was held out, so there are no scores")
        page = result.to_html() if report and result else ""
        record = _json(result.to_dict() if result else fitted.summary([*notes, *more]))
        fitted.save(output)
        for path, content in ((report, page), (json_file, record)):
            if path:
                write_whole(path, content)
        if result:
            _print_scores(f"{name}: {_sizes(result)}", [result])
        _print_files(Model=output, Report=report, JSON=json_file)


@app.command()
def predict(model_dir: ModelFolder, data: DataFile, output: NewTable, level: Level = 0.9) -> None:
    """Append mean, std, lower and upper to the rows of a table."""
    with _boundary():
        require_kind(output)
        _check_outputs([data], [output], folder=model_dir)
        model = load_table(model_dir)
        frame = read_table(data, text=model.encoding.text)
        taken = [name for name in model.answers if name in frame]
        if taken:
            raise ValueError(f"{data} already has columns called {listed(taken)}; rename them before predicting")
        with bar(_err, "predicting", len(frame)) as tick:
            answer, notes = model.predict(frame, level, tick)
        write_table(frame.join(answer), output)
        _say(*notes)
        what = "probabilities" if isinstance(model, TableClassifier) else f"{100 * level:g}% intervals"
        _print_files(**{f"{len(frame)} rows with {what}": output})


@app.command(name="report")
def report_command(
    model_dir: ModelFolder, data: Unseen, target: Targets, output: NewPage, json_file: JsonFile = None
) -> None:
    """Measure a fitted model on a table with known targets."""
    with _boundary():
        _check_outputs([data], [output, json_file], folder=model_dir)
        _require_pages()
        model = load_table(model_dir)
        if set(target) != set(model.targets):
            raise ValueError(f"the model in {model_dir} predicts {listed(model.targets)}, not {listed(target)}")
        problem, notes = _separate(data, target, [], model.encoding.text, isinstance(model, TableClassifier))
        result = _measure(model, problem, notes, test=str(data))
        page = result.to_html()
        write_whole(output, page)
        if json_file:
            write_whole(json_file, _json(result.to_dict()))
        _print_scores(f"{model.name}: {_sizes(result)}", [result])
        _print_files(Report=output, JSON=json_file)


@app.command()
def models() -> None:
    """List the models that `fit` knows; those of classes go with --classify."""
    rows = [(name, summary) for name, (summary, _) in (*MODELS.items(), *CLASSIFIERS.items())]
    _print_table(["name", "what it is"], rows)


@app.command()
def solve(
    name: NamedProblem = None,
    output: SolutionFolder = None,
    equation: EquationFile = None,
    show: ShowProblems = False,
    solver: SolverName = "auto",
    nodes: Nodes = None,
    seed: Seed = 0,
    picture: Picture = True,
) -> None:
    """Solve a differential equation, with error bars."""
    solving = importlib.import_module("kernelfield.solving")  # its imports take time that other commands should not
    if show:
        return _print_table(solving.HEADINGS, solving.listing())
    if (name is None) == (equation is None):
        raise typer.BadParameter("give the NAME of a problem, or --equation FILE, or --list to see the names")
    if output is None:
        raise typer.BadParameter("give a folder for the solution, -o FOLDER")
    with _boundary():
        problem = solving.posed(name, equation)
        with status(_err, problem.name, doing="solving"):
            record, files = solving.run(problem, output, solver=solver, nodes=nodes, seed=seed, picture=picture)
        _say(*record["notes"])
        _out.print(f"{problem.name}: {record['equation']}", style="bold", markup=False)
        words = f"{solving.caption(record)}\nin {record['seconds']:.2g} s by {record['method']}"
        _out.print(words, soft_wrap=True, markup=False)
        _print_files(**files)
    return None


@contextmanager
def _boundary() -> Iterator[None]:
    """Turn what is wrong with the data or the request into one sentence and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        _err.print("interrupted; every file is whole, as it was before or finished", style="red")
        raise typer.Exit(130) from None
    except (ValueError, OSError, MemoryError, ImportError, NotImplementedError, torch.OutOfMemoryError) as error:
        sentence = str(error) or f"{type(error).__name__} without further words"
        _err.print(f"error: {sentence}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from None


def _say(*notes: str) -> None:
    for text in notes:
        _err.print(f"note: {text}", style="yellow", soft_wrap=True, markup=False)


def _check_outputs(inputs: Sequence[Path | None], outputs: Sequence[Path | None], folder: Path | None = None) -> None:
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


def _require_pages() -> None:
    """Errors: ImportError, with the remedy, if what pages need is not installed; before any work."""
    importlib.import_module("kernelfield.uq.page")


def _problems(
    data: Path, targets: list[str], drop: list[str], test: Path | None, share: float, seed: int, classes: bool
) -> tuple[Problem, Problem | None, list[str]]:
    """The rows to learn from, those to test on, and remarks."""
    problem, notes = _separate(data, targets, drop, classes=classes)
    if test is not None:
        held, more = _separate(test, targets, [], text_columns(problem.features), classes)
        return (
            problem,
            Problem(held.features.drop(columns=drop, errors="ignore"), held.target, held.dropped),
            notes + more,
        )
    if share and len(problem.features) > 1:  # one row cannot be fitted at all, and the fit says so
        return *split(problem, share, seed), notes
    return problem, None, notes


def _separate(
    data: Path, targets: list[str], drop: list[str], text: Sequence[str] = (), classes: bool = False
) -> tuple[Problem, list[str]]:
    problem = separate(read_table(data, text=text), targets, drop, classes=classes)
    rows = "1 row" if problem.dropped == 1 else f"{problem.dropped} rows"
    notes = [f"{rows} of {data} left out for want of a target"] if problem.dropped else []
    _say(*notes)
    return problem, notes


def _fit(kind: type[Tabular], train: Problem, name: str, seed: int, made: Provenance) -> tuple[Tabular, list[str]]:
    with status(_err, name), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model, notes = kind.fit(train, name, seed, made)
    notes += dict.fromkeys(str(warning.message) for warning in caught)
    _say(*notes)
    return model, notes


def _measure(model: Tabular, held: Problem, notes: list[str], **made: str) -> Report | ClassReport:
    with bar(_err, "testing", len(held.features)) as tick:
        result = model.report(held, notes, tick, **made)
    _say(*result.notes[len(notes) :])
    return result


def _json(content: dict[str, object]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _sizes(result: Report | ClassReport) -> str:
    return f"learned from {result.n_train} rows, tested on {result.n_test}"


def _print_scores(title: str, results: Sequence[Report | ClassReport]) -> None:
    regression = isinstance(results[0], Report)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)  # within 80 columns
    table.add_column("model", no_wrap=True)
    for heading in (*(REGRESSION if regression else CLASSES).values(), "fit s", "predict s"):
        table.add_column(heading, justify="right")
    for result in results:
        times = (f"{result.seconds[key]:.2f}" for key in ("fit", "predict"))
        table.add_row(result.model, *_cells(result.scores()), *times)
    table.add_row("training mean" if regression else "training shares", *_cells(results[0].rule()), style="dim")
    _out.print(title, style="bold", markup=False)
    _out.print(table)
    _out.print(CAPTION if regression else CLASS_CAPTION, style="dim")


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    _out.print(table)


def _cells(scores: Mapping[str, float]) -> list[str]:
    *names, share = REGRESSION if "rmse" in scores else CLASSES
    return [*(f"{scores[name]:.4g}" for name in names), f"{scores[share]:.1%}"]


def _print_files(**files: Path | None) -> None:
    for what, path in files.items():
        if path:
            _out.print(f"{what}: {path}", soft_wrap=True, markup=False)
