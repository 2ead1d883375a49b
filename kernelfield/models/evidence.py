"""The evidence of an exact process and its gradient, in closed form.

With A = K + noise / weight, coefficients b of the mean H b, and N = n m numbers observed,

    log p(Y) = log E[s^(-N/2) exp(-S / 2s)] - m/2 log|A| - N/2 log(2 pi),
    S = tr (Y - H b)' A^-1 (Y - H b),    b = (H' A^-1 H)^-1 H' A^-1 Y,

the expectation being over the scale variable of the mixing law (exp(-S/2) for a Gaussian
process). b maximises the evidence, so it is profiled out, and it needs no derivative:

    dlog p = sum(G o dA),    G = c/2 alpha alpha' - m/2 A^-1,    alpha = A^-1 (Y - H b),

with c = -2 d log E / dS. One Cholesky factor and one inverse serve value and gradient. Shapes of
the mixing law enter E alone.

Sources: Rasmussen & Williams (2006), eq. (2.30), (2.42) and (5.9); Shah et al. (2014), eq. (6).
"""

import copy
import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from gpytorch.kernels import Kernel
from gpytorch.priors import Prior
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Mixing
from kernelfield.core.numerics import SMALL
from kernelfield.linalg.dense import Dense
from kernelfield.models.covariance import Covariance, covariance
from kernelfield.models.search import Settings

NOISE_REACH = (1e-6, 1e1)  # bounds of the noise, in mean squares of the targets about their mean
MIXING_REACH = (0.05, 100.0)  # bounds of the shapes of a mixing law; beyond, it is hardly a law or hardly random
JUMP = 0.5  # std of the log shapes of a random start about those given


@dataclass(frozen=True, eq=False)
class Trend:
    """The basis of the mean: H(X) = [1, X] T, with T (k, p) making H(X) orthonormal on the data.

    T drops directions that the data leave undetermined, such as constant or repeated columns.
    """

    kind: Literal["zero", "constant", "linear"]
    T: Tensor

    @classmethod
    def of(cls, kind: Literal["zero", "constant", "linear"], X: Tensor) -> "Trend":
        raw = _raw_basis(kind, X)
        if not raw.shape[1]:
            return cls(kind, X.new_empty(0, 0))
        if kind == "constant":
            return cls(kind, X.new_full((1, 1), len(X) ** -0.5))
        # Columns in very different units are no reason to drop one.
        size = raw.square().mean(0).sqrt()
        size = torch.where(size > 0, size, torch.ones_like(size))
        _, values, right = torch.linalg.svd(raw / size, full_matrices=False)
        kept = values > len(X) * torch.finfo(X.dtype).eps * values[0]
        return cls(kind, (right[kept] / values[kept, None]).mT / size[:, None])

    def __call__(self, X: Tensor) -> Tensor:
        """H (*b, n, p) at X (*b, n, d)."""
        return _raw_basis(self.kind, X) @ self.T


def _raw_basis(kind: str, X: Tensor) -> Tensor:
    one = torch.ones_like(X[..., :1])
    match kind:
        case "zero":
            return X[..., :0]
        case "constant":
            return one
        case _:
            return torch.cat([one, X], -1)


@dataclass(frozen=True, eq=False)
class Fit:
    """The generalised least-squares fit of the mean to whitened data."""

    coefficients: Tensor  # b (p, m)
    basis: Tensor  # L^-1 H (n, p)
    factor: Tensor  # lower factor of H' A^-1 H (p, p)
    residual: Tensor  # L^-1 (Y - H b) (n, m)

    @classmethod
    def of(cls, whitened_Y: Tensor, whitened_H: Tensor) -> "Fit":
        factor = torch.linalg.cholesky(whitened_H.mT @ whitened_H)
        coefficients = torch.cholesky_solve(whitened_H.mT @ whitened_Y, factor)
        return cls(coefficients, whitened_H, factor, whitened_Y - whitened_H @ coefficients)

    @property
    def S(self) -> float:
        """The quadratic form of the residual."""
        return self.residual.square().sum().item()


def log_evidence(solver: Dense, fit: Fit, mixing: Mixing) -> float:
    """The log evidence in nats; see the module docstring."""
    n, m = fit.residual.shape
    value, _ = mixing.log_expectation(fit.S, n * m)
    return value - 0.5 * m * solver.logdet().item() - 0.5 * n * m * math.log(2 * math.pi)


class Learning(Settings, Protocol):
    """What a process says of its hyperparameters."""

    learn_noise: bool
    learn_mixing: bool
    noise_prior: Prior | None


class Objective:
    """Minus the log posterior of theta, a point, and its slope.

    theta : kernel parameters, log noise if `learn`, logs of the shapes of the mixing law if
        `learn_mixing`.
    noise_prior : whose density in the noise counts beside those of the kernel's priors, where the noise is learned.
    """

    def __init__(
        self,
        covariance: Covariance,
        data: Data,
        trend: Trend,
        mixing: Mixing,
        noise: float,
        *,
        learn: bool,
        learn_mixing: bool = False,
        noise_prior: Prior | None = None,
    ):
        self.noise_prior = None if noise_prior is None else copy.deepcopy(noise_prior).double().cpu()
        self.covariance, self.mixing, self.learn = covariance, mixing, learn
        self.Y, self.H = data.Y, trend(data.X)
        self.YH = torch.cat([self.Y, self.H], -1)
        self.precision = None if data.weight is None else 1 / data.weight
        self.log_noise = math.log(noise)
        self.log_shapes = np.log(list(mixing.shapes.values())) if learn_mixing else np.empty(0)
        self.size = mean_square(self.Y, self.H)
        n = len(self.Y)  # the inverse of few rows keeps its place, column by column, as LAPACK has it
        self.inverse = self.Y.new_empty(n, n).mT if n <= SMALL else None

    @classmethod
    def of(cls, model: Learning, kernel: Kernel, data: Data) -> "Objective":
        """What a process with such settings, whose noise is a variance, maximises on data."""
        return cls(
            covariance(kernel, data.X),
            data,
            Trend.of(model.mean, data.X),
            model.mixing,
            float(model.noise),
            learn=model.learn_noise,
            learn_mixing=model.learn_mixing,
            noise_prior=model.noise_prior,
        )

    def bounds(self) -> list[tuple[float, float]]:
        box = self.covariance.bounds(self.size)
        if self.learn:
            box.append(_reach(NOISE_REACH, self.size))
        low, high = _reach(MIXING_REACH, 1.0)
        # A value of the user's outside the box is the user's to choose.
        return box + [(min(low, value), max(high, value)) for value in self.log_shapes]

    def given(self) -> np.ndarray:
        """The parameters as the user gave them."""
        return self._theta(self.covariance.start(), self.log_noise, self.log_shapes)

    def scattered(self, shift: float, noise: float, generator: torch.Generator) -> np.ndarray:
        """A random start: lengthscales times exp(shift), noise as a share of the targets' size."""
        theta = self.covariance.scattered(self.size, shift, generator)
        jumps = JUMP * torch.randn(len(self.log_shapes), generator=generator, dtype=torch.double).numpy()
        return self._theta(theta, math.log(noise * self.size), self.log_shapes + jumps)

    def _theta(self, parameters: np.ndarray, log_noise: float, log_shapes: np.ndarray) -> np.ndarray:
        return np.concatenate([parameters, [log_noise] if self.learn else [], log_shapes])

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, float, Mixing]:
        """Kernel parameters, noise and mixing law."""
        ends = len(theta) - len(self.log_shapes)
        parameters, shapes = theta[:ends], theta[ends:]
        mixing = self.mixing.reshaped(np.exp(shapes).tolist()) if len(shapes) else self.mixing
        if not self.learn:
            return parameters, math.exp(self.log_noise), mixing
        return parameters[:-1], math.exp(parameters[-1]), mixing

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        parameters, noise, mixing = self.split(theta)
        with torch.inference_mode() if self.covariance.graph_free else torch.no_grad():
            value, gradient = self._evidence(parameters, noise, mixing)
        prior, tilt = self.log_prior(theta)
        count = self.Y.numel()
        return -(value + prior) / count, -(gradient + tilt) / count

    def log_prior(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """The log density of the priors of kernel and noise, in nats, and its gradient in theta."""
        parameters, noise, _ = self.split(theta)
        value, tilt = self.covariance.log_prior(parameters)
        gradient = np.zeros(len(theta))
        gradient[: len(parameters)] = tilt
        if self.noise_prior is None:
            return value, gradient
        with torch.inference_mode(False), torch.enable_grad():
            at = torch.tensor(noise, dtype=torch.double, requires_grad=True)
            density = self.noise_prior.log_prob(at)
            (slope,) = torch.autograd.grad(density, at)
        gradient[len(parameters)] = noise * slope.item()
        return value + density.item(), gradient

    def _evidence(self, parameters: np.ndarray, noise: float, mixing: Mixing) -> tuple[float, np.ndarray]:
        """The log evidence and its gradient in theta."""
        spread = noise if self.precision is None else noise * self.precision
        slope = self.slope(parameters, spread, mixing)
        shapes = np.array(mixing.score(slope.S, self.Y.numel())) if len(self.log_shapes) else np.empty(0)
        return slope.value, self._theta(slope.kernel, slope.noise, shapes)

    def slope(self, parameters: np.ndarray, spread: float | Tensor, mixing: Mixing) -> "Slope":
        """The log evidence and its derivatives, for noise variances `spread`, one number or one a row (n,)."""
        n, m = self.Y.shape
        A = self.covariance.fill(parameters)
        A.diagonal().add_(spread)
        solver = Dense.of(A)
        whitened = solver.whiten(self.YH)
        S, residual = profiled(whitened, m)
        value, slope = mixing.log_expectation(S, n * m)
        value -= m * solver.factor.diagonal().log().sum().item() + 0.5 * n * m * math.log(2 * math.pi)

        alpha = solver.unwhiten(residual)
        inverse = torch.cholesky_inverse(solver.factor, out=self.inverse)
        G = inverse.addmm_(alpha, alpha.mT, beta=-m / 2, alpha=-slope)
        rows = spread * G.diagonal()
        noise = rows.sum().item()
        # tr(G A) in closed form spares a pass over K.
        kernel = self.covariance.pull(G, -slope * S - 0.5 * n * m - noise)
        return Slope(value, S, kernel, rows, noise)


@dataclass(frozen=True, eq=False)
class Slope:
    """The log evidence, the quadratic form S, and the derivatives in the kernel parameters (p,), in the logarithm of
    each row's noise variance (n,), and in that of all of them together."""

    value: float
    S: float
    kernel: np.ndarray
    rows: Tensor
    noise: float


def _reach(reach: tuple[float, float], unit: float) -> tuple[float, float]:
    low, high = (math.log(end * unit) for end in reach)
    return low, high


def profiled(whitened: Tensor, m: int) -> tuple[float, Tensor]:
    """S and the residual of the first m columns after their regression on the others."""
    Y, H = whitened[:, :m], whitened[:, m:]
    match H.shape[1]:
        case 0:
            residual = Y
        case 1 if m == 1:  # one number of a constant mean: no solver for it
            of_Y, of_H = (H.mT @ whitened).flatten().tolist()
            residual = torch.sub(Y, H, alpha=of_Y / of_H)
        case _:
            residual = torch.addmm(Y, H, torch.linalg.solve(H.mT @ H, H.mT @ Y), alpha=-1)
    flat = residual.reshape(-1)
    return torch.dot(flat, flat).item(), residual


def mean_square(Y: Tensor, H: Tensor) -> float:
    """The mean square of what an orthonormal basis H leaves of Y; one where it leaves nothing."""
    left = Y - H @ (H.mT @ Y)
    size = left.square().mean().item()
    rounding = torch.finfo(Y.dtype).eps * Y.square().mean().item()
    return size if size > rounding else 1.0
