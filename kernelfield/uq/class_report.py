"""ClassReport: what probabilities of classes are worth on a test set, as one HTML page, as JSON or as Markdown.

    evaluation = ClassEvaluation.of(probabilities, labels)
    report = ClassReport("gpc", "species", ["a", "b"], evaluation, prior=np.array([0.4, 0.6]), n_train=100)
    report.to_html()    a self-contained page, to be read from top to bottom
    report.to_dict()    the same content in numbers, as `report.schema.json` describes it

The page needs matplotlib and jinja2 (`pip install 'kernelfield[report]'`), the numbers do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kernelfield.uq.bootstrap import Interval, score_intervals, skill_intervals
from kernelfield.uq.class_calibration import (
    adaptive_ece,
    classwise_ece,
    kolmogorov,
    selective_risk,
    spiegelhalter,
    worst_gap,
)
from kernelfield.uq.class_verdict import class_verdicts
from kernelfield.uq.classes import ClassEvaluation, bins_for
from kernelfield.uq.diagnosis.findings import ClassFindings, diagnose_classes
from kernelfield.uq.gaps import AgainstChance
from kernelfield.uq.lights import Verdict
from kernelfield.uq.markdown import summary
from kernelfield.uq.paired import Paired, compared_with
from kernelfield.uq.record import heading, plain
from kernelfield.uq.remedies import Remedy, advised, recommended
from kernelfield.uq.rows import Rows
from kernelfield.uq.whole import whole_class_scores

NUMBERS = (  # that conditions may ask for
    "accuracy",
    "log_loss",
    "brier",
    "ece",
    "ece_debiased",
    "ece_null_low",
    "ece_null_high",
    "skill",
    "worst_gap",
    "red_lights",
)
SHARES = "the shares of the classes among the training rows"
OWN_SHARES = "the shares of the classes among the test rows themselves, as no training labels were given"


@dataclass(frozen=True, eq=False)
class ClassReport:
    """The content of a report on k classes.

    model            its name
    target           name of the target
    classes          its k labels, as text
    evaluation       of the model, on the test set
    prior            shares (k,) of the classes among the training rows: what the baseline always says
    n_train          rows that the model was fitted to; None if that is not known
    seconds          by phase: "fit", "predict"
    hyperparameters  by name
    features         names of the d inputs; entries of hyperparameters of length d are named by them
    provenance       as `kernelfield.uq.record.provenance` gives it
    notes            sentences that the reader should know, such as rows dropped
    rule             what the baseline always says, in words
    rows             what is known of the test rows: columns, groups, time, rows from elsewhere
    others           evaluations of other models on the same rows, by name
    remedies         what recalibration would change, as `kernelfield.uq.remedies` measures it

    Errors: ValueError if the numbers of classes or rows do not agree.
    """

    model: str
    target: str
    classes: Sequence[str]
    evaluation: ClassEvaluation
    prior: np.ndarray
    n_train: int | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, float | list[float]] = field(default_factory=dict)
    features: Sequence[str] = ()
    provenance: Mapping[str, str | int | None] = field(default_factory=dict)
    notes: Sequence[str] = ()
    rule: str = SHARES
    rows: Rows = field(default_factory=Rows)
    others: Mapping[str, ClassEvaluation] = field(default_factory=dict)
    remedies: Sequence[Remedy[ClassEvaluation]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.features, str):  # a text is a sequence too, of letters
            object.__setattr__(self, "features", [self.features])
        if isinstance(self.classes, str):
            raise ValueError(f"classes must be a list of two names or more, got the text {self.classes!r}")
        if self.model in self.others:
            raise ValueError(f"the model and one that it is compared with are both called {self.model!r}; rename one")
        counts = len(self.classes), self.evaluation.probabilities.shape[1], len(self.prior)
        if len(set(counts)) > 1:
            raise ValueError(f"names, probabilities and shares must be of the same classes, got {counts} of them")
        for name, other in self.others.items():
            if not np.array_equal(other.labels, self.evaluation.labels):
                sizes = f"{len(self.evaluation.labels)} and {len(other.labels)}"
                raise ValueError(f"model and {name} must be evaluated on the same labels, got {sizes} of them")
        self.rows.require_length(self.n_test)

    @classmethod
    def from_arrays(
        cls, labels: ArrayLike, probabilities: ArrayLike, *, y_train: ArrayLike | None = None, **named: Any
    ) -> "ClassReport":
        """The report on any program's probabilities (n, k) and the numbers (n,) of the classes that came.

        Labels may also be the names in classes=[...], truths, or whole numbers that are floats.

        y_train  labels of the training rows, for the baseline; without, it is that of the test rows
        named    other fields of the report, such as classes=["cat", "dog"]

        Errors: ValueError for probabilities that are no laws, or labels that are none of the classes.
        """
        names = named.get("classes")
        if isinstance(names, str):
            raise ValueError(f"classes must be a list of two names or more, got the text {names!r}")
        came = _numbered(labels, names)
        evaluation = ClassEvaluation.of(probabilities, came, bins=bins_for(len(came)))
        k = evaluation.probabilities.shape[1]
        seen = evaluation.labels if y_train is None else _numbered(y_train, names)
        return cls(
            **{
                "model": "predictions",
                "target": "class",
                "classes": [str(index) for index in range(k)],
                "evaluation": evaluation,
                "prior": np.bincount(seen, minlength=k) / len(seen),
                "n_train": None if y_train is None else len(seen),
                "rule": OWN_SHARES if y_train is None else SHARES,
                **named,
            }
        )

    @property
    def n_test(self) -> int:
        return len(self.evaluation.labels)

    @cached_property
    def baseline(self) -> ClassEvaluation:
        """Of always predicting the prior shares."""
        said = np.broadcast_to(self.prior, self.evaluation.probabilities.shape)
        return ClassEvaluation.of(said, self.evaluation.labels)

    @cached_property
    def figures(self) -> dict[str, float]:
        """The scores of the model, means over rows."""
        return self.evaluation.scores()

    def scores(self) -> dict[str, float]:
        """Of the model, means over rows."""
        return self.figures

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals of the scores that are means over rows; none for a single row."""
        return score_intervals(self.evaluation) if self.n_test > 1 else {}

    @cached_property
    def whole(self) -> dict[str, AgainstChance]:
        """Scores that are no means over rows, with intervals and what chance gives."""
        return whole_class_scores(self.evaluation)

    @cached_property
    def skill(self) -> dict[str, Interval]:
        """1 - score / baseline's score: 1 is perfection, 0 no gain; NaN where the baseline is perfect."""
        return skill_intervals(self.evaluation, self.baseline) if self.n_test > 1 else {}

    @cached_property
    def pairs(self) -> list[Paired]:
        """Every other model against this one, by log loss."""
        if not self.others or self.n_test < 2:
            return []
        return compared_with({self.model: self.evaluation, **self.others}, self.model)

    @cached_property
    def findings(self) -> ClassFindings:
        return diagnose_classes(self.evaluation, **self.rows.asked)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The lights of the header."""
        given = len(self.rows.columns)
        return class_verdicts(self.evaluation, self.baseline, self.findings, rule=self.rule, given=given)

    @cached_property
    def advised(self) -> str | None:
        """The recalibration to take, if any."""
        return recommended(self.remedies)

    @cached_property
    def advice(self) -> list[str]:
        """What to do, in sentences; nothing where nothing need be done."""
        return advised(self.verdicts, self.advised, fitted=self.n_train is not None)

    def numbers(self) -> dict[str, float]:
        """What conditions may ask for, by NUMBERS: scores, skill, calibration and the number of red lights."""
        return {
            **self.scores(),
            "skill": self.skill["log_loss"].value if self.skill else np.nan,
            "worst_gap": worst_gap(self.evaluation),
            "red_lights": float(sum(verdict.grade == "bad" for verdict in self.verdicts)),
        }

    def to_dict(self) -> dict[str, object]:
        """The content in plain numbers, lists and text; strict JSON, where null is what has no finite value."""
        content = {
            **heading("classes"),
            "model": self.model,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "features": list(self.features),
            "target": self.target,
            "classes": list(self.classes),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "advice": self.advice,
            "scores": self.scores(),
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "rule": self.rule,
            "baseline": self.baseline.scores(),
            "skill": {name: asdict(interval) for name, interval in self.skill.items()},
            "brier_parts": asdict(self.evaluation.brier_parts()),
            "reliability": asdict(self.evaluation.reliability()),
            "calibration": {
                "adaptive_ece": adaptive_ece(self.evaluation),
                "classwise_ece": classwise_ece(self.evaluation),
                "worst_gap": worst_gap(self.evaluation),
                "spiegelhalter": asdict(spiegelhalter(self.evaluation)),
                "kolmogorov": asdict(kolmogorov(self.evaluation)),
            },
            "risk": asdict(selective_risk(self.evaluation)),
            "whole": {name: asdict(found) for name, found in self.whole.items()},
            **asdict(self.findings),
            "comparison": [asdict(pair) | {"sentence": pair.sentence} for pair in self.pairs],
            "remedies": [one.to_dict() for one in self.remedies],
            "recommended": self.advised,
            "seconds": dict(self.seconds),
            "hyperparameters": dict(self.hyperparameters),
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }
        return {name: plain(value) for name, value in content.items()}

    def to_markdown(self) -> str:
        """Verdicts, scores and advice as a few lines of Markdown, for the log of a pipeline."""
        return summary(self.to_dict())

    def to_html(self) -> str:
        """The content as one page that asks nothing of the network.

        Errors: ImportError, with the remedy, without matplotlib or jinja2.
        """
        # Its packages are optional; all else here works without them.
        return import_module("kernelfield.uq.class_page").render(self)


def _numbered(labels: ArrayLike, names: Sequence[str] | None) -> np.ndarray:
    """Labels as numbers of classes: those in `names` by their place, truths and whole floats as what they are."""
    given = np.asarray(labels)
    if given.dtype.kind in "OUS" and names is not None:
        place = {str(name): index for index, name in enumerate(names)}
        strange = sorted({str(label) for label in given.ravel()} - place.keys())
        if strange:
            raise ValueError(f"labels hold {strange[0]!r}, which is none of the classes {list(place)}; name it there")
        return np.array([place[str(label)] for label in given.ravel()])
    whole = given.dtype.kind == "b" or (given.dtype.kind == "f" and bool(np.all(given == np.round(given))))
    return given.astype(int) if whole else given
