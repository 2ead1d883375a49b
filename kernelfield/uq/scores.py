"""Scores: how good a predictive law was, once the values that it predicted are known.

For a law with distribution function F and density p, and the value y that came to be:

    nll       -log p(y), in nats
    crps      integral of (F(x) - 1[x >= y])^2 dx, in units of y; |y - f| for a point prediction f
    interval  (high - low) + 2 / alpha * (distance from y to [low, high]), in units of y, where
              [low, high] is the central interval of probability 1 - alpha
    pit       F(y), uniform on (0, 1) if the laws are right
    coverage  the share of values inside central intervals

All are proper or describe calibration, and all but pit and coverage are better when smaller. A
calibrated Gaussian of standard deviation s has on average crps = s / sqrt(pi) = 0.564190 s and
interval score 4.125426 s at 90%. The CRPS is in closed form for Gaussians, Student-t laws,
Gaussian mixtures, finite sets of values and histograms (`kernelfield.uq.crps`).

`evaluate` keeps the pointwise numbers, so that large test sets may be scored in chunks and joined.

Sources: Gneiting & Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation",
eqs. 20 and 43; Gneiting, Balabdaoui & Raftery (2007), "Probabilistic Forecasts, Calibration and
Sharpness", for PIT and sharpness.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.posterior import Draws, Posterior
from kernelfield.uq.crps import expected_score

LEVEL = 0.9  # of the intervals that an Evaluation keeps


def evaluate(law: Posterior, y: Tensor | np.ndarray) -> "Evaluation":
    """Score the law of n points and m outputs at the values y (n, m), or (n,) for one output.

    Errors: ValueError if y or the law's means are not finite, shapes do not agree, or the law has
    no density somewhere (a latent function; score posterior(X, noise=True)).

    >>> law = Draws(torch.zeros(1, 4, 1), torch.ones(1), torch.tensor(1.0))  # four standard normals
    >>> round(evaluate(law, torch.zeros(4, 1)).scores()["crps"], 4)
    0.2337
    """
    with torch.no_grad():
        y = _observed(law, y)
        mean, variance = law.mean, law.variance
        _require_scorable(y, mean, variance)
        low, high = interval(law, LEVEL)
        columns = {
            "y": y,
            "mean": mean,
            "std": variance.sqrt(),
            "low": low,
            "high": high,
            "pit": pit(law, y),
            "nll": nll(law, y),
            "crps": crps(law, y),
            "interval": _winkler(low, high, y, LEVEL),
        }
    return Evaluation(**{name: value.double().cpu().numpy() for name, value in columns.items()})


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the laws of n points and m outputs said, what came to be, and the scores of each.

    Every field has the shape (n, m); `low`, `high` and `interval` (its score) are of the central
    90% interval. Units: those of y, nats for `nll`, none for `pit`.
    """

    y: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pit: np.ndarray
    nll: np.ndarray
    crps: np.ndarray
    interval: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence["Evaluation"]) -> "Evaluation":
        """The evaluation of all points, from those of consecutive chunks."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @property
    def losses(self) -> np.ndarray:
        """The NLL (n,) of each point, a mean over outputs, in nats."""
        return self.nll.mean(axis=1)

    def output(self, index: int) -> "Evaluation":
        """The evaluation of one output, with arrays of shape (n, 1)."""
        columns = {field.name: getattr(self, field.name)[:, [index]] for field in fields(self)}
        return Evaluation(**columns)

    def rows(self, chosen: np.ndarray) -> "Evaluation":
        """The evaluation of some of the points, by their indices or a mask."""
        return Evaluation(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def scores(self) -> dict[str, float]:
        """Means over the points, then over the outputs.

        rmse, mae, crps  of the mean, of the mean, and of the whole law; units of y
        r2               share of variance explained, as scikit-learn's r2_score defines it, also
                         for constant y; NaN for a single point
        nll              nats per value
        interval90       interval (Winkler) score of central 90% intervals, units of y
        coverage90       share of values inside them, between 0 and 1
        sharpness90      their mean width, units of y
        """
        error = self.y - self.mean
        columns = {
            "rmse": np.sqrt(np.mean(error**2, axis=0)),
            "mae": np.mean(np.abs(error), axis=0),
            "r2": _explained(self.y, error),
            "nll": np.mean(self.nll, axis=0),
            "crps": np.mean(self.crps, axis=0),
            "interval90": np.mean(self.interval, axis=0),
            "coverage90": self.coverage([LEVEL])[0],
            "sharpness90": np.mean(self.high - self.low, axis=0),
        }
        return {name: float(np.mean(column)) for name, column in columns.items()}

    def coverage(self, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """Shares of values inside the central intervals of the given levels, (levels, m).

        y lies in the central interval of level p exactly if |2 pit - 1| <= p.
        """
        distance = np.sort(np.abs(2 * self.pit - 1), axis=0)
        inside = [np.searchsorted(column, levels, side="right") for column in distance.T]
        return np.stack(inside, axis=1) / len(distance)


def nll(law: Posterior, y: Tensor | np.ndarray) -> Tensor:
    """Negative log density (*b, n, m) at y, in nats."""
    return -law.log_prob(_observed(law, y))


def crps(law: Posterior, y: Tensor | np.ndarray) -> Tensor:
    """Continuous ranked probability score (*b, n, m), in units of y."""
    return expected_score(law, _observed(law, y))


def pit(law: Posterior, y: Tensor | np.ndarray) -> Tensor:
    """Probability integral transform F(y) (*b, n, m)."""
    return law.cdf(_observed(law, y))


def interval(law: Posterior, level: float) -> tuple[Tensor, Tensor]:
    """Ends (*b, n, m) of the central interval of probability `level`."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, got {level:g}")
    return law.quantile((1 - level) / 2), law.quantile((1 + level) / 2)


def interval_score(law: Posterior, y: Tensor | np.ndarray, level: float) -> Tensor:
    """Winkler's score (*b, n, m) of the central interval: its width and a price for each miss."""
    return _winkler(*interval(law, level), _observed(law, y), level)


def _winkler(low: Tensor, high: Tensor, y: Tensor, level: float) -> Tensor:
    miss = (low - y).clamp_min(0) + (y - high).clamp_min(0)
    return high - low + 2 / (1 - level) * miss


def baseline(y_train: np.ndarray, y_test: np.ndarray) -> Evaluation:
    """Evaluate the least that a model must beat: one Gaussian of the training mean and deviation.

    y_train (n, m) and y_test (k, m), or (n,) and (k,). A target that was constant in training has
    no deviation; 1 is taken, as the scaling of targets does.
    """
    train, test = (_columns(_tensor(y).double()) for y in (y_train, y_test))
    varies = train.amax(0) > train.amin(0)  # exact, where the deviation of equal numbers may be a rounding error
    variance = torch.where(varies, train.var(0, correction=0), 1.0)
    # A single function with Gaussian noise is a Gaussian, and needs no joint covariance.
    return evaluate(Draws(train.mean(0).expand(1, *test.shape), torch.ones(1).to(test), variance), test)


def _columns(y: Tensor) -> Tensor:
    return y.unsqueeze(-1) if y.ndim == 1 else y


def _observed(law: Posterior, y: Tensor | np.ndarray) -> Tensor:
    """y as the law's tensors are, checked."""
    value = _columns(_tensor(y).to(law.mean))
    bad = int((~value.isfinite()).sum())
    if bad:
        raise ValueError(f"y holds {bad} entries that are NaN or infinite; drop these rows before scoring")
    return value


def _require_scorable(y: Tensor, mean: Tensor, variance: Tensor) -> None:
    if mean.ndim != 2 or y.shape != mean.shape or not len(y):
        shapes = f"{tuple(y.shape)} for a law of {tuple(mean.shape)}"
        raise ValueError(f"need values y (n, m) of the law's own shape and at least one row, got {shapes}")
    bad = int((~mean.isfinite()).sum())
    if bad:
        raise ValueError(f"{bad} predicted means are NaN or infinite; check the inputs at which the law was asked for")
    exact = int((~(variance > 0)).sum())
    if exact:
        raise ValueError(f"{exact} predicted variances are not positive; score y itself with posterior(X, noise=True)")


def _explained(y: np.ndarray, error: np.ndarray) -> np.ndarray:
    """R2 of each column; a constant one has 1 if predicted without error and 0 otherwise."""
    if len(y) < 2:
        return np.full(y.shape[1], np.nan)
    left, total = np.sum(error**2, axis=0), np.sum((y - y.mean(axis=0)) ** 2, axis=0)
    share = 1 - left / np.where(total > 0, total, 1.0)
    return np.where(total > 0, share, np.where(left > 0, 0.0, 1.0))


def _tensor(y: np.ndarray | Tensor) -> Tensor:
    """A copy of an array, as pandas lends its own read-only; a tensor as it is."""
    return y if isinstance(y, Tensor) else torch.tensor(np.asarray(y))
