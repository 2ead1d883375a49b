"""Adapters: predictions as other libraries hand them over, read without importing those libraries.

    scikit-learn          predict(X, return_std=True), a pair of arrays (n,) or (n, m)
    MAPIE                 predict_interval(X), a pair of points (n,) and intervals (n, 2, k); with their levels
    BoTorch, GPyTorch     model.posterior(X, observation_noise=True), likelihood(model(X))
    torch.distributions   a distribution of the batch shape (n,) or (n, m), or a multivariate normal
    scipy.stats           a frozen continuous law, `scipy.stats.t(df, loc, scale)`, or `scipy.stats.Normal(...)`
    kernelfield           a Posterior, as it is

The law must be that of y, noise included, or its intervals are too narrow for what is observed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch import distributions as td

from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.uq.arrays import law_from
from kernelfield.uq.laws import Functions, Marginals

KNOWN = (
    "a kernelfield Posterior, a pair (mean, std), a pair (points, intervals) with levels=, a posterior of BoTorch, "
    "a torch distribution and a frozen law of SciPy"
)


@runtime_checkable
class Frozen(Protocol):
    """A frozen continuous law of scipy.stats."""

    dist: Any

    def cdf(self, x: Any) -> Any: ...

    def ppf(self, q: Any) -> Any: ...

    def logpdf(self, x: Any) -> Any: ...

    def mean(self) -> Any: ...

    def var(self) -> Any: ...


@runtime_checkable
class Continuous(Protocol):
    """A random variable of scipy.stats with the interface of `scipy.stats.Normal`."""

    def cdf(self, x: Any) -> Any: ...

    def icdf(self, p: Any) -> Any: ...

    def logpdf(self, x: Any) -> Any: ...

    def mean(self) -> Any: ...

    def variance(self) -> Any: ...


@runtime_checkable
class MixedPosterior(Protocol):
    """A posterior of BoTorch that averages k Gaussians of equal weight, with moments (k, n, m)."""

    mean: Tensor
    variance: Tensor
    mixture_mean: Tensor


@runtime_checkable
class GaussianPosterior(Protocol):
    """A posterior of BoTorch over a distribution of GPyTorch or torch."""

    mean: Tensor
    variance: Tensor
    distribution: td.Distribution


@runtime_checkable
class LazyGaussian(Protocol):
    """A multivariate normal of GPyTorch, whose covariance is formed only where it is asked for."""

    lazy_covariance_matrix: Any
    loc: Tensor


def law_of(thing: object, *, levels: Sequence[float] | float | None = None) -> Posterior:
    """The law that another library's prediction describes; see the module docstring.

    levels : of MAPIE's k intervals, as they were asked for; their ends are taken to be quantiles, as
        much probability lying below as above.

    Errors: ValueError for what is not known, or has no distribution function, with the remedy.

    >>> law = law_of((np.zeros(3), np.ones(3)))  # predict(X, return_std=True)
    >>> law.variance.flatten().tolist()
    [1.0, 1.0, 1.0]
    >>> round(law_of(stats.gumbel_r(np.zeros(3))).quantile(0.5)[0].item(), 4)
    0.3665
    """
    match thing:
        case Posterior():
            return thing
        case (points, second) if isinstance(thing, tuple):
            return _pair(points, second, levels)
        case td.Distribution():
            return _distribution(thing)
        case MixedPosterior():
            weights = thing.mean.new_full((len(thing.mean),), 1 / len(thing.mean))
            return Draws(*(t.detach().double().cpu() for t in (thing.mean, weights, thing.variance)))
        case GaussianPosterior():
            return _distribution(thing.distribution)
        case Frozen():
            return _scipy(thing, thing.ppf, thing.var(), isinstance(thing.dist, type(stats.norm)))
        case Continuous():
            return _scipy(thing, thing.icdf, thing.variance(), isinstance(thing, stats.Normal))
        case _:
            raise ValueError(f"cannot read a law from {type(thing).__name__}; known are {KNOWN}, or use law_from(...)")


def _pair(points: Any, second: Any, levels: Sequence[float] | float | None) -> Posterior:
    ends = np.asarray(second)
    if ends.ndim != 3:
        return law_from(mean=points, std=second)
    asked = [] if levels is None else np.atleast_1d(np.asarray(levels, dtype=float)).tolist()
    if ends.shape[1] != 2 or ends.shape[2] != len(asked):
        raise ValueError(
            f"intervals must be (n, 2, k) with a level for each of the k, got {ends.shape} and levels={asked}; "
            "give levels= the confidence levels that they were made with"
        )
    quantiles: dict[float, np.ndarray] = {}
    for index, level in enumerate(asked):
        quantiles |= {(1 - level) / 2: ends[:, 0, index], (1 + level) / 2: ends[:, 1, index]}
    return law_from(mean=points, quantiles=quantiles)


def _distribution(law: td.Distribution) -> Posterior:
    match law:
        case td.Independent():
            return _distribution(law.base_dist)
        case td.Normal():
            return law_from(mean=law.mean, std=law.stddev)
        case td.MultivariateNormal():
            return _multivariate(law)
        case td.StudentT():
            arrays = (_numpy(t) for t in (law.df, law.loc, law.scale))
            return law_of(stats.t(*arrays))
        case _ if law.event_shape:
            raise ValueError(f"{type(law).__name__} has no marginals that are known here; {_remedy(law)}")
        case _:
            return _functions(law)


def _multivariate(law: td.MultivariateNormal) -> Elliptical:
    """Events (n,) of one output, (n, m) of GPyTorch's several; or a batch (n,) of events (m,), rows apart."""
    mean = law.mean.detach()
    if isinstance(law, LazyGaussian) and not law.batch_shape and (mean.ndim == 1 or _point_major(law)):
        # Marginals of many points need the diagonal alone.
        return Elliptical(_two(mean), law.lazy_covariance_matrix.detach().double())
    covariance = law.covariance_matrix.detach()
    if len(law.event_shape) == 2:
        n, m = law.event_shape
        covariance = covariance.reshape(m, n, m, n).permute(1, 0, 3, 2).reshape(n * m, n * m)
    return law_from(mean=mean, covariance=covariance)  # type: ignore[return-value]


def _point_major(law: Any) -> bool:
    """Whether GPyTorch's covariance of several outputs has the outputs of a point next to each other."""
    return bool(law._interleaved)  # the library keeps the choice under this name alone


def _functions(law: td.Distribution) -> Marginals:
    """Of a distribution without a closed form here: its own functions."""
    mean = _two(law.mean)
    try:
        law.cdf(law.mean)
    except NotImplementedError as error:
        raise ValueError(f"{type(law).__name__} has no distribution function in torch; {_remedy(law)}") from error
    shape, support = law.batch_shape, law.support or td.constraints.real

    def shaped(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda y: function(y.reshape(*y.shape[: y.ndim - 2], *shape)).double().reshape(y.shape)

    # Values outside of the support, which torch refuses, are as good as any other to a score.
    def below(y: Tensor) -> Tensor:
        inside = support.check(y)
        return torch.where(inside, law.cdf(torch.where(inside, y, law.mean)), 1.0 * (y > law.mean))

    def log_density(y: Tensor) -> Tensor:
        inside = support.check(y)
        return torch.where(inside, law.log_prob(torch.where(inside, y, law.mean)), -math.inf)

    try:
        law.icdf(torch.full_like(law.mean, 0.5))
        inverse = shaped(law.icdf)
    except NotImplementedError:  # such as mixtures
        inverse = None
    return Marginals(Functions(mean, _two(law.variance), shaped(below), shaped(log_density), inverse))


def _scipy(law: Any, inverse: Callable[[Any], Any], variance: Any, normal: bool) -> Posterior:
    mean, variance = np.broadcast_arrays(np.atleast_1d(law.mean()), variance)
    if normal:
        return law_from(mean=mean, std=np.sqrt(variance))
    shape = mean.shape
    first, second = (_two(torch.tensor(values)) for values in (mean, variance))

    def shaped(function: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
        def answer(y: Tensor) -> Tensor:
            values = function(_numpy(y).reshape(*y.shape[: y.ndim - 2], *shape))
            return torch.as_tensor(np.asarray(values)).reshape(y.shape)

        return answer

    return Marginals(Functions(first, second, shaped(law.cdf), shaped(law.logpdf), shaped(inverse)))


def _two(values: Tensor) -> Tensor:
    """Moments (n,) or (n, m) as (n, m), in double precision on the CPU."""
    values = values.detach().double().cpu()
    values = values.reshape(-1, 1) if values.ndim < 2 else values
    if values.ndim != 2:
        raise ValueError(f"need a law of the shape (n,) or (n, m), got {tuple(values.shape)}")
    return values


def _numpy(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().double().numpy())


def _remedy(law: td.Distribution) -> str:
    return "give its draws: law_from(samples=law.sample((1000,)))"
