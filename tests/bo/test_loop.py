"""An optimizer asks and tells, survives what objectives give it, and knows the best."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState

from kernelfield.bo.history import NOISE, read
from kernelfield.bo.loop import FailedTrial, Optimizer
from kernelfield.bo.running import Suggestion
from kernelfield.bo.search import Budget
from kernelfield.bo.space import Condition, Space
from kernelfield.bo.space_file import read_space
from kernelfield.bo.storage import FAILURE
from tests.bo.objectives import LINE, valley
from tests.bo.parents import random

optuna.logging.set_verbosity(optuna.logging.ERROR)
QUICK = Budget(raw=64, starts=3, steps=40)
SEVERAL = ("minimize", "maximize")


def test_a_run_finds_the_least_value() -> None:
    optimizer = Optimizer(LINE, startup_trials=4, seed=0, budget=QUICK)
    optimizer.run(valley, 12)
    assert len(optimizer.trials) == 12
    assert optimizer.best is not None
    assert abs(optimizer.best.params["x"] - 0.3) < 0.01
    mean, std = optimizer.predict([{"x": 0.3}, {"x": 0.9}])
    assert mean.shape == std.shape == (2, 1)
    assert np.abs(mean[:, 0] - [0.0, 0.36]).max() < 0.02


def test_values_that_are_maximised_are_predicted_in_their_own_sign() -> None:
    optimizer = random(directions=["maximize"])
    optimizer.run(lambda p: -valley(p), 8)
    assert optimizer.best is not None
    assert optimizer.best.value == max(trial.value for trial in optimizer.trials)
    assert optimizer.predict([{"x": 0.9}])[0].item() == pytest.approx(-0.36, abs=0.05)


def test_points_asked_together_are_different_and_in_the_space() -> None:
    space = Space.of({"x": (0.0, 1.0), "k": ["a", "b"], "n": (1, 9), "one": (3.0, 3.0)})
    optimizer = Optimizer(space, startup_trials=3, seed=0, budget=QUICK)
    for point in optimizer.ask(3):
        assert list(point.parameters) == ["x", "k", "n", "one"]
        optimizer.tell(point, point.parameters["x"])
    points = optimizer.ask(3)
    assert [point.number for point in points] == [3, 4, 5]
    rows = space.encode([point.parameters for point in points])
    assert min(np.abs(a - b).max() for a, b in zip(rows, np.roll(rows, 1, 0), strict=True)) > 1e-4
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        optimizer.ask(0)


def test_a_parameter_is_asked_only_where_it_exists() -> None:
    space = Space(
        Space.of({"gamma": (0.0, 1.0), "kernel": ["rbf", "linear"]}).parameters,
        {"gamma": Condition("kernel", ("rbf",))},
    )
    optimizer = random(space)
    seen = [point.parameters for point in optimizer.ask(16)]
    assert {one["kernel"] for one in seen} == {"rbf", "linear"}
    assert all(("gamma" in one) == (one["kernel"] == "rbf") for one in seen)


BAD: dict[str, Any] = {"nan": math.nan, "infinite": math.inf, "text": "low", "nothing": None, "several": [1.0, 2.0]}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_what_is_no_value_fails_its_trial_with_a_warning_and_all_goes_on(value: Any) -> None:
    optimizer = random()
    [first, second] = optimizer.ask(2)
    with pytest.warns(FailedTrial, match="trial 0 failed: the objective gave"):
        optimizer.tell(first, value)
    optimizer.tell(second, 0.5)
    assert [trial.state for trial in optimizer.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "the objective gave" in optimizer.trials[0].user_attrs[FAILURE]
    assert optimizer.best is not None and optimizer.best.number == 1


def test_a_run_goes_on_when_the_objective_fails() -> None:
    results = iter([1.0, math.nan, "text", [1, 2], None, 0.5])

    def objective(parameters: dict[str, Any]) -> Any:
        if (value := next(results)) is None:
            raise OSError("disk full")
        return value

    optimizer = random()
    with pytest.warns(FailedTrial):
        optimizer.run(objective, 6)
    failed = TrialState.FAIL
    assert [t.state for t in optimizer.trials] == [TrialState.COMPLETE, *[failed] * 4, TrialState.COMPLETE]
    assert optimizer.trials[4].user_attrs[FAILURE] == "OSError: disk full"


def test_an_optimizer_goes_on_though_the_first_trials_all_fail() -> None:
    optimizer = Optimizer(LINE, startup_trials=2, seed=0)
    with pytest.warns(FailedTrial):
        optimizer.run(lambda p: math.nan, 4)
    assert optimizer.best is None and optimizer.front == []
    assert len({trial.params["x"] for trial in optimizer.trials}) == 4
    with pytest.raises(ValueError, match="no trial is complete"):
        optimizer.predict([{"x": 0.5}])


def test_a_failure_is_told_in_words_and_a_trial_only_once() -> None:
    optimizer = random()
    [point] = optimizer.ask()
    with pytest.warns(FailedTrial, match="trial 0 failed: power cut"):
        optimizer.tell(point, failure="power cut")
    with pytest.raises(ValueError, match="trial 0 has ended already"):
        optimizer.tell(0, 1.0)
    with pytest.raises(ValueError, match="there is no trial 7"):
        optimizer.tell(7, 1.0)


def test_a_trial_is_told_by_its_number_from_another_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    [point] = random(storage=url).ask()
    other = random(storage=url)
    other.tell(point.number, 0.5, constraints={"size": -1.0}, noise=0.01)
    [trial] = other.trials
    assert (trial.params, trial.values, trial.constraints) == (point.parameters, [0.5], {"size": -1.0})
    assert trial.user_attrs[NOISE] == [0.01]


def test_constraints_decide_what_is_best_and_one_that_is_not_told_breaks_nothing() -> None:
    optimizer = random()
    for value, limit in ((1.0, 2.0), (3.0, -1.0), (2.0, 0.0)):
        optimizer.tell(optimizer.ask()[0], value, [limit])
    assert optimizer.best is not None and optimizer.best.value == 2.0
    optimizer.tell(optimizer.ask()[0], 0.0)
    assert optimizer.best is not None and optimizer.best.value == 0.0


def test_the_front_and_its_hypervolume() -> None:
    optimizer = random(directions=SEVERAL)
    for values in ([1.0, 1.0], [2.0, 3.0], [3.0, 2.0], [0.5, 0.5], [9.0, 9.0]):
        limits = [1.0] if values[0] == 9.0 else [0.0]
        optimizer.tell(optimizer.ask()[0], values, limits)
    assert sorted(trial.values for trial in optimizer.front) == [[0.5, 0.5], [1.0, 1.0], [2.0, 3.0]]
    # From (4, 0): 3.5 x 0.5, then 3 x 0.5 and 2 x 2 above it.
    assert optimizer.hypervolume([4.0, 0.0]) == pytest.approx(3.5 * 0.5 + 3 * 0.5 + 2 * 2)
    with pytest.raises(ValueError, match="2 objectives have no best trial but a front"):
        optimizer.best  # noqa: B018
    with pytest.raises(ValueError, match="reference must have 2 numbers"):
        optimizer.hypervolume([1.0])
    assert random(directions=SEVERAL).hypervolume([4.0, 0.0]) == 0.0


def test_a_point_that_is_queued_is_evaluated_first() -> None:
    optimizer = Optimizer({"x": (0.0, 1.0), "k": ["a", "b"]}, startup_trials=2, seed=0, budget=QUICK)
    optimizer.run(lambda p: p["x"], 3)
    optimizer.enqueue({"x": 0.125, "k": "b"})
    optimizer.enqueue({"k": "a"})
    whole, part, free = optimizer.ask(3)
    assert whole.parameters == {"x": 0.125, "k": "b"}
    assert part.parameters["k"] == "a"
    assert 0 <= part.parameters["x"] <= 1 and free.number == 5
    assert read(optimizer.trials[whole.number]) is None
    told = read(optimizer.trials[part.number])
    assert told is not None and told.parameters == part.parameters
    assert told.mean == ()  # nothing was said of this point
    with pytest.raises(ValueError, match="the space has no parameter 'y'; it has x, k"):
        optimizer.enqueue({"y": 1})
    for name, value in {"x": 2.0, "k": "c"}.items():
        with pytest.raises(ValueError, match=f"'{name}' cannot be {value!r}"):
            optimizer.enqueue({name: value})
    with pytest.raises(ValueError, match="'x' cannot be 'low'"):
        optimizer.enqueue({"x": "low"})


def test_noise_that_is_known_reaches_the_surrogate() -> None:
    optimizer = random()
    optimizer.run(lambda p: {"values": valley(p), "noise": [0.04]}, 3)
    assert all(trial.user_attrs[NOISE] == [0.04] for trial in optimizer.trials)


def test_points_that_are_not_whole_are_not_predicted() -> None:
    optimizer = random()
    optimizer.run(valley, 3)
    with pytest.raises(ValueError, match="the point {'X': 0.5} lacks 'x'"):
        optimizer.predict([{"X": 0.5}])
    single = Optimizer({"k": ["a"]}, seed=0)
    single.tell(single.ask()[0], 1.0)
    with pytest.raises(ValueError, match="nothing to predict"):
        single.predict([{"k": "a"}])


def watched(optimizer: Optimizer, count: int) -> int:
    """How many steps it takes to watch so many trials of a loss that falls to its level by the ninth step."""
    steps = 0
    for _ in range(count):
        [point] = optimizer.ask()
        for step in range(1, 10):
            loss, steps = valley(point.parameters) + 1 / step, steps + 1
            if optimizer.report(point, loss, step) and step < 9:
                optimizer.stop(point)
                break
        else:
            optimizer.tell(point, loss)
    return steps


def test_trials_that_are_stopped_on_their_way_are_learned_from() -> None:
    pruner = SuccessiveHalvingPruner(1, 3)
    optimizer = Optimizer(LINE, startup_trials=6, seed=0, budget=QUICK, fidelity="step", pruner=pruner)
    assert watched(optimizer, 16) < 0.7 * 16 * 9
    states = [trial.state for trial in optimizer.trials]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert optimizer.best is not None
    assert abs(optimizer.best.params["x"] - 0.3) < 0.02
    last = read(optimizer.trials[-1])
    assert last is not None
    assert last.records[0].rows > states.count(TrialState.COMPLETE)  # type: ignore[union-attr]


def test_reports_that_cannot_be_are_refused(tmp_path: Path) -> None:
    address = f"journal:{tmp_path / 'a.journal'}"
    optimizer = Optimizer(LINE, storage=address, fidelity="step", seed=0)
    [point] = optimizer.ask()
    assert not Optimizer(LINE, storage=address, fidelity="step", seed=0).report(point.number, 0.5, 1)
    with pytest.raises(ValueError, match="value must be a number and step a whole one, got 'low' and 2"):
        optimizer.report(point, "low", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no trial 7"):
        optimizer.report(7, 0.5, 1)
    optimizer.stop(point)
    for late in (lambda: optimizer.report(point, 0.4, 2), lambda: optimizer.stop(point)):
        with pytest.raises(ValueError, match="trial 0 has ended already"):
            late()
    several = Optimizer(LINE, directions=SEVERAL, startup_trials=4, seed=0)
    with pytest.raises(ValueError, match="reports are of one objective, got 2"):
        several.report(several.ask()[0], 0.5, 1)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no direction": ({"directions": []}, "directions must name at least one"),
    "an odd direction": ({"directions": ["up"]}, "must be 'minimize' or 'maximize', got 'up'"),
    "an unknown surrogate": ({"surrogate": "nngb"}, "no model is called 'nngb'; did you mean nngp"),
    "an unknown acquisition": ({"acquisition": "log_e"}, "no acquisition is called 'log_e'; did you mean log_ei"),
    "an acquisition of several": ({"acquisition": "qlog_nehvi"}, "'qlog_nehvi' is not for 1 objectives"),
    "steps of several": ({"fidelity": "step", "directions": SEVERAL}, "are for one objective, got 2"),
    "another fidelity": ({"fidelity": "epoch"}, "fidelity must be 'step'"),
    "an unknown kernel": ({"kernel": "rbff"}, "kernel must be .* got 'rbff'"),
    "a reference of two": ({"reference": (1.0, 2.0)}, "reference must have 1 numbers"),
}


@pytest.mark.parametrize(("settings", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_refused_before_any_trial(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Optimizer(LINE, **settings)


SPACES: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "at least one parameter, got none"),
    "inverted bounds": ({"x": (1.0, 0.0)}, "the lower one first, got 1 and 0"),
    "no choices": ({"x": []}, "the choices of 'x' are empty"),
}


@pytest.mark.parametrize(("space", "sentence"), SPACES.values(), ids=SPACES)
def test_a_space_of_nothing_is_refused(space: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Optimizer(space)


def test_what_is_stored_is_a_study_of_optuna(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    optimizer = random(read_space("x=0.0:1", "k=a,b"), storage=url, name="mine")
    optimizer.run(valley, 3)
    study = optuna.load_study(study_name="mine", storage=url)
    assert [trial.params for trial in study.trials] == [trial.params for trial in optimizer.trials]
    assert optimizer.best is not None and study.best_value == optimizer.best.value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(optimizer.trials) == 4


def test_the_same_seed_suggests_the_same(tmp_path: Path) -> None:
    def points(folder: Path) -> list[Suggestion]:
        optimizer = Optimizer(LINE, startup_trials=3, seed=5, budget=QUICK, storage=f"sqlite:///{folder}/s.db")
        optimizer.run(valley, 5)
        # A second optimizer knows of the first only what is stored.
        return Optimizer(LINE, startup_trials=3, seed=5, budget=QUICK, storage=f"sqlite:///{folder}/s.db").ask()

    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first, second = (points(folder) for folder in folders)
    assert first == second


def test_the_generator_of_torch_is_left_alone() -> None:
    state = torch.get_rng_state()
    Optimizer(LINE, startup_trials=1, seed=0, budget=QUICK).run(valley, 3)
    assert torch.equal(state, torch.get_rng_state())
