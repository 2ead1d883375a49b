"""Groups hold about equally many rows, never cut through ties, and pool what is rare."""

import numpy as np
import pytest

from kernelfield.uq.diagnosis.columns import checked, grouping, written


def test_numbers_are_cut_in_tenths_whose_labels_are_their_ends():
    values = np.random.default_rng(0).standard_normal(1000)
    found = grouping(values)
    assert len(found.labels) == 10
    assert np.bincount(found.codes).tolist() == [100] * 10
    for code, label in enumerate(found.labels):
        low, high = map(float, label.split(" to "))
        part = values[found.codes == code]
        assert (part.min(), part.max()) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))


def test_ties_stay_together():
    values = np.repeat([0.0, 1.0, 2.0], [500, 30, 470])
    found = grouping(values)
    assert all(len(set(found.codes[values == value])) == 1 for value in (0, 1, 2))
    assert len(found.labels) >= 2
    assert grouping(np.zeros(100)).labels == ("0",)


def test_few_rows_make_few_groups():
    assert len(grouping(np.arange(50.0)).labels) == 2
    assert len(grouping(np.arange(5.0)).labels) == 1


def test_what_is_missing_is_a_group():
    numbers = grouping(np.array([1.0, 2.0, np.nan] * 20))
    assert numbers.labels[-1] == "missing"
    assert (numbers.codes == len(numbers.labels) - 1).sum() == 20
    text = grouping(np.array(["a", None, float("nan"), ""] * 20, dtype=object))
    assert sorted(text.labels) == ["a", "missing"]
    assert grouping(np.full(30, np.nan)).labels == ("missing",)


def test_rare_categories_are_pooled_and_a_single_one_is_not():
    text = np.array(["a"] * 30 + ["b"] * 25 + list("cdefg"))
    found = grouping(text)
    assert found.labels == ("a", "b", "other (5 values)")
    assert found.codes[-5:].tolist() == [2] * 5
    assert grouping(text[:56]).labels == ("a", "b", "c")
    assert len(grouping(np.repeat([f"c{index}" for index in range(40)], 30)).labels) == 10


def test_a_column_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"column 'age' must hold a value for each of 3 rows, got shape \(2,\)"):
        checked({"age": np.zeros(2)}, 3)


def test_integers_are_written_in_full():
    found = grouping(np.arange(100_000.0, 100_400.0))
    assert found.labels[:2] == ("100000 to 100039", "100040 to 100079")
    assert grouping(np.full(30, 123_456_789.0)).labels == ("123456789",)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize("offset", [0.5, 12_345.678, 5e6])
def test_no_two_ends_of_groups_look_the_same(offset, scale):
    values = scale * (offset + np.random.default_rng(0).random(1000))
    ends = [end for label in grouping(values).labels for end in label.split(" to ")]
    assert len(set(ends)) == 20
    assert [float(end) for end in ends] == sorted(float(end) for end in ends)
    assert all(len(end) <= 19 for end in ends)


def test_numbers_have_no_more_digits_than_they_need():
    assert written([0.123456, 7.7]) == ["0.123", "7.7"]
    assert written([123_456.7, 0.5]) == ["123457", "0.5"]
    assert written([float("inf"), 2e20]) == ["inf", "2e+20"]


@pytest.mark.parametrize("of", [float, lambda value: f"site {value}"], ids=["numbers", "text"])
def test_a_column_may_be_looked_at_value_by_value(of):
    values = np.array([of(value) for value in np.repeat(np.arange(30), 6)] + [of(99)] * 4 + [of(98)] * 4)
    found = grouping(values, each=True)
    assert len(found.labels) == 31
    assert found.labels[-1] == "other (2 values)"
    assert np.bincount(found.codes).tolist() == [6] * 30 + [8]
    assert all(len(set(values[found.codes == code])) == 1 for code in range(30))


def test_of_very_many_values_the_most_frequent_are_looked_at():
    values = np.repeat(np.arange(300.0), np.repeat([7, 5], 150))
    found = grouping(values, each=True)
    assert len(found.labels) == 200
    assert found.labels[-1] == "other (101 values)"
    assert found.labels[:150] == tuple(str(value) for value in range(150))
    gaps = grouping(np.array([1.0, np.nan] * 5), each=True)
    assert gaps.labels == ("1", "missing")
    assert grouping(np.arange(1000.0), each=True).labels == ("other (1000 values)",)


def test_days_are_written_as_dates():
    days = 19_723.0 + np.arange(40)
    assert grouping(days, dated=True).labels == ("2024-01-01 to 2024-01-20", "2024-01-21 to 2024-02-09")
    assert grouping(np.repeat(days[:2], 5), each=True, dated=True).labels == ("2024-01-01", "2024-01-02")
