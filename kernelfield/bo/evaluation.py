"""Evaluations: from what an objective gives back to the numbers of a trial, or to the reason why there are none.

An objective is a function of a dictionary of parameters, or a command. It gives back a number, one number
an objective, or a mapping

    {"values": [0.3, 12.0], "constraints": [-1.0], "noise": [0.01, 0.2]}

where constraints are kept at or below 0, and noise holds the variances of the values. Whatever else
comes, or is raised, ends its own trial and nothing more.

Parent processes and workers read this file; it imports nothing that takes time.
"""

import difflib
import json
import math
import shlex
import string
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Function = Callable[[dict[str, Any]], Any]
KEYS = ("values", "constraints", "noise")
LONGEST = 1000  # characters of a message


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: m values, constraints by name, and m variances if they are known."""

    values: tuple[float, ...]
    constraints: Mapping[str, float] | None = None
    noise: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a trial came to nothing, in a sentence."""

    message: str


def outcome(result: Any, objectives: int) -> Outcome:
    """The numbers in what an objective gave back.

    Errors: ValueError for a value that is no finite number, or too many or too few of them.

    >>> outcome({"values": 0.5, "constraints": [-1.0]}, 1)
    Outcome(values=(0.5,), constraints={'0': -1.0}, noise=None)
    """
    if not isinstance(result, Mapping):
        return Outcome(_values(result, objectives))
    for key in result:
        if key not in KEYS:
            raise ValueError(f"the objective's mapping has the key {key!r}; its keys are {', '.join(KEYS)}")
    if "values" not in result:
        raise ValueError(f"the objective's mapping lacks 'values', it has {', '.join(result) or 'nothing'}")
    constraints, noise = result.get("constraints"), result.get("noise")
    return Outcome(
        _values(result["values"], objectives),
        None if constraints is None else _constraints(constraints),
        None if noise is None else _noise(noise, objectives),
    )


def attempt(function: Function, parameters: Mapping[str, Any], objectives: int) -> Outcome | Failure:
    """Call an objective; a failure is an answer too."""
    try:
        result = function(dict(parameters))
    except (Exception, SystemExit) as error:  # of all kinds, as the function is the user's
        return Failure(shortened(traceback.format_exception_only(error)[-1].strip()))
    try:
        return outcome(result, objectives)
    except ValueError as error:
        return Failure(shortened(str(error)))


def shortened(message: str) -> str:
    """A message that a storage takes."""
    return message if len(message) <= LONGEST else f"{message[: LONGEST - 3]}..."


def target(text: str) -> Function:
    """The function that "module:function" names.

    Errors: ValueError for another form, a module that is not found or fails, or no such function.
    """
    place, colon, attribute = text.partition(":")
    if not (place and colon and attribute):
        raise ValueError(f"the target must be written module:function, such as train:loss, got {text!r}")
    try:
        module = import_module(place)
    except ImportError as error:
        raise ValueError(f"the module {place!r} of the target cannot be imported: {error}") from error
    found: Any = module
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if found is None:
        near = difflib.get_close_matches(attribute, vars(module), cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"the module {place!r} has no function {attribute!r}{hint}")
    if not callable(found):
        raise ValueError(f"{text!r} is no function but {found!r}")
    return found


@dataclass(frozen=True)
class Command:
    """A shell command with a parameter's name in braces wherever its value is to stand.

    The last line of its output holds the values, with spaces or commas between them, or a mapping as
    JSON. A parameter that does not exist beside the others leaves its place empty. {{ and }} are braces.

    Errors: ValueError, when it is held against a space, for names that are not in one of the two.

    >>> Command("./train --lr {lr} --loss {loss}").line({"lr": 0.1, "loss": "l 1"})
    "./train --lr 0.1 --loss 'l 1'"
    """

    template: str

    def fields(self) -> set[str]:
        """Names in braces."""
        try:
            return {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise ValueError(f"the command {self.template!r} has a brace too few or too many: {error}") from error

    def check(self, names: Iterable[str]) -> None:
        """Hold the names in braces against those of the parameters."""
        fields, known = self.fields(), list(names)
        for name in sorted(fields - set(known)):
            near = difflib.get_close_matches(name, known) or known
            raise ValueError(
                f"the command asks for {{{name}}}, which the space lacks; did you mean {' or '.join(near)}?"
            )
        for name in known:
            if name not in fields:
                raise ValueError(f"the command does not use the parameter {name!r}; write {{{name}}} where it belongs")

    def line(self, parameters: Mapping[str, Any]) -> str:
        """The command at a point, its values quoted for the shell."""
        parts = []
        for text, name, form, conversion in string.Formatter().parse(self.template):
            parts.append(text)
            if name is not None and name in parameters:
                value = str(parameters[name]) if conversion == "s" else parameters[name]
                parts.append(shlex.quote(format(value, form or "")))
        return "".join(parts)


def printed(output: str, objectives: int) -> Outcome:
    """The numbers in the last line of what a command printed.

    Errors: ValueError, with the line, where there are none.
    """
    lines = output.strip().splitlines()
    if not lines:
        raise ValueError("the command printed nothing; its last line must hold the value")
    last = lines[-1].strip()
    if last.startswith("{"):
        try:
            return outcome(json.loads(last), objectives)
        except json.JSONDecodeError as error:
            raise ValueError(f"the command's last line is no JSON: {last!r}") from error
    try:
        numbers = [float(word) for word in last.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"the command's last line must hold the value and nothing else, got {last!r}") from None
    return outcome(numbers, objectives)


def _values(given: Any, objectives: int) -> tuple[float, ...]:
    values = _numbers(given, "value")
    if len(values) != objectives:
        raise ValueError(f"the objective gave {_counted(len(values), 'value')}, {objectives} declared: {list(values)}")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"the objective gave {value:g}, which is not a finite number")
    return values


def _constraints(given: Any) -> dict[str, float]:
    """Constraints by name, or by their place, in the order of the names."""
    named = given if isinstance(given, Mapping) else dict(enumerate(_numbers(given, "constraint")))
    numbers = {str(name): _number(value, "constraint") for name, value in named.items()}
    for name, value in numbers.items():
        if math.isnan(value):
            raise ValueError(f"the objective gave nan for the constraint {name!r}")
    return {name: numbers[name] for name in sorted(numbers)}


def _noise(given: Any, objectives: int) -> tuple[float, ...]:
    noise = _numbers(given, "noise")
    if len(noise) not in (1, objectives) or not all(0 < one < math.inf for one in noise):
        raise ValueError(f"noise must be a variance above 0 for each of {objectives} values, got {list(noise)}")
    return noise if len(noise) == objectives else noise * objectives


def _numbers(given: Any, what: str) -> tuple[float, ...]:
    """A number, or several, of whatever library."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return tuple(_number(one, what) for one in given)
    try:
        several = not isinstance(given, str | bytes) and list(given)
    except TypeError:  # a number, or an array without axes
        several = False
    return (_number(given, what),) if several is False else tuple(_number(one, what) for one in several)


def _number(given: Any, what: str) -> float:
    if isinstance(given, str | bytes):
        raise ValueError(f"the objective gave the text {shortened(repr(given))} where a {what} is due")
    try:
        return float(given)
    except (TypeError, ValueError) as error:
        hint = "; does it return what it computed?" if given is None else ""
        raise ValueError(f"the objective gave {shortened(repr(given))} where a {what} is due{hint}") from error


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
