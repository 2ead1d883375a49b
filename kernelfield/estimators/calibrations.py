"""How the predictions of a regressor can be calibrated, by name: what `Calibrated` is told.

recalibrations      give a law again: std, isotonic, beta, system
conformal methods   give intervals: split, normalised, cqr, mondrian, weighted
resampling          gives intervals from models that left rows out: jackknife+, cv+
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.estimators.inputs import Codes, column_number
from kernelfield.estimators.predictive import Kind
from kernelfield.uq.conformal.conformity import Absolute, Normalised, Quantiles, Residual
from kernelfield.uq.conformal.grouping import ByCluster, ByColumn, BySpread
from kernelfield.uq.conformal.mondrian import Mondrian
from kernelfield.uq.conformal.predictive import PredictiveSystem
from kernelfield.uq.conformal.ratio import DensityRatio
from kernelfield.uq.conformal.split import Split
from kernelfield.uq.conformal.weighted import Weighted
from kernelfield.uq.recalibration.levels import BetaLevels, IsotonicLevels
from kernelfield.uq.recalibration.spread import StdScaling

RESAMPLING = ("jackknife+", "cv+")


class Calibrator(Protocol):
    """What was learned from rows that a model has not seen."""

    def notes(self) -> list[str]:
        """What a user should know of it, in sentences."""

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """What was learned, by name."""


@runtime_checkable
class Recalibration(Calibrator, Protocol):
    """A calibrator that gives laws."""

    def apply(self, law: Posterior, X: Tensor | None = None) -> Posterior:
        """The calibrated law."""


@runtime_checkable
class Intervals(Calibrator, Protocol):
    """A calibrator that gives intervals."""

    def interval(self, law: Posterior, level: float, X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The ends (n, m) of intervals of probability `level`."""


class Choice(Protocol):
    """A way to calibrate; see `kernelfield.uq.recalibration` and `kernelfield.uq.conformal`."""

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Any:
        """The calibrator for laws of values y (n, m) that were not seen."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a choice may depend on: settings of `Calibrated`, the rows to calibrate on, and those of its target."""

    kind: Kind
    levels: Sequence[float]
    groups: object
    X: Any
    X_target: Any
    codes: Codes | None

    def grouping(self) -> Any:
        """The groups of method "mondrian"."""
        match self.groups:
            case None | "spread":
                return BySpread()
            case "cluster":
                return ByCluster()
            case str() | int():
                return ByColumn(column_number(self.X, self.groups))
        return self.groups

    def ratio(self) -> Any:
        """The density of the target's rows over that of those to calibrate on."""
        if self.X_target is None or self.codes is None:
            raise ValueError("method='weighted' needs inputs like those to come; give fit(X, y, X_target=...)")
        rows = self.codes.numbers(self.X), self.codes.numbers(self.X_target)
        return DensityRatio().fit(*rows)


Make = Callable[[Request], Choice]


@dataclass(frozen=True)
class Method:
    """A way to calibrate that has a name.

    advice  what it does and when to choose it, in one line
    make    the choice, given settings and inputs
    needs   the kinds of regressors it is for
    inputs  whether it looks at X
    """

    advice: str
    make: Make | None
    needs: tuple[Kind, ...] = ("law", "std", "points")
    inputs: bool = False

    def choice(self, request: Request) -> Choice:
        """What to fit.

        Errors: ValueError for a method that is no choice but resamples.
        """
        if self.make is None:
            raise ValueError(f"this method leaves rows out itself; it is one of {', '.join(RESAMPLING)}")
        return self.make(request)


def _score(request: Request) -> Residual:
    return Absolute() if request.kind == "points" else Normalised()


METHODS: Mapping[str, Method] = {
    "std": Method("one factor for all predicted deviations: few rows do", lambda r: StdScaling()),
    "isotonic": Method("levels by observed shares: any shape, some hundred rows", lambda r: IsotonicLevels()),
    "beta": Method("levels by three numbers an output: smooth, some ten rows", lambda r: BetaLevels()),
    "split": Method("intervals of one width for all points", lambda r: Split(Absolute())),
    "normalised": Method(
        "intervals in proportion to the predicted deviation", lambda r: Split(Normalised()), ("law", "std")
    ),
    "cqr": Method(
        "intervals about predicted quantiles, for the levels given",
        lambda r: Split(Quantiles(levels=tuple(r.levels))),
        ("law", "std"),
    ),
    "system": Method(
        "a whole law from held-out errors, with the guarantee of the intervals",
        lambda r: PredictiveSystem(_score(r)),
    ),
    "mondrian": Method(
        "intervals that hold in each group of rows", lambda r: Mondrian(r.grouping(), _score(r)), inputs=True
    ),
    "weighted": Method(
        "intervals for inputs of another distribution", lambda r: Weighted(r.ratio(), _score(r)), inputs=True
    ),
    "jackknife+": Method("intervals from models that each left one row out; no row is lost", None),
    "cv+": Method("intervals from models that each left a fold out; no row is lost", None),
}


def method_of(method: str | Choice, kind: Kind) -> Method:
    """What is known of a method for a regressor of some kind.

    Errors: ValueError for an unknown name, or a method that the regressor tells too little for.
    """
    if not isinstance(method, str):
        if not callable(getattr(method, "fit", None)):
            raise ValueError(f"method must be one of {', '.join(METHODS)}, or a choice that has fit, got {method!r}")
        return Method("", lambda r: method, inputs=True)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    found = METHODS[method]
    if kind not in found.needs:
        raise ValueError(
            f"method={method!r} needs a regressor with predict(return_std=True), which this one has not; "
            "use 'split' or 'jackknife+', or a FieldRegressor"
        )
    return found
