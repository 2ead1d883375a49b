"""Figures of a report, as SVG text to be put into a page; and pictures of their own.

A figure of a page takes its colours from the page: each colour drawn here stands for a CSS variable
(`--ink`, `--line`, `--model`, `--miss`, `--band`, `--paper`), so that one figure serves light, dark
and print. Text stays text, and what of it comes from the user's data goes through `label`. The same
numbers give the same text, and ids start with a prefix so that figures on a page do not meet.
A picture stands alone, on white.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from kernelfield.uq.calibration import LEVELS, Curve, Histogram
from kernelfield.uq.diagnosis.columns import cuts
from kernelfield.uq.scores import Evaluation
from kernelfield.uq.words import day

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.dates import AutoDateLocator
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ImportError as error:
    raise ImportError("reports and pictures need matplotlib and jinja2; pip install 'kernelfield[report]'") from error

SIZE = (4.6, 3.6)  # inches; the page scales it
COLOURS = {
    "#111101": "--ink",
    "#111102": "--line",
    "#111103": "--model",
    "#111104": "--miss",
    "#111105": "--band",
    "#111106": "--paper",
}
INK, LINE, MODEL, MISS, BAND, PAPER = COLOURS
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kernelfield",
    "path.simplify": False,  # it drops the segments of length zero that are our dots
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.limits": (-4, 5),
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

ALONE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-4, 5),
    "legend.frameon": False,
    "figure.facecolor": "white",
}
DOTS = 150  # of a picture, per inch


def calibration(curve: Curve, *, prefix: str, size: tuple[float, float] = SIZE) -> str:
    """Observed against promised coverage, with its band."""

    def draw(axes: Axes) -> None:
        apart = len(curve.levels) < len(LEVELS)  # of quantiles, between which nothing is promised
        if apart:
            axes.vlines(curve.levels, curve.low, curve.high, color=BAND, linewidth=9)
        else:
            axes.fill_between(curve.levels, curve.low, curve.high, color=BAND, linewidth=0)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(curve.levels, curve.coverage, color=MODEL, linewidth=2, marker="o" if apart else "", markersize=6)
        axes.set(xlabel="promised coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1))

    return svg(draw, prefix, size)


def uniformity(histogram: Histogram, *, prefix: str) -> str:
    """The PIT histogram, with the band of its bars."""

    def draw(axes: Axes) -> None:
        width = histogram.edges[1]
        axes.axhspan(histogram.low, histogram.high, color=BAND, linewidth=0)
        axes.bar(histogram.edges[:-1] + width / 2, histogram.share, width=0.9 * width, color=MODEL, linewidth=0)
        axes.axhline(width, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        for end in (histogram.low, histogram.high):  # bars hide the band's ends
            axes.axhline(end, color=INK, linewidth=0.6, alpha=0.7)
        top = max(histogram.share.max(), histogram.high)
        axes.set(xlabel="PIT: the quantile at which y came to be", ylabel="share of values")
        axes.set(xlim=(0, 1), ylim=(0, 1.08 * top))

    return svg(draw, prefix)


def predictions(evaluation: Evaluation, *, prefix: str, most: int) -> str:
    """Predicted means and 90% intervals against observed values, of at most `most` points."""
    rows = sample(len(evaluation.y), most)
    y, mean, low, high = (a[rows, 0] for a in (evaluation.y, evaluation.mean, evaluation.low, evaluation.high))
    missed = (y < low) | (high < y)
    shown = np.concatenate([y, mean, low, high])
    ends = padded(shown[np.isfinite(shown)])
    low, high = np.clip(low, *ends), np.clip(high, *ends)  # a law may be so wide that its intervals have no ends

    def draw(axes: Axes) -> None:
        axes.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        for colour, chosen in ((MODEL, ~missed), (MISS, missed)):
            bars(axes, y[chosen], low[chosen], high[chosen], color=colour, linewidth=1, alpha=0.35)
            dots(axes, y[chosen], mean[chosen], color=colour, linewidth=diameter(len(rows)))
        axes.set(xlabel="observed", ylabel="predicted", xlim=ends, ylim=ends)

    return svg(draw, prefix)


def resolution(evaluation: Evaluation, *, prefix: str, most: int) -> str:
    """Absolute errors against predicted standard deviations, and their root mean square in groups."""
    std, error = evaluation.std[:, 0], np.abs(evaluation.y - evaluation.mean)[:, 0]
    rows = sample(len(std), most)
    order = np.argsort(std, kind="stable")
    # Rows of equal deviations are in one group, whatever their order.
    groups = np.split(order, cuts(std[order], int(np.clip(len(std) // 20, 1, 10)))[1:-1])
    middle = [np.mean(std[group]) for group in groups]
    typical = [np.sqrt(np.mean(error[group] ** 2)) for group in groups]
    ends = padded(std)

    def draw(axes: Axes) -> None:
        dots(axes, std[rows], error[rows], color=MODEL, linewidth=diameter(len(rows)), alpha=0.55)
        axes.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(middle, typical, color=MISS, linewidth=1.5, marker="D", markersize=5)
        top = 1.05 * max(error[rows].max(), *typical, std.max())
        axes.set(xlabel="predicted standard deviation", ylabel="absolute error", xlim=ends, ylim=(0, top))

    return svg(draw, prefix)


def label(text: object, most: int = 24) -> str:
    """A name from the user's data for a figure: one line, of a bounded length, without mathematics."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return line.replace("$", r"\$")


def dated(axes: Axes, most: int) -> None:
    """Dates at so many ticks at most of an axis of days since 1970-01-01."""
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=most))
    axes.xaxis.set_major_formatter(lambda value, _: day(value))


def square(x: float, y: float, colour: str, alpha: float) -> Rectangle:
    """A filled cell of side one around a point."""
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, alpha=alpha, linewidth=0)


def sample(n: int, most: int) -> np.ndarray:
    """Indices of at most so many of n points, at random but the same each time."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def diameter(n: int) -> float:
    """A diameter in points that keeps many dots apart."""
    return 4.5 if n <= 300 else 3.0


def padded(values: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that holds the values, also if they are all the same."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def bars(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, **style: Any) -> None:
    """Vertical bars as one path: a tenth of the text of one path each."""
    gap = np.full(x.shape, np.nan)
    axes.plot(np.stack([x, x, gap], 1).ravel(), np.stack([low, high, gap], 1).ravel(), **style)


def dots(axes: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """Dots as one path: bars of no length with round ends."""
    bars(axes, x, y, y, solid_capstyle="round", **style)


def svg(draw: Callable[[Axes], None], prefix: str, size: tuple[float, float] = SIZE) -> str:
    """What `draw` puts on axes, as an element for a page."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's fonts draw the text
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _embedded(buffer.getvalue(), prefix)


def picture(draw: Callable[[Figure], None]) -> bytes:
    """What `draw` puts on a figure, as a PNG file."""
    with matplotlib.rc_context(ALONE):
        figure = Figure(layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
    return buffer.getvalue()


def _embedded(text: str, prefix: str) -> str:
    """The <svg> element alone, fit for a page: own ids, the page's colours, short numbers."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\b(id=")|(url\(#)|(href="#)', lambda match: match[0] + prefix, text)
    text = re.sub(r'="[^"]*"', lambda value: re.sub(r"(\d\.\d\d)\d+", r"\1", value[0]), text)  # not the tick labels
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    # The page gives the size; the figure's caption describes the picture.
    tag = rf'<svg viewBox="\1" role="img" aria-labelledby="{prefix}caption">'
    return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', tag, text, count=1)
