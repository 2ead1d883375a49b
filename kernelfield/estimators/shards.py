"""The rows of a pass over a stream, shared out among ranks.

apart       each rank reads a run of batches of its own and takes steps to them, one rank perhaps one more than
            another: for sums, which meet at the end
together    each rank reads every batch and takes its part of the rows: for steps that all ranks take together
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from kernelfield.linalg.ranks import Ranks

Arrays = tuple[np.ndarray, np.ndarray]


class Batches(Protocol):
    """Rows that are read batch by batch; see `streaming.Source`."""

    @property
    def total(self) -> int: ...

    def batches(self, size: int, start: int) -> Iterator[Arrays]: ...


def turns(source: Batches, size: int, row: int, ranks: Ranks, *, apart: bool) -> Iterator[tuple[Arrays, int]]:
    """What this rank learns from, step by step from `row` on, and how many rows all ranks have then passed.

    Every rank has as many turns; the arrays of one may be empty where ranks step apart, and are of all where they
    step together.
    """
    if ranks.world == 1:
        ends = range(row + size, source.total + size, size)
        return ((arrays, min(end, source.total)) for arrays, end in zip(source.batches(size, row), ends, strict=True))
    return _apart(source, size, row, ranks) if apart else _whole(source, size, row, ranks.world)


def _apart(source: Batches, size: int, row: int, ranks: Ranks) -> Iterator[tuple[Arrays, int]]:
    each, more = divmod(math.ceil(source.total / size), ranks.world)
    before = ranks.rank * each + min(ranks.rank, more)
    count, most = each + (ranks.rank < more), each + (more > 0)
    first = math.ceil(row / (size * ranks.world))
    own = source.batches(size, (before + first) * size) if first < count else iter(())
    own = islice(own, max(0, count - first))
    nothing = np.empty((0, 0)), np.empty((0, 0))
    for turn in range(first, most):
        yield next(own, nothing), min((turn + 1) * size * ranks.world, source.total)


def _whole(source: Batches, size: int, row: int, least: int) -> Iterator[tuple[Arrays, int]]:
    """Batches and where they end; one of fewer than `least` rows is joined to its neighbour."""
    held: Arrays | None = None
    for X, Y in source.batches(size, row):
        if held is not None and min(len(held[0]), len(X)) >= least:
            yield held, row
            held = None
        held = (X, Y) if held is None else (np.concatenate([held[0], X]), np.concatenate([held[1], Y]))
        row = min(row + size, source.total)
    if held is not None:
        yield held, row
