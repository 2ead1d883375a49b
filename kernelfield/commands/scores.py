"""Scores of models as a table on a terminal."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from kernelfield.commands.console import out
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.report import Report

CAPTION = """\
RMSE and CRPS are in units of the target, NLL in nats a value; less is better.
Honest 90% intervals cover 90% of the values, but for chance."""

REGRESSION = {"rmse": "RMSE", "nll": "NLL", "crps": "CRPS", "coverage90": "90% coverage"}
CLASSES = {"log_loss": "log loss", "brier": "Brier", "ece": "ECE", "accuracy": "accuracy"}
CLASS_CAPTION = (
    "Log loss in nats, Brier scores from 0 to 2, ECE the calibration error; less is better of all but accuracy."
)


def sizes(result: Report | ClassReport) -> str:
    learned = f"learned from {result.n_train} rows, " if result.n_train else ""
    return f"{learned}tested on {result.n_test}"


def print_scores(title: str, results: Sequence[Report | ClassReport]) -> None:
    regression = isinstance(results[0], Report)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)  # within 80 columns
    table.add_column("model")
    for heading in (*(REGRESSION if regression else CLASSES).values(), "fit s", "predict s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        times = (f"{result.seconds[key]:.2f}" if key in result.seconds else "" for key in ("fit", "predict"))
        table.add_row(result.model, *_cells(result.scores()), *times)
    known = "training mean" if regression else "training shares"
    last = "baseline" if results[0].n_train is None else known  # which is then of the test values themselves
    table.add_row(last, *_cells(results[0].baseline.scores()), style="dim")
    out.print(title, style="bold", markup=False)
    out.print(table)
    out.print(CAPTION if regression else CLASS_CAPTION, style="dim")


def _cells(scores: Mapping[str, float]) -> list[str]:
    *names, share = REGRESSION if "rmse" in scores else CLASSES
    return [*(f"{scores[name]:.4g}" for name in names), f"{scores[share]:.1%}"]
