"""Every row of a stream is some rank's, once, wherever a run begins again."""

from dataclasses import dataclass

import numpy as np
import pytest

from kernelfield.estimators.shards import turns
from kernelfield.linalg.ranks import Ranks


@dataclass(frozen=True)
class Numbered:
    """Rows whose input is their number; those divisible by `left_out` are not given."""

    total: int
    left_out: int = 10**9

    def batches(self, size, start):
        for first in range(start, self.total, size):
            rows = np.arange(first, min(first + size, self.total), dtype=float)[:, None]
            rows = rows[rows[:, 0] % self.left_out != self.left_out - 1]
            yield rows, -rows


def read(source, size, row, ranks, *, apart):
    found = list(turns(source, size, row, ranks, apart=apart))
    assert all((X == -Y).all() for (X, Y), _ in found)
    return [X[:, :1].ravel().tolist() if X.size else [] for (X, _), _ in found], [end for _, end in found]


@pytest.mark.parametrize("total", [1, 7, 8, 9, 40, 41])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_that_step_apart_have_each_row_once(total: int, world: int) -> None:
    source = Numbered(total)
    for row in [end for end in read(source, 4, 0, Ranks(0, world), apart=True)[1] if end < total] + [0]:
        parts = [read(source, 4, row, Ranks(rank, world), apart=True) for rank in range(world)]
        assert len({tuple(ends) for _, ends in parts}) == 1  # as many turns, which end at the same counts
        assert parts[0][1][-1] == total
        rest = sorted(number for rows, _ in parts for batch in rows for number in batch)
        before = sorted(
            number
            for rank in range(world)
            for batch, end in zip(*read(source, 4, 0, Ranks(rank, world), apart=True), strict=True)
            for number in batch
            if end <= row
        )
        assert sorted(before + rest) == list(range(total))


@pytest.mark.parametrize("total", [8, 9, 10, 41])
def test_ranks_that_step_together_have_all_rows_and_never_too_few(total: int) -> None:
    source, ranks = Numbered(total), Ranks(1, 3)
    rows, ends = read(source, 4, 0, ranks, apart=False)
    assert [number for batch in rows for number in batch] == list(range(total))
    assert all(len(batch) >= 3 for batch in rows) and ends[-1] == total
    assert read(source, 4, ends[0], ranks, apart=False)[0] == rows[1:]
    assert len(read(Numbered(2), 4, 0, ranks, apart=False)[0][0]) == 2  # who steps says that it is too few


def test_rows_that_are_left_out_are_counted_in_the_places() -> None:
    for world in (1, 2):
        rows, ends = read(Numbered(10, left_out=5), 4, 0, Ranks(0, world), apart=False)
        assert ends == [4, 8, 10] and [len(batch) for batch in rows] == [4, 3, 1] if world == 1 else ends[-1] == 10
        assert sorted(number for batch in rows for number in batch) == [0, 1, 2, 3, 5, 6, 7, 8]
