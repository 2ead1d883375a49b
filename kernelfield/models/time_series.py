"""TimeSeriesProcess: the exact process of a Matern kernel on a line, in O(n).

The answers are those of `Process` with the same kernel; only the algebra differs, which is that
of `linalg.state_space`. The gradient of the evidence goes by automatic differentiation
through the filter.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.posterior import Elliptical
from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.state_space import StateSpace
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.covariance import Radial, covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.fit import Search
from kernelfield.models.search import check_settings, kernel_for, race

TrendKind = Literal["constant", "zero", "linear"]

MATERNS = ("matern12", "matern32", "matern52")
STATE = 64  # numbers a point, about, that smoothing keeps: means and covariances before and after a row is seen


@dataclass(eq=False, repr=False)
class TimeSeriesProcess(Model):
    """An exact process of one input, in time and memory that grow with n alone.

    kernel : "matern12", "matern32" or "matern52", None being the last, or a `Matern` with one
        lengthscale, which is copied and never modified.
    mean, noise, mixing, restarts, steps, learn_noise : as for `Process`.

    Units: X and Y as given. Inputs may be irregular, in any order and repeated. Outputs share
    kernel and noise.
    Errors: as for `Process`, and ValueError for another kernel or more than one input.

    >>> X = torch.linspace(0, 1, 9, dtype=torch.double)[:, None]
    >>> fitted = TimeSeriesProcess().fit(Data(X, torch.sin(6 * X)), generator=torch.Generator())
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 2)  # sin(3)
    0.14
    """

    kernel: Matern | Literal["matern12", "matern32", "matern52"] | None = None
    mean: TrendKind = "constant"
    noise: float = 0.1
    mixing: Mixing = field(default_factory=Unit)
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedTimeSeries":
        check_settings(self)
        kernel = self._kernel(data)
        objective = self._objective(kernel, data)
        noise, searches = float(self.noise), list[Search]()
        if self.steps and any(low < high for low, high in objective.bounds()):
            theta, searches = race(
                lambda part: objective if part is data else self._objective(kernel, part),
                data,
                restarts=self.restarts,
                steps=self.steps,
                generator=generator,
            )
            parameters, noise, _ = objective.split(theta)
            objective.covariance.assign(parameters)
        kernel.requires_grad_(False)
        return _conditioned(kernel, noise, self.mixing, data, self.mean, tuple(searches))

    def _kernel(self, data: Data) -> Matern:
        if data.X.shape[1] != 1:
            raise ValueError(
                f"a time series has one input, its time, and the data have {data.X.shape[1]}; use Process for several"
            )
        if not (self.kernel is None or isinstance(self.kernel, Matern) or self.kernel in MATERNS):
            raise ValueError(f"kernel must be a Matern or one of {', '.join(MATERNS)}, got {self.kernel!r}")
        kernel = kernel_for(self.kernel, data.X, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
        assert isinstance(kernel, Matern)
        return kernel

    def _objective(self, kernel: Matern, data: Data) -> "_OnALine":
        # Bounds, starts and priors want the spread of the inputs alone: two points have it.
        spread, mean = torch.std_mean(data.X, 0, correction=0)
        ends = covariance(kernel, torch.stack([mean - spread, mean + spread]))
        if not isinstance(ends, Radial):
            raise ValueError("the Matern of a time series must be one kernel, with the constraints it comes with")
        return _OnALine(ends, data, Trend.of(self.mean, data.X), self.mixing, self.noise, learn=self.learn_noise)


class _OnALine(Objective):
    """The evidence of a time series."""

    def __init__(self, ends: Radial, data: Data, trend: Trend, mixing: Mixing, noise: float, *, learn: bool) -> None:
        super().__init__(ends, data, trend, mixing, noise, learn=learn)
        self.times, self.states = data.X[:, 0], _states(ends.kernel)

    def _evidence(self, parameters: np.ndarray, noise: float, mixing: Mixing) -> tuple[float, np.ndarray]:
        n, m = self.Y.shape
        with torch.inference_mode(False), torch.enable_grad():
            theta = self.Y.new_tensor([*parameters, np.log(noise)]).requires_grad_()
            lengthscale, outputscale, spread = theta.exp()
            each = spread.expand(n) if self.precision is None else spread * self.precision
            solver = StateSpace.of(self.times, self.states, lengthscale, outputscale, each)
            whitened = solver.whiten(self.YH)
            Y, H = whitened[:, :m], whitened[:, m:]
            # The best coefficients need no derivative.
            best = torch.linalg.lstsq(H.detach(), Y.detach()).solution
            S, logdet = (Y - H @ best).square().sum(), solver.logdet()
            value, slope = mixing.log_expectation(S.item(), n * m)
            (gradient,) = torch.autograd.grad(slope * S - 0.5 * m * logdet, theta)
        value -= 0.5 * m * logdet.item() + 0.5 * n * m * np.log(2 * np.pi)
        *by_kernel, by_noise = gradient.tolist()
        return value, self._theta(np.array(by_kernel), by_noise, np.empty(0))


@dataclass(frozen=True, eq=False)
class FittedTimeSeries(FittedProcess):
    """A time series conditioned on data: predictions of q points take O(n + q), their joint law O(n q + q^3)."""

    solver: StateSpace  # type: ignore[assignment]

    def footprint(self, rows: int) -> int:
        return STATE

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        flat = X.reshape(-1, 1)
        smoothed = _Smoothed(self, flat)
        loc = self.trend(flat) @ self.mean.coefficients + smoothed.values[:, : self.outputs]
        joint = partial(super().posterior, X, noise=noise)
        scale = _Quick(joint, smoothed, X.shape[:-1], self.noise if noise else 0.0, self.outputs)
        return Elliptical(loc.unflatten(0, X.shape[:-1]), scale, self.scale_law)

    def condition(self, data: Data) -> "FittedTimeSeries":
        joined = self.data.joined(data)
        return _conditioned(self.kernel, self.noise, self.mixing, joined, self.trend.kind, self.searches)


@dataclass(frozen=True, eq=False)
class _Smoothed:
    """What the data say of the process at X (q, 1)."""

    fitted: FittedTimeSeries
    X: Tensor

    @cached_property
    def _answer(self) -> tuple[Tensor, Tensor]:
        """Targets after the mean, and the mean's basis, smoothed (q, m + p); the variance (q,)."""
        fitted, data, q = self.fitted, self.fitted.data, len(self.X)
        H = fitted.trend(data.X)
        known = torch.cat([data.Y - H @ fitted.mean.coefficients, H], -1)
        unknown = torch.cat([_noises(fitted.noise, data), known.new_full((q,), torch.inf)])
        system = _system(fitted.kernel, torch.cat([data.X, self.X]), unknown)
        values, variance = system.smooth(torch.cat([known, known.new_zeros(q, known.shape[1])]))
        return values[len(known) :], variance[len(known) :]

    @property
    def values(self) -> Tensor:
        return self._answer[0]

    @property
    def variance(self) -> Tensor:
        """The variance (q,), with that of the mean's coefficients."""
        basis = self.values[:, self.fitted.outputs :]
        gap = (self.fitted.trend(self.X) - basis).mT
        unsure = torch.linalg.solve_triangular(self.fitted.mean.factor, gap, upper=False)
        return self._answer[1].clamp_min(0) + unsure.square().sum(0)


@dataclass(frozen=True, eq=False)
class _Quick:
    """A scale matrix whose diagonal is found without the matrix."""

    joint: Callable[[], Elliptical]  # the law with the matrix, which needs the kernel of all data with X
    smoothed: _Smoothed
    shape: torch.Size
    noise: float
    outputs: int

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        value = (self.smoothed.variance + self.noise).reshape(self.shape)
        return value.repeat_interleave(self.outputs, -1)

    def to_dense(self) -> Tensor:
        return self.joint().scale.to_dense()


def _conditioned(
    kernel: Matern, noise: float, mixing: Mixing, data: Data, mean: TrendKind, searches: tuple[Search, ...]
) -> FittedTimeSeries:
    with torch.no_grad():
        system = _system(kernel, data.X, _noises(noise, data))
        trend = Trend.of(mean, data.X)
        return FittedTimeSeries.of(kernel, noise, mixing, data, trend, system, searches)  # type: ignore[arg-type]


def _system(kernel: Matern, X: Tensor, noise: Tensor) -> StateSpace:
    return StateSpace.of(X[:, 0], _states(kernel), kernel.lengthscale.flatten()[0], kernel.outputscale, noise)


def _states(kernel: Matern) -> int:
    return round(kernel.nu + 0.5)


def _noises(noise: float, data: Data) -> Tensor:
    """The noise variance (n,) of each row."""
    return noise * torch.ones_like(data.X[:, 0]) if data.weight is None else noise / data.weight
