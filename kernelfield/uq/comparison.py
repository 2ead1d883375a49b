"""Comparison: several models measured on the same splits of the same rows, ranked by what they said of each row.

Models are ranked by their mean loss, the negative log probability (density) of what came, in
nats a row: the mean over splits of the mean over a split's test rows. Whether one is worse than
the best is asked of the differences of their losses row by row, which rows that are hard for both
leave alone. Their mean is bootstrapped in two stages: K - 1 of the K splits are drawn with
replacement, then in each as many rows as it holds; one split alone is drawn as it is. Drawing
K - 1 makes the variance from split to split unbiased. Where rows differ but splits do not, the
variance is expected to be (1/K + 1/(K-1)) that of a split's mean: that of the corrected t test,
which allows for training sets that overlap.

A model is distinguishable from the best if the central 95% of these means leave zero out. Each
model is asked alone, without allowance for how many are asked, and the best was chosen by the
same rows, so that near ties are left open rather than decided.

Sources: Efron & Tibshirani (1993), "An Introduction to the Bootstrap"; Rao & Wu (1988),
"Resampling Inference with Complex Survey Data", for K - 1; Nadeau & Bengio (2003), "Inference for
the Generalization Error", for the corrected t test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module

import numpy as np

from kernelfield.uq.calibration import CONFIDENCE, curve
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.record import plain
from kernelfield.uq.scores import Evaluation
from kernelfield.uq.verdict import Verdict, class_verdicts, verdicts

DRAWS = 2000  # of the bootstrap: ends of intervals are right to about 3% of their distance from the mean
CHUNK = 2**22  # entries of the counts of rows drawn at once
REGRESSION = ("nll", "crps", "rmse", "coverage90", "sharpness90")
CLASSES = ("log_loss", "brier", "accuracy", "ece")


@dataclass(frozen=True, eq=False)
class Contender:
    """A model, what it said of the test rows of each split, and what it cost.

    evaluations  one a split, of regression or of classes
    seconds      of each split, by phase: "fit", "predict"
    notes        sentences on its fits
    """

    name: str
    evaluations: Sequence[Evaluation | ClassEvaluation]
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def losses(self) -> list[np.ndarray]:
        """The loss of each test row in nats, a mean over outputs; an array (n_k,) a split."""
        return [evaluation.losses for evaluation in self.evaluations]

    def split_scores(self) -> dict[str, list[float]]:
        """The scores of each split, by name."""
        each = [_scores(evaluation) for evaluation in self.evaluations]
        return {name: [scores[name] for scores in each] for name in each[0]}

    def scores(self) -> dict[str, float]:
        """Means over the splits."""
        return {name: float(np.mean(values)) for name, values in self.split_scores().items()}

    def pooled(self) -> Evaluation | ClassEvaluation:
        """The evaluation of the test rows of all splits."""
        classes = [one for one in self.evaluations if isinstance(one, ClassEvaluation)]
        if classes:
            return ClassEvaluation.concatenate(classes)
        return Evaluation.concatenate([one for one in self.evaluations if isinstance(one, Evaluation)])


@dataclass(frozen=True, eq=False)
class Standing:
    """Where a contender stands.

    rank        from 1, by mean loss; 0 for a baseline
    difference  of its mean loss to the best's, in nats
    low, high   the 95% bootstrap interval of the difference; 0 for the best, infinite where a loss is
    """

    contender: Contender
    rank: int
    difference: float
    low: float
    high: float

    @property
    def open(self) -> bool:
        """Whether it cannot be told apart from the best."""
        return self.low <= 0


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models on the same splits.

    outputs     names of the targets
    contenders  those that finished all splits
    baseline    what a rule without inputs says of the same rows
    failures    a sentence for each model that did not finish
    rows        with a target
    features    names of the inputs
    classes     labels, for classes
    provenance  as `kernelfield.uq.report.provenance` gives it
    notes       sentences on the data
    advice      a line for each model by name

    Errors: ValueError if contenders were not measured on the same rows.
    """

    outputs: Sequence[str]
    contenders: Sequence[Contender]
    baseline: Contender
    failures: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    features: Sequence[str] = ()
    classes: Sequence[str] = ()
    provenance: Mapping[str, str | int | None] = field(default_factory=dict)
    notes: Sequence[str] = ()
    advice: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.contenders:
            raise ValueError("a comparison needs at least one model that was measured, got none")
        expected = [_came(evaluation) for evaluation in self.baseline.evaluations]
        for contender in self.contenders:
            came = [_came(evaluation) for evaluation in contender.evaluations]
            if len(came) != len(expected) or not all(map(np.array_equal, came, expected)):
                raise ValueError(f"{contender.name} was not measured on the rows of {self.baseline.name}")

    @property
    def splits(self) -> int:
        return len(self.baseline.evaluations)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of scores; the first is what models are ranked by."""
        return CLASSES if self.classes else REGRESSION

    @cached_property
    def standings(self) -> list[Standing]:
        """The contenders in the order of their mean losses, the best first."""
        return ranked(self.contenders)

    @property
    def best(self) -> Contender:
        return self.standings[0].contender

    @cached_property
    def rule(self) -> Standing:
        """Where the baseline stands against the best, without a rank of its own."""
        return Standing(self.baseline, 0, *intervals([self.baseline], self.best)[0])

    def below_rule(self) -> list[str]:
        """The models whose mean loss is no better than the baseline's."""
        least = self.baseline.scores()[self.measures[0]]
        return [one.contender.name for one in self.standings if one.contender.scores()[self.measures[0]] >= least]

    def verdicts(self) -> list[Verdict]:
        """Which is best, are its intervals or probabilities honest, and is it any good?"""
        best, rule = self.best.pooled(), self.baseline.pooled()
        if isinstance(best, ClassEvaluation) and isinstance(rule, ClassEvaluation):
            rest = class_verdicts(best, rule)
        elif isinstance(best, Evaluation) and isinstance(rule, Evaluation):
            rest = verdicts(best, rule, self.outputs)
        named = [replace(one, title=f"{self.best.name}: {one.title[:1].lower()}{one.title[1:]}") for one in rest]
        return [self._winner(), *named]

    def _winner(self) -> Verdict:
        name, loss = self.best.name, "log loss" if self.classes else "NLL"
        found = f"{name} has the lowest mean {loss}, {self.best.scores()[self.measures[0]]:.4g} nats a row"
        others = [one.contender.name for one in self.standings[1:] if one.open]
        if len(self.standings) == 1:
            return Verdict("open", f"{name} alone was measured", f"{found}; no other model finished.")
        if not others:
            return Verdict("good", f"{name} is the best", f"{found}, and every other is worse beyond chance.")
        quickest = min([self.best, *(one.contender for one in self.standings[1:] if one.open)], key=_cost)
        advice = f" {quickest.name} is the quickest of them." if quickest.seconds else ""
        title = f"{name} leads, and chance may explain its lead"
        return Verdict("open", title, f"{found}; {spoken(others)} cannot be told apart from it.{advice}")

    def to_dict(self) -> dict[str, object]:
        """The content in plain numbers, lists and text; strict JSON, where null is what has no finite value."""
        content = {
            "targets": list(self.outputs),
            "classes": list(self.classes),
            "rows": self.rows,
            "features": list(self.features),
            "splits": self.splits,
            "ranked_by": self.measures[0],
            "verdicts": [asdict(verdict) for verdict in self.verdicts()],
            "models": [self._record(one) for one in self.standings],
            "baseline": self._record(self.rule) | {"rank": None},
            "failures": dict(self.failures),
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }
        return {name: plain(value) for name, value in content.items()}

    def _record(self, one: Standing) -> dict[str, object]:
        return {
            "model": one.contender.name,
            "rank": one.rank,
            "scores": one.contender.scores(),
            "difference": {"mean": one.difference, "low": one.low, "high": one.high},
            "distinguishable": not one.open,
            "by_split": one.contender.split_scores(),
            "seconds": {phase: list(times) for phase, times in one.contender.seconds.items()},
            "calibration": _calibration(one.contender.pooled()),
            "notes": list(one.contender.notes),
        }

    def to_html(self) -> str:
        """The content as one page that asks nothing of the network.

        Errors: ImportError, with the remedy, without matplotlib or jinja2.
        """
        # Its packages are optional; all else here works without them.
        return import_module("kernelfield.uq.comparison_page").render(self)


def ranked(contenders: Sequence[Contender], *, draws: int = DRAWS, seed: int = 0) -> list[Standing]:
    """The contenders in the order of their mean losses, with intervals of their differences to the best.

    >>> said = {"sure": [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], "unsure": [[0.6, 0.4], [0.6, 0.4], [0.5, 0.5]]}
    >>> models = [Contender(name, [ClassEvaluation.of(p, [0, 0, 1])]) for name, p in said.items()]
    >>> [(one.contender.name, round(one.difference, 3), one.open) for one in ranked(models)]
    [('sure', 0.0, True), ('unsure', 0.343, False)]
    """
    means = [_mean_loss(contender) for contender in contenders]
    order = [contenders[index] for index in np.argsort(means, kind="stable")]
    ends = [(0.0, 0.0, 0.0), *intervals(order[1:], order[0], draws=draws, seed=seed)]
    return [Standing(one, rank, *three) for rank, (one, three) in enumerate(zip(order, ends, strict=True), 1)]


def intervals(
    others: Sequence[Contender], best: Contender, *, draws: int = DRAWS, seed: int = 0
) -> list[tuple[float, float, float]]:
    """The difference in mean loss of each to the best, and its 95% bootstrap interval; infinite where a loss is."""
    answer = [(np.inf, np.inf, np.inf)] * len(others)
    own = best.losses()
    gaps = [[loss - one for loss, one in zip(other.losses(), own, strict=True)] for other in others]
    finite = [index for index, gap in enumerate(gaps) if all(np.isfinite(part).all() for part in gap)]
    if finite:
        splits = [np.stack(parts, 1) for parts in zip(*(gaps[index] for index in finite), strict=True)]
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(resampled(splits, draws=draws, seed=seed), [tail, 1 - tail], axis=0)
        means = np.mean([part.mean(0) for part in splits], axis=0)
        for index, *three in zip(finite, means.tolist(), low.tolist(), high.tolist(), strict=True):
            answer[index] = tuple(three)
    return answer


def resampled(splits: Sequence[np.ndarray], *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Bootstrap means (draws, m) of losses (n_k, m) of K splits; see the module docstring.

    All columns are resampled alike, so that differences of them are paired.
    """
    generator, K = np.random.default_rng(seed), len(splits)
    slots = max(K - 1, 1)
    total = np.zeros((draws, splits[0].shape[1]))
    for _ in range(slots):
        chosen = generator.integers(K, size=draws)
        for index, losses in enumerate(splits):
            total[chosen == index] += _row_means(losses, int((chosen == index).sum()), generator)
    return total / slots


def _row_means(losses: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Means (draws, m) of n rows of losses (n, m), drawn with replacement."""
    n, parts = len(losses), [np.empty((0, losses.shape[1]))]
    most = max(CHUNK // n, 1)
    for start in range(0, draws, most):
        rows = generator.integers(n, size=(min(most, draws - start), n))
        counts = np.stack([np.bincount(row, minlength=n) for row in rows])
        parts.append(counts @ losses / n)
    return np.concatenate(parts)


def spoken(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> spoken(["gp", "nngp", "ntk"])
    'gp, nngp and ntk'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _mean_loss(contender: Contender) -> float:
    return float(np.mean([loss.mean() for loss in contender.losses()]))


def _cost(contender: Contender) -> float:
    return float(np.sum([np.mean(times) for times in contender.seconds.values()]))


def _came(evaluation: Evaluation | ClassEvaluation) -> np.ndarray:
    return evaluation.labels if isinstance(evaluation, ClassEvaluation) else evaluation.y


def _scores(evaluation: Evaluation | ClassEvaluation) -> dict[str, float]:
    if isinstance(evaluation, ClassEvaluation):  # all but the null, which is drawn at random
        return {name: getattr(evaluation, name) for name in CLASSES}
    scores = evaluation.scores()
    return {name: scores[name] for name in REGRESSION}


def _calibration(evaluation: Evaluation | ClassEvaluation) -> list[dict[str, object]]:
    """What is drawn of it: points of a reliability diagram, or a curve for each output."""
    if isinstance(evaluation, ClassEvaluation):
        return [asdict(evaluation.reliability())]
    return [asdict(curve(evaluation.output(index))) for index in range(evaluation.y.shape[1])]
