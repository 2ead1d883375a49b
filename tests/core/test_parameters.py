"""A parameter of a wrong type is named when a fit begins, not by torch in the midst of it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator

from kernelfield.core.contracts import Data, Model
from kernelfield.core.parameters import require_types
from kernelfield.models.zoo import CLASSIFIERS, MODELS

DATA = Data(torch.ones(3, 1), torch.ones(3, 1))


@dataclass
class Inner(BaseEstimator):
    steps: int = 10


@dataclass
class Outer(Model):
    members: int = 3
    noise: float | None = None
    spread: float | Literal["auto"] = 1.0
    moving: bool = False
    checkpoint: str | None = None
    inner: Inner = field(default_factory=Inner)

    def fit(self, data, *, generator):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"members": 2.5}, "members of Outer must be a whole number, got 2.5"),
        ({"members": True}, "members of Outer must be a whole number, got True"),
        ({"noise": "small"}, "noise of Outer must be a number or None, got 'small'"),
        ({"moving": "yes"}, "moving of Outer must be True or False, got 'yes'"),
        ({"checkpoint": 3}, "checkpoint of Outer must be a text or None, got 3"),
        ({"inner": Inner(steps=2.0)}, "steps of Inner must be a whole number, got 2.0"),
    ],
)
def test_a_parameter_of_a_wrong_type_is_named_as_a_fit_begins(settings, words):
    with pytest.raises(ValueError, match=words):
        Outer(**settings).fit(DATA, generator=torch.Generator())


def test_numbers_of_numpy_are_numbers_and_other_types_are_the_models_affair():
    model = Outer(np.int64(4), np.float32(0.1), "auto", np.bool_(True), "folder")
    require_types(model)
    require_types(model.set_params(noise=1, spread=object()))


@pytest.mark.parametrize("name", [*MODELS, *CLASSIFIERS])
def test_every_model_of_the_zoo_has_parameters_of_its_types(name):
    require_types({**MODELS, **CLASSIFIERS}[name].make())
