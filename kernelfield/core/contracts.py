"""The contracts of the package.

    Model      a choice: no tensors of data, cheap to build, copy, print and grid-search
    Surrogate  a result: immutable, holds tensors, answers one question

A model never changes when it is fitted; fitting returns a new object. There is no
half-fitted state to guard against, and one model may be fitted many times in parallel.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, runtime_checkable

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from kernelfield.core.parameters import require_types
from kernelfield.core.posterior import Posterior

BEGINS = {"fit", "learner"}  # methods of models in which a fit begins


@dataclass(frozen=True, eq=False)
class Data:
    """A training set in model units: X (n, d), Y (n, m), and weight (n,) or None.

    Row i is observed with the variance noise / weight[i]; None means weights of one.

    Errors: ValueError if shapes do not agree, there is no row, an entry is not finite or
    a weight is not positive.
    """

    X: Tensor
    Y: Tensor
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.X.ndim != 2 or self.Y.ndim != 2 or len(self.X) != len(self.Y):
            shapes = f"{tuple(self.X.shape)} and {tuple(self.Y.shape)}"
            raise ValueError(f"need X (n, d) and Y (n, m), got {shapes}")
        if not len(self.X):
            raise ValueError("need at least one row of data, got 0")
        for name in ("X", "Y"):
            bad = (~getattr(self, name).isfinite()).sum().item()
            if bad:
                raise ValueError(f"{name} holds {bad} entries that are NaN or infinite; remove or impute them")
        if self.weight is not None:
            if self.weight.shape != self.X.shape[:1]:
                raise ValueError(f"need one weight a row, shape ({len(self.X)},), got {tuple(self.weight.shape)}")
            if not (self.weight > 0).all() or not self.weight.isfinite().all():
                raise ValueError(f"weights must be positive and finite, the least is {self.weight.min().item():g}")

    def joined(self, more: "Data") -> "Data":
        """These rows, then those of `more`."""
        weight = None
        if self.weight is not None or more.weight is not None:
            parts = (d.X.new_ones(len(d.X)) if d.weight is None else d.weight for d in (self, more))
            weight = torch.cat(list(parts))
        return Data(torch.cat([self.X, more.X]), torch.cat([self.Y, more.Y]), weight)


class Surrogate(ABC):
    """A fitted model of m = `outputs` functions."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The number m of functions."""

    @abstractmethod
    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        """The law of f, or of y with noise=True, at X (*b, n, d)."""

    def footprint(self, rows: int) -> int:
        """About how many numbers are kept at once for a point of a prediction, after a fit to so many rows.

        Those who predict for many points do so in blocks, the smaller the larger this is. The default is a
        covariance with each row of the fit.
        """
        return rows

    def condition(self, data: Data) -> "Surrogate":
        """The surrogate that has also seen `data`, without refitting its hyperparameters."""
        raise NotImplementedError(f"{type(self).__name__} must be refitted to take in data")

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """What was learned or held, by name, in model units; for reports."""
        return {}

    def notes(self) -> list[str]:
        """What a user should know of how the model was fitted, in sentences; for reports."""
        return []


@runtime_checkable
class LeavesOneOut(Protocol):
    """A surrogate of n rows that knows, from one fit, what it would predict without each of them.

    Hyperparameters are held. Only linear smoothers have it in closed form; see `kernelfield.models.leave_one_out`.
    Errors: of both, ValueError where nothing can be predicted without a row; NotImplementedError where the
    settings of the surrogate, or the model that it wraps, have no closed form.
    """

    @property
    def data(self) -> Data:
        """The rows, in the order in which they are left out."""

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows."""

    def without_each(self, X: Tensor) -> Tensor:
        """Means (q, n, m) at X (q, d) of the n surrogates that each lack one row."""


class Model(BaseEstimator, ABC):
    """A choice of model. Subclasses are dataclasses; scikit-learn reads their fields.

    A fit begins with a look at the types of the fields: ValueError for 2.5 where a whole number is declared.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in BEGINS & vars(cls).keys():
            setattr(cls, name, _after_a_look(vars(cls)[name]))

    @property
    def scalable(self) -> bool:
        """Whether targets may be shifted and scaled before a fit, as numbers may and counts and labels may not."""
        return True

    @abstractmethod
    def fit(self, data: Data, *, generator: torch.Generator) -> Surrogate:
        """Fit to data. All randomness comes from `generator`."""


def _after_a_look(begin: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a model, called when the types of its parameters have been looked at."""

    @wraps(begin)
    def checked(model: Model, *args: Any, **kwargs: Any) -> Any:
        require_types(model)
        return begin(model, *args, **kwargs)

    return checked
