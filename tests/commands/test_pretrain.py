"""`kernelfield pretrain` writes a checkpoint that `fit` and `compare` take, goes on, and refuses in one sentence."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kernelfield.models.neural import prior_training
from kernelfield.models.neural.prior_checkpoint import Checkpoint
from kernelfield.models.zoo import model
from tests.models.neural.test_prior_training import RECIPE
from tests.test_cli import done, run

SIZES = ("--layers", 1, "--width", 16, "--rows", 12, "--columns", 3)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prior of small tasks, and few of them for the bins."""
    monkeypatch.setattr(prior_training, "recipes", lambda: {"small": RECIPE})
    monkeypatch.setattr(prior_training, "SURVEY", 100)


def table(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=30)
    pd.DataFrame({"x": x, "y": np.sin(6 * x) + 0.1 * rng.normal(size=30)}).to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


def test_a_checkpoint_is_trained_and_models_are_made_with_it(tmp_path: Path) -> None:
    net, folder = tmp_path / "net.safetensors", tmp_path / "model"
    first = done("pretrain", "--prior", "small", *SIZES, "-o", net)
    assert "6 steps of 160 tokens" in first.stdout
    kept = Checkpoint.load(net)
    assert (kept.rows, kept.columns, kept.architecture.layers, kept.architecture.width) == (12, 3, 1, 16)
    data, name = table(tmp_path), f"prior-fitted:{net}"
    done("fit", data, "--target", "y", "--model", name, "-o", folder, "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["model"] == name
    against = done("compare", data, "--target", "y", "--models", f"{name},prior-fitted", "--folds", 2)
    assert "prior-fitted:" in against.stdout
    net.unlink()
    done("predict", folder, data, "-o", tmp_path / "out.csv")  # the folder of a model holds all that it needs


def test_a_run_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, net = tmp_path / "whole", tmp_path / "net"
    done("pretrain", "--prior", "small", "-o", whole)
    advance = prior_training._Run.advance

    def interrupted(self: prior_training._Run) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(prior_training, "KEEP", 0.0)
        patch.setattr(prior_training._Run, "advance", interrupted)
        assert run("pretrain", "--prior", "small", "-o", net).exit_code == 130
    assert not net.exists()
    assert "going on from net.state" in " ".join(done("pretrain", "--prior", "small", "-o", net).output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "whole"]
    one, other = Checkpoint.load(net).parameters, Checkpoint.load(whole).parameters
    assert all((one[name] == other[name]).all() for name in one)


def test_wrong_requests_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for words, sentence in (
        (("--prior", "smal"), "no prior is called 'smal'; there are small"),
        (("--rows", 2), "--rows must be at least 4, the least of this prior, got 2"),
        (("--width", 17), "the width 17 must be a multiple of the number of heads"),
        (("-o", tmp_path / "none" / "net"), "does not exist; make it first"),
    ):
        answer = run("pretrain", "--prior", "small", "-o", tmp_path / "net", *words)
        assert answer.exit_code == 1
        assert sentence in " ".join(answer.output.split())
    assert not list(tmp_path.iterdir())


def test_a_name_with_a_file_that_is_missing_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    name = f"prior-fitted:{tmp_path / 'none'}"
    answer = run("fit", tmp_path / "nothing.csv", "--target", "y", "--model", name, "-o", tmp_path / "model")
    assert answer.exit_code == 1
    assert "there is no checkpoint file" in " ".join(answer.output.split())
    with pytest.raises(ValueError, match="no model is called 'gp:file'"):
        model("gp:file")
