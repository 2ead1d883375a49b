"""Groups hold about equally many rows, never cut through ties, and pool what is rare."""

import numpy as np
import pytest

from kernelfield.uq.diagnosis.columns import checked, grouping


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
