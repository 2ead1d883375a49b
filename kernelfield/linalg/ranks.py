"""Ranks: processes that compute one thing together, each on its part, on one machine or on many.

Every rank runs the same program and meets the others in sums and gatherings of arrays. Whatever it
learns there is the same on every rank, to the last bit, so that all of them take the same decisions.

    torchrun --nproc-per-node 4 program.py        # 4 ranks; the program calls `join` first and `leave` last

Messages travel by gloo between processors and by NCCL between GPUs. A rank that dies, or keeps the others
waiting for longer than the timeout, ends the work of all of them with `RankLost`, which names it where the
others can tell. This is the only file that knows torch.distributed.

Source: Li et al. (2020), PyTorch Distributed: experiences on accelerating data parallel training.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.rendezvous import rendezvous as meet

TIMEOUT = 600.0  # seconds; the longest that one rank may compute, read or write while the others wait
CPU = torch.device("cpu")
ROLL_CALL = 3.0  # seconds that survivors give each other to say that they are there


class RankLost(ConnectionError):
    """A rank died, or did not answer in time."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """The place of this process among those that compute together.

    rank of world : its number, from 0. neighbours : ranks on its machine, which share the memory.
    device : where its arrays should be.
    Arrays keep their dtype and device, and are not differentiated through.

    Errors: every exchange raises RankLost if another rank dies or keeps it waiting.

    >>> ALONE.rows(10), ALONE.sum(torch.ones(2)).tolist()
    (slice(0, 10, None), [1.0, 1.0])
    """

    rank: int = 0
    world: int = 1
    neighbours: int = 1
    device: torch.device = CPU
    timeout: float = TIMEOUT
    store: torch.distributed.Store | None = field(default=None, repr=False)

    def rows(self, n: int) -> slice:
        """This rank's part of n rows: parts follow each other and differ by one row at most.

        Errors: ValueError if there are fewer rows than ranks.
        """
        parts = self.parts(n)
        start = sum(parts[: self.rank])
        return slice(start, start + parts[self.rank])

    def parts(self, n: int) -> list[int]:
        """How many of n rows each rank has."""
        if n < self.world:
            raise ValueError(f"{n} rows cannot be shared out among {self.world} ranks; start at most {n}")
        each, more = divmod(n, self.world)
        return [each + (rank < more) for rank in range(self.world)]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of an array over all ranks: the same bits on each of them, and in each run of that many ranks."""
        if self.world == 1:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with self._answered("a sum"):
            torch.distributed.all_reduce(total)
        return total

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of some arrays of one dtype, in one message."""
        if self.world == 1 or not tensors:
            return list(tensors)
        flat = self.sum(torch.cat([tensor.detach().flatten() for tensor in tensors]))
        pieces = flat.split([tensor.numel() for tensor in tensors])
        return [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]

    def gather(self, tensor: Tensor, total: int | None = None) -> Tensor:
        """The rows of all ranks, in their order, on each of them.

        total : how many there are in all, if each rank has its `rows(total)`; it saves asking.
        """
        if self.world == 1:
            return tensor
        if total is not None:
            sizes = self.parts(total)
        else:
            mine = torch.zeros(self.world, dtype=torch.int64, device=tensor.device)
            mine[self.rank] = len(tensor)
            sizes = self.sum(mine).tolist()
        if sizes[self.rank] != len(tensor):
            raise ValueError(f"rank {self.rank} has {len(tensor)} rows where its part of {total} is {sizes[self.rank]}")
        # Messages must be of one length.
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor.detach()
        pieces = tensor.new_empty(self.world, *padded.shape)
        with self._answered("a gathering"):
            torch.distributed.all_gather(list(pieces), padded)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The array that rank 0 has, on every rank; the others give one of its shape."""
        if self.world == 1:
            return tensor
        message = tensor.detach().clone(memory_format=torch.contiguous_format)
        with self._answered("a broadcast"):
            torch.distributed.broadcast(message, src=0)
        return message

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum(torch.zeros(1, device=self.device))

    @contextmanager
    def _answered(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankLost(self._complaint(what)) from error

    def _complaint(self, what: str) -> str:
        missing = self._missing()
        who = f"{_listed(missing)} did not answer a roll call" if missing else "the connection broke"
        return (
            f"{what} over {self.world} ranks came to no end: {who} (it died, failed by itself, or took longer than the "
            f"timeout of {self.timeout:g} s, which KERNELFIELD_TIMEOUT sets); start the job again, from its checkpoint "
            "where there is one"
        )

    def _missing(self) -> list[int]:
        """The ranks that do not say within a few seconds that they have noticed too."""
        if self.store is None:
            return []
        try:
            self.store.set(f"noticed/{self.rank}", "")
            rest = [rank for rank in range(self.world) if rank != self.rank]
            end = time.monotonic() + ROLL_CALL
            while rest and time.monotonic() < end:
                rest = [rank for rank in rest if not self.store.check([f"noticed/{rank}"])]
                time.sleep(0.05)
        except RuntimeError:  # whoever kept the store is gone, and that is rank 0 where nobody else was given it
            return [0]
        return rest

    def speaks(self, sentence: str) -> bool:
        """Whether this rank is to say a sentence on how the work ended; the others wait whether the first one does."""
        if self.store is None:
            return True
        try:
            self.store.set(f"said/{self.rank}", sentence)
            end = time.monotonic() + ROLL_CALL
            while self.rank and time.monotonic() < end:
                if self.store.check(["said/0"]):
                    return bool(self.store.get("said/0").decode() != sentence)
                time.sleep(0.05)
        except RuntimeError:  # nobody is there to say it
            return True
        return True

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return here, ()


ALONE = Ranks()
_place = [ALONE]


def here() -> Ranks:
    """The place of this process: what `join` gave it, or `ALONE`. It is also what a pickled place becomes."""
    return _place[-1]


def join(
    rendezvous: str | None = None,
    *,
    rank: int | None = None,
    world: int | None = None,
    device: str = "cpu",
    timeout: float | None = None,
) -> Ranks:
    """Meet the other ranks, and learn one's own place; without any to meet, `ALONE`.

    rendezvous : where, as file:///a/file/that/is/not/there/yet or tcp://host:port, with rank and world;
        None takes all three from the environment, as torchrun sets it. device : "cpu", or "cuda" for
        the GPU of this rank's number on its machine. timeout : seconds that a rank waits for another; None is
        KERNELFIELD_TIMEOUT, or ten minutes.

    Errors: ValueError for a place or device that there is not; RankLost if not all of them come.

    >>> join()
    Ranks(rank=0, world=1, neighbours=1, device=device(type='cpu'), timeout=600.0)
    """
    if here() is not ALONE:
        raise ValueError(f"this process has joined already, as rank {here().rank} of {here().world}; leave first")
    seconds = _timeout(timeout)
    rank = _number("RANK", 0) if rank is None else rank
    world = _number("WORLD_SIZE", 1) if world is None else world
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of a world of {world} there is not; ranks run from 0 to {world - 1}")
    place = Ranks(rank, world, _number("LOCAL_WORLD_SIZE", world), _device(device, rank), seconds)
    if world > 1:
        place = replace(place, store=_meet(place, rendezvous))
    elif place.device == CPU:
        return ALONE
    _place.append(place)
    return place


def leave() -> None:
    """End what `join` began, once all ranks have come here; nothing where there was nothing."""
    if here().world > 1:
        here().barrier()  # so that the one that keeps the store does not go first
        torch.distributed.destroy_process_group()
    del _place[1:]


def abandon() -> None:
    """Be alone again without a word to the others, who will find out: where something has gone wrong."""
    del _place[1:]


def _meet(place: Ranks, rendezvous: str | None) -> torch.distributed.Store:
    """Connect to all other ranks, once they agree on who they are."""
    url = "env://" if rendezvous is None else rendezvous
    patience = timedelta(seconds=place.timeout)
    try:
        store, _, _ = next(meet(url, place.rank, place.world, timeout=patience))
        store.set_timeout(patience)
        _agree(place, store)
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if place.device.type == "cuda" else "gloo",
            store=torch.distributed.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.world,
            timeout=patience,
        )
    except RuntimeError as error:
        raise RankLost(
            f"rank {place.rank} did not meet the others of {place.world} at {url} within {place.timeout:g} s; start "
            "all of them with the same rendezvous and world, and let its port through between machines"
        ) from error
    return store


def _agree(place: Ranks, store: torch.distributed.Store) -> None:
    if store.add(f"taken/{place.rank}", 1) > 1:
        raise ValueError(
            f"rank {place.rank} is taken; number the ranks from 0 to {place.world - 1}, and meet where no job has met"
        )
    store.set(f"world/{place.rank}", str(place.world))
    for rank in range(place.world):
        other = int(store.get(f"world/{rank}"))
        if other != place.world:
            raise ValueError(
                f"rank {rank} was told of {other} ranks in all, rank {place.rank} of {place.world}; tell all the same"
            )


def _device(kind: str, rank: int) -> torch.device:
    if torch.device(kind).type != "cuda":
        return torch.device(kind)
    local, count = _number("LOCAL_RANK", rank), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"rank {rank} needs GPU number {local} of its machine, which has {count}; start at most {count} ranks on "
            "it, or use device cpu"
        )
    return torch.device("cuda", local)


def _timeout(asked: float | None) -> float:
    said = os.environ.get("KERNELFIELD_TIMEOUT", TIMEOUT) if asked is None else asked
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"the timeout must be a positive number of seconds, got {said}")
    return seconds


def _number(name: str, default: int) -> int:
    said = os.environ.get(name, str(default))
    if not said.isdecimal():
        raise ValueError(f"{name} in the environment must be a whole number, got {said!r}; torchrun sets it")
    return int(said)


def _listed(ranks: list[int]) -> str:
    numbers = ", ".join(map(str, ranks))
    return f"rank {numbers}" if len(ranks) == 1 else f"ranks {numbers}"
