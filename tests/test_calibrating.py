"""What some held-out rows correct, the others confirm; what is right stays, and no row serves twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from kernelfield.calibrating import LEAST, TEACHING, corrected
from kernelfield.cli import app
from kernelfield.data.tables import Problem, separate
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.models.laplace import LaplaceClassifier
from kernelfield.tabular import TableClassifier, TableModel, Tabular, load_table, part
from tests.test_cli import houses
from tests.test_cli_classes import flowers

HELD = 3000
CHANCE = 4 * (0.09 / (HELD / 2)) ** 0.5  # four standard errors of a share of 90%, twice over as rows teach too


def held(n: int = HELD) -> Problem:
    return separate(houses(n, 1), ["price"])


@pytest.fixture(scope="module")
def right() -> Tabular:
    return TableModel.fit(separate(houses(80, 0), ["price"]), "gp", 0, {})[0]


def noisy(n: int = HELD) -> Problem:
    """Rows with more noise than the model has met, for which it is far too sure of itself."""
    rows = held(n)
    return replace(rows, target=rows.target + 0.5 * np.random.default_rng(2).standard_normal((n, 1)))


def coverage(model: Tabular, rows: Problem) -> float:
    return model.report(rows).evaluation.scores()["coverage90"]


def test_rows_correct_what_others_confirm(right: Tabular) -> None:
    model, left, notes = corrected(right, noisy(), 0)
    assert isinstance(model.estimator, Calibrated)
    assert model.provenance["calibrated_on"] == "held-out rows"
    assert coverage(right, left) < 0.7
    assert coverage(model, left) == pytest.approx(0.9, abs=CHANCE)
    assert "1,500 held-out rows recalibrated" in notes[0]
    assert "other 1,500" in notes[0]
    assert len(left.target) == model.provenance["calibration_rows"] == HELD // 2


def test_the_rows_that_teach_are_not_those_that_test(right: Tabular) -> None:
    """The correction does not change with the rows that are left."""
    rows = noisy(400)
    model, left, _ = corrected(right, rows, 0)
    other = Problem(rows.features.copy(), rows.target.copy(), rows.dropped)
    other.target.loc[left.target.index, "price"] += 1e3
    again, moved, _ = corrected(right, other, 0)
    assert (moved.target["price"] - left.target["price"] == 1e3).all()
    one, two = (m.predict(left.features, 0.9)[0] for m in (model, again))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_what_is_right_stays_as_it_is(right: Tabular) -> None:
    model, left, notes = corrected(right, held(), 0)
    assert model is right
    assert len(left.target) == HELD // 2
    assert "no need to recalibrate" in notes[0]


def test_no_more_rows_are_taken_than_teach(right: Tabular) -> None:
    _, left, _ = corrected(right, held(2 * TEACHING + 500), 0)
    assert len(left.target) == TEACHING + 500


def test_few_rows_are_left_to_the_test(right: Tabular) -> None:
    rows = part(held(), np.arange(2 * LEAST - 1))
    model, left, notes = corrected(right, rows, 0)
    assert model is right
    assert left is rows
    assert "39 rows to test on are too few" in notes[0]


def test_probabilities_are_corrected_too() -> None:
    train, new = flowers(60, 0), flowers(800, 1)
    fitted, _ = TableClassifier.fit(separate(train, ["kind"], classes=True), "gpc", 0, {})
    model = LaplaceClassifier(steps=0)  # a kernel that was never fitted
    frame = fitted.encoding.apply(train.drop(columns="kind")).frame
    vague = replace(fitted, estimator=FieldClassifier(model, random_state=0).fit(frame, train["kind"]))
    better, left, _ = corrected(vague, separate(new, ["kind"], classes=True), 0)
    assert isinstance(better.estimator, CalibratedClassifier)
    assert better.report(left).scores()["log_loss"] < vague.report(left).scores()["log_loss"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "houses.csv"
    houses(300, 3).to_csv(path, index=False)
    return path


def test_the_command_corrects_where_it_is_asked(table: Path, tmp_path: Path) -> None:
    command = ["fit", str(table), "--target", "price", "--test-size", "0.4", "--model", "gp", "-o", str(tmp_path / "m")]
    plain = CliRunner().invoke(app, command)
    assert "tested on 120" in plain.output
    asked = CliRunner().invoke(app, [*command, "--calibrate"])
    assert asked.exit_code == 0, asked.output
    assert "60 held-out rows" in asked.output
    assert "tested on 60" in asked.output
    load_table(tmp_path / "m").predict(houses(5, 4), 0.9)


@pytest.mark.parametrize("more", [["--test-size", "0"], ["--test", "houses.csv"]])
def test_a_correction_needs_rows_of_its_own(table: Path, tmp_path: Path, more: list[str]) -> None:
    more = [str(table) if part == "houses.csv" else part for part in more]
    done = CliRunner().invoke(
        app, ["fit", str(table), "--target", "price", "-o", str(tmp_path / "m"), "--calibrate", *more]
    )
    assert done.exit_code == 1
    assert "--calibrate takes half of the rows held out" in done.output


@pytest.mark.slow
def test_an_approximation_is_checked_without_being_asked(tmp_path: Path) -> None:
    houses(4500, 5).to_csv(tmp_path / "many.csv", index=False)
    done = CliRunner().invoke(app, ["fit", str(tmp_path / "many.csv"), "--target", "price", "-o", str(tmp_path / "m")])
    assert done.exit_code == 0, done.output
    assert "vecchia was chosen for 3,600 rows" in done.output
    assert "450 held-out rows" in done.output
