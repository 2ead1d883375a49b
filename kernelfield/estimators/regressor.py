"""FieldRegressor: any model of the package as a scikit-learn regressor.

Inputs and outputs are standardised and kept in double precision. Predictions for many points
are made in blocks of rows, so that memory grows with the answer and not with its joint law.

A row of weight w counts as w copies of it: its noise has the variance noise / w, and copies of
a row are merged into one row with their summed weight before the fit. A copy is thus a
repetition of the same measurement, not a second measurement that happened to agree.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.core.convolved import Convolved
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Elliptical, Posterior
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.models.process import Process

# Numbers of a block, such as its cross-covariance: 8 MiB, beyond which matrix products gain no speed.
# A law takes a few matrices of this size.
BLOCK = 2**20
LEAST_ROWS = 256  # of a block: fewer would waste time on the overhead of each

Seed = int | np.random.RandomState | None


class FieldRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Regression with predictive uncertainty.

    Parameters
    ----------
    model : Model or None, default=None
        What to fit; None is `Process()`, an exact Gaussian process. Nested parameters are
        reached as in ``set_params(model__noise=0.01)``.
    device : str, default="cpu"
        Where tensors live and the fit runs, such as "cpu" or "cuda".
    random_state : int, RandomState instance or None, default=None
        The source of all randomness of the fit. Pass an int for the same result each time.

    Attributes
    ----------
    surrogate_ : Scaled
        The fitted model in the user's units: a Surrogate with tensors in and out.
    notes_ : list of str
        What the data made the fit do differently, in sentences; often empty.
    n_samples_fit_ : int
        The number of distinct rows that were fitted.
    n_features_in_ : int
        The number of columns of X in `fit`.
    feature_names_in_ : ndarray of str
        The names of the columns of X in `fit`, where all of them are strings.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(0, 1, 12)[:, None]
    >>> fitted = FieldRegressor(random_state=0).fit(X, np.sin(6 * X[:, 0]))
    >>> mean, std = fitted.predict([[0.5]], return_std=True)
    >>> round(float(mean[0]), 2)
    0.14
    """

    def __init__(self, model: Model | None = None, *, device: str = "cpu", random_state: Seed = None) -> None:
        self.model = model
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "FieldRegressor":
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        y : array-like of shape (n,) or (n, m)
            Targets; predictions have the same number of axes.
        sample_weight : array-like of shape (n,), default=None
            Row i counts as this many copies: its noise variance is that of the fit divided
            by the weight. Rows of weight zero are left out.

        Returns
        -------
        self : FieldRegressor
        """
        device, model = usable_device(self.device), _model(self.model)
        refuse_repeated_names(X)
        rows, targets = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=2
        )
        weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        data, notes = _distinct(rows, targets.reshape(len(rows), -1).astype(np.float64), weight, device)
        x_map, y_map = Affine.standardising(data.X, data.weight), Affine.of_targets(model, data.Y, data.weight)
        seed = int(check_random_state(self.random_state).randint(2**31))
        inside = Data(x_map(data.X), y_map(data.Y), data.weight)
        fitted = Scaled(model.fit(inside, generator=torch.Generator().manual_seed(seed)), x_map, y_map)
        return self._keep(fitted, targets.ndim, len(data.X), [*_constants(data.Y), *notes])

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "FieldRegressor":
        """Take in more rows, after first ones that are given to `fit`.

        Scaling, hyperparameters and basis functions stay those of the first rows, and later ones are added by the
        surrogate's `condition`: exactly by processes. A model without it raises NotImplementedError.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        y : array-like of shape (n,) or (n, m)
            Targets.
        sample_weight : array-like of shape (n,), default=None
            As in `fit`.

        Returns
        -------
        self : FieldRegressor
        """
        if not hasattr(self, "surrogate_"):
            return self.fit(X, y, sample_weight)
        refuse_repeated_names(X)
        rows, targets = validate_data(self, X, y, reset=False, multi_output=True, y_numeric=True, dtype=np.float64)
        if targets.reshape(len(rows), -1).shape[1] != self.surrogate_.outputs:
            raise ValueError(f"y has shape {targets.shape}, and the fit had {self.surrogate_.outputs} outputs")
        weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        where = self.surrogate_.to_model_X.shift.device
        data, notes = _distinct(rows, targets.reshape(len(rows), -1).astype(np.float64), weight, where, least=1)
        with torch.no_grad():
            fitted = self.surrogate_.condition(data)
        return self._keep(fitted, self.y_ndim_, self.n_samples_fit_ + len(data.X), notes)

    def _keep(self, fitted: Scaled, axes: int, rows: int, notes: Sequence[str]) -> "FieldRegressor":
        """Hold a fit to so many rows of targets of so many axes."""
        self.surrogate_, self.y_ndim_, self.n_samples_fit_ = fitted, axes, rows
        self.notes_ = [*notes, *fitted.inner.notes()]
        return self

    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
        quantiles: Sequence[float] | None = None,
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """Predict y at X, with as much of its law as is asked for.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        return_std : bool, default=False
            Whether to return the standard deviation of y, noise included.
        return_cov : bool, default=False
            Whether to return the joint covariance of y, noise included; it needs memory for
            all pairs of points.
        quantiles : sequence of float, default=None
            Levels between 0 and 1 at which to return quantiles of y.

        Returns
        -------
        mean : ndarray of shape (n,) or (n, m)
        std : ndarray of shape (n,) or (n, m), only with return_std
        cov : ndarray of shape (n, n) or (n, n, m), only with return_cov
        quantiles : ndarray of shape (n, q) or (n, m, q), only with quantiles
        """
        levels = levels_of(quantiles)
        asked: list[Callable[[Posterior], Tensor]] = [lambda law: law.mean]
        if return_std:
            asked.append(lambda law: law.variance.sqrt())
        if quantiles is not None:
            asked.append(lambda law: torch.stack([law.quantile(p) for p in levels], -1))
        rows = self._inputs(X)
        blocks = [[question(law).cpu() for question in asked] for law in self._laws(rows)]
        answers = [self._shaped(torch.cat(parts)) for parts in zip(*blocks, strict=True)]
        if return_cov:
            answers.insert(1 + return_std, self._covariance(rows))
        return answers[0] if len(answers) == 1 else tuple(answers)

    def posterior(self, X: ArrayLike, *, noise: bool = True) -> Posterior:
        """Give the joint predictive law at X: of y, or of the function with noise=False.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        noise : bool, default=True
            Whether the law is that of new observations y or of the function behind them.

        Returns
        -------
        law : Posterior
            In the units of y. Marginals are cheap; the joint matrix is formed when used.
        """
        return self._law(self._inputs(X), noise=noise)

    def sample_y(self, X: ArrayLike, n_samples: int = 1, random_state: Seed = 0) -> np.ndarray:
        """Draw from the joint law of y at X.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        n_samples : int, default=1
            The number of draws.
        random_state : int, RandomState instance or None, default=0
            The source of randomness; the same int gives the same draws.

        Returns
        -------
        samples : ndarray of shape (n, n_samples) or (n, m, n_samples)
        """
        law = self.posterior(X)
        seed = int(check_random_state(random_state).randint(2**31))
        draws = law.rsample((n_samples,), torch.Generator().manual_seed(seed))
        return self._shaped(draws.movedim(0, -1).cpu())

    def log_density(self, X: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Log density of each observation under its own predictive law, in nats.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        y : array-like of shape (n,) or (n, m)
            Observations, in the units of the targets of `fit`.

        Returns
        -------
        log_density : ndarray of shape (n,) or (n, m)
            Higher is better; it depends on the units of y.
        """
        rows = self._inputs(X)
        observed = check_array(y, dtype=np.float64, order="C", ensure_2d=False, input_name="y")
        check_consistent_length(rows, observed)
        targets = torch.tensor(observed.reshape(len(rows), -1))
        if targets.shape[1] != self.surrogate_.outputs:
            raise ValueError(f"y has {targets.shape[1]} outputs, the fit had {self.surrogate_.outputs}")
        parts = []
        for law, block in zip(self._laws(rows), targets.split(self._rows()), strict=True):
            parts.append(law.log_prob(block.to(law.mean)).cpu())
        return self._shaped(torch.cat(parts))

    def leave_one_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Predict each row of the fit from all others, hyperparameters and scaling held.

        Only of exact and nearest-neighbour processes and converged gradient flow, which have it in closed form;
        others raise NotImplementedError, as do fits of weighted or repeated rows.

        Returns
        -------
        mean : ndarray of shape (n,) or (n, m)
        std : ndarray of shape (n,) or (n, m)
            Noise included.
        """
        mean, variance = self._smoother().leave_one_out()
        return self._shaped(mean.cpu()), self._shaped(variance.sqrt().cpu())

    def without_each(self, X: ArrayLike) -> np.ndarray:
        """Predict y at X with each of the n estimators that lack one row; see `leave_one_out`.

        Parameters
        ----------
        X : array-like of shape (q, d)
            Inputs.

        Returns
        -------
        means : ndarray of shape (q, n) or (q, n, m)
        """
        rows = torch.tensor(self._inputs(X), device=self.surrogate_.to_model_X.shift.device)
        means = self._smoother().without_each(rows).cpu().numpy()
        return means[..., 0] if self.y_ndim_ == 1 else means

    def _smoother(self) -> Scaled:
        check_is_fitted(self)
        if self.surrogate_.smoother.data.weight is not None:
            raise NotImplementedError(
                "repeated rows are fitted as one with a weight and cannot be left out one by one; refit without them"
            )
        return self.surrogate_

    def _inputs(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        refuse_repeated_names(X)
        return validate_data(self, X, reset=False, dtype=np.float64, order="C")

    def _laws(self, X: np.ndarray) -> Iterator[Posterior]:
        rows = self._rows()
        for start in range(0, len(X), rows):
            yield self._law(X[start : start + rows])

    def _rows(self) -> int:
        return block_rows(self.surrogate_.footprint(self.n_samples_fit_))

    def _law(self, X: np.ndarray, *, noise: bool = True) -> Posterior:
        where = self.surrogate_.to_model_X.shift.device
        with torch.no_grad():
            return self.surrogate_.posterior(torch.tensor(X, device=where), noise=noise)

    def _covariance(self, X: np.ndarray) -> np.ndarray:
        law = self._law(X)
        if not isinstance(law, Elliptical | Pathwise | Convolved):
            raise NotImplementedError(f"{type(law).__name__} has no joint covariance; use sample_y or return_std")
        n, m = law.mean.shape
        joint = law.covariance.reshape(n, m, n, m).diagonal(dim1=1, dim2=3).cpu().numpy()
        return joint[..., 0] if self.y_ndim_ == 1 else joint

    def _shaped(self, answer: Tensor) -> np.ndarray:
        """An answer (n, m, ...) in the shape of the y of `fit`."""
        array = answer.numpy()
        return array[:, 0] if self.y_ndim_ == 1 else array


def usable_device(name: str) -> torch.device:
    """The device of a name. Errors: ValueError if it is absent or has no double precision."""
    try:
        zero = torch.zeros((), dtype=torch.float64, device=name)
        zero.item()  # "meta" has no numbers
        return zero.device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch's answers to names and absent devices
        raise ValueError(f"device must be 'cpu' or another one with double precision, got {name!r}: {error}") from error


def _model(model: Model | None) -> Model:
    if model is None:
        return Process()
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model such as Process(), or None, got {model!r}")
    return model


def block_rows(footprint: int) -> int:
    """How many rows to predict at once, where each takes so many numbers."""
    return max(LEAST_ROWS, BLOCK // footprint)


def refuse_repeated_names(X: ArrayLike) -> None:
    """Refuse a table two of whose columns have one name.

    Errors: ValueError, naming them.
    """
    names = list(getattr(X, "columns", ()))
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"column names must differ, {', '.join(twice)} occurs more than once; rename or drop them")


def _distinct(
    X: np.ndarray, Y: np.ndarray, weight: np.ndarray, device: torch.device, least: int = 2
) -> tuple[Data, list[str]]:
    """Rows without copies, with their summed weights (None for all ones), and what was done.

    Weighted rows are sorted: weights and the repetitions they stand for then give the same
    numbers to the last bit, whatever their order.
    """
    kept, weight = np.column_stack([X, Y])[weight > 0], weight[weight > 0]
    if len(kept) < least:
        raise ValueError(f"sample_weight must leave at least {least} rows, and is zero on all but {len(kept)}")
    order = np.lexsort(kept.T[::-1])
    ordered = kept[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    copies = len(kept) - len(first)
    if copies or (weight != 1).any():
        kept, weight = ordered[first], np.add.reduceat(weight[order], first)
    table = torch.tensor(kept, device=device)
    weights = None if (weight == 1).all() else torch.tensor(weight, device=device)
    what = "1 copy of another row was merged into it as a weight"
    if copies > 1:
        what = f"{copies} copies of other rows were merged into them as weights"
    notes = [what] if copies else []
    d = X.shape[1]
    return Data(table[:, :d].contiguous(), table[:, d:].contiguous(), weights), notes


def _constants(Y: torch.Tensor) -> list[str]:
    constant = (Y.amin(0) == Y.amax(0)).tolist()
    which = [""] if Y.shape[1] == 1 else [f" of output {j}" for j in range(Y.shape[1])]
    values = zip(which, Y[0].tolist(), constant, strict=True)
    return [f"all targets{name} equal {value:g}, so every prediction does" for name, value, same in values if same]


def levels_of(quantiles: Sequence[float] | None) -> list[float]:
    """Levels of quantiles, checked.

    Errors: ValueError for one outside (0, 1).
    """
    levels = [] if quantiles is None else [float(p) for p in quantiles]
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"quantiles must lie between 0 and 1, got {level:g}; write 0.9 for 90%")
    return levels
