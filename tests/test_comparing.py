"""Every model learns from the same folds, a failure stops only its own, and scores are those of fits by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from kernelfield.comparing import Failed, Measured, attempt, compare, default_models, folds, require_models
from kernelfield.data.tables import Problem, separate
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models import zoo
from kernelfield.tabular import TableModel
from kernelfield.uq.scores import baseline, evaluate
from tests.test_tabular import problem, table

PAIR = ["gp-linear", "gp-rbf"]


def kinds(n: int, seed: int = 0) -> Problem:
    frame = table(n, seed)
    frame["kind"] = np.where(frame["y"] > 0.5, "high", "low")
    return separate(frame[["x", "z", "kind"]], ["kind"], classes=True)


def test_scores_are_those_of_fits_by_hand_on_the_same_folds() -> None:
    rows = problem(30, 0, ["y"])
    result = compare(rows, PAIR, count=3, seed=4)
    assert (result.rows, result.splits, list(result.features)) == (30, 3, ["x", "kind=a", "kind=b"])
    X = np.column_stack([rows.features["x"], *(rows.features["kind"] == kind for kind in "ab")]).astype(float)
    y = rows.target["y"].to_numpy(copy=True)
    contenders = {one.name: one for one in result.contenders}
    for fold, (train, test) in enumerate(folds(rows, 3, 4)):
        for name in PAIR:
            law = FieldRegressor(zoo.model(name), random_state=4).fit(X[train], y[train]).posterior(X[test])
            expected = evaluate(law, y[test]).scores()
            for score, values in contenders[name].split_scores().items():
                assert values[fold] == pytest.approx(expected[score], rel=1e-9), (name, score)
        expected = baseline(y[train], y[test]).scores()["nll"]
        assert result.baseline.split_scores()["nll"][fold] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "count"), [(4, 2), (10, 3), (23, 5), (6, 6)])
def test_folds_share_out_every_row_once(n: int, count: int) -> None:
    rows = problem(n, 0, ["y"])
    parts = folds(rows, count, 1)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(n))
    assert {len(test) for _, test in parts} <= {n // count, -(-n // count)}
    assert all(sorted([*train, *test]) == list(range(n)) for train, test in parts)
    again = folds(rows, count, 1)
    assert all(
        np.array_equal(a, b) for one, two in zip(parts, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    if n > 6:
        assert any(not np.array_equal(one[1], two[1]) for one, two in zip(parts, folds(rows, count, 2), strict=True))


def test_every_class_is_learned_in_every_fold() -> None:
    labels = ["a"] * 2 + ["b"] * 3 + ["c"] * 25
    rows = Problem(pd.DataFrame({"x": np.arange(30.0)}), pd.DataFrame({"y": labels}), 0)
    for count in (2, 5, 10):
        for seed in range(20):
            for train, test in folds(rows, count, seed, classes=True):
                assert set(np.array(labels)[train]) == {"a", "b", "c"}
                assert sum(np.array(labels)[test] == "c") in (25 // count, -(-25 // count))


def test_a_class_of_one_row_and_too_few_rows_are_refused() -> None:
    rows = Problem(pd.DataFrame({"x": np.arange(5.0)}), pd.DataFrame({"y": ["a", "b", "b", "c", "c"]}), 0)
    with pytest.raises(ValueError, match="each class needs at least 2 rows, and 'a' has one; leave such rows out"):
        folds(rows, 2, 0, classes=True)
    for n, count in ((4, 5), (3, 2)):
        with pytest.raises(ValueError, match=f"{count} folds of {n} rows leave too little .* add rows or use fewer"):
            folds(problem(n, 0, ["y"]), count, 0)


def test_a_model_that_the_data_do_not_suit_is_left_out_with_its_sentence() -> None:
    seen: list[tuple[str, str | None]] = []

    def watch(name: str, trial: Measured | Failed | None) -> None:
        seen.append((name, None if trial is None else type(trial).__name__))

    result = compare(problem(24, 0, ["y"]), ["grid", *PAIR], count=2, watch=watch)
    assert "are no grid" in result.failures["grid"]
    assert [one.name for one in result.contenders] == PAIR
    first, rest = [("grid", None), ("grid", "Failed")], [(name, word) for name in PAIR for word in (None, "Measured")]
    assert seen == [*first, *rest, *rest]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("too odd"),
        MemoryError("too odd"),
        torch.linalg.LinAlgError("too odd"),
        NotImplementedError("too odd"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_in_a_later_fold_says_in_which(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    plain, calls = TableModel.fit.__func__, []

    def fit(cls, train, name, seed, made):
        calls.append(name)
        if calls.count("gp-rbf") == 2 and name == "gp-rbf":
            raise error
        return plain(cls, train, name, seed, made)

    monkeypatch.setattr(TableModel, "fit", classmethod(fit))
    result = compare(problem(20, 0, ["y"]), PAIR, count=4)
    assert result.failures == {"gp-rbf": "too odd (in fold 2 of 4)"}
    assert (calls.count("gp-rbf"), calls.count("gp-linear")) == (2, 4)


def test_if_none_can_be_fitted_every_sentence_is_said() -> None:
    with pytest.raises(ValueError, match=r"no model could be fitted; grid: .*no grid.*; time-series: .*"):
        compare(problem(20, 0, ["y"]), ["grid", "time-series"], count=2)


def test_a_mistake_in_the_code_and_an_interrupt_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = problem(20, 0, ["y"])
    for error in (KeyboardInterrupt(), TypeError("a mistake")):
        monkeypatch.setattr(TableModel, "fit", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            attempt(TableModel, rows, rows, "gp")


def test_sentences_on_the_table_are_said_once_and_those_on_fits_by_model() -> None:
    rows = problem(24, 0, ["y"])
    features = rows.features.assign(hole=np.nan)
    features.iloc[3, 0] = np.nan
    target = rows.target * 0 + 2.0
    result = compare(Problem(features, target, 0), PAIR, count=2, notes=["first"])
    assert list(result.notes) == [
        "first",
        "column 'hole' holds no value and is left out",
        f"column 'x': 1 missing value filled with the median {features['x'].median():g}",
    ]
    for one in result.contenders:
        assert len(one.notes) == 1 and "all targets equal 2" in one.notes[0]


def test_more_rows_than_a_model_is_meant_for_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(zoo.MODELS["gp-rbf"], rows=(2, 10))
    monkeypatch.setattr("kernelfield.comparing.MODELS", {**zoo.MODELS, "gp-rbf": small})
    result = compare(problem(24, 0, ["y"]), PAIR, count=2)
    assert {one.name: list(one.notes) for one in result.contenders} == {
        "gp-linear": [],
        "gp-rbf": ["it is meant for 2 to 10 rows and learned from 12"],
    }


def test_classes_are_compared_by_their_probabilities() -> None:
    result = compare(kinds(40), ["gpc-dirichlet", "gpc"], classes=True, count=2)
    assert list(result.classes) == ["high", "low"]
    assert result.best.scores()["log_loss"] < 0.5 < result.baseline.scores()["log_loss"]


REFUSED = {
    "unknown": (["gp", "nngb"], "no model is called 'nngb'; did you mean nngp"),
    "one": (["gp"], "a comparison needs at least two models, got 'gp'; name another"),
    "none": ([], "at least two models, got none"),
    "twice": (["gp", "gp"], "'gp' is named more than once; name each model once"),
}


@pytest.mark.parametrize(("names", "sentence"), REFUSED.values(), ids=REFUSED)
def test_names_that_make_no_comparison_are_refused(names: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        require_models(names)


def test_models_to_start_with_suit_the_encoded_table() -> None:
    assert default_models(problem(24, 0, ["y"])) == zoo.suggested(24, 3)
    assert default_models(kinds(24), classes=True) == zoo.suggested(24, 2, classes=True)


def test_scores_and_failures_do_not_depend_on_how_many_fits_run_at_a_time() -> None:
    rows = problem(40, 0, ["y"])
    names = [*PAIR, "grid"]
    alone, crowded = compare(rows, names, count=2), compare(rows, names, count=2, jobs=2)
    for one, other in zip(alone.contenders, crowded.contenders, strict=True):
        assert one.name == other.name
        assert other.split_scores()["nll"] == pytest.approx(one.split_scores()["nll"], rel=1e-9)
    assert alone.failures == crowded.failures
    assert "2 fits ran at a time" in crowded.notes[-1] and crowded.notes[:-1] == alone.notes
