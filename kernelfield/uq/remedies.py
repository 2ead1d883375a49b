"""Remedies: what recalibration would change, measured on rows that it has not learned from.

The rows are cut in two at random. Each remedy learns from one half and is measured on the other,
beside the predictions as they are. A remedy is recommended only where its loss, the CRPS or the log loss of
classes, is lower than theirs by more than chance explains; or no higher than chance explains, while its
90% intervals cover what they promise where theirs do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch

from kernelfield.core.posterior import Posterior
from kernelfield.uq.calibration import band
from kernelfield.uq.classes import ClassEvaluation, bins_for
from kernelfield.uq.laws import Sample
from kernelfield.uq.lights import Verdict, advice
from kernelfield.uq.recalibration.levels import IsotonicLevels
from kernelfield.uq.recalibration.probabilities import BetaProbabilities, IsotonicProbabilities, TemperatureScaling
from kernelfield.uq.recalibration.spread import StdScaling
from kernelfield.uq.scores import LEVEL, Evaluation, evaluate

ROWS = 5000  # of a half at most: the shares of 5000 rows are known to half a percent
PLAIN = "as it is"
CHOICES: dict[str, StdScaling | IsotonicLevels] = {"std": StdScaling(), "isotonic": IsotonicLevels()}
CLASS_CHOICES: dict[str, TemperatureScaling | BetaProbabilities | IsotonicProbabilities] = {
    "temperature": TemperatureScaling(),
    "beta": BetaProbabilities(),  # of two classes
    "isotonic": IsotonicProbabilities(),
}
CLEAR = 2.0  # standard errors

E = TypeVar("E", Evaluation, ClassEvaluation)
LawAt = Callable[[np.ndarray], Posterior]  # the law of some of the rows, by their indices


@dataclass(frozen=True, eq=False)
class Remedy(Generic[E]):
    """A recalibration by its name in `kernelfield calibrate --method`, and what it gave on the other half.

    learned  its numbers, by name; none for the predictions as they are
    """

    name: str
    evaluation: E
    learned: Mapping[str, float | list[float]]

    def to_dict(self) -> dict[str, object]:
        """For JSON: the numbers without those of each row."""
        scores = self.evaluation.scores()
        return {"name": self.name, "rows": len(self.evaluation.losses), "scores": scores, "learned": dict(self.learned)}


def remedies(law_at: LawAt, y: np.ndarray, *, seed: int = 0) -> list[Remedy[Evaluation]]:
    """The predictions as they are, then each remedy that the rows are enough for; none at all for too few rows.

    y (n, m) are the values that came.
    """
    learn, test = _halves(len(y), seed)
    able = {name: choice for name, choice in CHOICES.items() if len(learn) >= choice.least}
    if not able:
        return []
    with torch.no_grad():
        said, asked = law_at(learn), law_at(test)
        if not (_has_spread(said) and _has_spread(asked)):
            return []
        tried = [Remedy(PLAIN, evaluate(asked, y[test]), {})]
        if isinstance(said, Sample):
            able["std"] = StdScaling(by="moments")  # samples have no likelihood
        for name, choice in able.items():
            fitted = choice.fit(said, torch.as_tensor(y[learn]).to(said.mean))
            tried.append(Remedy(name, evaluate(fitted.apply(asked), y[test]), fitted.hyperparameters()))
    return tried


def class_remedies(evaluation: ClassEvaluation, *, seed: int = 0) -> list[Remedy[ClassEvaluation]]:
    """The same of the probabilities of classes."""
    learn, test = _halves(len(evaluation.labels), seed)
    p, labels = torch.tensor(evaluation.probabilities), torch.tensor(evaluation.labels)
    able = {name: choice for name, choice in CLASS_CHOICES.items() if len(learn) >= choice.least}
    if p.shape[1] > 2:
        able.pop("beta", None)
    if not able:
        return []
    bins = bins_for(len(test))
    tried = [Remedy(PLAIN, ClassEvaluation.of(p[test].numpy(), labels[test].numpy(), bins=bins), {})]
    for name, choice in able.items():
        fitted = choice.fit(p[learn], labels[learn])
        after = ClassEvaluation.of(fitted.apply(p[test]).numpy(), labels[test].numpy(), bins=bins)
        tried.append(Remedy(name, after, fitted.hyperparameters()))
    return tried


def recommended(tried: Sequence[Remedy[Evaluation]] | Sequence[Remedy[ClassEvaluation]]) -> str | None:
    """The name of the remedy to take, None if the predictions may stay as they are."""
    if not tried:
        return None
    plain, *others = tried
    worth = [one for one in others if _better(one.evaluation, plain.evaluation)]
    return min(worth, key=lambda one: float(_loss(one.evaluation).mean())).name if worth else None


def advised(verdicts: Sequence[Verdict], name: str | None, *, fitted: bool) -> list[str]:
    """What to do about the lights; a remedy that was tried and does best replaces what that of calibration proposes."""
    answers = [replace(one, remedy="") if name and one.name == "calibration" else one for one in verdicts]
    return [*advice(answers), *prescribed(name, fitted=fitted)]


def prescribed(name: str | None, *, fitted: bool) -> list[str]:
    """What a recommended remedy comes to, in a sentence; `fitted` if a model of this package made the predictions."""
    if name is None:
        return []
    way = f"kernelfield calibrate --method {name}" if fitted else f"Calibrated(estimator, method={name!r}) in Python"
    return [f"Of the recalibrations that were tried, {name} does best on rows it has not seen ({way})."]


def _halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order, half = np.random.default_rng(seed).permutation(n), min(n // 2, ROWS)
    return np.sort(order[:half]), np.sort(order[half : 2 * half])


def _has_spread(law: Posterior) -> bool:
    """Whether each deviation is finite; infinite ones have intervals, but nothing to compare."""
    return bool(((law.variance > 0) & law.variance.isfinite()).all())


def _loss(evaluation: Evaluation | ClassEvaluation) -> np.ndarray:
    return evaluation.crps.mean(axis=1) if isinstance(evaluation, Evaluation) else evaluation.losses


def _better(remedy: Evaluation | ClassEvaluation, plain: Evaluation | ClassEvaluation) -> bool:
    gain = _loss(plain) - _loss(remedy)
    error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
    if gain.mean() > CLEAR * error:
        return True
    return bool(gain.mean() > -CLEAR * error and _honest(remedy) and not _honest(plain))


def _honest(evaluation: Evaluation | ClassEvaluation) -> bool:
    if isinstance(evaluation, ClassEvaluation):
        return evaluation.ece <= evaluation.null().high
    low, high = band(len(evaluation.y), LEVEL)
    share = evaluation.coverage([LEVEL])[0]
    return bool(((low <= share) & (share <= high)).all())
