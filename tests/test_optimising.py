"""An optimisation becomes a command's task and a report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kernelfield import optimising
from kernelfield.bo.evaluation import Command
from kernelfield.bo.loop import FailedTrial, Optimizer
from kernelfield.bo.space import Condition, Space
from kernelfield.bo.storage import give_up
from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.optimising import (
    default_storage,
    effects,
    grid,
    keep_report,
    message,
    posed,
    report,
    standing,
    title,
    write_report,
)
from tests.bo.objectives import valley
from tests.bo.parents import random

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = Space(
    Space.of({"x": (0.0, 1.0), "rate": (1e-3, 1.0, "log"), "k": ["a", "b"], "g": (0.0, 1.0)}).parameters,
    {"g": Condition("k", ("b",))},
)


def objective(parameters: dict[str, Any]) -> dict[str, Any]:
    value = 10 * (parameters["x"] - 0.3) ** 2 + parameters.get("g", 0.5)
    return {"values": [value], "constraints": {"size": parameters["x"] - 0.9}}


def test_the_report_holds_the_trials_as_they_were() -> None:
    optimizer = random(SPACE)
    optimizer.run(objective, 12)
    [stopped] = optimizer.ask()
    give_up(optimizer.study, optimizer.trials[stopped.number]._trial_id, "interrupted")
    with pytest.warns(FailedTrial):
        optimizer.tell(optimizer.ask()[0], failure="no disk")
    made = report(optimizer, storage="postgresql://me:hun7@host/db", seed=3)
    course = made.course
    assert course.states == ("complete",) * 12 + ("pruned", "failed")
    assert course.messages[12:] == ("interrupted; queued again", "no disk")
    done = optimizer.trials[:12]
    assert np.array_equal(course.values[:12, 0], [t.value for t in done])
    assert course.constraints is not None
    assert np.array_equal(course.constraints[:12, 0], [t.constraints["size"] for t in done])
    assert optimizer.best is not None and course.best == optimizer.best.number
    assert [p.kind for p in course.parameters] == ["real", "log", "categorical", "real"]
    assert "hun7" not in json.dumps(made.to_dict())
    assert made.provenance["storage"] == "postgresql://me:***@host/db"
    assert "1 trial was not finished and queued again" in made.notes[0]
    assert sum(made.importances.values()) == pytest.approx(1)
    assert max(made.importances, key=lambda name: made.importances[name]) == "x"
    for one in made.slices:
        assert one.mean.shape == (len(one.grid), 1)
    [of_x] = [one for one in made.slices if one.parameter == "x"]
    assert abs(of_x.grid[int(of_x.mean[:, 0].argmin())] - 0.3) < 0.15


def test_predictions_made_before_a_trial_are_in_its_report() -> None:
    optimizer = random({"x": (0.0, 1.0)}, startup_trials=3)
    optimizer.run(valley, 6)
    made = report(optimizer).course
    assert made.means is not None and made.acquisition is not None
    assert np.isnan(made.means[:3]).all() and np.isfinite(made.means[3:]).all()
    assert np.isfinite(made.acquisition[3:]).all()


def test_a_report_of_little_says_little(tmp_path: Path) -> None:
    optimizer = random(SPACE)
    assert report(optimizer).verdicts()[0].title == "No trial has a finite value"
    optimizer.run(objective, 2)
    made = report(optimizer)
    assert (list(made.slices), dict(made.importances)) == ([], {})
    write_report(optimizer, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().lower().startswith("<!doctype html")


def test_a_page_is_written_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimising, "REST", 0)
    optimizer, page, seen = random(SPACE), tmp_path / "r.html", []
    keep = keep_report(optimizer, page, seconds=0)

    def watch(trial: optuna.trial.FrozenTrial) -> None:
        keep(trial)
        seen.append(page.read_text() if page.exists() else "")

    optimizer.run(objective, 2, callback=watch)
    begun, ended, still, again = seen
    assert begun == "" and ended.lower().startswith("<!doctype html")
    assert still == ended != again  # a trial that begins changes nothing
    page.unlink()
    optimizer.run(objective, 3, callback=keep_report(optimizer, page, seconds=60))
    assert not page.exists()


def test_a_page_waits_for_nineteen_times_as_long_as_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []

    def write(*_: Any, **__: Any) -> None:
        written.append(now[0])
        now[0] += 2.0

    monkeypatch.setattr(optimising, "write_report", write)
    monkeypatch.setattr(optimising.time, "monotonic", lambda: now[0])
    optimizer = random()
    optimizer.run(valley, 1)
    keep = keep_report(optimizer, tmp_path / "r.html", seconds=30)
    for now[0] in map(float, range(0, 120, 3)):
        keep(optimizer.trials[0])
    assert written == [30.0, 72.0, 114.0]


def test_a_page_that_cannot_be_written_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    optimizer = random()
    keep = keep_report(optimizer, folder / "r.html", seconds=0)
    folder.rmdir()
    with pytest.warns(UserWarning, match="the page was not written, and the run goes on: the folder .* does not exist"):
        optimizer.run(valley, 2, callback=keep)
    assert len(optimizer.trials) == 2
    with pytest.raises(FileNotFoundError, match="make it first"):
        keep_report(optimizer, folder / "r.html")
    with pytest.raises(ValueError, match="seconds must be at least 0, got -1"):
        keep_report(optimizer, tmp_path / "r.html", seconds=-1)


def test_a_page_that_fails_in_any_way_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError

    monkeypatch.setattr(optimising, "write_report", fail)
    optimizer = random()
    with pytest.warns(UserWarning, match="the page was not written, and the run goes on: KeyError"):
        optimizer.run(valley, 2, callback=keep_report(optimizer, tmp_path / "r.html", seconds=0))
    assert len(optimizer.trials) == 2


@pytest.mark.parametrize("kind", [NotPositiveDefinite, NotImplementedError, torch.linalg.LinAlgError, MemoryError])
def test_a_report_says_what_its_surrogate_could_not(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Optimizer, points: Any) -> Any:
        raise kind("the matrix is not positive definite")

    optimizer = random(SPACE)
    optimizer.run(objective, 4)
    monkeypatch.setattr(Optimizer, "predict", refuse)
    made = report(optimizer)
    assert (list(made.slices), len(made.course.params)) == ([], 4)
    assert "as the surrogate gave none: the matrix is not positive definite" in made.notes[0]


def test_several_objectives_have_a_column_each() -> None:
    optimizer = random(SPACE, directions=["minimize", "maximize"])
    optimizer.run(lambda p: [p["x"], p["x"] ** 2 - p["rate"]], 8)
    made = report(optimizer)
    assert made.course.directions == ["minimize", "maximize"]
    assert all(one.mean.shape[1] == 2 for one in made.slices)
    assert set(made.course.front.tolist()) == {trial.number for trial in optimizer.front}


def test_effects_are_those_of_a_sum_of_squares() -> None:
    """Of f = a x + b y with x and y uniform, total effects are as a^2 to b^2."""
    x, y, u, v = np.random.default_rng(0).uniform(size=(4, 200_000))
    plain, changed = (2 * x + y)[:, None], np.stack([2 * u + y, 2 * x + v])[..., None]
    assert effects(["x", "y"], plain, changed)["x"] == pytest.approx(0.8, abs=0.005)
    for size in (1e300, 1e-300):
        assert effects(["x", "y"], size * plain, size * changed)["x"] == pytest.approx(0.8, abs=0.005)
    assert effects(["x"], np.ones((5, 1)), np.ones((1, 5, 1))) == {}


def test_a_grid_goes_from_end_to_end() -> None:
    assert grid(CategoricalDistribution(["a", None])) == ["a", None]
    assert grid(IntDistribution(1, 5)) == [1, 2, 3, 4, 5]
    assert grid(IntDistribution(0, 6, step=2)) == [0, 2, 4, 6]
    values = grid(FloatDistribution(1e-4, 1, log=True))
    assert (values[0], values[-1], len(values)) == (pytest.approx(1e-4), pytest.approx(1.0), 41)
    assert values[20] == pytest.approx(1e-2)


def test_a_study_is_named_after_its_target_and_kept_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert title("train:loss", None) == "train-loss"
    assert title(None, "/usr/bin/python train.py {x}") == "python"
    assert title(None, "  ") == "study"
    assert default_storage("s", tmp_path) == "sqlite:///s.db"
    monkeypatch.setattr(optimising, "network", lambda path: "nfs")
    assert default_storage("s", tmp_path) == "journal:s.journal"


def test_a_task_is_posed_by_a_target_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    optimizer, function, place = posed("tests.bo.objectives:valley", None, ["x=0.0:1"], folder=tmp_path, seed=0)
    assert (function, place, optimizer.study.study_name) == (
        valley,
        "sqlite:///tests.bo.objectives-valley.db",
        "tests.bo.objectives-valley",
    )
    _, function, _ = posed(None, "echo {x}", ["x=0:1"], storage=f"journal:{tmp_path}/j", study="s", folder=tmp_path)
    assert function == Command("echo {x}")
    for both in ((None, None), ("a:b", "c")):
        with pytest.raises(ValueError, match="give a TARGET, module:function, or a --command"):
            posed(*both, ["x=0:1"], folder=tmp_path)


def test_where_a_study_stands_is_said_in_a_few_words() -> None:
    optimizer = random()
    assert standing(optimizer, 4) == "0 of 4 trials are there"
    optimizer.run(valley, 2)
    optimizer.enqueue({"x": 0.5})
    assert standing(optimizer, 4) == "2 of 4 trials are there, 1 that was interrupted or queued will come first"
    assert message(optimizer.trials[0]) == ""
