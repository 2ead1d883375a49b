"""Tables in: a fitted estimator that takes tables, with all it needs to take the next one alike.

`TableModel` and `TableClassifier` join what the lower layers keep apart: an `Encoding` of the
columns, a `FieldRegressor` or `FieldClassifier` on the encoded numbers, and the scores of its
predictions. On disk it is the folder that
`kernelfield.save` writes for the estimator, with `table.json` beside: such a folder is a model
for `kernelfield.load` too, only without its table.
"""

import json
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from kernelfield.core.posterior import Posterior
from kernelfield.data.encoding import Encoded, Encoding
from kernelfield.data.tables import Problem, listed
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.persistence import load, load_extra, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models import zoo
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.classes import ClassEvaluation, bins_for
from kernelfield.uq.report import Report
from kernelfield.uq.scores import Evaluation, baseline, evaluate

ANSWERS = ("mean", "std", "lower", "upper")
TABLE = "table.json"
FORMAT = 1  # of table.json; a later version that cannot be read by this code counts one higher
ROWS = 2048  # of a chunk of predictions: memory stays flat, and a progress bar moves

Provenance = dict[str, str | int | None]
Estimator = FieldRegressor | FieldClassifier | Calibrated | CalibratedClassifier
Tick = Callable[[int], None]  # is told the rows done since the last call


def silent(rows: int) -> None:
    """A tick that nobody hears."""


@dataclass(frozen=True, eq=False)
class Tabular(ABC):
    """A fitted estimator of `targets` (in this order) as functions of the columns of a table."""

    estimator: Estimator
    encoding: Encoding
    name: str  # in the zoo
    targets: tuple[str, ...]
    rows: int
    seconds: float
    provenance: Provenance
    constant: tuple[str, ...] = ()  # targets that had one value

    @staticmethod
    @abstractmethod
    def unfitted(name: str, seed: int) -> Estimator:
        """The estimator of a model's name in the zoo."""

    @staticmethod
    @abstractmethod
    def values(target: pd.DataFrame) -> np.ndarray:
        """The targets as the estimator takes them."""

    @property
    @abstractmethod
    def answers(self) -> list[str]:
        """The columns of a prediction."""

    @abstractmethod
    def predict(self, frame: pd.DataFrame, level: float, tick: Tick = silent) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """The columns `answers` for the rows of a table, any interval of probability `level`; and remarks."""

    @abstractmethod
    def report(
        self, held: Problem, notes: Sequence[str] = (), tick: Tick = silent, **made: str
    ) -> Report | ClassReport:
        """Measure the model on rows with known targets, `notes` and `made` going into the report.

        Errors: ValueError if the columns are not those of the fit.
        """

    @abstractmethod
    def doubt(self, frame: pd.DataFrame) -> np.ndarray:
        """How unsure the model is of rows: deviations (n, m) of y, or probabilities (n, k) of classes."""

    @classmethod
    def fit(cls, problem: Problem, name: str, seed: int, provenance: Provenance) -> tuple[Self, list[str]]:
        """Fit a model of the zoo to a table; also what was done to the data, and what it warned of, in sentences.

        Errors: ValueError for an unknown model, fewer than two rows or columns that cannot be
        encoded; MemoryError for more rows than an exact fit has room for.
        """
        estimator = cls.unfitted(name, seed)
        if len(problem.features) < 2:
            raise ValueError(f"a fit needs at least 2 rows with a target, got {len(problem.features)}; add rows")
        encoding = Encoding.fit(problem.features)
        encoded = encoding.apply(problem.features)
        y = cls.values(problem.target)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            estimator.fit(encoded.frame, y)
        seconds = time.perf_counter() - start
        warned = dict.fromkeys(str(warning.message) for warning in caught)
        constant = tuple(target for target in problem.target if problem.target[target].nunique() == 1)
        fitted = cls(estimator, encoding, name, tuple(problem.target), len(y), seconds, provenance, constant)
        return fitted, [*remarks(encoding, encoded), *estimator.notes_, *warned]

    def save(self, path: str | Path) -> None:
        """Write the model to a folder, whole or not at all.

        Errors: those of `kernelfield.save`.
        """
        record = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "estimator"}
        record |= {"format": FORMAT, "encoding": self.encoding.to_dict()}
        save(self.estimator, path, extra={TABLE: json.dumps(record, indent=1, allow_nan=False) + "\n"})

    @property
    def base(self) -> Any:
        """The estimator that was fitted to the table, inside of one that calibrates it."""
        calibrated = isinstance(self.estimator, Calibrated | CalibratedClassifier)
        return self.estimator.estimator_ if calibrated else self.estimator

    @property
    def title(self) -> str:
        """What a report calls the model: its name in the zoo, and how it was calibrated."""
        if not isinstance(self.estimator, Calibrated | CalibratedClassifier):
            return self.name
        method = self.estimator.method
        return f"{self.name}, calibrated by {method if isinstance(method, str) else type(method).__name__}"

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """What was learned, by name, with what the calibration learned."""
        learned = self.base.surrogate_.hyperparameters()
        if isinstance(self.estimator, Calibrated | CalibratedClassifier):
            more = self.estimator.calibrator_.hyperparameters()
            learned = learned | {f"calibration.{name}": value for name, value in more.items()}
        return learned

    def described(self, notes: Sequence[str], predicting: float | None, **made: str) -> dict[str, Any]:
        """What all reports hold beside what they measured."""
        return {
            "model": self.title,
            "n_train": self.rows,
            "seconds": {"fit": self.seconds, "predict": predicting},
            "hyperparameters": self.hyperparameters(),
            "features": self.encoding.features,
            "provenance": {**self.provenance, **made},
            "notes": list(notes),
        }

    def summary(self, notes: Sequence[str] = ()) -> dict[str, object]:
        """The keys of a report's JSON for a model that was not tested: what needs a test is None."""
        content = self.described(notes, None) | {"n_test": 0, "scores": None}
        learned = content["hyperparameters"].items()
        return content | {"hyperparameters": {k: v if np.isfinite(v).all() else None for k, v in learned}}


def remarks(encoding: Encoding, encoded: Encoded) -> list[str]:
    """What was done to the rows of a fit by their encoding, in sentences."""
    return [*(f"column {name!r} holds no value and is left out" for name in encoding.empty), *encoded.notes]


def load_table(path: str | Path) -> Tabular:
    """Read a model that `save` wrote.

    Errors: those of `kernelfield.load`; ValueError if there is no table or it is of a newer
    version.
    """
    estimator = load(path)
    kind = TableClassifier if isinstance(estimator, FieldClassifier | CalibratedClassifier) else TableModel
    try:
        record = json.loads(load_extra(path, TABLE))
        _require_format(record.pop("format"), Path(path) / TABLE)
        encoding = Encoding.from_dict(record.pop("encoding"))
        tuples = {"targets": tuple(record["targets"]), "constant": tuple(record.get("constant", ()))}
        return kind(estimator, encoding, **{**record, **tuples})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{Path(path) / TABLE} is no record of a table ({error}); fit the model again") from error


@dataclass(frozen=True, eq=False)
class TableModel(Tabular):
    """Regression: answers are means, standard deviations and ends of intervals."""

    estimator: FieldRegressor | Calibrated

    @staticmethod
    def unfitted(name: str, seed: int) -> FieldRegressor:
        return FieldRegressor(zoo.model(name), random_state=seed)

    @staticmethod
    def values(target: pd.DataFrame) -> np.ndarray:
        y = target.to_numpy(copy=True)  # pandas lends its arrays read-only, which torch dislikes
        return y[:, 0] if y.shape[1] == 1 else y

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
            mean, std, quantiles = self.estimator.predict(chunk, return_std=True, quantiles=ends)
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
            parts.append(evaluate(self.estimator.posterior(chunk), target[done : done + len(chunk)]))
            done += len(chunk)
        seconds = time.perf_counter() - start
        # The scaling of the fit keeps mean and deviation of the training targets, and two rows can have them.
        scaling = self.base.surrogate_.to_model_y
        spread = scaling.scale * scaling.scale.new_tensor([name not in self.constant for name in self.targets])
        moments = torch.stack([scaling.shift - spread, scaling.shift + spread]).cpu().numpy()
        return Report(
            outputs=self.targets,
            evaluation=Evaluation.concatenate(parts),
            baseline=baseline(moments, target),
            **self.described([*notes, *_of_test(encoded.notes)], seconds, **made),
        )

    def law(self, frame: pd.DataFrame, *, noise: bool = True) -> Posterior:
        """The law of y, or of f without noise, for the rows of a table together."""
        return self.estimator.posterior(self.encoding.apply(frame).frame, noise=noise)

    def doubt(self, frame: pd.DataFrame) -> np.ndarray:
        return self._deviations(frame, noise=True)

    def latent(self, frame: pd.DataFrame) -> np.ndarray:
        """Standard deviations (n, m) of the function that y is noise about; NaN for models that do not tell it."""
        try:
            return self._deviations(frame, noise=False)
        except NotImplementedError:
            return np.full((len(frame), len(self.targets)), np.nan)

    def _deviations(self, frame: pd.DataFrame, *, noise: bool) -> np.ndarray:
        encoded = self.encoding.apply(frame).frame
        laws = (self.estimator.posterior(chunk, noise=noise) for chunk in _chunks(encoded, silent))
        return np.concatenate([law.variance.sqrt().double().cpu().numpy() for law in laws])


@dataclass(frozen=True, eq=False)
class TableClassifier(Tabular):
    """Classification: answers are the most probable class and the probabilities of all."""

    estimator: FieldClassifier | CalibratedClassifier

    @staticmethod
    def unfitted(name: str, seed: int) -> FieldClassifier:
        return FieldClassifier(zoo.classifier(name), random_state=seed)

    @staticmethod
    def values(target: pd.DataFrame) -> np.ndarray:
        return np.array(target.iloc[:, 0].tolist())

    @property
    def answers(self) -> list[str]:
        return ["predicted", *(f"probability_{label}" for label in self.estimator.classes_)]

    def predict(self, frame: pd.DataFrame, level: float, tick: Tick = silent) -> tuple[pd.DataFrame, tuple[str, ...]]:
        encoded = self.encoding.apply(frame)
        proba = self._probabilities(encoded.frame, tick)
        answer = pd.DataFrame(proba, frame.index, self.answers[1:])
        answer.insert(0, self.answers[0], self.estimator.classes_[proba.argmax(1)])
        return answer, encoded.notes

    def report(self, held: Problem, notes: Sequence[str] = (), tick: Tick = silent, **made: str) -> ClassReport:
        encoded = self.encoding.apply(held.features)
        labels = list(self.estimator.classes_)
        came = held.target[self.targets[0]].tolist()
        unseen = sorted({str(label) for label in came} - {str(label) for label in labels})
        if unseen:
            raise ValueError(
                f"target {self.targets[0]!r} holds {listed(unseen)}, which the fit has not seen among "
                f"{listed(map(str, labels))}; leave these rows out, or fit to rows of all classes"
            )
        start = time.perf_counter()
        proba = self._probabilities(encoded.frame, tick)
        return ClassReport(
            target=self.targets[0],
            classes=[str(label) for label in labels],
            evaluation=ClassEvaluation.of(proba, [labels.index(label) for label in came], bins=bins_for(len(came))),
            prior=self.estimator.class_prior_,
            **self.described([*notes, *_of_test(encoded.notes)], time.perf_counter() - start, **made),
        )

    def doubt(self, frame: pd.DataFrame) -> np.ndarray:
        return self._probabilities(self.encoding.apply(frame).frame, silent)

    def _probabilities(self, frame: pd.DataFrame, tick: Tick) -> np.ndarray:
        return np.concatenate([self.estimator.predict_proba(chunk) for chunk in _chunks(frame, tick)])


def _of_test(notes: Sequence[str]) -> list[str]:
    return [f"test rows: {text}" for text in notes]


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
    return part(problem, train), part(problem, test)


def part(problem: Problem, rows: np.ndarray) -> Problem:
    """Some rows of a problem, by position."""
    return Problem(problem.features.iloc[rows], problem.target.iloc[rows], problem.dropped)
