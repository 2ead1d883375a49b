"""What a benchmark runs by name: samplers, problems, protocols and suites.

Names take settings after colons: "ackley:dimensions=3" is a problem, "ensemble:members=5" a surrogate,
"gp:acquisition=qlog_nei" one with another acquisition function.

    any name that `kernelfield models` lists    that surrogate, in FieldSampler
    botorch                                     BoTorch's default; see `kernelfield.bo.rivals`
    optuna-gp, optuna-tpe                       Optuna's GPSampler and TPESampler
    random                                      points at random, each by itself

A protocol says how many points are evaluated. "fixed" is ours: 2 (d + 1) points of a design, at most 20,
then one at a time until there are 20 + 10 d trials, at most 100. "paper" is that of Li, Rudner & Wilson
(2024), whose design and batches differ from problem to problem; of its problems the coverage of cells is not here,
as its data are not to be had.
"""

import ast
import difflib
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from kernelfield.bo.fitting import recipe
from kernelfield.bo.optuna import FieldSampler
from kernelfield.bo.problems.catalogue import PROBLEMS, Problem, problem
from kernelfield.bo.rivals import Proposing, default, joint
from kernelfield.core.contracts import Model
from kernelfield.models.zoo import MODELS

MOST = 100  # trials by default
PROTOCOLS = ("fixed", "paper")
RIVALS = ("botorch", "optuna-gp", "optuna-tpe", "random")
PAPER: dict[str, tuple[int, int, int]] = {  # the design, the batch and the number of batches of each problem
    "branin": (10, 10, 9),
    "hartmann6": (10, 10, 19),
    "ackley": (10, 10, 19),
    "branin-currin": (10, 5, 19),
    "dtlz1": (10, 10, 9),
    "dtlz5": (10, 5, 20),
    "brusselator": (5, 1, 30),
    "interferometer": (10, 10, 10),
    "oil-sorbent": (100, 10, 10),
    "pest-control": (20, 4, 25),
    "lunar-lander": (50, 50, 10),
    "polynomial": (100, 10, 25),
    "network": (100, 10, 50),
    "distillation": (100, 10, 25),
}
SUITES: dict[str, tuple[str, ...]] = {
    "bnnbo": tuple(PAPER),
    "quality": ("branin", "hartmann6", "ackley", "levy", "constrained-hartmann6", "hartmann6-mixed"),
    "quick": (
        "branin",
        "hartmann6",
        "ackley:dimensions=3",
        "constrained-branin",
        "hartmann6-mixed",
        "branin-currin",
    ),
}


@dataclass(frozen=True)
class Protocol:
    """How a run goes: `design` trials at given points, then batches until there are `trials`.

    Errors: ValueError for numbers that make no run.
    """

    name: str
    design: int
    batch: int
    trials: int

    def __post_init__(self) -> None:
        if self.design < 1 or self.batch < 1:
            raise ValueError(f"a design and a batch have at least one point, got {self.design} and {self.batch}")
        if self.trials <= self.design:
            raise ValueError(
                f"{self.trials} trials leave none beside the design, which has {self.design}; ask for more trials"
            )

    @classmethod
    def of(cls, name: str, question: str, *, trials: int | None = None) -> "Protocol":
        """The protocol of a name for a problem, with other than its own number of trials if that is given.

        Errors: ValueError for an unknown name, or a problem that the paper does not have.

        >>> Protocol.of("fixed", "branin")
        Protocol(name='fixed', design=6, batch=1, trials=40)
        """
        kind, _ = named(question)
        match name:
            case "fixed":
                d = len(posed(question).space.parameters)
                return cls(name, min(20, 2 * (d + 1)), 1, min(MOST, 20 + 10 * d) if trials is None else trials)
            case "paper" if kind in PAPER:
                design, batch, count = PAPER[kind]
                return cls(name, design, batch, design + batch * count if trials is None else trials)
            case "paper":
                raise ValueError(f"the paper does not have the problem {kind!r}; use 'fixed', or {', '.join(PAPER)}")
        raise ValueError(f"protocol must be {' or '.join(map(repr, PROTOCOLS))}, got {name!r}")


def suite(name: str) -> tuple[str, ...]:
    """The problems of a suite.

    Errors: ValueError for an unknown name, with those that there are.
    """
    if name not in SUITES:
        raise ValueError(f"no suite is called {name!r}; there are {', '.join(SUITES)}")
    return SUITES[name]


def named(text: str) -> tuple[str, dict[str, Any]]:
    """A name and its settings.

    Errors: ValueError for a setting without a value.

    >>> named("ackley:dimensions=3")
    ('ackley', {'dimensions': 3})
    """
    name, *parts = text.split(":")
    settings = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"settings of {name!r} are written NAME:setting=value, got {text!r}")
        settings[key] = _value(value)
    return name, settings


def posed(text: str) -> Problem:
    """The problem of a name with its settings.

    Errors: ValueError for an unknown name, with those near it, or an unknown setting.
    """
    name, settings = named(text)
    return problem(name, **settings) if settings or name not in PROBLEMS else PROBLEMS[name]


def check(text: str) -> None:
    """Errors: ValueError for an unknown sampler, with those near it, or settings that it does not have."""
    name, settings = named(text)
    if name in RIVALS:
        if settings:
            raise ValueError(f"{name} has no settings here, got {settings}; write {name!r} alone")
        return
    if name not in MODELS:
        everything = [*MODELS, *RIVALS]
        near = difflib.get_close_matches(name, everything) or everything
        raise ValueError(f"no surrogate or sampler is called {name!r}; did you mean {' or '.join(near)}?")
    _surrogate(text)


def sampler(text: str, question: Problem, protocol: Protocol, *, seed: int) -> BaseSampler:
    """The sampler of a name for a problem.

    Errors: those of `check`.
    """
    check(text)
    name, settings = named(text)
    space, reference = question.space, _turned(question)
    match name:
        case "random":
            return RandomSampler(seed=seed)
        case "optuna-tpe":
            return TPESampler(seed=seed, n_startup_trials=protocol.design, constant_liar=protocol.batch > 1)
        case "optuna-gp":
            return GPSampler(seed=seed, n_startup_trials=protocol.design)
    if protocol.name == "paper":
        make = None if name == "botorch" else partial(_surrogate, text)
        return Proposing(partial(joint, make, reference=reference), space, batch=protocol.batch, seed=seed)
    if name == "botorch":
        return Proposing(partial(default, reference=reference), space, batch=protocol.batch, seed=seed)
    return FieldSampler(
        _surrogate(text),
        acquisition=settings.get("acquisition", "auto"),
        space=space,
        startup_trials=protocol.design,
        reference=question.reference,
        seed=seed,
    )


def _surrogate(text: str) -> Model:
    name, settings = named(text)
    model = recipe(name)
    own = {key: value for key, value in settings.items() if key != "acquisition"}
    return model.set_params(**own) if own else model


def _turned(question: Problem) -> tuple[float, ...] | None:
    """The reference point with more being better."""
    if question.reference is None:
        return None
    pairs = zip(question.directions, question.reference, strict=True)
    return tuple(value if direction == "maximize" else -value for direction, value in pairs)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
