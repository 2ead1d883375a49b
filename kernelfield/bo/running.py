"""Running an optimisation: points are asked for, evaluated by workers and told, until enough have been.

One process asks and tells; any number of such processes, on any number of machines, may share a storage.
Trials that were not finished, because the run was interrupted or their process no longer answers, are
marked as failed, and their points are queued again; a run that goes on later takes those first.

A run has come to its end when so many trials are complete or have failed. Where the rest runs elsewhere, it waits for
them, and takes over those whose process dies. Two runs on one storage that ask at the same moment may
do one trial more than that.
"""

import math
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Self

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from kernelfield.bo.evaluation import Failure, Outcome
from kernelfield.bo.history import read
from kernelfield.bo.storage import STORAGE_ERRORS, give_up, give_up_stale, heart, repeated
from kernelfield.bo.workers import Pool

POLL = 0.2  # seconds between looks at what has ended and whether to stop
RUN = "kernelfield:run"  # system attribute of a trial that a run evaluates and gives signs of life for
ENDED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)

Watch = Callable[[FrozenTrial], None]


class LostTrial(UserWarning):
    """A trial was given up by another process while this one did not answer."""


@dataclass(frozen=True)
class Suggestion:
    """A point to evaluate: the number of its trial, and its parameters."""

    number: int
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """When a run ends: after so many trials or seconds, or when one more is expected to gain less than `gain`.

    batch : points asked for together whenever none is left.

    Errors: ValueError for numbers that end nothing, or never begin.
    """

    trials: int
    batch: int = 1
    seconds: float | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "batch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("seconds", "gain"):
            if (limit := getattr(self, name)) is not None and not limit > 0:
                raise ValueError(f"{name} must be above 0, got {limit:g}")


def progress(trials: Sequence[FrozenTrial]) -> tuple[int, int]:
    """How many trials have ended for good, and how many a run is at; those queued again count as neither."""
    again = repeated(trials)
    counted = [t for t in trials if t.number not in again]
    return (
        sum(t.state in ENDED for t in counted),
        sum(t.state == TrialState.RUNNING and RUN in t.system_attrs for t in counted),
    )


@dataclass
class Run:
    """One run; `tell` says whether the trial was still there to be told."""

    study: Study
    ask: Callable[[], Suggestion]
    tell: Callable[[int, Outcome | Failure], bool]
    pool: Pool
    limits: Limits
    watch: Watch
    _ready: deque[Suggestion] = field(default_factory=deque)
    _running: set[int] = field(default_factory=set)
    _over: bool = False

    def __call__(self) -> None:
        """Errors: KeyboardInterrupt when it was interrupted, and all is in order."""
        self._end = math.inf if self.limits.seconds is None else time.monotonic() + self.limits.seconds
        with Interrupts() as self._interrupts, Pulse(self.study._storage) as self._pulse, self.pool:
            try:
                while self._step():
                    pass
            except BaseException as error:
                why = "interrupted" if isinstance(error, KeyboardInterrupt) else "the run ended in an error"
                self.pool.stop()
                self._put_back(why)
                raise
            self._put_back("not begun in time")

    def _step(self) -> bool:
        """Start what can be, settle what has ended; whether more is to come."""
        self._interrupts.heed()
        if self._pulse.due():
            give_up_stale(self.study)
        while self.pool.free and (one := self._next()) is not None:
            self._interrupts.heed()
            self._ready.popleft()
            self._running.add(one.number)
            self.watch(self._trial(one.number))
            self.pool.start(one.number, one.parameters)
        if not self._running:
            if self._late() or self._over or not self._open():
                return False
            time.sleep(POLL)  # for what runs elsewhere
            return True
        with self._interrupts.at_once(self.pool.inline):
            ended = self.pool.wait(POLL)
        for number, result in ended:
            self._settle(number, result)
        return True

    def _late(self) -> bool:
        return time.monotonic() >= self._end

    def _open(self) -> bool:
        """Whether trials are missing that run elsewhere."""
        ended, running = progress(self.study.get_trials(deepcopy=False))
        return ended < self.limits.trials and running > 0

    def _next(self) -> Suggestion | None:
        """The next point, which stays at the head of those ready; None where no more is to be begun."""
        if self._late():
            return None
        if not self._ready and not self._over:
            missing = self.limits.trials - sum(progress(self.study.get_trials(deepcopy=False)))
            for _ in range(min(self.limits.batch, missing)):
                if not self._over:
                    self._take(self.ask())
                self._interrupts.heed()
        return self._ready[0] if self._ready else None

    def _take(self, one: Suggestion) -> None:
        self._ready.append(one)
        trial = self._trial(one.number)
        self._pulse.add(trial._trial_id)
        self.study._storage.set_trial_system_attr(trial._trial_id, RUN, True)
        told = read(trial)
        if self.limits.gain is not None and told is not None and told.value is not None:
            self._over = math.exp(min(told.value, 700.0)) < self.limits.gain

    def _settle(self, number: int, result: Outcome | Failure) -> None:
        self._running.discard(number)
        if not self.tell(number, result):
            warnings.warn(
                f"trial {number} was given up by another process while this one did not answer; its value is dropped",
                LostTrial,
                stacklevel=2,
            )
        trial = self._trial(number)
        self._pulse.remove(trial._trial_id)
        self.watch(trial)

    def _put_back(self, why: str) -> None:
        """Mark as failed what was not finished, and queue it again."""
        for number in sorted({*self._running, *(one.number for one in self._ready)}):
            try:
                give_up(self.study, self._trial(number)._trial_id, why)
            except STORAGE_ERRORS:  # then it will be found without a sign of life
                return
            self.watch(self._trial(number))
        self._running.clear()
        self._ready.clear()

    def _trial(self, number: int) -> FrozenTrial:
        storage = self.study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))


class Pulse:
    """Gives signs of life for trials, from a thread of its own."""

    def __init__(self, storage: BaseStorage) -> None:
        self._heart = heart(storage)
        self._interval = float((self._heart and self._heart.get_heartbeat_interval()) or 0)
        self._trials: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._last = -math.inf

    def __enter__(self) -> Self:
        if self._heart is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def due(self) -> bool:
        """Whether an interval has passed since this was last true."""
        if self._heart is None or time.monotonic() < self._last + self._interval:
            return False
        self._last = time.monotonic()
        return True

    def add(self, trial_id: int) -> None:
        if self._heart is not None:
            self._heart.record_heartbeat(trial_id)
        with self._lock:
            self._trials.add(trial_id)

    def remove(self, trial_id: int) -> None:
        with self._lock:
            self._trials.discard(trial_id)

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            with self._lock:
                trials = sorted(self._trials)
            for one in trials:
                try:
                    if self._heart is not None:
                        self._heart.record_heartbeat(one)
                except STORAGE_ERRORS:  # the next may succeed; if none does, the run's own words say why
                    break


class Interrupts:
    """Ctrl-C and SIGTERM, heeded between two steps so that no trial is lost in the middle of one.

    A second one, or one where a function is evaluated in this process, is heeded at once.
    """

    def __init__(self) -> None:
        self._asked = False
        self._now = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for one in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(one) is not signal.SIG_IGN:
                    self._before[one] = signal.signal(one, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def heed(self) -> None:
        """Errors: KeyboardInterrupt if one has come."""
        if self._asked:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self, now: bool) -> Iterator[None]:
        """Within this, if `now`, one is heeded wherever it comes."""
        self._now = now
        try:
            if now:
                self.heed()
            yield
        finally:
            self._now = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._now or self._asked:
            self._asked = True
            raise KeyboardInterrupt
        self._asked = True
