"""Jobs of several ranks, for tests: real processes, which meet by a file and talk by gloo."""

import multiprocessing
import pickle
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from kernelfield.linalg.ranks import Ranks, join, leave

# What is imported once, in the process from which ranks are forked before any of them has a thread.
PRELOADED = ["tests.distributed.tasks"]
TIMEOUT = 20.0  # seconds that a rank waits for another
EXPECTED = (ArithmeticError, AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def together(function: Callable[..., Any], world: int, *args: Any, timeout: float = TIMEOUT) -> list[Any]:
    """What a function of (ranks, *args) returns on each rank, an error included; the exit code of one that died."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        here, processes = [], []
        for rank in range(world):
            mine, its = context.Pipe(duplex=False)
            process = context.Process(
                target=_live, args=(its, Path(folder) / "meeting", rank, world, timeout, function, args)
            )
            process.start()
            its.close()
            here.append(mine)
            processes.append(process)
        answers = [_answer(*one, timeout + 30) for one in zip(here, processes, strict=True)]
        for process in processes:
            process.join(timeout)
    return answers


def _answer(connection: Connection, process: Any, patience: float) -> Any:
    try:
        if wait([connection], patience):
            return pickle.loads(connection.recv_bytes())
    except EOFError:
        process.join(patience)
        return process.exitcode
    process.kill()
    raise TimeoutError(f"a rank said nothing in {patience:g} s")


def _live(
    connection: Connection, meeting: Path, rank: int, world: int, timeout: float, function: Any, args: Any
) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        ranks: Ranks = join(f"file://{meeting}", rank=rank, world=world, timeout=timeout)
        answer = function(ranks, *args)
        leave()
    except EXPECTED as error:  # which is sent to the test and looked at there; a rank dies of any other
        answer = error
    # In bytes: torch would send tensors by handles, which do not outlive their process.
    connection.send_bytes(pickle.dumps(answer))
