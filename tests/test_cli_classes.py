"""Classification from the command line: labels of text or whole numbers, probabilities and a report."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.test_cli import done, run


def flowers(n: int, seed: int) -> pd.DataFrame:
    """Two measurements and a colour, which tell three kinds apart but for noise."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])[kind] + 0.5 * rng.standard_normal((n, 2))
    colour = np.where(rng.uniform(size=n) < 0.9, np.array(["red", "white", "blue"])[kind], "red")
    names = np.array(["iris", "lily", "rose"])[kind]
    return pd.DataFrame({"width": x[:, 0], "height": x[:, 1], "colour": colour, "kind": names, "number": kind})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flowers")
    train = flowers(60, 0)
    train.loc[4, "kind"] = np.nan
    train.to_csv(folder / "train.csv", index=False)
    flowers(40, 1).to_csv(folder / "test.csv", index=False)
    return folder


@pytest.mark.parametrize(("target", "other"), [("kind", "number"), ("number", "kind")])
def test_text_and_whole_numbers_are_classes(world: Path, tmp_path: Path, target: str, other: str) -> None:
    page, record, out = tmp_path / "r.html", tmp_path / "r.json", tmp_path / "out.csv"
    model = tmp_path / "m"
    result = done(
        "fit", world / "train.csv", "--target", target, "--drop", other, "--classify", "-o", model,
        "--report", page, "--json", record, "--test", world / "test.csv",
    )  # fmt: skip
    assert ("1 row of" in result.stderr) == (target == "kind")
    assert "training shares" in result.stdout
    content = json.loads(record.read_text())
    assert content["scores"]["accuracy"] > 0.85
    assert content["scores"]["log_loss"] < 0.5
    assert page.read_text().lower().startswith("<!doctype html")
    done("predict", model, world / "test.csv", "-o", out)
    table = pd.read_csv(out)
    labels = ["iris", "lily", "rose"] if target == "kind" else [0, 1, 2]
    probabilities = table[[f"probability_{label}" for label in labels]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (table["predicted"] == np.array(labels)[probabilities.argmax(1)]).all()
    assert (table["predicted"] == table[target]).mean() == pytest.approx(content["scores"]["accuracy"])
    done("report", model, "--data", world / "test.csv", "--target", target, "-o", tmp_path / "again.html")


REFUSED = [
    (["--target", "width"], "holds '.*' in row 1 .* is no class; leave out --classify"),
    (["--target", "kind", "--target", "number"], "a classifier has one target, got 'kind' and 'number'"),
    (["--target", "kind", "--model", "gp"], "no model is called 'gp'; did you mean gpc"),
    (["--target", "kine"], "no column 'kine'; did you mean 'kind'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_classified_is_refused(world: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run("fit", world / "train.csv", "--classify", "-o", tmp_path / "m", *arguments)
    assert result.exit_code == 1
    assert re.search(message, " ".join(result.stderr.split()))


def test_one_class_alone_and_labels_unseen_are_refused(world: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    flowers(30, 2).assign(kind="iris").to_csv(one, index=False)
    result = run("fit", one, "--target", "kind", "--classify", "-o", tmp_path / "m")
    assert (result.exit_code, "one class only, iris" in " ".join(result.stderr.split())) == (1, True)
    done("fit", world / "train.csv", "--target", "kind", "--drop", "number", "--classify", "-o", tmp_path / "m")
    flowers(30, 2).replace({"kind": {"rose": "tulip"}}).to_csv(other, index=False)
    result = run("report", tmp_path / "m", "--data", other, "--target", "kind", "-o", tmp_path / "r.html")
    assert result.exit_code == 1
    assert "holds 'tulip', which the fit has not seen" in " ".join(result.stderr.split())
