"""Workers fail alone, are replaced, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernelfield.bo.evaluation import Command, Failure, Outcome
from kernelfield.bo.workers import Commands, Here, Processes, pool
from tests.bo.objectives import dies, leaves, process, sleeps, valley
from tests.bo.parents import collect


def gone(number: int, seconds: float = 10.0) -> bool:
    """Whether a process is no more, or will not be soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(number, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_places_go_with_the_objective() -> None:
    assert isinstance(pool(valley, 1, 1), Here)
    assert isinstance(pool(valley, 1, 2), Processes)
    assert isinstance(pool(Command("echo {x}"), 1, 1), Commands)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        pool(valley, 1, 0)
    with pytest.raises(ValueError, match="cannot be sent to workers; define it at the top of a module"):
        pool(lambda parameters: 0.0, 1, 2)


def test_one_place_evaluates_here() -> None:
    with pool(process, 1, 1) as places:
        assert places.free == 1
        places.start(7, {})
        assert places.free == 0
        assert places.wait(0.0) == [(7, Outcome((float(os.getpid()),)))]
        assert (places.free, places.wait(0.0)) == (1, [])


def test_processes_evaluate_elsewhere_and_stay() -> None:
    with pool(process, 1, 2) as places:
        for number in (0, 1):
            places.start(number, {})
        assert places.free == 0
        first = collect(places, 2)
        places.start(2, {})
        last = collect(places, 1)
    numbers = {result.values[0] for result in first.values()}
    assert len(numbers) == 2 and os.getpid() not in numbers
    assert last[2].values[0] in numbers
    assert all(gone(int(number)) for number in numbers)


def test_a_worker_that_is_killed_fails_its_own_trial_and_is_replaced() -> None:
    with pool(dies, 1, 2) as places:
        places.start(0, {"x": 0.9})
        places.start(1, {"x": 0.1})
        found = collect(places, 2)
        assert found[0] == Failure("its worker ended in mid-trial, killed by SIGKILL")
        assert found[1] == Outcome(((0.1 - 0.3) ** 2,))
        assert places.free == 2
        places.start(2, {"x": 0.3})
        places.start(3, {"x": 0.3})
        assert collect(places, 2) == {2: Outcome((0.0,)), 3: Outcome((0.0,))}


def test_a_function_that_leaves_fails_its_trial() -> None:
    with pool(leaves, 1, 2) as places:
        places.start(0, {})
        assert collect(places, 1) == {0: Failure("SystemExit: 3")}


def test_stopping_kills_what_runs() -> None:
    with pool(sleeps, 1, 2) as places:
        places.start(0, {})
        assert isinstance(places, Processes)
        number = places._workers[0].process.pid
        assert number is not None and not gone(number, 0.3)
    assert gone(number)


def test_a_worker_goes_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from kernelfield.bo.workers import pool\n"
        "from tests.bo.objectives import sleeps\n"
        "places = pool(sleeps, 1, 2)\n"
        "places.start(0, {})\n"
        "places.wait(30.0)\n"  # it says that it is there
        "print(places._workers[0].process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        assert not gone(number, 0.3)
        parent.send_signal(signal.SIGKILL)
        assert gone(number)


def test_a_program_that_starts_workers_as_it_is_imported_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from kernelfield.bo.workers import pool\n"
        "def f(p): return 1.0\n"
        "with pool(f, 1, 2) as places:\n"
        "    places.start(0, {})\n"
        "    while True: places.wait(0.1)\n"
    )
    settings = {"capture_output": True, "text": True, "env": os.environ | {"PYTHONPATH": os.getcwd()}}
    ran = subprocess.run([sys.executable, str(script)], timeout=60, check=False, **settings)
    assert ran.returncode == 1
    assert "must do its work under if __name__ == '__main__'" in ran.stderr


def test_commands_run_side_by_side_and_say_what_went_wrong() -> None:
    with pool(Command("sleep 0.5; echo step; echo {x}"), 1, 2) as places:
        begin = time.monotonic()
        places.start(0, {"x": 0.25})
        places.start(1, {"x": 0.5})
        assert collect(places, 2) == {0: Outcome((0.25,)), 1: Outcome((0.5,))}
        assert places.free == 2
        assert time.monotonic() - begin < 0.95  # less than one after the other
    with pool(Command("echo {x}; echo first >&2; echo 'no memory' >&2; exit 4"), 1, 1) as places:
        places.start(0, {"x": 1})
        assert collect(places, 1) == {0: Failure("the command ended with exit code 4: no memory")}
    with pool(Command("echo {x}; kill -9 $$"), 1, 1) as places:
        places.start(0, {"x": 1})
        assert collect(places, 1) == {0: Failure("the command ended killed by SIGKILL: 1")}
    with pool(Command("echo {x} apples"), 1, 1) as places:
        places.start(0, {"x": 1})
        assert "nothing else, got '1 apples'" in collect(places, 1)[0].message


def test_stopping_kills_a_command_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    with pool(Command(f"sleep 60 & echo $! > {note}; wait; echo {{x}}"), 1, 1) as places:
        places.start(0, {"x": 1})
        end = time.monotonic() + 10
        while not (note.exists() and note.read_text().strip()) and time.monotonic() < end:
            time.sleep(0.02)
    assert gone(int(note.read_text()))


def test_output_without_end_takes_no_memory_and_its_last_line_counts() -> None:
    with pool(Command("seq 300000; echo {x}"), 1, 1) as places:
        places.start(0, {"x": 0.5})
        assert collect(places, 1) == {0: Outcome((0.5,))}
