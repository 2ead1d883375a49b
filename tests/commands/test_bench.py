"""`kernelfield bench bo` runs, goes on, ranks, and refuses in one sentence."""

import json
from pathlib import Path

from tests.test_cli import done, run

SHORT = ("bench", "bo", "--problems", "branin", "--surrogates", "gp,random", "--seeds", 2, "--trials", 8)


def test_a_benchmark_is_run_once_and_its_table_shown_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    first = done(*SHORT, "--output", folder)
    assert "branin, gp, seed 1" in first.output
    assert "95% interval" in first.stdout
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("0*.json")}
    assert len(before) == 4
    again = done(*SHORT, "--output", folder)
    assert "4 of 4 runs are in" in " ".join(again.output.split())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("0*.json")} == before
    table = done("bench", "bo", "--table", "--output", folder)
    assert table.stdout.splitlines()[2:] == first.stdout.splitlines()[2:]
    content = json.loads((folder / "standings.json").read_text())
    assert [one["sampler"] for one in content["tables"][0]["standings"]] == ["gp", "random"]
    assert all(len(line) <= 80 for line in first.stdout.splitlines() if not line.startswith("JSON"))


def test_a_failing_surrogate_is_told_and_the_others_ranked(tmp_path: Path) -> None:
    words = ("bench", "bo", "--problems", "branin", "--surrogates", "time-series,random", "--seeds", 1, "--trials", 8)
    assert "1 of 2 runs failed" in " ".join(done(*words, "--output", tmp_path / "a").output.split())


def test_wrong_requests_are_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = ("--output", tmp_path / "runs")
    for words, sentence in (
        (("--problems", "branim"), "did you mean branin"),
        (("--suite", "slow"), "no suite is called"),
        (("--problems", "branin", "--surrogates", "optuna-pg"), "did you mean optuna-gp"),
        (("--problems", "branin", "--suite", "quick"), "one of the two"),
        ((), "one of the two"),
        (("--table",), "holds no runs"),
        (("--problems", "levy", "--protocol", "paper"), "does not have"),
    ):
        answer = run("bench", "bo", *words, *folder)
        assert answer.exit_code == 1
        assert sentence in " ".join(answer.output.split())
    assert not (tmp_path / "runs").exists()
