"""Tables are read as they are, or refused with a sentence that names the fault."""

import gzip

import numpy as np
import pandas as pd
import pytest

from kernelfield.data.tables import SEPARATORS, listed, near_names, numeric_target, read_table, separate, write_table

TEXT = "size,city,day,y\n1.5,Bern,2024-01-02,3\n,Rome,2024-01-03,4\n"


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"size": [1.5, np.nan], "city": ["Bern", "Rome"], "day": ["2024-01-02", "2024-01-03"], "y": [3, 4]}
    )


@pytest.mark.parametrize("ending", [*SEPARATORS, ".parquet", ".CSV"])
def test_a_table_that_was_written_is_read_back(tmp_path, ending):
    path = tmp_path / f"table{ending}"
    write_table(frame(), path)
    pd.testing.assert_frame_equal(read_table(path), frame())


def test_doubles_survive_a_round_trip_through_text_bit_for_bit(tmp_path):
    values = pd.DataFrame({"x": np.random.default_rng(0).standard_normal(200) * 10.0 ** np.arange(-100, 100)})
    write_table(values, tmp_path / "x.csv")
    np.testing.assert_array_equal(read_table(tmp_path / "x.csv"), values)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert list(read_table(tmp_path / "bom.csv")) == ["size", "city", "day", "y"]


def test_columns_asked_for_as_text_keep_their_zeros(tmp_path):
    (tmp_path / "codes.csv").write_text("code,x\n007,1\n010,2\n")
    assert read_table(tmp_path / "codes.csv", text=["code", "absent"])["code"].tolist() == ["007", "010"]


def test_blank_lines_and_quoted_separators_are_no_ragged_rows(tmp_path):
    (tmp_path / "quoted.csv").write_text('a,b\n\n"1,5",2\n"two\nlines",3\n\n')
    assert read_table(tmp_path / "quoted.csv").to_numpy().tolist() == [["1,5", 2], ["two\nlines", 3]]


BAD = {  # name of the file: content, words of the sentence
    "empty.csv": (b"", ["is empty", "header line"]),
    "blank.csv": (b"\n\n", ["only blank lines"]),
    "header.csv": (b"a,b,c\n", ["3 columns and no rows", "add at least one row"]),
    "binary.csv": (bytes(range(256)) * 4, ["is not UTF-8 text", "save it as UTF-8"]),
    "zeros.csv": (b"a\0b,c\n1,2\n", ["is binary", "save it as CSV"]),
    "latin.csv": ("name\nM\xfcller\n".encode("latin-1"), ["is not UTF-8 text", "byte 6"]),
    "long.csv": (b"a,b\n1,2\n1,2,3\n", ["row 2", "line 3", "3 cells", "header has 2"]),
    "short.csv": (b"a,b\n1\n", ["row 1", "1 cell and", "header has 2"]),
    "twice.csv": (b"a,b,a\n1,2,3\n", ["more than one column called 'a'", "its own name"]),
    "nameless.csv": (b",a\n0,1\n", ["column 1", "has no name"]),
    "semicolons.csv": (b"a;b\n1;2\n", ["one column, 'a;b'", "commas"]),
    "table.xlsx": (b"PK", ["not a known kind", ".csv", ".parquet"]),
    "plain.csv.gz": (b"a,b\n1,2\n", ["is not a whole gzip file", "compress"]),
    "cut.csv.gz": (gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:-9], ["is not a whole gzip file"]),
    "fake.parquet": (b"a,b\n1,2\n", ["cannot be read as Parquet", "use CSV"]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_table_is_refused_with_a_sentence(tmp_path, name):
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_table(tmp_path / name)
    for word in [name, *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_its_near_neighbours(tmp_path):
    (tmp_path / "houses.csv").write_text(TEXT)
    with pytest.raises(FileNotFoundError, match=r"no file .*house\.csv; in that folder are: 'houses\.csv'"):
        read_table(tmp_path / "house.csv")
    with pytest.raises(FileNotFoundError, match="check the path"):
        read_table(tmp_path / "nowhere" / "x.csv")


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.csv is a folder; give the table"):
        read_table(tmp_path / "folder.csv")


def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="not a known kind"):
        write_table(frame(), tmp_path / "table.json")
    assert not list(tmp_path.iterdir())


def test_an_absent_target_is_answered_with_near_names_and_all_names():
    with pytest.raises(ValueError, match=r"no column 'Sise'; did you mean 'size'\? The columns are 'size', 'city'"):
        numeric_target(frame(), "Sise")


def test_a_target_that_is_text_is_named_with_its_first_value_and_row():
    with pytest.raises(
        ValueError, match=r"target 'city' holds 'Bern' in row 1 \(and 1 more like it\), which is not a number"
    ):
        numeric_target(frame(), "city")
    mixed = pd.DataFrame({"y": ["1", "2", "three", None]})
    with pytest.raises(ValueError, match=r"target 'y' holds 'three' in row 3, which is not a number"):
        numeric_target(mixed, "y")


@pytest.mark.parametrize(
    "values", [[True, False], pd.to_datetime(["2024-01-02", "2024-01-03"])], ids=["boolean", "date"]
)
def test_truths_and_dates_are_no_numeric_targets(values):
    with pytest.raises(ValueError, match="not numbers; write it as numbers"):
        numeric_target(pd.DataFrame({"y": values}), "y")


def test_an_infinite_target_is_named_with_its_row():
    with pytest.raises(ValueError, match="target 'y' holds '-inf' in row 2, which is infinite"):
        numeric_target(pd.DataFrame({"y": [1.0, -np.inf]}), "y")


def test_rows_without_a_target_are_dropped_and_counted_and_the_others_keep_their_number():
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [1.0, np.nan, 3.0, 4.0], "z": [1.0, 2.0, np.nan, 4.0]})
    problem = separate(table, ["y", "z"])
    assert problem.dropped == 2
    assert problem.features["x"].tolist() == [1.0, 4.0]
    assert problem.target.to_numpy().tolist() == [[1.0, 1.0], [4.0, 4.0]]
    assert problem.features.index.tolist() == [0, 3]


def test_columns_can_be_dropped_but_not_all_nor_absent_ones():
    assert list(separate(frame(), ["y"], ["city", "day"]).features) == ["size"]
    with pytest.raises(ValueError, match="no column 'town'"):
        separate(frame(), ["y"], ["town"])
    with pytest.raises(ValueError, match="no column is left to learn 'y' from"):
        separate(frame(), ["y"], ["size", "city", "day"])


def test_a_target_without_a_single_value_is_refused():
    with pytest.raises(ValueError, match="every row lacks the target 'y'"):
        separate(pd.DataFrame({"x": [1.0], "y": [np.nan]}), ["y"])


def test_near_names_look_past_case():
    assert near_names("AGE", ["age", "weight"]) == ["age"]
    assert near_names("colour", ["weight"]) == []


def test_a_long_list_of_names_is_cut():
    assert listed(range(30)).endswith("'19' and 10 more")
