"""Scores: how good a predictive law was, once the values that it predicted are known.

For a law with distribution function F and density p, and the value y that came to be:

    nll       -log p(y), in nats
    crps      integral of (F(x) - 1[x >= y])^2 dx, in units of y; |y - f| for a point prediction f
    interval  (high - low) + 2 / alpha * (distance from y to [low, high]), in units of y, where
              [low, high] is the central interval of probability 1 - alpha
    quantile  (1[y < q] - p) (q - y), the pinball loss of the quantile q at the level p, in units of y
    pit       F(y), uniform on (0, 1) if the laws are right; a uniform number between both ends of F
              where it jumps at y, and among the ranks that y may have in a sample
    coverage  the share of values inside central intervals

All are proper or describe calibration, and all but pit and coverage are better when smaller. A
calibrated Gaussian of standard deviation s has on average crps = s / sqrt(pi) = 0.564190 s and
interval score 4.125426 s at 90%. The CRPS is in closed form for Gaussians, Student-t laws,
Gaussian mixtures, finite sets of values, histograms and quantiles, and without bias for samples
(`kernelfield.uq.crps`). What a law cannot say, as the density of a sample, is NaN.

`evaluate` keeps the pointwise numbers, so that large test sets may be scored in chunks and joined,
and itself goes through them in pieces that fit a processor's cache.

Sources: Gneiting & Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation",
eqs. 20 and 43; Gneiting, Balabdaoui & Raftery (2007), "Probabilistic Forecasts, Calibration and
Sharpness", for PIT and sharpness; Czado, Gneiting & Held (2009), "Predictive Model Assessment for
Count Data", for the PIT where F jumps.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.posterior import Draws, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.crps import expected_score
from kernelfield.uq.laws import Sample
from kernelfield.uq.parts import rows

LEVEL = 0.9  # of the intervals that an Evaluation keeps
PIECE = 2**14  # rows that are scored at once
Values = TypeVar("Values", Tensor, np.ndarray)


def evaluate(law: Posterior, y: Tensor | np.ndarray, *, latent: Posterior | None = None) -> "Evaluation":
    """Score the law of n points and m outputs at the values y (n, m), or (n,) for one output.

    latent, the law of f at the same points, adds how much of the spread is of f.

    Errors: ValueError if y or the law's means are not finite, shapes do not agree, or the law has
    no density somewhere (a latent function; score posterior(X, noise=True)). A `Sample` needs none.

    >>> law = Draws(torch.zeros(1, 4, 1), torch.ones(1), torch.tensor(1.0))  # four standard normals
    >>> round(evaluate(law, torch.zeros(4, 1)).scores()["crps"], 4)
    0.2337
    """
    with torch.no_grad():
        y = _observed(law, y)
        mean, variance = law.mean, law.variance
        _require_scorable(y, mean, variance)
        known = {"y": y, "mean": mean, "std": variance.sqrt()}
        del variance  # a million rows should need little more than is kept
        if latent is not None:
            known["latent"] = _latent(latent, y)
        found = {name: np.empty(y.shape) for name in ("low", "high", "pit", "nll", "crps")}
        for chosen, part in _pieces(law, len(y)):
            for name, value in _measured(part, y[chosen]).items():
                found[name][chosen] = value.cpu().numpy()
    levels = tuple(law.levels.tolist()) if isinstance(law, Quantiles) else None
    return Evaluation(**{name: value.double().cpu().numpy() for name, value in known.items()}, **found, levels=levels)


def _pieces(law: Posterior, n: int) -> Iterator[tuple[slice, Posterior]]:
    """The law in parts with the rows that each has, or whole where its family cannot be taken apart."""
    starts = range(0, n, PIECE)
    for start in starts:
        chosen = slice(start, start + PIECE)
        part = rows(law, chosen) if len(starts) > 1 else None
        if part is None:
            yield slice(None), law
            return
        yield chosen, part


def _measured(law: Posterior, y: Tensor) -> dict[str, Tensor]:
    low, high = interval(law, LEVEL)
    return {
        "low": low,
        "high": high,
        "pit": _level(law, y),
        "nll": -law.log_prob(y),
        "crps": expected_score(law, y),
    }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the laws of n points and m outputs said, what came to be, and the scores of each.

    Every array has the shape (n, m); `low` and `high` are the ends of the central 90% interval; `latent` is
    the standard deviation of the function f that y is noise about. What is not known is NaN, and so is a mean
    of it. Units: those of y, nats for `nll`, none for `pit`. `levels` are those of the quantiles that the laws
    were given by, between and beyond which nothing was promised; None for laws that were given whole.
    """

    y: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pit: np.ndarray
    nll: np.ndarray
    crps: np.ndarray
    latent: np.ndarray = field(default_factory=lambda: np.full((1, 1), np.nan))
    levels: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.latent.shape != self.y.shape:
            object.__setattr__(self, "latent", np.broadcast_to(self.latent.item(), self.y.shape))

    @classmethod
    def concatenate(cls, parts: Sequence["Evaluation"]) -> "Evaluation":
        """The evaluation of all points, from those of consecutive chunks; `levels` are those that all were given."""
        each = [part.arrays() for part in parts]
        given = [set(part.levels) for part in parts if part.levels is not None]
        levels = tuple(sorted(set.intersection(*given))) if given else None
        return cls(**{name: np.concatenate([part[name] for part in each]) for name in each[0]}, levels=levels)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known of the points (n, m), by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "levels"}

    @property
    def interval(self) -> np.ndarray:
        """The score (n, m) of the central 90% intervals, in units of y."""
        return _winkler(self.low, self.high, self.y, LEVEL)

    @property
    def losses(self) -> np.ndarray:
        """The NLL (n,) of each point, a mean over outputs, in nats."""
        return self.nll.mean(axis=1)

    def output(self, index: int) -> "Evaluation":
        """The evaluation of one output, with arrays of shape (n, 1)."""
        columns = {name: values[:, index : index + 1] for name, values in self.arrays().items()}
        return Evaluation(**columns, levels=self.levels)

    def rows(self, chosen: np.ndarray) -> "Evaluation":
        """The evaluation of some of the points, by their indices or a mask."""
        return Evaluation(**{name: values[chosen] for name, values in self.arrays().items()}, levels=self.levels)

    def scores(self) -> dict[str, float]:
        """Means over the points, then over the outputs.

        rmse, mae, crps  of the mean, of the mean, and of the whole law; units of y
        r2               share of variance explained, as scikit-learn's r2_score defines it, also
                         for constant y; NaN for a single point
        nll              nats per value
        interval90       interval (Winkler) score of central 90% intervals, units of y
        coverage90       share of values inside them, between 0 and 1
        sharpness90      their mean width, units of y
        quantile05, 95   pinball losses of their lower and upper ends, units of y
        """
        error = self.y - self.mean
        columns = {
            "rmse": np.sqrt(np.mean(error**2, axis=0)),
            "mae": np.mean(np.abs(error), axis=0),
            "r2": _explained(self.y, error),
            "nll": np.mean(self.nll, axis=0),
            "crps": np.mean(self.crps, axis=0),
            "interval90": np.mean(self.interval, axis=0),
            "coverage90": np.mean(np.abs(2 * self.pit - 1) <= LEVEL, axis=0),
            "sharpness90": np.mean(self.high - self.low, axis=0),
            "quantile05": np.mean(_pinball(self.low, self.y, (1 - LEVEL) / 2), axis=0),
            "quantile95": np.mean(_pinball(self.high, self.y, (1 + LEVEL) / 2), axis=0),
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
    """Probability integral transform F(y) (*b, n, m); random where F jumps, with a seed made of y."""
    return _level(law, _observed(law, y))


def _level(law: Posterior, y: Tensor) -> Tensor:
    match law:
        case Sample() | Quantiles():
            return between(*law.jump(y), y)
        case _:
            return law.cdf(y)


def between(low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Uniform numbers between low and high, the same for the same y.

    Other values have another seed, so that chunks which are scored one by one do not share their luck.
    """
    seed = zlib.crc32(y.cpu().numpy().tobytes())
    return low + (high - low) * torch.from_numpy(np.random.default_rng(seed).random(low.shape)).to(low)


def interval(law: Posterior, level: float) -> tuple[Tensor, Tensor]:
    """Ends (*b, n, m) of the central interval of probability `level`."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, got {level:g}")
    return law.quantile((1 - level) / 2), law.quantile((1 + level) / 2)


def quantile_score(law: Posterior, y: Tensor | np.ndarray, p: float) -> Tensor:
    """Pinball loss (*b, n, m) of the quantile at the level p, in units of y.

    >>> law = Draws(torch.zeros(1, 1, 1), torch.ones(1), torch.tensor(1.0))  # the median is 0
    >>> quantile_score(law, torch.tensor([[3.0]]), 0.5).item()
    1.5
    """
    if not 0 < p < 1:
        raise ValueError(f"the level of a quantile must lie between 0 and 1, got {p:g}")
    return _pinball(law.quantile(p), _observed(law, y), p)


def _pinball(q: Values, y: Values, p: float) -> Values:
    above = y - q
    return above * (p - 1.0 * (above < 0))


def interval_score(law: Posterior, y: Tensor | np.ndarray, level: float) -> Tensor:
    """Winkler's score (*b, n, m) of the central interval: its width and a price for each miss."""
    return _winkler(*interval(law, level), _observed(law, y), level)


def _winkler(low: Values, high: Values, y: Values, level: float) -> Values:
    miss = (low - y).clip(0) + (y - high).clip(0)
    return high - low + 2 / (1 - level) * miss


def baseline(y_train: np.ndarray, y_test: np.ndarray) -> Evaluation:
    """Evaluate the least that a model must beat: one Gaussian of the training mean and deviation.

    y_train (n, m) and y_test (k, m), or (n,) and (k,). A target that was constant in training has no deviation, and
    its rule predicts a point: the crps is |y - f|, the interval has no width, and what it takes a law for is NaN.
    """
    train, test = (_columns(_tensor(y).double()) for y in (y_train, y_test))
    varies = train.amax(0) > train.amin(0)  # exact, where the deviation of equal numbers may be a rounding error
    variance = torch.where(varies, train.var(0, correction=0), 1.0)
    # A single function with Gaussian noise is a Gaussian, and needs no joint covariance.
    made = evaluate(Draws(train.mean(0).expand(1, *test.shape), torch.ones(1).to(test), variance), test)
    spread, point = varies.cpu().numpy(), {"low": made.mean, "high": made.mean}
    miss = np.abs(made.y - made.mean)
    point |= {"crps": miss}
    known = made.arrays()
    if not spread.all():
        for name in (*point, "std", "pit", "nll"):
            known[name] = np.where(spread, known[name], point.get(name, np.nan))
    for name in ("mean", "std", "low", "high"):  # one row stands for all of them
        known[name] = np.broadcast_to(known[name][:1].copy(), test.shape)
    return Evaluation(**known, levels=made.levels)


def _columns(y: Tensor) -> Tensor:
    return y.unsqueeze(-1) if y.ndim == 1 else y


def _observed(law: Posterior, y: Tensor | np.ndarray) -> Tensor:
    """y as the law's tensors are, checked."""
    value = _columns(_tensor(y).to(law.mean))
    bad = int((~value.isfinite()).sum())
    if bad:
        raise ValueError(f"y holds {bad} entries that are NaN or infinite; drop these rows before scoring")
    return value


def _latent(law: Posterior, y: Tensor) -> Tensor:
    """The standard deviation of f where y is, checked."""
    variance = law.variance
    if variance.shape != y.shape:
        raise ValueError(f"need the law of f at the same points, {tuple(y.shape)}, got one of {tuple(variance.shape)}")
    bad = int((~(variance >= 0)).sum())
    if bad:
        raise ValueError(
            f"{bad} variances of the latent law are negative or NaN; check the inputs that it was asked at"
        )
    return variance.sqrt()


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
    return y if isinstance(y, Tensor) else torch.tensor(np.asarray(y, order="C"))
