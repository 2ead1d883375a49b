"""Columns of any program's predictions are found by what a layout says of them."""

import numpy as np
import pandas as pd
import pytest

from kernelfield.data.predictions import Layout

FRAME = pd.DataFrame(
    {
        "y": [1.0, 2.0],
        "m": [1.1, 1.9],
        "s": [1, 2],
        "lo": [0.0, 1.0],
        "hi": [2.0, 3.0],
        "draw_1": [0.5, 1.5],
        "draw_2": [1.5, 2.5],
        "kind": ["cat", "dog"],
        "p_cat": [0.9, 0.2],
        "p_dog": [0.1, 0.8],
        "number": [1, 0],
        "q_0": [0.5, 0.5],
        "q_1": [0.5, 0.5],
    }
)


def test_a_gaussian_has_a_mean_and_a_deviation():
    layout = Layout.parse(" y = y, mean=m ,std=s")
    assert layout.values(FRAME).tolist() == [1.0, 2.0]
    assert {name: value.tolist() for name, value in layout.arrays(FRAME).items()} == {
        "mean": [1.1, 1.9],
        "std": [1.0, 2.0],
    }


@pytest.mark.parametrize(("level", "ends"), [("", (0.05, 0.95)), (",level=0.5", (0.25, 0.75))])
def test_an_interval_is_two_quantiles(level, ends):
    quantiles = Layout.parse(f"y=y,lower=lo,upper=hi{level}").arrays(FRAME)["quantiles"]
    assert tuple(quantiles) == ends
    assert quantiles[ends[1]].tolist() == [2.0, 3.0]


def test_quantiles_are_named_by_their_levels_and_come_in_order():
    layout = Layout.parse("y=y,95%=hi,0.05=lo,mean=m")
    assert layout.quantiles == {0.05: "lo", 0.95: "hi"}
    assert layout.arrays(FRAME).keys() == {"quantiles", "mean"}


def test_draws_are_the_columns_that_begin_alike():
    assert Layout.parse("y=y,samples=draw_").arrays(FRAME)["samples"].tolist() == [[0.5, 1.5], [1.5, 2.5]]


@pytest.mark.parametrize(
    ("form", "labels", "came"), [("y=kind,proba=p_", ["cat", "dog"], [0, 1]), ("y=number,proba=q_", ["0", "1"], [1, 0])]
)
def test_classes_are_what_the_names_end_in(form, labels, came):
    found, proba, index = Layout.parse(form).classes(FRAME)
    assert (found, index.tolist()) == (labels, came)
    np.testing.assert_allclose(proba.sum(1), 1)


BAD = {
    "mean=m,std=s": "which column holds the values that came",
    "y=y": "a layout needs one of",
    "y=y,mean=m": "a layout needs one of",
    "y=y,std=s,samples=draw_": "a layout needs one of",
    "y=y,mean=m,std=s,0.5=lo": "a layout needs one of",
    "y=y,lower=lo": "both lower=COLUMN and upper=COLUMN",
    "y=y,mean=m,std=s,level=0.9": "level= is that of an interval",
    "y=y,1.5=lo": "lie between 0 and 1, got 1.5",
    "y=y,median=lo": "'median' is no part of a layout",
    "y=y,mean": "word=column with commas between",
    "y=y,y=m,std=s": "says 'y' twice",
}


@pytest.mark.parametrize("form", BAD)
def test_what_is_no_layout_is_refused(form):
    with pytest.raises(ValueError, match=BAD[form]):
        Layout.parse(form)


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no column 'deviation'; the table has 'y', 'm'"):
        Layout.parse("y=y,mean=m,std=deviation").arrays(FRAME)


def test_one_draw_is_too_few():
    with pytest.raises(ValueError, match="1 columns begin with 'draw_1' and at least 2"):
        Layout.parse("y=y,samples=draw_1").arrays(FRAME)


def test_text_where_numbers_are_needed_is_named_with_its_row():
    frame = FRAME.astype({"s": object})
    frame.loc[1, "s"] = "oops"
    with pytest.raises(ValueError, match="column 's' holds 'oops' in row 2, which is no number"):
        Layout.parse("y=y,mean=m,std=s").arrays(frame)


def test_the_value_itself_is_no_draw():
    frame = FRAME.rename(columns={"y": "draw_y"})
    assert len(Layout.parse("y=draw_y,samples=draw_").arrays(frame)["samples"]) == 2


def test_a_label_without_a_probability_is_named():
    with pytest.raises(ValueError, match="'kind' holds 'dog', without a probability; there are 'cat' and 'cow'"):
        Layout.parse("y=kind,proba=p_").classes(FRAME.rename(columns={"p_dog": "p_cow"}))
