"""Page of a report on classes: words and figures here, layout in `report.html.j2`."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kernelfield.uq import plots
from kernelfield.uq.calibration import band
from kernelfield.uq.classes import ClassEvaluation, Reliability
from kernelfield.uq.page import Markup, fill, number

BARS = 20  # of confidences
MOST = 20  # classes in a table of confusions: more could not be read
SCORES = (  # name, as written, what it says, format
    ("log_loss", "Log loss", "negative log probability of the class that came, in nats", ""),
    ("brier", "Brier score", "squared distance of the probabilities from what came; 0 to 2", ""),
    ("accuracy", "Accuracy", "share of rows whose most probable class came; higher is better", "{:.1%}"),
    ("ece", "Calibration error", "mean gap between the confidence in a prediction and its accuracy", "{:.1%}"),
    ("ece_debiased", "Calibration error, debiased", "less what chance makes of it; may be below zero", "{:.1%}"),
)
EXPLAINED = (
    "Means over the test set. The baseline always predicts the shares of the classes among the training rows; the gain "
    "is the share of its score that the model saves. Lower is better unless said otherwise."
)


def render(content: Mapping[str, Any], evaluation: ClassEvaluation) -> str:
    """The page of `ClassReport.to_dict()`, with figures of the evaluation that it summarises."""
    rows = [
        {
            "label": label,
            "meaning": meaning,
            "model": number(content["scores"][name], form),
            "baseline": number(content["baseline"][name], form),
            "gain": number(content["skill"][name], "{:+.1%}") if name in content["skill"] else "",
        }
        for name, label, meaning, form in SCORES
    ]
    section = {"name": content["target"], "figures": list(_figures(content["classes"], evaluation))}
    return fill(content, [section], rows, EXPLAINED)


def _figures(classes: list[str], evaluation: ClassEvaluation) -> Iterator[dict[str, str]]:
    y, guess, confidence = evaluation.labels, evaluation.probabilities.argmax(1), evaluation.probabilities.max(1)

    def figure(name: str, title: str, svg: str, caption: str) -> dict[str, str]:
        return {"id": f"{name}-caption", "title": title, "svg": Markup(svg), "caption": caption}

    yield figure(
        "reliability",
        "Do probabilities hold what they promise?",
        reliability(evaluation.reliability(), prefix="reliability-"),
        "Predictions made with 80% confidence should be right in 80% of cases: dots lie on the diagonal, give or take "
        "the 95% bars of chance. Below it the model is too sure, above it not sure enough.",
    )
    yield figure(
        "confidence",
        "How sure is it, and is it right then?",
        histogram(confidence, guess == y, prefix="confidence-"),
        "Rows by the probability of their most probable class; orange are those where another class came.",
    )
    if len(classes) <= MOST:
        yield figure(
            "confusion",
            "Which classes does it take for which?",
            confusion(classes, y, guess, prefix="confusion-"),
            "Rows are the classes that came, columns those predicted, numbers count test rows; all else than the "
            "diagonal are mistakes.",
        )


def reliability(points: Reliability, *, prefix: str, size: tuple[float, float] = plots.SIZE) -> str:
    """The share of rows predicted rightly against the confidence, in bins of equal numbers of rows."""
    pairs = zip(points.count.tolist(), points.confidence.clip(0, 1), strict=True)
    low, high = np.array([band(n, p) for n, p in pairs]).T
    promised, share = points.confidence, points.accuracy

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=plots.INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(promised, low, high, color=plots.BAND, linewidth=7)
        axes.plot(promised, share, color=plots.MODEL, linewidth=1.5, marker="o", markersize=5)
        start = min(float(low.min()), float(share.min()), float(promised.min())) - 0.03
        axes.set(xlabel="confidence", ylabel="share that was right", xlim=(start, 1.02), ylim=(start, 1.04))

    return plots.svg(draw, prefix, size)


def histogram(confidence: np.ndarray, hit: np.ndarray, *, prefix: str) -> str:
    """How many rows have which confidence, right ones below wrong ones."""
    edges = np.linspace(min(0.5, confidence.min()), 1, BARS + 1)
    counts = [np.histogram(confidence[chosen], edges)[0] for chosen in (hit, ~hit)]

    def draw(axes: Any) -> None:
        middle, width = (edges[1:] + edges[:-1]) / 2, 0.9 * (edges[1] - edges[0])
        axes.bar(middle, counts[0], width=width, color=plots.MODEL, linewidth=0)
        axes.bar(middle, counts[1], width=width, bottom=counts[0], color=plots.MISS, linewidth=0)
        axes.set(xlabel="probability of the most probable class", ylabel="test rows")

    return plots.svg(draw, prefix)


def confusion(classes: list[str], y: np.ndarray, guess: np.ndarray, *, prefix: str) -> str:
    """Counts of true and predicted classes."""
    k = len(classes)
    counts = np.zeros((k, k), dtype=int)
    np.add.at(counts, (y, guess), 1)
    names = [plots.label(name, 12) for name in classes]

    def draw(axes: Any) -> None:
        shade = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        for i in range(k):
            for j in range(k):
                colour = plots.MODEL if i == j else plots.MISS
                axes.add_patch(plots.square(j, i, colour, 0.35 * float(shade[i, j])))
                if counts[i, j]:
                    axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=10 if k <= 8 else 6)
        axes.set_xticks(range(k), names, rotation=0 if k <= 6 else 90)
        axes.set_yticks(range(k), names)
        axes.set(xlabel="predicted", ylabel="came", xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))

    return plots.svg(draw, prefix)
