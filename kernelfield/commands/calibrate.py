"""The command `calibrate`: correct the uncertainty of a fitted model by rows that it has not seen."""

from dataclasses import replace
from typing import Annotated

from rich import box
from rich.table import Table

from kernelfield.calibrating import Scores, before_and_after, calibrated, encoded, require_halves, settings_of
from kernelfield.commands.console import boundary, check_outputs, out, print_files, say
from kernelfield.commands.options import ModelFolder, NewModel, Seed, Unseen, option
from kernelfield.commands.tables import separated
from kernelfield.estimators.calibrated_classifier import METHODS as PROBABILITIES
from kernelfield.estimators.calibrations import METHODS
from kernelfield.estimators.persistence import require_savable
from kernelfield.tabular import TableClassifier, load_table

LEFT_OUT = "fits models anew without some of the rows they learned from, which a saved model does not keep as a table"
ELSEWHERE = {
    "jackknife+": LEFT_OUT,
    "cv+": LEFT_OUT,
    "weighted": "needs inputs like those to come beside the rows with known targets",
}
OFFERED = tuple(name for name in METHODS if name not in ELSEWHERE)
SHARES = ("90% coverage", "accuracy")

Method = Annotated[
    str | None,
    option(
        "--method",
        metavar="NAME",
        text="std, isotonic, beta, system; split, normalised, cqr, mondrian. Of classes: temperature, beta, isotonic.",
        show_default="std; temperature; mondrian with --column",
    ),
]
GroupColumn = Annotated[
    str | None, option("--column", metavar="COLUMN", text="In each of whose groups intervals must hold: mondrian.")
]


def calibrate(
    model_dir: ModelFolder,
    data: Unseen,
    output: NewModel,
    method: Method = None,
    column: GroupColumn = None,
    seed: Seed = 0,
) -> None:
    """Correct the uncertainty of a fitted model by rows that it has not seen, and save the model anew.

    Methods jackknife+ and cv+ fit models to the training table again: see kernelfield.Calibrated in Python.
    """
    with boundary():
        check_outputs([data], [])
        if output.resolve() == model_dir.resolve():
            raise ValueError(f"{output} is the model itself; give the calibrated one a folder of its own")
        require_savable(output)
        model = load_table(model_dir)
        classes = isinstance(model, TableClassifier)
        chosen = _method(method, column, classes=classes)
        problem, _ = separated(data, list(model.targets), [], model.encoding.text, classes)
        rows, notes = encoded(model, problem)
        say(*notes)
        if model.estimator is not model.base:
            say("the model was calibrated before; its calibration is replaced")
        settings = settings_of(model, rows, chosen, column)
        require_halves(len(rows.y))
        before, after = before_and_after(model, rows, chosen, settings, seed)
        made = {
            **model.provenance,
            "calibrated_by": chosen,
            "calibrated_on": data.name,
            "calibration_rows": len(rows.y),
        }
        final = replace(model, estimator=calibrated(model, rows, chosen, settings, seed), provenance=made)
        final.save(output)
        _print(f"{model.name}, calibrated by {chosen}: {len(rows.y)} rows", before, after)
        say(*final.estimator.calibrator_.notes())
        print_files(Model=output)


def _method(method: str | None, column: str | None, *, classes: bool) -> str:
    known = tuple(PROBABILITIES) if classes else OFFERED
    if method is None:
        method = known[0] if column is None else "mondrian"
    if method in ELSEWHERE and not classes:
        raise ValueError(
            f"{method} {ELSEWHERE[method]}; use Calibrated(method={method!r}) of kernelfield in Python, or --method "
            f"{', '.join(known)}"
        )
    if method not in known:
        raise ValueError(f"--method must be one of {', '.join(known)}, got {method!r}")
    if (column is not None) != (method == "mondrian"):
        raise ValueError("--column and the method mondrian need each other; give both or neither")
    return method


def _print(title: str, before: Scores, after: Scores) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("on rows left out", no_wrap=True)
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    for name, value in before.items():
        table.add_row(name, *(f"{one:.1%}" if name in SHARES else f"{one:.4g}" for one in (value, after[name])))
    out.print(title, style="bold", markup=False)
    out.print(table)
    out.print(
        "Each half of the rows was measured with what the other half taught; less is better of scores.", style="dim"
    )
