"""Every model with a name fits a table from the command line, and its report is whole."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from kernelfield.cli import app
from kernelfield.models.entry import FINITE, LEARNED, SPARSE, Entry
from kernelfield.models.zoo import CLASSIFIERS, MODELS

# Of one input where the model takes no more.
SINGLE = {"time-series"}


def names(entries: Mapping[str, Entry]) -> list[object]:
    """Each name of the zoo; those that take long even of few rows are marked."""
    long = {name for name, one in entries.items() if not one.quick and one.family in (FINITE, LEARNED, SPARSE)}
    long |= {"mc-dropout", "ensemble", "last-layer", "quantile-network", "tensor", "spectral", "ntk", "erf-nngp"}
    return [pytest.param(name, marks=pytest.mark.slow if name in long else ()) for name in entries]


@pytest.fixture
def run(as_a_user: Path):
    return lambda *words: CliRunner().invoke(app, list(words))


def grid(*sizes: int) -> pd.DataFrame:
    axes = np.meshgrid(*(np.linspace(0, 1, m) for m in sizes), indexing="ij")
    columns = {name: axis.ravel() for name, axis in zip("xt", axes, strict=False)}
    rng = np.random.default_rng(0)
    value = sum(np.sin(4 * v + i) for i, v in enumerate(columns.values())) + 0.1 * rng.normal(size=axes[0].size)
    return pd.DataFrame(columns | {"T": value}).sample(frac=1, random_state=0)


@pytest.mark.parametrize("name", names(MODELS))
def test_a_regressor_ends_in_a_report(name, run):
    table = grid(40) if name in SINGLE else grid(10, 6)
    table.to_csv("data.csv", index=False)
    result = run(
        "fit", "data.csv", "--target", "T", "--model", name, "-o", "model", "--report", "r.html", "--json", "r.json"
    )
    assert result.exit_code == 0, result.output
    record = json.loads(Path("r.json").read_text())
    assert record["scores"]["crps"] < 0.3
    assert name in Path("r.html").read_text()


@pytest.mark.parametrize("name", names(CLASSIFIERS))
def test_a_classifier_ends_in_a_report(name, run):
    table = grid(8, 6)
    table["kind"] = np.where(table.pop("T") > 0.7, "high", "low")
    table.to_csv("data.csv", index=False)
    result = run(
        "fit", "data.csv", "--target", "kind", "--classify", "--model", name, "-o", "model", "--json", "r.json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(Path("r.json").read_text())["scores"]["accuracy"] > 0.6


def test_a_grid_is_recognised_and_said(run):
    grid(8, 6).iloc[:45].to_csv("data.csv", index=False)
    result = run("fit", "data.csv", "--target", "T", "--model", "grid", "-o", "model", "--test-size", "0")
    assert "the rows are a grid of 8 x 6 cells, 45 of 48 with a target; solved exactly" in result.stderr


def test_a_table_that_is_no_grid_is_refused_with_advice(run):
    rng = np.random.default_rng(0)
    pd.DataFrame(rng.normal(size=(30, 3)), columns=["x", "t", "T"]).to_csv("data.csv", index=False)
    result = run("fit", "data.csv", "--target", "T", "--model", "grid", "-o", "model", "--test-size", "0")
    assert result.exit_code == 1
    assert "are no grid" in result.stderr and "use another model" in result.stderr
    assert not Path("model").exists()
