"""Page: the content of a report as HTML. Words here, layout in `report.html.j2`, figures in `plots`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelfield.uq.calibration import curve, histogram
from kernelfield.uq.plots import calibration, predictions, resolution, uniformity
from kernelfield.uq.scores import Evaluation

try:
    import jinja2
    from markupsafe import Markup
except ImportError as error:
    raise ImportError("reports need matplotlib and jinja2; pip install 'kernelfield[report]'") from error

POINTS = 2000  # drawn in a figure; shared among outputs, so that a page stays below 1.5 MB
LEAST_POINTS = 200
EXPLAINED = (
    "Means over the test set{}. The baseline always predicts the mean and standard deviation of the training targets; "
    "the gain is the share of its score that the model saves. Lower is better unless said otherwise."
)
SCORES = (  # name, as written, what it says, format
    ("crps", "CRPS", "how far the whole predicted law is from the value, in units of the target", ""),
    ("nll", "NLL", "negative log density of the value, in nats", ""),
    ("rmse", "RMSE", "root mean square error of the predicted mean", ""),
    ("mae", "MAE", "mean absolute error of the predicted mean", ""),
    ("r2", "R²", "share of the variance explained; higher is better", "{:.3f}"),
    ("interval90", "Interval score", "width of the 90% intervals and a price for each miss", ""),
    ("coverage90", "Coverage", "share of values inside the 90% intervals; best at 90%", "{:.1%}"),
    ("sharpness90", "Interval width", "mean width of the 90% intervals; smaller is better if coverage holds", ""),
)


def render(content: Mapping[str, Any], evaluation: Evaluation) -> str:
    """The page of `Report.to_dict()`, with figures of the evaluation that it summarises."""
    most = max(POINTS // len(content["outputs"]), LEAST_POINTS)
    sections = [
        {
            "name": output["name"],
            "verdicts": output["verdicts"],
            "scores": score_rows(output),
            "figures": list(_figures(evaluation.output(index), f"o{index}", most)),
        }
        for index, output in enumerate(content["outputs"])
    ]
    return fill(
        content, sections, score_rows(content), EXPLAINED.format(", then over outputs" if len(sections) > 1 else "")
    )


def fill(
    content: Mapping[str, Any], sections: Sequence[Mapping[str, Any]], overall: Sequence[Mapping[str, str]], words: str
) -> str:
    """The template's page: a section of figures each, the overall scores, and words that explain them."""
    return written(
        "report.html.j2",
        content,
        sections=sections,
        overall=overall,
        explained=words,
        choices=list(choices(content["hyperparameters"], content["features"])),
    )


def written(template: str, content: Mapping[str, Any], **more: Any) -> str:
    """A template of this folder, filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template).render(content, **more)


def number(value: object, form: str = "") -> str:
    """As a reader wants it: in `form` or four digits, a true minus, a dash for what has no value.

    >>> number(-0.123456), number(48211.7), number(None), number(12)
    ('−0.1235', '48,212', '–', '12')
    """
    match value:
        case None:
            return "\N{EN DASH}"
        case float():
            return (form.format(value) if form else _four_digits(value)).replace("-", "\N{MINUS SIGN}")
        case int() if not isinstance(value, bool):
            return f"{value:,}"
        case _:
            return str(value)


def _four_digits(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:#.4g}".rstrip(".")


def score_rows(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of a table of scores: the model's, the baseline's and what was gained."""
    return [
        {
            "label": label,
            "meaning": meaning,
            "model": number(content["scores"][name], form),
            "baseline": number(content["baseline"][name], form),
            "gain": _gain(name, content),
        }
        for name, label, meaning, form in SCORES
    ]


def _gain(name: str, content: Mapping[str, Any]) -> str:
    if name in content["skill"]:
        return number(content["skill"][name], "{:+.1%}")
    own, other = content["scores"][name], content["baseline"][name]
    if name != "nll" or own is None or other is None:
        return ""
    return number(other - own, "{:+.3f} nats")


def choices(chosen: Mapping[str, Any], features: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Hyperparameters by name, each with its entries, named by the features if there is one each."""
    for name, value in chosen.items():
        if not isinstance(value, list):
            yield name, [("", number(value))]
        elif len(value) == len(features):
            yield name, [(feature, number(entry)) for feature, entry in zip(features, value, strict=True)]
        else:
            yield name, [(str(index), number(entry)) for index, entry in enumerate(value, start=1)]


def _figures(evaluation: Evaluation, prefix: str, most: int) -> Iterator[dict[str, str]]:
    """Figures of one output, each with a sentence on how to read it."""
    few = f" ({most:,} of {len(evaluation.y):,} points, drawn at random)" if len(evaluation.y) > most else ""

    def figure(name: str, title: str, svg: str, caption: str) -> dict[str, str]:
        return {"id": f"{prefix}{name}-caption", "title": title, "svg": Markup(svg), "caption": caption}

    yield figure(
        "calibration",
        "Do intervals hold what they promise?",
        calibration(curve(evaluation), prefix=f"{prefix}calibration-"),
        "The line should stay on the diagonal, give or take the shaded 95% band of chance: below it intervals "
        "are too narrow, above it too wide.",
    )
    yield figure(
        "pit",
        "Where do values fall in their predicted laws?",
        uniformity(histogram(evaluation), prefix=f"{prefix}pit-"),
        "Bars should be level, give or take the shaded 95% band: a U means laws too narrow, a hump too wide, a slope "
        "a bias; one bar in twenty leaves the band by chance.",
    )
    yield figure(
        "predictions",
        "Are predictions near what was observed?",
        predictions(evaluation, prefix=f"{prefix}predictions-", most=most),
        "Dots should lie near the diagonal; the 90% intervals that do not cross it have missed and are drawn in "
        f"orange{few}.",
    )
    # A Student-t law of two degrees of freedom or fewer has intervals but no standard deviation.
    if evaluation.std.max() < float("inf"):
        yield figure(
            "resolution",
            "Does the model know when it is unsure?",
            resolution(evaluation, prefix=f"{prefix}resolution-", most=most),
            "Errors should grow with their predicted standard deviation: the diamonds, root mean square errors of "
            f"groups of equal size, should follow the dashed diagonal{few}.",
        )
