"""Report: what predictions are worth on a test set, as one HTML page, as JSON or as a few lines of Markdown.

    report = Report.from_arrays(y, mean=mean, std=std)      from any library's output
    report.to_html()    a self-contained page, to be read from top to bottom
    report.to_dict()    the same content in numbers, as `report.schema.json` describes it

The page needs matplotlib and jinja2 (`pip install 'kernelfield[report]'`), the numbers do not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from kernelfield.core.posterior import Posterior
from kernelfield.uq.arrays import law_from
from kernelfield.uq.bootstrap import GAINS, Interval, score_intervals, skill_intervals
from kernelfield.uq.calibration import Calibration
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.constant import Constant, constant_spread
from kernelfield.uq.diagnosis.findings import Findings, diagnose
from kernelfield.uq.gaps import AgainstChance
from kernelfield.uq.joint import JointEvaluation, evaluate_blocks
from kernelfield.uq.lights import LIGHT, Verdict, shared
from kernelfield.uq.markdown import summary
from kernelfield.uq.order import Order, order
from kernelfield.uq.paired import Paired, compared_with
from kernelfield.uq.record import heading, plain
from kernelfield.uq.remedies import Remedy, advised, recommended
from kernelfield.uq.rows import Rows
from kernelfield.uq.scores import Evaluation, baseline, evaluate
from kernelfield.uq.verdict import output_verdicts
from kernelfield.uq.whole import whole_scores

NUMBERS = (  # that conditions may ask for
    "rmse",
    "mae",
    "r2",
    "nll",
    "crps",
    "interval90",
    "coverage90",
    "sharpness90",
    "quantile05",
    "quantile95",
    "skill",
    "miscalibration",
    "red_lights",
)
FEWEST = 2  # rows, without which no score has an interval
CLIMATOLOGY = "the mean and deviation of the training targets"
OWN_CLIMATOLOGY = "the mean and deviation of the test values themselves, as no training targets were given"


@dataclass(frozen=True, eq=False)
class Report:
    """The content of a report.

    model            its name
    outputs          names of the m targets
    evaluation       of the model, on the test set
    baseline         of `kernelfield.uq.scores.baseline`, on the same rows; `rule` says what it always predicts
    n_train          rows that the model was fitted to; None if that is not known
    seconds          by phase: "fit", "predict"
    hyperparameters  as `Surrogate.hyperparameters` gives them
    features         names of the d inputs; entries of hyperparameters of length d are named by them
    provenance       as `kernelfield.uq.record.provenance` gives it
    notes            sentences that the reader should know, such as rows dropped
    rows             what is known of the test rows: columns, groups, time, rows from elsewhere
    others           evaluations of other models on the same rows, by name
    joint            scores of predictions taken together, as `kernelfield.uq.joint` measures them
    remedies         what recalibration would change, as `kernelfield.uq.remedies` measures it

    Errors: ValueError if the evaluations and names do not agree in their shapes.

    >>> y, mean = np.array([1.0, 2.0, 3.0]), np.array([1.1, 1.9, 3.2])
    >>> report = Report.from_arrays(y, mean=mean, std=np.full(3, 0.2))
    >>> round(report.scores()["rmse"], 4)
    0.1414
    """

    model: str
    outputs: Sequence[str]
    evaluation: Evaluation
    baseline: Evaluation
    n_train: int | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, float | list[float]] = field(default_factory=dict)
    features: Sequence[str] = ()
    provenance: Mapping[str, str | int | None] = field(default_factory=dict)
    notes: Sequence[str] = ()
    rule: str = CLIMATOLOGY
    rows: Rows = field(default_factory=Rows)
    others: Mapping[str, Evaluation] = field(default_factory=dict)
    joint: JointEvaluation | None = None
    remedies: Sequence[Remedy[Evaluation]] = ()

    def __post_init__(self) -> None:
        for name in ("outputs", "features"):
            if isinstance(only := getattr(self, name), str):  # a text is a sequence too, of letters
                object.__setattr__(self, name, [only])
        if self.model in self.others:
            raise ValueError(f"the model and one that it is compared with are both called {self.model!r}; rename one")
        for name, other in {"baseline": self.baseline, **self.others}.items():
            if other.y.shape != self.evaluation.y.shape or not np.array_equal(other.y, self.evaluation.y):
                shapes = f"{self.evaluation.y.shape} and {other.y.shape}"
                raise ValueError(f"model and {name} must be evaluated on the same values, got shapes {shapes}")
        if self.evaluation.y.shape[1] != len(self.outputs):
            need = self.evaluation.y.shape[1]
            raise ValueError(f"need a name for each of {need} outputs, got {list(self.outputs)}")
        self.rows.require_length(self.n_test)

    @classmethod
    def from_arrays(
        cls,
        y: ArrayLike,
        *,
        mean: ArrayLike | None = None,
        std: ArrayLike | None = None,
        quantiles: Mapping[float, ArrayLike] | None = None,
        samples: ArrayLike | None = None,
        cdf: tuple[ArrayLike, ArrayLike] | None = None,
        proba: ArrayLike | None = None,
        covariance: ArrayLike | None = None,
        y_train: ArrayLike | None = None,
        **named: Any,
    ) -> "Report | ClassReport":
        """The report on what any program predicted, from one of the forms that `kernelfield.uq.arrays.law_from` takes.

        y        values that came (n,) or (n, m); with proba, probabilities (n, k) of classes, their numbers (n,)
        y_train  targets that the model learned from, for the baseline; without, it is that of the test values
        named    other fields of the report, such as model="forest", outputs=["price"], rows=Rows(...)

        Errors: ValueError for predictions that are no laws, in one sentence each.
        """
        if proba is not None:
            return ClassReport.from_arrays(y, proba, y_train=y_train, **named)
        law = law_from(mean=mean, std=std, quantiles=quantiles, samples=samples, cdf=cdf, covariance=covariance)
        if covariance is not None:
            named = {"joint": evaluate_blocks(law, torch.as_tensor(np.asarray(y)).reshape(law.mean.shape)), **named}
        return cls.of(law, y, y_train=y_train, **named)

    @classmethod
    def of(cls, law: Posterior, y: ArrayLike, *, y_train: ArrayLike | None = None, **named: Any) -> "Report":
        """The report on a predictive law of n points and m outputs; `kernelfield.uq.adapters` takes others' laws."""
        evaluation = evaluate(law, np.asarray(y))
        train = evaluation.y if y_train is None else np.asarray(y_train)
        return cls(
            **{
                "model": "predictions",
                "outputs": [f"y{j}" for j in range(evaluation.y.shape[1])] if evaluation.y.shape[1] > 1 else ["y"],
                "evaluation": evaluation,
                "baseline": baseline(train, evaluation.y),
                "n_train": None if y_train is None else len(train),
                "rule": OWN_CLIMATOLOGY if y_train is None else CLIMATOLOGY,
                **named,
            }
        )

    @property
    def n_test(self) -> int:
        return len(self.evaluation.y)

    def scores(self) -> dict[str, float]:
        """Of the model, means over rows and outputs."""
        return self.evaluation.scores()

    def output(self, index: int) -> "Report":
        """The report on one output alone."""
        outside = None if self.rows.outside is None else np.asarray(self.rows.outside)[:, [index]]
        return replace(
            self,
            outputs=[self.outputs[index]],
            evaluation=self.evaluation.output(index),
            baseline=self.baseline.output(index),
            rows=replace(self.rows, outside=outside),
            others={name: other.output(index) for name, other in self.others.items()},
        )

    @cached_property
    def parts(self) -> list["Part"]:
        """What there is to say of each output."""
        m, found = len(self.outputs), diagnose(self.evaluation, **self.rows.asked)
        each = [self] if m == 1 else [self.output(index) for index in range(m)]
        return [Part(one, findings, LIGHT / m) for one, findings in zip(each, found, strict=True)]

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals of the scores; none for a single row."""
        return score_intervals(self.evaluation) if self.n_test >= FEWEST else {}

    @cached_property
    def skill(self) -> dict[str, Interval]:
        """1 - score / baseline's score: 1 is perfection, 0 no gain; NaN where the baseline is perfect."""
        if self.n_test >= FEWEST:
            return skill_intervals(self.evaluation, self.baseline)
        own, other = self.scores(), self.baseline.scores()
        gains = {name: 1 - own[name] / other[name] if other[name] > 0 else math.nan for name in GAINS if name in own}
        return {name: Interval(gain, math.nan, math.nan) for name, gain in gains.items()}

    @cached_property
    def pairs(self) -> list[Paired]:
        """Every other model against this one, by CRPS."""
        if not self.others or self.n_test < FEWEST:
            return []
        return compared_with({self.model: self.evaluation, **self.others}, self.model)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The lights of the header; for several outputs, of all of them."""
        each = [part.verdicts for part in self.parts]
        return each[0] if len(each) == 1 else [shared(answers, self.outputs) for answers in zip(*each, strict=True)]

    @cached_property
    def advised(self) -> str | None:
        """The recalibration to take, if any."""
        return recommended(self.remedies)

    @cached_property
    def advice(self) -> list[str]:
        """What to do, in sentences; nothing where nothing need be done."""
        return advised(self.verdicts, self.advised, fitted=self.n_train is not None)

    def numbers(self) -> dict[str, float]:
        """What conditions may ask for, by NUMBERS: scores, skill, calibration and the number of red lights.

        Of several outputs means are given, and the largest miscalibration area.
        """
        areas = [part.calibration.area for part in self.parts if part.calibration is not None]
        gain = self.skill["crps"].value
        return {
            **self.scores(),
            "skill": gain,
            "miscalibration": max(areas, default=math.nan),
            "red_lights": float(sum(verdict.grade == "bad" for verdict in self.verdicts)),
        }

    def to_dict(self) -> dict[str, object]:
        """The content in plain numbers, lists and text; strict JSON, where null is what has no finite value."""
        content = {
            **heading("regression"),
            "model": self.model,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "features": list(self.features),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            **self.figures(),
            "advice": self.advice,
            "rule": self.rule,
            "outputs": [part.to_dict() for part in self.parts],
            "comparison": [asdict(pair) | {"sentence": pair.sentence} for pair in self.pairs],
            "joint": None if self.joint is None else self.joint.scores() | {"sentence": self.joint.sentence},
            "remedies": [one.to_dict() for one in self.remedies],
            "recommended": self.advised,
            "seconds": dict(self.seconds),
            "hyperparameters": dict(self.hyperparameters),
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }
        return {name: plain(value) for name, value in content.items()}

    def figures(self) -> dict[str, object]:
        """Scores with their intervals, the baseline's, and skill, for JSON."""
        return {
            "scores": self.scores(),
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "baseline": self.baseline.scores(),
            "skill": {name: asdict(interval) for name, interval in self.skill.items()},
        }

    def to_markdown(self) -> str:
        """Verdicts, scores and advice as a few lines of Markdown, for the log of a pipeline."""
        return summary(self.to_dict())

    def to_html(self) -> str:
        """The content as one page that asks nothing of the network.

        Errors: ImportError, with the remedy, without matplotlib or jinja2.
        """
        # Its packages are optional; all else here works without them.
        return import_module("kernelfield.uq.page").render(self)


@dataclass(frozen=True, eq=False)
class Part:
    """What there is to say of one output: `report` on it alone, `findings`, and lights of a level (see `verdict`)."""

    report: Report
    findings: Findings
    level: float

    @cached_property
    def verdicts(self) -> list[Verdict]:
        one, given = self.report, len(self.report.rows.columns)
        return output_verdicts(
            one.evaluation, one.baseline, self.findings, level=self.level, rule=one.rule, given=given
        )

    @cached_property
    def calibration(self) -> Calibration | None:
        """None where no PIT is known, or for a single row."""
        evaluation = self.report.evaluation
        known = len(evaluation.pit) >= FEWEST and np.isfinite(evaluation.pit).all()
        return Calibration.of(evaluation) if known else None

    @cached_property
    def order(self) -> Order | None:
        return order(self.report.evaluation)

    @cached_property
    def whole(self) -> dict[str, AgainstChance]:
        """Scores that are no means over rows, with intervals and what chance gives."""
        return whole_scores(self.report.evaluation, self.calibration, self.order)

    @cached_property
    def constant(self) -> Constant | None:
        """What predicted spreads are worth beside one width for all rows."""
        return constant_spread(self.report.evaluation)

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.report.outputs[0],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            **self.report.figures(),
            "calibration": None if self.calibration is None else _calibration(self.calibration),
            "order": None if self.order is None else asdict(self.order),
            "whole": {name: asdict(found) for name, found in self.whole.items()},
            "constant": None if self.constant is None else asdict(self.constant),
            **asdict(self.findings),
        }


def _calibration(found: Calibration) -> dict[str, object]:
    return {
        "coverage": asdict(found.curve()),
        "pit": asdict(found.histogram()),
        "tails": asdict(found.tails()),
        "area": found.area,
        "area_by_chance": found.area_by_chance,
        "kolmogorov": asdict(found.kolmogorov),
        "cramer": asdict(found.cramer),
    }
