"""The words of a rule are exactly what it does."""

import numpy as np

from kernelfield.uq.diagnosis.rules import Category, Range, Slab, holds, shortest, worded

ROWS = {
    "age": np.array([10.0, 61.5, 70.0, np.nan]),
    "bmi": np.array([20.0, 24.0, 24.1, 30.0]),
    "site": np.array([0, 1, 1, 0]),
}


def test_a_range_leaves_out_its_lower_end_and_says_what_missing_counts_as():
    rule = [Range("age", 10.0, 61.5, 40.0)]
    assert holds(rule, ROWS).tolist() == [False, True, False, True]
    assert worded(rule, ROWS) == "10 < age <= 61.5 (missing as 40)"


def test_conditions_hold_together():
    rule = [Range("bmi", -np.inf, 24.0, 0.0), Category("site", "Bern", 1, True)]
    assert holds(rule, ROWS).tolist() == [False, True, False, False]
    assert worded(rule, ROWS) == "bmi <= 24 and site is Bern"
    assert holds([Category("site", "Bern", 1, False)], ROWS).tolist() == [True, False, False, True]


def test_a_slab_is_a_weighted_sum():
    rule = [Slab(("bmi", "age"), (2.0, -0.5), 8.0, 17.25, (0.0, 60.0))]
    assert holds(rule, ROWS).tolist() == [False, True, True, False]  # sums 35, 17.25, 13.2, 30
    assert worded(rule, ROWS) == "8 < 2 bmi - 0.5 age <= 17.25 (missing age as 60)"


def test_ends_are_short_and_still_between():
    rng = np.random.default_rng(0)
    for low, high in np.sort(rng.standard_normal((200, 2)) * 10.0 ** rng.integers(-9, 9, (200, 1)), axis=1):
        assert low <= shortest(low, high) < high
    assert shortest(np.nextafter(1.0, 0), 1.0) == np.nextafter(1.0, 0)


def test_dates_are_written_as_dates_and_sums_say_what_they_add():
    columns = {"day": np.array([19_723.0, np.nan]), "x": np.array([1.0, 2.0])}
    span = Range("day", 19_723.0, 19_754.5, 19_730.0)
    assert worded([span], columns, ["day"]) == "2024-01-01 < day <= 2024-02-01 12:00 (missing as 2024-01-08)"
    assert worded([span], columns) == "19723 < day <= 19754.5 (missing as 1.973e+04)"
    slab = Slab(("x", "day"), (2.0, -0.5), -np.inf, -9000.0, (0.0, 19_730.0))
    expected = "2 x - 0.5 days of day since 1970-01-01 <= -9000 (missing day as 2024-01-08)"
    assert worded([slab], columns, ["day"]) == expected
