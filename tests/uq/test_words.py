"""Numbers are written as a reader wants them, and every score has its words."""

import pytest

from kernelfield.uq.words import CLASSES, REGRESSION, number


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
