import datetime

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from kernelfield.bo.fitting import Record
from kernelfield.bo.history import NOISE, PIECE, TOLD, Told, history, read, write
from kernelfield.bo.space import Space

SPACE = Space.of({"x": (0.0, 10.0), "k": (1, 3)})
BOX = {"x": FloatDistribution(0.0, 10.0), "k": IntDistribution(1, 3)}


def study(*directions: str) -> optuna.Study:
    return optuna.create_study(directions=list(directions or ("minimize",)), sampler=optuna.samplers.RandomSampler(0))


def add(to: optuna.Study, x: float, values: object, **settings: object) -> None:
    to.add_trial(create_trial(params={"x": x, "k": 2}, distributions=BOX, values=values, **settings))  # type: ignore[arg-type]


def known(of: optuna.Study, **settings: object):
    return history(of.get_trials(), of.directions, SPACE, **settings)  # type: ignore[arg-type]


def test_values_are_turned_so_that_more_is_better() -> None:
    both = study("minimize", "maximize")
    add(both, 5.0, [1.0, 2.0])
    found = known(both)
    assert found.Y.tolist() == [[-1.0, 2.0]]
    assert found.X.tolist() == [[0.5, 0.5]]
    assert found.C.shape == (1, 0)


def test_infinite_values_count_as_the_worst_that_was_seen() -> None:
    one = study()
    for x, value in ((1.0, 3.0), (2.0, float("inf")), (3.0, 5.0), (4.0, float("-inf"))):
        add(one, x, [value])
    assert known(one).Y[:, 0].tolist() == [-3.0, -5.0, -5.0, -3.0]


def test_failed_and_pruned_trials_are_left_out() -> None:
    one = study()
    add(one, 1.0, [3.0])
    add(one, 2.0, None, state=TrialState.FAIL)
    add(one, 2.0, None, state=TrialState.PRUNED)
    assert len(known(one).X) == 1


def test_constraints_say_what_is_feasible() -> None:
    one = study()

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 10.0)
        trial.suggest_int("k", 1, 3)
        trial.set_constraint("low", x - 5)
        trial.set_constraint("high", float("inf") if trial.number == 2 else -1.0)
        return x

    for x in (1.0, 9.0, 2.0, 3.0):
        one.enqueue_trial({"x": x, "k": 1})
    one.optimize(objective, n_trials=4)
    high, low = known(one).C.T  # by their names, in units of the largest
    assert (high.tolist(), low.tolist()) == ([-1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -0.75, -0.5])


def test_a_constraint_that_a_trial_has_not_said_is_unknown() -> None:
    one = study()
    for limits in ({}, {"low": 2.0}, {"high": -3.0, "low": float("-inf")}):
        trial = one.ask(fixed_distributions=BOX)
        for name, value in limits.items():
            trial.set_constraint(name, value)
        one.tell(trial, 1.0)
    nan = float("nan")
    assert np.array_equal(known(one).C, [[nan, nan], [nan, 1.0], [-1.0, -1.0]], equal_nan=True)


def test_a_constraint_told_only_where_it_is_broken_is_kept_elsewhere() -> None:
    one = study()
    for value in (None, 2.0, None, 4.0):
        trial = one.ask(fixed_distributions=BOX)
        if value is not None:
            trial.set_constraint("low", value)
        one.tell(trial, 1.0)
    assert np.array_equal(known(one).C, [[float("nan")], [0.5], [-1.0], [1.0]], equal_nan=True)


def test_known_noise_is_read_where_every_trial_has_it() -> None:
    one = study()
    add(one, 1.0, [3.0], user_attrs={NOISE: 0.25})
    assert known(one).noise.tolist() == [[0.25]]
    add(one, 2.0, [3.0])
    assert known(one).noise is None


def test_a_running_trial_is_pending_where_its_process_was_told_to_go() -> None:
    one = study()
    running, own = one.ask(), one.ask()
    assert len(known(one).pending) == 0  # nobody knows yet where it is
    write(one._storage, running._trial_id, Told({"x": 7.5, "k": 3}))
    assert known(one, number=own.number).pending.tolist() == [[0.75, 1.0]]
    assert len(known(one, number=running.number).pending) == 0
    assert len(known(one, dead=[running._trial_id]).pending) == 0
    running.suggest_float("x", 0.0, 10.0)  # what the objective was told in the end counts
    assert known(one).pending[0, 0] == pytest.approx(running.params["x"] / 10)


def test_what_was_told_survives_in_pieces_that_databases_hold() -> None:
    one = study()
    trial = one.ask()
    record = Record(12, 0.012345678, tuple(np.random.default_rng(0).normal(size=400).tolist()))
    told = Told({"x": 1 / 3, "k": 2}, (0.5,), (0.1,), -3.0, (record, None))
    write(one._storage, trial._trial_id, told)
    pieces = one.trials[0].system_attrs
    assert len(pieces) > 2
    assert all(len(piece) <= PIECE for piece in pieces.values())
    back = read(one.trials[0])
    assert back.parameters == told.parameters
    assert (back.mean, back.std, back.value) == (told.mean, told.std, told.value)
    assert back.records[1] is None
    assert back.records[0].rows == 12
    assert back.records[0].parameters == pytest.approx(record.parameters, rel=1e-6)


def test_a_shorter_word_replaces_a_longer_one() -> None:
    one = study()
    trial = one.ask()
    for count in (400, 2):
        write(one._storage, trial._trial_id, Told({"x": 7.5, "k": 3}, records=(Record(count, 0.1, (0.25,) * count),)))
    back = read(one.trials[0])
    assert back is not None and back.records == (Record(2, 0.1, (0.25, 0.25)),)
    assert known(one).pending.tolist() == [[0.75, 1.0]]


def test_half_written_words_are_not_read() -> None:
    one = study()
    trial = one.ask()
    one._storage.set_trial_system_attr(trial._trial_id, f"{TOLD}:0", '[{"x": 0.1, "k"')
    assert read(one.trials[0]) is None
    assert read(FrozenTrial(0, TrialState.RUNNING, None, datetime.datetime.now(), None, {}, {}, {}, {}, {}, 0)) is None


def test_the_latest_surrogate_speaks_for_the_next() -> None:
    one = study()
    trials = [one.ask() for _ in range(3)]
    for trial, rows in zip(trials, (5, 6, 7), strict=True):
        write(one._storage, trial._trial_id, Told({"x": 1.0, "k": 2}, records=(Record(rows, 0.1, (0.0,)),)))
    assert known(one).told.records[0].rows == 7
    assert known(one, number=2).told.records[0].rows == 6  # later trials are no part of the history of an earlier one
    assert known(one, number=0).told is None


def test_no_more_words_are_read_than_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 2000 trials in ten dimensions would take as long as the rest of a history."""
    study, seen = optuna.create_study(), []
    for _ in range(9):
        trial = study.ask()
        write(study._storage, trial._trial_id, Told({"x": 0.5}, records=(Record(1, 0.1, (0.0,)),)))
        study.tell(trial, 0.0)
    monkeypatch.setattr("kernelfield.bo.history.read", lambda trial: seen.append(trial.number) or read(trial))
    assert history(study.trials, study.directions, Space.of({"x": (0.0, 1.0)}), number=7).told is not None
    assert seen == [6]


def test_the_latest_points_that_came_to_nothing_are_kept_and_few_enough_for_every_acquisition() -> None:
    study = optuna.create_study()
    for i in range(70):
        study.tell(study.ask({"x": FloatDistribution(0, 1)}), state=TrialState.FAIL if i % 2 else TrialState.PRUNED)
    points = history(study.trials, study.directions, Space.of({"x": (0.0, 1.0)})).closed
    assert points is not None and points[:, 0].tolist() == [t.params["x"] for t in study.trials[20:]]


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan"), "small", [1.0, 2.0], []])
def test_a_variance_that_is_none_is_refused_with_its_trial(given: object) -> None:
    one = study()
    add(one, 1.0, [3.0], user_attrs={NOISE: given})
    with pytest.raises(ValueError, match="of trial 0 must be a variance above 0 for each of its 1 values, got"):
        known(one)
