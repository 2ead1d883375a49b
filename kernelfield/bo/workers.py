"""Workers that evaluate an objective, so that what happens in one of them ends its own trial alone.

    Here       a function, in this very process, one point at a time
    Processes  a function, in processes of their own; one that is killed fails its trial and is replaced
    Commands   a shell command, each in a process group of its own

The parent gives out points and takes in what came of them; it alone asks, tells and stores.
"""

import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType, TracebackType
from typing import IO, Any, Self

from kernelfield.bo.evaluation import Command, Failure, Function, Outcome, attempt, printed, shortened

Result = tuple[int, Outcome | Failure]
TAIL = 65536  # bytes at the end of a command's output in which its last line must lie


class Pool(ABC):
    """Places for evaluations, each known by the number of its trial. Leaving it stops those that run."""

    inline = False  # whether `wait` is where the evaluation happens

    @property
    @abstractmethod
    def free(self) -> int:
        """How many more may be started."""

    @abstractmethod
    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Begin the evaluation of a trial."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Result]:
        """What has ended, at the latest after this time; perhaps nothing."""

    @abstractmethod
    def stop(self) -> None:
        """Kill what runs, with all that it has started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def pool(function: Function | Command, objectives: int, workers: int) -> Pool:
    """The places for an objective.

    Errors: ValueError for fewer than one worker, or a function that cannot be sent to another process.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if isinstance(function, Command):
        return Commands(function, objectives, workers)
    return Here(function, objectives) if workers == 1 else Processes(function, objectives, workers)


class Here(Pool):
    """Evaluates in this process, within `wait`."""

    inline = True

    def __init__(self, function: Function, objectives: int) -> None:
        self._function, self._objectives = function, objectives
        self._next: tuple[int, Mapping[str, Any]] | None = None

    @property
    def free(self) -> int:
        return int(self._next is None)

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        self._next = number, parameters

    def wait(self, seconds: float) -> list[Result]:
        if self._next is None:
            return []
        number, parameters = self._next
        result = attempt(self._function, parameters, self._objectives)
        self._next = None
        return [(number, result)]

    def stop(self) -> None:
        self._next = None


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    number: int | None = None
    ready: bool = False


class Processes(Pool):
    """Evaluates in processes of their own, each the leader of a process group.

    Errors: ValueError for a function that cannot be sent to them; OSError if one does not come up.
    """

    def __init__(self, function: Function, objectives: int, workers: int) -> None:
        try:
            self._bare = b"__main__" not in pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{function!r} cannot be sent to workers; define it at the top of a module, or use one worker"
            ) from error
        self._function, self._objectives, self._count = function, objectives, workers
        self._workers: list[_Worker] = []

    @property
    def free(self) -> int:
        return self._count - sum(one.number is not None for one in self._workers)

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        idle = [one for one in self._workers if one.number is None]
        for one in idle:
            if one.process.is_alive():
                break
            self._drop(one)
        else:
            one = self._launch()
        one.number = number
        one.connection.send(dict(parameters))

    def wait(self, seconds: float) -> list[Result]:
        busy = {one.connection: one for one in self._workers if one.number is not None}
        # A connection has something to read too when its other end has died.
        heard = [self._hear(busy[one]) for one in wait(list(busy), seconds) if isinstance(one, Connection)]
        return [one for one in heard if one is not None]

    def stop(self) -> None:
        for one in self._workers:
            _kill(one.process.pid)
            one.process.kill()  # it may not lead a group yet
        for one in list(self._workers):
            self._drop(one)

    def _launch(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._function, self._objectives))
        with _bare() if self._bare else nullcontext():
            process.start()
        there.close()
        self._workers.append(_Worker(process, here))
        return self._workers[-1]

    def _hear(self, one: _Worker) -> Result | None:
        """What a worker says: first that it is there, then results, or nothing any more."""
        try:
            said = one.connection.recv()
        except (EOFError, OSError):
            return self._died(one)
        if not one.ready:
            one.ready = True
            return None
        number, one.number = one.number, None
        assert number is not None
        return number, said

    def _died(self, one: _Worker) -> Result:
        one.process.join()
        _kill(one.process.pid)  # what it may have started
        self._drop(one)
        fate = _fate(one.process.exitcode)
        if not one.ready and one.process.exitcode == 1:
            raise OSError(
                f"a worker did not come up, it ended {fate}; its own words stand above. A script that uses workers "
                "must do its work under if __name__ == '__main__'"
            )
        assert one.number is not None
        return one.number, Failure(f"its worker ended in mid-trial, {fate}")

    def _drop(self, one: _Worker) -> None:
        one.process.join()
        one.connection.close()
        self._workers.remove(one)


@contextmanager
def _bare() -> Iterator[None]:
    """Let a new process not import the program that this one runs, whose imports may take it seconds."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(connection: Connection, function: Function, objectives: int) -> None:
    """The life of a worker: in a group of its own, which it takes along when its parent dies."""
    if sys.platform != "win32":
        os.setsid()
    threading.Thread(target=_follow, daemon=True).start()
    connection.send(None)
    while True:
        try:
            parameters = connection.recv()
        except EOFError:
            return
        connection.send(attempt(function, parameters, objectives))


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _kill(os.getpid())


class Commands(Pool):
    """Runs a shell command at each point, its output in files, so that a long one takes no memory."""

    def __init__(self, command: Command, objectives: int, workers: int) -> None:
        self._command, self._objectives, self._count = command, objectives, workers
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: queue.Queue[Result] = queue.Queue()

    @property
    def free(self) -> int:
        return self._count - len(self._running)

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        with ExitStack() as files:
            output, errors = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            process = subprocess.Popen(
                self._command.line(parameters),
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            self._running[number] = process
            rest = files.pop_all()  # closed by the thread
        threading.Thread(target=self._await, args=(number, process, output, errors, rest), daemon=True).start()

    def wait(self, seconds: float) -> list[Result]:
        try:
            ended = [self._ended.get(timeout=seconds)]
            while not self._ended.empty():
                ended.append(self._ended.get())
        except queue.Empty:
            return []
        for number, _ in ended:
            del self._running[number]
        return ended

    def stop(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                _kill(process.pid)
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def _await(
        self, number: int, process: subprocess.Popen[bytes], output: IO[bytes], errors: IO[bytes], files: ExitStack
    ) -> None:
        with files:
            process.wait()
            self._ended.put((number, self._read(process.returncode, _tail(output), _tail(errors))))

    def _read(self, code: int, output: str, errors: str) -> Outcome | Failure:
        if code:
            said = (errors.strip() or output.strip()).splitlines()
            return Failure(shortened(f"the command ended {_fate(code)}{': ' + said[-1] if said else ''}"))
        try:
            return printed(output, self._objectives)
        except ValueError as error:
            return Failure(shortened(str(error)))


def _tail(file: IO[bytes]) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - TAIL))
    return file.read().decode(errors="replace")


def _fate(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _kill(leader: int | None) -> None:
    """Kill a process group by its leader; one that is gone is well."""
    if leader is None:
        return
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            os.kill(leader, signal.SIGTERM)
        else:
            os.killpg(leader, signal.SIGKILL)
