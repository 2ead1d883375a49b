"""The command `report`: what a model, or another program's predictions, are worth on rows with known values."""

from collections.abc import Sequence
from pathlib import Path

import typer

from kernelfield.commands.console import as_json, boundary, check_outputs, err, print_files, require_pages, say
from kernelfield.commands.options import (
    Arrays,
    ColumnLayout,
    FailOn,
    Groups,
    JsonFile,
    MarkdownFile,
    ModelFolderOrNone,
    NewPage,
    OutsideFile,
    Rivals,
    TargetsOrNone,
    TimeColumn,
    UnseenOrNone,
)
from kernelfield.commands.scores import print_scores, sizes
from kernelfield.commands.tables import separated
from kernelfield.core.files import write_whole
from kernelfield.data.predictions import Layout
from kernelfield.data.tables import listed, read_table
from kernelfield.progress import bar, status
from kernelfield.reporting import Question, examine, examine_predictions
from kernelfield.tabular import TableClassifier, load_table
from kernelfield.uq.class_report import NUMBERS as CLASS_NUMBERS
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.conditions import Condition
from kernelfield.uq.record import provenance
from kernelfield.uq.report import NUMBERS, Report


def report(
    output: NewPage,
    model_dir: ModelFolderOrNone = None,
    data: UnseenOrNone = None,
    target: TargetsOrNone = None,
    arrays: Arrays = None,
    layout: ColumnLayout = None,
    group: Groups = None,
    time: TimeColumn = None,
    ood: OutsideFile = None,
    compare: Rivals = None,
    fail_on: FailOn = None,
    json_file: JsonFile = None,
    markdown: MarkdownFile = None,
) -> None:
    """Measure a fitted model on a table with known targets, or predictions that another program made."""
    if (model_dir is None) == (arrays is None):
        raise typer.BadParameter("give a MODEL_DIR with --data and --target, or --arrays with --columns")
    with boundary():
        conditions = [Condition.parse(text) for text in fail_on or []]
        for condition in conditions:
            condition.require_name(dict.fromkeys([*NUMBERS, *CLASS_NUMBERS]))
        rivals = compare or []
        tables = [data, arrays, ood, *(rivals if arrays else [])]
        check_outputs(tables, [output, json_file, markdown], folder=model_dir)
        require_pages()
        outside = None if ood is None else read_table(ood)
        question = Question(group or [], time, outside, "" if ood is None else ood.name)
        if model_dir is not None:
            result = _of_model(model_dir, data, target or [], question, rivals)
        else:
            result = _of_predictions(Path(str(arrays)), layout, question, rivals)
        with status(err, "looking for where it fails"):
            numbers = result.numbers()
        with status(err, "drawing"):
            page = result.to_html()
        write_whole(output, page)
        if json_file:
            write_whole(json_file, as_json(result.to_dict()))
        if markdown:
            write_whole(markdown, result.to_markdown())
        print_scores(f"{result.model}: {sizes(result)}", [result])
        print_files(Report=output, JSON=json_file, Markdown=markdown)
        _require([condition for condition in conditions if condition.holds(numbers)], numbers)


def _of_model(
    model_dir: Path, data: Path | None, target: Sequence[str], question: Question, rivals: Sequence[Path]
) -> Report | ClassReport:
    if data is None or not target:
        raise ValueError(
            f"{model_dir} can only be measured on rows with known targets; give --data FILE and --target COLUMN"
        )
    model = load_table(model_dir)
    if set(target) != set(model.targets):
        raise ValueError(f"the model in {model_dir} predicts {listed(model.targets)}, not {listed(target)}")
    held, notes = separated(data, list(target), [], model.encoding.text, isinstance(model, TableClassifier))
    others = {_called(path, model.title): load_table(path) for path in rivals}
    with bar(err, "testing", len(held.features)) as tick:
        result = examine(model, held, question, rivals=others, notes=notes, tick=tick, test=str(data))
    say(*result.notes[len(notes) :])
    return result


def _called(path: Path, model: str) -> str:
    """A folder by its path, which may not be what the model is called."""
    return str(path) if str(path) != model else f"{path} (folder)"


def _of_predictions(
    table: Path, layout: str | None, question: Question, rivals: Sequence[Path]
) -> Report | ClassReport:
    if layout is None:
        raise ValueError(f"which columns of {table} say what? give --columns, as --columns y=strength,mean=m,std=s")
    form, frame = Layout.parse(layout), read_table(table)
    others = {str(path): read_table(path) for path in rivals}
    with status(err, "scoring"):
        made = provenance(data=table)
        return examine_predictions(form, frame, question, name=table.stem, rivals=others, provenance=made)


def _require(broken: Sequence[Condition], numbers: dict[str, float]) -> None:
    """Errors: ValueError, which ends the program with 1, for conditions that hold."""
    if broken:
        found = ", ".join(f"{one.name} is {numbers[one.name]:.4g}" for one in broken)
        raise ValueError(f"what must not be is true: {listed(map(str, broken))} ({found})")
