"""Cases: the rows that surprised the model most, and what its uncertainty was made of.

The surprise of a row is its NLL, or |z| = |y - mean| / std where no density is known. The variance
of y is that of f, which more data would lower (epistemic), plus that of the noise, which it would
not (aleatoric): std^2 = latent^2 + noise.
"""

from dataclasses import dataclass

import numpy as np

from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.columns import grouping
from kernelfield.uq.scores import Evaluation

SHOWN = 20


@dataclass(frozen=True)
class Case:
    """A row: its number from zero, what came, what was said, and how much of a surprise it was.

    low and high are the ends of the 90% interval; z is (y - mean) / std.
    """

    row: int
    y: float
    mean: float
    std: float
    low: float
    high: float
    z: float
    pit: float
    nll: float


@dataclass(frozen=True)
class ClassCase:
    """A row: its number from zero, the class that came, the one that was expected, and the probabilities of both."""

    row: int
    label: int
    probability: float
    expected: int
    confidence: float


@dataclass(frozen=True)
class Share:
    """Rows of alike predicted deviations, and the shares of their variance.

    std        mean predicted deviation, units of y
    epistemic  share of the predicted variance that is of f, and the rest of noise
    rmse       of the mean, units of y
    """

    label: str
    count: int
    std: float
    epistemic: float
    aleatoric: float
    rmse: float


@dataclass(frozen=True)
class Split:
    """The parts of the predicted variance, over all rows and by tenths of the predicted deviation."""

    epistemic: float
    aleatoric: float
    groups: tuple[Share, ...]


def worst_cases(evaluation: Evaluation, count: int = SHOWN) -> list[Case]:
    """The rows of one output that surprised the model most, the worst first; ties in their order.

    >>> from kernelfield.uq.scores import baseline
    >>> worst = worst_cases(baseline(np.array([-1.0, 1.0]), np.array([0.0, 3.0, -2.0])), 2)
    >>> [(case.row, case.z) for case in worst]
    [(1, 3.0), (2, -2.0)]
    """
    columns = {name: getattr(evaluation, name)[:, 0] for name in ("y", "mean", "std", "low", "high", "pit", "nll")}
    z = (columns["y"] - columns["mean"]) / columns["std"]
    surprise = columns["nll"] if not np.isnan(columns["nll"]).any() else np.abs(z)
    columns["z"] = z
    return [
        Case(int(row), **{name: float(values[row]) for name, values in columns.items()})
        for row in _largest(surprise, count)
    ]


def worst_class_cases(evaluation: ClassEvaluation, count: int = SHOWN) -> list[ClassCase]:
    """The rows whose classes were held least probable, the worst first."""
    p, labels = evaluation.probabilities, evaluation.labels
    return [
        ClassCase(int(row), int(labels[row]), float(p[row, labels[row]]), int(p[row].argmax()), float(p[row].max()))
        for row in _largest(evaluation.losses, count)
    ]


def _largest(surprise: np.ndarray, count: int) -> np.ndarray:
    """The rows of the largest values; what has none comes first, as nothing could be said of it."""
    values = np.where(np.isnan(surprise), np.inf, surprise)
    if count < 1:
        raise ValueError(f"the number of worst cases must be at least 1, got {count}")
    if count < len(values):
        rows = np.flatnonzero(values >= -np.partition(-values, count - 1)[count - 1])
    else:
        rows = np.arange(len(values))
    return rows[np.argsort(-values[rows], kind="stable")][:count]


def split(evaluation: Evaluation) -> Split | None:
    """The epistemic and aleatoric shares of one output; None if the deviation of f is not known.

    Errors: ValueError if f varies more than y somewhere.
    """
    latent, std = evaluation.latent[:, 0], evaluation.std[:, 0]
    if not np.isfinite(latent).all():
        return None
    total, part = np.square(std), np.square(latent)
    over = int((part > total * (1 + 1e-6)).sum())  # single precision rounds where there is no noise
    if over:
        raise ValueError(f"the deviation of f exceeds that of y on {over} rows; pass the law of f at the same inputs")
    of = grouping(std)
    square = np.square(evaluation.y[:, 0] - evaluation.mean[:, 0])
    count, wide, known, spread, error = (
        np.bincount(of.codes, values, minlength=len(of.labels)) for values in (None, total, part, std, square)
    )
    groups = [
        Share(label, int(count[i]), spread[i] / count[i], *_shares(known[i], wide[i]), (error[i] / count[i]) ** 0.5)
        for i, label in enumerate(of.labels)
    ]
    return Split(*_shares(part.sum(), total.sum()), tuple(groups))


def _shares(part: float, total: float) -> tuple[float, float]:
    share = min(float(part / total), 1.0)
    return share, 1 - share
