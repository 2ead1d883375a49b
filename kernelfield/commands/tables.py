"""Commands on tables: demo, fit and predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from sklearn.datasets import load_diabetes

from kernelfield.calibrating import corrected
from kernelfield.commands.console import as_json, boundary, check_outputs, err, print_files, require_pages, say
from kernelfield.commands.options import (
    CheckpointFolder,
    Classify,
    Corrected,
    DataFile,
    DataFiles,
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
from kernelfield.data.streams import TableStream
from kernelfield.data.tables import Problem, listed, read_table, require_kind, separate, text_columns, write_table
from kernelfield.estimators.persistence import require_savable
from kernelfield.linalg.ranks import here
from kernelfield.progress import bar, passes, status
from kernelfield.reporting import examine
from kernelfield.streaming import FEW_ROWS, Choice, choose, fit_stream, share_of, streams
from kernelfield.tabular import Provenance, TableClassifier, TableModel, Tabular, load_table, split
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.record import provenance
from kernelfield.uq.report import Report

TEST_SHARE = 0.2
SMALL = 2**24  # bytes of a table that is read as a whole, with every fault in it named
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
    data: DataFiles,
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
    checkpoint: CheckpointFolder = None,
    calibrate: Corrected = None,
) -> None:
    """Fit a model to a table and measure it on rows it has not seen."""
    if test is not None and test_size is not None:
        raise typer.BadParameter("give --test or --test-size, not both")
    with boundary():
        kind: type[Tabular] = TableClassifier if classify else TableModel
        if model is not None:
            kind.unfitted(model, seed)  # an unknown name fails here, before the data are read
        if classify and len(target) > 1:
            raise ValueError(f"a classifier has one target, got {listed(target)}; fit one model to each")
        if report is not None and test is None and test_size == 0:
            raise ValueError("a report needs rows to test on; give --test-size above 0, --test FILE or no --report")
        require_savable(output)
        check_outputs([*data, test], [report, json_file], folder=output)
        if report:
            require_pages()
        if calibrate and (test is not None or test_size == 0):
            raise ValueError(
                "--calibrate takes half of the rows held out by --test-size; give it a share, and no --test"
            )
        asked = Asked(data, target, drop or [], model, test, test_size, seed, classify, checkpoint, calibrate)
        stream = _streamed(asked)
        fitted, held, notes = _fit_table(kind, asked) if stream is None else _fit_stream(asked, stream)
        if held is not None and asked.corrects(fitted.rows):
            with status(err, "calibrating"):
                fitted, held, more = corrected(fitted, held, seed)
            say(*more)
            notes = [*notes, *more]
        result = None if held is None else _measure(fitted, held, notes)
        if result is None:
            say("no row was held out, so there are no scores")
        page = result.to_html() if report and result else ""
        record = as_json(result.to_dict() if result else fitted.summary(notes))
        if here().rank == 0:  # the others know the same
            fitted.save(output)
            for path, content in ((report, page), (json_file, record)):
                if path:
                    write_whole(path, content)
        if result:
            print_scores(f"{fitted.name}: {sizes(result)}", [result])
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


@dataclass(frozen=True)
class Asked:
    """What a fit was asked for."""

    data: Sequence[Path]
    targets: list[str]
    drop: list[str]
    model: str | None
    test: Path | None
    test_size: float | None
    seed: int
    classes: bool
    checkpoint: Path | None
    calibrate: bool | None

    @property
    def share(self) -> float:
        return TEST_SHARE if self.test_size is None else self.test_size

    @property
    def small(self) -> bool:
        """Whether the data are one table that is read as a whole, whatever is in it."""
        return len(self.data) == 1 and self.data[0].is_file() and self.data[0].stat().st_size <= SMALL

    def choice(self, rows: int, columns: int) -> Choice:
        """What to fit to so many rows of columns to learn from."""
        if self.model is not None:
            return Choice(self.model, "")
        return choose(rows, columns, classes=self.classes, streamed=self.checkpoint is not None)

    def corrects(self, rows: int) -> bool:
        """Whether held-out rows correct a fit to so many rows: if nobody says, where it is an approximation."""
        if self.test is not None:
            return False
        rough = self.model is None and not self.classes and rows > FEW_ROWS
        return rough if self.calibrate is None else self.calibrate


def _streamed(asked: Asked) -> TableStream | None:
    """The rows, if they are to be learned from batch by batch."""
    kept = asked.checkpoint is not None
    if asked.classes and kept:
        raise ValueError("a classifier learns from all rows at once and keeps no checkpoint; leave out --checkpoint")
    if not kept and (asked.small or asked.classes):
        return None
    stream = TableStream.open(asked.data, drop=asked.drop)
    name = asked.choice(stream.rows, _width(stream, asked)).name
    return stream if kept or streams(name, stream.rows) else None


def _width(stream: TableStream, asked: Asked) -> int:
    return len(set(stream.columns) - set(asked.targets))


def _fit_stream(asked: Asked, stream: TableStream) -> tuple[Tabular, Problem | None, list[str]]:
    """A fit to rows that need not be in memory."""
    name = _named(asked, stream.rows, _width(stream, asked))
    share = 0.0 if asked.test is not None else asked.test_size
    if share is None:
        share = share_of(stream.rows, TEST_SHARE)
    made = provenance(seed=asked.seed) | {"data": _called(asked.data), "files": len(stream.files), "rows": stream.rows}
    tested = str(asked.test) if asked.test else f"{share:.3g} of the rows, by a hash of their numbers"
    with passes(err) as tell:
        fit = fit_stream(
            name,
            stream,
            asked.targets,
            test_share=share,
            seed=asked.seed,
            checkpoint=asked.checkpoint,
            watch=lambda at: tell(at.stage, at.rows, at.total, at.loss),
            provenance=made | {"test": tested},
        )
    say(*fit.notes)
    if asked.test is None:
        return fit.model, fit.held, fit.notes
    held, more = _apart(asked, fit.model.encoding.text)
    return fit.model, held, [*fit.notes, *more]


def _fit_table(kind: type[Tabular], asked: Asked) -> tuple[Tabular, Problem | None, list[str]]:
    """A fit to a table in memory."""
    one = asked.data[0] if len(asked.data) == 1 and asked.data[0].is_file() else None
    if one is not None:
        problem, notes = separated(one, asked.targets, asked.drop, classes=asked.classes)
    else:
        stream = TableStream.open(asked.data, drop=asked.drop)
        problem, notes = _said(separate(stream.frame(), asked.targets, classes=asked.classes), _called(asked.data))
    train, held, more = _parted(asked, problem)
    name = _named(asked, *train.features.shape)
    made = provenance(seed=asked.seed, data=one) | ({} if one else {"data": _called(asked.data)})
    tested = f"{asked.share:g} of the rows, at random" if asked.test is None else str(asked.test)
    fitted, found = _fit(kind, train, name, asked.seed, made | {"test": tested})
    return fitted, held, [*notes, *more, *found]


def _named(asked: Asked, rows: int, columns: int) -> str:
    """The name of what to fit; said where nobody did."""
    choice = asked.choice(rows, columns)
    if asked.model is None:
        say(choice.reason)
    return choice.name


def _called(data: Sequence[Path]) -> str:
    return str(data[0].name) if len(data) == 1 else f"{data[0].name} to {data[-1].name}"


def _parted(asked: Asked, problem: Problem) -> tuple[Problem, Problem | None, list[str]]:
    """The rows to learn from, those to test on, and remarks."""
    if asked.test is not None:
        held, notes = _apart(asked, text_columns(problem.features))
        return problem, held, notes
    if asked.share and len(problem.features) > 1:  # one row cannot be fitted at all, and the fit says so
        return *split(problem, asked.share, asked.seed), []
    return problem, None, []


def _apart(asked: Asked, text: Sequence[str]) -> tuple[Problem, list[str]]:
    """The rows of the table to test on, and remarks."""
    assert asked.test is not None
    held, notes = separated(asked.test, asked.targets, [], text, asked.classes)
    return Problem(held.features.drop(columns=asked.drop, errors="ignore"), held.target, held.dropped), notes


def separated(
    data: Path, targets: list[str], drop: list[str], text: Sequence[str] = (), classes: bool = False
) -> tuple[Problem, list[str]]:
    return _said(separate(read_table(data, text=text), targets, drop, classes=classes), data)


def _said(problem: Problem, data: Path | str) -> tuple[Problem, list[str]]:
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
