"""Recalibration of class probabilities p (n, k) by the labels of held-out rows.

    temperature   softmax(log p / T), one number, which leaves the order of classes as it is
    beta          logistic(c + a log p - b log(1 - p)) with a, b >= 0, of the second of two classes
    isotonic      a step function of each class's probability, rising from below to above, normalised

Temperature and beta have the greatest likelihood; isotonic regression the least squares, by scikit-learn,
kept between 1 / (n + 2) and its complement, as n rows do not show that anything is impossible.

Sources: Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks"; Kull, Silva
Filho & Flach (2017), "Beta Calibration"; Zadrozny & Elkan (2002), "Transforming Classifier Scores into
Accurate Multiclass Probability Estimates".
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import optimize
from sklearn.isotonic import IsotonicRegression
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.recalibration.rows import require_finite, require_rows

LEAST = torch.finfo(torch.float64).tiny  # a probability of zero has this logarithm
SPAN = 5.0  # of the logarithm of a temperature, either way
STEEPEST = 100.0  # a and b at most: labels that probabilities separate have no likeliest ones


@dataclass(frozen=True)
class TemperatureScaling:
    """One temperature for the logits. Errors: ValueError for fewer than 10 rows, no probabilities or labels.

    >>> p = torch.tensor([[0.99, 0.01]]).repeat(20, 1)
    >>> fitted = TemperatureScaling().fit(p, torch.tensor([0, 0, 0, 1] * 5))  # right in three of four
    >>> [round(value, 4) for value in fitted.apply(p)[0].tolist()]
    [0.75, 0.25]
    """

    least: ClassVar[int] = 10

    def fit(self, probabilities: Tensor, labels: Tensor) -> "FittedTemperature":
        p, y = _rows(probabilities, labels, self.least)
        logits = p.clamp_min(LEAST).log()

        def loss(log_temperature: float) -> float:
            return float(cross_entropy(logits * math.exp(-log_temperature), y))

        found = optimize.minimize_scalar(loss, bounds=(-SPAN, SPAN), method="bounded", options={"xatol": 1e-9})
        return FittedTemperature(math.exp(found.x), p.shape[1], len(p))


@dataclass(frozen=True)
class FittedTemperature:
    """The temperature of k classes, learned from so many rows; above one where the probabilities were too sure."""

    temperature: float
    classes: int
    rows: int

    def apply(self, probabilities: Tensor) -> Tensor:
        """Probabilities (n, k)."""
        p = _probabilities(probabilities, self.classes)
        return (p.clamp_min(torch.finfo(p.dtype).tiny).log() / self.temperature).softmax(-1)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"temperature": self.temperature}

    def notes(self) -> list[str]:
        return [
            f"Logits were divided by the temperature {self.temperature:.4g}, learned from {self.rows} held-out rows."
        ]


@dataclass(frozen=True)
class BetaProbabilities:
    """The Beta family, for two classes. Errors: ValueError for more classes, or fewer than 30 rows.

    >>> p = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(20, 1)
    >>> fitted = BetaProbabilities().fit(p, torch.tensor([0, 1, 0, 1, 0, 1, 1, 0] * 5))  # right in three of four
    >>> [round(value, 3) for value in fitted.apply(p)[0].tolist()]
    [0.75, 0.25]
    """

    least: ClassVar[int] = 30

    def fit(self, probabilities: Tensor, labels: Tensor) -> "FittedBeta":
        p, y = _rows(probabilities, labels, self.least)
        if p.shape[1] != 2:
            raise ValueError(f"beta calibration is for two classes, got {p.shape[1]}; use TemperatureScaling")
        features, target = _beta_features(p), y.to(p)

        def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
            with torch.enable_grad():
                v = torch.from_numpy(theta).clone().requires_grad_()
                value = binary_cross_entropy_with_logits(features @ v[:2] + v[2], target)
                (slope,) = torch.autograd.grad(value, v)
            return value.item(), slope.numpy()

        bounds = [(0.0, STEEPEST), (0.0, STEEPEST), (None, None)]
        options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}
        found = optimize.minimize(loss, np.array([1.0, 1.0, 0.0]), jac=True, bounds=bounds, options=options)
        a, b, c = found.x.tolist()
        return FittedBeta(a, b, c, len(p))


@dataclass(frozen=True)
class FittedBeta:
    """The numbers of a Beta curve for the second class, learned from so many rows."""

    a: float
    b: float
    c: float
    rows: int

    def apply(self, probabilities: Tensor) -> Tensor:
        """Probabilities (n, 2)."""
        features = _beta_features(_probabilities(probabilities, 2))
        logit = features @ features.new_tensor([self.a, self.b]) + self.c
        return torch.stack([torch.sigmoid(-logit), torch.sigmoid(logit)], 1)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"a": self.a, "b": self.b, "c": self.c}

    def notes(self) -> list[str]:
        curve = f"a = {self.a:.4g}, b = {self.b:.4g}, c = {self.c:.4g}"
        return [f"Probabilities went through a Beta curve ({curve}) learned from {self.rows} held-out rows."]


@dataclass(frozen=True)
class IsotonicProbabilities:
    """Isotonic regression of each class against the others. Errors: ValueError for fewer than 100 rows.

    >>> p = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(50, 1)
    >>> fitted = IsotonicProbabilities().fit(p, torch.tensor([0, 1, 0, 1, 0, 1, 1, 0, 0, 1] * 10))
    >>> [round(value, 4) for value in fitted.apply(p)[0].tolist()]
    [0.8, 0.2]
    """

    least: ClassVar[int] = 100

    def fit(self, probabilities: Tensor, labels: Tensor) -> "FittedIsotonic":
        p, y = _rows(probabilities, labels, self.least)
        low = 1 / (len(p) + 2)
        columns = [1] if p.shape[1] == 2 else range(p.shape[1])
        curves = []
        for column in columns:
            model = IsotonicRegression(y_min=low, y_max=1 - low, out_of_bounds="clip")
            model.fit(p[:, column].numpy(), (y == column).double().numpy())
            curves.append(Steps(*(torch.from_numpy(ends) for ends in (model.X_thresholds_, model.y_thresholds_))))
        return FittedIsotonic(tuple(curves), p.shape[1], len(p))


@dataclass(frozen=True, eq=False)
class Steps:
    """Lines through points (x, y), each (k,) and not decreasing; constant beyond them."""

    x: Tensor
    y: Tensor

    def __call__(self, p: Tensor) -> Tensor:
        """Heights at p (n,)."""
        return torch.from_numpy(np.interp(p.double().cpu().numpy(), self.x.numpy(), self.y.numpy())).to(p)


@dataclass(frozen=True, eq=False)
class FittedIsotonic:
    """One curve a class, or that of the second of two, learned from so many rows."""

    curves: tuple[Steps, ...]
    classes: int
    rows: int

    def apply(self, probabilities: Tensor) -> Tensor:
        """Probabilities (n, k)."""
        p = _probabilities(probabilities, self.classes)
        if self.classes == 2:
            second = self.curves[0](p[:, 1])
            return torch.stack([1 - second, second], 1)
        raised = torch.stack([curve(column) for curve, column in zip(self.curves, p.unbind(1), strict=True)], 1)
        return raised / raised.sum(1, keepdim=True)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"points": [float(len(curve.x)) for curve in self.curves]}

    def notes(self) -> list[str]:
        return [f"Probabilities were recalibrated by isotonic regression on {self.rows} held-out rows."]


def _rows(probabilities: Tensor, labels: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Checked probabilities (n, k), in double precision, and labels (n,)."""
    checked = ClassEvaluation.of(probabilities.detach().cpu().numpy(), labels.cpu().numpy())
    require_rows(len(labels), least=least, task="recalibration of probabilities")
    return torch.from_numpy(checked.probabilities), torch.from_numpy(checked.labels).long()


def _probabilities(p: Tensor, classes: int) -> Tensor:
    if p.ndim != 2 or p.shape[1] != classes:
        raise ValueError(f"need probabilities (n, {classes}), as were calibrated, got {tuple(p.shape)}")
    require_finite(p, "the probabilities")
    return p


def _beta_features(p: Tensor) -> Tensor:
    """log p and -log(1 - p) of the second class, (n, 2); 1 - p is the first, which keeps its figures."""
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
    return torch.stack([log_p[:, 1], -log_p[:, 0]], 1)
