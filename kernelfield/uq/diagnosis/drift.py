"""Drift: did the model's errors change over time?

Rows are put in the order of a time column. Two scores of each row are watched by a martingale
(`kernelfield.uq.diagnosis.martingale`): the surprise |2 pit - 1|, which grows where intervals become too
narrow, and the PIT itself, which moves where predictions become too low or too high. Both are
compared with earlier rows, not with what they should be, so that a model that has always been a
little off raises no alarm. The larger of the two capitals is halved: P(it ever reaches 1 / level)
is at most level, by Ville's inequality for each at half the level. That is an alarm; 1 / (largest
so far) is a p-value at any time.

Of classes the PIT is of the event that the most probable class came, spread at random over the
part of (0, 1) that its confidence gives it.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import special

from kernelfield.uq.calibration import CONFIDENCE, band
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.columns import is_numeric
from kernelfield.uq.diagnosis.martingale import capital, conformal
from kernelfield.uq.promises import main_promise
from kernelfield.uq.scores import Evaluation
from kernelfield.uq.words import day

ALARM = 1 / 300  # probability of a false one
POINTS = 400  # kept of a path
SHARE = 20  # of the rows in a window
LEAST = 50  # rows in a window
WATCHED = 200_000  # rows that the martingale sees; of more, it sees every second, third and so on, windows see all
PARTS = 10  # of the rows in time order, to say how far coverage went

Time = float | str


@dataclass(frozen=True)
class Window:
    """Rows that follow each other: the times of the first and last (of dates in words), and how their intervals did.

    coverage  share of values inside their intervals; of classes, share of rows whose most probable class came
    promised  0.9, or what laws given by quantiles promise instead; of classes, mean confidence
    low, high 95% band of the coverage if the model is right
    """

    start: Time
    stop: Time
    count: int
    coverage: float
    promised: float
    low: float
    high: float


@dataclass(frozen=True)
class Drift:
    """What the martingale saw.

    count     rows with a time; `dropped` had none
    watched   of these, seen by the martingale, evenly spaced in time order
    level     chance of a false alarm that was allowed
    highest   largest capital, as a logarithm to base 10
    p_value   of exchangeability: 1 / largest capital, at most 1
    alarm     row whose capital was the first to reach 1 / level, or None; its `alarm_time`, of dates in words
    rows      of the path, in time order, numbered as in the data; their `times`, of dates in days since 1970-01-01
    path      capital after each of them, logarithm to base 10
    windows   coverage in windows that overlap by half
    parts     coverage in ten parts that do not overlap
    """

    count: int
    watched: int
    dropped: int
    level: float
    highest: float
    p_value: float
    alarm: int | None
    alarm_time: Time | None
    rows: tuple[int, ...]
    times: tuple[Time, ...]
    path: tuple[float, ...]
    windows: tuple[Window, ...]
    parts: tuple[Window, ...]


def drift(
    evaluation: Evaluation, time: np.ndarray, *, level: float = ALARM, dated: bool = False, seed: int = 0
) -> Drift:
    """Watch one output over time (n,), numbers, dates or text that sorts by time; equal times in their order.

    `dated` says that the numbers are days since 1970-01-01.

    Errors: ValueError if fewer than 50 rows have a time, lengths do not agree, or laws promise no interval. Where no
    PIT is known the CRPS is watched.
    """
    promise = main_promise(evaluation)
    if promise is None:
        raise ValueError("the laws promise no interval to follow over time; give quantiles of at least two levels")
    pit, hit = evaluation.pit[:, 0], promise.holds(evaluation)
    scores = [np.abs(2 * pit - 1), pit] if np.isfinite(pit).all() else [evaluation.crps[:, 0]]
    return _watched(scores, hit, np.full(len(hit), promise.share), time, level, dated, seed)


def class_drift(
    evaluation: ClassEvaluation, time: np.ndarray, *, level: float = ALARM, dated: bool = False, seed: int = 0
) -> Drift:
    """Watch class probabilities over time (n,)."""
    confidence, right = evaluation.confidence, evaluation.right
    share = np.random.default_rng(seed).random(len(right))
    event = np.where(right, confidence * share, confidence + (1 - confidence) * share)
    return _watched([event], right, confidence, time, level, dated, seed + 1)


def _watched(
    scores: list[np.ndarray],
    hit: np.ndarray,
    promised: np.ndarray,
    time: np.ndarray,
    level: float,
    dated: bool,
    seed: int,
) -> Drift:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level:g}")
    order, time, dropped = in_order(time, len(hit))
    generator, n = np.random.default_rng(seed), len(order)
    seen = np.arange(0, n, -(-n // WATCHED))
    paths = [capital(conformal(score[order[seen]], generator)) for score in scores]
    path = (np.max(paths, axis=0) - np.log(len(paths))) / np.log(10)
    highest = max(float(path.max()), 0.0)
    reached = np.flatnonzero(path >= -np.log10(level))
    first = int(reached[0]) if len(reached) else None
    points = np.linspace(0, len(seen) - 1, min(len(seen), POINTS)).astype(int)
    points = np.unique(np.append(points, [first or 0, path.argmax()]))
    alarm = None if first is None else int(seen[first])
    hits, sums = (np.concatenate([[0.0], np.cumsum(values[order])]) for values in (hit, promised))
    width = min(max(n // SHARE, LEAST), n)
    starts = np.unique(np.append(np.arange(0, n - width + 1, max(width // 2, 1)), n - width))
    edges = np.linspace(0, n, PARTS + 1).astype(int)
    spread = np.concatenate([[0.0], np.cumsum((promised * (1 - promised))[order])])

    def when(place: int) -> Time:
        return day(float(time[place])) if dated else _plain(time[place])

    def window(start: int, stop: int) -> Window:
        count = stop - start
        share, said = (float(total[stop] - total[start]) / count for total in (hits, sums))
        low, high = _band(count, said, float(spread[stop] - spread[start]) / count)
        return Window(when(start), when(stop - 1), count, share, said, low, high)

    return Drift(
        count=n,
        watched=len(seen),
        dropped=dropped,
        level=level,
        highest=highest,
        p_value=float(10.0**-highest),
        alarm=None if alarm is None else int(order[alarm]),
        alarm_time=None if alarm is None else when(alarm),
        rows=tuple(order[seen[points]].tolist()),
        times=tuple(_plain(value) for value in time[seen[points]]),
        path=tuple(path[points].tolist()),
        windows=tuple(window(int(start), int(start) + width) for start in starts),
        parts=tuple(window(int(a), int(b)) for a, b in pairwise(edges)),
    )


def in_order(time: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The rows that have a time in its order, their times, and how many have none.

    Errors: ValueError if fewer than 50 rows have one, or there is not one for each of n rows.

    >>> rows, times, dropped = in_order(np.append(np.arange(50.0, 0.0, -1.0), np.nan), 51)
    >>> rows[:2].tolist(), times[0], dropped
    ([49, 48], np.float64(1.0), 1)
    """
    time = np.asarray(time)
    if time.shape != (n,):
        raise ValueError(f"need a time for each of {n:,} rows, got shape {time.shape}")
    if time.dtype.kind == "O":
        time = time.astype(np.float64) if is_numeric(time) else np.array([_text(value) for value in time.tolist()])
    # NaN and NaT are not equal to themselves.
    known = np.flatnonzero(time == time if time.dtype.kind not in "US" else time != "")
    if len(known) < LEAST:
        raise ValueError(f"drift over time needs at least {LEAST} rows with a time, got {len(known)}")
    order = known[np.argsort(time[known], kind="stable")]
    return order, time[order], n - len(known)


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _band(count: int, promised: float, variance: float) -> tuple[float, float]:
    """The 95% band of a share: binomial for equal chances, else Gaussian."""
    if abs(variance - promised * (1 - promised)) < 1e-12:
        low, high = band(count, promised)
        return float(low), float(high)
    reach = float(special.ndtri((1 + CONFIDENCE) / 2)) * (variance / count) ** 0.5
    return max(promised - reach, 0.0), min(promised + reach, 1.0)


def _plain(value: np.generic) -> Time:
    return float(value) if value.dtype.kind in "iufb" else str(value)
