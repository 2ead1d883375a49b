"""Ratios of densities: how much likelier an input is where predictions are wanted than where the calibration rows lie.

A classifier that tells target inputs from calibration inputs, with the logit l(x), has

    w(x) = p_target(x) / p_calibration(x) = exp(l(x)) n_calibration / n_target.

The logit is linear in standardised inputs, which is exact for a shift of a Gaussian, or quadratic,
which is exact for any two Gaussians. Weights are clipped to [1 / clip, clip].

Source: Sugiyama, Suzuki & Kanamori (2012), "Density Ratio Estimation in Machine Learning", chapter 4.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from kernelfield.uq.recalibration.rows import require_finite, require_rows

STEPS = 1000  # of L-BFGS
PENALTY = 1.0  # C of scikit-learn: a prior of deviation one for each coefficient


@dataclass(frozen=True)
class DensityRatio:
    """A ratio learned by logistic regression.

    classifier : "logistic" for a linear, "quadratic" for a quadratic logit.
    clip : the largest weight, and one over the least.

    Errors: ValueError for fewer than 20 rows on either side, shapes that do not agree, NaN, or a
    clip that is not above 1.

    >>> calibration, target = torch.linspace(-2, 2, 101)[:, None], torch.linspace(-1, 3, 101)[:, None]
    >>> weights = DensityRatio().fit(calibration, target)(torch.tensor([[-1.0], [0.5], [2.0]]))
    >>> [round(w, 1) for w in weights.tolist()]
    [0.4, 1.0, 2.8]
    """

    classifier: Literal["logistic", "quadratic"] = "logistic"
    clip: float = 50.0
    least: ClassVar[int] = 20

    def fit(self, X: Tensor, target: Tensor) -> "FittedRatio":
        """From inputs (n, d) of the calibration and (k, d) of the target, which need no values y."""
        if self.classifier not in ("logistic", "quadratic"):
            raise ValueError(f"classifier must be 'logistic' or 'quadratic', got {self.classifier!r}")
        if not self.clip > 1:
            raise ValueError(f"clip must be above 1, got {self.clip:g}")
        if X.ndim != 2 or target.ndim != 2 or X.shape[1] != target.shape[1]:
            raise ValueError(f"need inputs (n, d) and (k, d), got {tuple(X.shape)} and {tuple(target.shape)}")
        for inputs, name in ((X, "X"), (target, "the target inputs")):
            require_rows(len(inputs), least=self.least, task="a ratio of densities")
            require_finite(inputs, name)
        both = torch.cat([X.double().cpu(), target.double().cpu()])
        shift, scale = both.mean(0), both.std(0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        degree = 1 if self.classifier == "logistic" else 2
        features = _features((both - shift) / scale, degree)
        labels = (torch.arange(len(both)) >= len(X)).numpy()
        found = LogisticRegression(C=PENALTY, max_iter=STEPS).fit(features.numpy(), labels)
        offset = float(found.intercept_[0]) + math.log(len(X) / len(target))
        return FittedRatio(shift, scale, torch.from_numpy(found.coef_[0]), offset, degree, self.clip)


@dataclass(frozen=True, eq=False)
class FittedRatio:
    """exp(offset + features . coefficients), clipped, for features of (X - shift) / scale up to a degree."""

    shift: Tensor
    scale: Tensor
    coefficients: Tensor
    offset: float
    degree: int
    clip: float

    def __call__(self, X: Tensor) -> Tensor:
        """Weights (n,) of inputs (n, d), in double precision."""
        if X.ndim != 2 or X.shape[1] != len(self.shift):
            raise ValueError(f"need inputs X (n, {len(self.shift)}), got {tuple(X.shape)}")
        require_finite(X, "X")
        logit = _features((X.to(self.shift) - self.shift) / self.scale, self.degree) @ self.coefficients + self.offset
        return logit.clamp(-math.log(self.clip), math.log(self.clip)).exp()


def _features(X: Tensor, degree: int) -> Tensor:
    """The inputs, and their products where the degree is two."""
    if degree == 1:
        return X
    i, j = torch.triu_indices(X.shape[1], X.shape[1])
    return torch.cat([X, X[:, i] * X[:, j]], 1)
