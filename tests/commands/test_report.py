"""`kernelfield report` measures models and other programs' predictions, and ends a pipeline where it is told to."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from kernelfield.cli import app
from kernelfield.data.tables import separate
from kernelfield.tabular import TableModel
from tests.test_reporting import table
from tests.uq.test_report import SCHEMA, Page


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    train = separate(table(60, 0)[["x", "site", "y"]], ["y"])
    for name in ("gp-rbf", "gp-linear"):
        TableModel.fit(train, name, 0, {})[0].save(folder / name)
    table(120, 1).to_csv(folder / "test.csv", index=False)
    table(40, 2).assign(x=lambda frame: frame["x"] + 20).to_csv(folder / "far.csv", index=False)
    said = table(150, 3)
    said["m"], said["s"] = said["y"] + 0.4 * np.random.default_rng(0).standard_normal(150), 0.4
    said.to_csv(folder / "said.csv", index=False)
    said.assign(m=said["m"] + 1).to_csv(folder / "worse.csv", index=False)
    return folder


def run(*arguments: object) -> tuple[int, str]:
    """The exit code, and what was said."""
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], terminal_width=400)
    return result.exit_code, " ".join(result.output.split())


def on_model(world: Path, *more: object) -> list[object]:
    return [world / "gp-rbf", "--data", world / "test.csv", "--target", "y", *more]


def on_arrays(world: Path, *more: object) -> list[object]:
    return ["--arrays", world / "said.csv", "--columns", "y=y,mean=m,std=s", *more]


def test_everything_that_can_be_asked_is_answered_and_written(world: Path, tmp_path: Path) -> None:
    page, record, log = tmp_path / "r.html", tmp_path / "r.json", tmp_path / "r.md"
    asked = ["--group", "site", "--time", "day", "--ood", world / "far.csv", "--compare", world / "gp-linear"]
    code, said = run(*on_model(world, *asked, "-o", page, "--json", record, "--markdown", log))
    assert code == 0, said
    content = json.loads(record.read_text())
    jsonschema.validate(content, SCHEMA)
    assert next(one["name"] for one in content["outputs"][0]["columns"]) in ("site", "x", "day")
    assert content["outputs"][0]["drift"]["count"] == content["n_test"] == 120
    assert content["outputs"][0]["outside"]["outside"] == 40
    assert content["comparison"][0]["model"] == str(world / "gp-linear")
    text = " ".join(Page(page.read_text()).text)
    for section in ("Rows from elsewhere", "Over time", "Other models", "Recalibration", "Worst cases"):
        assert section in text
    assert log.read_text().startswith("## gp-rbf: y")


def test_predictions_of_another_program_are_reported(world: Path, tmp_path: Path) -> None:
    page, record = tmp_path / "r.html", tmp_path / "r.json"
    code, said = run(*on_arrays(world, "--compare", world / "worse.csv", "-o", page, "--json", record))
    assert code == 0, said
    content = json.loads(record.read_text())
    assert (content["model"], content["n_train"], content["n_test"]) == ("said", None, 150)
    assert content["scores"]["rmse"] == pytest.approx(0.4, rel=0.2)
    assert content["comparison"][0]["model"] == str(world / "worse.csv")
    assert "tested on 150" in said and "learned" not in said


@pytest.mark.parametrize("make", [on_model, on_arrays])
def test_a_condition_that_holds_ends_with_one_after_all_is_written(make, world: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    code, said = run(*make(world, "-o", page, "--fail-on", "coverage90<0.5", "--fail-on", "rmse > 0.001"))
    assert code == 1
    assert "what must not be is true: 'rmse>0.001' (rmse is 0." in said
    assert page.exists()
    code, said = run(*make(world, "-o", page, "--fail-on", "coverage90<50%"))
    assert code == 0, said


REFUSED = {
    "no layout": (on_arrays, ["--columns", "m,s"], "a layout is word=column"),
    "an unknown metric": (on_model, ["--fail-on", "coverage<0.8"], "did you mean coverage90? It has rmse, mae"),
    "no condition": (on_model, ["--fail-on", "coverage90"], "a condition is a name, one of < <= > >= and a number"),
    "an unknown group": (on_model, ["--group", "town"], "the rows have no column 'town'"),
    "an unknown time": (on_arrays, ["--time", "hour"], "the rows have no column 'hour'"),
    "a time of text": (on_arrays, ["--time", "site"], "column 'site' orders the rows in time"),
    "an absent table": (on_model, ["--ood", "nowhere.csv"], "there is no file nowhere.csv"),
    "an absent rival": (on_model, ["--compare", "nowhere"], "nowhere"),
    "another target": (on_model, ["--target", "x"], "predicts 'y', not 'y' and 'x'"),
    "a page in no folder": (on_model, ["--markdown", "none/r.md"], "does not exist"),
}


@pytest.mark.parametrize(("make", "more", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_requests_are_refused_in_a_sentence_and_nothing_is_written(make, more, words, world, tmp_path) -> None:
    code, said = run(*make(world, "-o", tmp_path / "r.html", *more))
    assert (code, words in said) == (1, True), said
    assert not (tmp_path / "r.html").exists()


def test_a_table_of_the_same_file_name_is_another_one(world: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    pd.read_csv(world / "worse.csv").to_csv(tmp_path / "old" / "said.csv", index=False)
    other, record = tmp_path / "old" / "said.csv", tmp_path / "r.json"
    code, said = run(*on_arrays(world, "--compare", other, "-o", tmp_path / "r.html", "--json", record))
    assert code == 0, said
    content = json.loads(record.read_text())
    assert content["scores"]["rmse"] == pytest.approx(0.4, rel=0.2)
    assert (content["comparison"][0]["model"], content["comparison"][0]["difference"]["low"] > 0) == (str(other), True)


def test_a_model_is_compared_with_a_folder_called_as_it_is(world, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(world)
    code, said = run(*on_model(world, "--compare", "gp-rbf", "-o", tmp_path / "r.html", "--json", tmp_path / "r.json"))
    assert code == 0, said
    pair = json.loads((tmp_path / "r.json").read_text())["comparison"][0]
    assert (pair["model"], pair["difference"]["value"]) == ("gp-rbf (folder)", 0)


SPOILT = {
    "a deviation of zero": ({"s": 0.0}, "1 "),
    "a negative deviation": ({"s": -1.0}, "1 "),
    "a missing mean": ({"m": np.nan}, "1 "),
    "a missing value": ({"y": np.nan}, "1 "),
    "text": ({"m": "many"}, "column 'm' holds 'many' in row 4, which is no number"),
}


@pytest.mark.parametrize(("change", "words"), SPOILT.values(), ids=SPOILT)
def test_predictions_that_are_no_law_are_refused(change, words, world, tmp_path) -> None:
    frame = pd.read_csv(world / "said.csv").astype({"m": object})
    for name, value in change.items():
        frame.loc[3, name] = value
    frame.to_csv(tmp_path / "bad.csv", index=False)
    code, said = run("--arrays", tmp_path / "bad.csv", "--columns", "y=y,mean=m,std=s", "-o", tmp_path / "r.html")
    assert (code, words in said) == (1, True), said


@pytest.mark.parametrize("arguments", [[], ["--arrays", "a.csv", "model"]])
def test_a_model_or_predictions_are_needed_and_not_both(arguments, tmp_path) -> None:
    assert run(*arguments, "-o", tmp_path / "r.html")[0] == 2
