"""Commands on tables: demo, fit and predict."""

from collections.abc import Sequence
from pathlib import Path

import typer
from sklearn.datasets import load_diabetes

from kernelfield.commands.console import as_json, boundary, check_outputs, err, print_files, require_pages, say
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
    NewTable,
    ReportFile,
    Seed,
    Targets,
    TestFile,
    TestShare,
)
from kernelfield.commands.scores import print_scores, sizes
from kernelfield.core.files import require_writable_folder, write_whole
from kernelfield.data.tables import Problem, listed, read_table, require_kind, separate, text_columns, write_table
from kernelfield.estimators.persistence import require_savable
from kernelfield.progress import bar, status
from kernelfield.reporting import examine
from kernelfield.tabular import Provenance, TableClassifier, TableModel, Tabular, load_table, split
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.record import provenance
from kernelfield.uq.report import Report

TEST_SHARE = 0.2
DEMO = ("gp", "gp-rbf", "gp-linear", "student-t")


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
                reports.append(examine(model, test, notes=notes))
                tick(1)
        best = min(reports, key=lambda one: one.evaluation.scores()["nll"])
        write_whole(page, best.to_html())
        write_whole(record, as_json(best.to_dict()))
        print_scores(f"Diabetes: learned from {len(train.target)} patients, tested on {len(test.target)}", reports)
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
            print_scores(f"{name}: {sizes(result)}", [result])
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


def _measure(model: Tabular, held: Problem, notes: list[str]) -> Report | ClassReport:
    with bar(err, "testing", len(held.features)) as tick:
        result = examine(model, held, notes=notes, tick=tick)
    say(*result.notes[len(notes) :])
    return result
