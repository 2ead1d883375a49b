"""Numbers are written as a reader wants them."""

import pytest

from kernelfield.uq.page import number, score_rows

FULL = {"rmse": 2.0, "mae": 1.0, "r2": None, "nll": -1.5, "crps": 1.0, "interval90": 8.0, "coverage90": 0.925}


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


def test_gains_are_shares_of_the_baseline_and_nats():
    own = FULL | {"sharpness90": 3.0}
    content = {
        "scores": own,
        "baseline": own | {"nll": 0.5},
        "skill": {"rmse": 0.25, "mae": -0.5, "crps": None, "interval90": 0.0},
    }
    gains = {row["label"]: row["gain"] for row in score_rows(content)}
    assert gains["RMSE"] == "+25.0%"
    assert gains["MAE"] == "\N{MINUS SIGN}50.0%"
    assert gains["CRPS"] == "\N{EN DASH}"
    assert gains["NLL"] == "+2.000 nats"
    assert gains["Coverage"] == gains["R²"] == ""
