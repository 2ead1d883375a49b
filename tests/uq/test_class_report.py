"""Reports on classes say what the scores say, and their page asks nothing of the network."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.classes import ClassEvaluation


def report(n: int = 200, sharpness: float = 1.0, classes: tuple[str, ...] = ("a<b>", "b", "c")) -> ClassReport:
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
    )


@pytest.mark.parametrize(
    ("sharpness", "grade", "title"),
    [(1.0, "good", "keep their promise"), (4.0, "bad", "too sure"), (0.25, "bad", "not sure enough")],
)
def test_verdicts_tell_honest_probabilities_from_others(sharpness, grade, title):
    honesty, gain = report(1000, sharpness).verdicts()
    assert (honesty.grade, title in honesty.title) == (grade, True)
    if sharpness == 1.0:
        assert gain.title == "Better than the baseline"


def test_few_rows_are_not_judged():
    assert report(10).verdicts()[0].grade == "open"


def test_the_baseline_says_the_shares_of_the_training_rows():
    made = report()
    assert made.rule()["log_loss"] == pytest.approx(np.log(3))
    assert made.skill()["log_loss"] == pytest.approx(1 - made.scores()["log_loss"] / np.log(3))


def test_the_numbers_are_strict_json():
    content = json.loads(json.dumps(report().to_dict(), allow_nan=False))
    assert content["classes"] == ["a<b>", "b", "c"]
    assert set(content["scores"]) >= {"accuracy", "log_loss", "brier", "ece", "ece_null_high"}


@pytest.mark.parametrize(
    "classes", [("no", "yes"), ("a<b>", "$b_$", "c"), tuple(f"class number {i}" for i in range(30))]
)
def test_the_page_is_whole_and_refers_to_nothing_but_itself(classes):
    page = report(400, classes=classes).to_html()
    HTMLParser().feed(page)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<figure>") == (3 if len(classes) <= 20 else 2)
    assert "<b>" not in page
    assert "Log loss" in page
    assert "verdicts" in page


def test_names_and_probabilities_are_of_the_same_classes():
    made = report()
    with pytest.raises(ValueError, match=r"got \(2, 3, 3\) of them"):
        ClassReport("gpc", "kind", ["a", "b"], made.evaluation, made.prior, 10)
