"""Exact Gaussian and Student-t processes, and scale mixtures of Gaussian processes.

All condition a joint law with matrix A = K + noise / weight; they differ in the law of the
scale variable alone. The mean is H(X) b with a flat prior on b: the evidence uses its best
value, predictions carry its uncertainty (universal kriging).

Sources: Rasmussen & Williams (2006), algorithm 2.1, eq. (2.41)-(2.42) and (5.10)-(5.12);
Shah, Wilson & Ghahramani (2014), lemma 3.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import require_room
from kernelfield.core.posterior import Elliptical
from kernelfield.kernels.named import NETWORKS
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.dense import Conditional, Dense
from kernelfield.models.covariance import Lazy, covariance, matrix, named_values
from kernelfield.models.evidence import Fit, Objective, Trend, log_evidence
from kernelfield.models.fit import Search
from kernelfield.models.search import kernel_for, race

BUFFERS, BUFFERS_GENERAL = 4, 9  # n x n matrices alive at once in a fit, of our kernels and through autograd


@dataclass(eq=False, repr=False)
class Process(Model):
    """An exact process with the given kernel.

    kernel : any GPyTorch kernel, which is copied and never modified; or one of "matern12",
        "matern32", "matern52", "rbf", "rq", with one lengthscale an input, an output scale and
        the dimension-scaled lengthscale prior of Hvarfner et al. (2024); or "nngp", "ntk",
        "erf-nngp", those of infinitely wide networks with three hidden layers. None is
        "matern52". A parameter with requires_grad=False is held.
    mean : "constant", "linear" or "zero".
    noise : variance of the observation noise, in squared units of Y; where it is learned,
        the value to start from.
    mixing : the law of the scale variable; Unit() is the Gaussian process,
        InverseGamma.student(df) the Student-t process. One draw is shared by all outputs.
        The noise is part of what s multiplies.
    restarts : starts of the search for hyperparameters: the first at the given values, the
        others scaled to the data. With more than 512 rows the starts race on 512 of them.
    steps : the most iterations of each search; 0 keeps the given hyperparameters.
    learn_noise : whether the noise is a hyperparameter or known.
    learn_mixing : whether the shapes of the mixing law, such as alpha of an inverse gamma, are
        hyperparameters too. Its unit is not: the kernel's output scale does the same, so use a
        kernel that has one.

    Units: X and Y as given; `FieldRegressor` standardises both. Outputs share kernel and noise.
    Errors: ValueError for a noise that is not positive, an unknown mean or kernel, a kernel for
    another number of inputs, a law without shapes that is to be learned; MemoryError where n x n
    matrices do not fit.

    >>> X = torch.linspace(0, 1, 9, dtype=torch.double)[:, None]
    >>> fitted = Process("rbf").fit(Data(X, torch.sin(6 * X)), generator=torch.Generator())
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 3)  # sin(3)
    0.141
    """

    kernel: Kernel | str | None = None
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float = 0.1
    mixing: Mixing = field(default_factory=Unit)
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True
    learn_mixing: bool = False

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedProcess":
        self._check(data)
        kernel = kernel_for(self.kernel, data.X, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
        trend = Trend.of(self.mean, data.X)
        noise, mixing, searches = float(self.noise), self.mixing, list[Search]()
        if self.steps:
            noise, mixing, searches = self._learn(kernel, data, generator)
        kernel.requires_grad_(False)
        with torch.no_grad():
            solver = Dense.of(_system(kernel, noise, data))
            return FittedProcess.of(kernel, noise, mixing, data, trend, solver, tuple(searches))

    def _check(self, data: Data) -> None:
        if not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be a positive variance, got {self.noise:g}; give a value such as 0.1")
        if self.mean not in ("constant", "zero", "linear"):
            raise ValueError(f"mean must be 'constant', 'zero' or 'linear', got {self.mean!r}")
        if not isinstance(self.mixing, Mixing):
            raise ValueError(f"mixing must be a law such as InverseGamma.student(5.0) or Unit(), got {self.mixing!r}")
        if self.learn_mixing and not self.mixing.shapes:
            raise ValueError(
                f"{self.mixing} has no shape to learn, and its unit is learned as the output scale of the kernel; "
                "leave learn_mixing out"
            )
        for name, least in (("restarts", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        ours = (
            self.kernel not in NETWORKS if isinstance(self.kernel, str) else isinstance(self.kernel, Stationary | None)
        )
        n, bytes_each = len(data.X), data.X.element_size() * (BUFFERS if ours else BUFFERS_GENERAL)
        require_room(n, bytes_each, data.X.device, what=f"an exact fit of {n} rows")

    def _learn(self, kernel: Kernel, data: Data, generator: torch.Generator) -> tuple[float, Mixing, list[Search]]:
        """Set the kernel's parameters to the best found; returns the noise, the mixing law and the record."""
        whole = self._objective(kernel, data)
        if all(low == high for low, high in whole.bounds()):  # every hyperparameter is held
            return float(self.noise), self.mixing, []
        theta, searches = race(
            lambda part: whole if part is data else self._objective(kernel, part),
            data,
            restarts=self.restarts,
            steps=self.steps,
            generator=generator,
        )
        parameters, noise, mixing = whole.split(theta)
        whole.covariance.assign(parameters)
        return noise, mixing, searches

    def _objective(self, kernel: Kernel, data: Data) -> Objective:
        trend = Trend.of(self.mean, data.X)
        learned = {"learn": self.learn_noise, "learn_mixing": self.learn_mixing}
        return Objective(covariance(kernel, data.X), data, trend, self.mixing, self.noise, **learned)


@dataclass(frozen=True, eq=False)
class FittedProcess(Surrogate):
    """A process conditioned on data.

    log_evidence in nats; noise a variance in squared units of Y; searches the record of the
    hyperparameter searches, empty if none was made.
    """

    kernel: Kernel
    noise: float
    mixing: Mixing
    data: Data
    trend: Trend
    solver: Dense
    mean: Fit
    weights: Tensor  # A^-1 (Y - H b) (n, m)
    log_evidence: float
    searches: tuple[Search, ...] = ()

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        noise: float,
        mixing: Mixing,
        data: Data,
        trend: Trend,
        solver: Dense,
        searches: tuple[Search, ...] = (),
    ) -> "FittedProcess":
        """The conditioned process, given the solver of A."""
        m = data.Y.shape[1]
        whitened = solver.whiten(torch.cat([data.Y, trend(data.X)], -1))
        mean = Fit.of(whitened[:, :m], whitened[:, m:])
        weights = solver.unwhiten(mean.residual)
        evidence = log_evidence(solver, mean, mixing)
        return cls(kernel, noise, mixing, data, trend, solver, mean, weights, evidence, searches)

    @property
    def outputs(self) -> int:
        return self.data.Y.shape[1]

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])  # one solve for all batches
        cross, H = matrix(self.kernel, self.data.X, flat), self.trend(flat)
        loc = H @ self.mean.coefficients + cross.mT @ self.weights

        def terms() -> tuple[Tensor, Tensor]:
            explained = self.solver.whiten(cross)
            gap = H.mT - self.mean.basis.mT @ explained
            unsure = torch.linalg.solve_triangular(self.mean.factor, gap, upper=False)
            return explained.unflatten(-1, batch).movedim(0, -2), unsure.unflatten(-1, batch).movedim(0, -2)

        scale = Conditional(Lazy(self.kernel, X), terms, self.noise if noise else 0.0, self.outputs)
        return Elliptical(loc.unflatten(0, batch), scale, self.scale_law)

    @cached_property
    def scale_law(self) -> Mixing:
        """The law of s given the data, by which all predictions are mixed."""
        return self.mixing.condition(self.mean.S, self._count(len(self.data.X)))

    def _count(self, n: int) -> int:
        """What n rows tell of s; each coefficient of the mean with its flat prior costs one."""
        return (n - self.mean.basis.shape[1]) * self.outputs

    def condition(self, data: Data) -> "FittedProcess":
        joined = self.data.joined(data)
        with torch.no_grad():
            border = matrix(self.kernel, self.data.X, data.X)
            solver = self.solver.extend(border, _system(self.kernel, self.noise, data))
            trend = Trend.of(self.trend.kind, joined.X)
            return FittedProcess.of(self.kernel, self.noise, self.mixing, joined, trend, solver, self.searches)

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows, hyperparameters held.

        Source: Rasmussen & Williams (2006), eq. (5.12), here with the mean's coefficients
        estimated anew without each row.
        """
        unsure = torch.linalg.solve_triangular(self.mean.factor, self.mean.basis.mT, upper=False)
        precision = self.solver.inverse_diagonal() - self.solver.unwhiten(unsure.mT).square().sum(-1)
        gap = self.weights / precision[:, None]
        S = self.mean.S - (gap * self.weights).sum(-1)
        spread = self.mixing.means(S, self._count(len(self.data.X) - 1))
        return self.data.Y - gap, (spread / precision)[:, None].expand_as(gap)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        shapes = {f"mixing.{name}": value for name, value in self.mixing.shapes.items()}
        return {**named_values(self.kernel), "noise": self.noise, **shapes}


def _system(kernel: Kernel, noise: float, data: Data) -> Tensor:
    """K(X, X) + noise / weight; the one place that would choose another structure."""
    K = matrix(kernel, data.X, data.X).clone()
    K.diagonal().add_(noise if data.weight is None else noise / data.weight)
    return K
