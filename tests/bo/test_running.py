"""Runs end where they should, lose nothing when they are interrupted or killed, and share a storage."""

import itertools
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from kernelfield.bo.evaluation import Command
from kernelfield.bo.history import read
from kernelfield.bo.loop import FailedTrial, Optimizer
from kernelfield.bo.running import RUN, LostTrial, progress
from kernelfield.bo.search import Budget
from kernelfield.bo.storage import FAILURE, give_up, heart, open_storage
from tests.bo.objectives import LINE, dies, sleeps, valley
from tests.bo.parents import random, start

optuna.logging.set_verbosity(optuna.logging.ERROR)
QUICK = Budget(raw=64, starts=3, steps=40)


def states(optimizer: Optimizer) -> dict[str, int]:
    return dict(Counter(trial.state.name for trial in optimizer.trials))


def complete(optimizer: Optimizer) -> list[float]:
    return [trial.params["x"] for trial in optimizer.trials if trial.state == TrialState.COMPLETE]


def nothing_lost(optimizer: Optimizer, total: int) -> None:
    """So many different points were evaluated, among them every one that was ever suggested."""
    done = complete(optimizer)
    assert len(done) == len(set(done)) == total
    # A process that is killed while it asks leaves a trial that was never told where to go.
    assert {trial.params["x"] for trial in optimizer.trials if trial.params} == set(done)
    assert progress(optimizer.trials) == (total, 0)


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"sqlite": f"sqlite:///{tmp_path}/s.db", "journal": f"journal:{tmp_path}/s.journal"}[request.param]


def test_a_run_counts_what_earlier_ones_did(url: str) -> None:
    random(storage=url).run(valley, 3)
    optimizer = random(storage=url)
    optimizer.run(valley, 5)
    assert len(optimizer.trials) == 5
    optimizer.run(valley, 5)
    assert len(optimizer.trials) == 5


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (1, 3), (2, 1), (2, 5)])
def test_a_run_does_as_many_trials_as_it_was_told(workers: int, batch: int) -> None:
    optimizer = random()
    seen: list[tuple[int, bool]] = []
    optimizer.run(
        valley, 7, workers=workers, batch=batch, callback=lambda t: seen.append((t.number, t.state.is_finished()))
    )
    assert states(optimizer) == {"COMPLETE": 7}
    assert sorted(seen) == sorted((number, ended) for number in range(7) for ended in (False, True))
    assert all(seen.index((number, False)) < seen.index((number, True)) for number in range(7))


def test_a_run_ends_after_its_seconds() -> None:
    optimizer = random()
    begin = time.monotonic()
    optimizer.run(lambda p: time.sleep(0.2) or 0.0, 1000, seconds=1.0, batch=4)
    assert 0.8 < time.monotonic() - begin < 5
    counts = states(optimizer)
    assert 1 <= counts["COMPLETE"] <= 6
    assert counts.get("WAITING", 0) == counts.get("FAIL", 0) < 4  # the rest of a batch, for another run


def test_a_run_ends_when_little_is_to_be_gained() -> None:
    optimizer = Optimizer(LINE, startup_trials=4, seed=0, budget=QUICK)
    optimizer.run(valley, 60, gain=1e-4)
    last = read(optimizer.trials[-1])
    assert last is not None and last.value is not None
    assert 5 <= len(optimizer.trials) < 40
    assert 2.718281828**last.value < 1e-4
    values = [told.value for t in optimizer.trials[:-1] if (told := read(t)) is not None and told.value is not None]
    assert all(2.718281828**value >= 1e-4 for value in values)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "trials": ({"trials": 0}, "trials must be at least 1, got 0"),
    "batch": ({"batch": 0}, "batch must be at least 1, got 0"),
    "workers": ({"workers": 0}, "workers must be at least 1, got 0"),
    "seconds": ({"seconds": 0.0}, "seconds must be above 0, got 0"),
    "gain": ({"gain": float("nan")}, "gain must be above 0, got nan"),
}


@pytest.mark.parametrize(("settings", "sentence"), WRONG.values(), ids=WRONG)
def test_limits_that_are_none_are_refused(settings: dict[str, Any], sentence: str) -> None:
    optimizer = random()
    with pytest.raises(ValueError, match=sentence):
        optimizer.run(valley, **settings)
    assert optimizer.trials == []


def test_a_gain_needs_an_acquisition_that_tells_it() -> None:
    with pytest.raises(ValueError, match="acquisition 'ucb' tells no gain to stop by; use auto"):
        random(acquisition="ucb").run(valley, 3, gain=0.1)


def test_a_command_is_run_with_every_parameter() -> None:
    optimizer = random({"x": (0.0, 1.0), "k": ["a b", "c"]})
    with pytest.warns(FailedTrial, match="the command ended with exit code 1: not c"):
        optimizer.run(Command("test {k} = c || {{ echo not c >&2; exit 1; }}; echo {x}"), 6, workers=2)
    assert all((t.state == TrialState.COMPLETE) == (t.params["k"] == "c") for t in optimizer.trials)
    assert all(t.value == t.params["x"] for t in optimizer.trials if t.state == TrialState.COMPLETE)
    with pytest.raises(ValueError, match="does not use the parameter 'k'"):
        optimizer.run(Command("echo {x}"), 7)


def test_a_worker_that_is_killed_in_mid_trial_fails_it_alone() -> None:
    optimizer = random()
    with pytest.warns(FailedTrial, match="killed by SIGKILL"):
        optimizer.run(dies, 8, workers=2)
    assert {t.state == TrialState.FAIL for t in optimizer.trials if t.params["x"] > 0.5} == {True}
    assert {t.state == TrialState.COMPLETE for t in optimizer.trials if t.params["x"] <= 0.5} == {True}
    assert len(optimizer.trials) == 8


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_stops_evaluations_and_queues_them_again(workers: int) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    optimizer = random()
    begin = time.monotonic()
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(1.5, signal.pthread_kill, [main, signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            optimizer.run(sleeps, 4, workers=workers)
    finally:
        timer.join()
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler  # as it was
    assert time.monotonic() - begin < 20
    assert states(optimizer) == {"FAIL": workers, "WAITING": workers}
    assert optimizer.trials[0].user_attrs[FAILURE] == "interrupted; queued again"
    first = [trial.params["x"] for trial in optimizer.trials[:workers]]
    optimizer.run(valley, 4)
    assert complete(optimizer)[:workers] == first
    nothing_lost(optimizer, 4)


def test_an_error_of_the_run_itself_loses_nothing() -> None:
    optimizer = random()

    def broken(trial: FrozenTrial) -> None:
        if trial.number == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.run(valley, 6, callback=broken)
    assert states(optimizer) == {"COMPLETE": 2, "FAIL": 1, "WAITING": 1}
    optimizer.run(valley, 6)
    nothing_lost(optimizer, 6)


def test_a_value_for_a_trial_that_others_gave_up_is_dropped_with_a_warning() -> None:
    optimizer = random()

    def given_up(parameters: dict[str, Any]) -> float:
        give_up(optimizer.study, optimizer.trials[0]._trial_id, "no answer")
        return 1.0

    with pytest.warns(LostTrial, match="trial 0 was given up by another process"):
        optimizer.run(given_up, 1, callback=lambda trial: None)
    nothing_lost(optimizer, 1)


def finished(process: subprocess.Popen[str], seconds: float = 120.0) -> int:
    process.wait(seconds)
    return process.returncode


@contextmanager
def opened(url: str, **settings: int) -> Iterator[BaseStorage]:
    """A storage whose connections are closed at the end."""
    storage = open_storage(url, **settings)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.engine.dispose()


@contextmanager
def started(url: str, total: int, count: int, *settings: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that run trials on one storage, of which none is left at the end."""
    processes = [start(url, total, seed, *settings) for seed in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(storage: BaseStorage, count: int, seconds: float = 300.0) -> None:
    """Wait until so many trials of a storage are complete and one runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        studies = storage.get_all_studies()
        trials = storage.get_all_trials(studies[0]._study_id) if studies else []
        seen = Counter(trial.state for trial in trials)
        if seen[TrialState.COMPLETE] >= count and seen[TrialState.RUNNING]:
            return
        time.sleep(0.1)
    raise AssertionError(f"no {count} trials within {seconds} s")


@pytest.mark.slow
def test_a_process_that_is_interrupted_is_resumed_without_loss(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    with opened(url) as storage, started(url, 8, 1) as [process]:
        until(storage, 2)
        process.send_signal(signal.SIGINT)
        assert finished(process) == -signal.SIGINT
        optimizer = random(storage=storage)
        assert len(complete(optimizer)) < 8
        assert "RUNNING" not in states(optimizer)
        optimizer.run(valley, 8)
        nothing_lost(optimizer, 8)


@pytest.mark.slow
def test_two_processes_share_a_file_and_one_that_is_killed_loses_nothing(url: str) -> None:
    shared(url, 2)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_processes_share_a_server_and_one_that_is_killed_loses_nothing(postgres: str, count: int) -> None:
    shared(postgres, count)


def shared(url: str, count: int) -> None:
    """Processes run trials on one storage, the first of them is killed in mid-trial, the others do what it did not."""
    total = 6 * count
    with opened(url, beat=1, grace=3) as storage, started(url, total, count, 1, 3) as processes:
        until(storage, 2)
        processes[0].kill()
        assert [finished(process, 300) for process in processes] == [-signal.SIGKILL, *[0] * (count - 1)]
        optimizer = random(storage=storage)
        done = len(complete(optimizer))
        assert total <= done < total + count  # those that ask at one moment may each do one more
        if "RUNNING" in states(optimizer):  # which was then enough without the killed one's: the next run takes it over
            done += 1
            optimizer.run(valley, done)
        nothing_lost(optimizer, done)


@pytest.mark.slow
def test_two_processes_with_a_surrogate_suggest_no_point_twice(url: str) -> None:
    with opened(url) as storage, started(url, 24, 2, 10, 60, 4) as processes:
        assert [finished(process, 300) for process in processes] == [0, 0]
        done = sorted(complete(random(storage=storage)))
    assert 24 <= len(done) <= 25
    assert min(b - a for a, b in itertools.pairwise(done)) > 1e-9


def test_a_run_waits_for_trials_of_others_and_takes_over_those_of_the_dead(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    storage = open_storage(url, beat=1, grace=1)
    optimizer = random(storage=storage)
    [point] = optimizer.ask()
    living, [trial] = heart(storage), optimizer.trials
    assert living is not None
    living.record_heartbeat(trial._trial_id)
    storage.set_trial_system_attr(trial._trial_id, RUN, True)  # by a run that is no more
    begin = time.monotonic()
    random(storage=storage).run(valley, 3)
    assert time.monotonic() - begin > 1.0
    nothing_lost(optimizer, 3)
    assert optimizer.trials[-1].params == point.parameters
