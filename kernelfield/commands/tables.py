"""Commands on tables: demo, fit, predict and report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from rich import box
from rich.table import Table
from sklearn.datasets import load_diabetes

from kernelfield.commands.console import as_json, boundary, check_outputs, err, out, print_files, require_pages, say
from kernelfield.commands.options import (
    Classify,
    DataFile,
    DemoFolder,
    Drop,
    JsonFile,
    Level,
    ModelFolder,
    ModelName,
    NewModel,
    NewPage,
    NewTable,
    ReportFile,
    Seed,
    Targets,
    TestFile,
    TestShare,
    Unseen,
)
from kernelfield.core.files import require_writable_folder, write_whole
from kernelfield.data.tables import Problem, listed, read_table, require_kind, separate, text_columns, write_table
from kernelfield.estimators.persistence import require_savable
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


def demo(output_dir: DemoFolder = Path("kernelfield-demo")) -> None:
    """Compare models on real data: 442 diabetes patients, ten measurements, a year's progression."""
    with boundary():
        if not output_dir.exists():
            require_writable_folder(output_dir.resolve().parent)
            output_dir.mkdir()
        page, record = output_dir / "report.html", output_dir / "report.json"
        check_outputs([], [page, record])
        require_pages()
        problem = separate(load_diabetes(as_frame=True, scaled=False).frame, ["target"])
        train, test = split(problem, TEST_SHARE, 0)
        reports = []
        with bar(err, "comparing models", len(DEMO)) as tick:
            for name in DEMO:
                made = {**provenance(seed=0), "data": "diabetes (scikit-learn)", "test_share": str(TEST_SHARE)}
                model, notes = TableModel.fit(train, name, 0, made)
                reports.append(model.report(test, notes))
                tick(1)
        best = min(reports, key=lambda one: one.evaluation.scores()["nll"])
        write_whole(page, best.to_html())
        write_whole(record, as_json(best.to_dict()))
        _print_scores(f"Diabetes: learned from {len(train.target)} patients, tested on {len(test.target)}", reports)
        print_files(**{f"Report on {best.model}, the best by NLL": page, "The same as JSON": record})


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
    with boundary():
        kind: type[Tabular] = TableClassifier if classify else TableModel
        name = model or ("gpc" if classify else "gp")
        kind.unfitted(name, seed)  # an unknown name fails here, before the data are read
        if classify and len(target) > 1:
            raise ValueError(f"a classifier has one target, got {listed(target)}; fit one model to each")
        share = TEST_SHARE if test_size is None else test_size
        if report is not None and test is None and not share:
            raise ValueError("a report needs rows to test on; give --test-size above 0, --test FILE or no --report")
        require_savable(output)
        check_outputs([data, test], [report, json_file], folder=output)
        if report:
            require_pages()
        train, held, notes = _problems(data, target, drop or [], test, share, seed, classify)
        made = provenance(seed=seed, data=data) | {"test": str(test) if test else f"{share:g} of the rows, at random"}
        fitted, more = _fit(kind, train, name, seed, made)
        result = None if held is None else _measure(fitted, held, [*notes, *more])
        if result is None:
            say("no row was held out, so there are no scores")
        page = result.to_html() if report and result else ""
        record = as_json(result.to_dict() if result else fitted.summary([*notes, *more]))
        fitted.save(output)
        for path, content in ((report, page), (json_file, record)):
            if path:
                write_whole(path, content)
        if result:
            _print_scores(f"{name}: {_sizes(result)}", [result])
        print_files(Model=output, Report=report, JSON=json_file)


def predict(model_dir: ModelFolder, data: DataFile, output: NewTable, level: Level = 0.9) -> None:
    """Append mean, std, lower and upper to the rows of a table."""
    with boundary():
        require_kind(output)
        check_outputs([data], [output], folder=model_dir)
        model = load_table(model_dir)
        frame = read_table(data, text=model.encoding.text)
        taken = [name for name in model.answers if name in frame]
        if taken:
            raise ValueError(f"{data} already has columns called {listed(taken)}; rename them before predicting")
        with bar(err, "predicting", len(frame)) as tick:
            answer, notes = model.predict(frame, level, tick)
        write_table(frame.join(answer), output)
        say(*notes)
        what = "probabilities" if isinstance(model, TableClassifier) else f"{100 * level:g}% intervals"
        print_files(**{f"{len(frame)} rows with {what}": output})


def report(model_dir: ModelFolder, data: Unseen, target: Targets, output: NewPage, json_file: JsonFile = None) -> None:
    """Measure a fitted model on a table with known targets."""
    with boundary():
        check_outputs([data], [output, json_file], folder=model_dir)
        require_pages()
        model = load_table(model_dir)
        if set(target) != set(model.targets):
            raise ValueError(f"the model in {model_dir} predicts {listed(model.targets)}, not {listed(target)}")
        problem, notes = separated(data, target, [], model.encoding.text, isinstance(model, TableClassifier))
        result = _measure(model, problem, notes, test=str(data))
        page = result.to_html()
        write_whole(output, page)
        if json_file:
            write_whole(json_file, as_json(result.to_dict()))
        _print_scores(f"{model.name}: {_sizes(result)}", [result])
        print_files(Report=output, JSON=json_file)


def _problems(
    data: Path, targets: list[str], drop: list[str], test: Path | None, share: float, seed: int, classes: bool
) -> tuple[Problem, Problem | None, list[str]]:
    """The rows to learn from, those to test on, and remarks."""
    problem, notes = separated(data, targets, drop, classes=classes)
    if test is not None:
        held, more = separated(test, targets, [], text_columns(problem.features), classes)
        return (
            problem,
            Problem(held.features.drop(columns=drop, errors="ignore"), held.target, held.dropped),
            notes + more,
        )
    if share and len(problem.features) > 1:  # one row cannot be fitted at all, and the fit says so
        return *split(problem, share, seed), notes
    return problem, None, notes


def separated(
    data: Path, targets: list[str], drop: list[str], text: Sequence[str] = (), classes: bool = False
) -> tuple[Problem, list[str]]:
    problem = separate(read_table(data, text=text), targets, drop, classes=classes)
    rows = "1 row" if problem.dropped == 1 else f"{problem.dropped} rows"
    notes = [f"{rows} of {data} left out for want of a target"] if problem.dropped else []
    say(*notes)
    return problem, notes


def _fit(kind: type[Tabular], train: Problem, name: str, seed: int, made: Provenance) -> tuple[Tabular, list[str]]:
    with status(err, name):
        model, notes = kind.fit(train, name, seed, made)
    say(*notes)
    return model, notes


def _measure(model: Tabular, held: Problem, notes: list[str], **made: str) -> Report | ClassReport:
    with bar(err, "testing", len(held.features)) as tick:
        result = model.report(held, notes, tick, **made)
    say(*result.notes[len(notes) :])
    return result


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
    out.print(title, style="bold", markup=False)
    out.print(table)
    out.print(CAPTION if regression else CLASS_CAPTION, style="dim")


def _cells(scores: Mapping[str, float]) -> list[str]:
    *names, share = REGRESSION if "rmse" in scores else CLASSES
    return [*(f"{scores[name]:.4g}" for name in names), f"{scores[share]:.1%}"]
