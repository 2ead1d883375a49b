"""Figures of an optimisation. Trials are dots, what broke a constraint or a promise is orange, time runs to the right.

A trial may be a thousand times worse than the best, and an axis that held it would show nothing
else: axes of objectives hold the best and what lies within six times the median distance to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernelfield.uq import plots
from kernelfield.uq.plots import BAND, INK, LINE, MISS, MODEL, PAPER, bars, diameter, dots, label, padded, sample
from kernelfield.uq.scores import Evaluation
from kernelfield.uq.search import Coverage, Parameter

SMALL = (2.7, 2.3)  # inches, of one of many figures
WIDE = (9.6, 4.2)
ROW = 0.27  # inches, of a parameter in a figure of all
REACH = 6.0  # times the median distance to the best: what lies further off leaves the frame
DASHED = (0, (4, 3))
AGES = 5  # shades from the first trials to the last
NINETY = 1.6448536269514722  # half the width of a Gaussian's 90% interval, in deviations
RUNGS = 7  # choices on an axis of its own that still have their names
MOMENTS = 400  # of a curve over time with a band
CROSSES = 500  # each is an element of its own
BEHIND = {"facecolor": PAPER, "alpha": 0.85, "linewidth": 0, "pad": 1.0}  # of words among lines
ABSENT = -0.12  # where a parameter stands that a trial did not have


def near(values: np.ndarray, sign: float) -> np.ndarray:
    """The values but for those far worse than most.

    >>> near(np.array([0.0, 1.0, 2.0, 1e9]), -1.0).tolist()
    [0.0, 1.0, 2.0]
    """
    behind = np.max(sign * values) - sign * values
    far = REACH * float(np.median(behind))
    return values[behind <= far] if far > 0 else values


def frame(values: np.ndarray, sign: float) -> tuple[float, float]:
    """Ends of an axis that holds the values but for those far worse than most."""
    return padded(near(values, sign))


def progress(values: np.ndarray, counted: np.ndarray, best: np.ndarray, sign: float, name: str, *, prefix: str) -> str:
    """Values (n,) of trials, NaN where there are none, and the best value after each (n,)."""
    trials, seen = np.arange(len(values)), np.isfinite(values)
    limits = frame(values[seen], sign)

    def draw(axes: Any) -> None:
        size = diameter(int(seen.sum()))
        dots(axes, trials[seen & counted], values[seen & counted], color=INK, linewidth=size, alpha=0.5)
        _crosses(axes, trials[seen & ~counted], values[seen & ~counted])
        _steps(axes, best)
        _beyond(axes, trials[seen], values[seen], limits)
        axes.set(xlabel="trial", ylabel=label(name), ylim=limits, xlim=_whole(len(trials)))

    return plots.svg(draw, prefix=prefix)


def gap(regret: np.ndarray, name: str, *, prefix: str) -> str:
    """Regret (n,) over trials on a log scale; what is zero stands at a tenth of the least that is not."""
    shown = np.where(np.isfinite(regret), regret, np.nan)
    positive = shown[shown > 0]
    floor = 0.1 * float(positive.min()) if len(positive) else 1e-12

    def draw(axes: Any) -> None:
        _steps(axes, np.maximum(shown, floor))
        axes.set_yscale("log")
        axes.set(xlabel="trial", ylabel=name, xlim=_whole(len(shown)))

    return plots.svg(draw, prefix=prefix)


def volume(hypervolume: np.ndarray, largest: float | None, *, prefix: str) -> str:
    """The hypervolume (n,) over trials, and the largest there is, if it is known."""

    def draw(axes: Any) -> None:
        _steps(axes, hypervolume)
        if largest is not None:
            axes.axhline(largest, color=INK, linewidth=1, linestyle=DASHED)
        axes.set(xlabel="trial", ylabel="hypervolume", xlim=_whole(len(hypervolume)))
        axes.set_ylim(bottom=0)

    return plots.svg(draw, prefix=prefix)


@dataclass(frozen=True, eq=False)
class Plane:
    """Trials in two objectives: values (n, 2) of those finished, which of them count and lie on the front."""

    values: np.ndarray
    counted: np.ndarray
    front: np.ndarray
    signs: np.ndarray
    names: Sequence[str]


def tradeoff(plane: Plane, corner: np.ndarray | None, *, prefix: str) -> str:
    """The trials of two objectives; with the reference point, the edge of what the front dominates."""
    x, y = plane.values.T
    limits = [frame(plane.values[:, axis], float(plane.signs[axis])) for axis in range(2)]
    rest = plane.counted & ~plane.front

    def draw(axes: Any) -> None:
        dots(axes, x[rest], y[rest], color=INK, linewidth=diameter(len(x)), alpha=0.45)
        _crosses(axes, x[~plane.counted], y[~plane.counted])
        if corner is not None and plane.front.any():
            axes.plot(*_stairs(plane.values[plane.front], plane.signs, corner), color=MODEL, linewidth=1.2, alpha=0.8)
        dots(axes, x[plane.front], y[plane.front], color=MODEL, linewidth=6.5)
        axes.set(xlabel=label(plane.names[0]), ylabel=label(plane.names[1]), xlim=limits[0], ylim=limits[1])

    return plots.svg(draw, prefix=prefix)


def _stairs(front: np.ndarray, signs: np.ndarray, corner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the region that a front (k, 2) dominates, from its best in the first objective on."""
    best_first = front[np.argsort(-signs[0] * front[:, 0], kind="stable")]
    x = np.append(np.repeat(best_first[:, 0], 2), corner[0])
    y = np.insert(np.repeat(best_first[:, 1], 2), 0, corner[1])
    return x, y


def foresight(made: Evaluation, sign: float, *, most: int, prefix: str) -> str:
    """Predicted means and 90% intervals against what came, the later the darker, misses in orange."""
    kept = sample(len(made.y), most)
    y, mean, low, high = (a[kept, 0] for a in (made.y, made.mean, made.low, made.high))
    missed = (y < low) | (high < y)
    limits = frame(np.concatenate([y, mean]), sign)
    ages = np.array_split(np.arange(len(kept)), min(AGES, len(kept)))

    def draw(axes: Any) -> None:
        axes.plot(limits, limits, color=INK, linewidth=1, linestyle=DASHED)
        for age, rows in enumerate(ages, AGES - len(ages) + 1):
            for colour, chosen in ((MODEL, rows[~missed[rows]]), (MISS, rows[missed[rows]])):
                shade = age / AGES
                bars(axes, y[chosen], low[chosen], high[chosen], color=colour, linewidth=1, alpha=0.4 * shade)
                dots(axes, y[chosen], mean[chosen], color=colour, linewidth=diameter(len(kept)), alpha=shade)
        axes.set(xlabel="observed", ylabel="predicted before the trial", xlim=limits, ylim=limits)

    return plots.svg(draw, prefix=prefix)


def surprise(trials: np.ndarray, made: Evaluation, *, most: int, prefix: str) -> str:
    """Errors in predicted standard deviations, over trials."""
    kept = sample(len(trials), most)
    at, z = trials[kept], ((made.y - made.mean) / made.std)[kept, 0]
    edge = max(3.5, float(np.quantile(np.abs(z), 0.98)) * 1.1)
    z = z.clip(-edge, edge)
    missed = np.abs(z) > NINETY

    def draw(axes: Any) -> None:
        axes.axhspan(-NINETY, NINETY, color=BAND, linewidth=0)
        axes.axhline(0, color=INK, linewidth=1, linestyle=DASHED)
        for colour, chosen in ((MODEL, ~missed), (MISS, missed)):
            dots(axes, at[chosen], z[chosen], color=colour, linewidth=diameter(len(kept)))
        axes.set(xlabel="trial", ylabel="error in predicted deviations", ylim=(-1.08 * edge, 1.08 * edge))

    return plots.svg(draw, prefix=prefix)


def trust(coverage: Coverage, *, promised: float, prefix: str) -> str:
    """The share of trials inside their intervals so far, over trials, with its band."""
    kept = np.unique(np.linspace(0, len(coverage.trials) - 1, MOMENTS).astype(int))
    at, share, low, high = (a[kept] for a in (coverage.trials, coverage.share, coverage.low, coverage.high))

    def draw(axes: Any) -> None:
        axes.fill_between(at, low, high, step="post", color=BAND, linewidth=0)
        axes.axhline(promised, color=INK, linewidth=1, linestyle=DASHED)
        axes.step(at, share, where="post", color=MODEL, linewidth=2)
        axes.set(xlabel="trial", ylabel="share inside 90% intervals so far", ylim=(0, 1.03))

    return plots.svg(draw, prefix=prefix)


@dataclass(frozen=True, eq=False)
class Rail:
    """An axis among parallel ones: `marks` are words by place, between 0 and 1."""

    name: str
    marks: Mapping[float, str]


def parallel(rails: Sequence[Rail], places: np.ndarray, best: np.ndarray, *, prefix: str) -> str:
    """Lines of n trials across k axes at places (n, k) of 0 to 1, NaN where absent, the `best` (n,) in front."""
    lost = bool(np.isnan(places).any())
    heights = np.where(np.isnan(places), ABSENT, places)
    turned = len(rails) > 8 or max(len(rail.name) for rail in rails) > 12

    def draw(axes: Any) -> None:
        for chosen, style in (
            (~best, {"color": INK, "linewidth": 0.8, "alpha": 0.6 if len(places) <= 60 else 0.25}),
            (best, {"color": MISS, "linewidth": 1.8}),
        ):
            _lines(axes, heights[chosen], **style)
        for at, rail in enumerate(rails):
            axes.axvline(at, color=LINE, linewidth=1.2, ymin=0.0)
            for place, word in rail.marks.items():
                axes.text(at + 0.05, place, label(word, 12), fontsize=8, va="center", bbox=BEHIND)
        names = [label(rail.name, 18) for rail in rails]
        axes.set_xticks(range(len(rails)), names, rotation=30 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks([ABSENT] if lost else [], ["absent"] if lost else [])
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set(xlim=(-0.15, len(rails) - 0.35), ylim=((ABSENT if lost else 0) - 0.05, 1.06))

    return plots.svg(draw, size=WIDE, prefix=prefix)


def _lines(axes: Any, heights: np.ndarray, **style: Any) -> None:
    """Lines as one path."""
    n, k = heights.shape
    broken = np.concatenate([heights, np.full((n, 1), np.nan)], axis=1)
    axes.plot(np.tile(np.arange(k + 1), n), broken.ravel(), **style)


def rail(parameter: Parameter) -> Rail:
    """The axis of a parameter, with its ends or its choices."""
    if parameter.kind != "categorical":
        return ends(parameter.name, parameter.low, parameter.high)
    words = [str(choice) for choice in parameter.choices]
    shown = range(len(words)) if len(words) <= RUNGS else (0, len(words) - 1)
    return Rail(parameter.name, {parameter.place(parameter.choices[i]): words[i] for i in shown})


def ends(name: str, low: float, high: float) -> Rail:
    """An axis from one number to another."""
    words = [f"{value:.3g}".replace("-", "\N{MINUS SIGN}") for value in (low, high)]
    return Rail(name, {0.0: words[0], 1.0: words[1]})


@dataclass(frozen=True, eq=False)
class Cut:
    """A slice of one objective for a figure.

    places, mean, std  (k,): where the grid lies between the parameter's ends, and the posterior there
    trials, values     (t,): the same of the trials
    best               where the best trial lies, NaN if nowhere
    """

    places: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    trials: np.ndarray
    values: np.ndarray
    best: float


def cut(one: Cut, parameter: Parameter, name: str, *, most: int, prefix: str) -> str:
    """The posterior along a parameter, with the trials."""
    order = np.argsort(one.places, kind="stable")
    at, mean, reach = one.places[order], one.mean[order], NINETY * one.std[order]
    kept = sample(len(one.trials), most)
    limits = padded(np.concatenate([mean - reach, mean + reach]))

    def draw(axes: Any) -> None:
        dots(axes, one.trials[kept], one.values[kept], color=INK, linewidth=3, alpha=0.5)
        if parameter.kind == "categorical":
            bars(axes, at, mean - reach, mean + reach, color=BAND, linewidth=9)
            dots(axes, at, mean, color=MODEL, linewidth=6)
        else:
            axes.fill_between(at, mean - reach, mean + reach, color=BAND, linewidth=0)
            axes.plot(at, mean, color=MODEL, linewidth=2)
        if np.isfinite(one.best):
            axes.axvline(one.best, color=MISS, linewidth=1.2, linestyle=DASHED)
        marks = rail(parameter).marks
        axes.set_xticks(list(marks), [label(word, 9) for word in marks.values()])
        axes.set(ylabel=label(name), xlim=(-0.06, 1.06), ylim=limits)

    return plots.svg(draw, size=SMALL, prefix=prefix)


def shares(importances: Mapping[str, float], *, prefix: str) -> str:
    """Bars of the importance of parameters, in the order given."""
    names, sizes = list(importances), np.array(list(importances.values()), dtype=float)

    def draw(axes: Any) -> None:
        axes.barh(range(len(names)), sizes, color=MODEL, height=0.65, linewidth=0)
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="importance", ylim=(len(names) - 0.4, -0.6))
        axes.set_xlim(left=min(0.0, float(sizes.min())))

    return plots.svg(draw, size=(plots.SIZE[0], 0.75 + ROW * max(len(names), 4)), prefix=prefix)


def trace(values: np.ndarray, good: np.ndarray, name: str, *, prefix: str) -> str:
    """A number (n,) of each trial over trials, NaN where it has none; those that are not `good` in orange."""
    trials, seen = np.arange(len(values)), np.isfinite(values)
    positive = values[seen & (values > 0)]
    steep = len(positive) == seen.sum() and positive.max() > 100 * positive.min()

    def draw(axes: Any) -> None:
        for colour, chosen in ((MODEL, seen & good), (MISS, seen & ~good)):
            dots(axes, trials[chosen], values[chosen], color=colour, linewidth=diameter(int(seen.sum())))
        if steep:
            axes.set_yscale("log")
        axes.set(xlabel="trial", ylabel=name, xlim=_whole(len(values)))

    return plots.svg(draw, prefix=prefix)


def _steps(axes: Any, values: np.ndarray) -> None:
    """A staircase of a number of each trial; only its corners are written."""
    corners = np.flatnonzero(np.append(values[1:] != values[:-1], True) | np.insert(values[1:] != values[:-1], 0, True))
    axes.step(corners, values[corners], where="post", color=MODEL, linewidth=2)


def _crosses(axes: Any, x: np.ndarray, y: np.ndarray) -> None:
    kept = sample(len(x), CROSSES)
    axes.plot(x[kept], y[kept], color=MISS, marker="x", markersize=4.5, linestyle="")


def _beyond(axes: Any, x: np.ndarray, y: np.ndarray, limits: tuple[float, float]) -> None:
    """Arrows at the edge for what lies outside of the frame."""
    for outside, edge, arrow in ((y > limits[1], limits[1], "^"), (y < limits[0], limits[0], "v")):
        at = np.full(int(outside.sum()), edge)
        axes.plot(x[outside], at, color=LINE, marker=arrow, markersize=4, linestyle="", clip_on=False)


def _whole(n: int) -> tuple[float, float]:
    """Ends of an axis of n trials."""
    margin = max(0.02 * n, 0.5)
    return -margin, n - 1 + margin
