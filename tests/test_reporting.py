"""What a table tells of its rows reaches the report, for models and for the predictions of other programs."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal

from kernelfield.data.predictions import Layout
from kernelfield.data.tables import Problem, separate
from kernelfield.reporting import Question, examine, examine_predictions
from kernelfield.tabular import TableClassifier, TableModel
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.report import Report


def table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, site = rng.uniform(0, 6, n), rng.choice(["a", "b"], n)
    y = np.sin(x) + (site == "a") + 0.3 * rng.standard_normal(n)
    day = pd.date_range("2024-01-01", periods=n).strftime("%Y-%m-%d")
    return pd.DataFrame({"x": x, "site": site, "day": day, "y": y, "kind": np.where(y > 0.5, "high", "low")})


def problem(n: int, seed: int, target: str, columns: list[str]) -> Problem:
    return separate(table(n, seed)[[*columns, target]], [target], classes=target == "kind")


@cache
def fitted(target: str = "y", name: str = "gp-rbf") -> TableModel | TableClassifier:
    kind = TableClassifier if target == "kind" else TableModel
    return kind.fit(problem(40, 0, target, ["x", "site"]), name, 0, {})[0]


ALL = ["x", "site", "day"]
FAR = table(30, 2).assign(x=lambda frame: frame["x"] + 20)


def test_a_report_on_a_model_knows_groups_time_and_rows_from_elsewhere():
    made = examine(fitted(), problem(120, 1, "y", ALL), Question(["site"], "day", FAR, "far.csv"))
    assert isinstance(made, Report)
    assert (made.rows.groups, made.rows.time, made.rows.origin) == (["site"], "day", "far.csv")
    assert set(made.rows.columns) == {"x", "site", "day"}
    assert np.diff(made.rows.clock).tolist() == [1.0] * 119
    assert made.rows.dates == ["day"]
    assert made.parts[0].findings.drift.windows[0].start == "2024-01-01"
    assert made.rows.outside.shape == (30, 1)
    outside = made.parts[0].findings.outside
    assert outside.ratio > 2  # far from all rows of the fit its deviation is that of the prior
    assert made.parts[0].findings.split.aleatoric > 0.5  # noise is most of what is left near the rows of the fit
    assert (made.evaluation.latent < made.evaluation.std).all()
    assert [one.name for one in made.remedies] == ["as it is", "std", "isotonic"]


def test_a_model_that_contradicts_itself_has_a_report(monkeypatch):
    held = problem(60, 1, "y", ALL)
    monkeypatch.setattr(TableModel, "latent", lambda self, frame: np.full((len(frame), 1), 10.0))
    made = examine(fitted(), held, Question())
    np.testing.assert_array_equal(made.evaluation.latent, made.evaluation.std)


def test_predictions_are_scored_together_too():
    model, held = fitted(), problem(120, 1, "y", ["x", "site"])
    made = examine(model, held)
    law = model.law(held.features)
    mean, covariance = law.mean.flatten(), law.covariance
    y = torch.tensor(held.target["y"].to_numpy(copy=True))
    parts = [slice(start, start + 20) for start in range(0, 120, 20)]
    nll = [-MultivariateNormal(mean[i], covariance[i, i]).log_prob(y[i]).item() / 20 for i in parts]
    np.testing.assert_allclose(made.joint.nll, nll, rtol=1e-8)
    assert made.to_dict()["joint"]["sentence"].startswith("Taken together, values cost")


def test_classes_are_examined_alike():
    made = examine(fitted("kind", "gpc"), problem(120, 1, "kind", ALL), Question(["site"], "day", FAR))
    assert isinstance(made, ClassReport)
    assert made.rows.outside.shape == (30, 2)
    assert made.findings.drift is not None
    assert [one.name for one in made.remedies] == ["as it is", "temperature", "beta"]  # too few for more


def test_rivals_are_measured_on_the_same_rows():
    held = problem(60, 1, "y", ALL)
    other = fitted(name="gp-linear")
    made = examine(fitted(), held, rivals={"linear": other})
    assert made.pairs[0].model == "linear"
    assert made.others["linear"].scores() == other.report(held).evaluation.scores()
    with pytest.raises(ValueError, match="kinds predicts 'kind' and gp-rbf 'y'; compare models of the same kind"):
        examine(fitted(), held, rivals={"kinds": fitted("kind", "gpc")})


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question(["town"]), "the rows have no column 'town'; they have 'x', 'site' and 'day'"),
        (Question(time="hour"), "the rows have no column 'hour'"),
        (Question(time="site"), "column 'site' orders the rows in time, and row 1 holds"),
    ],
)
def test_a_wrong_question_is_refused_before_the_work(question, words, monkeypatch):
    monkeypatch.setattr(TableModel, "report", None)
    with pytest.raises(ValueError, match=words):
        examine(fitted(), problem(20, 1, "y", ALL), question)


def predictions(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = table(n, 4)
    frame["m"], frame["s"] = frame["y"] + 0.4 * rng.standard_normal(n), 0.4
    frame["lo"], frame["hi"] = frame["m"] - 0.658, frame["m"] + 0.658
    for index in range(40):
        frame[f"draw{index}"] = frame["m"] + 0.4 * rng.standard_normal(n)
    frame["p_high"] = np.where(frame["m"] > 0.5, 0.8, 0.2)
    frame["p_low"] = 1 - frame["p_high"]
    return frame


FORMS = {"gaussian": "mean=m,std=s", "interval": "lower=lo,upper=hi", "draws": "samples=draw"}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_predictions_of_another_program_make_a_report(form):
    frame = predictions()
    layout = Layout.parse(f"y=y,{form}")
    question = Question(["site"], "day", frame.head(20).drop(columns="y"), "first")
    worse = frame.assign(m=frame["m"] + 1, lo=frame["lo"] + 1, hi=frame["hi"] + 1)
    made = examine_predictions(layout, frame, question, name="forest", rivals={"worse": worse})
    assert (made.model, list(made.outputs), made.n_train) == ("forest", ["y"], None)
    assert set(made.rows.columns) & set(layout.columns(frame)) == set()
    assert made.rows.outside.shape == (20, 1)
    assert made.scores()["crps"] == pytest.approx(0.4 / np.sqrt(np.pi), rel=0.2)
    assert made.pairs[0].model == "worse"
    assert [one.name for one in made.remedies] == ["as it is", "std", "isotonic"]
    assert made.remedies[1].learned["factor"][0] == pytest.approx(1, abs=6 / np.sqrt(2 * 100))  # its deviation is right
    assert "no training targets were given" in made.rule


def test_probabilities_of_another_program_make_a_report():
    frame = predictions()
    made = examine_predictions(Layout.parse("y=kind,proba=p_"), frame, Question(["site"], None, frame.head(5)))
    assert (made.classes, made.target) == (["high", "low"], "kind")
    assert made.rows.outside.shape == (5, 2)
    rival = frame.assign(kind=frame["kind"][::-1].to_numpy())
    with pytest.raises(ValueError, match="other holds other classes or values of 'kind'"):
        examine_predictions(Layout.parse("y=kind,proba=p_"), frame, rivals={"other": rival})


def test_rows_from_elsewhere_may_hold_other_classes_and_gaps():
    frame = predictions()
    far = frame.head(6).assign(kind=["zebra", None, "low", "high", "low", "low"])
    made = examine_predictions(Layout.parse("y=kind,proba=p_"), frame, Question(outside=far))
    assert made.rows.outside.shape == (6, 2)


def test_predictions_are_no_group_and_no_rival_has_the_model_s_name():
    frame, layout = predictions(), Layout.parse("y=y,mean=m,std=s")
    with pytest.raises(ValueError, match="column 'm' is one of the predictions"):
        examine_predictions(layout, frame, Question(["m"]))
    with pytest.raises(ValueError, match="cannot be compared with one of its own name, 'predictions'"):
        examine_predictions(layout, frame, rivals={"predictions": frame})


def test_rivals_of_other_values_are_refused():
    frame = predictions()
    with pytest.raises(ValueError, match="other holds other values of 'y'; compare predictions of the same rows"):
        examine_predictions(Layout.parse("y=y,mean=m,std=s"), frame, rivals={"other": frame.assign(y=0.0)})


BAD = {
    "a deviation of zero": {"s": 0.0},
    "a negative deviation": {"s": -1.0},
    "a mean that is missing": {"m": np.nan},
    "a value that is missing": {"y": np.nan},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_predictions_that_are_no_law_are_refused_in_a_sentence(change):
    frame = predictions(30)
    for name, value in change.items():
        frame.loc[7, name] = value
    with pytest.raises(ValueError, match="1 "):
        examine_predictions(Layout.parse("y=y,mean=m,std=s"), frame)
