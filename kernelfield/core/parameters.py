"""Whether a model's parameters are of the types that its dataclass declares: numbers, switches, texts.

scikit-learn sets parameters after construction too (`set_params`, a grid search), so they are looked at when a fit
begins. Parameters that are parameter sets themselves, such as a `Training`, are looked into. What is of another type,
a kernel or a network, is left to the model.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
from sklearn.base import BaseEstimator

NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    NoneType: "None",
}


def require_types(model: BaseEstimator) -> None:
    """Look at all parameters of a model that is a dataclass.

    Errors: ValueError for one of another type, such as 2.5 where whole numbers are.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Line(BaseEstimator):
    ...     steps: int = 100
    >>> require_types(Line(steps=2.5))
    Traceback (most recent call last):
    ValueError: steps of Line must be a whole number, got 2.5
    """
    for name, types in _declared(type(model)):  # type: ignore[arg-type]
        value = getattr(model, name)
        if isinstance(value, BaseEstimator):
            require_types(value)
        elif types and not any(MATCHES[kind](value) for kind in types):
            wanted = " or ".join(NAMES[kind] for kind in types)
            remedy = "; use str(...)" if str in types and isinstance(value, PathLike) else ""
            raise ValueError(f"{name} of {type(model).__name__} must be {wanted}, got {value!r}{remedy}")


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


MATCHES: dict[type, Callable[[Any], bool]] = {
    int: lambda value: isinstance(value, Integral) and not _is_switch(value),
    float: lambda value: isinstance(value, Real) and not _is_switch(value),
    bool: _is_switch,
    str: lambda value: isinstance(value, str),
    NoneType: lambda value: value is None,
}


@cache
def _declared(model: type) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """Its parameters, each with the plain types that it may have; none where another type is among them."""
    if not is_dataclass(model):
        return ()
    found = []
    for one in fields(model):
        types = get_args(one.type) if get_origin(one.type) in (Union, UnionType) else (one.type,)
        found.append((one.name, types if all(kind in NAMES for kind in types) else ()))
    return tuple(found)
