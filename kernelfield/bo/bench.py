"""A benchmark of samplers on problems: many runs, each kept in a file of its own, that can be stopped and gone on with.

    done = bench(cases(["branin"], ["gp", "optuna-gp"], seeds=range(20)), "results", jobs=2)

A case says all that decides a run: the problem, the sampler, the protocol and the seed. A run is written
when it has ended, whole; a case whose file is there is not run again, one that was interrupted begins anew.
All samplers start from the same design for the same problem and seed, a scrambled Sobol sequence, so that
they can be compared seed by seed; cases are run seed by seed too, so that a benchmark that is stopped early
has all samplers measured alike.

A run keeps every value and constraint, and the processor's seconds that each suggestion took, not what
they amount to: that is for `kernelfield.bo.standings`.
"""

import json
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import optuna
import torch
from botorch.exceptions import BotorchError, ModelFittingError
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.trial import Trial, TrialState

from kernelfield.bo.contestants import Protocol, check, posed, sampler
from kernelfield.bo.problems.catalogue import Outcome, Problem
from kernelfield.core.files import write_whole
from kernelfield.core.version import __version__

PACKAGES = ("botorch", "gpytorch", "numpy", "optuna", "scipy", "torch")
SENTENCES = 10  # different warnings that a run keeps
# What a model, a problem or an optional package can do to a run; all else is a mistake in the code.
FAILURES = (
    ValueError,
    ArithmeticError,
    OSError,
    MemoryError,
    ImportError,
    RuntimeError,
    BotorchError,
    ModelFittingError,
    OptunaError,
)


@dataclass(frozen=True)
class Case:
    """All that decides a run."""

    problem: str
    sampler: str
    protocol: Protocol
    seed: int

    @property
    def place(self) -> Path:
        """Its file, from the folder of the benchmark."""
        one = self.protocol
        numbers = f"{one.name}-{one.design}-{one.batch}-{one.trials}"
        return Path(_file_name(self.problem), numbers, _file_name(self.sampler), f"{self.seed:04}.json")

    def __str__(self) -> str:
        return f"{self.problem}, {self.sampler}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Run:
    """What came of a case.

    directions   of the objectives
    values       of each trial, one an objective in the problem's units; None where one was not a number
    constraints  of each trial, feasible where all are at most 0
    seconds      of the processor for the suggestion of each trial, without its evaluation
    optimum, reference, best_hypervolume   of the problem
    versions     of the packages
    notes        warnings, and how often each came
    """

    case: Case
    directions: tuple[str, ...]
    values: Sequence[Sequence[float] | None]
    constraints: Sequence[Sequence[float]]
    seconds: Sequence[float]
    optimum: float | None = None
    reference: tuple[float, ...] | None = None
    best_hypervolume: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """Errors: ValueError for a text that is no run."""
        try:
            content = json.loads(text)
            case = content.pop("case")
            protocol = Protocol(**case.pop("protocol"))
            content["reference"] = None if content["reference"] is None else tuple(content["reference"])
            content["directions"] = tuple(content["directions"])
            return cls(Case(protocol=protocol, **case), **content)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not a run of a benchmark: {error!r}") from error


Watch = Callable[[Case, Run | str], None]  # is told a case, and its run or why there is none


def cases(
    problems: Sequence[str],
    samplers: Sequence[str],
    *,
    seeds: Iterable[int],
    protocol: str = "fixed",
    trials: int | None = None,
) -> list[Case]:
    """Every sampler on every problem for every seed, seed by seed.

    Errors: ValueError for unknown names, with those near them, one given twice, or none.

    >>> [str(one) for one in cases(["branin"], ["gp", "random"], seeds=[0])]
    ['branin, gp, seed 0', 'branin, random, seed 0']
    """
    for what, names in (("problem", problems), ("surrogate or sampler", samplers)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise ValueError(f"name each {what} once, and at least one; got {', '.join(names) or 'none'}")
    for name in samplers:
        check(name)
    protocols = {question: Protocol.of(protocol, question, trials=trials) for question in problems}
    return [
        Case(question, name, protocols[question], seed) for seed in seeds for question in problems for name in samplers
    ]


def bench(
    todo: Sequence[Case], folder: str | Path, *, jobs: int = 1, watch: Watch = lambda case, outcome: None
) -> tuple[list[Run], dict[Case, str]]:
    """The runs of cases, those that are in the folder read and the others made; and why some came to nothing.

    jobs  processes, each with one thread; all of one stop when this is interrupted

    Errors: ValueError for a file in the folder that holds something else; OSError if it cannot be written.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    runs = {case: read(root / case.place, case) for case in todo if (root / case.place).exists()}
    failed: dict[Case, str] = {}
    left = [case for case in todo if case not in runs]
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch=jobs)
    for case, outcome in parallel(joblib.delayed(_attempt)(case, root) for case in left):
        if isinstance(outcome, Run):
            runs[case] = outcome
        else:
            failed[case] = outcome
        watch(case, outcome)
    return [runs[case] for case in todo if case in runs], failed


def load(folder: str | Path) -> list[Run]:
    """All runs of a folder, in the order of their files' names.

    Errors: ValueError for a folder without any, or a file that holds something else.
    """
    runs = [read(path) for path in sorted(Path(folder).glob("*/*/*/*.json"))]
    if not runs:
        raise ValueError(f"the folder {folder} holds no runs; run the benchmark first, or give its folder")
    return runs


def read(path: Path, case: Case | None = None) -> Run:
    """The run that a file holds, which must be of the case if that is given.

    Errors: ValueError for another content, with the name of the file.
    """
    try:
        found = Run.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove the file to have it run again") from error
    if case is not None and found.case != case:
        raise ValueError(f"{path} holds the run of another case, {found.case}; remove the file to have it run again")
    return found


def run(case: Case) -> Run:
    """One run, in this process.

    Errors: those of the problem and of the sampler.
    """
    question = _problem(case.problem)
    space, protocol = question.space, case.protocol
    if space.conditions:
        raise ValueError(f"{case.problem} has parameters that exist under conditions, which no benchmark here takes")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            directions=list(question.directions),
            sampler=sampler(case.sampler, question, protocol, seed=case.seed),
        )
        design = space.decode(space.scattered(protocol.design, case.seed))
        for parameters in design:
            study.enqueue_trial(parameters)
        outcomes: list[Outcome] = []
        seconds: list[float] = []
        while len(outcomes) < protocol.trials:
            designed = protocol.design - len(outcomes)
            count = designed if designed > 0 else min(protocol.batch, protocol.trials - len(outcomes))
            asked = []
            start = time.process_time()
            for _ in range(count):
                asked.append(study.ask(dict(space.parameters)))
            seconds += [0.0 if designed > 0 else (time.process_time() - start) / count] * count
            outcomes += [_told(study, trial, question) for trial in asked]
    return Run(
        case,
        question.directions,
        [one.values if all(map(math.isfinite, one.values)) else None for one in outcomes],
        [one.constraints for one in outcomes],
        seconds,
        question.optimum,
        question.reference,
        question.best_hypervolume,
        {"kernelfield": __version__} | {name: version(name) for name in PACKAGES},
        _notes(caught),
    )


def _told(study: optuna.Study, trial: Trial, question: Problem) -> Outcome:
    outcome = question(trial.params)
    if not all(map(math.isfinite, (*outcome.values, *outcome.constraints))):
        study.tell(trial, state=TrialState.FAIL)
        return Outcome((math.nan,) * len(outcome.values), ())
    for index, value in enumerate(outcome.constraints):
        trial.set_constraint(f"c{index}", value)
    study.tell(trial, outcome.values)
    return outcome


def _notes(caught: Sequence[warnings.WarningMessage]) -> dict[str, int]:
    """First lines of warnings, but for those that call a part of Optuna experimental, the commonest first."""
    lines = [
        str(one.message).strip().partition("\n")[0]
        for one in caught
        if not issubclass(one.category, ExperimentalWarning)
    ]
    return dict(Counter(lines).most_common(SENTENCES))


def _attempt(case: Case, root: Path) -> tuple[Case, Run | str]:
    """A case in a process of its own: with one thread, and its run written."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = run(case)
        place = root / case.place
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, found.to_json())
    except FAILURES as error:
        return case, f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}"
    finally:
        torch.set_num_threads(threads)
    return case, found


@lru_cache(maxsize=4)
def _problem(name: str) -> Problem:
    return posed(name)


def _file_name(text: str) -> str:
    return text.replace(":", ",").replace("/", "_")
