"""Search spaces as text: a TOML or JSON file with a table for each parameter, or short forms on a command line.

    [rate]                              rate=1e-4:0.1:log
    low = 1e-4
    high = 0.1
    log = true

    [depth]                             depth=1:8
    low = 1                             # whole numbers make a whole number, unless type = "float"
    high = 8

    [loss]                              loss=l1,l2
    choices = ["l1", "l2"]

    [gamma]
    low = 0.0
    high = 1.0
    when = {parent = "loss", values = ["l2"]}

`step` makes a grid of numbers. A short form is LOW:HIGH, with :log, :int, :float or :step=NUMBER after it, or
choices with commas between them, which are numbers where all of them look like it.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelfield.bo.space import Condition, Distribution, Space

try:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
except ImportError as error:
    raise ImportError("optimisation needs botorch and optuna; pip install 'kernelfield[bo]'") from error

NUMBER = ("low", "high", "type", "log", "step", "when")
CHOICE = ("choices", "when")
WHEN = ("parent", "values")
TYPES = ("float", "int")
FLAGS = ("log", *TYPES)


def read_space(*given: str) -> Space:
    """The space of a file's name, or of short forms such as "rate=1e-4:0.1:log".

    Errors: ValueError that names the file, the parameter and the value, and says what to write.

    >>> read_space("rate=1e-4:0.1:log", "depth=1:8", "loss=l1,l2").columns
    3
    """
    if len(given) == 1 and "=" not in given[0]:
        return space_file(given[0])
    parameters: dict[str, Distribution] = {}
    for text in given:
        name, equals, form = text.partition("=")
        name = name.strip()
        if not (equals and name and form.strip()):
            raise ValueError(f"{text!r} is no parameter; write NAME=LOW:HIGH or NAME=CHOICE,CHOICE, or give one file")
        if name in parameters:
            raise ValueError(f"the parameter {name!r} is given twice")
        parameters[name] = _short(name, form.strip())
    return Space(parameters)


def space_file(path: str | Path) -> Space:
    """The space that a TOML or JSON file holds.

    Errors: ValueError as above, also for a file that is missing or not readable as such.
    """
    content = _content(Path(path))
    parameters: dict[str, Distribution] = {}
    conditions: dict[str, Condition] = {}
    for name, table in content.items():
        try:
            parameters[name] = _distribution(name, table)
            if "when" in table:
                conditions[name] = _condition(name, table["when"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        return Space(parameters, conditions)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _content(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")])
        hint = f"; did you mean {' or '.join(near)}?" if near else "; write NAME=LOW:HIGH for a space without a file"
        raise ValueError(f"there is no file {path}{hint}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    try:
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        form = "JSON" if path.suffix == ".json" else "TOML"
        raise ValueError(f"{path} is not {form}: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no parameter; write a table for each, such as [rate] with low and high")
    return content


def _distribution(name: str, table: Any) -> Distribution:
    if not isinstance(table, dict):
        raise ValueError(f"the parameter {name!r} must be a table with low and high, or choices, got {table!r}")
    known = CHOICE if "choices" in table else NUMBER
    _require_known(name, table, known)
    if "choices" in table:
        return _choices(name, table["choices"])
    for key in ("low", "high"):
        if key not in table:
            raise ValueError(f"the parameter {name!r} lacks {key!r}; give low and high, or choices")
    if not isinstance(log := table.get("log", False), bool):
        raise ValueError(f"log of {name!r} must be true or false, got {log!r}")
    return _number(name, table["low"], table["high"], table.get("type"), log, table.get("step"))


def _number(name: str, low: Any, high: Any, kind: Any, log: bool, step: Any) -> Distribution:
    """A parameter of numbers; whole where both ends and the step are, unless its type says otherwise."""
    for word, value in {"low": low, "high": high, "step": step}.items():
        optional = word == "step" and value is None
        if not optional and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{word} of {name!r} must be a number, got {value!r}")
    if kind not in (None, *TYPES):
        raise ValueError(f"type of {name!r} must be 'float' or 'int', got {kind!r}")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"the bounds of {name!r} must be finite, the lower one first, got {low:g} and {high:g}")
    if log and low <= 0:
        raise ValueError(f"{name!r} is searched in its logarithm and needs a lower bound above 0, got {low:g}")
    if step is not None and (log or not 0 < step <= max(high - low, 0)):
        raise ValueError(
            f"step of {name!r} must be above 0 and at most {high - low:g}, without log, got {step:g}"
            f"{' with log' if log else ''}"
        )
    numbers = [value for value in (low, high, step) if value is not None]
    if kind is None:
        kind = "int" if all(isinstance(value, int) for value in numbers) else "float"
    if kind == "float":
        return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))
    if any(value != int(value) for value in numbers):
        raise ValueError(f"{name!r} is a whole number and needs whole bounds and steps, got {numbers}")
    return IntDistribution(int(low), int(high), log=log, step=1 if step is None else int(step))


def _choices(name: str, choices: Any) -> CategoricalDistribution:
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"the choices of {name!r} must be a list with at least one entry, got {choices!r}")
    for one in choices:
        if not isinstance(one, str | int | float | bool):
            raise ValueError(f"a choice of {name!r} must be text, a number or true or false, got {one!r}")
    twice = [one for one in choices if choices.count(one) > 1]
    if twice:
        raise ValueError(f"the choices of {name!r} hold {twice[0]!r} more than once")
    return CategoricalDistribution(choices)


def _condition(name: str, when: Any) -> Condition:
    if not isinstance(when, dict):
        raise ValueError(f"when of {name!r} must be {{parent = NAME, values = [...]}}, got {when!r}")
    _require_known(f"{name}.when", when, WHEN)
    if not isinstance(when.get("parent"), str) or not isinstance(when.get("values"), list):
        raise ValueError(f"when of {name!r} must hold the name of its parent and a list of values, got {when!r}")
    return Condition(when["parent"], tuple(when["values"]))


def _require_known(name: str, keys: Iterable[str], known: Sequence[str]) -> None:
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it may have {', '.join(known)}"
            raise ValueError(f"the parameter {name!r} has the unknown key {key!r}; {hint}")


def _short(name: str, form: str) -> Distribution:
    if ":" not in form:
        words = [word.strip() for word in form.split(",")]
        if "" in words:
            raise ValueError(f"the choices of {name!r} hold an empty one: {form!r}")
        return _choices(name, _numbers(words) or words)
    low, high, *words = form.split(":")
    ends = _numbers([low, high])
    if ends is None:
        raise ValueError(f"the bounds of {name!r} must be numbers, got {low!r} and {high!r}")
    step: Any = None
    flags = []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "step" and equals:
            found = _numbers([value])
            step = found[0] if found else value
        elif word in FLAGS:
            flags.append(word)
        else:
            near = difflib.get_close_matches(word, FLAGS)
            hint = f"did you mean {near[0]}?" if near else f"write {', '.join(FLAGS)} or step=NUMBER"
            raise ValueError(f"{name!r} has the unknown word {word!r} after its bounds; {hint}")
    kind = next((word for word in flags if word in TYPES), None)
    return _number(name, ends[0], ends[1], kind, "log" in flags, step)


def _numbers(words: Sequence[str]) -> list[int | float] | None:
    """Words as numbers, whole where they are written so; None where one is none."""
    numbers: list[int | float] = []
    for word in words:
        for kind in (int, float):
            try:
                numbers.append(kind(word))
                break
            except ValueError:
                continue
        else:
            return None
    return numbers
