"""The predictive law of any fitted regressor, and the laws of several as one.

A `FieldRegressor` has a law of its own; a regressor with ``predict(return_std=True)`` is taken for Gaussian, and one
that predicts points alone for Gaussian too, with one deviation an output that the caller knows. Pipelines,
searches and frozen estimators are looked through. Laws here are marginals: points are independent of each other,
so that memory grows with their number alone.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from torch import Tensor

from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.uq.recalibration.normal_scores import Scored, at_normal_score, normal_score

Kind = Literal["law", "std", "points"]


def kind_of(estimator: BaseEstimator) -> Kind:
    """What a regressor tells of its uncertainty; it need not be fitted.

    >>> from sklearn.linear_model import BayesianRidge, Ridge
    >>> kind_of(FieldRegressor()), kind_of(BayesianRidge()), kind_of(Ridge())
    ('law', 'std', 'points')
    """
    last = innermost(estimator)
    if isinstance(last, FieldRegressor):
        return "law"
    return "std" if "return_std" in inspect.signature(last.predict).parameters else "points"


def innermost(estimator: BaseEstimator) -> Any:
    """The regressor at the end of pipelines, searches and frozen estimators; fitted where they are."""
    match estimator:
        case Pipeline():
            return innermost(estimator.steps[-1][1])
        case FrozenEstimator():
            return innermost(estimator.estimator)
        case GridSearchCV() | RandomizedSearchCV():
            return innermost(vars(estimator).get("best_estimator_", estimator.estimator))
    return estimator


def law_of(estimator: BaseEstimator, X: Any, spread: np.ndarray | None = None) -> Posterior:
    """The law of y (n, m) at the rows X, whatever the regressor takes for rows.

    spread (m,) : the deviation of each output, where the regressor predicts points alone.
    """
    match estimator:
        case FieldRegressor():
            return apart(estimator.posterior(X))
        case Pipeline() if len(estimator.steps) > 1:
            return law_of(estimator.steps[-1][1], estimator[:-1].transform(X), spread)
        case Pipeline():
            return law_of(estimator.steps[-1][1], X, spread)
        case FrozenEstimator():
            return law_of(estimator.estimator, X, spread)
        case GridSearchCV() | RandomizedSearchCV():
            return law_of(estimator.best_estimator_, X, spread)
    if spread is not None:
        mean = points(estimator, X)
        return gaussian(mean, np.broadcast_to(spread, mean.shape))
    mean, std = estimator.predict(X, return_std=True)
    return gaussian(columns(mean), columns(std))


def points(estimator: BaseEstimator, X: Any) -> np.ndarray:
    """Point predictions (n, m).

    Errors: ValueError if some are not finite.
    """
    mean = columns(estimator.predict(X))
    bad = int((~np.isfinite(mean)).sum())
    if bad:
        raise ValueError(f"{bad} predictions of {type(estimator).__name__} are NaN or infinite; check its inputs")
    return mean


def columns(values: Any) -> np.ndarray:
    """Numbers (n,) or (n, m) as (n, m), in double precision."""
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(len(array), -1)


@dataclass(frozen=True, eq=False)
class Diagonal:
    """A scale matrix with these entries (k,) on its diagonal and zeros elsewhere."""

    values: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.values

    def to_dense(self) -> Tensor:
        return torch.diag_embed(self.values)


def gaussian(mean: np.ndarray, std: np.ndarray) -> Elliptical:
    """Independent Gaussians, arrays (n, m)."""
    return Elliptical(torch.tensor(mean), Diagonal(torch.tensor(std).square().flatten()))


def apart(law: Posterior) -> Posterior:
    """The marginals of a law: of an elliptical one without the matrices that its joint law would need."""
    if isinstance(law, Elliptical):
        return Elliptical(law.loc, Diagonal(law.spread.square().flatten()), law.mixing)
    return law


def pooled(laws: Sequence[Posterior]) -> Posterior:
    """The marginals of consecutive points, of one law after the other; in one family where they are of one."""
    first = laws[0]
    if len(laws) == 1:
        return first
    if isinstance(first, Elliptical):
        same = [law for law in laws if isinstance(law, Elliptical) and law.mixing == first.mixing]
        if len(same) == len(laws):
            spread = torch.cat([law.spread.square().flatten() for law in same])
            return Elliptical(torch.cat([law.loc for law in same]), Diagonal(spread), first.mixing)
    if isinstance(first, Draws):
        finite = [law for law in laws if isinstance(law, Draws) and torch.equal(law.weights, first.weights)]
        if len(finite) == len(laws):
            noise = torch.cat([law.spread.square().expand(law.values.shape) for law in finite], -2)
            return Draws(torch.cat([law.values for law in finite], -2), first.weights, noise)
    if isinstance(first, Quantiles):
        alike = [law for law in laws if isinstance(law, Quantiles) and torch.equal(law.levels, first.levels)]
        known = [law.point for law in alike if law.point is not None]
        if len(alike) == len(laws) and len(known) in (0, len(laws)):
            return Quantiles(
                first.levels, torch.cat([law.values for law in alike], -3), torch.cat(known, -2) if known else None
            )
    return Pooled(tuple(laws))


@dataclass(frozen=True, eq=False)
class Pooled(Scored):
    """The law of consecutive points, each of its parts (n_i, m) independent of the others.

    >>> two = Pooled((gaussian(np.zeros((1, 1)), np.ones((1, 1))), gaussian(np.ones((2, 1)), np.ones((2, 1)))))
    >>> two.mean.flatten().tolist(), two.quantile(0.5).flatten().tolist()
    ([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    """

    parts: tuple[Posterior, ...]

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)

    @property
    def mean(self) -> Tensor:
        return torch.cat([part.mean for part in self.parts], -2)

    @property
    def variance(self) -> Tensor:
        return torch.cat([part.variance for part in self.parts], -2)

    def draw(self, z: Tensor) -> Tensor:
        noises = z.split([part.width for part in self.parts], -1)
        return torch.cat([part.draw(noise) for part, noise in zip(self.parts, noises, strict=True)], -2)

    def cdf(self, y: Tensor) -> Tensor:
        return torch.cat([part.cdf(values) for part, values in self._split(y)], -2)

    def log_prob(self, y: Tensor) -> Tensor:
        return torch.cat([part.log_prob(values) for part, values in self._split(y)], -2)

    def quantile(self, p: float) -> Tensor:
        return torch.cat([part.quantile(p) for part in self.parts], -2)

    def normal_score(self, y: Tensor) -> Tensor:
        return torch.cat([normal_score(part, values) for part, values in self._split(y)], -2)

    def at_normal_score(self, t: Tensor) -> Tensor:
        return torch.cat([at_normal_score(part, values) for part, values in self._split(t)], -2)

    def affine(self, scale: Tensor, shift: Tensor) -> "Pooled":
        return Pooled(tuple(part.affine(scale, shift) for part in self.parts))

    def _split(self, values: Tensor) -> list[tuple[Posterior, Tensor]]:
        sizes = [part.mean.shape[-2] for part in self.parts]
        n, m = sum(sizes), self.parts[0].mean.shape[-1]
        values = values.expand(torch.broadcast_shapes(values.shape, (n, m)))
        return list(zip(self.parts, values.split(sizes, -2), strict=True))
