"""`kernelfield calibrate` makes the intervals of a saved model honest, and says by how much."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from kernelfield.commands import tables
from kernelfield.commands.calibrate import ELSEWHERE, OFFERED, PROBABILITIES, calibrate
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrations import METHODS
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process
from kernelfield.reporting import examine
from kernelfield.tabular import load_table, part
from kernelfield.uq.remedies import CHOICES, CLASS_CHOICES
from tests.test_cli import houses
from tests.test_cli_classes import flowers

app = typer.Typer()
for command in (calibrate, tables.fit, tables.predict):
    app.command()(command)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


NEW, TEST, REPORTED = 900, 3000, 400  # rows
CHANCE = 6 * (0.09 / NEW + 0.09 / TEST) ** 0.5  # six standard errors of a share of 90% among both


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is far too sure of itself, as its noise is held too small, and tables; no test changes them."""
    folder = tmp_path_factory.mktemp("world")
    houses(80, 0).to_csv(folder / "train.csv", index=False)
    new = houses(NEW + 1, 1)
    new.loc[5, "price"] = np.nan
    new.to_csv(folder / "new.csv", index=False)
    houses(TEST, 2).to_csv(folder / "test.csv", index=False)
    done("fit", folder / "train.csv", "--target", "price", "-o", folder / "good", "--test-size", "0")
    model = load_table(folder / "good")
    frame = model.encoding.apply(houses(80, 0).drop(columns="price")).frame
    sure = Process(noise=1e-3, learn_noise=False, restarts=1, steps=20)
    object.__setattr__(model, "estimator", FieldRegressor(sure, random_state=0).fit(frame, houses(80, 0)["price"]))
    model.save(folder / "model")
    return folder


def coverage(folder: Path, model: Path, out: Path) -> float:
    done("predict", model, folder / "test.csv", "-o", out)
    table = pd.read_csv(out)
    return float(((table["lower"] <= table["price"]) & (table["price"] <= table["upper"])).mean())


@pytest.mark.parametrize("method", OFFERED)
def test_intervals_become_honest_and_the_report_measures_them(world: Path, tmp_path: Path, method: str) -> None:
    new, words = tmp_path / "new", ["--column", "city"] if method == "mondrian" else []
    result = done("calibrate", world / "model", "--data", world / "new.csv", "-o", new, "--method", method, *words)
    assert "1 row of" in result.stderr and "left out for want of a target" in result.stderr
    assert f"{NEW} rows" in result.stdout
    for word in ("90% coverage", "before", "after", "NLL", "interval score"):
        assert word in result.stdout
    before, after = coverage(world, world / "model", tmp_path / "a.csv"), coverage(world, new, tmp_path / "b.csv")
    assert abs(after - 0.9) < CHANCE < abs(before - 0.9)

    model, table = load_table(new), pd.read_csv(tmp_path / "b.csv")[:REPORTED]
    problem, _ = tables.separated(world / "test.csv", ["price"], [], model.encoding.text)
    held = part(problem, np.arange(REPORTED))
    found = model.report(held)
    inside = (table["lower"] <= table["price"]) & (table["price"] <= table["upper"])
    scores = found.scores()
    assert scores["coverage90"] == pytest.approx(inside.mean(), abs=1.5 / REPORTED)  # a value may lie on an end
    assert np.isfinite([scores[name] for name in ("nll", "crps", "interval90", "rmse")]).all()
    assert np.isnan(model.latent(held.features)).all()
    np.testing.assert_allclose(model.doubt(held.features)[:, 0], table["std"], rtol=1e-9)


def test_a_model_that_has_intervals_alone_is_examined_like_any(world: Path, tmp_path: Path) -> None:
    done("calibrate", world / "model", "--data", world / "new.csv", "-o", tmp_path / "new", "--method", "split")
    model = load_table(tmp_path / "new")
    problem, _ = tables.separated(world / "test.csv", ["price"], [], model.encoding.text)
    found = examine(model, part(problem, np.arange(REPORTED)))
    assert [remedy.name for remedy in found.remedies] == ["as it is", "std", "isotonic"]
    assert np.isnan(found.evaluation.latent).all()


def test_methods_have_the_names_that_reports_recommend() -> None:
    assert {*OFFERED, *ELSEWHERE} == METHODS.keys()
    assert CHOICES.keys() <= set(OFFERED)
    assert CLASS_CHOICES.keys() <= PROBABILITIES.keys()


def test_a_calibrated_model_is_reported_like_any(world: Path, tmp_path: Path) -> None:
    done("calibrate", world / "model", "--data", world / "new.csv", "-o", tmp_path / "new")
    model = load_table(tmp_path / "new")
    problem, _ = tables.separated(world / "test.csv", ["price"], [], model.encoding.text)
    found, before = model.report(problem), load_table(world / "model").report(problem)
    assert abs(found.scores()["coverage90"] - 0.9) < CHANCE < abs(before.scores()["coverage90"] - 0.9)
    content = found.to_dict()
    assert content["provenance"]["calibrated_by"] == "std"
    assert content["provenance"]["calibrated_on"] == "new.csv"
    assert content["provenance"]["calibration_rows"] == NEW
    assert content["hyperparameters"]["calibration.factor"] > [1.3]
    assert json.dumps(model.summary(), allow_nan=False)


@pytest.mark.parametrize("column", ["city", "size", "garden"])
def test_groups_of_any_column_have_intervals_of_their_own(world: Path, tmp_path: Path, column: str) -> None:
    done("calibrate", world / "model", "--data", world / "new.csv", "-o", tmp_path / "new", "--column", column)
    assert abs(coverage(world, tmp_path / "new", tmp_path / "out.csv") - 0.9) < CHANCE
    names = load(tmp_path / "new").calibrator_.groups.names
    assert len(names) == {"city": 3, "size": 5, "garden": 2}[column]


def test_a_second_calibration_replaces_the_first(world: Path, tmp_path: Path) -> None:
    done("calibrate", world / "model", "--data", world / "new.csv", "-o", tmp_path / "one")
    words = ["--data", world / "new.csv", "-o", tmp_path / "two", "--method", "std"]
    result = done("calibrate", tmp_path / "one", *words)
    assert "its calibration is replaced" in result.stderr
    one, two = (load(tmp_path / name) for name in ("one", "two"))
    assert one.calibrator_.factor.equal(two.calibrator_.factor)
    assert isinstance(two.estimator_, FieldRegressor)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_probabilities_are_calibrated(tmp_path: Path, method: str) -> None:
    for name, n, seed in (("train", 60, 0), ("new", 250, 1), ("test", 100, 2)):
        flowers(n, seed).drop(columns="number").to_csv(tmp_path / f"{name}.csv", index=False)
    words = ["--target", "kind", "--classify", "--model", "gpc-dirichlet", "--test-size", "0"]
    done("fit", tmp_path / "train.csv", *words, "-o", tmp_path / "m")
    words = ["--data", tmp_path / "new.csv", "-o", tmp_path / "new", "--method", method]
    result = done("calibrate", tmp_path / "m", *words)
    assert "log loss" in result.stdout
    done("predict", tmp_path / "new", tmp_path / "test.csv", "-o", tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv").filter(like="probability_")
    np.testing.assert_allclose(table.sum(axis=1), 1.0)


class TestRefusals:
    """What cannot be calibrated is refused in one sentence, and nothing is written."""

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (
                ["--method", "platt"],
                "must be one of std, isotonic, beta, split, normalised, cqr, system, mondrian",
            ),
            (["--method", "temperature"], "must be one of std, isotonic"),
            (["--method", "jackknife+"], "which a saved model does not keep as a table; use Calibrated(method='jackk"),
            (["--method", "weighted"], "needs inputs like those to come"),
            (["--method", "mondrian"], "need each other"),
            (["--method", "std", "--column", "city"], "need each other"),
            (["--column", "town"], "no column 'town' to group by"),
        ],
    )
    def test_requests(self, world: Path, tmp_path: Path, words, sentence) -> None:
        result = run("calibrate", world / "model", "--data", world / "new.csv", "-o", tmp_path / "new", *words)
        assert result.exit_code == 1
        assert sentence in " ".join(result.stderr.split())
        assert not (tmp_path / "new").exists()

    def test_too_few_rows(self, world: Path, tmp_path: Path) -> None:
        houses(12, 3).to_csv(tmp_path / "few.csv", index=False)
        result = run("calibrate", world / "model", "--data", tmp_path / "few.csv", "-o", tmp_path / "new")
        assert (result.exit_code, "at least 20 rows, got 12" in " ".join(result.stderr.split())) == (1, True)
        assert not (tmp_path / "new").exists()

    def test_columns_and_classes_that_are_not_there(self, world: Path, tmp_path: Path) -> None:
        for name, words in (("size", "lacks the column 'size'"), ("price", "there is no column 'price'")):
            houses(40, 3).drop(columns=name).to_csv(tmp_path / "part.csv", index=False)
            result = run("calibrate", world / "model", "--data", tmp_path / "part.csv", "-o", tmp_path / "new")
            assert (result.exit_code, words in " ".join(result.stderr.split())) == (1, True), result.stderr
            assert not (tmp_path / "new").exists()

    def test_the_model_itself_and_folders_of_others(self, world: Path, tmp_path: Path) -> None:
        shutil.copytree(world / "model", tmp_path / "model")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "note.txt").write_text("mine")
        for output, words in (("model", "is the model itself"), ("full", "not a saved model")):
            result = run(
                "calibrate", tmp_path / "model", "--data", world / "new.csv", "-o", tmp_path / output, "--method", "std"
            )
            assert (result.exit_code, words in " ".join(result.stderr.split())) == (1, True)
        assert isinstance(load(tmp_path / "model"), FieldRegressor)


def test_the_fit_is_saved_once(world: Path, tmp_path: Path) -> None:
    done("calibrate", world / "model", "--data", world / "new.csv", "-o", tmp_path / "new")
    sizes = [(folder / "tensors.safetensors").stat().st_size for folder in (world / "model", tmp_path / "new")]
    assert sizes[1] < 1.1 * sizes[0]
    assert isinstance(load(tmp_path / "new"), Calibrated)
    save(load(tmp_path / "new"), tmp_path / "again")
