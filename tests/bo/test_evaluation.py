"""What objectives give back is numbers, or a sentence on why not."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernelfield.bo.evaluation import LONGEST, Command, Failure, Outcome, attempt, outcome, printed, target
from tests.bo.objectives import leaves, valley

NUMBERS = {
    "a float": 0.5,
    "a NumPy number": np.float32(0.5),
    "an array without axes": np.array(0.5),
    "an array": np.array([0.5]),
    "a tensor": torch.tensor(0.5),
    "a tensor with an axis": torch.tensor([0.5]),
    "a list": [0.5],
    "a tuple": (0.5,),
    "a mapping": {"values": 0.5},
    "a mapping of a list": {"values": [0.5]},
}


@pytest.mark.parametrize("given", NUMBERS.values(), ids=NUMBERS)
def test_a_number_of_any_library_is_a_value(given: Any) -> None:
    assert outcome(given, 1) == Outcome((0.5,))


def test_a_mapping_holds_constraints_and_noise_too() -> None:
    given = {"values": (1, 2), "constraints": {"b": -1, "a": np.inf}, "noise": 0.1}
    made = outcome(given, 2)
    assert made == Outcome((1.0, 2.0), {"a": math.inf, "b": -1.0}, (0.1, 0.1))
    assert list(made.constraints or ()) == ["a", "b"]  # the same order in every trial
    assert outcome({"values": 1, "constraints": [3.0, -1.0]}, 1).constraints == {"0": 3.0, "1": -1.0}


BAD = {
    "nan": (math.nan, "gave nan, which is not a finite number"),
    "infinite": (-math.inf, "gave -inf"),
    "text": ("0.5", "gave the text \"'0.5'\" where a value is due"),
    "text in a list": (["0.5"], "gave the text"),
    "nothing": (None, "gave None where a value is due; does it return what it computed?"),
    "too many": ([1.0, 2.0], "gave 2 values, 1 declared: [1.0, 2.0]"),
    "none": ([], "gave 0 values, 1 declared"),
    "an object": (object(), "where a value is due"),
    "complex": (1j, "gave 1j where a value is due"),
    "an unknown key": ({"value": 1.0}, "has the key 'value'; its keys are values, constraints, noise"),
    "no values": ({"noise": 1.0}, "lacks 'values', it has noise"),
    "nothing in a mapping": ({}, "it has nothing"),
    "a constraint of nan": ({"values": 1.0, "constraints": {"size": math.nan}}, "gave nan for the constraint 'size'"),
    "noise of zero": ({"values": 1.0, "noise": 0.0}, "noise must be a variance above 0"),
    "too much noise": ({"values": 1.0, "noise": [1.0, 2.0]}, "for each of 1 values, got [1.0, 2.0]"),
}


@pytest.mark.parametrize(("given", "sentence"), BAD.values(), ids=BAD)
def test_anything_else_is_a_failure_with_its_sentence(given: Any, sentence: str) -> None:
    made = attempt(lambda parameters: given, {}, 1)
    assert isinstance(made, Failure)
    assert sentence.replace("\"'0.5'\"", "'0.5'") in made.message


def test_what_is_raised_is_a_failure_with_its_message() -> None:
    assert attempt(lambda parameters: 1 / 0, {}, 1) == Failure("ZeroDivisionError: division by zero")
    assert attempt(leaves, {}, 1) == Failure("SystemExit: 3")
    assert attempt(valley, {"x": 0.8}, 1) == Outcome((0.25,))

    def talkative(parameters: dict[str, Any]) -> float:
        raise ValueError("x" * 10_000)

    assert len(attempt(talkative, {}, 1).message) == LONGEST  # type: ignore[union-attr]


def test_an_interrupt_is_no_failure() -> None:
    def interrupted(parameters: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(interrupted, {}, 1)


def test_the_function_has_a_dictionary_of_its_own() -> None:
    parameters = {"x": 0.5}
    attempt(lambda given: given.pop("x"), parameters, 1)
    assert parameters == {"x": 0.5}


def test_a_target_is_a_module_and_a_function() -> None:
    assert target("tests.bo.objectives:valley") is valley
    assert target("pathlib:Path.cwd")() == Path.cwd()  # type: ignore[call-arg]


TARGETS = {
    "no colon": ("train", "must be written module:function, such as train:loss, got 'train'"),
    "no function": ("train:", "must be written module:function"),
    "no such module": ("trian:loss", "the module 'trian' of the target cannot be imported: No module named 'trian'"),
    "a near name": ("tests.bo.objectives:vally", "no function 'vally'; did you mean valley?"),
    "no such name": ("tests.bo.objectives:qqqq", "no function 'qqqq'"),
    "no function but a number": ("tests.bo.objectives:LINE", "is no function but"),
}


@pytest.mark.parametrize(("text", "sentence"), TARGETS.values(), ids=TARGETS)
def test_what_is_no_target_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        target(text)
    assert sentence in str(raised.value)


def test_a_module_that_fails_is_refused_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_objective.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'broken_objective' of the target cannot be imported: .*not_there_at_all"):
        target("broken_objective:f")
    assert "broken_objective" not in sys.modules


def test_values_are_quoted_for_the_shell_and_formatted() -> None:
    command = Command("run {{a}} --name {name} --x={x:.2f}")
    assert command.line({"name": "a b; rm $HOME", "x": 1 / 3}) == "run {a} --name 'a b; rm $HOME' --x=0.33"
    assert command.line({"x": 1}) == "run {a} --name  --x=1.00"  # one that does not exist leaves its place


COMMANDS: dict[str, tuple[str, str]] = {
    "an unknown name": ("run {rat}", "asks for {rat}, which the space lacks; did you mean rate?"),
    "nothing near": ("run {qq} {rate}", "did you mean rate or size?"),
    "one that is not used": ("run {rate}", "does not use the parameter 'size'; write {size}"),
    "a brace too many": ("run {rate} {", "a brace too few or too many"),
    "an attribute": ("run {rate.real} {size}", "asks for {rate.real}"),
}


@pytest.mark.parametrize(("template", "sentence"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_and_a_space_must_go_together(template: str, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        Command(template).check(["rate", "size"])
    assert sentence in str(raised.value)


PRINTED: dict[str, tuple[str, int, Callable[..., bool]]] = {
    "the last line": ("epoch 1\nloss\n0.25\n\n", 1, lambda made: made == Outcome((0.25,))),
    "two numbers": ("0.25, 3e-2\n", 2, lambda made: made == Outcome((0.25, 0.03))),
    "JSON": ('{"values": [1], "constraints": [-2]}', 1, lambda made: made.constraints == {"0": -2.0}),
}


@pytest.mark.parametrize(("output", "count", "right"), PRINTED.values(), ids=PRINTED)
def test_the_last_line_of_a_command_holds_its_values(output: str, count: int, right: Callable[..., bool]) -> None:
    assert right(printed(output, count))


UNREADABLE = {
    "nothing": ("\n", "printed nothing"),
    "words": ("loss: 0.5", "must hold the value and nothing else, got 'loss: 0.5'"),
    "too many": ("1 2", "gave 2 values, 1 declared"),
    "nan": ("nan", "gave nan"),
    "broken JSON": ("{1", "is no JSON: '{1'"),
}


@pytest.mark.parametrize(("output", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_other_output_is_refused_with_the_line(output: str, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        printed(output, 1)
    assert sentence in str(raised.value)
