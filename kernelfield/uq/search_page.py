"""Page of an optimisation: words here, figures in `search_plots`, layout in `search.html.j2`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from kernelfield.uq import search_plots
from kernelfield.uq.calibration import curve, histogram
from kernelfield.uq.markup import figure, written
from kernelfield.uq.page import choices
from kernelfield.uq.plots import calibration, uniformity
from kernelfield.uq.scores import LEVEL, Evaluation
from kernelfield.uq.search import Course
from kernelfield.uq.search_report import SearchReport
from kernelfield.uq.search_tables import best_rows, caption, headings, messages, spoken
from kernelfield.uq.words import REGRESSION, number

POINTS = 1500  # drawn in a figure; shared among objectives, so that a page stays below 1.5 MB
LEAST_POINTS = 200
LINES = 400  # of trials across parallel axes
RAILS = 12  # parallel axes of parameters: more could not be read
BARS = 20  # of importances, and best lines across parallel axes
CUTS = 12  # slices, shared among objectives
COLUMNS = 8  # parameters in the table of trials
HIGHLIGHTED = 0.05  # of the trials, where one objective has no front
MESSAGES = 30  # different ones
PLAIN = {"words": "", "scores": (), "wide": False, "small": False}  # a section, unless it says otherwise
EXPLAINED = (
    "Means over {trials} that were predicted before they ran and have three finished ones before them. The baseline "
    "predicts the mean and standard deviation of those before. Lower is better unless said otherwise."
)


def render(report: SearchReport) -> str:
    """The page of a report on an optimisation."""
    course = report.course
    ranked = leading(report)
    columns, failed = ranked[:COLUMNS], messages(course)
    rows = list(best_rows(course, columns))
    provenance = {"surrogate": report.surrogate} | {name: spoken(value) for name, value in report.provenance.items()}
    return written(
        "search.html.j2",
        {"verdicts": report.verdicts(), "notes": report.notes, "provenance": provenance},
        title=report.title,
        facts=_facts(course),
        sections=[PLAIN | one for one in _sections(report, ranked) if one["figures"]],
        headings=headings(course, columns),
        rows=rows,
        ranking=caption(course, len(rows), len(columns)),
        messages=failed[:MESSAGES],
        failed=_failed(len(failed)),
        choices=list(choices(report.hyperparameters, [parameter.name for parameter in course.parameters])),
    )


def leading(report: SearchReport) -> list[str]:
    """The names of the parameters, the most important first; those of no known importance as they came."""
    names = [parameter.name for parameter in report.course.parameters]
    return sorted(names, key=lambda name: -report.importances.get(name, -np.inf))


def _facts(course: Course) -> str:
    counts = ", ".join(f"{count:,} {state}" for state, count in course.counts.items()) or "none yet"
    aims = ", ".join(f"{verb} {name}" for verb, name in zip(course.directions, course.objectives, strict=True))
    time = ""
    if course.seconds is not None and np.isfinite(course.seconds).any():
        spent = course.seconds[np.isfinite(course.seconds)]
        time = f" They took {number(float(spent.sum()))} s, {number(float(np.median(spent)))} s in the median."
    of = f"{_many(len(course.parameters), 'parameter')}; {aims}"
    return f"{_many(len(course.params), 'trial')} ({counts}) of {of}.{time}"


def _failed(different: int) -> str:
    rest = f" The first {MESSAGES} of {different:,} different ones." if different > MESSAGES else ""
    return f"What trials said that ended without a finite value, each message once.{rest}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _sections(report: SearchReport, ranked: Sequence[str]) -> Iterator[dict[str, Any]]:
    course, m = report.course, len(report.course.directions)
    most = max(POINTS // m, LEAST_POINTS)
    yield {"name": "What was found", "figures": list(_found(course))}
    for index, name in enumerate(course.objectives):
        made = course.evaluations[index]
        title = "Was the surrogate right?" if m == 1 else f"Was the surrogate right about {name}?"
        if made is not None:
            yield {"name": title, "figures": list(_surrogate(course, index, made, most)), **_scores(course, index)}
    if course.finished.any() and course.parameters:
        yield {"name": "Parameters", "figures": [_parallel(course, ranked[:RAILS])], "wide": True}
    if report.importances:
        yield {"name": "Which parameters matter?", "figures": [_importance(report, ranked)]}
    yield _slices(report, ranked)
    yield {"name": "Course of the search", "figures": list(_traces(course))}


def _found(course: Course) -> Iterator[dict[str, str]]:
    """What was found over time, and of several objectives the trade-offs between them."""
    broke = " Crosses broke a constraint." if course.constraints is not None else ""
    if len(course.directions) == 1 and course.finished.any():
        values = np.where(course.finished, course.values[:, 0], np.nan)
        drawn = search_plots.progress(
            values, course.feasible, course.best_so_far, course.signs[0], course.objectives[0], prefix="progress-"
        )
        words = "Each dot is a trial, the line the best so far. Arrows at the edge stand for values beyond it."
        yield figure("progress", "Does it still improve?", drawn, words + broke)
    volume, regret = course.hypervolume, course.regret
    if volume is not None and course.corner is not None:
        corner = ", ".join(number(float(value)) for value in course.corner)
        known = "; dashed is the largest known" if course.optimum is not None else ""
        words = f"The volume between the front and the reference point ({corner}), which never falls{known}."
        drawn = search_plots.volume(volume, course.optimum, prefix="volume-")
        yield figure("volume", "Does the front still advance?", drawn, words)
    if regret is not None and np.isfinite(regret).any():
        what = "best value so far" if volume is None else "hypervolume"
        words = f"How far the {what} is from the known optimum {number(course.optimum)}, on a logarithmic scale."
        yield figure("regret", "How far is it from the optimum?", _regret(course, regret), words)
    if 2 <= len(course.directions) <= 3 and course.finished.any():
        for pair in combinations(range(len(course.directions)), 2):
            yield _tradeoff(course, pair, broke)


def _regret(course: Course, regret: np.ndarray) -> str:
    return search_plots.gap(regret, "regret" if len(course.directions) == 1 else "missing volume", prefix="regret-")


def _tradeoff(course: Course, pair: tuple[int, int], broke: str) -> dict[str, str]:
    two, done = list(pair), np.flatnonzero(course.finished)
    plane = search_plots.Plane(
        course.values[done][:, two],
        course.counted[done],
        np.isin(done, course.front),
        course.signs[two],
        [course.objectives[axis] for axis in two],
    )
    flat = len(course.directions) == 2 and course.corner is not None
    name = f"front{pair[0]}{pair[1]}"
    drawn = search_plots.tradeoff(plane, course.corner if flat else None, prefix=f"{name}-")
    aim = " and ".join(f"{course.directions[axis]} {course.objectives[axis]}" for axis in two)
    edge = ", the line the edge of what they dominate" if flat else ""
    words = f"To {aim}: blue are the trials that no other dominates in all objectives{edge}.{broke}"
    return figure(name, "What is the trade-off?", drawn, words)


def _surrogate(course: Course, index: int, made: Evaluation, most: int) -> Iterator[dict[str, str]]:
    """What was predicted of one objective, against what came."""
    few = f" ({most:,} of {len(made.y):,} trials, drawn at random)" if len(made.y) > most else ""
    trials, over_time, sign = course.predicted(index), course.coverage(index), float(course.signs[index])
    yield figure(
        f"o{index}foresight",
        "Were predictions near what was observed?",
        search_plots.foresight(made, sign, most=most, prefix=f"o{index}foresight-"),
        "Predictions from before each trial ran, the later the stronger. Dots should lie near the diagonal; the 90% "
        f"intervals that do not cross it have missed and are orange. Trials far worse than most leave the frame{few}.",
    )
    yield figure(
        f"o{index}surprise",
        "Does it learn from its errors?",
        search_plots.surprise(trials, made, most=most, prefix=f"o{index}surprise-"),
        "Errors in units of the predicted standard deviation. Nine in ten should stay in the shaded band, above zero "
        f"as often as below, late as well as early; what is beyond the edge is drawn on it{few}.",
    )
    if over_time is not None:
        yield figure(
            f"o{index}trust",
            "Could it be trusted at the time?",
            search_plots.trust(over_time, promised=LEVEL, prefix=f"o{index}trust-"),
            "The share of trials so far whose value lay inside its 90% interval. It should stay in the shaded 95% band "
            "of chance: below it the surrogate is overconfident, above it underconfident.",
        )
    yield figure(
        f"o{index}calibration",
        "Do all its intervals hold what they promise?",
        calibration(curve(made), prefix=f"o{index}calibration-"),
        "Over all trials: the line should stay on the diagonal, give or take the shaded 95% band of chance.",
    )
    yield figure(
        f"o{index}pit",
        "Where did values fall in their predicted laws?",
        uniformity(histogram(made), prefix=f"o{index}pit-"),
        "Bars should be level, give or take the shaded 95% band: a U means laws too narrow, a hump too wide, a slope "
        "a bias.",
    )


def _scores(course: Course, index: int) -> dict[str, Any]:
    """A table of scores for a section, where the baseline can speak of some trials."""
    made, (heard, rule) = course.evaluations[index], course.baseline(index)
    if made is None or rule is None:
        return {}
    own, other = made.rows(heard).scores(), rule.scores()
    rows = [
        {"label": label, "meaning": meaning, "model": number(own[name], form), "baseline": number(other[name], form)}
        for name, label, meaning, form in REGRESSION
    ]
    return {"scores": rows, "explained": EXPLAINED.format(trials=_many(int(heard.sum()), "trial"))}


def _parallel(course: Course, names: Sequence[str]) -> dict[str, str]:
    """Parameters and objectives of the trials side by side, the best in front."""
    done = np.flatnonzero(course.finished)
    m = len(course.directions)
    best = course.order[: min(max(1, round(HIGHLIGHTED * len(done))), BARS)] if m == 1 else _spread(course.front)
    if len(done) > LINES:
        others = np.random.default_rng(0).choice(np.setdiff1d(done, best), LINES - len(best), replace=False)
        done = np.sort(np.concatenate([best, others]))
    by_name = {parameter.name: parameter for parameter in course.parameters}
    shown = [by_name[name] for name in names]
    places = np.array([[_place(parameter, course.params[trial]) for parameter in shown] for trial in done.tolist()])
    places = places.reshape(len(done), len(shown))
    rails = [search_plots.rail(parameter) for parameter in shown]
    for j, name in enumerate(course.objectives):
        usual = search_plots.near(course.values[course.finished, j], float(course.signs[j]))
        low, high = float(usual.min()), float(usual.max())
        at = np.clip((course.values[done, j] - low) / (high - low), 0, 1) if high > low else np.full(len(done), 0.5)
        places = np.column_stack([places, at])
        rails.append(search_plots.ends(name, low, high))
    svg = search_plots.parallel(rails, places, np.isin(done, best), prefix="parallel-")
    some = f"{len(best)} of the {len(course.front):,}" if len(best) < len(course.front) else "those"
    which = f"{some} that no other dominates" if m > 1 else "those that came out best"
    few = f" {len(done):,} of {int(course.finished.sum()):,} trials." if len(done) < course.finished.sum() else ""
    total = len(course.parameters)
    left = f" The {len(names)} most important of {total:,} parameters." if total > len(names) else ""
    words = f"A line is a trial; orange are {which}. Axes of objectives end where most trials do.{few}{left}"
    return figure("parallel", "Where are good trials?", svg, words)


def _spread(front: np.ndarray) -> np.ndarray:
    """At most so many trials of a front as lines can be told apart, from one end to the other."""
    return front[np.unique(np.linspace(0, len(front) - 1, BARS).round().astype(int))] if len(front) else front


def _place(parameter: Any, params: Mapping[str, Any]) -> float:
    return parameter.place(params[parameter.name]) if parameter.name in params else np.nan


def _importance(report: SearchReport, ranked: Sequence[str]) -> dict[str, str]:
    names = [name for name in ranked if name in report.importances][:BARS]
    left = len(report.importances) - len(names)
    rest = f" {left:,} of less importance are left out." if left else ""
    drawn = search_plots.shares({name: report.importances[name] for name in names}, prefix="importance-")
    words = f"The share of each parameter in what makes trials differ.{rest}"
    return figure("importance", "Importance of parameters", drawn, words)


def _slices(report: SearchReport, ranked: Sequence[str]) -> dict[str, Any]:
    """Slices of the posterior, those of the most important parameters first."""
    course, m = report.course, len(report.course.directions)
    done = np.flatnonzero(course.finished)
    by_name = {parameter.name: parameter for parameter in course.parameters}
    chosen = sorted(report.slices, key=lambda one: ranked.index(one.parameter))[: max(CUTS // m, 3)]
    figures = []
    for order, one in enumerate(chosen):
        parameter = by_name[one.parameter]
        at = np.array([_place(parameter, course.params[trial]) for trial in done.tolist()])
        best = np.nan if course.best is None else _place(parameter, course.params[course.best])
        grid = np.array([parameter.place(value) for value in one.grid])
        for j, objective in enumerate(course.objectives):
            values = course.values[done, j]
            there = np.isfinite(at)
            made = search_plots.Cut(grid, one.mean[:, j], one.std[:, j], at[there], values[there], best)
            prefix = f"slice{order}o{j}-"
            svg = search_plots.cut(made, parameter, objective, most=LEAST_POINTS, prefix=prefix)
            scale = ", on a log scale" if parameter.kind == "log" else ""
            figures.append(figure(prefix[:-1], parameter.name, svg, f"{objective} along {parameter.name}{scale}"))
    left = f" The {len(chosen)} most important of {len(report.slices):,}." if len(chosen) < len(report.slices) else ""
    words = (
        "The posterior along one parameter, the others as in the best trial, which is dashed: mean and shaded 90% "
        "interval of the function. Dots are trials; they differ in the other parameters too, and need not lie on the "
        f"line.{left}"
    )
    return {"name": "What the surrogate believes", "figures": figures, "words": words, "small": True}


def _traces(course: Course) -> Iterator[dict[str, str]]:
    if course.acquisition is not None and np.isfinite(course.acquisition).any():
        drawn = search_plots.trace(course.acquisition, course.finished, "acquisition", prefix="acquisition-")
        words = "The acquisition function at each trial before it ran: it falls as there is less to be gained. "
        words += "Orange are trials that did not finish."
        yield figure("acquisition", "How much was hoped for?", drawn, words)
    if course.seconds is not None and np.isfinite(course.seconds).any():
        drawn = search_plots.trace(course.seconds, course.finished, "seconds", prefix="seconds-")
        words = "The time of each trial; orange are those that did not finish."
        yield figure("seconds", "How long did trials take?", drawn, words)
