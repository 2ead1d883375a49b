"""The command `calibrate`: correct the uncertainty of a fitted model by rows that it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from rich import box
from rich.table import Table
from sklearn.base import clone

from kernelfield.commands.console import boundary, check_outputs, out, print_files, say
from kernelfield.commands.options import ModelFolder, NewModel, Seed, Unseen, option
from kernelfield.commands.tables import separated
from kernelfield.data.tables import listed
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrated_classifier import METHODS as PROBABILITIES
from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.calibrations import METHODS
from kernelfield.estimators.indicators import ByIndicators
from kernelfield.estimators.persistence import require_savable
from kernelfield.tabular import TableClassifier, Tabular, load_table
from kernelfield.uq.classes import ClassEvaluation, bins_for
from kernelfield.uq.conformal.grouping import ByColumn
from kernelfield.uq.scores import Evaluation, evaluate

LEFT_OUT = "fits models anew without some of the rows they learned from, which a saved model does not keep as a table"
ELSEWHERE = {
    "jackknife+": LEFT_OUT,
    "cv+": LEFT_OUT,
    "weighted": "needs inputs like those to come beside the rows with known targets",
}
OFFERED = tuple(name for name in METHODS if name not in ELSEWHERE)
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)  # of method cqr, whose levels are calibrated one by one
MANY = 20  # different numbers in a column: more are cut into bins
BINS = 5
ROWS = 2048  # measured at once
LEAST = 20  # rows, ten for each half
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
        encoded = model.encoding.apply(problem.features)
        say(*encoded.notes)
        if model.estimator is not model.base:
            say("the model was calibrated before; its calibration is replaced")
        rows = Rows(encoded.frame, model.values(problem.target[list(model.targets)]))
        settings = _settings(model, rows, chosen, column)
        require_halves(len(rows.y))
        before, after = _measured(model, rows, chosen, settings, seed)
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


@dataclass(frozen=True, eq=False)
class Rows:
    """Encoded rows and their targets, as the estimator takes them."""

    frame: Any
    y: np.ndarray

    def part(self, places: np.ndarray) -> "Rows":
        """Some of the rows."""
        return Rows(self.frame.iloc[places], self.y[places])


def calibrated(model: Tabular, rows: Rows, method: str, settings: dict[str, Any], seed: int) -> Any:
    """The model's estimator, calibrated by rows that it has not seen; a template of it stays as the parameter."""
    kind = CalibratedClassifier if isinstance(model, TableClassifier) else Calibrated
    fitted = kind(model.base, method=method, cv="prefit", random_state=seed, **settings).fit(rows.frame, rows.y)
    return fitted.set_params(estimator=clone(model.base))  # else the fit would be saved twice


def require_halves(n: int) -> None:
    """Errors: ValueError for too few rows to learn from one half and measure on the other."""
    if n < LEAST:
        raise ValueError(f"a calibration is measured by halves and needs at least {LEAST} rows, got {n}; add rows")


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


def _settings(model: Tabular, rows: Rows, method: str, column: str | None) -> dict[str, Any]:
    """What the method is told beside its name."""
    if column is not None:
        return {"groups": _groups(model, rows, column)}
    return {"levels": LEVELS} if method == "cqr" else {}


def _groups(model: Tabular, rows: Rows, name: str) -> ByColumn | ByIndicators:
    """The groups of a column of the table, as the encoding knows it."""
    encoding = model.encoding
    found = [column for column in encoding.columns if column.name == name]
    if not found:
        known = listed(column.name for column in encoding.columns)
        raise ValueError(f"the model has no column {name!r} to group by; it has {known}")
    places = tuple(encoding.features.index(feature) for feature in found[0].features)
    if found[0].kind == "text":
        return ByIndicators(places, tuple(found[0].features))
    many = rows.frame.iloc[:, places[0]].nunique() > MANY
    return ByColumn(places[0], bins=BINS if many else None)


Scores = dict[str, float]


def _measured(model: Tabular, rows: Rows, method: str, settings: dict[str, Any], seed: int) -> list[Scores]:
    """Scores before and after, each half of the rows measured with what the other half taught."""
    halves = np.array_split(np.random.default_rng(seed).permutation(len(rows.y)), 2)
    pairs = []
    for learn, test in (halves, halves[::-1]):
        half = calibrated(model, rows.part(np.sort(learn)), method, settings, seed)
        pairs.append((half.estimator_, half, rows.part(np.sort(test))))
    scores = _of_classes if isinstance(model, TableClassifier) else _of_numbers
    return [scores([(pair[which], pair[2]) for pair in pairs]) for which in (0, 1)]


def _of_classes(answered: Sequence[tuple[Any, Rows]]) -> Scores:
    """Scores of the probabilities of classifiers, each on rows of its own."""
    probabilities = np.concatenate([one.predict_proba(held.frame) for one, held in answered])
    labels = np.concatenate([np.searchsorted(one.classes_, held.y) for one, held in answered])
    found = ClassEvaluation.of(probabilities, labels, bins=bins_for(len(labels)))
    return {"log loss": found.log_loss, "Brier": found.brier, "accuracy": found.accuracy}


def _of_numbers(answered: Sequence[tuple[Any, Rows]]) -> Scores:
    """Scores of the laws of regressors, each on rows of its own."""
    parts = [evaluate(one.posterior(block.frame), block.y) for one, held in answered for block in _blocks(held)]
    scores = Evaluation.concatenate(parts).scores()
    names = {"90% coverage": "coverage90", "width of 90%": "sharpness90", "interval score": "interval90"}
    names |= {"CRPS": "crps", "NLL": "nll", "RMSE": "rmse"}
    return {title: scores[name] for title, name in names.items()}


def _blocks(rows: Rows) -> list[Rows]:
    return [rows.part(np.arange(start, min(start + ROWS, len(rows.y)))) for start in range(0, len(rows.y), ROWS)]


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
