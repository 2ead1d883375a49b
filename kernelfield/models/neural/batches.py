"""Mini-batches for networks that are trained side by side, of rows of each one's own.

A member goes through its rows in a random order, then in another one; batches have equal sizes
and may lie across two orders. Its order comes from a seed of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.contracts import Data

BLOCK = 2**20  # numbers, about, of the batches that are gathered at once
MOST = 64  # batches of them
LEAST = 20  # rows below which none is held out to stop a training
FEW = 100  # rows below which a share of them says too little of the noise
FOLDS = 5  # networks that judge the noise of so few rows
HELD = 2  # rows, at least, to fit and to judge by where some are held out


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of data: X (n, d) and Y (n, m), weight (n,) or None, and offset (k, n, o) or None.

    As a batch of k members' own rows: X (k, b, d), Y (k, b, m), weight (k, b), offset (k, b, o).
    """

    X: Tensor
    Y: Tensor
    weight: Tensor | None = None
    offset: Tensor | None = None

    @classmethod
    def of(cls, data: Data, offset: Tensor | None, dtype: torch.dtype) -> "Rows":
        """The rows of data in another precision."""
        weight = None if data.weight is None else data.weight.to(dtype)
        return cls(data.X.to(dtype), data.Y.to(dtype), weight, None if offset is None else offset.to(data.X).to(dtype))

    def at(self, index: Tensor) -> "Rows":
        """The rows (*s, k, b) of each of the k members."""
        weight = None if self.weight is None else self.weight[index]
        offset = self.offset
        if offset is not None:
            offset = offset[torch.arange(len(offset), device=index.device)[:, None], index]
        return Rows(self.X[index], self.Y[index], weight, offset)

    def part(self, own: slice) -> "Rows":
        """Some rows (k, b) of each member's."""
        weight, offset = (None if t is None else t[:, own] for t in (self.weight, self.offset))
        return Rows(self.X[:, own], self.Y[:, own], weight, offset)

    def __getitem__(self, step: int) -> "Rows":
        weight, offset = (None if t is None else t[step] for t in (self.weight, self.offset))
        return Rows(self.X[step], self.Y[step], weight, offset)


def batches(rows: Rows, seen: list[Tensor], size: int | None, seeds: list[int]) -> Iterator[Rows]:
    """Batches without end, of the rows whose numbers seen[j] member j sees.

    size : of a batch, at most the fewest rows that a member sees; None for all rows.

    Errors: ValueError if batches of all rows would have unequal sizes.
    """
    fewest = min(len(own) for own in seen)
    if size is None and fewest < max(len(own) for own in seen):
        raise ValueError("batch=None needs members that see equally many rows; give batches a size")
    size = fewest if size is None else min(size, fewest)
    device = rows.X.device
    if all(len(own) == size for own in seen):
        whole = rows.at(torch.stack(seen).to(device))
        while True:
            yield whole
    width = rows.X.shape[1] + rows.Y.shape[1] + 2
    count = max(1, min(MOST, BLOCK // (len(seen) * size * width)))
    orders = [_order(own, count * size, seed) for own, seed in zip(seen, seeds, strict=True)]
    while True:
        index = torch.stack([next(order) for order in orders]).unflatten(1, (count, size))
        block = rows.at(index.transpose(0, 1).to(device))
        for step in range(count):
            yield block[step]


def _order(own: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    """Blocks of `count` row numbers from random orders of `own`, one after another."""
    generator = torch.Generator().manual_seed(seed)
    rest = own[:0]
    while True:
        while len(rest) < count:
            rest = torch.cat([rest, own[torch.randperm(len(own), generator=generator)]])
        yield rest[:count]
        rest = rest[count:]


def held_out(data: Data, share: float, generator: torch.Generator) -> tuple[Data, Data | None]:
    """The data to fit, and a random share of them held out of it; None where there are too few rows, see `folds`.

    >>> rows = Data(torch.zeros(150, 1), torch.zeros(150, 1))
    >>> fitted, judged = held_out(rows, 0.2, torch.Generator())
    >>> len(fitted.X), len(judged.X)
    (120, 30)
    """
    _require_share(share)
    n = len(data.X)
    if n < FEW or round(share * n) < HELD:
        return data, None
    kept, judged = parted(n, share, generator)
    return _some(data, kept.to(data.X.device)), _some(data, judged.to(data.X.device))


def crosses(n: int, share: float) -> bool:
    """Whether noise is judged by cross-fitting: a share of rows would be held out, and they are few, but not one.

    Errors: ValueError for a share outside of [0, 1).
    """
    _require_share(share)
    return share > 0 and 1 < n < FEW


def folds(n: int, generator: torch.Generator) -> Tensor:
    """Which rows (f, n) each of f networks sees, such that each row is unseen by one; for cross-fitting.

    >>> folds(7, torch.Generator()).sum(0).tolist()
    [4, 4, 4, 4, 4, 4, 4]
    """
    count = min(FOLDS, n)
    order = torch.randperm(n, generator=generator, device=generator.device).cpu()
    return order % count != torch.arange(count)[:, None]


def unseen(values: Tensor, seen: Tensor) -> Tensor:
    """Functions (k, n, m) at rows which they have not learned from, of those of f networks (f, k, n, m)."""
    apart = (~seen).long().argmax(0).to(values.device)
    return values[apart, :, torch.arange(len(apart), device=values.device)].transpose(0, 1)


def _require_share(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"held_out must be a share of the rows below 1, got {share}; 0 holds out none")


def _some(data: Data, rows: Tensor) -> Data:
    return Data(data.X[rows], data.Y[rows], None if data.weight is None else data.weight[rows])


def parted(n: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which rows (n,) are fitted, and the numbers of those held out."""
    fitted, count = torch.ones(n, dtype=torch.bool), round(share * n)
    if not share:
        return fitted, fitted.nonzero()[:0, 0]
    if min(count, n - count) < HELD:
        raise ValueError(
            f"held_out={share:g} leaves {n - count} of {n} rows to fit and {count} to judge, and each needs {HELD}; "
            "set held_out=0 or give more rows"
        )
    held = torch.randperm(n, generator=generator, device=generator.device).cpu()[:count].sort().values
    fitted[held] = False
    return fitted, held
