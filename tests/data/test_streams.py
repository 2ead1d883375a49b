"""A stream is the rows of its files in one order, whatever the batches, and refuses files that differ."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather

from kernelfield.data.streams import Spread, TableStream, held_out


def table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    x[::7] = np.nan
    return pd.DataFrame(
        {
            "x": x,
            "count": rng.integers(0, 9, n),
            "colour": rng.choice(["red", "blue"], n),
            "day": pd.date_range("2020-01-01", periods=n, unit="us"),
            "open": rng.uniform(size=n) < 0.5,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    for number, n in enumerate((1000, 700, 3)):
        table(n, number).to_parquet(folder / f"{number}.parquet", row_group_size=130)
    return folder


@pytest.fixture(scope="module")
def whole() -> pd.DataFrame:
    frame = pd.concat([table(n, number) for number, n in enumerate((1000, 700, 3))], ignore_index=True)
    return frame.astype({"count": float})


@pytest.mark.parametrize("size", [17, 64, 1000, 5000])
def test_batches_are_the_rows_of_all_files_in_order(folder: Path, whole: pd.DataFrame, size: int) -> None:
    stream = TableStream.open(str(folder / "*.parquet"))
    batches = list(stream.batches(size))
    assert {len(batch) for batch in batches[:-1]} <= {size}
    assert len(batches) == -(-1703 // size)
    pd.testing.assert_frame_equal(pd.concat(batches), whole, check_dtype=False)


@pytest.mark.parametrize("start", [1, 130, 999, 1000, 1234, 1702, 1703])
def test_rows_can_be_skipped(folder: Path, whole: pd.DataFrame, start: int) -> None:
    batches = list(TableStream.open(folder).batches(100, start))
    assert sum(map(len, batches)) == 1703 - start
    if batches:
        found = pd.concat(batches)
        assert list(found.index) == list(range(start, 1703))
        np.testing.assert_array_equal(found["x"], whole["x"][start:])


def test_other_kinds_of_files_hold_the_same_rows(tmp_path: Path) -> None:
    frame = table(300, 0)
    frame.to_parquet(tmp_path / "a.parquet")
    feather.write_feather(pa.Table.from_pandas(frame), tmp_path / "a.arrow")
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    expected = TableStream.open(tmp_path / "a.parquet").frame()
    for name in ("a.arrow", "a.csv", "a.tsv"):
        found = TableStream.open(tmp_path / name).frame()
        pd.testing.assert_frame_equal(found, expected, check_exact=False)


def test_numbers_of_a_csv_may_begin_as_whole_ones(tmp_path: Path) -> None:
    n = 400_000  # beyond the first block, from which the types are inferred
    values = np.arange(n, dtype=float)
    values[-1] += 0.5
    (tmp_path / "a.csv").write_text("x\n" + "\n".join(f"{value:.0f}" for value in values[:-1]) + f"\n{values[-1]}\n")
    assert TableStream.open(tmp_path / "a.csv").frame()["x"].iloc[-1] == n - 0.5


def test_a_sample_is_random_rows_of_the_stream_whatever_its_files(
    folder: Path, whole: pd.DataFrame, tmp_path: Path
) -> None:
    sample = TableStream.open(folder).sample(50, 3)
    assert len(sample) == len(set(sample.index)) == 50
    pd.testing.assert_frame_equal(sample, whole.iloc[sample.index], check_dtype=False)
    whole.to_parquet(tmp_path / "one.parquet")
    np.testing.assert_array_equal(TableStream.open(tmp_path).sample(50, 3).index, sample.index)
    assert not np.array_equal(TableStream.open(folder).sample(50, 4).index, sample.index)
    assert len(TableStream.open(folder).sample(5000, 0)) == 1703


def test_rows_are_held_out_by_their_numbers_alone() -> None:
    rows = np.arange(100_000)
    held = held_out(rows, 0.2, 7)
    # Six standard errors of a share of a hundred thousand draws.
    assert abs(held.mean() - 0.2) < 6 * (0.2 * 0.8 / len(rows)) ** 0.5
    np.testing.assert_array_equal(held[500:900], held_out(rows[500:900], 0.2, 7))
    assert abs((held & held_out(rows, 0.2, 8)).mean() - 0.04) < 6 * (0.04 * 0.96 / len(rows)) ** 0.5
    assert not held_out(rows, 0.0, 7).any()
    assert (held_out(rows, 0.5, 7) | ~held).all()  # a larger share holds out these too
    # Rows beside each other are held out independently: pairs are as frequent as the square of the share.
    assert abs((held[1:] & held[:-1]).mean() - 0.04) < 6 * (0.04 * 0.96 / len(rows)) ** 0.5


def test_the_finaliser_is_that_of_splitmix() -> None:
    # The first outputs of SplitMix64 with the seed 0 are those of the reference implementation (Vigna, 2015):
    # e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f; row i with the seed 0 has output i.
    for row, output in enumerate((0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)):
        share = output / 2**64
        assert held_out(np.array([row]), share * (1 + 1e-9), 0)[0]
        assert not held_out(np.array([row]), share * (1 - 1e-9), 0)[0]


def test_moments_in_parts_are_those_of_the_whole_though_the_mean_is_large() -> None:
    values = 1e9 + np.random.default_rng(0).standard_normal((5000, 3)) * [1.0, 1e-3, 10.0]
    total = Spread.of(values[:1])
    for part in np.array_split(values[1:], [10, 11, 3000]):
        total += Spread.of(part)
    exact = (values - 1e9).std(0)  # the rounding of 1e9 is 1e-7
    # Means are rounded by a few 1e-7, and so are the gaps of 3e-5 between parts of thousands: 1e-5 of the variance
    # 1e-6 at most. Sums of squares would have the rounding of 1e18, a hundred.
    np.testing.assert_allclose(total.std, exact, rtol=1e-5)
    np.testing.assert_allclose(total.mean - 1e9, (values - 1e9).mean(0), atol=1e-6)
    assert total.rows == 5000
    assert Spread.of(np.full((9, 1), 0.1)).std[0] == 0


def test_files_of_one_name_are_told_apart_and_one_file_by_two_names_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"day={number}").mkdir()
        table(9 * number, 0).to_csv(tmp_path / f"day={number}" / "part.csv", index=False)
    stream = TableStream.open(tmp_path / "*" / "part.csv")
    assert list(stream.identity["files"]) == ["day=1/part.csv", "day=2/part.csv"]
    assert list(TableStream.open(tmp_path / "day=1").identity["files"]) == ["part.csv"]
    with pytest.raises(ValueError, match="given more than once"):
        TableStream.open([tmp_path / "day=1" / "part.csv", tmp_path / "day=2" / ".." / "day=1" / "part.csv"])


CHANGES = {  # what is done to the second file, and words of the sentence
    "lacks": (lambda frame: frame.drop(columns="x"), ["b.parquet lacks the column 'x'", "a.parquet"]),
    "more": (lambda frame: frame.assign(z=1), ["b.parquet has a column 'z'", "a.parquet lacks"]),
    "kind": (lambda frame: frame.assign(count="few"), ["column 'count' holds text in", "b.parquet and numbers in"]),
    "dates": (lambda frame: frame.assign(day=1.5), ["column 'day' holds numbers in", "and dates in"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_schema_that_changes_between_files_is_refused_by_file_and_column(tmp_path: Path, change: str) -> None:
    made, words = CHANGES[change]
    table(9, 0).to_parquet(tmp_path / "a.parquet")
    made(table(9, 1)).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError) as error:
        TableStream.open(tmp_path)
    for word in words:
        assert word in str(error.value)


def test_columns_that_are_dropped_may_change_and_widths_of_numbers_too(tmp_path: Path) -> None:
    table(9, 0).to_parquet(tmp_path / "a.parquet")
    table(9, 1).astype({"count": "float32", "x": "float32"}).drop(columns="colour").to_parquet(tmp_path / "b.parquet")
    frame = TableStream.open(tmp_path, drop=["colour"]).frame()
    assert len(frame) == 18
    assert "colour" not in frame


def test_what_is_not_there_is_refused_with_a_sentence(tmp_path: Path, folder: Path) -> None:
    for given, words in (
        (tmp_path / "none.parquet", "there is no file"),
        (tmp_path / "*.parquet", "no file matches"),
        (tmp_path, "holds no file"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            TableStream.open(given)
    (tmp_path / "bad.parquet").write_text("x,y\n1,2\n")
    (tmp_path / "bad.xls").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as a table"):
        TableStream.open(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=r"bad\.xls is not a known kind"):
        TableStream.open(tmp_path / "bad.xls")
    with pytest.raises(ValueError, match="more than once"):
        TableStream.open([folder / "0.parquet", folder])
    with pytest.raises(ValueError, match="no column 'X'.*did you mean 'x'"):
        TableStream.open(folder).only(["X"])
    with pytest.raises(ValueError, match="no column 'z' to leave out"):
        TableStream.open(folder, drop=["z"])
