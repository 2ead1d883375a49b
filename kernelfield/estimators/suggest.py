"""Which rows a fitted regressor should see labelled next.

A process compares rows by its kernel, with the lengthscales that it has learned; networks by their
gradients, sketched: a row is far from another if learning one says little of the other. Of an ensemble
the first member speaks for all.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from kernelfield.core.contracts import Surrogate
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.active.batch import select_batch
from kernelfield.models.active.features import Base, Covariance, Gradients
from kernelfield.models.active.selection import Selection
from kernelfield.models.active.transforms import Condition, Scale, Sketch, Transform
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.neural.ensemble import FittedEnsemble
from kernelfield.models.neural.laplace import FittedLaplaceNetwork

FEATURES = 512  # of a sketch, as in the benchmark of Holzmueller et al. (2023)
GIVEN = {"max-diag", "max-det", "bait", "bait-fb"}  # those that pick by what the labels leave unknown


def suggest(
    fitted: FieldRegressor,
    X: ArrayLike,
    pool: ArrayLike,
    size: int,
    *,
    selection: Selection | str = "lcmd",
    random_state: int | np.random.RandomState | None = None,
) -> np.ndarray:
    """The numbers of the rows of a pool to label next, in the order in which they were picked.

    Parameters
    ----------
    fitted : FieldRegressor
        Fitted to the labels that there are, by a process, an ensemble or a Laplace network.
    X : array-like of shape (n, d)
        The rows that have labels.
    pool : array-like of shape (k, d)
        The rows that may be labelled.
    size : int
        How many to pick.
    selection : Selection or str, default="lcmd"
        See `kernelfield.models.active.batch.SELECTIONS`. "max-diag", "max-det" and "bait" go by the
        variance that the labels leave.
    random_state : int, RandomState instance or None, default=None
        For the sketch, and selections that draw.

    Examples
    --------
    >>> X = np.array([[0.0], [0.1], [0.2], [0.3], [0.4]])
    >>> fitted = FieldRegressor(random_state=0).fit(X, X[:, 0])
    >>> suggest(fitted, X, [[0.05], [0.9], [0.33]], 1)
    array([1])
    """
    check_is_fitted(fitted)
    known, rows = (check_array(values, dtype=np.float64, order="C") for values in (X, pool))
    base, transforms = _compared(fitted.surrogate_.inner, isinstance(selection, str) and selection in GIVEN)
    to_model = fitted.surrogate_.to_model_X
    seed = int(check_random_state(random_state).randint(2**31))
    inside = (to_model(torch.as_tensor(values, device=to_model.shift.device)) for values in (rows, known))
    picked = select_batch(
        next(inside),
        size,
        train=next(inside),
        base=base,
        transforms=transforms,
        selection=selection,
        generator=torch.Generator().manual_seed(seed),
    )
    return picked.cpu().numpy()


def _compared(surrogate: Surrogate, given: bool) -> tuple[Base, tuple[Transform, ...]]:
    """What a surrogate compares rows by, and the transforms of its kernel."""
    match surrogate:
        case FittedProcess():
            return Covariance(surrogate.kernel), (Condition(surrogate.noise),) if given else ()
        case FittedEnsemble():
            network, parameters = surrogate.network, surrogate.parameters[0]
        case FittedLaplaceNetwork():
            network, parameters = surrogate.tangent.network, surrogate.tangent.parameters
        case _:
            raise ValueError(
                f"{type(surrogate).__name__} has no kernel to compare rows by; fit a process, an ensemble or a Laplace "
                "network, or call select_batch with a base"
            )
    transforms = (Sketch(FEATURES), Scale(), Condition()) if given else (Sketch(FEATURES),)
    return Gradients(network.module(parameters)), transforms
