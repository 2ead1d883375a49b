"""TableModel: a regressor that takes tables, with all it needs to take the next one alike.

It joins what the lower layers keep apart: an `Encoding` of the columns, a `FieldRegressor` on the
encoded numbers, and the scores of its predictions. On disk it is the folder that
`kernelfield.save` writes for the regressor, with `table.json` beside: such a folder is a model
for `kernelfield.load` too, only without its table.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kernelfield.data.encoding import Encoding
from kernelfield.data.tables import Problem
from kernelfield.estimators.persistence import load, load_extra, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models import zoo
from kernelfield.uq.report import Report
from kernelfield.uq.scores import Evaluation, baseline, evaluate

ANSWERS = ("mean", "std", "lower", "upper")
TABLE = "table.json"
FORMAT = 1  # of table.json; a later version that cannot be read by this code counts one higher
ROWS = 2048  # of a chunk of predictions: memory stays flat, and a progress bar moves

Provenance = dict[str, str | int | None]
Tick = Callable[[int], None]  # is told the rows done since the last call


def silent(rows: int) -> None:
    """A tick that nobody hears."""


@dataclass(frozen=True, eq=False)
class TableModel:
    """A fitted model of `targets` (in this order) as functions of the columns of a table."""

    regressor: FieldRegressor
    encoding: Encoding
    name: str  # in the zoo
    targets: tuple[str, ...]
    rows: int
    seconds: float
    provenance: Provenance

    @classmethod
    def fit(cls, problem: Problem, name: str, seed: int, provenance: Provenance) -> tuple["TableModel", list[str]]:
        """Fit a model of the zoo to a table; also what was done to the data, in sentences.

        Errors: ValueError for an unknown model, fewer than two rows or columns that cannot be
        encoded; MemoryError for more rows than an exact fit has room for.
        """
        regressor = FieldRegressor(zoo.model(name), random_state=seed)
        if len(problem.features) < 2:
            raise ValueError(f"a fit needs at least 2 rows with a target, got {len(problem.features)}; add rows")
        encoding = Encoding.fit(problem.features)
        encoded = encoding.apply(problem.features)
        y = problem.target.to_numpy(copy=True)  # pandas lends its arrays read-only, which torch dislikes
        start = time.perf_counter()
        regressor.fit(encoded.frame, y[:, 0] if y.shape[1] == 1 else y)
        seconds = time.perf_counter() - start
        empty = [f"column {name!r} holds no value and is left out" for name in encoding.empty]
        fitted = cls(regressor, encoding, name, tuple(problem.target), len(y), seconds, provenance)
        return fitted, [*empty, *encoded.notes, *regressor.notes_]

    def save(self, path: str | Path) -> None:
        """Write the model to a folder, whole or not at all.

        Errors: those of `kernelfield.save`.
        """
        record = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "regressor"}
        record |= {"format": FORMAT, "encoding": self.encoding.to_dict()}
        save(self.regressor, path, extra={TABLE: json.dumps(record, indent=1, allow_nan=False) + "\n"})

    @classmethod
    def load(cls, path: str | Path) -> "TableModel":
        """Read a model that `save` wrote.

        Errors: those of `kernelfield.load`; ValueError if there is no table or it is of a newer
        version.
        """
        regressor = load(path)
        try:
            record = json.loads(load_extra(path, TABLE))
            _require_format(record.pop("format"), Path(path) / TABLE)
            encoding = Encoding.from_dict(record.pop("encoding"))
            return cls(regressor, encoding, **{**record, "targets": tuple(record["targets"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{Path(path) / TABLE} is no record of a table ({error}); fit the model again") from error

    @property
    def answers(self) -> list[str]:
        """The columns of a prediction: mean, std, lower and upper; mean_y and so on for several targets."""
        if len(self.targets) == 1:
            return list(ANSWERS)
        return [f"{name}_{target}" for target in self.targets for name in ANSWERS]

    def predict(self, frame: pd.DataFrame, level: float, tick: Tick = silent) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """The columns `answers` for the rows of a table, the interval of probability `level`; and remarks."""
        encoded = self.encoding.apply(frame)
        ends = [(1 - level) / 2, (1 + level) / 2]
        parts = []
        for chunk in _chunks(encoded.frame, tick):
            mean, std, quantiles = self.regressor.predict(chunk, return_std=True, quantiles=ends)
            columns = [mean, std, quantiles[..., 0], quantiles[..., 1]]
            parts.append(np.stack([column.reshape(len(chunk), -1) for column in columns], -1))
        answer = np.concatenate(parts)
        return pd.DataFrame(answer.reshape(len(answer), -1), frame.index, self.answers), encoded.notes

    def report(self, held: Problem, notes: Sequence[str] = (), tick: Tick = silent, **made: str) -> Report:
        """Measure the model on rows with known targets, `notes` and `made` going into the report.

        Errors: ValueError if the columns are not those of the fit.
        """
        encoded = self.encoding.apply(held.features)
        target = held.target[list(self.targets)].to_numpy(copy=True)
        start, done, parts = time.perf_counter(), 0, []
        for chunk in _chunks(encoded.frame, tick):
            parts.append(evaluate(self.regressor.posterior(chunk), target[done : done + len(chunk)]))
            done += len(chunk)
        seconds = {"fit": self.seconds, "predict": time.perf_counter() - start}
        # The scaling of the fit keeps mean and deviation of the training targets, and two rows can have them.
        scaling = self.regressor.surrogate_.to_model_y
        moments = torch.stack([scaling.shift - scaling.scale, scaling.shift + scaling.scale]).cpu().numpy()
        return Report(
            model=self.name,
            outputs=self.targets,
            evaluation=Evaluation.concatenate(parts),
            baseline=baseline(moments, target),
            n_train=self.rows,
            seconds=seconds,
            hyperparameters=self.regressor.surrogate_.hyperparameters(),
            features=self.encoding.features,
            provenance={**self.provenance, **made},
            notes=[*notes, *(f"test rows: {text}" for text in encoded.notes)],
        )

    def summary(self, notes: Sequence[str] = ()) -> dict[str, object]:
        """The keys of a report's JSON for a model that was not tested: what needs a test is None."""
        learned = self.regressor.surrogate_.hyperparameters()
        return {
            "model": self.name,
            "n_train": self.rows,
            "n_test": 0,
            "features": self.encoding.features,
            "scores": None,
            "seconds": {"fit": self.seconds, "predict": None},
            "hyperparameters": {name: value if np.isfinite(value).all() else None for name, value in learned.items()},
            "provenance": self.provenance,
            "notes": list(notes),
        }


def _require_format(version: object, path: Path) -> None:
    if version != FORMAT:
        raise ValueError(f"{path} has format {version} and this program reads {FORMAT}; upgrade kernelfield")


def _chunks(frame: pd.DataFrame, tick: Tick) -> Iterator[pd.DataFrame]:
    for start in range(0, len(frame), ROWS):
        chunk = frame.iloc[start : start + ROWS]
        yield chunk
        tick(len(chunk))


def split(problem: Problem, share: float, seed: int) -> tuple[Problem, Problem]:
    """Rows to learn from and a random share of rows to test on, the latter in the order of the table.

    Errors: ValueError if either is left with too little.
    """
    n = len(problem.features)
    tested = round(share * n)
    if not tested or n - tested < 2:
        raise ValueError(
            f"{share:g} of {n} rows leaves {tested} to test and {n - tested} to learn from, which needs 1 and 2; "
            "add rows, or give --test-size 0 to learn from all of them"
        )
    order = np.random.default_rng(seed).permutation(n)
    test, train = np.sort(order[:tested]), np.sort(order[tested:])
    return _rows(problem, train), _rows(problem, test)


def _rows(problem: Problem, rows: np.ndarray) -> Problem:
    return Problem(problem.features.iloc[rows], problem.target.iloc[rows], problem.dropped)
