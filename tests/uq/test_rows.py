"""What is known of test rows is checked where it enters."""

import numpy as np
import pytest

from kernelfield.uq.rows import Rows

COLUMNS = {"site": np.array(["a", "b", "a"]), "day": np.array([3.0, 1.0, 1.0])}


def test_rows_are_ordered_by_their_time_and_equal_times_stay_as_they_came():
    assert Rows(COLUMNS, time="day").order.tolist() == [1, 2, 0]
    assert Rows(COLUMNS).order is None


BAD = {
    "lengths": ({"columns": {"a": [1], "b": [1, 2]}}, r"one length \(n,\), got"),
    "tables": ({"columns": {"a": [[1]]}}, r"one length \(n,\), got"),
    "an unknown group": ({"columns": COLUMNS, "groups": ["town"]}, "no column is called 'town'; there are site, day"),
    "an unknown time": ({"time": "t"}, "no column is called 't'; there are none"),
    "a time of text": ({"columns": COLUMNS, "time": "site"}, "'site' is not; convert it"),
    "an unknown date": ({"columns": COLUMNS, "dates": ["born"]}, "no column is called 'born'; there are site, day"),
    "a date of text": ({"columns": COLUMNS, "dates": ["site"]}, "column 'site' holds no numbers; convert it"),
    "a time with gaps": ({"columns": {"t": [1.0, np.nan]}, "time": "t"}, "'t' is not; convert it"),
    "a negative deviation": ({"outside": np.array([[-1.0]])}, "not negative; check their inputs"),
    "no deviation": ({"outside": np.array([[np.nan]])}, "not negative; check their inputs"),
}


@pytest.mark.parametrize(("given", "words"), BAD.values(), ids=BAD)
def test_bad_rows_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Rows(**given)


def test_columns_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="column 'site' has 3 rows and the predictions have 4"):
        Rows(COLUMNS).require_length(4)


def test_dates_are_shown_as_dates_and_all_else_as_it_is():
    rows = Rows({"day": [19_909.0, np.nan], "site": ["a", None]}, dates=["day"])
    assert (rows.entry("day", 0), rows.entry("site", 0), rows.entry("site", 1)) == ("2024-07-05", "a", None)
    assert np.isnan(rows.entry("day", 1))
    assert not rows.asked["dated"]
    assert Rows({"day": [1.0]}, time="day", dates=["day"]).asked["dated"]
