"""Reports on classes say what the scores say, and their page asks nothing of the network."""

import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from kernelfield.uq.class_report import NUMBERS, ClassReport
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.lights import LIGHTS
from kernelfield.uq.remedies import class_remedies
from kernelfield.uq.report import Report
from kernelfield.uq.rows import Rows
from tests.uq.test_report import BAD, SCHEMA, Page


def report(
    n: int = 200, sharpness: float = 1.0, classes: tuple[str, ...] = ("a<b>", "b", "c"), **changes: object
) -> ClassReport:
    """Labels drawn from probabilities, which are then overstated by `sharpness`."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.full(len(classes), 0.7), n)
    labels = np.array([rng.choice(len(classes), p=row) for row in true])
    said = true**sharpness / (true**sharpness).sum(1, keepdims=True)
    prior = np.full(len(classes), 1 / len(classes))
    return ClassReport(
        model="gpc",
        target="kind",
        classes=list(classes),
        evaluation=ClassEvaluation.of(said, labels, bins=10),
        prior=prior,
        n_train=100,
        seconds={"fit": 1.0, "predict": 0.1},
        hyperparameters={"lengthscale": [1.0, 2.0]},
        features=["x", "y"],
        **changes,
    )


def full(n: int = 600, sharpness: float = 3.0) -> ClassReport:
    """A report that has everything a report can have, on probabilities that are too sure."""
    rng = np.random.default_rng(5)
    made = report(n, sharpness)
    columns = {"age": rng.uniform(20, 80, n), BAD: rng.choice(["Bern", "Rome"], n), "day": np.arange(n) * 1.0}
    rows = Rows(columns, groups=[BAD], time="day", outside=np.full((50, 3), 1 / 3))
    tried = class_remedies(made.evaluation)
    return report(n, sharpness, rows=rows, others={"flat": report(n, 0.2).evaluation}, remedies=tried)


@pytest.mark.parametrize(
    ("sharpness", "grade", "title"),
    [(1.0, "good", "keep their promise"), (4.0, "bad", "too sure"), (0.25, "bad", "not sure enough")],
)
def test_verdicts_tell_honest_probabilities_from_others(sharpness, grade, title):
    honesty, gain = report(1000, sharpness).verdicts[:2]
    assert (honesty.grade, title in honesty.title) == (grade, True)
    if sharpness == 1.0:
        assert gain.title == "Better than the baseline"


def test_few_rows_are_not_judged():
    assert report(10).verdicts[0].grade == "open"


def test_the_baseline_says_the_shares_of_the_training_rows():
    made = report()
    assert made.baseline.scores()["log_loss"] == pytest.approx(np.log(3))
    assert made.skill["log_loss"].value == pytest.approx(1 - made.scores()["log_loss"] / np.log(3))


@pytest.mark.parametrize(
    "make", [report, full, lambda: report(1), lambda: report(30)], ids=["plain", "full", "one", "few"]
)
def test_the_numbers_are_strict_json_of_the_schema(make):
    content = json.loads(json.dumps(make().to_dict(), allow_nan=False))
    jsonschema.validate(content, SCHEMA)
    assert content["classes"] == ["a<b>", "b", "c"]
    assert set(content["scores"]) >= {"accuracy", "log_loss", "brier", "ece", "ece_null_high"}


@pytest.mark.parametrize(
    "classes", [("no", "yes"), ("a<b>", "$b_$", "c"), tuple(f"class number {i}" for i in range(30))]
)
def test_the_page_is_valid_and_refers_to_nothing_but_itself(classes):
    text = report(400, classes=classes).to_html()
    page = Page(text)
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
    assert "http" not in text
    assert page.tags.count("figure") >= (4 if len(classes) <= 20 else 3)
    assert "<b>" not in text
    assert "Log loss" in text


def test_everything_that_is_known_has_its_section():
    made = full()
    page = made.to_html()
    text = " ".join(Page(page).text)
    for name in ("Calibration", "Where it is right", "Rows from elsewhere", "Over time", "Worst cases", "Other models"):
        assert name in text
    assert BAD in text and page.count("<script") == 1
    assert {verdict.name for verdict in made.verdicts} == set(LIGHTS)
    assert made.advised == "temperature" and "kernelfield calibrate --method temperature" in text
    assert made.pairs[0].model == "flat"
    assert tuple(made.numbers()) == NUMBERS


def test_few_rows_make_a_page():
    assert "<h1>" in report(1).to_html()


def test_arrays_of_any_program_make_a_report():
    made = report()
    p, y = made.evaluation.probabilities, made.evaluation.labels
    other = Report.from_arrays(y, proba=p, classes=["a", "b", "c"], target="kind")
    assert other.evaluation.brier == made.evaluation.brier
    assert other.prior == pytest.approx(np.bincount(y) / len(y))
    assert "no training labels were given" in other.rule
    known = Report.from_arrays(y, proba=p, y_train=[0, 1, 1, 2])
    assert (known.n_train, known.prior.tolist(), known.classes) == (4, [0.25, 0.5, 0.25], ["0", "1", "2"])


@pytest.mark.parametrize("form", [bool, float, np.array(["no", "yes"])], ids=["truths", "floats", "names"])
def test_labels_may_be_truths_floats_or_names(form):
    y = np.array([0, 1, 1])
    labels = form[y] if isinstance(form, np.ndarray) else y.astype(form)
    made = Report.from_arrays(labels, proba=[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], classes=["no", "yes"], y_train=labels)
    assert made.evaluation.labels.tolist() == [0, 1, 1]
    assert made.prior.tolist() == [1 / 3, 2 / 3]
    with pytest.raises(ValueError, match="labels hold 'perhaps', which is none of the classes"):
        Report.from_arrays(["perhaps"], proba=[[0.5, 0.5]], classes=["no", "yes"])


def test_other_models_are_of_the_same_labels():
    with pytest.raises(ValueError, match="model and other must be evaluated on the same labels, got 200 and 100"):
        report(others={"other": report(100).evaluation})


def test_names_and_probabilities_are_of_the_same_classes():
    made = report()
    with pytest.raises(ValueError, match=r"got \(2, 3, 3\) of them"):
        ClassReport("gpc", "kind", ["a", "b"], made.evaluation, made.prior, 10)


def test_a_light_calls_the_baseline_what_it_is():
    labels = np.arange(100) % 2
    sure = np.linspace(0.9, 0.99, 100)[:, None]
    wrong = np.where(np.arange(2) == labels[:, None], 1 - sure, sure)
    for train, rule in ((None, "among the test rows themselves"), (labels, "among the training rows")):
        light = ClassReport.from_arrays(labels, wrong, y_train=train).verdicts[1]
        assert light.grade == "bad" and rule in light.remedy


@pytest.mark.parametrize("power", [2.0, 0.5])
def test_the_light_says_by_what_to_divide_logarithms(power):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 4000)
    labels = (rng.random((4000, 1)) > p.cumsum(1)[:, :-1]).sum(1)
    said = p**power / (p**power).sum(1, keepdims=True)
    made = ClassReport.from_arrays(labels, said)
    assert made.verdicts[0].grade == "bad"
    told = float(re.search(r"divide their logarithms by about ([0-9.]+) \(", made.advice[0])[1])
    assert told == pytest.approx(power, rel=0.1)


def test_remedies_are_shown_before_and_after_with_what_they_learned():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 1000)
    labels = (rng.random(1000) < p).astype(int)
    sure = p**3 / (p**3 + (1 - p) ** 3)
    made = ClassReport.from_arrays(labels, np.stack([1 - sure, sure], 1))
    made = replace(made, remedies=class_remedies(made.evaluation))
    assert [one.name for one in made.remedies] == ["as it is", "temperature", "beta", "isotonic"]
    assert made.remedies[1].learned["temperature"] == pytest.approx(3, rel=0.2)
    page = made.to_html()
    assert "Before and after" in page and "temperature 3." in page.replace("temperature 2.", "temperature 3.")
    assert made.advised in ("temperature", "beta")
    three = ClassReport.from_arrays(rng.integers(3, size=300), rng.dirichlet(np.ones(3), 300))
    assert "beta" not in [one.name for one in class_remedies(three.evaluation)]


def test_scores_that_are_no_means_have_intervals_in_every_form():
    made = report()
    content = made.to_dict()["whole"]
    assert content.keys() == {"ece", "ece_debiased", "classwise_ece", "adaptive_ece", "worst_gap", "aurc"}
    assert content["ece"]["low"] <= made.scores()["ece"] <= content["ece"]["high"]
    assert "by chance" in made.to_html() and "| AURC |" in made.to_markdown()


def test_a_text_is_no_list_of_classes():
    with pytest.raises(ValueError, match="list of two names or more, got the text 'no'"):
        ClassReport.from_arrays([0, 1], [[0.9, 0.1], [0.2, 0.8]], classes="no")
