"""SearchReport: what an optimisation found and whether its surrogate is to be trusted, as one HTML page or as JSON.

    report = SearchReport(course, title="learning rate", surrogate="gp")
    report.to_html()    a self-contained page, to be read from top to bottom
    report.to_dict()    the same content in numbers

The page needs matplotlib and jinja2 (`pip install 'kernelfield[report]'`), the numbers do not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np

from kernelfield.uq.calibration import CONFIDENCE, band, curve, histogram
from kernelfield.uq.record import plain
from kernelfield.uq.scores import LEVEL, Evaluation
from kernelfield.uq.search import Course
from kernelfield.uq.verdict import FEWEST, Verdict, compared

RULE = "always predicting the mean and deviation of the trials before"
LATE = 0.1  # of the finished trials: a gain within the last of them says that more may follow
MANY = 0.2  # of the trials: so many failures are a fault of the search space or of the objective


@dataclass(frozen=True, eq=False)
class Slice:
    """The posterior of the function along one parameter, the others as in the best trial.

    grid       k values of the parameter: numbers, or choices
    mean, std  (k, m), in units of the objectives
    """

    parameter: str
    grid: Sequence[Any]
    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self) -> None:
        shapes = np.shape(self.mean), np.shape(self.std)
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != len(self.grid):
            raise ValueError(f"a slice of {len(self.grid)} values needs mean and std (k, m), got {shapes}")


@dataclass(frozen=True, eq=False)
class SearchReport:
    """The content of a report on an optimisation.

    course           its trials
    title            of the study
    surrogate        name of the model that suggested them
    slices           of the posterior about the best trial
    importances      shares of the parameters in what varies, by name
    hyperparameters  as `Surrogate.hyperparameters` gives them
    provenance       as `kernelfield.uq.report.provenance` gives it
    notes            sentences that the reader should know

    Errors: ValueError if slices or importances are of no parameter of the course.
    """

    course: Course
    title: str = "optimisation"
    surrogate: str = "surrogate"
    slices: Sequence[Slice] = ()
    importances: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, float | list[float]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = {parameter.name for parameter in self.course.parameters}
        unknown = [name for name in (*self.importances, *(one.parameter for one in self.slices)) if name not in known]
        if unknown:
            raise ValueError(f"slices and importances must be of parameters of the course, got {unknown[0]!r}")
        m = len(self.course.directions)
        if any(one.mean.shape[1] != m for one in self.slices):
            raise ValueError(f"a slice needs a column for each of {m} objectives")

    def verdicts(self) -> list[Verdict]:
        """What was found, whether the surrogate was honest and of any use, and whether trials failed."""
        return [outcome(self.course), *self._of_surrogate(), *failures(self.course)]

    def _of_surrogate(self) -> Iterator[Verdict]:
        several = len(self.course.directions) > 1
        for index, objective in enumerate(self.course.objectives):
            made = self.course.evaluations[index]
            if made is None:
                continue
            heard, rule = self.course.baseline(index)
            each = [honesty(made)]
            if rule is not None:
                each.append(
                    replace(gain := compared(made.rows(heard).crps, rule.crps, "CRPS", RULE), title=_named(gain))
                )
            for one in each:
                yield replace(one, title=f"{objective}: {_lower(one.title)}") if several else one

    def to_dict(self) -> dict[str, object]:
        """The content in plain numbers, lists and text; strict JSON, where null is what has no finite value."""
        course = self.course
        content = {
            "title": self.title,
            "objectives": [self._objective(index) for index in range(len(course.directions))],
            "parameters": [asdict(parameter) for parameter in course.parameters],
            "verdicts": [asdict(verdict) for verdict in self.verdicts()],
            "best": course.best,
            "best_so_far": course.best_so_far if len(course.directions) == 1 else None,
            "optimum": course.optimum,
            "regret": course.regret,
            "front": course.front,
            "reference": course.corner,
            "hypervolume": course.hypervolume,
            "counts": course.counts,
            "importances": dict(self.importances),
            "slices": [vars(one) for one in self.slices],
            "trials": [_trial(course, index) for index in range(len(course.params))],
            "surrogate": self.surrogate,
            "hyperparameters": dict(self.hyperparameters),
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }
        return {name: _written(plain(value)) for name, value in content.items()}

    def _objective(self, index: int) -> dict[str, object]:
        course, made = self.course, self.course.evaluations[index]
        named = {"name": course.objectives[index], "direction": course.directions[index]}
        if made is None:
            return named | {"scores": None, "baseline": None, "coverage": None, "calibration": None, "pit": None}
        over_time = course.coverage(index)
        _, rule = course.baseline(index)
        return named | {
            "scores": made.scores(),
            "baseline": None if rule is None else rule.scores(),
            "coverage": None if over_time is None else asdict(over_time),
            "calibration": asdict(curve(made)),
            "pit": asdict(histogram(made)),
        }

    def to_html(self) -> str:
        """The content as one page that asks nothing of the network.

        Errors: ImportError, with the remedy, without matplotlib or jinja2.
        """
        # Its packages are optional; all else here works without them.
        return import_module("kernelfield.uq.search_page").render(self)


def outcome(course: Course) -> Verdict:
    """What the optimisation found, and whether the last trials still brought something."""
    finished, counted = np.flatnonzero(course.finished), np.flatnonzero(course.counted)
    if not len(finished):
        counts = ", ".join(f"{number} {state}" for state, number in course.counts.items())
        return Verdict("bad", "No trial has a finite value", f"Of {len(course.params):,} trials: {counts}.")
    if not len(counted):
        found = f"None of {len(finished):,} finished trials keeps all constraints"
        return Verdict("bad", "No trial keeps the constraints", f"{found}.")
    title, gained, known = _single(course) if len(course.directions) == 1 else _several(course)
    since = int(np.sum(finished > gained))
    kept = f" {len(counted):,} of them keep the constraints." if course.constraints is not None else ""
    found = f"The last gain came at trial {gained}; {since:,} of {len(finished):,} finished trials came after it.{kept}"
    if since < LATE * len(finished):
        return Verdict("open", f"{title}, still improving", f"{known}{found} More trials may find better.")
    return Verdict("good", title, f"{known}{found}")


def _single(course: Course) -> tuple[str, int, str]:
    """What was found, the trial that found it, and how far it is from what is known."""
    best = int(course.order[0])
    title = f"Best value {course.values[best, 0]:.4g}, at trial {best}"
    known = "" if course.regret is None else f"Its regret is {course.regret[-1]:.3g}. "
    return title, best, known


def _several(course: Course) -> tuple[str, int, str]:
    one = len(course.front) == 1
    title = f"{len(course.front):,} trial{'' if one else 's'} that no other dominates"
    if course.hypervolume is None:
        return title, int(course.front.max()), ""
    share = f", {course.hypervolume[-1] / course.optimum:.1%} of the largest known" if course.optimum else ""
    known = f"The front has the hypervolume {course.hypervolume[-1]:.4g}{share}. "
    return title, int(np.argmax(course.hypervolume)) if course.hypervolume[-1] > 0 else int(course.front.max()), known


def honesty(made: Evaluation) -> Verdict:
    """Whether the surrogate's intervals held as many trials as they promised."""
    n, share = len(made.y), float(made.coverage([LEVEL])[0, 0])
    low, high = (float(end) for end in band(n, LEVEL))
    found = f"The surrogate's 90% intervals held {share:.0%} of {n:,} trial{'' if n == 1 else 's'}"
    allowed = f"of an honest surrogate chance allows {low:.0%} to {high:.0%} ({CONFIDENCE:.0%} band)"
    if n < FEWEST:
        return Verdict("open", "Too few predictions to judge the surrogate", f"{found}; {allowed}.")
    if low <= share <= high:
        return Verdict("good", "The surrogate is honest", f"{found}; {allowed}.")
    word = "overconfident" if share < low else "underconfident"
    return Verdict("bad", f"The surrogate is {word}", f"{found}: {word}; {allowed}.")


def failures(course: Course) -> Iterator[Verdict]:
    """Whether trials failed; nothing if none did."""
    failed = course.counts.get("failed", 0)
    if failed:
        ended = len(course.params) - course.counts.get("running", 0)
        share = failed / ended
        grade = "bad" if share >= MANY else "open"
        title = f"{failed:,} trial{'' if failed == 1 else 's'} failed"
        yield Verdict(grade, title, f"That is {share:.0%} of {ended:,} that ended; their messages are below.")


def _named(gain: Verdict) -> str:
    """Of what the verdict speaks, where it says that something is better or worse."""
    return f"The surrogate is {_lower(gain.title)}" if gain.title.endswith("than the baseline") else gain.title


def _lower(title: str) -> str:
    return f"{title[:1].lower()}{title[1:]}"


def _trial(course: Course, index: int) -> dict[str, object]:
    def of(array: np.ndarray | None) -> object:
        return None if array is None else array[index]

    return {
        "number": index,
        "state": course.states[index],
        "params": dict(course.params[index]),
        "values": course.values[index],
        "feasible": bool(course.feasible[index]),
        "constraints": of(course.constraints),
        "mean": of(course.means),
        "std": of(course.stds),
        "acquisition": of(course.acquisition),
        "seconds": of(course.seconds),
        "message": course.messages[index],
    }


def _written(value: object) -> object:
    """What JSON has no form for, such as a choice that is an object, as text."""
    match value:
        case dict():
            return {name: _written(item) for name, item in value.items()}
        case list():
            return [_written(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
