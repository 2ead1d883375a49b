"""Streaming: fit a model to tables that memory does not hold, as if it did.

    sample     up to 32,768 random rows: the encoding of the columns, and the start of the fit from 4096 of them
    overview   means and deviations of all encoded rows, in one pass
    fit        the learner's passes, with checkpoints (`kernelfield.estimators.streaming`)

Rows to test on are chosen by a hash of their numbers (`kernelfield.data.streams.held_out`) and never learned from;
rows without a target are left out and counted. `choose` is the one place that says what to fit where nobody does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kernelfield.core.contracts import Model
from kernelfield.core.streaming import StreamingModel
from kernelfield.data.encoding import Encoding
from kernelfield.data.streams import BATCH, Spread, TableStream, held_out
from kernelfield.data.tables import Problem, listed, numeric_target
from kernelfield.estimators.streaming import EVERY, Arrays, Overview, Watch, fit_batches, unseen
from kernelfield.models import zoo
from kernelfield.models.entry import ANY
from kernelfield.tabular import Provenance, TableModel

SAMPLE = 2**15  # rows that the encoding is learned from: a level of one row in a thousand is missed in e^-32 of cases
START = 2**12  # rows that a fit starts from
FEW_ROWS = 3000  # up to which nobody needs an approximation
IN_MEMORY = 50_000  # rows beyond which a model that can stream does, on tables too
MOST_TESTED = 20_000  # rows held out of a stream where nobody says how many: scores are then known to a percent

FEW_COLUMNS = 20  # among which near rows tell nearly all that there is to know
# Rows and columns up to which a model is the first choice, and why. Exact fits grow with the cube of the rows.
CHOICES = (
    (FEW_ROWS, ANY, "gp", "an exact fit takes seconds"),
    (
        200_000,
        FEW_COLUMNS,
        "vecchia",
        "an exact fit would take too long, and of few columns the nearest rows tell most",
    ),
    (IN_MEMORY, ANY, "gp-sparse", "an exact fit would take too long"),
    (ANY, ANY, "random-features", "memory and time allow one pass over the rows"),
)


@dataclass(frozen=True)
class Choice:
    """A model's name in the zoo, and a sentence that says why it was chosen."""

    name: str
    reason: str


def choose(rows: int, columns: int, *, classes: bool = False, streamed: bool = False) -> Choice:
    """What to fit to a table of so many rows and columns where nobody says; `streamed` if it must learn by batches.

    >>> choose(40_000, 8).name, choose(40_000, 90).name
    ('vecchia', 'gp-sparse')
    """
    if classes:
        return Choice("gpc", "the model is gpc; --model names another")
    able = (
        (name, why)
        for most, widest, name, why in CHOICES
        if rows <= most and columns <= widest and not (streamed and not _streaming(name))
    )
    name, why = next(able, CHOICES[-1][2:])
    size = f"{rows:,} rows of {columns} column{'s' if columns != 1 else ''}"
    return Choice(name, f"{name} was chosen for {size}, as {why}; --model names another")


def _streaming(name: str) -> bool:
    return isinstance(zoo.model(name), StreamingModel)


def streams(name: str, rows: int) -> bool:
    """Whether a model of the zoo is fitted to so many rows batch by batch, because it is quicker or needs no memory."""
    return rows > IN_MEMORY and _streaming(name)


def share_of(rows: int, most: float) -> float:
    """The share of a stream's rows to test on where nobody says: `most`, or so that they are 20,000.

    >>> share_of(10_000_000, 0.2)
    0.002
    """
    return min(most, MOST_TESTED / rows)


@dataclass(frozen=True, eq=False)
class StreamFit:
    """A fitted model, the rows to test it on (None for none) and what was done to the data, in sentences."""

    model: TableModel
    held: Problem | None
    notes: list[str]


def fit_stream(
    model: Model | str,
    stream: TableStream,
    targets: str | Sequence[str],
    *,
    test_share: float = 0.0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: float = EVERY,
    device: str = "cpu",
    watch: Watch = unseen,
    provenance: Provenance | None = None,
) -> StreamFit:
    """Fit a streaming model, or the one of a name in the zoo, to the rows of a stream.

    test_share : of the rows, to hold out for testing.
    checkpoint : a folder in which the fit is kept every so many seconds; given again, the fit goes on from there.

    Errors: ValueError for unknown columns, values that cannot be encoded, a model that needs all rows at once, or a
    checkpoint of another fit.

    >>> import tempfile
    >>> from kernelfield.models.random_features import RandomFeatureProcess
    >>> x = np.linspace(0, 6, 500)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pd.DataFrame({"x": x, "y": np.sin(x)}).to_parquet(f"{folder}/a.parquet")
    ...     fit = fit_stream(RandomFeatureProcess(count=64, restarts=1), TableStream.open(folder), "y")
    >>> round(float(fit.model.predict(pd.DataFrame({"x": [1.0]}), 0.9)[0]["mean"][0]), 2)
    0.84
    """
    name = model if isinstance(model, str) else type(model).__name__
    made = zoo.model(model) if isinstance(model, str) else model
    asked = (targets,) if isinstance(targets, str) else tuple(targets)
    start = time.perf_counter()
    source = TableSource.open(stream, asked, share=test_share, seed=seed)
    estimator = fit_batches(made, source, seed=seed, device=device, checkpoint=checkpoint, every=every, watch=watch)
    seconds = time.perf_counter() - start
    table = TableModel(estimator, source.encoding, name, asked, estimator.n_samples_fit_, seconds, provenance or {})
    empty = [f"column {name!r} holds no value and is left out" for name in source.encoding.empty]
    notes = [*empty, *source.seen.values(), *estimator.notes_]
    return StreamFit(table, source.held() if test_share else None, notes)


@dataclass(frozen=True, eq=False)
class TableSource:
    """The rows of a stream as arrays, for `fit_batches`; `share` of them, by a hash with `seed`, are held out.

    sample : random rows with targets, not held out. seen : what was done to the rows of a column, in sentences.
    """

    stream: TableStream
    targets: tuple[str, ...]
    share: float
    seed: int
    encoding: Encoding
    sample: pd.DataFrame
    seen: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, stream: TableStream, targets: tuple[str, ...], *, share: float, seed: int) -> "TableSource":
        """Learn the encoding from a sample of the rows that are not held out.

        Errors: ValueError for a target that is not there, and those of `Encoding.fit`.
        """
        stream.only(targets)  # an unknown one is refused before any reading
        if len(stream.columns) == len(set(targets)):
            raise ValueError(f"no column is left to learn {listed(targets)} from; drop fewer columns")
        sample = stream.sample(SAMPLE, seed)
        sample = sample[~held_out(sample.index.to_numpy(), share, seed)]
        known = pd.DataFrame({name: numeric_target(sample, name) for name in targets}).notna().all(axis=1)
        sample = sample[known]
        if len(sample) < 2:
            raise ValueError(f"a fit needs at least 2 rows with a target, got {len(sample)} in a sample; add rows")
        return cls(stream, targets, share, seed, Encoding.fit(sample.drop(columns=list(targets))), sample)

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.stream.identity, "targets": list(self.targets), "test share": self.share}

    @property
    def columns(self) -> list[str]:
        return self.encoding.features

    @property
    def total(self) -> int:
        return self.stream.rows

    def batches(self, size: int, start: int) -> Iterator[Arrays]:
        for frame in self.stream.batches(size, start):
            X, Y, _ = self._arrays(frame)
            yield X, Y

    def overview(self, watch: Callable[[int], None]) -> Overview:
        spread_X, spread_Y, dropped = None, None, 0
        for frame in self.stream.batches(BATCH):
            X, Y, lost = self._arrays(frame, self.seen)
            dropped += lost
            if len(X):
                of_X, of_Y = Spread.of(X), Spread.of(Y)
                spread_X = of_X if spread_X is None else spread_X + of_X
                spread_Y = of_Y if spread_Y is None else spread_Y + of_Y
            watch(len(frame))
        if spread_X is None or spread_Y is None:
            raise ValueError(f"every row lacks the target {listed(self.targets)}; fill it in where it was observed")
        X, Y = self._start()
        scales = (part for spread in (spread_X, spread_Y) for part in _standard(spread))
        return Overview(X, Y, spread_X.rows, dropped, *scales)

    def held(self) -> Problem:
        """The rows to test on, in one pass."""
        parts = [f[held_out(f.index.to_numpy(), self.share, self.seed)] for f in self.stream.batches(BATCH)]
        frame = pd.concat([part for part in parts if len(part)] or parts[:1])
        target = pd.DataFrame({name: numeric_target(frame, name) for name in self.targets})
        known = target.notna().all(axis=1)
        if not known.any():
            raise ValueError(f"no row with a target is held out of {self.total}; hold out more than {self.share:g}")
        return Problem(frame.drop(columns=list(self.targets))[known], target[known], int((~known).sum()))

    def _start(self) -> Arrays:
        """The rows that a fit starts from: all of the sample where they are few, else random ones of them."""
        X, Y, _ = self._arrays(self.sample)
        if len(X) <= START:
            return X, Y
        chosen = np.sort(np.random.default_rng(self.seed).permutation(len(X))[:START])
        return X[chosen], Y[chosen]

    def _arrays(self, frame: pd.DataFrame, seen: dict[str, str] | None = None) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs and targets of the rows that are learned from, and how many were left out for want of a target."""
        frame = frame[~held_out(frame.index.to_numpy(), self.share, self.seed)] if self.share else frame
        Y = np.column_stack([numeric_target(frame, name) for name in self.targets])
        known = ~np.isnan(Y).any(1)
        dropped = int((~known).sum())
        features = frame.drop(columns=list(self.targets))
        features, Y = (features[known], Y[known]) if dropped else (features, Y)
        if not len(features):
            return np.empty((0, len(self.columns))), Y, dropped
        encoded = self.encoding.apply(features)
        if seen is not None:
            for note in encoded.notes:
                seen.setdefault(note.partition(":")[0], f"from row {frame.index[0] + 1} on, {note}")
        return encoded.frame.to_numpy(copy=True), Y, dropped


def _standard(spread: Spread) -> Arrays:
    """Shift and scale that make columns standard, as `Affine.standardising` does: constant ones are shifted alone."""
    constant = spread.low == spread.high
    std = spread.std
    return np.where(constant, spread.low, spread.mean), np.where(std > 0, std, 1.0)
