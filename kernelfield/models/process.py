"""Exact Gaussian and Student-t processes, and scale mixtures of Gaussian processes.

All condition a joint law with matrix A = K + noise / weight; they differ in the law of the
scale variable alone. The mean is H(X) b with a flat prior on b: the evidence uses its best
value, predictions carry its uncertainty (universal kriging).

Sources: Rasmussen & Williams (2006), algorithm 2.1, eq. (2.41)-(2.42) and (5.10)-(5.12);
Shah, Wilson & Ghahramani (2014), lemma 3.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from gpytorch.kernels import Kernel

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import require_room
from kernelfield.kernels.named import NETWORKS
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.dense import Dense
from kernelfield.models.conditioned import FittedProcess, system
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.fit import Search
from kernelfield.models.search import check_settings, kernel_for, race
from kernelfield.models.student_noise import FittedRobustProcess, RobustProcess

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
        the value to start from. "student_t" is noise with heavy tails, whose scale and degrees of
        freedom are learned, for data with outliers: see `RobustProcess`.
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
    noise: float | Literal["student_t"] = 0.1
    mixing: Mixing = field(default_factory=Unit)
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True
    learn_mixing: bool = False

    def fit(self, data: Data, *, generator: torch.Generator) -> FittedProcess | FittedRobustProcess:
        if isinstance(self.noise, str):
            return self._robust().fit(data, generator=generator)
        return self.fit_exact(data, generator=generator)

    def fit_exact(self, data: Data, *, generator: torch.Generator) -> FittedProcess:
        """What `fit` does where the noise is Gaussian; models that build on the exact process call it.

        Errors: ValueError for noise="student_t", and those of `fit`.
        """
        if isinstance(self.noise, str):
            raise ValueError(f"this needs the evidence of an exact process, got noise={self.noise!r}; give a variance")
        self._check(data)
        kernel = kernel_for(self.kernel, data.X, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
        trend = Trend.of(self.mean, data.X)
        noise, mixing, searches = float(self.noise), self.mixing, list[Search]()
        if self.steps:
            noise, mixing, searches = self._learn(kernel, data, generator)
        kernel.requires_grad_(False)
        with torch.no_grad():
            solver = Dense.of(system(kernel, noise, data))
            return FittedProcess.of(kernel, noise, mixing, data, trend, solver, tuple(searches))

    def _robust(self) -> RobustProcess:
        """The model behind noise="student_t"."""
        if self.noise != "student_t":
            raise ValueError(f"noise must be a positive variance or 'student_t', got {self.noise!r}")
        if not isinstance(self.mixing, Unit) or self.learn_mixing:
            raise ValueError(
                f"noise='student_t' needs a Gaussian law of the function, got mixing={self.mixing!r}, "
                f"learn_mixing={self.learn_mixing}; leave them out, or give the noise as a variance"
            )
        if not self.learn_noise:
            raise ValueError(
                "learn_noise=False holds a noise, and noise='student_t' does not say which; "
                "use RobustProcess(noise=..., nu=..., learn_noise=False)"
            )
        return RobustProcess(self.kernel, self.mean, restarts=self.restarts, steps=self.steps)

    def _check(self, data: Data) -> None:
        check_settings(self)
        if self.learn_mixing and not self.mixing.shapes:
            raise ValueError(
                f"{self.mixing} has no shape to learn, and its unit is learned as the output scale of the kernel; "
                "leave learn_mixing out"
            )
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
        return Objective(covariance(kernel, data.X), data, trend, self.mixing, float(self.noise), **learned)
