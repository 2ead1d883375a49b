"""The command line does what it says, and refuses with one sentence what it cannot do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import kernelfield
from kernelfield.cli import app
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models import zoo
from kernelfield.tabular import TableModel

SCORES = {"rmse", "mae", "r2", "nll", "crps", "interval90", "coverage90"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def houses(n: int, seed: int) -> pd.DataFrame:
    """A table with numbers, text, dates, truths and gaps; the price is known but for noise 0.1."""
    rng = np.random.default_rng(seed)
    size, city = rng.uniform(0, 4, n), rng.choice(["Bern", "Rome", "Oslo"], n)
    days = rng.integers(0, 1000, n)
    price = np.sin(size) + np.where(city == "Rome", 1.0, 0.0) + days / 1000 + 0.1 * rng.standard_normal(n)
    age = np.where(rng.uniform(size=n) < 0.2, np.nan, rng.uniform(0, 90, n))
    sold = [str(np.datetime64("2020-01-01") + day) for day in days]
    return pd.DataFrame(
        {"size": size, "city": city, "sold": sold, "age": age, "garden": rng.uniform(size=n) < 0.5, "price": price}
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables and a fitted model, that no test changes."""
    folder = tmp_path_factory.mktemp("world")
    train = houses(80, 0)
    train.loc[3, "price"] = np.nan
    train.to_csv(folder / "train.csv", index=False)
    houses(40, 1).to_csv(folder / "test.csv", index=False)
    done("fit", folder / "train.csv", "--target", "price", "-o", folder / "model", "--test-size", "0")
    return folder


def test_a_fit_writes_model_report_and_json_and_says_what_it_did(world: Path, tmp_path: Path) -> None:
    page, record = tmp_path / "r.html", tmp_path / "r.json"
    result = done(
        "fit", world / "train.csv", "--target", "price", "-o", tmp_path / "m", "--report", page, "--json", record
    )
    assert f"1 row of {world / 'train.csv'} left out for want of a target" in result.stderr
    assert "column 'age'" in result.stderr
    assert "learned from 63 rows, tested on 16" in result.stdout
    content = json.loads(record.read_text())
    assert content["model"] == "gp"
    assert (content["n_train"], content["n_test"]) == (63, 16)  # 80 rows, one without a target, a fifth held out
    assert set(content["scores"]) >= SCORES
    assert set(content["seconds"]) == {"fit", "predict"}
    assert content["provenance"]["data"] == "train.csv"
    assert content["provenance"]["seed"] == 0
    assert "noise" in content["hyperparameters"]
    assert page.read_text().lower().startswith("<!doctype html")


def test_predictions_stand_beside_the_columns_of_the_input(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = done("predict", world / "model", world / "test.csv", "-o", out)
    assert "not used, because the fit did not have them: 'price'" in result.stderr
    table, before = pd.read_csv(out), pd.read_csv(world / "test.csv")
    assert list(table) == [*before, "mean", "std", "lower", "upper"]
    pd.testing.assert_frame_equal(table[list(before)], before)
    # For a Gaussian the 90% interval reaches 1.6448536 standard deviations to either side.
    np.testing.assert_allclose(table["upper"] - table["mean"], 1.6448536269514722 * table["std"], rtol=1e-12)
    np.testing.assert_allclose(table["mean"] - table["lower"], 1.6448536269514722 * table["std"], rtol=1e-12)


def test_predictions_are_those_of_the_estimator_on_hand_encoded_columns(world: Path, tmp_path: Path) -> None:
    done("predict", world / "model", world / "test.csv", "-o", tmp_path / "out.csv")
    train, test = (pd.read_csv(world / name).dropna(subset="price") for name in ("train.csv", "test.csv"))

    def encoded(table: pd.DataFrame) -> np.ndarray:
        cities = [table["city"] == city for city in ("Bern", "Oslo", "Rome")]
        days = (pd.to_datetime(table["sold"]) - pd.Timestamp("1970-01-01")).dt.days
        age = table["age"].fillna(train["age"].median())
        return np.column_stack([table["size"], *cities, days, age, table["age"].isna(), table["garden"]]).astype(float)

    oracle = FieldRegressor(zoo.model("gp"), random_state=0).fit(encoded(train), train["price"].to_numpy())
    mean, std = oracle.predict(encoded(test), return_std=True)
    table = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(table["mean"], mean, rtol=1e-9)
    np.testing.assert_allclose(table["std"], std, rtol=1e-9)


def test_a_wider_level_gives_wider_intervals(world: Path, tmp_path: Path) -> None:
    done("predict", world / "model", world / "test.csv", "-o", tmp_path / "a.csv", "--level", "0.5")
    done("predict", world / "model", world / "test.csv", "-o", tmp_path / "b.parquet", "--level", "0.99")
    narrow, wide = pd.read_csv(tmp_path / "a.csv"), pd.read_parquet(tmp_path / "b.parquet")
    np.testing.assert_allclose(narrow["mean"], wide["mean"])
    assert (wide["upper"] - wide["lower"] > 3 * (narrow["upper"] - narrow["lower"])).all()  # 2.576 / 0.674 = 3.8


def test_a_report_on_new_rows_agrees_with_the_predictions(world: Path, tmp_path: Path) -> None:
    page, record, out = tmp_path / "r.html", tmp_path / "r.json", tmp_path / "out.csv"
    done("report", world / "model", "--data", world / "test.csv", "--target", "price", "-o", page, "--json", record)
    done("predict", world / "model", world / "test.csv", "-o", out)
    scores, table = json.loads(record.read_text())["scores"], pd.read_csv(out)
    error = table["price"] - table["mean"]
    nll = 0.5 * np.log(2 * np.pi * table["std"] ** 2) + 0.5 * (error / table["std"]) ** 2
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-9)
    assert scores["nll"] == pytest.approx(np.mean(nll), rel=1e-9)
    assert scores["coverage90"] == pytest.approx(
        np.mean((table["lower"] <= table["price"]) & (table["price"] <= table["upper"]))
    )
    assert scores["rmse"] < 0.3  # noise 0.1; the prices spread over 0.9
    assert "price" in page.read_text()


def test_scores_do_not_depend_on_how_rows_are_cut_into_chunks(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "a.json", tmp_path / "b.json"
    for rows, file in zip((2048, 7), files, strict=True):
        monkeypatch.setattr("kernelfield.tabular.ROWS", rows)
        arguments = ["--data", world / "test.csv", "--target", "price", "-o", tmp_path / "r.html", "--json", file]
        done("report", world / "model", *arguments)
    whole, parts = (json.loads(file.read_text())["scores"] for file in files)
    assert parts == pytest.approx(whole, rel=1e-9)


def test_a_table_of_its_own_can_be_the_test_set(world: Path, tmp_path: Path) -> None:
    files = tmp_path / "fit.json", tmp_path / "report.json"
    arguments = ["--target", "price", "--test", world / "test.csv", "--json", files[0]]
    done("fit", world / "train.csv", "-o", tmp_path / "m", *arguments)
    arguments = ["--data", world / "test.csv", "--target", "price", "-o", tmp_path / "r.html", "--json", files[1]]
    done("report", tmp_path / "m", *arguments)
    fitted, measured = (json.loads(file.read_text()) for file in files)
    assert (fitted["n_train"], fitted["n_test"]) == (79, 40)
    assert fitted["scores"] == measured["scores"]


def test_the_same_seed_gives_the_same_scores_and_another_seed_another_split(world: Path, tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        record = tmp_path / "r.json"
        done("fit", world / "train.csv", "--target", "price", "-o", tmp_path / "m", "--seed", seed, "--json", record)
        found.append(json.loads(record.read_text())["scores"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_without_held_out_rows_there_are_no_scores_and_it_says_so(world: Path, tmp_path: Path) -> None:
    record = tmp_path / "r.json"
    arguments = ["--target", "price", "-o", tmp_path / "m", "--test-size", "0", "--json", record]
    result = done("fit", world / "train.csv", *arguments)
    assert "no row was held out, so there are no scores" in result.stderr
    content = json.loads(record.read_text())
    assert content["scores"] is None
    assert (content["n_train"], content["n_test"], content["seconds"]["predict"]) == (79, 0, None)


def test_several_targets_are_predicted_side_by_side(world: Path, tmp_path: Path) -> None:
    table = pd.read_csv(world / "train.csv")
    table.assign(twice=2 * table["price"] + 1).to_csv(tmp_path / "two.csv", index=False)
    done("fit", tmp_path / "two.csv", "--target", "price", "--target", "twice", "-o", tmp_path / "m")
    done("predict", tmp_path / "m", world / "test.csv", "-o", tmp_path / "out.csv")
    result = pd.read_csv(tmp_path / "out.csv")
    assert list(result)[-8:] == [f"{a}_{y}" for y in ("price", "twice") for a in ("mean", "std", "lower", "upper")]
    np.testing.assert_allclose(result["mean_twice"], 2 * result["mean_price"] + 1, rtol=1e-6)
    np.testing.assert_allclose(result["std_twice"], 2 * result["std_price"], rtol=1e-6)


def test_columns_can_be_left_out(world: Path, tmp_path: Path) -> None:
    table = pd.read_csv(world / "train.csv")
    table.assign(id=[f"house {i}" for i in range(len(table))]).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["fit", tmp_path / "t.csv", "--target", "price", "-o", tmp_path / "m", "--json", tmp_path / "r.json"]
    assert "--drop id" in run(*arguments).stderr
    done(*arguments, "--drop", "id", "--drop", "age")
    features = json.loads((tmp_path / "r.json").read_text())["features"]
    assert features == ["size", "city=Bern", "city=Oslo", "city=Rome", "sold", "garden"]


def test_equal_targets_are_fitted_and_it_says_so(world: Path, tmp_path: Path) -> None:
    pd.read_csv(world / "train.csv").assign(price=3.5).to_csv(tmp_path / "t.csv", index=False)
    result = done("fit", tmp_path / "t.csv", "--target", "price", "-o", tmp_path / "m")
    assert "all targets equal 3.5" in result.stderr


def test_unseen_levels_and_gaps_are_counted(world: Path, tmp_path: Path) -> None:
    table = pd.read_csv(world / "test.csv")
    table.loc[:2, "city"] = "Lima"
    table.loc[5, "size"] = np.nan
    table.to_csv(tmp_path / "new.csv", index=False)
    result = done("predict", world / "model", tmp_path / "new.csv", "-o", tmp_path / "out.csv")
    assert "column 'city': 3 values never seen in the fit and left without a level: 'Lima'" in result.stderr
    assert "column 'size': 1 missing value filled with the median" in result.stderr


def test_every_model_of_the_zoo_is_listed() -> None:
    listing = done("models").stdout
    assert all(name in listing for name in zoo.MODELS)


def test_the_version_is_that_of_the_package() -> None:
    assert done("--version").stdout == f"kernelfield {kernelfield.__version__}\n"


def test_the_demo_compares_models_and_writes_the_best_report(tmp_path: Path) -> None:
    result = done("demo", "--output-dir", tmp_path / "demo")
    content = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert (content["n_train"], content["n_test"]) == (354, 88)
    assert content["scores"]["nll"] < content["baseline"]["nll"]
    assert content["scores"]["r2"] > 0.4  # linear regression has 0.48 in cross-validation
    for word in ("gp-linear", "student-t", "training mean", "RMSE", "NLL", "CRPS", "coverage", content["model"]):
        assert word in result.stdout
    assert (tmp_path / "demo" / "report.html").read_text().lower().startswith("<!doctype html")


FILES = ["-o", "{out}/model", "--report", "{out}/r.html", "--json", "{out}/r.json"]
FIT = ["fit", "{in}/bad.csv", "--target", "y", *FILES]
PREDICT = ["predict", "{out}/model", "{in}/bad.csv", "-o", "{out}/out.csv"]
REPORT = ["report", "{out}/model", "--data", "{in}/bad.csv", "--target", "price", "-o", "{out}/r.html"]
GOOD = "x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(20))
ROW = "size,city,sold,age,garden,price\n1,Rome,2020-05-05,3,True,1\n"

REFUSED = {  # what is wrong: the command, the content of bad.csv, words of the sentence
    "empty file": (FIT, "", ["bad.csv is empty", "header line"]),
    "header without rows": (FIT, "x,y\n", ["2 columns and no rows", "add at least one row"]),
    "binary file": (FIT, bytes(range(256)), ["bad.csv is not UTF-8 text", "save it as"]),
    "ragged rows": (FIT, "x,y\n1,2\n3\n", ["row 2", "1 cell and", "header has 2"]),
    "repeated column": (FIT, "x,y,x\n1,2,3\n", ["more than one column called 'x'", "its own name"]),
    "absent target": (FIT, "x,Y1\n1,2\n2,3\n", ["no column 'y'", "did you mean 'Y1'", "columns are 'x' and 'Y1'"]),
    "text target": (FIT, "x,y\n1,2\n2,high\n", ["target 'y' holds 'high' in row 2", "not a number", "correct"]),
    "infinite target": (FIT, "x,y\n1,2\n2,inf\n", ["target 'y' holds 'inf' in row 2", "infinite"]),
    "no target at all": (FIT, "x,y\n1,\n2,\n", ["every row lacks the target 'y'"]),
    "one row": (FIT, "x,y\n1,2\n", ["at least 2 rows", "got 1", "add rows"]),
    "two rows and a share": (FIT, "x,y\n1,2\n2,3\n", ["leaves 0 to test", "--test-size 0"]),
    "infinite value": (FIT, GOOD + "-inf,1\n", ["column 'x' holds '-inf' in row 21", "infinite"]),
    "text among numbers": (FIT, GOOD + "?,1\n", ["column 'x' holds '?' in row 21", "correct the cell"]),
    "identifiers": (FIT, "id,y\n" + "".join(f"u{i},{i}\n" for i in range(20)), ["column 'id'", "--drop id"]),
    "target alone": (FIT, "y\n1\n2\n", ["no column is left to learn 'y' from"]),
    "unknown model": ([*FIT, "--model", "gb"], GOOD, ["no model is called 'gb'", "gp"]),
    "absent column to drop": ([*FIT, "--drop", "z"], GOOD, ["no column 'z'"]),
    "target dropped": ([*FIT, "--drop", "y"], GOOD, ["'y' cannot be both a target and dropped"]),
    "report without a test": ([*FIT, "--test-size", "0"], GOOD, ["a report needs rows to test on"]),
    "missing file": (["fit", "{in}/bed.csv", *FIT[2:]], GOOD, ["no file", "bed.csv", "'bad.csv'"]),
    "a folder with a bad table": (["fit", "{out}", *FIT[2:]], GOOD, ["out.csv cannot be read as a table"]),
    "a folder without tables": (["fit", "{out}/model", *FIT[2:]], GOOD, ["holds no file that ends in '.parquet'"]),
    "unknown ending": (["fit", "{out}/r.html", *FIT[2:6]], GOOD, ["r.html", ".csv", ".parquet"]),
    "test file absent": ([*FIT, "--test", "{in}/no.csv"], GOOD, ["no file", "no.csv"]),
    "model over a table": ([*FIT, "-o", "{in}/bad.csv"], GOOD, ["bad.csv is a file", "a path that is free"]),
    "model over other files": ([*FIT, "-o", "{in}"], GOOD, ["not a saved model", "a path that is free"]),
    "model in no folder": ([*FIT, "-o", "{out}/a/b"], GOOD, ["does not exist", "make it first"]),
    "report in no folder": ([*FIT, "--report", "{out}/a/r.html"], GOOD, ["does not exist", "make it first"]),
    "report over a folder": ([*FIT, "--report", "{in}"], GOOD, ["is a folder", "name of a file"]),
    "report over the data": ([*FIT, "--report", "{in}/bad.csv"], GOOD, ["is to be read already", "another name"]),
    "report over the json": ([*FIT, "--report", "{out}/r.json"], GOOD, ["is to be written already", "another name"]),
    "report in the model": ([*FIT, "--report", "{out}/model/r.html"], GOOD, ["lies in the folder of the model"]),
    "predict over the data": ([*PREDICT[:4], "{in}/bad.csv"], ROW, ["is to be read already", "another name"]),
    "predict to no table": ([*PREDICT[:4], "{out}/out.txt"], ROW, ["out.txt", ".csv"]),
    "predict into no folder": ([*PREDICT[:4], "{out}/a/out.csv"], ROW, ["does not exist", "make it first"]),
    "predict without a model": (["predict", "{in}/none", *PREDICT[2:]], ROW, ["nothing at", "check the path"]),
    "predict with no model": (["predict", "{in}", *PREDICT[2:]], ROW, ["is not a saved model"]),
    "columns missing": (PREDICT, "Size,city\n1,Rome\n", ["'sold', 'age' and 'garden'", "'Size' instead of 'size'"]),
    "text for a number": (PREDICT, ROW.replace("1,Rome", "big,Rome"), ["'size' holds 'big' in row 1", "fitted on"]),
    "infinity to predict at": (PREDICT, ROW.replace("1,Rome", "inf,Rome"), ["'size' holds 'inf' in row 1"]),
    "no date": (PREDICT, ROW.replace("2020-05-05", "May"), ["'sold' holds 'May' in row 1", "dates"]),
    "columns taken": (PREDICT, "mean,std\n1,2\n", ["already has columns called 'mean' and 'std'", "rename"]),
    "empty file to predict": (PREDICT, "", ["bad.csv is empty"]),
    "report on another target": ([*REPORT, "--target", "size"], ROW, ["predicts 'price', not 'price' and 'size'"]),
    "report without targets": (REPORT, ROW.replace("price", "cost"), ["no column 'price'"]),
}  # fmt: skip


@pytest.fixture
def places(world: Path, tmp_path: Path) -> dict[str, Path]:
    """A folder for input, and one with older outputs, which a failing run must leave as they are."""
    places = {"in": tmp_path / "in", "out": tmp_path / "out"}
    places["in"].mkdir()
    places["out"].mkdir()
    shutil.copytree(world / "model", places["out"] / "model")
    for name in ("r.html", "r.json", "out.csv"):
        (places["out"] / name).write_text(f"an older {name}")
    return places


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(places: dict[str, Path], command: list[str]) -> str:
    """The sentence of a run that must fail, and change nothing."""
    before = contents(places["in"].parent)
    result = run(*(part.format(**places) for part in command))
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert contents(places["in"].parent) == before
    sentences = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(sentences) == 1
    assert sentences[0].startswith("error: ")
    return sentences[0]


@pytest.mark.parametrize(("command", "content", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_with_one_sentence_and_changes_nothing(
    places: dict[str, Path], command: list[str], content: str | bytes, words: list[str]
) -> None:
    (places["in"] / "bad.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    sentence = refused(places, command)
    for word in words:
        assert word in sentence


EARLY = [name for name in REFUSED if name.startswith(("model ", "report over", "report in ", "predict "))]


@pytest.mark.parametrize("name", EARLY)
def test_outputs_are_checked_before_any_work(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (places["in"] / "bad.csv").write_text(GOOD)
    for work in ("fit", "predict", "report"):
        monkeypatch.setattr(TableModel, work, lambda *arguments: pytest.fail("worked before the check"))
    refused(places, REFUSED[name][0])


def test_too_many_rows_are_refused_before_anything_is_allocated(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (places["in"] / "bad.csv").write_text(GOOD)
    for module in ("core.numerics", "models.solver_choice"):
        monkeypatch.setattr(f"kernelfield.{module}.free_memory", lambda device: 1024)
    monkeypatch.setattr("kernelfield.models.solver_choice.TRIFLE", 0)  # a few rows are otherwise not reckoned
    sentence = refused(places, FIT)
    assert "an iterative fit of 16 rows needs about" in sentence  # which takes less memory than an exact one
    assert "SparseProcess" in sentence
    assert "fit a random sample" in sentence


def test_a_model_of_a_newer_version_is_refused(places: dict[str, Path]) -> None:
    (places["in"] / "bad.csv").write_text(ROW)
    model = places["out"] / "model" / "model.json"
    model.write_text(model.read_text().replace('"format_version": 1', '"format_version": 99'))
    assert "format 99" in refused(places, PREDICT)


def test_a_model_that_was_changed_is_refused(places: dict[str, Path]) -> None:
    (places["in"] / "bad.csv").write_text(ROW)
    table = places["out"] / "model" / "table.json"
    table.write_text(table.read_text().replace("Rome", "Roma"))
    assert "table.json was changed since it was saved" in refused(places, PREDICT)


def test_a_model_saved_without_a_table_is_refused(places: dict[str, Path]) -> None:
    (places["in"] / "bad.csv").write_text(ROW)
    kernelfield.save(FieldRegressor(), places["in"] / "bare")
    assert "no text 'table.json' was saved" in refused(places, ["predict", "{in}/bare", *PREDICT[2:]])


def test_an_interrupted_fit_ends_with_130_and_changes_nothing(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    (places["in"] / "bad.csv").write_text(GOOD)
    monkeypatch.setattr(TableModel, "fit", interrupt)
    before = contents(places["in"].parent)
    result = run(*(part.format(**places) for part in FIT))
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert contents(places["in"].parent) == before


USAGE = {
    "no target": ["fit", "a.csv", "-o", "m"],
    "no output": ["predict", "m", "a.csv"],
    "both tests": ["fit", "a.csv", "--target", "y", "-o", "m", "--test", "b.csv", "--test-size", "0.5"],
    "share of one": ["fit", "a.csv", "--target", "y", "-o", "m", "--test-size", "1"],
    "level in percent": ["predict", "m", "a.csv", "-o", "b.csv", "--level", "90"],
    "unknown command": ["train"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_a_misuse_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
