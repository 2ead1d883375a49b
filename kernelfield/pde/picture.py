"""A picture of a solution, on the matplotlib figure of a caller.

A line shows the mean with its 95% band, and below it the error beside what the band promises. A
plane shows the mean, its standard deviation and the error as maps; of more axes, the plane of the first two through
the middle of the others. Where the solution swings too often to be seen, a part is drawn larger.
"""

from typing import Any

import numpy as np

from kernelfield.pde.equation import written
from kernelfield.pde.solution import Solution
from kernelfield.pde.tabulated import Tabulated, tabulate

BAND = 1.96  # standard deviations to either side of 95% of a Gaussian
MANY = 40  # crossings of the average along an axis, above which a part is drawn larger
SHOWN = 10  # crossings in that part
STEPS = 300  # of a line in which the largest error is shown
PART = {1: 600, 2: 201}  # places along each axis of the part
BLOCK = 6  # places along each axis of a plane, likewise
LEAST = 1e-4  # of the largest: what is less is drawn alike in a map of errors
SPREAD = 100  # of sizes, from which on their scale is logarithmic
SIGNED = 0.05  # of the largest: values of the other sign that are less do not call for two hues
INK, SKY, BLUE, RED = "#222222", "#9ecae9", "#0072B2", "#D55E00"  # of Okabe and Ito's palette for all kinds of sight


def draw_solution(figure: Any, solution: Solution, whole: Tabulated, caption: str = "") -> None:
    """Draw a solution that is tabulated on its whole domain; sets the size of the figure.

    figure : matplotlib's. caption : a line under the name and the equation.
    """
    title = f"{solution.problem.name}:  {written(solution.problem)}"
    figure.suptitle(f"{title}\n{caption}" if caption else title, fontsize=11)
    if solution.problem.dims == 1:
        _line(figure, whole, _part(solution, whole))
    else:
        _plane(figure, _middle(whole), _part(solution, whole))


def swings(whole: Tabulated) -> tuple[int, ...]:
    """How often the mean crosses its average along a line in each axis, at most."""
    counts = []
    for axis in range(whole.mean.ndim):
        above = np.moveaxis(np.nan_to_num(whole.mean - np.nanmean(whole.mean, axis, keepdims=True)), axis, 0) > 0
        counts.append(int((above[1:] != above[:-1]).sum(0).max()))
    return tuple(counts)


def _part(solution: Solution, whole: Tabulated) -> Tabulated | None:
    """A part about the middle in which the swings can be seen; None if the whole shows them."""
    counts = swings(whole)
    if whole.mean.ndim not in PART or max(counts) <= MANY:
        return None
    box = []
    for (low, high), count in zip(solution.problem.domain, counts, strict=True):
        half = (high - low) / 2 * min(1.0, SHOWN / max(count, 1))
        box.append(((low + high) / 2 - half, (low + high) / 2 + half))
    dims = whole.mean.ndim
    return tabulate(solution, PART[dims], box=box, spread=dims == 1)


def _line(figure: Any, whole: Tabulated, part: Tabulated | None) -> None:
    shown = [whole] if part is None else [whole, part]
    error = whole.error is not None or whole.std is not None
    figure.set_size_inches(8.0, 0.6 + 2.5 * (len(shown) + error))
    axes = np.atleast_1d(figure.subplots(len(shown) + error))
    name = whole.names[0]
    for axis, table in zip(axes, shown, strict=False):
        x, dense = table.places[0], table is whole and part is not None
        if table.std is not None:
            ends = table.mean - BAND * table.std, table.mean + BAND * table.std
            axis.fill_between(x, *ends, color=SKY, linewidth=0, label="95% band")
        axis.plot(x, table.mean, color=BLUE, linewidth=0.6 if dense else 1.6, label="mean")
        if table.exact is not None and not dense:
            axis.plot(x, table.exact, color=INK, linewidth=1, linestyle=(0, (1, 2.5)), label="exact")
        axis.set(xlim=(x[0], x[-1]), xlabel=name, ylabel=f"u({name})")
    if part is not None:
        axes[0].axvspan(part.places[0][0], part.places[0][-1], color=RED, alpha=0.35, linewidth=0, label="drawn below")
    for axis in axes[: len(shown)]:
        axis.legend(loc="upper right", fontsize=8, ncols=4)
        axis.margins(y=0.16)
    if error:
        _errors(axes[-1], whole)


def _errors(axis: Any, whole: Tabulated) -> None:
    """The largest error in each of many steps, beside the half width of the band."""
    parts = np.array_split(np.arange(len(whole.places[0])), STEPS)
    x = np.array([whole.places[0][part].mean() for part in parts])
    for values, style, label in (
        (whole.error, {"color": RED, "linewidth": 1.0}, "|mean - exact|, largest near by"),
        (None if whole.std is None else BAND * whole.std, {"color": BLUE, "linewidth": 1.6}, "half the 95% band"),
    ):
        if values is not None:
            top = np.array([values[part].max() for part in parts])
            axis.semilogy(x, np.where(top > 0, top, np.nan), label=label, **style)
    axis.set(xlim=(whole.places[0][0], whole.places[0][-1]), xlabel=whole.names[0], ylabel="error of u")
    axis.legend(loc="upper right", fontsize=8, ncols=2)
    axis.margins(y=0.2)


def _middle(whole: Tabulated) -> Tabulated:
    """The plane of the first two axes through the middle of all others."""
    at: Any = (..., *(len(place) // 2 for place in whole.places[2:]))
    fields = [None if field is None else field[at] for field in (whole.mean, whole.std, whole.exact)]
    mean, std, exact = fields
    assert mean is not None
    return Tabulated(whole.names, whole.places, mean, std, exact)


def _plane(figure: Any, whole: Tabulated, part: Tabulated | None) -> None:
    others = zip(whole.names[2:], whole.places[2:], strict=True)
    at = "".join(f" at {name} = {place[len(place) // 2]:.3g}" for name, place in others)
    panels: list[tuple[str, str, Tabulated, np.ndarray, bool]] = []
    error, near = whole.error, ""
    if part is None:
        panels.append(("mean" + at, "u", whole, whole.mean, False))
    else:  # points that do not follow the swings would show a moire of them
        near = ", largest near by"
        panels.append(("size of the mean" + near, "|u|", whole, _largest(np.abs(whole.mean)), True))
        panels.append(("mean in the frame", "u", part, part.mean, False))
        error = None if error is None else _largest(error)
    if whole.std is not None:
        panels.append(("standard deviation" + at, "std of u", whole, whole.std, True))
    if error is not None:
        panels.append(("error" + at + near, "|mean - exact|", whole, error, True))
    columns = 2 if len(panels) == 4 else len(panels)
    rows = -(-len(panels) // columns)
    figure.set_size_inches(4.3 * columns, 0.7 + 3.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axis, panel in zip(grid, panels, strict=True):
        _map(figure, axis, *panel)
    if part is not None:
        (left, *_, right), (low, *_, high) = part.places
        grid[0].plot([left, right, right, left, left], [low, low, high, high, low], color=RED, linewidth=1.5)


def _largest(field: np.ndarray) -> np.ndarray:
    """The largest value in each of the blocks of a plane; the last ones may be smaller."""
    starts = [np.arange(0, size, BLOCK) for size in field.shape]
    return np.fmax.reduceat(np.fmax.reduceat(field, starts[0], axis=0), starts[1], axis=1)


def _map(figure: Any, axis: Any, title: str, label: str, table: Tabulated, field: np.ndarray, sizes: bool) -> None:
    """A field in colours: sizes on a logarithmic scale where they spread, values about zero in two hues."""
    x, y = table.places[:2]
    low, high = float(np.nanmin(field)), float(np.nanmax(field))
    style: dict[str, Any] = {"cmap": "viridis"}
    if sizes and high > 0 and low < high / SPREAD:
        field = np.where(np.isnan(field), np.nan, np.maximum(field, LEAST * high))
        style |= {"norm": "log", "vmin": max(low, LEAST * high), "vmax": high}
    elif not sizes and min(-low, high) > SIGNED * max(-low, high):
        style = {"cmap": "RdBu_r", "vmin": -max(-low, high), "vmax": max(-low, high)}
    elif sizes:
        style["vmin"] = 0.0
    else:
        style["cmap"] = "cividis"
    half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    extent = (x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y)
    image = axis.imshow(field.T, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **style)
    axis.set(xlabel=table.names[0], ylabel=table.names[1], facecolor="#eeeeee")
    axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axis, label=label)
