"""Fits to rows that come batch by batch, with checkpoints: a run that was killed goes on to the same numbers.

    first pass     the sample, means and deviations of inputs and targets
    the start      hyperparameters and basis from the sample, in standardised units
    later passes   the learner's steps, batch after batch in one order

A checkpoint is written every so many seconds and when the process is told to stop (SIGINT, SIGTERM); after SIGKILL the
rows since the last one are learned from again. Batches are the same in every run and no random number outlives a
step, except in the state: the answer has the same bits as that of a run without interruption, on the same machine
with as many threads.
"""

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save

from kernelfield.core.contracts import Data, Model
from kernelfield.core.streaming import Learner, StreamingModel
from kernelfield.estimators.checkpoints import Checkpoint
from kernelfield.estimators.records import Writer
from kernelfield.estimators.regressor import FieldRegressor, usable_device
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.estimators.shards import turns
from kernelfield.linalg.ranks import Ranks, here

BLOCK = 2**16  # rows, at least, that are read at a time; steps of fewer take them in a random order
EVERY = 60.0  # seconds between two checkpoints

Arrays = tuple[np.ndarray, np.ndarray]
Watch = Callable[["Progress"], None]


@dataclass(frozen=True, eq=False)
class Overview:
    """What a first pass over a stream found, in the units of its arrays.

    X (s, d) and Y (s, m) are the sample; shift and scale, (d,) and (m,), make the columns of all rows
    standard; rows is their number, dropped that of rows without a target.
    """

    X: np.ndarray
    Y: np.ndarray
    rows: int
    dropped: int
    shift_X: np.ndarray
    scale_X: np.ndarray
    shift_Y: np.ndarray
    scale_Y: np.ndarray

    @classmethod
    def of(cls, parts: Mapping[str, np.ndarray]) -> "Overview":
        """From its parts by name."""
        arrays = (parts[name] for name in ("shift_X", "scale_X", "shift_Y", "scale_Y"))
        return cls(parts["X"], parts["Y"], int(parts["rows"]), int(parts["dropped"]), *arrays)

    @property
    def maps(self) -> list[Arrays]:
        """Shifts and scales of the inputs and of the targets."""
        return [(self.shift_X, self.scale_X), (self.shift_Y, self.scale_Y)]


class Source(Protocol):
    """Rows for a fit, as often as they are asked for and always in the same order."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What is the same as long as the rows are, as JSON has it."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of the inputs."""

    @property
    def total(self) -> int:
        """The rows of a pass, those left out counted too."""

    def overview(self, watch: Callable[[int], None]) -> Overview:
        """The first pass; `watch` is told rows as they go by."""

    def batches(self, size: int, start: int) -> Iterator[Arrays]:
        """X (n, d) and Y (n, m) of the rows from `start` on, `size` at a time, of which some may be left out."""


@dataclass(frozen=True)
class Progress:
    """How far a fit has come: rows of all `rows` passed since the last word, in a pass over `total`; loss in nats."""

    stage: str
    rows: int
    total: int
    loss: float | None = None


def unseen(progress: Progress) -> None:
    """A watch that nobody looks at."""


def fit_batches(
    model: Model,
    source: Source,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    every: float = EVERY,
    watch: Watch = unseen,
) -> FieldRegressor:
    """Fit a model to the rows of a source; see the module docstring.

    checkpoint : a folder for checkpoints, made where it is missing; a fit that it holds the beginning of goes on.
    every : seconds between two of them.

    Errors: ValueError for a model that needs all rows at once, a checkpoint of another request, or data that
    changed under it; KeyboardInterrupt or SystemExit when told to stop, after a last checkpoint.
    """
    if not isinstance(model, StreamingModel):
        raise ValueError(
            f"{type(model).__name__} learns from all rows at once; to stream, take one of basis functions or networks, "
            "such as RandomFeatureProcess or SparseProcess"
        )
    where = usable_device(device)
    request = {} if checkpoint is None else _asked(model, seed, source)
    store = None if checkpoint is None else Checkpoint.open(checkpoint, request)
    begun = None if store is None else store.start()
    if begun is None:
        overview = source.overview(lambda rows: watch(Progress("reading", rows, source.total)))
        if store is not None and here().rank == 0:
            store.begin(request, {name: np.asarray(value) for name, value in vars(overview).items()})
    else:
        overview = Overview.of(begun)
    if overview.rows < 2:
        raise ValueError(f"a fit needs at least 2 rows with a target, got {overview.rows}; add rows")
    maps = [
        Affine(torch.tensor(shift, device=where), torch.tensor(scale, device=where)) for shift, scale in overview.maps
    ]
    if not model.scalable:
        maps[1] = Affine.of_targets(model, torch.tensor(overview.Y, device=where))
    sample = [to(torch.tensor(part, device=where)) for to, part in zip(maps, (overview.X, overview.Y), strict=True)]
    watch(Progress("starting", 0, source.total))
    learner = model.learner(Data(*sample), overview.rows, generator=torch.Generator().manual_seed(seed))
    _learn(learner, source, maps, store, every, watch, seed)
    fitted = Scaled(learner.surrogate(), *maps)
    estimator = FieldRegressor(model, device=device, random_state=seed)
    estimator.surrogate_, estimator.n_samples_fit_ = fitted, overview.rows
    estimator.y_ndim_ = 1 if fitted.outputs == 1 else 2
    estimator.n_features_in_ = len(source.columns)
    estimator.feature_names_in_ = np.array(source.columns, dtype=object)
    left = "1 row was" if overview.dropped == 1 else f"{overview.dropped} rows were"
    missing = [f"{left} left out for want of a target"] if overview.dropped else []
    estimator.notes_ = [*missing, *fitted.inner.notes()]
    return estimator


def _learn(
    learner: Learner,
    source: Source,
    maps: Sequence[Affine],
    store: Checkpoint | None,
    every: float,
    watch: Watch,
    seed: int,
) -> None:
    """All steps of all passes, from where the checkpoint left off."""
    ranks, size = here(), learner.batch
    first, row = (0, 0) if store is None else store.restore(learner, ranks)
    told, total = time.monotonic(), source.total
    done = first * total + row
    if done:
        watch(Progress("learning", done, learner.passes * total))
    with _told_to_stop(store is not None) as stop:
        for turn in range(first, learner.passes):
            for arrays, end in turns(source, max(size, BLOCK), row, ranks, apart=learner.apart):
                loss = _steps(learner, arrays, maps, seed + turn * total + row, ranks)
                watch(Progress("learning", end - row, learner.passes * total, loss))
                row = end
                if store is not None:
                    number, due = _agreed(ranks, stop, time.monotonic() - told >= every)
                    if number or due:
                        store.keep(learner, turn, row, ranks)
                        told = time.monotonic()
                    if number:
                        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            row = 0
        if store is not None and first < learner.passes:
            store.keep(learner, learner.passes, 0, ranks)


def _agreed(ranks: Ranks, stop: list[int], due: bool) -> tuple[int, bool]:
    """The signal that one of the ranks was told to stop by, or 0; and whether the first one finds a checkpoint due."""
    if ranks.world == 1:
        return stop[0] if stop else 0, due
    told = ranks.gather(torch.tensor([[stop[0] if stop else 0, int(due)]]), ranks.world)
    return int(told[:, 0].max()), bool(told[0, 1])


def _steps(learner: Learner, arrays: Arrays, maps: Sequence[Affine], seed: int, ranks: Ranks) -> float | None:
    """The steps of a block of rows, in a random order where a step takes fewer; the mean loss."""
    n = len(arrays[0])
    if not n:
        return None  # all its rows are left out
    X, Y = (to(torch.tensor(part, device=to.shift.device)) for to, part in zip(maps, arrays, strict=True))
    if n <= learner.batch and (ranks.world == 1 or learner.apart):
        return learner.step(Data(X, Y))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed % 2**63)).to(X.device)
    parts = order.tensor_split(math.ceil(n / learner.batch))
    if not learner.apart:
        parts = tuple(part[ranks.rows(len(part))] for part in parts)
    losses = [learner.step(Data(X[part], Y[part])) for part in parts]
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None


@contextmanager
def _told_to_stop(asked: bool) -> Iterator[list[int]]:
    """A list that is filled when the process is told to stop; a second word stops it at once."""
    told: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(number)

    if not asked or threading.current_thread() is not threading.main_thread():  # elsewhere signals are not heard
        yield told
        return
    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _asked(model: Model, seed: int, source: Source) -> dict[str, Any]:
    """What a fit depends on, as JSON has it; tensors of the model by their checksums."""
    writer = Writer()
    record = writer.record(model, "model")
    sums = {name: hashlib.sha256(save({"": tensor})).hexdigest() for name, tensor in writer.tensors.items()}
    return {"model": record, "tensors": sums, "seed": seed, "data": dict(source.identity)}
