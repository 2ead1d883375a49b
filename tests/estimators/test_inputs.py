"""Inputs become numbers in one way, and groups by texts are those of the texts."""

import numpy as np
import pandas as pd
import pytest
import torch

from kernelfield.estimators.indicators import ByIndicators
from kernelfield.estimators.inputs import Codes, column_number
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process

FRAME = pd.DataFrame({"size": [1.5, np.nan, 2.0], "city": ["Rome", "Oslo", "Rome"], "new": [True, False, True]})


def test_texts_have_the_number_of_their_place_and_new_ones_none() -> None:
    codes = Codes.of(FRAME)
    assert codes.texts == (None, ("Oslo", "Rome"), None)
    later = FRAME.assign(city=["Rome", "Bern", None])
    np.testing.assert_array_equal(codes.numbers(later), [[1.5, 1, 1], [np.nan, -1, 0], [2, -1, 1]])
    np.testing.assert_array_equal(Codes.of(np.eye(2)).numbers([[3, 4]]), [[3, 4]])


def test_columns_are_found_by_name_or_place() -> None:
    assert (column_number(FRAME, "city"), column_number(np.eye(3), 2)) == (1, 2)
    with pytest.raises(ValueError, match="no column of X is called 'town'; it has size, city, new"):
        column_number(FRAME, "town")
    with pytest.raises(ValueError, match="columns 0 to 2, got 3"):
        column_number(np.eye(3), 3)
    with pytest.raises(ValueError, match="X has 2 columns, and was calibrated with 3"):
        Codes.of(FRAME).numbers(np.eye(2))


def test_groups_by_indicators_need_the_inputs() -> None:
    fitted = ByIndicators((0, 2), ("a", "b")).fit(None, None)
    assert fitted.codes(None, torch.tensor([[0.0, 1.0, 1.0], [0.5, 0.0, 0.0]])).tolist() == [1, -1]
    with pytest.raises(ValueError, match="give X"):
        fitted.codes(None, None)


def test_an_estimator_leaves_rows_out_in_the_units_and_shape_of_its_targets() -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(15, 2)), 100 + rng.normal(size=(15, 2)) * [1.0, 1e3]
    fitted = FieldRegressor(Process(steps=0)).fit(X, Y)
    mean, std = fitted.leave_one_out()
    assert mean.shape == std.shape == (15, 2)
    assert fitted.without_each(X[:4]).shape == (4, 15, 2)
    np.testing.assert_allclose(fitted.without_each(X)[np.arange(15), np.arange(15)], mean, rtol=1e-9)
    alone = FieldRegressor(Process(steps=0)).fit(X, Y[:, 0])
    np.testing.assert_allclose(alone.without_each(X[:4]), fitted.without_each(X[:4])[..., 0], rtol=1e-9)
    weighted = FieldRegressor(Process(steps=0)).fit(X, Y, sample_weight=np.arange(1, 16))
    with pytest.raises(NotImplementedError, match="fitted as one with a weight"):
        weighted.leave_one_out()
