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
from gpytorch.priors import Prior, UniformPrior

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.kernels.named import NETWORKS
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.dense import Dense
from kernelfield.models.conditioned import FittedProcess, system
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.fit import Search
from kernelfield.models.iterative_fit import fit_iteratively
from kernelfield.models.iterative_process import FittedIterativeProcess
from kernelfield.models.search import check_settings, kernel_for, race
from kernelfield.models.solver_choice import Solver, choose, require_cholesky
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
    noise_prior : the law of a noise that is learned, as a GPyTorch prior of all positive numbers; its density in that
        variance counts in the fit. None leaves the noise to the evidence.
    learn_mixing : whether the shapes of the mixing law, such as alpha of an inverse gamma, are
        hyperparameters too. Its unit is not: the kernel's output scale does the same, so use a
        kernel that has one.
    solver : "cholesky", to rounding, in n^3 operations and several n x n matrices; "iterative", by conjugate
        gradients on products with the kernel matrix, for as many rows as time allows, with the residuals and error
        bars in the notes; "keops", the same with KeOps forming the products; "distributed", the same with the
        products shared out among the ranks of a program that torchrun started. "auto" counts operations and
        bytes: Cholesky up to about 10,000 rows on a CPU, and iterations above.
    checkpoint : a folder in which a fit by iterations keeps each slope of the evidence of all rows; given again, the
        fit goes on from there, with the seed that it began with.

    Units: X and Y as given; `FieldRegressor` standardises both. Outputs share kernel and noise.
    Errors: ValueError for a noise that is not positive, an unknown mean, kernel or solver, a kernel for
    another number of inputs, a prior that has bounds or is of a noise that is not learned, a law without shapes that is
    to be learned; MemoryError where what the solver keeps does not fit.

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
    noise_prior: Prior | None = None
    solver: Solver = "auto"
    checkpoint: str | None = None

    def fit(
        self, data: Data, *, generator: torch.Generator
    ) -> FittedProcess | FittedRobustProcess | FittedIterativeProcess:
        if isinstance(self.noise, str):
            return self._robust().fit(data, generator=generator)
        self._check()
        chosen = choose(
            self.solver,
            len(data.X),
            searching=self.steps > 0,
            bytes_each=self._bytes_each(data),
            device=data.X.device,
        )
        if chosen.solver == "cholesky":
            return self._factored(data, generator)
        return fit_iteratively(self, data, chosen, generator)

    def fit_exact(self, data: Data, *, generator: torch.Generator) -> FittedProcess:
        """What `fit` does by Cholesky where the noise is Gaussian; models that build on its factor call it.

        Errors: ValueError for noise="student_t" or another solver, and those of `fit`.
        """
        if isinstance(self.noise, str):
            raise ValueError(f"this needs the evidence of an exact process, got noise={self.noise!r}; give a variance")
        if self.solver not in ("auto", "cholesky"):
            raise ValueError(f"this needs the factor of an exact process, got solver={self.solver!r}; use 'cholesky'")
        self._check()
        require_cholesky(len(data.X), self._bytes_each(data), data.X.device)
        return self._factored(data, generator)

    def _factored(self, data: Data, generator: torch.Generator) -> FittedProcess:
        self._refuse_checkpoint("leave checkpoint out, or give solver='iterative' or 'distributed'")
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
        if self.solver not in ("auto", "cholesky"):
            raise ValueError(
                f"noise='student_t' is fitted by Cholesky factors alone, got solver={self.solver!r}; give the noise as "
                "a variance, or leave solver out"
            )
        self._refuse_checkpoint("leave checkpoint out")
        if self.noise_prior is not None:
            raise ValueError(
                f"noise='student_t' has no variance for a prior, got noise_prior={self.noise_prior!r}; give noise as a "
                "variance, or leave noise_prior out"
            )
        return RobustProcess(self.kernel, self.mean, restarts=self.restarts, steps=self.steps)

    def _check(self) -> None:
        check_settings(self)
        if self.learn_mixing and not self.mixing.shapes:
            raise ValueError(
                f"{self.mixing} has no shape to learn, and its unit is learned as the output scale of the kernel; "
                "leave learn_mixing out"
            )
        if self.noise_prior is None:
            return
        if not isinstance(self.noise_prior, Prior) or isinstance(self.noise_prior, UniformPrior):
            raise ValueError(
                "noise_prior must be a GPyTorch prior of all positive numbers, such as GammaPrior(1.0, 15.0) or, with "
                f"soft bounds, SmoothedBoxPrior(1e-4, 0.1), got {self.noise_prior!r}"
            )
        if not self.learn_noise:
            raise ValueError(
                f"learn_noise=False holds the noise at {self.noise:g}, so that noise_prior={self.noise_prior!r} has "
                "nothing to say; leave one of them out"
            )

    def _refuse_checkpoint(self, remedy: str) -> None:
        if self.checkpoint is not None:
            raise ValueError(
                f"a fit by Cholesky factors keeps no checkpoint, got checkpoint={self.checkpoint!r} and "
                f"solver={self.solver!r}; {remedy}"
            )

    def _bytes_each(self, data: Data) -> int:
        """Of an entry of the n x n matrices of a fit by Cholesky, together."""
        ours = (
            self.kernel not in NETWORKS if isinstance(self.kernel, str) else isinstance(self.kernel, Stationary | None)
        )
        shared = isinstance(self.kernel, Stationary) and self.kernel.raw_lengthscale.numel() == 1
        kept = shared or data.X.shape[1] == 1  # the distances
        return data.X.element_size() * (BUFFERS + kept if ours else BUFFERS_GENERAL)

    def _learn(self, kernel: Kernel, data: Data, generator: torch.Generator) -> tuple[float, Mixing, list[Search]]:
        """Set the kernel's parameters to the best found; returns the noise, the mixing law and the record."""
        whole = Objective.of(self, kernel, data)
        if all(low == high for low, high in whole.bounds()):  # every hyperparameter is held
            return float(self.noise), self.mixing, []
        theta, searches = race(
            lambda part: whole if part is data else Objective.of(self, kernel, part),
            data,
            restarts=self.restarts,
            steps=self.steps,
            generator=generator,
        )
        parameters, noise, mixing = whole.split(theta)
        whole.covariance.assign(parameters)
        return noise, mixing, searches
