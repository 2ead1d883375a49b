"""ClassReport: what a fitted classifier is worth on a test set, as one HTML page or as JSON.

    evaluation = ClassEvaluation.of(probabilities, labels)
    report = ClassReport("gpc", "species", ["a", "b"], evaluation, prior=np.array([0.4, 0.6]), n_train=100)
    report.to_html()    a self-contained page, to be read from top to bottom
    report.to_dict()    the same content in numbers

The page needs matplotlib and jinja2 (`pip install 'kernelfield[report]'`), the numbers do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module

import numpy as np

from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.report import plain
from kernelfield.uq.verdict import FEWEST, Verdict, compared

GAINS = ("log_loss", "brier")  # scores whose zero is perfection, so that shares of them mean something
RULE = "always predicting the shares of the training rows"


@dataclass(frozen=True, eq=False)
class ClassReport:
    """The content of a report on k classes.

    model            its name
    target           name of the target
    classes          its k labels, as text
    evaluation       of the model, on the test set
    prior            shares (k,) of the classes among the training rows: what the baseline always says
    n_train          rows that the model was fitted to
    seconds          by phase: "fit", "predict"
    hyperparameters  by name
    features         names of the d inputs; entries of hyperparameters of length d are named by them
    provenance       as `kernelfield.uq.report.provenance` gives it
    notes            sentences that the reader should know, such as rows dropped

    Errors: ValueError if the numbers of classes do not agree.
    """

    model: str
    target: str
    classes: Sequence[str]
    evaluation: ClassEvaluation
    prior: np.ndarray
    n_train: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, float | list[float]] = field(default_factory=dict)
    features: Sequence[str] = ()
    provenance: Mapping[str, str | int | None] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        counts = len(self.classes), self.evaluation.probabilities.shape[1], len(self.prior)
        if len(set(counts)) > 1:
            raise ValueError(f"names, probabilities and shares must be of the same classes, got {counts} of them")

    @property
    def n_test(self) -> int:
        return len(self.evaluation.labels)

    @cached_property
    def baseline(self) -> ClassEvaluation:
        """Of always predicting the shares of the training rows."""
        said = np.broadcast_to(self.prior, self.evaluation.probabilities.shape)
        return ClassEvaluation.of(said, self.evaluation.labels)

    def scores(self) -> dict[str, float]:
        """Of the model, means over rows."""
        return self.evaluation.scores()

    def rule(self) -> dict[str, float]:
        """The scores of the baseline."""
        return self.baseline.scores()

    def skill(self) -> dict[str, float]:
        """1 - score / baseline's score: 1 is perfection, 0 no gain; NaN where the baseline is perfect."""
        own, other = self.scores(), self.rule()
        return {name: 1 - own[name] / other[name] if other[name] > 0 else np.nan for name in GAINS}

    def verdicts(self) -> list[Verdict]:
        """Are the probabilities honest, and is the model any good?"""
        return [honesty(self.evaluation), compared(self.evaluation.losses, self.baseline.losses, "log loss", RULE)]

    def to_dict(self) -> dict[str, object]:
        """The content in plain numbers, lists and text; strict JSON, where null is what has no finite value."""
        points = self.evaluation.reliability()
        content = {
            "model": self.model,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "features": list(self.features),
            "target": self.target,
            "classes": list(self.classes),
            "verdicts": [asdict(verdict) for verdict in self.verdicts()],
            "scores": self.scores(),
            "baseline": self.rule(),
            "skill": self.skill(),
            "brier_parts": asdict(self.evaluation.brier_parts()),
            "reliability": asdict(points),
            "seconds": dict(self.seconds),
            "hyperparameters": dict(self.hyperparameters),
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }
        return {name: plain(value) for name, value in content.items()}

    def to_html(self) -> str:
        """The content as one page that asks nothing of the network.

        Errors: ImportError, with the remedy, without matplotlib or jinja2.
        """
        # Its packages are optional; all else here works without them.
        return import_module("kernelfield.uq.class_page").render(self.to_dict(), self.evaluation)


def honesty(evaluation: ClassEvaluation) -> Verdict:
    """Whether probabilities are as right as they say."""
    scores, n = evaluation.scores(), len(evaluation.labels)
    found = f"The expected calibration error is {scores['ece']:.1%}"
    allowed = f"honest probabilities have {scores['ece_null_low']:.1%} to {scores['ece_null_high']:.1%} (90% band)"
    if n < FEWEST:
        return Verdict("open", "Too few rows to judge the probabilities", f"{found}; {allowed}.")
    if scores["ece"] <= scores["ece_null_high"]:
        return Verdict("good", "Probabilities keep their promise", f"{found}; {allowed} on as many rows.")
    sure = float(evaluation.probabilities.max(1).mean()) > scores["accuracy"]
    title = "Probabilities are too sure" if sure else "Probabilities are not sure enough"
    return Verdict("bad", title, f"{found}, more than chance explains; {allowed} on as many rows.")
