"""Frequencies from data: where a search for the hyperparameters of a spectral mixture should start.

The evidence of a spectral mixture has a narrow peak about each true frequency, of width 1 / T on a
record of length T, which no gradient finds from afar. So waves are taken out of the data one by
one (orthogonal matching pursuit): find the highest peak of the periodogram of what is left, polish
it, fit all waves so far and a quadratic drift by least squares, go on with the residual. It ends
where the highest peak could be noise, by its false-alarm probability.

The periodogram is half of what a wave of that frequency takes off the sum of squares: a padded FFT
on regular points, the Lomb-Scargle periodogram on irregular ones, and the same by direct least
squares in several inputs, where frequencies are vectors.

No frequency above Nyquist is looked for. On regular points that is 1 / (2 spacing), beyond which
all repeats; on irregular ones the same with the mean spacing, a convention, as nothing repeats there
and the smallest gap would promise far more than n points can tell.

Sources: Scargle (1982); VanderPlas (2018), "Understanding the Lomb-Scargle Periodogram", sections 4.1
(Nyquist) and 7 (false alarms); Pati, Rezaiifar & Krishnaprasad (1993) on the pursuit.
"""

import itertools
import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.signal import lombscargle
from scipy.special import gammainccinv

Array = np.ndarray

OVERSAMPLING = 8  # periodogram frequencies in each 1 / T, so that no peak falls between two
CANDIDATES = 2**14  # of frequency vectors in several inputs; a grid of more is sampled instead
FALSE_ALARM = 1e-2  # the chance of taking a wave out of pure noise
REGULAR = 1e-6  # of the spacing: deviations that still count as regular
CHUNK = 2**22  # entries of the tables of cosines that are made at once


class AboveNyquist(UserWarning):
    """Frequencies were asked for that the points cannot tell from lower ones."""


@dataclass(frozen=True, eq=False)
class Waves:
    """The waves found in data: frequencies (k, d), strongest first, powers (k,) and what is left.

    power is the mean square of a wave in squared units of y, averaged over outputs; drift that of
    the quadratic about the mean, noise that of the residual. nyquist (d,) and span (d,) are the
    bounds: frequencies below 1 / span are drift.
    """

    frequencies: Array
    powers: Array
    drift: float
    noise: float
    nyquist: Array
    span: Array


def nyquist(X: Array) -> Array:
    """The Nyquist frequency (d,) of points X (n, d) along each input, zero for a constant one.

    >>> nyquist(np.arange(5.0)[:, None]).tolist()
    [0.5]
    """
    distinct = [np.unique(column) for column in X.T]
    span = np.array([values[-1] - values[0] for values in distinct])
    varying = span > 0
    counts = np.array([len(values) for values in distinct], dtype=float)
    if not counts.prod() <= 1.5 * len(X):  # no grid: as many points along each input as would fill one
        counts = np.where(varying, len(np.unique(X, axis=0)) ** (1 / max(1, varying.sum())), 1)
    return np.divide(counts - 1, 2 * span, out=np.zeros_like(span), where=varying)


def capped(limit: float | None, X: Array) -> Array:
    """The highest frequencies (d,) to look for: the limit, but not above Nyquist, with a warning.

    Errors: ValueError for a limit that is not positive.
    """
    highest = nyquist(X)
    if limit is None:
        return highest
    if not limit > 0:
        raise ValueError(f"max_frequency must be positive, got {limit:g}; None is the Nyquist frequency of the data")
    if limit > highest.max():
        warnings.warn(
            f"max_frequency = {limit:g} is above the Nyquist frequency of the data, {highest.max():g} cycles a unit "
            "of the inputs, and is capped there; more points would tell higher frequencies",
            AboveNyquist,
            stacklevel=3,
        )
    return np.minimum(limit, highest)


def find_waves(X: Array, Y: Array, most: int, limit: Array, rng: np.random.Generator) -> Waves:
    """At most `most` waves in Y (n, m) at X (n, d) that noise alone would not have, below `limit` (d,)."""
    n, m = Y.shape
    X = X - X.mean(0)
    span = np.ptp(X, axis=0)
    unit = np.where(span > 0, span, 1.0)
    drift = np.column_stack([np.ones(n), X / unit, (X / unit) ** 2])
    basis, residual = drift, _residual(drift, Y)
    slow = Y.var(0).mean() - residual.var(0).mean()
    rounding = 1e-9 * Y.std(0) + n * np.finfo(float).eps * np.abs(Y).max(0)
    candidates = _candidates(limit, unit, rng)
    found: list[Array] = []
    while len(found) < most and len(candidates) and n > basis.shape[1] + 2:
        size = residual.std(0)
        if not (size > rounding).any():
            break
        scaled = residual / np.where(size > 0, size, 1.0)
        power = periodogram(X, scaled, candidates)
        independent = max(1.0, len(candidates) / OVERSAMPLING)
        best = int(power.argmax())
        # Against what is left beside the wave, whose own power is no noise.
        share = min(2 * power[best] / (n * m), 1 - 1e-12)
        if power[best] < gammainccinv(m, FALSE_ALARM / independent) * (1 - share):
            break
        frequency = _polished(X, scaled, candidates[best], unit, limit)
        found.append(frequency)
        basis = np.column_stack([basis, _wave(X, frequency)])
        residual = _residual(basis, Y)
    coefficients = np.linalg.lstsq(basis, Y, rcond=None)[0][drift.shape[1] :]
    powers = 0.5 * (coefficients**2).reshape(len(found), 2, m).sum(1).mean(-1)
    order = np.argsort(-powers)
    left = (residual**2).sum(0).mean() / max(1, n - basis.shape[1])
    frequencies = np.array(found).reshape(len(found), X.shape[1])[order]
    return Waves(frequencies, powers[order], max(float(slow), 0.0), float(left), limit, unit)


def periodogram(X: Array, Y: Array, frequencies: Array) -> Array:
    """Half the fall of the sum of squares of Y (n, m) by a wave at each of the frequencies (k, d); (k,).

    >>> x = np.linspace(0, 1, 51)[:, None]
    >>> round(float(periodogram(x, np.sin(2 * np.pi * 5 * x), np.array([[5.0]]))[0]), 1)  # 50 / 4
    12.5
    """
    if X.shape[1] > 1 or len(frequencies) < 2:
        return _direct(X, Y, frequencies)
    x, f = X[:, 0], frequencies[:, 0]
    order = np.argsort(x)
    gaps, steps = np.diff(x[order]), np.diff(f)
    if len(gaps) and np.ptp(gaps) <= REGULAR * gaps.mean() and np.ptp(steps) <= REGULAR * steps.mean():
        return _by_fft(gaps.mean(), Y[order], f)
    parts = np.array_split(f, math.ceil(len(x) * len(f) / CHUNK))
    return np.concatenate([sum(lombscargle(x, y, 2 * np.pi * part) for y in Y.T) for part in parts])


def _by_fft(spacing: float, Y: Array, f: Array) -> Array:
    """The periodogram of regular points by an FFT with enough padding, read off at the nearest frequencies."""
    size = 2 ** math.ceil(math.log2(max(4 / (spacing * (f[1] - f[0])), len(Y))))
    power = (np.abs(np.fft.rfft(Y, size, axis=0)) ** 2).sum(1) / len(Y)
    return power[np.clip(np.rint(f * spacing * size).astype(int), 0, len(power) - 1)]


def _direct(X: Array, Y: Array, frequencies: Array) -> Array:
    """The periodogram by the normal equations of each wave, after Scargle's rotation to orthogonal ones."""
    powers = []
    for part in np.array_split(frequencies, math.ceil(len(X) * len(frequencies) / CHUNK)):
        phase = 2 * np.pi * X @ part.T
        delay = 0.5 * np.arctan2(np.sin(2 * phase).sum(0), np.cos(2 * phase).sum(0))
        total = np.zeros(len(part))
        for wave in (np.cos(phase - delay), np.sin(phase - delay)):
            size = (wave**2).sum(0)
            explained = ((wave.T @ Y) ** 2).sum(1)
            total += np.divide(explained, 2 * size, out=np.zeros_like(size), where=size > 1e-9 * len(X))
        powers.append(total)
    return np.concatenate(powers)


def _candidates(limit: Array, span: Array, rng: np.random.Generator) -> Array:
    """Frequencies (k, d) up to the limit, of which none has less than one cycle in the span of any input it needs."""
    steps = 1 / (OVERSAMPLING * span)
    if len(limit) == 1:
        return np.arange(OVERSAMPLING, int(limit[0] / steps[0]) + 1)[:, None] * steps
    steps = steps * 4  # two in each 1 / T, as the grid grows with the power d; polishing does the rest
    counts = [int(high / step) for high, step in zip(limit, steps, strict=True)]
    # mu and -mu are one wave: the first input's frequencies are not negative.
    ranges = [np.arange(0 if d == 0 else -count, count + 1) for d, count in enumerate(counts)]
    if math.prod(len(values) for values in ranges) <= CANDIDATES:
        grid = np.array(list(itertools.product(*ranges))) * steps
    else:
        box = rng.uniform(-1, 1, (CANDIDATES, len(limit))) * limit
        along = [np.eye(len(limit))[d] * values[:, None] * steps for d, values in enumerate(ranges)]
        grid = np.concatenate([box, *along])
    return grid[(np.abs(grid) * span).max(1) >= 1]


def _polished(X: Array, Y: Array, start: Array, span: Array, limit: Array) -> Array:
    """The peak of the periodogram near a frequency."""
    width = 1 / span

    def loss(offset: Array) -> float:
        return -float(_direct(X, Y, (start + offset * width)[None])[0])

    simplex = np.concatenate([np.zeros((1, len(start))), 0.2 * np.eye(len(start))])
    end = minimize(
        loss, np.zeros(len(start)), method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-3}
    )
    return np.clip(start + np.clip(end.x, -1, 1) * width, -limit, limit)


def _wave(X: Array, frequency: Array) -> Array:
    phase = 2 * np.pi * X @ frequency
    return np.column_stack([np.cos(phase), np.sin(phase)])


def _residual(basis: Array, Y: Array) -> Array:
    return Y - basis @ np.linalg.lstsq(basis, Y, rcond=None)[0]
