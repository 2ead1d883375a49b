"""Values, tensors and arrays come back from their records as they were."""

import json

import numpy as np
import pytest
import torch

from kernelfield.estimators.records import Reader, Writer


def transposed() -> torch.Tensor:
    return torch.rand(4, 3).mT


VALUES = {
    "nothing": None,
    "numbers": [True, 3, -0.0, 1e-300, 0.1, float("inf"), -float("inf")],
    "text": "zwölf\n\u2028",
    "nested": {"a": (1, [2.5, ()], {}), 3: "three", "tensor": "t"},
    "size": torch.Size([2, 3]),
    "numpy scalars": [np.float32(0.1), np.int64(7), np.bool_(True), np.float64("inf")],
}
TENSORS = {
    "rows": lambda: torch.rand(3, 4),
    "columns": transposed,
    "a slice": lambda: torch.rand(5, 6)[1:4, 1:3],
    "a slice of columns": lambda: torch.rand(5, 6).mT[:, 1:2],
    "expanded": lambda: torch.rand(3, 1).expand(3, 4),
    "a batch of columns": lambda: torch.rand(2, 4, 3).mT,
    "a number": lambda: torch.tensor(0.1),
    "nothing": lambda: torch.empty(0, 3),
    "single": lambda: torch.rand(3, dtype=torch.float32),
    "whole numbers": lambda: torch.arange(5),
    "truth": lambda: torch.tensor([True, False]),
    "not a number": lambda: torch.tensor([float("nan"), float("inf"), -0.0]),
}


def through_text(value: object) -> object:
    writer = Writer()
    record = json.loads(json.dumps(writer.record(value, "value"), allow_nan=False))
    return Reader(writer.tensors).value(record)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_come_back_equal_and_of_their_type(value: object) -> None:
    again = through_text(value)
    assert repr(again) == repr(value)


def test_text_of_numpy_becomes_plain() -> None:
    assert through_text(np.str_("rbf")) == "rbf"


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
def test_tensors_come_back_with_their_layout(make) -> None:
    tensor = make()
    again = through_text(tensor)
    assert (again.dtype, again.shape, again.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    assert again.numpy().tobytes() == tensor.numpy().tobytes()


ARRAYS = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a number": np.array(3),
    "texts": np.array(["a", "bc"]),
    "objects": np.array(["a", "bc"], dtype=object),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_come_back_with_type_and_layout(array: np.ndarray) -> None:
    again = through_text(array)
    assert (again.dtype, again.shape, again.strides) == (array.dtype, array.shape, array.strides)
    np.testing.assert_array_equal(again, array)
