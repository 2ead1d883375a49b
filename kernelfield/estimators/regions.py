"""MultiOutputRegion: regions of several targets together, as a scikit-learn estimator.

Intervals of single targets say nothing of the targets together: two of 90% hold both values in 81 rows of a
hundred if the targets are independent, and a box around them is mostly empty if they are not. A region is
fitted on one part of the rows and calibrated on the other, so that it holds the promised share of new rows.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_n_features, check_is_fitted, validate_data
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.regressor import FieldRegressor, Seed, block_rows
from kernelfield.models.neural.directional_quantiles import DirectionalQuantiles, FittedDirectionalQuantiles
from kernelfield.uq.conformal.clouds import CalibratedClouds, Cloud, calibrated, gap_of
from kernelfield.uq.conformal.regions import Boxes, Ellipsoids, FittedBoxes, FittedEllipsoids

METHODS = ("ellipsoid", "residuals", "box", "directional")
LEAST = 4  # rows, two for each part; a level may need more


class MultiOutputRegion(BaseEstimator):
    """Regions that hold all targets of a row with a promised probability.

    Parameters
    ----------
    estimator : FieldRegressor or None, default=None
        What predicts the targets; it is cloned. None is `FieldRegressor()`, and one of `DirectionalQuantiles`
        for the method "directional", which needs that model.
    method : {"ellipsoid", "residuals", "box", "directional"}, default="residuals"
        "ellipsoid" takes how targets go together from the law of each row, "residuals" from those of a
        share of the calibration rows; "box" is an interval for each target; "directional" has any shape
        (ST-DQR).
    level : float, default=0.9
        The share of new rows whose targets shall be inside, all of them.
    calibration : float, default=0.3
        The share of rows on which the regions are calibrated, and nothing is fitted.
    random_state : int, RandomState instance or None, default=None
        Which rows these are, and the source of randomness of an estimator that is made here.

    Attributes
    ----------
    estimator_ : FieldRegressor
        Fitted to the other rows.
    calibration_ : FittedEllipsoids, FittedBoxes or CalibratedClouds
        Scores of the calibration rows.
    n_features_in_ : int
        The number of columns of X in `fit`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (60, 1))
    >>> Y = np.column_stack([X[:, 0], -X[:, 0]]) + 0.1 * rng.normal(size=(60, 1)) * [1, 0.9]
    >>> Y += 0.01 * rng.normal(size=(60, 2))
    >>> areas = [MultiOutputRegion(method=name, random_state=0).fit(X, Y).volume([[0.2]])[0] for name in METHODS[1:3]]
    >>> bool(areas[0] < 0.3 * areas[1])  # the errors of the targets go together
    True
    """

    def __init__(
        self,
        estimator: FieldRegressor | None = None,
        *,
        method: Literal["ellipsoid", "residuals", "box", "directional"] = "residuals",
        level: float = 0.9,
        calibration: float = 0.3,
        random_state: Seed = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.level = level
        self.calibration = calibration
        self.random_state = random_state

    def fit(self, X: ArrayLike, Y: ArrayLike) -> "MultiOutputRegion":
        """Fit the estimator on some rows and calibrate on the others.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        Y : array-like of shape (n, m)
            Targets.

        Returns
        -------
        self : MultiOutputRegion
        """
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not 0 < self.calibration < 1:
            raise ValueError(f"calibration must be a share of the rows in (0, 1), got {self.calibration}; 0.3 is usual")
        rows, targets = validate_data(
            self, X, Y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=LEAST
        )
        targets = targets.reshape(len(rows), -1).astype(np.float64)
        random = check_random_state(self.random_state)
        order, count = random.permutation(len(rows)), max(2, round(self.calibration * len(rows)))
        fitted, held = np.sort(order[count:]), np.sort(order[:count])
        self.estimator_ = self._made(random).fit(rows[fitted], targets[fitted])
        self.n_outputs_ = targets.shape[1]
        y, generator = torch.tensor(targets[held]), torch.Generator().manual_seed(int(random.randint(2**31)))
        self.calibration_: FittedEllipsoids | FittedBoxes | CalibratedClouds
        match self.method:
            case "directional":
                points, inside = self._points(rows[held])
                self.gap_ = gap_of(points, inside)
                self.calibration_ = calibrated(Cloud(points, inside, self.gap_), self._inside(y))
            case "box":
                self.calibration_ = Boxes().fit(self._law(rows[held]), y, generator=generator)
            case _:
                shape: Literal["law", "residuals"] = "law" if self.method == "ellipsoid" else "residuals"
                self.calibration_ = Ellipsoids(shape).fit(self._law(rows[held]), y, generator=generator)
        return self

    def contains(self, X: ArrayLike, Y: ArrayLike) -> np.ndarray:
        """Tell which rows lie in their regions.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        Y : array-like of shape (n, m)
            Values of the targets.

        Returns
        -------
        inside : ndarray of bool, shape (n,)
        """
        rows = self._rows(X)
        values = check_array(Y, dtype=np.float64, order="C", ensure_2d=False, input_name="Y")
        check_consistent_length(rows, values)
        y = torch.tensor(values.reshape(len(rows), -1))
        if y.shape[1] != self.n_outputs_:
            raise ValueError(f"Y has {y.shape[1]} targets, the fit had {self.n_outputs_}")
        parts = []
        for own in self._blocks(len(rows)):
            if isinstance(self.calibration_, CalibratedClouds):
                cloud, at = self._cloud(rows[own]), self._inside(y[own])
                parts.append(self.calibration_.contains(cloud, at, self.level))
            else:
                parts.append(self.calibration_.contains(self._law(rows[own]), y[own], self.level))
        return torch.cat(parts).cpu().numpy()

    def volume(self, X: ArrayLike) -> np.ndarray:
        """Give the volumes of regions: areas of two targets, lengths of one.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        volume : ndarray of shape (n,)
            In the product of the units of the targets; exact but for "directional", which counts points.
        """
        rows, parts = self._rows(X), []
        for own in self._blocks(len(rows)):
            if isinstance(self.calibration_, CalibratedClouds):
                scale = self.estimator_.surrogate_.to_model_y.scale
                parts.append(self.calibration_.volume(self._cloud(rows[own]), self.level) * scale.prod())
            else:
                parts.append(self.calibration_.volume(self._law(rows[own]), self.level))
        return torch.cat(parts).cpu().numpy()

    def outline(self, x: ArrayLike) -> list[np.ndarray]:
        """Draw the region of one row as closed polygons, of two targets.

        Parameters
        ----------
        x : array-like of shape (d,) or (1, d)
            The inputs of the row.

        Returns
        -------
        polygons : list of ndarray of shape (k, 2)
            One for each piece of the region, and for each hole in it.
        """
        row = self._rows(x) if np.ndim(x) == 2 else self._unnamed(x)
        if isinstance(self.calibration_, CalibratedClouds):
            y_map = self.estimator_.surrogate_.to_model_y
            found = self.calibration_.outline(self._cloud(row), self.level)[0]
            polygons = [polygon * y_map.scale + y_map.shift for polygon in found]
        else:
            polygons = list(self.calibration_.outline(self._law(row), self.level))
        return [polygon.cpu().numpy() for polygon in polygons]

    def _made(self, random: np.random.RandomState) -> FieldRegressor:
        """A fresh estimator."""
        if self.estimator is None:
            model = DirectionalQuantiles(self.level) if self.method == "directional" else None
            return FieldRegressor(model, random_state=int(random.randint(2**31)))
        if not isinstance(self.estimator, FieldRegressor):
            raise TypeError(
                f"estimator must be a FieldRegressor or None, got {type(self.estimator).__name__}{self._why()}"
            )
        if self.method == "directional" and not isinstance(self.estimator.model, DirectionalQuantiles):
            raise ValueError(
                f"method='directional' needs FieldRegressor(DirectionalQuantiles()), got {self.estimator.model!r}"
            )
        return clone(self.estimator)

    def _why(self) -> str:
        """What to do with an estimator that is none for regions, as the end of a sentence."""
        if is_classifier(self.estimator):
            return "; labels have no regions, take its classes by their probabilities"
        if isinstance(self.estimator, Calibrated):
            return ", which corrects targets one by one; a region is calibrated itself, give the estimator in it"
        return ""

    def _rows(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64, order="C")

    def _unnamed(self, x: ArrayLike) -> np.ndarray:
        """One row (d,), whose values stand in the order of the fit's columns."""
        check_is_fitted(self)
        row = check_array(np.reshape(x, (1, -1)), dtype=np.float64)
        _check_n_features(self, row, reset=False)
        return row

    def _blocks(self, n: int) -> list[slice]:
        size = block_rows(self.estimator_.surrogate_.footprint(self.estimator_.n_samples_fit_))
        return [slice(i, i + size) for i in range(0, n, size)]

    def _law(self, X: np.ndarray) -> Posterior:
        """The laws of y at single rows, as a batch."""
        surrogate = self.estimator_.surrogate_
        at = torch.tensor(X, device=surrogate.to_model_X.shift.device)
        with torch.no_grad():
            return surrogate.posterior(at.unsqueeze(-2), noise=True)

    def _cloud(self, X: np.ndarray) -> Cloud:
        """The regions of rows as points in the model's units, in which distances in all targets are alike."""
        return Cloud(*self._points(X), self.gap_)

    def _points(self, X: np.ndarray) -> tuple[Tensor, Tensor]:
        surrogate = self.estimator_.surrogate_
        if not isinstance(surrogate.inner, FittedDirectionalQuantiles):
            raise TypeError(f"a FittedDirectionalQuantiles is needed, got {type(surrogate.inner).__name__}")
        at = torch.tensor(X, device=surrogate.to_model_X.shift.device)
        return surrogate.inner.cloud(surrogate.to_model_X(at))

    def _inside(self, y: Tensor) -> Tensor:
        """Targets in the model's units."""
        y_map = self.estimator_.surrogate_.to_model_y
        return y_map(y.to(y_map.shift))
