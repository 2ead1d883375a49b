"""Spaces are read from files and from short forms alike, and what is wrong with them is said with its place."""

import json
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kernelfield.bo.space import Condition
from kernelfield.bo.space_file import read_space, space_file

FILE = """
[rate]
low = 1e-4
high = 0.1
log = true

[depth]
low = 1
high = 8

[width]
low = 8
high = 64
step = 8

[share]
low = 0
high = 1
type = "float"

[loss]
choices = ["l1", "l2"]

[gamma]
low = 0.0
high = 1.0
step = 0.25
when = {parent = "loss", values = ["l2"]}
"""
MEANT = {
    "rate": FloatDistribution(1e-4, 0.1, log=True),
    "depth": IntDistribution(1, 8),
    "width": IntDistribution(8, 64, step=8),
    "share": FloatDistribution(0, 1),
    "loss": CategoricalDistribution(["l1", "l2"]),
    "gamma": FloatDistribution(0, 1, step=0.25),
}
TABLES = {
    "rate": {"low": 1e-4, "high": 0.1, "log": True},
    "depth": {"low": 1, "high": 8},
    "width": {"low": 8, "high": 64, "step": 8},
    "share": {"low": 0, "high": 1, "type": "float"},
    "loss": {"choices": ["l1", "l2"]},
    "gamma": {"low": 0.0, "high": 1.0, "step": 0.25, "when": {"parent": "loss", "values": ["l2"]}},
}
SHORT = [
    "rate=1e-4:0.1:log",
    "depth=1:8",
    "width=8:64:step=8",
    "share=0:1:float",
    "loss=l1,l2",
    "gamma=0.0:1:step=0.25",
]


def test_toml_and_json_hold_the_same_space(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(FILE)
    (tmp_path / "s.json").write_text(json.dumps(TABLES))
    for name in ("s.toml", "s.json"):
        made = read_space(str(tmp_path / name))
        assert made.parameters == MEANT
        assert made.conditions == {"gamma": Condition("loss", ("l2",))}


def test_short_forms_hold_all_but_conditions() -> None:
    made = read_space(*SHORT)
    assert made.parameters == MEANT
    assert made.conditions == {}
    kinds = read_space("a=1,2", "b=1,2.5", "c=1,x", "d=only", "e=-3:-1", "f=1e3:1e5:int:log")
    assert kinds.parameters == {
        "a": CategoricalDistribution([1, 2]),
        "b": CategoricalDistribution([1, 2.5]),
        "c": CategoricalDistribution(["1", "x"]),
        "d": CategoricalDistribution(["only"]),
        "e": IntDistribution(-3, -1),
        "f": IntDistribution(1000, 100000, log=True),
    }


BAD_TABLES = {
    "no table": ('a = "0..1"', "'a' must be a table with low and high, or choices, got '0..1'"),
    "no bound": ("[a]\nlow = 0", "'a' lacks 'high'"),
    "inverted": ("[a]\nlow = 2\nhigh = 1", "bounds of 'a' must be finite, the lower one first, got 2 and 1"),
    "infinite": ("[a]\nlow = 0\nhigh = inf", "must be finite"),
    "text": ('[a]\nlow = "0"\nhigh = 1', "low of 'a' must be a number, got '0'"),
    "true": ("[a]\nlow = false\nhigh = 1", "low of 'a' must be a number, got False"),
    "log of zero": ("[a]\nlow = 0\nhigh = 1\nlog = true", "needs a lower bound above 0, got 0"),
    "log as text": ('[a]\nlow = 1\nhigh = 2\nlog = "yes"', "log of 'a' must be true or false, got 'yes'"),
    "a near key": ("[a]\nlow = 0\nhihg = 1", "'a' has the unknown key 'hihg'; did you mean high?"),
    "a far key": ("[a]\nlow = 0\nhigh = 1\nq = 1", "unknown key 'q'; it may have low, high, type, log, step, when"),
    "a type": ('[a]\nlow = 0\nhigh = 1\ntype = "real"', "type of 'a' must be 'float' or 'int', got 'real'"),
    "a broken whole number": ('[a]\nlow = 0.5\nhigh = 3\ntype = "int"', "'a' is a whole number and needs whole bounds"),
    "a step too long": ("[a]\nlow = 0\nhigh = 1\nstep = 2", "step of 'a' must be above 0 and at most 1"),
    "a step of log": ("[a]\nlow = 1\nhigh = 9\nstep = 2\nlog = true", "got 2 with log"),
    "no choices": ("[a]\nchoices = []", "choices of 'a' must be a list with at least one entry, got []"),
    "a choice twice": ('[a]\nchoices = ["x", "x"]', "hold 'x' more than once"),
    "a list of lists": ("[a]\nchoices = [[1]]", "must be text, a number or true or false, got [1]"),
    "bounds and choices": ("[a]\nchoices = [1]\nlow = 0", "unknown key 'low'; it may have choices, when"),
    "when as text": ('[a]\nlow=0\nhigh=1\nwhen = "b"', "when of 'a' must be {parent = NAME, values = [...]}, got 'b'"),
    "when of nothing": ('[a]\nlow=0\nhigh=1\nwhen = {parent = "b"}', "the name of its parent and a list of values"),
    "when of none": (
        '[a]\nlow=0\nhigh=1\nwhen = {parent = "b", values = [1]}',
        "the condition 'a' on 'b' must join two parameters",
    ),
    "no parameter": ("", "holds no parameter"),
    "no TOML": ("[a", "is not TOML: "),
}


@pytest.mark.parametrize(("text", "sentence"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_wrong_file_is_refused_with_its_name_and_the_remedy(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        space_file(path)
    assert sentence in str(raised.value)
    assert str(raised.value).startswith(str(path))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"there is no file .*spade\.toml; did you mean space\.toml\?"):
        read_space(str(tmp_path / "spade.toml"))
    with pytest.raises(ValueError, match="write NAME=LOW:HIGH for a space without a file"):
        read_space(str(tmp_path / "qq"))
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        space_file(tmp_path / "space.toml")
    (tmp_path / "space.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        space_file(tmp_path / "space.json")


BAD_FORMS = {
    "no name": (["=1:2"], "'=1:2' is no parameter; write NAME=LOW:HIGH"),
    "no form": (["a=1:2", "b"], "'b' is no parameter"),
    "twice": (["a=1:2", "a=1:3"], "'a' is given twice"),
    "words": (["a=low:high"], "bounds of 'a' must be numbers, got 'low' and 'high'"),
    "inverted": (["a=2:1"], "the lower one first, got 2 and 1"),
    "a near word": (["a=1:2:lgo"], "unknown word 'lgo' after its bounds; did you mean log?"),
    "a far word": (["a=1:2:x"], "unknown word 'x' after its bounds; write log, float, int or step=NUMBER"),
    "a step of words": (["a=1:2:step=x"], "step of 'a' must be a number, got 'x'"),
    "an empty choice": (["a=x,,y"], "hold an empty one: 'x,,y'"),
}


@pytest.mark.parametrize(("given", "sentence"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_a_wrong_short_form_is_refused_with_the_remedy(given: list[str], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_space(*given)
    assert sentence in str(raised.value)
