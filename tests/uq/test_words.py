"""Numbers are written as a reader wants them, and every score has its words."""

import pandas as pd
import pytest

from kernelfield.uq.words import CLASSES, REGRESSION, day, number


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "\N{EN DASH}"),
        (12345, "12,345"),
        (0.000012345, "1.234e\N{MINUS SIGN}05"),
        (-2.0, "\N{MINUS SIGN}2.000"),
        (48211.7, "48,212"),
        (1234.0, "1234"),
        (3.2e12, "3.200e+12"),
        ("a-b", "a-b"),
    ],
)
def test_numbers_have_four_digits_and_true_minus_signs(value, written):
    assert number(value) == written


@pytest.mark.parametrize("known", [REGRESSION, CLASSES], ids=["regression", "classes"])
def test_every_score_is_written_once(known):
    assert len({name for name, *_ in known}) == len({label for _, label, *_ in known}) == len(known)


@pytest.mark.parametrize("value", [0.0, -1.0, 19_909.0, 11_016.0, 19_909.25, 2_932_896.0, 19_909 + 61 / 86_400])
def test_days_are_the_dates_of_pandas(value):
    stamp = pd.Timestamp(0, unit="s").as_unit("s") + pd.Timedelta(seconds=round(value * 86_400)).as_unit("s")
    clock = str(stamp).split()[1]
    assert day(value) == str(stamp).removesuffix(" 00:00:00").removesuffix("" if clock == "00:00:00" else ":00")


@pytest.mark.parametrize(
    ("value", "shown"), [(float("nan"), "\N{EN DASH}"), (float("inf"), "\N{INFINITY}"), (3e6, "3,000,000")]
)
def test_what_is_no_date_is_a_number(value, shown):
    assert day(value) == shown
