"""Report: what a fitted model is worth on a test set, as one HTML page or as JSON.

    scores = evaluate(law, y_test), baseline(y_train, y_test)
    report = Report(model="gp", outputs=["y"], evaluation=scores[0], baseline=scores[1], n_train=len(y_train))
    report.to_html()    a self-contained page, to be read from top to bottom
    report.to_dict()    the same content in numbers

The page needs matplotlib and jinja2 (`pip install 'kernelfield[report]'`), the numbers do not.
"""

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path

import numpy as np

from kernelfield.uq.calibration import curve, histogram
from kernelfield.uq.scores import Evaluation
from kernelfield.uq.verdict import verdicts

PACKAGES = ("kernelfield", "torch", "gpytorch", "numpy", "scikit-learn")
GAINS = ("rmse", "mae", "crps", "interval90")  # scores whose zero is perfection, so that shares of them mean something


@dataclass(frozen=True, eq=False)
class Report:
    """The content of a report.

    model            its name
    outputs          names of the m targets
    evaluation       of the model, on the test set
    baseline         of `kernelfield.uq.scores.baseline`, on the same rows
    n_train          rows that the model was fitted to
    seconds          by phase: "fit", "predict"
    hyperparameters  as `Surrogate.hyperparameters` gives them
    features         names of the d inputs; entries of hyperparameters of length d are named by them
    provenance       as the function `provenance` gives it
    notes            sentences that the reader should know, such as rows dropped

    Errors: ValueError if the evaluations and names do not agree in their shapes.
    """

    model: str
    outputs: Sequence[str]
    evaluation: Evaluation
    baseline: Evaluation
    n_train: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, float | list[float]] = field(default_factory=dict)
    features: Sequence[str] = ()
    provenance: Mapping[str, str | int | None] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        shapes = self.evaluation.y.shape, self.baseline.y.shape
        if shapes[0] != shapes[1]:
            raise ValueError(f"model and baseline must be evaluated on the same values, got shapes {shapes}")
        if shapes[0][1] != len(self.outputs):
            raise ValueError(f"need a name for each of {shapes[0][1]} outputs, got {list(self.outputs)}")

    @property
    def n_test(self) -> int:
        return len(self.evaluation.y)

    def scores(self) -> dict[str, float]:
        """Of the model, means over rows and outputs."""
        return self.evaluation.scores()

    def rule(self) -> dict[str, float]:
        """The scores of the baseline."""
        return self.baseline.scores()

    def output(self, index: int) -> "Report":
        """The report on one output alone."""
        return replace(
            self,
            outputs=[self.outputs[index]],
            evaluation=self.evaluation.output(index),
            baseline=self.baseline.output(index),
        )

    def skill(self) -> dict[str, float]:
        """1 - score / baseline's score: 1 is perfection, 0 no gain; NaN where the baseline is perfect."""
        own, other = self.evaluation.scores(), self.baseline.scores()
        return {name: 1 - own[name] / other[name] if other[name] > 0 else math.nan for name in GAINS}

    def to_dict(self) -> dict[str, object]:
        """The content in plain numbers, lists and text; strict JSON, where null is what has no finite value."""
        content = {
            "model": self.model,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "features": list(self.features),
            "verdicts": [asdict(verdict) for verdict in verdicts(self.evaluation, self.baseline, self.outputs)],
            "scores": self.evaluation.scores(),
            "baseline": self.baseline.scores(),
            "skill": self.skill(),
            "outputs": [self.output(index)._figures() for index in range(len(self.outputs))],
            "seconds": dict(self.seconds),
            "hyperparameters": dict(self.hyperparameters),
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }
        return {name: plain(value) for name, value in content.items()}

    def _figures(self) -> dict[str, object]:
        return {
            "name": self.outputs[0],
            "verdicts": [asdict(verdict) for verdict in verdicts(self.evaluation, self.baseline, self.outputs)],
            "scores": self.evaluation.scores(),
            "baseline": self.baseline.scores(),
            "skill": self.skill(),
            "calibration": asdict(curve(self.evaluation)),
            "pit": asdict(histogram(self.evaluation)),
        }

    def to_html(self) -> str:
        """The content as one page that asks nothing of the network.

        Errors: ImportError, with the remedy, without matplotlib or jinja2.
        """
        # Its packages are optional; all else here works without them.
        return import_module("kernelfield.uq.page").render(self.to_dict(), self.evaluation)


def provenance(*, seed: int | None = None, data: Path | None = None) -> dict[str, str | int | None]:
    """Where a result comes from: the date, versions, platform, seed, and the data file's name and SHA-256."""
    source: dict[str, str | int | None] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seed": seed}
    if data is not None:
        with open(data, "rb") as file:
            source |= {"data": data.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    source |= {package: _version(package) for package in PACKAGES}
    return source | {"python": platform.python_version(), "platform": platform.platform()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source folder
        return "not installed"


def plain(value: object) -> object:
    """A value as JSON has it: null for what has no finite value."""
    match value:
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case list() | tuple():
            return [plain(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
