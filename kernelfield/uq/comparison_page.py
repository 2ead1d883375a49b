"""Page of a comparison: words and figures here, layout in `comparison.html.j2`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kernelfield.uq import class_page, plots
from kernelfield.uq.calibration import curve
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.comparison import Comparison, Contender, Standing
from kernelfield.uq.markup import figure, written
from kernelfield.uq.words import number

SMALL = (2.7, 2.3)  # inches, of one of many figures
ROW = 0.27  # inches, of a model in a figure of all
REACH = 6.0  # times the median: what lies further off is drawn as an arrow at the edge
HEADINGS = {  # of scores: as written, what it is of, format
    "nll": ("NLL", "nats", ""),
    "log_loss": ("Log loss", "nats", ""),
    "crps": ("CRPS", "units of target", ""),
    "rmse": ("RMSE", "units of target", ""),
    "coverage90": ("Coverage", "90% intervals", "{:.1%}"),
    "sharpness90": ("Width", "90% intervals", ""),
    "brier": ("Brier", "0 to 2", ""),
    "accuracy": ("Accuracy", "of best guesses", "{:.1%}"),
    "ece": ("ECE", "calibration error", "{:.1%}"),
}
EXPLAINED = (
    "Means over {splits} folds, in which every row is tested on once by models that have not seen it. Models are "
    "ranked by {loss}. Beside it stands how far behind the best each is, with the 95% interval of a paired bootstrap "
    "over folds and rows: an interval that holds zero leaves open which of the two is better. The last row looks at no "
    "column and says what the training targets alone say. Less is better everywhere but in {but}."
)


def render(comparison: Comparison) -> str:
    """The page of a comparison."""
    content = {
        "verdicts": comparison.verdicts(),
        "notes": comparison.notes,
        "provenance": comparison.provenance,
    }
    notes = {one.name: one.notes for one in comparison.contenders}
    models = [
        {"name": name, "advice": words, "failure": comparison.failures.get(name), "notes": notes.get(name, ())}
        for name, words in comparison.advice.items()
    ]
    loss = "log loss" if comparison.classes else "NLL"
    return written(
        "comparison.html.j2",
        content,
        targets=", ".join(comparison.outputs),
        rows=comparison.rows,
        columns=len(comparison.features),
        splits=comparison.splits,
        headings=[("Behind the best", f"nats of {loss}"), *(HEADINGS[name][:2] for name in comparison.measures)],
        ranking=[_row(comparison, one) for one in (*comparison.standings, comparison.rule)],
        explained=EXPLAINED.format(
            splits=comparison.splits, loss=loss, but="accuracy" if comparison.classes else "coverage, best at 90%"
        ),
        below=comparison.below_rule(),
        models=models,
        figures=list(_figures(comparison, loss)),
        multiples=list(_multiples(comparison)),
        promise=_promise(comparison),
    )


def _row(comparison: Comparison, one: Standing) -> dict[str, Any]:
    scores, seconds = one.contender.scores(), one.contender.seconds
    cells = [number(scores[name], HEADINGS[name][2]) for name in comparison.measures]
    gap = "" if one.rank == 1 else f"{_signed(one.difference)} [{_signed(one.low)}, {_signed(one.high)}]"
    state = "the best" if one.rank == 1 else "not distinguishable from the best" if one.open else ""
    return {
        "rank": number(one.rank) if one.rank else "",
        "name": one.contender.name,
        "state": state,
        "cells": [gap, *cells, number(float(np.mean(seconds["fit"])), "{:.2g}") if seconds else ""],
    }


def _signed(value: float) -> str:
    form = "{:+.3f}" if abs(value) < 10 else "{:+.3g}"
    return number(float(value), form) if np.isfinite(value) else "\N{INFINITY}"


def _figures(comparison: Comparison, loss: str) -> Iterator[dict[str, str]]:
    standings = comparison.standings

    if len(standings) > 1:
        yield figure(
            "behind",
            "How far behind the best?",
            behind(standings, loss, prefix="behind-"),
            f"Differences of {loss} to the best with their 95% intervals. Blue intervals reach zero, so that chance "
            "may explain the difference; orange ones do not. An arrow stands for what lies beyond the edge.",
        )
    yield figure(
        "folds",
        "Does the order hold from fold to fold?",
        by_fold([one.contender for one in standings], comparison.measures[0], loss, prefix="folds-"),
        f"The {loss} of each fold is a dot, the mean over folds a bar. Folds that are hard for one model are often "
        "hard for all, which is why differences are taken row by row.",
    )


def behind(standings: Sequence[Standing], loss: str, *, prefix: str) -> str:
    """Differences to the best as dots with intervals, a row each."""
    rest = standings[1:]
    start, edge = min(0.0, *(one.low for one in rest)), _edge(np.array([one.high for one in rest]), 0.0)

    def draw(axes: Any) -> None:
        axes.axvline(0, color=plots.INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([0], [0], color=plots.MODEL, marker="o", markersize=6)
        for place, one in enumerate(rest, 1):
            colour = plots.MODEL if one.open else plots.MISS
            if one.difference > edge:
                axes.plot([edge], [place], color=colour, marker=">", markersize=7)
                continue
            axes.plot([one.low, min(one.high, edge)], [place, place], color=colour, linewidth=2)
            axes.plot([one.difference], [place], color=colour, marker="o", markersize=6)
        margin = 0.05 * (edge - start)
        _rows(axes, [one.contender.name for one in standings])
        axes.set(xlabel=f"{loss} less that of the best, nats", xlim=(start - margin, edge + margin))

    return plots.svg(draw, prefix, _tall(len(standings)))


def by_fold(contenders: Sequence[Contender], measure: str, loss: str, *, prefix: str) -> str:
    """A score of each fold as dots and its mean as a bar, a row each."""
    values = [np.array(one.split_scores()[measure]) for one in contenders]
    low = float(min(value.min() for value in values))
    edge = _edge(np.concatenate(values), low)
    margin = 0.05 * (edge - low)

    def draw(axes: Any) -> None:
        for place, value in enumerate(values):
            inside, mean = value[value <= edge], float(value.mean())
            axes.plot(inside, np.full(len(inside), place), color=plots.MODEL, marker="o", linestyle="", alpha=0.5)
            if len(inside) < len(value):
                axes.plot([edge], [place], color=plots.MISS, marker=">", markersize=7)
            if mean <= edge:
                axes.plot([mean, mean], [place - 0.32, place + 0.32], color=plots.INK, linewidth=2)
        _rows(axes, [one.name for one in contenders])
        axes.set(xlabel=f"{loss} of a fold, nats", xlim=(low - margin, edge + margin))

    return plots.svg(draw, prefix, _tall(len(contenders)))


def _edge(values: np.ndarray, start: float) -> float:
    """Where an axis from `start` ends: at the largest value, those aside that lie far beyond the others."""
    above = values[np.isfinite(values)] - start
    near = above[above <= REACH * max(float(np.median(above)), 0.0)] if len(above) else above
    return start + (float(near.max()) if len(near) and near.max() > 0 else 1.0)


def _rows(axes: Any, names: Sequence[str]) -> None:
    """The first name on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)


def _tall(count: int) -> tuple[float, float]:
    return (plots.SIZE[0], 0.75 + ROW * max(count, 4))


def _multiples(comparison: Comparison) -> Iterator[dict[str, str]]:
    """A figure of calibration for each model; of the first output, where there are several."""
    for index, one in enumerate(comparison.standings):
        pooled, prefix = one.contender.pooled(), f"m{index}-"
        if isinstance(pooled, ClassEvaluation):
            svg = class_page.reliability(pooled.reliability(), prefix=prefix, size=SMALL)
        else:
            svg = plots.calibration(curve(pooled.output(0)), prefix=prefix, size=SMALL)
        yield figure(prefix.removesuffix("-"), one.contender.name, svg, _held(one.contender))


def _held(contender: Contender) -> str:
    scores = contender.scores()
    if "coverage90" in scores:
        return f"90% intervals hold {scores['coverage90']:.1%}"
    return f"calibration error {scores['ece']:.1%}"


def _promise(comparison: Comparison) -> str:
    if comparison.classes:
        return (
            "The share of rows predicted rightly against the confidence. Dots lie on the diagonal, give or take the "
            "95% bars of chance; below it a model is too sure, above it not sure enough."
        )
    which = f", of {comparison.outputs[0]}" if len(comparison.outputs) > 1 else ""
    return (
        f"Observed against promised coverage of central intervals{which}. The line stays on the diagonal, give or take "
        "the shaded 95% band of chance: below it intervals are too narrow, above it too wide."
    )
