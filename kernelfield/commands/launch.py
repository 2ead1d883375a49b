"""A command on several ranks.

    torchrun --nproc-per-node 4 -m kernelfield fit DATA --target Y -o MODEL

Every rank runs the whole command and computes its part; the first one alone prints, draws progress and writes files.
An error is said once, by the first rank that has it. A rank that dies ends the command of the others with exit code 1.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kernelfield.commands.console import err, out
from kernelfield.linalg.ranks import Ranks, abandon, join, leave

PLACE = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # what a launcher tells a process
SHARED = {"fit"}  # commands whose work can be shared out


@contextmanager
def launched(command: str | None) -> Iterator[Ranks]:
    """Join the ranks that a launcher has started, for as long as a command runs; one process joins nobody.

    Errors: ValueError for a command that ranks cannot share, and those of `join`.
    """
    ranks = join() if set(os.environ) >= PLACE else join(rank=0, world=1)
    if ranks.world > 1 and command not in SHARED:
        abandon()
        raise ValueError(f"{command} runs in one process, and {ranks.world} were started; start it without torchrun")
    quiet = out.quiet, err.quiet
    out.quiet = err.quiet = ranks.rank > 0
    try:
        yield ranks
        leave()
    finally:
        abandon()
        out.quiet, err.quiet = quiet
