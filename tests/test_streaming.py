"""Tables batch by batch: the model is that of the rows in memory, and the command goes on where it was stopped."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from kernelfield.cli import app
from kernelfield.data.encoding import Encoding
from kernelfield.data.streams import TableStream, held_out
from kernelfield.data.tables import numeric_target
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.svgp import VariationalProcess
from kernelfield.streaming import choose, fit_stream, share_of, streams
from kernelfield.tabular import load_table

ROWS = 900


def table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, kind = rng.uniform(0, 6, n), rng.choice(["a", "b"], n)
    y = np.sin(x) + (kind == "a") + 0.1 * rng.standard_normal(n)
    y[3] = np.nan
    return pd.DataFrame({"x": x, "kind": kind, "junk": rng.uniform(size=n), "y": y})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for number in range(3):
        table(ROWS // 3, number).to_parquet(folder / f"{number}.parquet", row_group_size=70)
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kernelfield.estimators.streaming.BLOCK", "kernelfield.core.streaming.Learner.batch"):
        monkeypatch.setattr(name, 100)


MODEL = RandomFeatureProcess(count=20, restarts=1, steps=3)


def test_a_stream_gives_the_model_of_the_rows_in_memory(folder: Path) -> None:
    stream = TableStream.open(folder, drop=["junk"])
    seed = int(np.random.RandomState(0).randint(2**31))  # what the estimator hands to its generator
    fit = fit_stream(MODEL, stream, "y", test_share=0.2, seed=seed)
    frame = stream.frame()
    learned = frame[frame["y"].notna() & ~held_out(np.arange(ROWS), 0.2, seed)]
    encoding = Encoding.fit(learned[["x", "kind"]])
    X = encoding.apply(learned[["x", "kind"]]).frame
    whole = FieldRegressor(MODEL, random_state=0).fit(X, learned["y"].to_numpy(copy=True))
    new = table(50, 9)
    answer, _ = fit.model.predict(new, 0.9)
    mean, std = whole.predict(encoding.apply(new[["x", "kind"]]).frame, return_std=True)
    np.testing.assert_allclose(answer["mean"], mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(answer["std"], std, rtol=1e-7)
    assert fit.held is not None
    held = frame[held_out(np.arange(ROWS), 0.2, seed)]
    np.testing.assert_array_equal(fit.held.target["y"], numeric_target(held, "y").dropna())
    assert fit.model.rows + len(fit.held.target) + 3 == ROWS
    # Three rows lack the target; those that are held out are not counted among the rows of the fit.
    missing = 3 - fit.held.dropped
    if missing:
        assert any(f"{missing} row" in note and "want of a target" in note for note in fit.notes)


def test_what_a_stream_cannot_learn_is_refused(folder: Path) -> None:
    stream = TableStream.open(folder)
    with pytest.raises(ValueError, match="no column 'Y'.*'y'"):
        fit_stream(MODEL, stream, "Y")
    with pytest.raises(ValueError, match="no column is left"):
        fit_stream(MODEL, stream.only(["y"]), "y")
    with pytest.raises(ValueError, match="Process learns from all rows at once"):
        fit_stream("gp", stream, "y")


def test_the_model_that_nobody_names_is_feasible() -> None:
    assert [choose(n, 8).name for n in (442, 3000, 3001, 200_000)] == ["gp", "gp", "vecchia", "vecchia"]
    assert [choose(n, 30).name for n in (3000, 3001, 50_000, 50_001)] == [
        "gp",
        "gp-sparse",
        "gp-sparse",
        "random-features",
    ]
    assert [choose(n, 3, streamed=True).name for n in (442, 50_001)] == ["gp-sparse", "random-features"]
    assert "3,001 rows of 1 column, as" in choose(3001, 1).reason
    assert choose(10**12, 3).name == "random-features"
    far = choose(20_000_000, 3).name
    assert streams(far, 20_000_000)
    assert not streams("gp", 20_000_000)
    assert not streams(far, 1000)
    assert share_of(1000, 0.2) == 0.2
    assert share_of(10**9, 0.2) * 10**9 == pytest.approx(20_000)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_streams_into_a_checkpoint_and_goes_on_from_it(folder: Path, tmp_path: Path) -> None:
    command = ["fit", folder / "*.parquet", "--target", "y", "--drop", "junk", "--model", "random-features"]
    kept = ["--checkpoint", tmp_path / "c", "--json", tmp_path / "r.json"]
    first = run(*command, "-o", tmp_path / "m", *kept)
    assert first.exit_code == 0, first.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["n_train"] + record["n_test"] == ROWS - 3
    assert record["provenance"]["files"] == 3
    assert "by a hash of their numbers" in record["provenance"]["test"]
    assert 0.75 < record["scores"]["coverage90"] <= 1.0  # 180 rows
    again = run(*command, "-o", tmp_path / "n", *kept)
    assert again.exit_code == 0, again.output
    new = table(20, 5)
    one, two = (load_table(tmp_path / name).predict(new, 0.9)[0] for name in "mn")
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    other = run(*command, "-o", tmp_path / "n", *kept, "--seed", "3")
    assert other.exit_code == 1
    assert "seed was 0 and is 3 now" in other.stderr


def test_the_command_streams_a_variational_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = VariationalProcess("rbf", inducing=12, epochs=2, least_steps=20, batch=50, restarts=1, steps=10)
    monkeypatch.setattr("kernelfield.models.zoo.model", lambda name: small)
    command = ["fit", folder, "--target", "y", "--drop", "junk", "--model", "svgp", "--checkpoint", tmp_path / "c"]
    for name in "mn":  # the second finds the first one's end
        result = run(*command, "-o", tmp_path / name, "--json", tmp_path / "r.json")
        assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["scores"]["rmse"] < 0.2  # the noise is 0.1
    one, two = (load_table(tmp_path / name).predict(table(20, 5), 0.9)[0] for name in "mn")
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_several_small_files_are_one_table(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.glob("*.parquet"))[:2]
    done = run("fit", *files, "--target", "y", "--drop", "junk", "-o", tmp_path / "m", "--model", "gp-linear")
    assert done.exit_code == 0, done.output
    assert load_table(tmp_path / "m").rows == round(0.8 * (600 - 2))


def test_a_schema_that_changes_ends_the_command_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    table(9, 0).to_parquet(tmp_path / "a.parquet")
    table(9, 0).drop(columns="x").to_parquet(tmp_path / "b.parquet")
    refused = run("fit", tmp_path, "--target", "y", "-o", tmp_path.parent / "never")
    assert refused.exit_code == 1
    assert "b.parquet lacks the column 'x'" in refused.stderr
