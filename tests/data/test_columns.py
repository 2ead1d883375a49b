"""A report is told of columns as they are: numbers, dates and text, gaps and all."""

import numpy as np
import pandas as pd
import pytest

from kernelfield.data.columns import clock, columns, dates

FRAME = pd.DataFrame(
    {
        "size": [1, 2, 3],
        "height": [1.5, None, 2.5],
        "day": ["1970-01-02", "1970-01-02T12:00", "1970-01-03"],
        "stamp": pd.to_datetime(["1970-01-02", None, "1970-01-04"]),
        "site": ["a", None, "b"],
        "code": ["7", "x", "8"],
        "kind": pd.Categorical(["u", "v", "u"]),
        "sold": [True, False, True],
        "empty": [None, None, None],
        3: [1, 1, 1],
    }
)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("size", [1, 2, 3]),
        ("height", [1.5, np.nan, 2.5]),
        ("day", [1, 1.5, 2]),
        ("stamp", [1, np.nan, 3]),
        ("3", [1, 1, 1]),
    ],
)
def test_numbers_and_dates_are_floats_with_gaps(name, values):
    found = columns(FRAME)[name]
    assert found.dtype == float
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("site", ["a", None, "b"]),
        ("code", ["7", "x", "8"]),
        ("kind", ["u", "v", "u"]),
        ("sold", ["True", "False", "True"]),
        ("empty", [None, None, None]),
    ],
)
def test_all_else_is_text_with_gaps(name, values):
    assert columns(FRAME)[name].tolist() == values


def test_nullable_integers_keep_their_gaps():
    found = columns(pd.DataFrame({"n": pd.array([1, None], dtype="Int64")}))["n"]
    np.testing.assert_array_equal(found, [1.0, np.nan])


@pytest.mark.parametrize("name", ["size", "day"])
def test_a_clock_is_of_numbers_or_dates(name):
    np.testing.assert_array_equal(clock(FRAME[name]), columns(FRAME)[name])


@pytest.mark.parametrize(
    ("name", "found"),
    [("height", "row 2 holds nothing"), ("stamp", "row 2 holds nothing"), ("kind", "row 1 holds 'u'")],
)
def test_a_row_without_a_time_is_named(name, found):
    with pytest.raises(ValueError, match=f"column '{name}' orders the rows in time, and {found}; write numbers or"):
        clock(FRAME[name])


def test_dates_are_told_from_numbers_and_text():
    mixed = pd.DataFrame(
        {"first a date": ["2024-01-01", "soon"], "numbers as text": ["1", "2"], "gap": [None, "2024-01-01"]}
    )
    assert dates(FRAME) == ["day", "stamp"]
    assert dates(mixed) == ["gap"]
