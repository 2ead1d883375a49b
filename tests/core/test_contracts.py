"""Data are checked where they enter."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data, Surrogate

X, Y = torch.ones(3, 2), torch.ones(3, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((X, Y[:2]), r"\(3, 2\) and \(2, 1\)"),
        ((X, Y[:, 0]), r"need X \(n, d\) and Y \(n, m\)"),
        ((X[:0], Y[:0]), "at least one row"),
        ((X * torch.nan, Y), "X holds 6 entries"),
        ((X, Y * torch.inf), "Y holds 3 entries"),
        ((X, Y, torch.ones(2)), r"one weight a row, shape \(3,\), got \(2,\)"),
        ((X, Y, torch.tensor([1.0, 0.0, 1.0])), "positive and finite, the least is 0"),
    ],
)
def test_what_is_wrong_with_data_is_said(arguments, words):
    with pytest.raises(ValueError, match=words):
        Data(*arguments)


def test_joined_data_keep_weights_and_give_one_to_rows_without():
    joined = Data(X, Y).joined(Data(X[:1], Y[:1], torch.tensor([2.0])))
    assert_close(joined.weight, torch.tensor([1.0, 1.0, 1.0, 2.0]))
    assert Data(X, Y).joined(Data(X, Y)).weight is None


def test_a_surrogate_that_cannot_take_in_data_says_so():
    class Fixed(Surrogate):
        outputs = 1

        def posterior(self, X, *, noise=False):
            raise AssertionError

    with pytest.raises(NotImplementedError, match="Fixed must be refitted"):
        Fixed().condition(Data(X, Y))
    assert Fixed().hyperparameters() == {}
