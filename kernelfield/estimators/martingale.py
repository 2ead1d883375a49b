"""Martingale posteriors of fitted regressors: arrays in, draws of any functional out.

`kernelfield.models.predictive_resampling` has the mathematics and the sources; here inputs and targets are in the
user's units, and a model that cannot be conditioned is refitted, or updated by copulas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import is_classifier
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from kernelfield.core.contracts import Data, Model
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.regressor import FieldRegressor, Seed
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.models.copula_update import Copula
from kernelfield.models.predictive_resampling import (
    Inputs,
    MartingalePosterior,
    OfCompleted,
    OfLimit,
    predictive_resampling,
)
from kernelfield.models.process import Process


def martingale_posterior(
    fitted: FieldRegressor,
    functional: Callable[..., Any] | None,
    X: ArrayLike,
    y: ArrayLike,
    *,
    at: ArrayLike | None = None,
    draws: int = 500,
    steps: int = 1000,
    inputs: Inputs = "bootstrap",
    update: Literal["auto", "gaussian", "condition", "refit"] | Copula = "auto",
    block: int = 1,
    random_state: Seed = None,
) -> MartingalePosterior:
    """Draw from the martingale posterior of a functional.

    Parameters
    ----------
    fitted : FieldRegressor
        Fitted to X and y.
    functional : callable or None
        With `at`, a function of the law of y there, from a Posterior of ``(*b, q, m)`` to a tensor ``(*b, ...)``, or
        None for its means. Without, one of the arrays X (n, d) and y (n, m) of the completed data.
    X : array-like of shape (n, d)
        Inputs of the fit; further inputs are drawn from them.
    y : array-like of shape (n,) or (n, m)
        Targets of the fit.
    at : array-like of shape (q, d), default=None
        Where the functional looks at the law.
    draws : int, default=500
        The number of chains.
    steps : int, default=1000
        Rows that each draws.
    inputs : {"bootstrap", "empirical", "shared"}, default="bootstrap"
        The law of further inputs, see `predictive_resampling`.
    update : {"auto", "gaussian", "condition", "refit"} or Copula, default="auto"
        How the model learns what was drawn; "refit" fits it again after each block.
    block : int, default=1
        Rows between two updates by "condition" or "refit".
    random_state : int, RandomState instance or None, default=None
        The source of randomness.

    Returns
    -------
    posterior : MartingalePosterior
        Draws with `summary`, Monte-Carlo errors and what was cut off, in the user's units.

    Examples
    --------
    >>> X = np.linspace(0, 1, 8)[:, None]
    >>> y = np.sin(3 * X[:, 0])
    >>> fitted = FieldRegressor(random_state=0).fit(X, y)
    >>> law = martingale_posterior(fitted, None, X, y, at=[[0.5]], draws=100, steps=50, random_state=0)
    >>> law.update, round(law.mean.item(), 1)
    ('gaussian', 1.0)
    """
    _require_rule(fitted)
    check_is_fitted(fitted)
    surrogate = fitted.surrogate_
    rows = check_array(X, dtype=np.float64, order="C", input_name="X")
    targets = check_array(y, dtype=np.float64, order="C", ensure_2d=False, input_name="y")
    check_consistent_length(rows, targets)
    where = surrogate.to_model_X.shift.device
    data = Data(torch.tensor(rows, device=where), torch.tensor(targets.reshape(len(rows), -1), device=where))
    if data.Y.shape[1] != surrogate.outputs:
        raise ValueError(f"y has {data.Y.shape[1]} outputs, the fit had {surrogate.outputs}")
    if at is not None:
        points = torch.tensor(check_array(at, dtype=np.float64, order="C", input_name="at"), device=where)
        asked: OfLimit | OfCompleted = OfLimit(points) if functional is None else OfLimit(points, functional)
    elif functional is None:
        raise ValueError("functional=None is the mean of the law at points, so give them as at=")
    else:
        asked = OfCompleted(
            lambda completed: torch.as_tensor(functional(completed.X.cpu().numpy(), completed.Y.cpu().numpy()))
        )
    generator = torch.Generator().manual_seed(int(check_random_state(random_state).randint(2**31)))
    return predictive_resampling(
        surrogate,
        asked,
        data=data,
        generator=generator,
        draws=draws,
        steps=steps,
        inputs=inputs,
        update=_Standardised(Process() if fitted.model is None else fitted.model) if update == "refit" else update,
        block=block,
    )


def _require_rule(fitted: object) -> None:
    """Errors: TypeError for an estimator whose predictions are no rule that learns from what it predicted."""
    match fitted:
        case FieldRegressor():
            return
        case Calibrated():
            why = (
                ", whose laws are corrected by held-out rows and do not come from conditioning, so that what it draws "
                "is no martingale; give the FieldRegressor in it (estimator_)"
            )
        case _ if is_classifier(fitted):
            why = ", and further rows are drawn from laws of numbers here, not of labels"
        case _:
            why = ""
    raise TypeError(f"martingale_posterior takes a fitted FieldRegressor, got {type(fitted).__name__}{why}")


@dataclass(eq=False, repr=False)
class _Standardised(Model):
    """A model that is fitted as `FieldRegressor` fits it, to standardised data."""

    model: Model

    def fit(self, data: Data, *, generator: torch.Generator) -> Scaled:
        x_map, y_map = Affine.standardising(data.X, data.weight), Affine.of_targets(self.model, data.Y, data.weight)
        inside = Data(x_map(data.X), y_map(data.Y), data.weight)
        return Scaled(self.model.fit(inside, generator=generator), x_map, y_map)
