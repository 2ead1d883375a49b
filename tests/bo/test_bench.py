"""A benchmark keeps every run whole, repeats none, and starts all samplers from the same points."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from kernelfield.bo import bench as module
from kernelfield.bo.bench import Case, Run, bench, cases, load, read, run
from kernelfield.bo.contestants import Protocol, posed

SHORT = {"seeds": [0, 1], "trials": 8}


def test_a_run_is_the_same_again_and_after_its_file() -> None:
    [case] = cases(["constrained-branin"], ["gp"], seeds=[3], trials=8)
    first, again = run(case), run(case)
    assert first.values == again.values
    assert len(first.values) == len(first.seconds) == len(first.constraints) == 8
    back = Run.from_json(first.to_json())
    assert back.case == case
    assert back.to_json() == first.to_json()


def test_samplers_share_the_design_of_a_seed_and_not_of_another() -> None:
    done = {
        (one.case.sampler, one.case.seed): one for one in map(run, cases(["branin"], ["gp", "optuna-tpe"], **SHORT))
    }
    design = 6
    assert done["gp", 0].values[:design] == done["optuna-tpe", 0].values[:design]
    assert done["gp", 0].values[:design] != done["gp", 1].values[:design]
    assert done["gp", 0].values[design:] != done["optuna-tpe", 0].values[design:]
    space = posed("branin").space
    expected = [posed("branin")(one).values for one in space.decode(space.scattered(design, 0))]
    assert list(done["gp", 0].values[:design]) == expected


def test_a_benchmark_that_was_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    todo = cases(["branin"], ["random", "optuna-tpe"], **SHORT)
    seen: list[Case] = []

    def stop(case: Case, outcome: Run | str) -> None:
        seen.append(case)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(todo, tmp_path, watch=stop)
    kept = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {tmp_path / case.place for case in todo[:2]} == set(kept)
    runs, failed = bench(todo, tmp_path, watch=lambda case, outcome: seen.append(case))
    assert seen == todo  # each once
    assert not failed
    assert [one.case for one in runs] == todo
    assert all(path.read_text() == text for path, text in kept.items())
    assert sorted(map(str, (one.case for one in load(tmp_path)))) == sorted(map(str, todo))


def test_a_run_that_fails_leaves_nothing_and_stops_no_other(tmp_path: Path) -> None:
    todo = cases(["branin"], ["time-series", "random"], seeds=[0], trials=8)  # that model takes one input only
    runs, failed = bench(todo, tmp_path)
    assert [one.case.sampler for one in runs] == ["random"]
    assert "ValueError" in failed[todo[0]]
    assert not (tmp_path / todo[0].place).exists()


@pytest.mark.slow
def test_processes_give_the_same_as_one(tmp_path: Path) -> None:
    todo = cases(["branin"], ["gp"], seeds=[0, 1], trials=8)
    one, _ = bench(todo, tmp_path / "one")
    two, _ = bench(todo, tmp_path / "two", jobs=2)
    assert [r.values for r in one] == [r.values for r in two]


def test_a_trial_without_a_number_is_kept_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = posed("branin")

    def function(parameters: dict) -> module.Outcome:
        outcome = plain.function(parameters)
        return outcome if outcome.values[0] < 20 else module.Outcome((float("nan"),))

    broken = module.Problem("branin", "", plain.space, plain.directions, function, "")
    monkeypatch.setattr(module, "_problem", lambda name: broken)
    [case] = cases(["branin"], ["gp"], seeds=[0], trials=10)
    found = run(case)
    assert None in found.values
    assert json.loads(found.to_json())["values"].count(None) == list(found.values).count(None)


def test_a_file_that_is_not_the_run_is_refused_by_name(tmp_path: Path) -> None:
    first, second = cases(["branin"], ["random"], seeds=[0, 1], trials=8)
    bench([first], tmp_path)
    (tmp_path / second.place).write_text((tmp_path / first.place).read_text())
    with pytest.raises(ValueError, match="another case"):
        bench([second], tmp_path)
    (tmp_path / second.place).write_text("{}")
    with pytest.raises(ValueError, match=r"0001.json.*remove the file"):
        read(tmp_path / second.place)
    with pytest.raises(ValueError, match="holds no runs"):
        load(tmp_path / "nothing")


def test_cases_come_seed_by_seed_and_have_files_of_their_own() -> None:
    todo = cases(["branin", "ackley:dimensions=3"], ["gp", "gp:acquisition=ucb"], seeds=[0, 1])
    assert [one.seed for one in todo] == [0] * 4 + [1] * 4
    assert len({one.place for one in todo}) == 8
    assert Case(**{**asdict(todo[0]), "protocol": Protocol("fixed", 6, 1, 41)}).place != todo[0].place


@pytest.mark.parametrize(
    ("problems", "samplers", "words"),
    [
        (["branim"], ["gp"], "did you mean branin"),
        (["branin"], ["optuna-pg"], "did you mean optuna-gp"),
        (["branin"], ["gp", "gp"], "once"),
        ([], ["gp"], "at least one"),
        (["branin"], ["gp:nonsense=1"], "nonsense"),
    ],
)
def test_what_makes_no_benchmark_is_refused(problems: list[str], samplers: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cases(problems, samplers, seeds=[0])
