"""Page of a report on classes: words and figures here, layout in `report.html.j2`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from kernelfield.uq import plots, report_plots, sections
from kernelfield.uq.calibration import band
from kernelfield.uq.class_calibration import kolmogorov, selective_risk, spiegelhalter
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.classes import Reliability
from kernelfield.uq.diagnosis.counts import stated
from kernelfield.uq.diagnosis.outside import entropy
from kernelfield.uq.markup import figure
from kernelfield.uq.page import STAY, compared, fill, learned, shown_columns
from kernelfield.uq.remedies import prescribed
from kernelfield.uq.sections import Section, Table, line
from kernelfield.uq.words import CLASSES, number

BARS = 20  # of confidences
MOST = 20  # classes in a table of confusions: more could not be read
EXPLAINED = (
    "Means over the test set, with their 95% intervals. The baseline always predicts {}; the gain is the share of its "
    "score that the model saves. Lower is better unless said otherwise."
)


def render(report: ClassReport) -> str:
    """The page of a report."""
    part = {"name": "", "sections": list(_sections(report))}
    last = [*compared(report.pairs), *_mended(report)]
    return fill(report, report.target, [part], CLASSES, EXPLAINED.format(report.rule), last, report.whole)


def _sections(report: ClassReport) -> Iterator[Section]:
    found, rows, evaluation = report.findings, report.rows, report.evaluation
    yield _calibrated(report)
    yield from sections.placed(found, "c", share="accuracy")
    yield _resolved(report)
    if found.outside is not None and rows.outside is not None:
        inside, outside = entropy(evaluation.probabilities), entropy(np.asarray(rows.outside, dtype=float))
        yield sections.elsewhere(found.outside, inside, outside, "entropy", "c")
    if found.drift is not None:
        yield sections.moving(found.drift, "c", share="accuracy")
    yield sections.class_cases(found, report.classes, rows, shown_columns(rows), "c")


def _calibrated(report: ClassReport) -> Section:
    evaluation = report.evaluation
    hit, null = evaluation.probabilities.argmax(1) == evaluation.labels, report.scores()
    figures = [
        figure(
            "reliability",
            "Do probabilities hold what they promise?",
            reliability(evaluation.reliability(), prefix="reliability-"),
            "Predictions made with 80% confidence should be right in 80% of cases: dots lie on the diagonal, give or "
            "take the 95% bars of chance. Below it the model is too sure, above it not sure enough.",
        ),
        figure(
            "confidence",
            "How sure is it, and is it right then?",
            histogram(evaluation.probabilities.max(1), hit, prefix="confidence-"),
            "Rows by the probability of their most probable class; orange are those where another class came.",
        ),
    ]
    words = (
        f"Were the probabilities right, chance alone would give a calibration error between "
        f"{number(null['ece_null_low'], '{:.1%}')} and {number(null['ece_null_high'], '{:.1%}')} in nine cases of ten. "
        f"Two tests without bins: {stated(spiegelhalter(evaluation).p_value)} (Spiegelhalter) and "
        f"{stated(kolmogorov(evaluation).p_value)} (Kolmogorov-Smirnov)."
    )
    return Section("Calibration", [words], figures)


def _resolved(report: ClassReport) -> Section:
    evaluation, risk = report.evaluation, selective_risk(report.evaluation)
    figures = [
        figure(
            "risk",
            "What does answering only when sure save?",
            report_plots.risk(risk, prefix="risk-"),
            f"The error rate of the rows that are answered, the surest first. Its mean over shares (AURC) is "
            f"{number(risk.aurc)}, {number(risk.excess)} above the best there could be, the grey line.",
        )
    ]
    if len(report.classes) <= MOST:
        guess = evaluation.probabilities.argmax(1)
        figures.append(
            figure(
                "confusion",
                "Which classes does it take for which?",
                confusion(list(report.classes), evaluation.labels, guess, prefix="confusion-"),
                "Rows are the classes that came, columns those predicted, numbers count test rows; all else than the "
                "diagonal are mistakes.",
            )
        )
    return Section("Sharpness and resolution", (), figures)


def _mended(report: ClassReport) -> Iterator[Section]:
    """What recalibration would change."""
    if not report.remedies:
        return
    rows = []
    for one in report.remedies:
        scores = one.evaluation.scores()
        cells = (one.name, scores["log_loss"], scores["brier"], number(scores["ece"], "{:.1%}"), learned(one))
        rows.append(line(*cells, chosen=one.name == report.advised))
    words = prescribed(report.advised, fitted=report.n_train is not None) or [STAY]
    caption = f"Learned from one half of the rows, measured on {report.remedies[0].to_dict()['rows']:,} others."
    heads = ("Recalibration", "Log loss", "Brier score", "Calibration error", "Learned")
    points = {one.name: one.evaluation.reliability() for one in report.remedies}
    drawn = figure(
        "mended",
        "Before and after",
        report_plots.reliabilities(points, prefix="mended-"),
        "Shares that were right against confidence, on rows that the recalibration has not seen: orange as it is, the "
        "others after it. On the diagonal probabilities hold what they promise.",
    )
    yield Section("Recalibration", words, [drawn], [Table(caption, heads, rows)])


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
