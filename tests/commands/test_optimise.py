"""`kernelfield optimise` runs functions and commands, goes on where it stopped, and refuses in one sentence."""

import io
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from kernelfield.commands import optimise as module
from kernelfield.optimising import keep_report
from tests.test_cli import done, run

OBJECTIVE = """
import os, time
def loss(parameters):
    return (parameters["x"] - 0.3) ** 2
def two(parameters):
    return parameters["x"], -parameters["x"]
def bad(parameters):
    return float("nan") if parameters["x"] > 0.5 else parameters["x"]
def limited(parameters):
    return {"values": parameters["x"], "constraints": {"size": 0.5 - parameters["x"]}}
def held(parameters):
    time.sleep(0.3)
    return parameters["x"]
def broken(parameters):
    raise RuntimeError("sizes differ:\\n\\tweights 3\\n\\tinputs 4")
def stopped(parameters):
    if parameters["x"] > 0.6:
        raise KeyboardInterrupt
    return parameters["x"]
"""
LINE = ["--space", "x=0.0:1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train_here.py").write_text(OBJECTIVE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "train_here", raising=False)
    return tmp_path


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_function_is_optimised_and_the_same_command_goes_on(folder: Path) -> None:
    result = done("optimise", "train_here:loss", *LINE, "--trials", 4)
    assert "trials are kept in sqlite:///train_here-loss.db; the same command goes on" in words(result.stderr)
    assert len([line for line in result.stderr.splitlines() if line.startswith("trial ")]) == 4
    assert "train_here-loss: trial" in result.stdout and "is the best" in result.stdout
    result = done("optimise", "train_here:loss", *LINE, "--trials", 6, "-o", "bo.html", "--json", "bo.json")
    assert "the study 'train_here-loss' goes on: 4 of 6 trials are there" in words(result.stderr)
    assert len([line for line in result.stderr.splitlines() if line.startswith("trial ")]) == 2
    content = json.loads((folder / "bo.json").read_text())
    assert len(content["trials"]) == 6
    assert content["provenance"]["storage"] == "sqlite:///train_here-loss.db"
    assert (folder / "bo.html").read_text().lower().startswith("<!doctype html")
    best = min(trial["values"][0] for trial in content["trials"])
    assert f"{best:.6g}" in result.stdout
    assert sorted(path.name for path in folder.iterdir() if path.suffix) == [
        "bo.html",
        "bo.json",
        "train_here-loss.db",
        "train_here.py",
    ]


def test_failures_are_lines_and_the_run_goes_on(folder: Path) -> None:
    result = done("optimise", "train_here:bad", *LINE, "--trials", 6, "--storage", "journal:j")
    assert "failed: the objective gave nan" in result.stderr
    assert "warning" not in result.stderr.lower()
    assert result.stderr.count("trial ") >= 6


def test_a_command_is_optimised_by_two_workers(folder: Path) -> None:
    (folder / "space.toml").write_text("[x]\nlow = 0.0\nhigh = 1.0\n\n[k]\nchoices = ['a b', 'c']\n")
    command = "echo {k}; test {k} = 'a b' && echo {x}"
    result = done(
        "optimise", "--command", command, "--space", "space.toml", "--trials", 8, "--workers", 2, "--name", "c d"
    )
    assert "c d: trial" in result.stdout
    assert (folder / "c d.db").exists()
    assert "failed: the command ended with exit code 1" in result.stderr


def test_more_is_better_where_it_is_said(folder: Path) -> None:
    least, most = (
        done("optimise", "train_here:held", *LINE, "--trials", 3, "--name", name, *more)
        for name, more in (("down", []), ("up", ["--maximise"]))
    )
    values = sorted(
        float(line.split(":")[1].split(";")[0]) for line in least.stderr.splitlines() if "best so far" in line
    )
    assert f"{values[0]:.6g}" in least.stdout
    assert f"{values[-1]:.6g}" in most.stdout


def test_several_objectives_end_in_a_front_and_constraints_are_shown(folder: Path) -> None:
    result = done("optimise", "train_here:two", *LINE, "--trials", 4, "--objectives", 2)
    assert "4 trials that no other dominates" in result.stdout
    assert "4 on the front" in result.stderr
    result = done("optimise", "train_here:limited", *LINE, "--trials", 5)
    assert "constraint size" in result.stdout
    assert "breaks a constraint" in result.stderr
    result = done("optimise", "train_here:two", *LINE, "--trials", 2, "--name", "wrong")
    assert "gave 2 values, 1 declared" in result.stderr
    assert "no trial is complete" in result.stdout


REFUSED = {
    "neither target nor command": ([], "give a TARGET, module:function, or a --command"),
    "no function": (["train_here:lozz"], "did you mean loss?"),
    "no module": (["trane:loss"], "the module 'trane' of the target cannot be imported"),
    "a surrogate": (["train_here:loss", "--surrogate", "nngb"], "no model is called 'nngb'; did you mean nngp"),
    "an acquisition": (["train_here:loss", "--acquisition", "log_e"], "did you mean log_ei"),
    "a server": (
        ["train_here:loss", "--storage", "postgresql://me:hun7@127.0.0.1:1/d"],
        "postgresql+psycopg://me:***@",
    ),
    "no address": (["train_here:loss", "--storage", "here"], "'here' is no address of a storage"),
    "a gain of nothing": (["train_here:loss", "--gain", "0", "--storage", "j.log"], "gain must be above 0, got 0"),
    "one file twice": (["train_here:loss", "-o", "a", "--json", "a"], "is to be written already"),
    "an unused parameter": (["--command", "echo 1"], "does not use the parameter 'x'"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_in_one_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    result = run("optimise", *LINE, *arguments)
    assert result.exit_code == 1, result.output
    assert sentence in words(result.stderr)
    assert "hun7" not in result.output
    assert not any(path.suffix in (".html", ".json") for path in folder.iterdir())


def test_a_space_that_is_wrong_is_refused_with_its_file(folder: Path) -> None:
    (folder / "s.toml").write_text("[x]\nlow = 1\nhigh = 0\n")
    result = run("optimise", "train_here:loss", "--space", "s.toml")
    assert (result.exit_code, "s.toml: the bounds of 'x'" in words(result.stderr)) == (1, True)


def test_a_study_of_another_space_is_refused(folder: Path) -> None:
    done("optimise", "train_here:loss", *LINE, "--trials", 1, "--name", "s")
    result = run("optimise", "--command", "echo {y}", "--space", "y=0:1", "--name", "s")
    assert (result.exit_code, "other parameters" in words(result.stderr)) == (1, True)


def test_an_interrupt_says_where_it_stopped_and_writes_no_report(folder: Path) -> None:
    result = run("optimise", "train_here:stopped", *LINE, "--trials", 9, "--json", "bo.json")
    assert result.exit_code == 130
    assert "of 9 trials are there, 1 that was interrupted or queued will come first" in words(result.stderr)
    assert not (folder / "bo.json").exists()


def test_a_page_is_there_before_the_run_has_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.optimising.keep_report", partial(keep_report, seconds=0))
    result = run("optimise", "train_here:stopped", *LINE, "--trials", 9, "-o", "bo.html")
    assert result.exit_code == 130
    assert (folder / "bo.html").read_text().lower().startswith("<!doctype html")


def test_the_best_is_printed_though_the_page_ends_in_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no page today")

    monkeypatch.setattr("kernelfield.optimising.report", fail)
    result = run("optimise", "train_here:loss", *LINE, "--trials", 2, "-o", "bo.html")
    assert result.exit_code == 1
    assert "is the best" in result.stdout and "no page today" in result.stderr


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kernelfield.optimising")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("kernelfield.bo.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = run("optimise", "train_here:loss", *LINE)
    assert (result.exit_code, "pip install 'kernelfield[bo]'" in words(result.stderr)) == (1, True)


def test_a_terminal_sees_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(module, "err", Console(file=out, force_terminal=True, width=100))
    done("optimise", "train_here:loss", *LINE, "--trials", 3)
    assert "3 of 3 trials, 0 running" in out.getvalue()
    assert "best so far" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_failure_of_several_lines_is_one_of_the_table_and_whole_in_the_study(
    folder: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(module, "err", Console(file=out, force_terminal=terminal, width=120))
    done("optimise", "train_here:broken", *LINE, "--trials", 1, "--json", "bo.json")
    assert "failed: RuntimeError: sizes differ: ..." in out.getvalue()
    assert "weights 3" not in out.getvalue()
    assert json.loads((folder / "bo.json").read_text())["trials"][0]["message"].endswith("weights 3\n\tinputs 4")


@pytest.mark.slow
def test_a_job_is_interrupted_from_outside_and_goes_on(folder: Path) -> None:
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from kernelfield.cli import app; app()\n"
    )
    arguments = ["optimise", "train_here:held", *LINE, "--trials", "12", "--workers", "2", "--json", "bo.json"]
    root = str(Path(module.__file__).parents[2])
    job = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{program}", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stderr is not None
    while "trial" not in (line := job.stderr.readline()) or "best so far" not in line:
        assert line, "the job ended"
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=120)
    assert job.returncode == 130
    assert "interrupted; " in said
    result = done(*arguments)
    assert "goes on" in result.stderr
    trials = json.loads((folder / "bo.json").read_text())["trials"]
    complete = [trial["params"]["x"] for trial in trials if trial["state"] == "complete"]
    assert len(set(complete)) == 12
    assert {trial["params"]["x"] for trial in trials} == set(complete)
