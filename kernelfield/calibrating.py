"""Calibrating: correct the uncertainty of a fitted model of tables by rows that it has not seen.

`calibrated` does what it is told. `corrected` sets apart a part of the rows that a model is to be tested on, tries
recalibrations on them (`kernelfield.uq.remedies`), and keeps one only where it does better by more than chance
explains; the rest of the rows stay unseen, so that they still tell what the corrected model is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import clone

from kernelfield.data.tables import Problem, listed
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.indicators import ByIndicators
from kernelfield.tabular import TableClassifier, TableModel, Tabular, part
from kernelfield.uq.classes import ClassEvaluation, bins_for
from kernelfield.uq.conformal.grouping import ByColumn
from kernelfield.uq.remedies import class_remedies, recommended, remedies
from kernelfield.uq.scores import Evaluation, evaluate

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)  # of method cqr, whose levels are calibrated one by one
MANY = 20  # different numbers in a column: more are cut into bins
BINS = 5
ROWS = 2048  # measured at once
LEAST = 20  # rows, ten for each half
TEACHING = 5000  # rows set apart to correct a fit at most: shares of as many are known to half a percent


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


def corrected(model: Tabular, held: Problem, seed: int) -> tuple[Tabular, Problem, list[str]]:
    """The model as some of the held-out rows correct it, the rows that are left to test it on, and what was done.

    Half of the rows are set apart, 5000 at most; too few of them change nothing.
    """
    n = len(held.features)
    count = min(n // 2, TEACHING)
    if count < LEAST:
        return model, held, [f"{n} rows to test on are too few to spare some for a calibration; {2 * LEAST} are needed"]
    order = np.random.default_rng(seed).permutation(n)
    taught, left = (part(held, np.sort(places)) for places in (order[:count], order[count:]))
    method = recommended(_tried(model, taught, seed))
    tested = f"scores are of the other {n - count:,}"
    if method is None:
        return model, left, [f"{count:,} held-out rows showed no need to recalibrate the predictions; {tested}"]
    made = {**model.provenance, "calibrated_by": method, "calibrated_on": "held-out rows", "calibration_rows": count}
    estimator = calibrated(model, encoded(model, taught)[0], method, {}, seed)
    done = replace(model, estimator=estimator, provenance=made)
    return done, left, [f"{count:,} held-out rows recalibrated the predictions (method {method}); {tested}"]


def _tried(model: Tabular, rows: Problem, seed: int) -> Sequence[Any]:
    if isinstance(model, TableClassifier):
        return class_remedies(model.report(rows).evaluation, seed=seed)
    assert isinstance(model, TableModel)
    y = rows.target[list(model.targets)].to_numpy(copy=True)
    return remedies(lambda index: model.law(rows.features.iloc[index]), y, seed=seed)


def encoded(model: Tabular, problem: Problem) -> tuple[Rows, tuple[str, ...]]:
    """The rows of a table as the model's estimator takes them, and what was done to them."""
    found = model.encoding.apply(problem.features)
    return Rows(found.frame, model.values(problem.target[list(model.targets)])), found.notes


def settings_of(model: Tabular, rows: Rows, method: str, column: str | None) -> dict[str, Any]:
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


def before_and_after(model: Tabular, rows: Rows, method: str, settings: dict[str, Any], seed: int) -> list[Scores]:
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
