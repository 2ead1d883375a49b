"""`kernelfield compare` ranks models in a table, on a page and in JSON, and writes nothing where it cannot."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from kernelfield.tabular import TableModel
from tests.test_cli import done, houses, run
from tests.test_cli_classes import flowers

PAIR = ["--models", "gp-linear, gp-rbf", "--folds", "2"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    table = houses(40, 0)
    table.loc[3, "price"] = np.nan
    table.to_csv(tmp_path / "houses.csv", index=False)
    return tmp_path / "houses.csv"


def test_models_are_ranked_with_columns_of_every_kind(data: Path, tmp_path: Path) -> None:
    page, record = tmp_path / "r.html", tmp_path / "r.json"
    words = ["--models", "gp-linear,grid,gp-rbf", "--folds", "2", "-o", page, "--json", record]
    result = done("compare", data, "--target", "price", *words)
    content = json.loads(record.read_text())
    names = [one["model"] for one in content["models"]]
    assert sorted(names) == ["gp-linear", "gp-rbf"]
    assert content["rows"] == 39
    assert "city=Rome" in content["features"]
    assert content["provenance"]["data"] == "houses.csv"
    assert (content["provenance"]["seed"], content["provenance"]["folds"]) == (0, 2)
    assert "1 row of" in content["notes"][0]
    said = " ".join(result.stderr.split())
    assert "grid was left out: " in said and "no grid" in said
    assert "column 'age'" in said
    for word in (*names, "training mean", "NLL", "RMSE", "CRPS", "39 rows", "2 folds", content["verdicts"][0]["title"]):
        assert word in result.stdout
    assert result.stdout.index(names[0]) < result.stdout.index(names[1]) < result.stdout.index("training mean")
    assert all(name in page.read_text() for name in (*names, "grid", "price"))


@pytest.mark.slow
def test_the_seed_chooses_the_folds(data: Path, tmp_path: Path) -> None:
    records = []
    for index, seed in enumerate((0, 0, 1)):
        file = tmp_path / f"{index}.json"
        done("compare", data, "--target", "price", *PAIR, "--seed", seed, "--json", file)
        records.append({one["model"]: one["scores"] for one in json.loads(file.read_text())["models"]})
    assert records[0] == records[1]
    assert records[0] != records[2]


def test_classes_are_compared(tmp_path: Path) -> None:
    flowers(40, 0).drop(columns="number").to_csv(tmp_path / "f.csv", index=False)
    words = ["--classify", "--models", "gpc-dirichlet,infinitely-deep", "--folds", "2"]
    result = done("compare", tmp_path / "f.csv", "--target", "kind", *words, "-o", tmp_path / "r.html")
    for word in ("log loss", "Brier", "accuracy", "training shares", "gpc-dirichlet", "infinitely-deep"):
        assert word in result.stdout
    assert (tmp_path / "r.html").read_text().count("<svg ") == 4


def test_without_names_the_zoo_suggests_some(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def suggested(n: int, d: int, *, classes: bool) -> list[str]:
        asked.append((n, d, classes))
        return ["gp-linear", "gp-rbf"]

    monkeypatch.setattr("kernelfield.comparing.suggested", suggested)
    done("compare", data, "--target", "price", "--folds", "2", "--json", tmp_path / "r.json")
    assert asked == [(39, 8, False)]  # size, three cities, day, age, whether it is missing, garden
    assert len(json.loads((tmp_path / "r.json").read_text())["models"]) == 2


REFUSED = {
    "an unknown name": (["--models", "gp,nngb"], "no model is called 'nngb'; did you mean nngp"),
    "a classifier": (["--models", "gp,gpc"], "no model is called 'gpc'; did you mean gp"),
    "one model": (["--models", "gp"], "at least two models, got 'gp'"),
    "no model": (["--models", " , "], "at least two models, got none"),
    "a model twice": (["--models", "gp,gp"], "named more than once"),
    "more folds than rows": (["--models", "gp,ntk", "--folds", "50"], "50 folds of 39 rows leave too little"),
    "the data as output": (["--json", "{data}"], "is to be read already"),
    "one file twice": (["-o", "{out}", "--json", "{out}"], "is to be written already"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_comparison_is_refused_before_any_fit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr(TableModel, "fit", lambda *_: pytest.fail("fitted before the check"))
    words = [word.format(data=data, out=tmp_path / "r") for word in arguments]
    result = run("compare", data, "--target", "price", *words)
    assert result.exit_code == 1
    assert sentence in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == [data]


def test_a_target_that_is_not_there_is_refused_with_those_near(data: Path) -> None:
    result = run("compare", data, "--target", "prise", *PAIR)
    assert (result.exit_code, "did you mean 'price'?" in result.stderr) == (1, True)
    result = run("compare", data, "--target", "city", "--target", "garden", "--classify")
    assert (result.exit_code, "a classifier has one target" in result.stderr) == (1, True)


@pytest.mark.usefixtures("pages_forgotten")
def test_what_pages_need_is_named_before_any_fit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("compare", data, "--target", "price", *PAIR, "-o", tmp_path / "r.html")
    assert result.exit_code == 1
    assert "pip install 'kernelfield[report]'" in result.stderr
    done("compare", data, "--target", "price", *PAIR)


def test_an_interrupt_writes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "r.json"
    old.write_text("old")
    plain, calls = TableModel.fit.__func__, []

    def fit(cls, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(cls, *arguments)

    monkeypatch.setattr(TableModel, "fit", classmethod(fit))
    result = run("compare", data, "--target", "price", *PAIR, "--json", old, "-o", tmp_path / "r.html")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses.csv", "r.json"]
    assert old.read_text() == "old"


def test_several_targets_are_compared_together(tmp_path: Path) -> None:
    table = houses(30, 0).assign(rent=lambda frame: -2 * frame["price"])
    table[["size", "price", "rent"]].to_csv(tmp_path / "t.csv", index=False)
    result = done(
        "compare", tmp_path / "t.csv", "--target", "price", "--target", "rent", *PAIR, "-o", tmp_path / "r.html"
    )
    assert re.search(r"'price' and 'rent': 30 rows", result.stdout)
    assert "price, rent" in (tmp_path / "r.html").read_text()
