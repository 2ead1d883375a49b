"""Figures of a report beyond calibration: groups, order of errors, drift, rows from elsewhere, remedies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kernelfield.uq.calibration import LEVELS, Curve
from kernelfield.uq.classes import Reliability
from kernelfield.uq.diagnosis.drift import Drift, Time
from kernelfield.uq.diagnosis.groups import ClassGroup, Group
from kernelfield.uq.plots import BAND, INK, LINE, MISS, MODEL, SIZE, dated, label, svg
from kernelfield.uq.resolution import Risk, Sparsified

DASHED = (0, (4, 3))
BARS = 40  # of a histogram of deviations
NAMES = 24  # letters of a group's name
STYLES = ((MISS, "-"), (MODEL, "-"), (MODEL, "--"), (INK, ":"))  # as it is, then remedies
DATES = 5  # ticks of an axis of dates
EPOCH, DAY = np.datetime64(0, "s"), np.timedelta64(1, "D")


def groups(shown: Sequence[Group | ClassGroup], *, name: str, prefix: str) -> str:
    """A line for each group: the share that was found, its band, and what was promised."""

    def draw(axes: Any) -> None:
        for row, group in enumerate(shown):
            axes.plot([group.low, group.high], [row, row], color=BAND, linewidth=9, solid_capstyle="butt")
            axes.plot([group.promised, group.promised], [row - 0.36, row + 0.36], color=INK, linewidth=1)
            inside = group.low <= group.share <= group.high
            axes.plot([group.share], [row], marker="o", markersize=6, color=MODEL if inside else MISS)
        axes.set_yticks(range(len(shown)), [f"{label(group.label, NAMES)}  ({group.count:,})" for group in shown])
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel=name)
        axes.spines["left"].set_visible(False)

    return svg(draw, prefix, (SIZE[0], max(1.5, 0.27 * len(shown) + 0.8)))


def order(found: Sparsified, *, prefix: str) -> str:
    """The error that is left as the most doubtful rows are removed; of the last twentieth there are too few to tell."""
    shown = found.removed <= 0.95

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [1, 1], color=INK, linewidth=1, linestyle=DASHED)
        axes.plot(found.removed[shown], found.oracle[shown], color=LINE, linewidth=2)
        axes.plot(found.removed[shown], found.error[shown], color=MODEL, linewidth=2)
        axes.set(xlabel="share of rows removed, most doubtful first", ylabel="error that is left, as a share")
        axes.set(xlim=(0, 1), ylim=(0, max(1.05, 1.05 * float(np.max(found.error[shown])))))

    return svg(draw, prefix)


def risk(found: Risk, *, prefix: str) -> str:
    """The error rate of the surest rows."""

    def draw(axes: Any) -> None:
        axes.plot(found.kept, found.oracle, color=LINE, linewidth=2)
        axes.plot(found.kept, found.risk, color=MODEL, linewidth=2)
        axes.set(xlabel="share of rows answered, the surest first", ylabel="error rate", xlim=(0, 1), ylim=(0, None))

    return svg(draw, prefix)


def wealth(found: Drift, *, prefix: str) -> str:
    """What a bettor against "nothing has changed" has won, and where it is too much."""

    def draw(axes: Any) -> None:
        axes.axhline(-np.log10(found.level), color=MISS, linewidth=1.5, linestyle=DASHED)
        axes.axhline(0, color=LINE, linewidth=1)
        axes.plot(found.times, found.path, color=MODEL, linewidth=1.8)
        axes.set(xlabel="time", ylabel="capital (powers of ten)")
        _write_dates(axes, found)

    return svg(draw, prefix)


def rolling(found: Drift, *, share: str, prefix: str) -> str:
    """The share of hits window by window, against its band."""

    def draw(axes: Any) -> None:
        middle = [(_placed(window.start) + _placed(window.stop)) / 2 for window in found.windows]
        low, high, promised, came = (
            [getattr(window, name) for window in found.windows] for name in ("low", "high", "promised", "coverage")
        )
        axes.fill_between(middle, low, high, color=BAND, linewidth=0)
        axes.plot(middle, promised, color=INK, linewidth=1, linestyle=DASHED)
        axes.plot(middle, came, color=MODEL, linewidth=1.8, marker="o", markersize=3)
        axes.set(xlabel="time", ylabel=share)
        _write_dates(axes, found)

    return svg(draw, prefix)


def _placed(time: Time) -> float:
    """The time of a window on the axis; of a date, which is in words, the days since 1970-01-01."""
    return float(time) if isinstance(time, float) else float((np.datetime64(time, "s") - EPOCH) / DAY)


def _write_dates(axes: Any, found: Drift) -> None:
    """Dates at the ticks of an axis of days since 1970-01-01."""
    if isinstance(found.windows[0].start, str):
        dated(axes, DATES)


def doubt(inside: np.ndarray, outside: np.ndarray, *, name: str, prefix: str) -> str:
    """How unsure the model is of the test rows, and of rows from elsewhere."""
    both = np.concatenate([inside, outside])
    low, high = float(np.quantile(both, 0.001)), float(np.quantile(both, 0.999))
    edges = np.linspace(low, high if high > low else low + 1, BARS + 1)

    def draw(axes: Any) -> None:
        for values, colour in ((inside, MODEL), (outside, MISS)):
            share = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
            axes.stairs(share, edges, color=colour, linewidth=1.8)
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.2)
        axes.set(xlabel=name, ylabel="share of rows", xlim=(edges[0], edges[-1]), ylim=(0, None))

    return svg(draw, prefix)


def reliabilities(points: Mapping[str, Reliability], *, prefix: str) -> str:
    """Reliability diagrams of probabilities as they are, in orange, and of each remedy."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=DASHED)
        for (name, one), (colour, style) in zip(points.items(), STYLES, strict=False):
            axes.plot(one.confidence, one.accuracy, color=colour, linestyle=style, linewidth=2, marker="o", label=name)
        start = min(float(min(one.confidence.min(), one.accuracy.min())) for one in points.values()) - 0.03
        axes.legend(frameon=False, loc="upper left", labelcolor=INK)
        axes.set(xlabel="confidence", ylabel="share that was right", xlim=(start, 1.02), ylim=(start, 1.04))

    return svg(draw, prefix)


def before_after(curves: Mapping[str, Curve], *, prefix: str) -> str:
    """Calibration curves of predictions as they are, in orange, and of each remedy."""

    def draw(axes: Any) -> None:
        first = next(iter(curves.values()))
        if len(first.levels) == len(LEVELS):
            axes.fill_between(first.levels, first.low, first.high, color=BAND, linewidth=0)
        else:  # quantiles, between which nothing is promised
            axes.vlines(first.levels, first.low, first.high, color=BAND, linewidth=9)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=DASHED)
        for (name, curve), (colour, style) in zip(curves.items(), STYLES, strict=False):
            marker = "" if len(curve.levels) == len(LEVELS) else "o"
            style_of = {"color": colour, "linestyle": style, "marker": marker}
            axes.plot(curve.levels, curve.coverage, linewidth=2, label=name, **style_of)
        axes.legend(frameon=False, loc="upper left", labelcolor=INK)
        axes.set(xlabel="promised coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1))

    return svg(draw, prefix)
