"""Tables that are larger than memory: their rows in a fixed order, so many at a time.

A `TableStream` is one or many files of one schema, Parquet, Arrow or CSV. Its rows are numbered from 0 through
all files, these sorted by name where a pattern or a folder found them; a batch is the same rows whatever the
row groups of the files, so that work can stop after a batch and go on with the next one in another process.

Two random choices depend on a seed and on the number of a row alone, hence neither on the batches nor on the files:

    a sample      `size` of n row numbers, without replacement
    held out      row i if h(seed, i) < share 2^64, h the finaliser of SplitMix64 over seed and i

`Spread` gathers means and deviations in one pass: two groups of rows (n, mean, M), M the sum of squares about
the mean, join as

    mean = mean_a + d n_b / (n_a + n_b),    M = M_a + M_b + d^2 n_a n_b / (n_a + n_b),    d = mean_b - mean_a,

which loses no digits where the mean is large against the deviation, as sums of squares would.

Sources: Chan, Golub & LeVeque (1983), "Algorithms for Computing the Sample Variance"; Steele, Lea & Flood (2014),
"Fast Splittable Pseudorandom Number Generators", for SplitMix64.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from pyarrow import dataset as arrow

from kernelfield.data.tables import listed, near_names, no_file

FORMATS = {
    ".parquet": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
}
# Numbers beyond 2^53 are rounded, as in pandas; times are those of UTC, to the microsecond.
TYPES = {"numbers": pa.float64(), "text": pa.string(), "dates": pa.timestamp("us")}
INDEX = "__index_level_"  # what pandas calls an index without a name
READ = 2**16  # rows of a piece that is read, of which batches are cut
BATCH = 2**16  # rows of a batch


@dataclass(frozen=True)
class TableFile:
    """A file of a stream: its rows, size in bytes and the kinds of its columns by name."""

    path: Path
    rows: int
    size: int
    kinds: dict[str, str]


@dataclass(frozen=True)
class TableStream:
    """See the module docstring; `TableStream.open` makes one.

    columns : those that are read, in this order.
    """

    files: tuple[TableFile, ...]
    columns: tuple[str, ...]

    @classmethod
    def open(cls, paths: str | Path | Sequence[str | Path], *, drop: Collection[str] = ()) -> "TableStream":
        """The rows of files, of all that a pattern such as 'data/*.parquet' matches, or of those in a folder.

        drop : columns not to read.

        Errors: FileNotFoundError if there is no file; ValueError for a kind of file that is not known or cannot be
        read, a column to drop that is not there, or columns that change between files, naming file and column.
        """
        found = _found([paths] if isinstance(paths, str | Path) else paths)
        files = tuple(_measured(path) for path in found)
        names = list(files[0].kinds)
        unknown = [name for name in drop if name not in names]
        if unknown:
            raise ValueError(f"{files[0].path} has no column {listed(unknown)} to leave out; it has {listed(names)}")
        stream = cls(files, tuple(name for name in names if name not in drop))
        for file in files[1:]:
            _require_same(files[0], file, drop)
        if not stream.rows:
            raise ValueError(f"{_called(found)} no rows; add at least one")
        return stream

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def identity(self) -> dict[str, Any]:
        """What is the same as long as the data are: columns and their kinds, and of each file the rows and bytes."""
        # Names within the folder that holds all: parts of a table often have one name in folders of their own.
        places = [os.path.abspath(file.path) for file in self.files]
        folder = os.path.commonpath([os.path.dirname(place) for place in places])
        sizes = [f"{file.rows} rows in {file.size} bytes" for file in self.files]
        return {
            "columns": {name: self.files[0].kinds[name] for name in self.columns},
            "files": {os.path.relpath(place, folder): size for place, size in zip(places, sizes, strict=True)},
        }

    def only(self, columns: Sequence[str]) -> "TableStream":
        """The same rows with fewer columns.

        Errors: ValueError for a column that is not there, with those of near names.
        """
        for name in columns:
            if name not in self.columns:
                near = near_names(name, self.columns) or self.columns
                raise ValueError(
                    f"there is no column {name!r} in {self.files[0].path}; did you mean {listed(near, 'or')}?"
                )
        return replace(self, columns=tuple(columns))

    def batches(self, size: int = BATCH, start: int = 0) -> Iterator[pd.DataFrame]:
        """Frames of `size` rows from row `start` on, the last one shorter; their index numbers the rows."""
        number, rest = start, []
        held = 0
        for table in self._tables(start):
            rest.append(table)
            held += table.num_rows
            while held >= size:
                whole = pa.concat_tables(rest)
                yield _framed(whole.slice(0, size), number)
                number, held = number + size, held - size
                rest = [whole.slice(size)]
        if held:
            yield _framed(pa.concat_tables(rest), number)

    def frame(self) -> pd.DataFrame:
        """All rows, for tables that memory holds."""
        return _framed(pa.concat_tables(list(self._tables(0))), 0)

    def sample(self, size: int, seed: int) -> pd.DataFrame:
        """`size` random rows, or all where there are fewer, in their order; the index numbers them in the stream.

        Reads all files up to the last of those rows, in memory of one piece and the sample.
        """
        n = self.rows
        chosen = np.arange(n)
        if size < n:
            chosen = np.sort(np.random.default_rng(seed).choice(n, size, replace=False))
        parts, number = [], 0
        for table in self._tables(0):
            inside = np.arange(*np.searchsorted(chosen, [number, number + table.num_rows]))
            if len(inside):
                parts.append(table.take(chosen[inside] - number))
            number += table.num_rows
            if number > chosen[-1]:
                break
        frame = _framed(pa.concat_tables(parts), 0)
        frame.index = pd.Index(chosen)
        return frame

    def _tables(self, start: int) -> Iterator[pa.Table]:
        """The rows from `start` on, in pieces as they are read, each kind of column in one type."""
        kinds = self.files[0].kinds
        schema = {name: TYPES[kinds[name]] for name in self.columns if kinds[name] in TYPES}
        for file in self.files:
            if start >= file.rows:
                start -= file.rows
                continue
            for batch in _pieces(file, list(self.columns), start):
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                for place, name in enumerate(self.columns):
                    if name in schema and table.schema.types[place] != schema[name]:
                        table = table.set_column(place, name, _cast(table.column(place), schema[name]))
                yield table
            start = 0


def held_out(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which of the rows of these numbers are held out of the fit, for testing; see the module docstring.

    >>> bool(0.19 < held_out(np.arange(100_000), 0.2, seed=0).mean() < 0.21)
    True
    """
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) + np.uint64(1) + (np.uint64(seed) << np.uint64(32))
        x = x * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x < np.uint64(min(share * 2.0**64, 2.0**64 - 2048))


@dataclass(frozen=True, eq=False)
class Spread:
    """Of each column (d,): how many rows, mean, sum of squares about it, least and greatest value.

    >>> together = Spread.of(np.array([[1.0], [3.0]])) + Spread.of(np.array([[8.0]]))
    >>> float(together.mean[0]), float(together.std[0]) ** 2
    (4.0, 8.666666666666666)
    """

    rows: int
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """Of the rows of an array (n, d), n at least one."""
        rough = values.mean(0)
        left = values - rough
        more = left.mean(0)  # what NumPy's sums down a column, one row after another, have lost
        left -= more
        return cls(len(values), rough + more, np.square(left).sum(0), values.min(0), values.max(0))

    def __add__(self, more: "Spread") -> "Spread":
        rows, gap = self.rows + more.rows, more.mean - self.mean
        return Spread(
            rows,
            self.mean + gap * (more.rows / rows),
            self.squares + more.squares + gap**2 * (self.rows * (more.rows / rows)),
            np.minimum(self.low, more.low),
            np.maximum(self.high, more.high),
        )

    @property
    def std(self) -> np.ndarray:
        """Deviations with the divisor n, zero where all values are equal."""
        return np.where(self.low == self.high, 0.0, np.sqrt(self.squares / self.rows))


def _found(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if _format(item) and not item.name.startswith("."))
            if not inside:
                raise FileNotFoundError(f"the folder {path} holds no file that ends in {listed(FORMATS, 'or')}")
            found += inside
        elif path.exists():
            found.append(path)
        elif has_magic(str(given)):
            matched = sorted(Path(name) for name in glob(str(given), recursive=True))
            if not matched:
                raise FileNotFoundError(f"no file matches {given}; check the pattern, and put it in quotes")
            found += matched
        else:
            raise FileNotFoundError(no_file(path))
    if not found:
        raise FileNotFoundError("no file was given; name at least one table")
    times = Counter(path.resolve() for path in found)
    twice = sorted(str(path) for path, count in times.items() if count > 1)
    if twice:
        raise ValueError(f"{listed(twice)} was given more than once; its rows would count twice")
    return found


def _format(path: Path) -> str | None:
    return next((kind for ending, kind in FORMATS.items() if path.name.lower().endswith(ending)), None)


def _fragments(path: Path, kinds: dict[str, str] | None = None) -> list[arrow.Fragment]:
    """The parts of a file, its columns being of `kinds` where these are known."""
    source: Any = _format(path)
    match source:
        case None:
            raise ValueError(f"{path} is not a known kind of table; the name must end in one of {listed(FORMATS)}")
        case "csv":
            # What the first block holds says little of the rest: 1 and 2 may go on with 2.5.
            types = {name: TYPES["numbers"] for name, kind in (kinds or {}).items() if kind == "numbers"}
            source = arrow.CsvFileFormat(
                csv.ParseOptions(delimiter="\t" if ".tsv" in path.name.lower() else ","),
                convert_options=csv.ConvertOptions(strings_can_be_null=True, column_types=types),
            )
        case "parquet":
            # Pages are read as they are needed: a file may be a single group of rows.
            paged = arrow.ParquetFragmentScanOptions(use_buffered_stream=True, buffer_size=2**20, pre_buffer=False)
            source = arrow.ParquetFileFormat(default_fragment_scan_options=paged)
    return list(arrow.dataset(path, format=source).get_fragments())


def _measured(path: Path) -> TableFile:
    """Schema and rows of a file; for Parquet from its footer alone."""
    try:
        fragments = _fragments(path)
        fields = [field for fragment in fragments for field in fragment.physical_schema]
        rows = sum(fragment.count_rows() for fragment in fragments)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table ({str(error).splitlines()[0]}); write it again") from error
    names = [field.name for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has more than one column called {listed(twice)}; give every column its own name")
    kinds = {field.name: _kind(field.type) for field in fields if not field.name.startswith(INDEX)}
    return TableFile(path, rows, path.stat().st_size, kinds)


def _kind(kind: pa.DataType) -> str:
    """What a column holds, up to how it is written: numbers of any width are one kind."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "dates"
    return "nothing" if pa.types.is_null(kind) else str(kind)


def _require_same(first: TableFile, file: TableFile, drop: Collection[str]) -> None:
    """Errors: ValueError if the columns of a file are not those of the first one."""
    where = f"all files of a stream need the columns of {first.path}"
    for name, kind in first.kinds.items():
        if name in drop:
            continue
        if name not in file.kinds:
            raise ValueError(f"{file.path} lacks the column {name!r}; {where}")
        if file.kinds[name] != kind:
            raise ValueError(
                f"column {name!r} holds {file.kinds[name]} in {file.path} and {kind} in {first.path}; write both alike"
            )
    more = [name for name in file.kinds if name not in first.kinds and name not in drop]
    if more:
        raise ValueError(f"{file.path} has a column {more[0]!r} that {first.path} lacks; leave it out by dropping it")


def _pieces(file: TableFile, columns: list[str], start: int) -> Iterator[pa.RecordBatch]:
    """The record batches of a file from its row `start` on, in order."""
    try:
        for fragment in _fragments(file.path, file.kinds):
            parts = fragment.split_by_row_group() if isinstance(fragment, arrow.ParquetFileFragment) else [fragment]
            for part in parts:
                rows = part.count_rows() if start else 0
                if start and start >= rows:
                    start -= rows
                    continue
                # Little is read ahead: memory is that of a few pieces, however large the file.
                pieces = part.to_batches(columns=columns, batch_size=READ, batch_readahead=2, fragment_readahead=1)
                for batch in pieces:
                    skipped = min(start, batch.num_rows)
                    start -= skipped
                    if skipped < batch.num_rows:
                        yield batch.slice(skipped)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file.path} cannot be read to its end ({str(error).splitlines()[0]})") from error


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(kind, safe=False)


def _framed(table: pa.Table, first: int) -> pd.DataFrame:
    frame = table.to_pandas(self_destruct=False)
    frame.index = pd.RangeIndex(first, first + len(frame))
    return frame


def _called(paths: Sequence[Path]) -> str:
    return f"{paths[0]} has" if len(paths) == 1 else f"{len(paths)} files from {paths[0]} to {paths[-1]} have"
