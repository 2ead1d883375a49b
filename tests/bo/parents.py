"""Optimizers that never come to ask their surrogate, and processes that run trials on a shared storage.

python -m tests.bo.parents URL TRIALS SEED [BEAT GRACE STARTUP]
"""

import signal
import subprocess
import sys
import time
from typing import Any

from optuna.storages import RDBStorage

from kernelfield.bo.loop import Optimizer
from kernelfield.bo.storage import open_storage
from kernelfield.bo.workers import Pool
from tests.bo.objectives import LINE, held


def random(space: Any = None, **settings: Any) -> Optimizer:
    """An optimizer whose points are all those of a quasi-random sequence."""
    return Optimizer(LINE if space is None else space, **({"startup_trials": 1000, "seed": 0} | settings))


def collect(places: Pool, count: int, seconds: float = 60.0) -> dict[int, Any]:
    """So many results of a pool, by number."""
    found: dict[int, Any] = {}
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found |= dict(places.wait(0.1))
    return found


def start(*arguments: object) -> subprocess.Popen[str]:
    """A process that runs trials; see above."""
    words = [sys.executable, "-m", "tests.bo.parents", *map(str, arguments)]
    return subprocess.Popen(words, text=True)  # what they say stands in the test's own output


def run(url: str, trials: str, seed: str, beat: str = "10", grace: str = "60", startup: str = "1000") -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    storage = open_storage(url, beat=int(beat), grace=int(grace))
    optimizer = Optimizer(LINE, storage=storage, seed=int(seed), startup_trials=int(startup))
    optimizer.run(held, int(trials))
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


if __name__ == "__main__":
    run(*sys.argv[1:])
