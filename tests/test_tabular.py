"""A model of tables keeps its encoding, and measures itself as the scores do on plain arrays."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import kernelfield
from kernelfield.data.tables import Problem, separate
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models import zoo
from kernelfield.tabular import TableModel, load_table, split
from kernelfield.uq.scores import baseline, evaluate


def table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, kind = rng.uniform(0, 6, n), rng.choice(["a", "b"], n)
    y = np.sin(x) + (kind == "a") + 0.1 * rng.standard_normal(n)
    return pd.DataFrame({"x": x, "kind": kind, "y": y, "z": -3 * y + 0.1 * rng.standard_normal(n)})


def problem(n: int, seed: int, targets: list[str]) -> Problem:
    return separate(table(n, seed)[["x", "kind", *targets]], targets)


@pytest.mark.parametrize("targets", [["y"], ["z", "y"]], ids=["one target", "two targets"])
def test_the_report_is_that_of_the_scores_on_plain_arrays(targets: list[str]) -> None:
    train, test = problem(40, 0, targets), problem(15, 1, targets)
    model, notes = TableModel.fit(train, "gp", 0, {"data": "here"})
    result = model.report(test, ["seen"], made="now")

    def arrays(rows: Problem) -> tuple[np.ndarray, np.ndarray]:
        kinds = [rows.features["kind"] == kind for kind in "ab"]
        return np.column_stack([rows.features["x"], *kinds]).astype(float), rows.target.to_numpy(copy=True)

    X, Y = arrays(train)
    oracle = FieldRegressor(zoo.model("gp"), random_state=0).fit(X, Y[:, 0] if len(targets) == 1 else Y)
    X_test, Y_test = arrays(test)
    assert result.evaluation.scores() == pytest.approx(evaluate(oracle.posterior(X_test), Y_test).scores(), rel=1e-12)
    assert result.baseline.scores() == pytest.approx(baseline(Y, Y_test).scores(), rel=1e-12)
    assert (result.n_train, list(result.outputs), list(result.features)) == (40, targets, ["x", "kind=a", "kind=b"])
    assert result.provenance == {"data": "here", "made": "now"}
    assert list(result.notes) == ["seen"]
    assert notes == []


def test_targets_of_a_test_table_may_come_in_another_order() -> None:
    model, _ = TableModel.fit(problem(40, 0, ["y", "z"]), "gp", 0, {})
    one, other = (model.report(problem(15, 1, order)).evaluation for order in (["y", "z"], ["z", "y"]))
    np.testing.assert_array_equal(one.y, other.y)
    assert one.scores() == other.scores()


def test_a_constant_target_has_the_baseline_of_the_scores() -> None:
    rows = problem(10, 0, ["y"])
    constant = Problem(rows.features, rows.target * 0 + 2.0, 0)
    model, notes = TableModel.fit(constant, "gp", 0, {})
    assert "all targets equal 2" in notes[0]
    expected = baseline(constant.target.to_numpy(copy=True), rows.target.to_numpy(copy=True))
    np.testing.assert_equal(model.report(rows).baseline.scores(), expected.scores())  # NaN where no law is meant


def test_a_loaded_model_predicts_the_same_bits(tmp_path: Path) -> None:
    model, _ = TableModel.fit(problem(30, 0, ["y"]), "student-t", 0, {"seed": 0})
    model.save(tmp_path / "m")
    again, new = load_table(tmp_path / "m"), table(9, 1)
    pd.testing.assert_frame_equal(again.predict(new, 0.8)[0], model.predict(new, 0.8)[0], check_exact=True)
    assert again.encoding == model.encoding
    assert again.summary(["n"]) == model.summary(["n"])
    assert json.loads(json.dumps(again.summary())) == again.summary()


def test_a_saved_model_is_one_of_the_estimator_too(tmp_path: Path) -> None:
    model, _ = TableModel.fit(problem(30, 0, ["y"]), "gp", 0, {})
    model.save(tmp_path / "m")
    new = table(9, 1)
    X = model.encoding.apply(new).frame
    np.testing.assert_array_equal(kernelfield.load(tmp_path / "m").predict(X), model.predict(new, 0.9)[0]["mean"])


FOREIGN = {
    "newer": ('{"format": 2, "other": 1}', "has format 2 and this program reads 1; upgrade"),
    "cut": ("[", "fit the model again"),
    "a list": ("[]", "fit the model again"),
    "nothing": ("{}", "fit the model again"),
    "half": ('{"format": 1, "encoding": {"columns": [], "empty": []}}', "fit the model again"),
}


@pytest.mark.parametrize(("content", "words"), FOREIGN.values(), ids=FOREIGN)
def test_a_table_that_is_not_ours_is_refused(tmp_path: Path, content: str, words: str) -> None:
    kernelfield.save(FieldRegressor(), tmp_path / "m", extra={"table.json": content})
    with pytest.raises(ValueError, match=words):
        load_table(tmp_path / "m")


def test_predictions_do_not_depend_on_the_chunks_and_every_row_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = TableModel.fit(problem(30, 0, ["y"]), "gp", 0, {})
    new = table(50, 1)
    whole, _ = model.predict(new, 0.9)
    monkeypatch.setattr("kernelfield.tabular.ROWS", 16)
    done: list[int] = []
    parts, _ = model.predict(new, 0.9, done.append)
    assert done == [16, 16, 16, 2]
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-10)


def test_a_split_shares_out_every_row_once() -> None:
    train, test = split(problem(50, 0, ["y"]), 0.3, 7)
    assert len(test.target) == 15
    assert sorted([*train.target.index, *test.target.index]) == list(range(50))
    assert list(test.features.index) == list(test.target.index)


def test_a_split_depends_on_its_seed_alone() -> None:
    whole = problem(50, 0, ["y"])
    torch.manual_seed(5)
    first, second, third = (split(whole, 0.3, seed)[1].target.index.tolist() for seed in (7, 7, 8))
    assert first == second
    assert first != third


@pytest.mark.parametrize(("n", "share"), [(2, 0.2), (3, 0.6), (4, 0.01)])
def test_a_split_that_leaves_too_little_is_refused(n: int, share: float) -> None:
    with pytest.raises(ValueError, match=f"{share:g} of {n} rows leaves .* --test-size 0"):
        split(problem(n, 0, ["y"]), share, 0)
