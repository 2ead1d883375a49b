"""An encoding repeats on new rows what it learned from the training rows."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pytest

from kernelfield.data.encoding import MOST_LEVELS, Encoding


def encode(train: dict, test: dict | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(train)
    return Encoding.fit(frame).apply(frame if test is None else pd.DataFrame(test)).frame


def notes(train: dict, test: dict) -> str:
    return "\n".join(Encoding.fit(pd.DataFrame(train)).apply(pd.DataFrame(test)).notes)


def test_numbers_stay_and_truths_are_one_and_zero():
    result = encode({"a": [1, 2], "b": [0.5, -1.0], "c": [True, False], "d": ["3", "4"]})
    assert result.to_numpy().tolist() == [[1.0, 0.5, 1.0, 3.0], [2.0, -1.0, 0.0, 4.0]]
    assert result.dtypes.eq(np.float64).all()


def test_missing_numbers_become_the_median_of_the_training_rows_beside_an_indicator():
    result = encode({"a": [1.0, np.nan, 2.0, 9.0]})
    assert list(result) == ["a", "a (missing)"]
    assert result.to_numpy().tolist() == [[1.0, 0.0], [2.0, 1.0], [2.0, 0.0], [9.0, 0.0]]
    assert "1 missing value filled with the median 2" in notes({"a": [1.0, np.nan, 3.0]}, {"a": [np.nan]})


def test_a_gap_that_only_new_rows_have_is_filled_and_told_without_an_indicator():
    assert encode({"a": [1.0, 2.0, 9.0]}, {"a": [None]}).to_numpy().tolist() == [[2.0]]
    assert "column 'a': 1 missing value filled with the median 2" in notes({"a": [1.0, 2.0, 9.0]}, {"a": [None]})


def test_truths_with_gaps_are_numbers():
    assert encode({"a": [True, None, True]}).to_numpy().tolist() == [[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]


def test_text_becomes_one_column_a_level_in_sorted_order():
    result = encode({"c": ["red", "blue", "red"]})
    assert list(result) == ["c=blue", "c=red"]
    assert result.to_numpy().tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def test_unseen_and_missing_levels_are_zeros_throughout_and_counted():
    train, test = {"c": ["red", "blue", "red"]}, {"c": ["green", None, "blue", "green"]}
    assert encode(train, test).to_numpy().tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert "2 values never seen in the fit and left without a level: 'green'" in notes(train, test)
    assert "1 missing value left without a level" in notes(train, test)


def test_missing_text_in_the_training_rows_adds_an_indicator():
    assert encode({"c": ["a", None, "a"]}).to_numpy().tolist() == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]


def test_a_category_of_numbers_is_encoded_by_levels_also_where_new_rows_hold_plain_numbers():
    train = {"c": pd.Categorical([1, 2, 1])}
    assert encode(train, {"c": [2.0, 1.0]}).to_numpy().tolist() == [[0.0, 1.0], [1.0, 0.0]]


DATES = {
    "days as text": ["1970-01-02", "2000-03-01"],
    "times as text": ["1970-01-02T00:00:00", "2000-03-01 00:00"],
    "times with a zone": ["1970-01-02T02:00:00+02:00", "2000-03-01T00:00:00Z"],
    "dates": [datetime.date(1970, 1, 2), datetime.date(2000, 3, 1)],
    "stamps": pd.to_datetime(["1970-01-02", "2000-03-01"]),
    "stamps with a zone": pd.to_datetime(["1970-01-02", "2000-03-01"]).tz_localize("UTC").tz_convert("Asia/Tokyo"),
}


@pytest.mark.parametrize("values", DATES.values(), ids=DATES)
def test_dates_are_days_since_1970(values):
    # 30 years and 60 days (31 + 29) later, with the leap days of 1972, 76, 80, 84, 88, 92 and 96.
    assert encode({"day": values})["day"].tolist() == [1.0, 30 * 365 + 7 + 60]


def test_hours_are_fractions_of_a_day_and_far_dates_do_not_overflow():
    assert encode({"t": ["1970-01-01T06:00", "9999-12-31"]})["t"].tolist() == [0.25, 2932896.0]


def test_missing_dates_become_the_median_date():
    train = {"t": ["2024-01-01", "2024-01-03", None, "2024-01-05"]}
    result = encode(train)
    assert result["t"].iloc[2] == result["t"].iloc[1]
    assert "filled with the median 2024-01-03" in notes(train, train)


def test_decimals_are_numbers():
    assert encode({"a": [decimal.Decimal("1.5"), None]})["a"].tolist() == [1.5, 1.5]


def test_empty_columns_are_left_out_and_constant_columns_stay():
    frame = pd.DataFrame({"a": [1.0, 1.0], "b": [None, None]})
    encoding = Encoding.fit(frame)
    assert encoding.empty == ("b",)
    assert encoding.features == ["a"]
    assert encoding.apply(frame).notes == ()


def test_rows_keep_their_number():
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=[3, 7])
    with pytest.raises(ValueError, match="holds 'inf' in row 8, "):  # the first row of a table has the index 0
        Encoding.fit(frame.replace(2.0, np.inf))
    assert Encoding.fit(frame).apply(frame).frame.index.tolist() == [3, 7]


def test_an_encoding_survives_json():
    frame = pd.DataFrame({"a": [1.0, None], "c": ["x", "x"], "t": ["2024-01-01", "2024-01-02"], "e": [None, None]})
    encoding = Encoding.fit(frame)
    again = Encoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again == encoding
    pd.testing.assert_frame_equal(again.apply(frame).frame, encoding.apply(frame).frame)


@pytest.mark.parametrize(
    "content", [{}, {"columns": [{}], "empty": []}, {"columns": [{"name": "a", "levels": 3}], "empty": []}]
)
def test_foreign_content_is_no_encoding(content):
    with pytest.raises(ValueError, match="not the stored encoding of a table"):
        Encoding.from_dict(content)


def test_the_columns_of_new_rows_may_come_in_any_order_with_others_beside():
    train, test = {"a": [1.0, 2.0], "c": ["x", "x"]}, {"c": ["x"], "more": [0], "a": [5.0]}
    assert encode(train, test).to_numpy().tolist() == [[5.0, 1.0]]
    assert "not used, because the fit did not have them: 'more'" in notes(train, test)


REFUSED = {
    "identifiers": (
        {"id": [f"u{i}" for i in range(10)]},
        "10 different texts such as 'u0', all of them different; .*--drop id",
    ),
    "too many levels": (
        {"home town": [f"t{i % 60}" for i in range(600)]},
        '60 different texts .* 50 .*--drop "home town"',
    ),
    "text among numbers": (
        {"a": ["1", "2", "3", "4", "5", "?"]},
        "column 'a' holds '\\?' in row 6, which is not one of the numbers",
    ),
    "text among dates": ({"t": ["2024-01-01"] * 8 + ["soon"]}, "column 't' holds 'soon' in row 9, .* the dates"),
    "a date that is none": ({"t": ["2024-01-01"] * 8 + ["2024-02-30"]}, "'2024-02-30' in row 9"),
    "infinity": ({"a": [1.0, np.inf]}, "column 'a' holds 'inf' in row 2, which is infinite"),
    "lists": ({"a": [[1], [2]]}, "column 'a' holds values of type list"),
    "durations": ({"a": pd.to_timedelta([1, 2])}, "column 'a' holds values of type Timedelta"),
    "complex": ({"a": [1j, 2j]}, "column 'a' holds values of type complex"),
    "nothing": ({"a": [None, None]}, "every column is empty \\('a'\\)"),
    "names that collide": (
        {"a": [1.0, None], "a (missing)": [0, 1]},
        "two encoded columns would be called 'a \\(missing\\)'",
    ),
}


@pytest.mark.parametrize(("columns", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_encoded_is_refused_with_a_sentence(columns, words):
    with pytest.raises(ValueError, match=words):
        Encoding.fit(pd.DataFrame(columns))


def test_the_most_levels_are_still_encoded():
    levels = [f"{i:02}a" for i in range(MOST_LEVELS)]
    assert encode({"c": levels * 2}).to_numpy().sum(0).tolist() == [2.0] * MOST_LEVELS


NEW = {
    "a column is missing": ({"b": [1.0]}, "lacks the column 'age' that the model was fitted on; add or rename"),
    "a column is spelled otherwise": ({"Age": [1.0]}, r"lacks the column 'age' .*\(it has 'Age' instead of 'age'\)"),
    "text for a number": (
        {"age": ["1", "old", "x"]},
        r"'age' holds 'old' in row 2 \(and 1 more like it\), which is not one of the numbers",
    ),
    "infinity": ({"age": [1.0, -np.inf]}, "'age' holds '-inf' in row 2, which is infinite"),
}


@pytest.mark.parametrize(("columns", "words"), NEW.values(), ids=NEW)
def test_new_rows_that_do_not_fit_are_refused_with_a_sentence(columns, words):
    with pytest.raises(ValueError, match=words):
        Encoding.fit(pd.DataFrame({"age": [1.0, 2.0]})).apply(pd.DataFrame(columns))
