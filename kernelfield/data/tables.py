"""Tables on disk: reading them with every fault named, writing them whole, taking the target out.

A table is a pandas frame with one row per observation. Files are CSV or tab-separated text in
UTF-8, plain or gzipped, with a header line, or Parquet. Rows are counted from 1, the header not
counted, wherever a message names one; `Encoding` keeps the count after rows have been dropped.
"""

import csv
import difflib
import gzip
import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from kernelfield.core.files import write_whole

SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
KINDS = (*SEPARATORS, ".parquet")


def read_table(path: str | Path, *, text: Collection[str] = ()) -> pd.DataFrame:
    """The table in a file; the columns named in `text` keep their cells as they are written.

    Errors: OSError if there is no such file or it cannot be opened; ValueError if it is no table:
    empty, no rows, no or repeated names, rows of unequal length, not text, an unknown ending.
    """
    path = Path(path)
    kind = _kind(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the table in it by name")
    if not path.exists():
        raise FileNotFoundError(no_file(path))
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; a table needs a header line and at least one row")
    frame = _read_parquet(path) if kind == ".parquet" else _read_text(path, SEPARATORS[kind], text)
    if not len(frame):
        raise ValueError(f"{path} has {len(frame.columns)} columns and no rows; add at least one row")
    return frame


def no_file(path: Path) -> str:
    """A sentence for a path at which there is nothing, with near names."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")])
    hint = f"; in that folder are: {listed(near)}" if near else "; check the path"
    return f"there is no file {path}{hint}"


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a frame without its index, whole or not at all; the ending of the name says how.

    Errors: ValueError for an unknown ending; OSError if the file cannot be written.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    else:
        content = frame.to_csv(index=False, sep=SEPARATORS[kind]).encode()
        content = gzip.compress(content, mtime=0) if kind.endswith(".gz") else content
    write_whole(path, content)


def require_kind(path: str | Path) -> None:
    """Refuse a name whose ending is not one of a table, before any work.

    Errors: ValueError, listing the endings.
    """
    _kind(Path(path))


def _kind(path: Path) -> str:
    for kind in KINDS:
        if path.name.lower().endswith(kind):
            return kind
    raise ValueError(f"{path} is not a known kind of table; the name must end in one of {listed(KINDS)}")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as Parquet ({reason}); write it again or use CSV") from error
    if any(frame.index.names):
        frame = frame.reset_index()
    frame.columns = [str(name) for name in frame.columns]
    _check_names(path, list(frame.columns))
    return frame.reset_index(drop=True)


def _read_text(path: Path, separator: str, text: Collection[str]) -> pd.DataFrame:
    remedy = "save it as UTF-8 text, or check that it is a table at all"
    try:
        with _open(path) as file:
            names = _check_rows(path, file, separator)
        types = {name: str for name in text if name in names}
        return pd.read_csv(path, sep=separator, dtype=types, encoding="utf-8-sig", low_memory=False)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); {remedy}") from error
    except (csv.Error, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); {remedy}") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); compress the table again") from error


def _open(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _check_rows(path: Path, file: TextIO, separator: str) -> list[str]:
    """The column names, after a pass over all rows: pandas pads short rows and renames columns in silence."""
    rows = csv.reader(file, delimiter=separator)
    names = next((row for row in rows if row), None)
    if names is None:
        raise ValueError(f"{path} holds only blank lines; a table needs a header line and at least one row")
    if "\0" in "".join(names):
        raise ValueError(f"{path} is binary, not text; save it as CSV or give Parquet the ending .parquet")
    _check_names(path, names)
    width, number = len(names), 0
    for row in rows:
        number += bool(row)
        if row and len(row) != width:
            cells = f"{len(row)} cell" + "s" * (len(row) != 1)
            raise ValueError(
                f"row {number} of {path} (line {rows.line_num}) has {cells} and the header has {width}; "
                "give every row one cell a column, in quotes where a cell holds the separator"
            )
    return names


def _check_names(path: Path, names: Sequence[str]) -> None:
    for position, name in enumerate(names, 1):
        if not name.strip():
            raise ValueError(
                f"column {position} of {path} has no name; name it, or leave out the row numbers when writing the file"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path} has more than one column called {listed(repeated)}; give every column its own name")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ValueError(f"{path} has one column, {names[0]!r}; separate cells by commas, or by tabs in a .tsv file")


@dataclass(frozen=True, eq=False)
class Problem:
    """What to learn from and what to learn: rows agree, and no target is missing."""

    features: pd.DataFrame
    target: pd.DataFrame  # float64; labels of classes as text or whole numbers
    dropped: int  # rows left out because a target was missing


def separate(
    frame: pd.DataFrame, targets: Sequence[str], drop: Collection[str] = (), *, classes: bool = False
) -> Problem:
    """Take the targets out of a frame, and the columns in `drop`.

    classes: whether the targets are labels instead of numbers.

    Errors: ValueError for a column that is not there, a target that is not a number or no label, no
    row with a target, or no column left to learn from.
    """
    for name in drop:
        require_column(frame, name)
        if name in targets:
            raise ValueError(f"column {name!r} cannot be both a target and dropped; name it once")
    read = label_target if classes else numeric_target
    target = pd.DataFrame({name: read(frame, name) for name in targets})
    known = target.notna().all(axis=1)
    if not known.any():
        raise ValueError(f"every row lacks the target {listed(targets)}; fill it in where it was observed")
    features = frame.drop(columns=[*targets, *drop])
    if features.columns.empty:
        raise ValueError(f"no column is left to learn {listed(targets)} from; drop fewer columns")
    return Problem(features[known], target[known], int((~known).sum()))


def numeric_target(frame: pd.DataFrame, name: str) -> pd.Series:
    """A column as float64, NaN where it is missing.

    Errors: ValueError if it is absent (with the near names), holds text or is infinite.
    """
    require_column(frame, name)
    column = frame[name]
    if column.dtype == bool or pd.api.types.is_datetime64_any_dtype(column):
        raise ValueError(f"target {name!r} holds {column.dtype} values, not numbers; write it as numbers")
    values = as_numbers(column)
    refuse(
        column,
        values.isna() & column.notna(),
        f"target {name!r}",
        "is not a number; correct the cell or leave it empty",
    )
    refuse(column, np.isinf(values), f"target {name!r}", "is infinite; correct the cell or leave it empty")
    return values


def as_numbers(column: pd.Series) -> pd.Series:
    """A column as float64, NaN where it is missing or holds no number."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return column.astype(float)
    return pd.to_numeric(column.astype(object), errors="coerce").astype(float)


def label_target(frame: pd.DataFrame, name: str) -> pd.Series:
    """A column of labels: whole numbers if all are, else text; missing where it is.

    Errors: ValueError if it is absent (with the near names) or holds numbers with fractions or dates.
    """
    require_column(frame, name)
    column = frame[name]
    if pd.api.types.is_datetime64_any_dtype(column):
        raise ValueError(f"target {name!r} holds dates, which are no classes; write the classes as text")
    if not pd.api.types.is_numeric_dtype(column) or column.dtype == bool:
        return column.astype(object).where(column.isna(), column.astype(str))
    refuse(
        column,
        column.notna() & ~(column == column.round()),
        f"target {name!r}",
        "is no class; leave out --classify to predict numbers, or write the classes as text",
    )
    return column.astype("Int64")


def text_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that hold text only, for reading another table alike."""
    return [name for name in frame if pd.api.types.infer_dtype(frame[name], skipna=True) == "string"]


def require_column(frame: pd.DataFrame, name: str) -> None:
    """Errors: ValueError if a frame has no such column, with near names and all names."""
    if name not in frame.columns:
        names = list(frame.columns)
        near = near_names(name, names)
        hint = f"did you mean {listed(near, 'or')}? The" if near else "the"
        raise ValueError(f"there is no column {name!r}; {hint} columns are {listed(names)}")


def refuse(column: pd.Series, bad: pd.Series, what: str, remedy: str) -> None:
    """Errors: ValueError with the first value of a column marked in `bad`, and its row."""
    if bad.any():
        position = int(np.argmax(bad.to_numpy()))
        others = int(bad.sum()) - 1
        more = f" (and {others} more like it)" if others else ""
        value = str(column.iloc[position])
        raise ValueError(f"{what} holds {value!r} in row {column.index[position] + 1}{more}, which {remedy}")


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to three names that differ from `name` by little or by case."""
    lower = {other.lower(): other for other in names}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)]


def listed(names: Iterable[str], last: str = "and") -> str:
    """Names in a sentence: 'a', 'b' and 'c'; long lists are cut at twenty.

    >>> listed(["a", "b", "c"])
    "'a', 'b' and 'c'"
    """
    quoted = [repr(str(name)) for name in names]
    if len(quoted) > 20:
        quoted = [*quoted[:20], f"{len(quoted) - 20} more"]
    return f" {last} ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
