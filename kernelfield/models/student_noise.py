"""Robust regression: an exact process seen through noise with the heavy tails of a Student-t.

    y_i = f(x_i) + e_i,    e_i | w_i ~ N(0, noise / (c_i w_i)),    w_i ~ Gamma(nu / 2, nu / 2),

with f a Gaussian process, c_i the weight of a row and w_i shared by its m outputs: given f, a row
is multivariate t. A row that f cannot explain gets a small w_i and hardly counts. The posterior of
f and w is approximated by a Gaussian q(f) times q(w_i) = Gamma(a, b_i), a = (nu + m) / 2. With the
means r_i = a / b_i, q(f) is the posterior of the Gaussian process whose noise variances are
d_i = noise / (c_i r_i), and the bound on the evidence is

    log N(Y | 0, K + diag d) + sum_i [R(nu) + nu / 2 (log r_i - r_i + 1)] <= log p(Y),
    R(nu) = h(a) - h(nu / 2),    h(x) = log Gamma(x) - x log x + x.

The first term is the evidence of an exact process with its mean profiled out, as in
`models.evidence`; with G as there, the bound is stationary in log r_i where
nu / 2 (1 - r_i) = d_i G_ii, which is where r_i = a / (nu / 2 + c_i E|y_i - f_i|^2 / (2 noise)).
Setting all r_i so climbs the bound, but slowly where rows lean on each other; hyperparameters and
log r_i are therefore searched together, at one Cholesky factor and one inverse an evaluation, and
rounds of the former end the search. For nu to infinity all is as with Gaussian noise.

A weight of c_i is a repetition of one measurement, with one w_i: the means of c_i measurements
whose noise has independent w follow another law, so that rows with weights are not repeated rows
(but for nu to infinity).

Sources: Tipping & Lawrence (2005), "Variational Inference for Student-t Models"; Kuss (2006),
"Gaussian Process Models for Robust Regression, Classification, and Reinforcement Learning".
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy import special
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import NotConverged, require_room, threads_for
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Dense
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.covariance import covariance, matrix
from kernelfield.models.evidence import Objective, Trend, profiled
from kernelfield.models.fit import Search
from kernelfield.models.search import check_settings, kernel_for, race

BUFFERS = 9  # n x n matrices alive at once in a fit, through autograd
NU_REACH = (1.0, 100.0)  # bounds of nu: below, f is hardly told from noise; above, the noise is Gaussian
FLOOR = -50.0  # of log r: an outlier of 1e10 scales
SHARE = 0.1  # of the noise in the size of the targets, where it starts
JUMP = 0.7  # std of log nu of a random start about the one given
FIRST = 5  # rounds of the fixed point that a search starts with
ROUNDS = 500  # at its end, at most
SETTLED = 1e-8  # change of any log r that ends them
SERIES = 16.0  # above, eight terms of Binet's series are exact
BINET = [float(special.bernoulli(16)[2 * k]) / (2 * k * (2 * k - 1)) for k in range(1, 9)]


@dataclass(eq=False, repr=False)
class RobustProcess(Model):
    """A Gaussian process with Student-t noise: for data with outliers.

    kernel, mean, restarts, steps : as for `Process`.
    noise : the squared scale of the noise, in squared units of Y, or where it starts if it is
        learned. None starts with a tenth of the targets' size, as their median deviation tells it.
    nu : the degrees of freedom of the noise, or where they start; between 1 and 100 if learned.
    learn_noise, learn_nu : whether they are hyperparameters or known.

    Errors: ValueError for a noise or nu that is not positive and those of `Process`; MemoryError
    where n x n matrices do not fit.

    >>> X = torch.linspace(0, 1, 20, dtype=torch.double)[:, None]
    >>> Y = torch.sin(6 * X)
    >>> Y[7] += 10.0  # an outlier
    >>> fitted = RobustProcess("rbf").fit(Data(X, Y), generator=torch.Generator())
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 3), fitted.row_weights.argmin().item()  # sin(3)
    (0.141, 7)
    """

    kernel: Kernel | str | None = None
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float | None = None
    nu: float = 4.0
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True
    learn_nu: bool = True

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedRobustProcess":
        size = robust_size(data.Y)
        start = SHARE * size if self.noise is None else self.noise
        self._check(data, start)
        kernel = kernel_for(self.kernel, data.X, data.Y.new_tensor(size))
        bound = self._bound(kernel, data, start)
        theta, searches = bound.given(), list[Search]()
        if self.steps and any(low < high for low, high in bound.bounds()[: bound.shared]):
            theta, searches = race(
                lambda part: bound if part is data else self._bound(kernel, part, start),
                data,
                restarts=self.restarts,
                steps=self.steps,
                generator=generator,
                carry=bound.carried,
            )
        parameters, noise, nu, log_rows = bound.split(theta)
        bound.gaussian.covariance.assign(parameters)
        kernel.requires_grad_(False)
        with torch.no_grad():
            return FittedRobustProcess.of(kernel, noise, nu, data, self.mean, log_rows, tuple(searches))

    def _check(self, data: Data, start: float) -> None:
        check_settings(_Settings(self.mean, start, self.restarts, self.steps, Unit()))
        if not (self.nu > 0 and math.isfinite(self.nu)):
            raise ValueError(f"nu must be a positive number of degrees of freedom, got {self.nu:g}; 4 is usual")
        n = len(data.X)
        require_room(n, data.X.element_size() * BUFFERS, data.X.device, what=f"an exact fit of {n} rows")

    def _bound(self, kernel: Kernel, data: Data, noise: float) -> "Bound":
        trend = Trend.of(self.mean, data.X)
        gaussian = Objective(covariance(kernel, data.X), data, trend, Unit(), noise, learn=self.learn_noise)
        gaussian.size = robust_size(data.Y)
        return Bound(gaussian, data, trend, self.nu, learn_nu=self.learn_nu)


@dataclass
class _Settings:
    """What is checked of every process."""

    mean: Literal["constant", "zero", "linear"]
    noise: float
    restarts: int
    steps: int
    mixing: Mixing


def robust_size(Y: Tensor) -> float:
    """The mean square of the targets about their medians, as the median deviation of a normal law tells it.

    Half of the rows may be anything. Where more than half are equal, the mean square; one where all are.
    """
    gap = Y - Y.median(0).values
    spread = (1.4826 * gap.abs().median(0).values).square()
    spread = torch.where(spread > 0, spread, gap.square().mean(0))
    size = spread.mean().item()
    return size if size > 0 else 1.0


class Bound:
    """Minus the bound and the log prior, a number observed, and its slope.

    theta : kernel parameters, log noise and log nu as far as they are learned, the first `shared`;
        then log r_i / sqrt(n) of each row. So scaled, rows and hyperparameters bend the bound alike,
        as each row has its own share of it alone: the search takes half as many steps.
    """

    def __init__(self, gaussian: Objective, data: Data, trend: Trend, nu: float, *, learn_nu: bool) -> None:
        self.gaussian, self.data, self.trend, self.nu, self.learn_nu = gaussian, data, trend, nu, learn_nu
        self.n, self.m = data.Y.shape
        self.spread = data.Y.new_ones(self.n) if data.weight is None else 1 / data.weight
        self.unit = math.sqrt(self.n)
        self.shared = len(gaussian.given()) + learn_nu

    def bounds(self) -> list[tuple[float, float]]:
        box = self.gaussian.bounds()
        low, high = NU_REACH
        # A value of the user's outside the box is the user's to choose.
        low, high = min(low, self.nu), max(high, self.nu)
        if self.learn_nu:
            box.append((math.log(low), math.log(high)))
        top = math.log1p(self.m / (low if self.learn_nu else self.nu))  # b is above nu / 2
        return box + [(FLOOR / self.unit, top / self.unit)] * self.n

    def given(self) -> np.ndarray:
        return self._started(self.gaussian.given(), self.nu)

    def scattered(self, shift: float, noise: float, generator: torch.Generator) -> np.ndarray:
        theta = self.gaussian.scattered(shift, noise, generator)
        jump = JUMP * torch.randn((), generator=generator, dtype=torch.double).item()
        return self._started(theta, self.nu * math.exp(jump) if self.learn_nu else self.nu)

    def carried(self, theta: np.ndarray) -> np.ndarray:
        """Where to go on from the end of a search on other rows: their hyperparameters, with rows of its own."""
        shared = theta[: self.shared]
        return self._started(shared[:-1], math.exp(shared[-1])) if self.learn_nu else self._started(shared, self.nu)

    def _started(self, gaussian: np.ndarray, nu: float) -> np.ndarray:
        parameters, noise, _ = self.gaussian.split(gaussian)
        with torch.no_grad():
            K = self.gaussian.covariance.fill(parameters)
            rows, _ = settled(K, self.data, self.trend, noise, nu, self.spread.new_zeros(self.n), rounds=FIRST)
        return np.concatenate([gaussian, [math.log(nu)] if self.learn_nu else [], rows.cpu().numpy() / self.unit])

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, float, float, Tensor]:
        """Kernel parameters, noise, nu and log r (n,)."""
        shared, rows = np.split(theta, [self.shared])
        nu = math.exp(shared[-1]) if self.learn_nu else self.nu
        parameters, noise, _ = self.gaussian.split(shared[:-1] if self.learn_nu else shared)
        return parameters, noise, nu, torch.from_numpy(rows * self.unit).to(self.spread)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        parameters, noise, nu, log_rows = self.split(theta)
        with torch.inference_mode() if self.gaussian.covariance.graph_free else torch.no_grad():
            slope = self.gaussian.slope(parameters, noise * self.spread * (-log_rows).exp(), Unit())
            value, in_nu = penalty(log_rows, nu, self.m)
            rows = -slope.rows - nu / 2 * torch.expm1(log_rows)
            in_noise = slope.noise
        prior, tilt = self.gaussian.covariance.log_prior(parameters)
        shared = [in_noise] * self.gaussian.learn + [in_nu] * self.learn_nu
        gradient = np.concatenate([slope.kernel + tilt, shared, self.unit * rows.cpu().double().numpy()])
        count = self.n * self.m
        return -(slope.value + value + prior) / count, -gradient / count


def penalty(log_rows: Tensor, nu: float, m: int) -> tuple[float, float]:
    """What the bound has beside the Gaussian evidence, in nats, and its derivative in log nu."""
    n, a = len(log_rows), (nu + m) / 2
    loss = (log_rows - torch.expm1(log_rows)).sum().item()
    upper, lower = _binet(a), _binet(nu / 2)
    value = n * (upper[0] - lower[0] - 0.5 * math.log1p(m / nu)) + nu / 2 * loss
    slope = n * (upper[1] - lower[1] - 0.5 / a + 1 / nu) + loss
    return value, nu / 2 * slope


def _binet(x: float) -> tuple[float, float]:
    """log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2, which is 1 / (12 x) roughly, and its derivative."""
    if x < SERIES:
        value = math.lgamma(x) - (x - 0.5) * math.log(x) + x - 0.5 * math.log(2 * math.pi)
        return value, float(special.digamma(x)) - math.log(x) + 0.5 / x
    value = sum(term * x ** -(2 * k - 1) for k, term in enumerate(BINET, 1))
    slope = sum(-(2 * k - 1) * term * x ** (-2 * k) for k, term in enumerate(BINET, 1))
    return value, slope


def settled(
    K: Tensor, data: Data, trend: Trend, noise: float, nu: float, log_rows: Tensor, *, rounds: int
) -> tuple[Tensor, float]:
    """log r (n,) after so many rounds of the fixed point, or fewer if it is reached, and its last change.

    K (n, n), of which the lower triangle is read. Every round raises the bound.
    """
    m = data.Y.shape[1]
    spread = torch.full_like(log_rows, noise) if data.weight is None else noise / data.weight
    YH = torch.cat([data.Y, trend(data.X)], -1)
    change = math.inf
    for _ in range(rounds):
        d = spread * (-log_rows).exp()
        A = K.clone()
        A.diagonal().add_(d)
        solver = Dense.of(A)
        alpha = solver.unwhiten(profiled(solver.whiten(YH), m)[1])
        # E|y - f|^2 / d, in a form that does not cancel where d is large.
        square = d * alpha.square().sum(-1) + m * (1 - d * solver.inverse_diagonal()).clamp_min(0)
        following = math.log1p(m / nu) - torch.log1p(square * (-log_rows).exp() / nu)
        change = (following - log_rows).abs().max().item()
        log_rows = following
        if change < SETTLED:
            break
    return log_rows, change


@dataclass(frozen=True, eq=False)
class FittedRobustProcess(Surrogate):
    """A process conditioned on data with outliers.

    gaussian, the process whose row weights are those of the data times row_weights: q(f). data as
    they were given; row_weights (n,) the means r of w: one on average, below one tenth for a row
    that was taken for an outlier; log_evidence in nats, which is a bound from below.
    """

    gaussian: FittedProcess
    data: Data
    nu: float
    row_weights: Tensor
    log_evidence: float

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        noise: float,
        nu: float,
        data: Data,
        mean: Literal["constant", "zero", "linear"],
        log_rows: Tensor,
        searches: tuple[Search, ...] = (),
    ) -> "FittedRobustProcess":
        """The conditioned process, its row weights found from a start log r (n,).

        Warns NotConverged where they are not settled.
        """
        trend, K = Trend.of(mean, data.X), matrix(kernel, data.X, data.X)
        with threads_for(len(data.X)):
            log_rows, change = settled(K, data, trend, noise, nu, log_rows, rounds=ROUNDS)
        if change >= SETTLED:
            warnings.warn(
                f"the weights of rows still changed by {change:.2g} of their size after {ROUNDS} rounds; raise nu",
                NotConverged,
                stacklevel=2,
            )
        rows = log_rows.exp()
        weight = rows if data.weight is None else rows * data.weight
        weighted = Data(data.X, data.Y, weight)
        A = K.clone()
        A.diagonal().add_(noise / weight)
        gaussian = FittedProcess.of(kernel, noise, Unit(), weighted, trend, Dense.of(A), searches)
        value = gaussian.log_evidence + penalty(log_rows, nu, data.Y.shape[1])[0]
        return cls(gaussian, data, nu, rows, value)

    @property
    def outputs(self) -> int:
        return self.gaussian.outputs

    @property
    def kernel(self) -> Kernel:
        return self.gaussian.kernel

    @property
    def noise(self) -> float:
        """The squared scale of the noise, in squared units of Y."""
        return self.gaussian.noise

    @property
    def searches(self) -> tuple[Search, ...]:
        return self.gaussian.searches

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical | Convolved:
        law = self.gaussian.posterior(X)
        return Convolved(law, self.noise, self.nu) if noise else law

    def condition(self, data: Data) -> "FittedRobustProcess":
        """The surrogate that has also seen `data`: new rows may show old ones to be outliers, or none."""
        start = torch.cat([self.row_weights.log(), self.row_weights.new_zeros(len(data.X))])
        with torch.no_grad():
            return FittedRobustProcess.of(
                self.kernel, self.noise, self.nu, self.data.joined(data), self.gaussian.trend.kind, start, self.searches
            )

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows, hyperparameters and their weights held.

        That the weights of the others have seen y is left in; the variance is infinite where nu is
        two or less.
        """
        mean, variance = self.gaussian.leave_one_out()
        given = variance.new_ones(len(variance)) if self.data.weight is None else self.data.weight
        ratio = self.nu / (self.nu - 2) if self.nu > 2 else math.inf
        own = (variance - (self.noise / (given * self.row_weights))[:, None]).clamp_min(0)
        return mean, own + (self.noise * ratio / given)[:, None]

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {**self.gaussian.hyperparameters(), "nu": self.nu}
