"""`kernelfield solve` writes a solution, its picture and its figures, or says in a sentence why not."""

import json
import re
import sys
from pathlib import Path

import matplotlib.image as png
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from kernelfield.cli import app
from kernelfield.core.version import __version__
from kernelfield.pde.benchmarks import benchmarks
from kernelfield.pde.problem import TEST_POINTS
from kernelfield.pde.solve import solve

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = {"solution.npz", "solution.png", "solution.json"}


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are written, drawn and measured on in a moment."""
    monkeypatch.setitem(TEST_POINTS, 2, 61)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["solve", *map(str, arguments)])


def done(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_list_names_every_problem() -> None:
    text = done("--list").stdout
    assert all(f" {name} " in text for name in benchmarks())
    assert "u_t - 0.1 u_xx = f" in text


def test_a_named_problem_is_solved_and_written(tmp_path: Path) -> None:
    result = done("heat", "-o", tmp_path / "o")
    assert names(tmp_path / "o") == FILES
    content = json.loads((tmp_path / "o" / "solution.json").read_text())
    solution = solve(benchmarks()["heat"].problem)
    assert content["relative_l2"] == pytest.approx(solution.relative_l2(), rel=1e-3)
    assert content["coverage95"] == pytest.approx(solution.coverage(), abs=1e-3)
    assert content["offset_residual"] == pytest.approx(solution.offset_residual, rel=1e-3)
    assert content["condition"] == pytest.approx(max(solution.condition.values()), rel=1e-3)
    assert content["seconds"] > 0
    assert content["method"] == solution.method
    assert (content["problem"], content["version"], content["seed"]) == ("heat", __version__, 0)
    with np.load(tmp_path / "o" / "solution.npz") as arrays:
        x, t, mean = arrays["x"], arrays["t"], arrays["mean"]
        error = np.linalg.norm(mean - arrays["exact"]) / np.linalg.norm(arrays["exact"])
        assert arrays["std"].shape == mean.shape == (len(x), len(t))
    assert error == pytest.approx(content["relative_l2"], rel=1e-6)
    at = torch.tensor([[x[40], t[50]]])
    assert mean[40, 50] == pytest.approx(solution.mean(at).item(), abs=1e-9)
    assert png.imread(tmp_path / "o" / "solution.png").std() > 0.05  # not a blank page
    assert "heat: u_t - 0.1 u_xx = f" in result.stdout
    assert f"JSON: {tmp_path / 'o' / 'solution.json'}" in result.stdout


def test_an_equation_of_ones_own_without_exact_solution_has_nulls(tmp_path: Path) -> None:
    done("--equation", EXAMPLES / "burgers.toml", "-o", tmp_path / "o", "--no-picture")
    content = json.loads((tmp_path / "o" / "solution.json").read_text())
    assert content["problem"] == "Burgers"
    assert content["relative_l2"] is None
    assert content["coverage95"] is None
    assert content["offset_residual"] < 1e-2
    with np.load(tmp_path / "o" / "solution.npz") as arrays:
        assert set(arrays) == {"x", "t", "mean", "std"}


def test_a_line_is_written_in_steps_that_follow_its_swings(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('exact = "sin(60*x)"\n[domain]\nx = [0, "2*pi"]\n[operator]\nu_xx = 1\n')
    done("--equation", tmp_path / "a.toml", "-o", tmp_path / "o", "--solver", "separable", "--nodes", "200")
    with np.load(tmp_path / "o" / "solution.npz") as arrays:
        np.testing.assert_allclose(arrays["mean"], np.sin(60 * arrays["x"]), atol=1e-4)
        assert len(arrays["x"]) == 3000
    assert "grid of 200" in json.loads((tmp_path / "o" / "solution.json").read_text())["method"]


def test_without_a_picture_an_old_one_does_not_stay(tmp_path: Path) -> None:
    done("heat", "-o", tmp_path, "--nodes", "20")
    assert names(tmp_path) == FILES
    result = done("heat", "-o", tmp_path, "--nodes", "20", "--no-picture")
    assert names(tmp_path) == FILES - {"solution.png"}
    assert "Picture" not in result.stdout


ATTACK = "source = \"__import__('pathlib').Path('trace').touch()\"\nboundary = 0\n"
ATTACK += "[domain]\nx = [0, 1]\n[operator]\nu_xx = 1\n"
REFUSED = {
    "an unknown name": (["haet"], "there is no problem 'haet'; did you mean 'heat'"),
    "an unknown solver": (["heat", "--solver", "magic"], "solver must be 'auto', 'collocation'"),
    "a solver that cannot": (
        ["heat", "--solver", "newton"],
        "cannot do heat, which has a linear equation; take 'separable'",
    ),
    "nodes for other axes": (["heat", *["--nodes", "9"] * 3], "once, or for each of the axes x, t"),
    "no file": (["--equation", "none.toml"], "none.toml"),
    "a file that attacks": (["--equation", "attack.toml"], "attack.toml: source: .*only numbers"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_request_ends_with_one_sentence_and_code_1(what: str, as_a_user: Path) -> None:
    Path("attack.toml").write_text(ATTACK)
    arguments, sentence = REFUSED[what]
    result = run(*arguments, "-o", "o")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert re.search(sentence, result.stderr)
    assert not Path("trace").exists()
    assert not Path("o").exists()


@pytest.mark.parametrize(
    "arguments",
    [["-o", "o"], ["heat", "--equation", "a.toml", "-o", "o"], ["heat"], ["heat", "-o", "o", "--nodes", "1"]],
)
def test_a_misspelt_command_ends_with_code_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_the_folder_is_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.solving.solve", lambda *_, **__: pytest.fail("solved first"))
    assert "does not exist; make it first" in run("heat", "-o", tmp_path / "a" / "b").stderr
    (tmp_path / "file").write_text("")
    assert run("heat", "-o", tmp_path / "file").exit_code == 1
    (tmp_path / "solution.png").mkdir()
    assert "is a folder" in run("heat", "-o", tmp_path).stderr


def test_what_fails_on_the_way_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("heat", "-o", tmp_path, "--nodes", "20", "--no-picture")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*_: object, **__: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("kernelfield.solving.draw_solution", fails)
    assert "error: no ink" in run("heat", "-o", tmp_path, "--nodes", "24").stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_matplotlib_the_extra_is_named_and_the_rest_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "kernelfield.uq.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("heat", "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "pip install 'kernelfield[report]'" in result.stderr
    done("heat", "-o", tmp_path / "o", "--no-picture", "--nodes", "20")
