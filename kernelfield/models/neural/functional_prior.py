"""A prior of networks that is like a process: scales of an architecture, tuned to a target kernel.

A wide network with random parameters is nearly a Gaussian process, whose kernel, the NNGP, is a
formula of the architecture's scales. These are chosen so that the squared 2-Wasserstein distance
between that process and the target, both at the measurement points, is least. Measurement points
are rows of the training set, 70% of them, and points spread evenly over the box around it.

The tuned architecture is then the prior of a network of finite width, and any sampler draws from
its posterior.

Source: Tran, Rossi, Milios & Filippone (2022), "All You Need is a Good Functional Prior for Bayesian
Deep Learning", who estimate the 1-Wasserstein distance by a trained critic; here the distance of the
limits is in closed form.
"""

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Posterior
from kernelfield.models.covariance import matrix
from kernelfield.models.fit import minimise
from kernelfield.models.neural.sampled import HMC, Sampled, smooth
from kernelfield.models.neural.wasserstein import root, wasserstein_from
from kernelfield.models.process import Process
from kernelfield.nets.algebra import Layer
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.smooth import Erf

SHARE = 0.7  # of the measurement points that are rows of the training set
REACH = math.log(100.0)  # a scale goes at most a hundredfold up or down


@dataclass(eq=False, repr=False)
class FunctionalPrior(Model):
    """A Bayesian network whose prior is tuned to a process.

    target : the kernel of the process, of mean zero: any GPyTorch kernel or a name as for `Process`.
        None is "rbf".
    learn : whether the target's hyperparameters are first fitted to the data by their evidence.
    network : a `Layer` of `kernelfield.nets` with scales to tune; None is two hidden layers of
        `width` units with erf, whose kernel is in closed form.
    sampler : what draws from the posterior: HMC(), NUTS() or SGHMC(). Its network is not
        used, and the scales that were tuned are held.
    points : measurement points.
    steps : the most iterations of the search for scales.

    Units: X and Y as given; those of `FieldRegressor` are standardised.
    Errors: ValueError for an architecture without scales or closed form, and those of `Process` and
        of the sampler.

    >>> X = torch.linspace(-1, 1, 15, dtype=torch.double)[:, None]
    >>> model = FunctionalPrior(sampler=HMC(noise=0.1, warmup=10, draws=5, chains=2, path=0.2), width=10, points=20)
    >>> fitted = model.fit(Data(X, X.sin()), generator=torch.Generator().manual_seed(0))
    >>> fitted.distance < fitted.before
    True
    """

    target: Kernel | str | None = None
    learn: bool = True
    network: Layer | None = None
    width: int = 50
    sampler: Sampled = field(default_factory=HMC)
    points: int = 200
    steps: int = 200

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedFunctionalPrior":
        if self.points < 2:
            raise ValueError(f"points must be at least 2, got {self.points}")
        kernel = self._target(data, generator)
        architecture = smooth(self.width, Erf()) if self.network is None else self.network
        where = measurement_points(data.X, self.points, generator)
        with torch.no_grad():
            K = matrix(kernel, where.double(), where.double())
        tuned = tune(architecture, K, where, steps=self.steps)
        sampler = copy.copy(self.sampler)
        sampler.network, sampler.width, sampler.learn_scales = tuned.architecture, self.width, False
        return FittedFunctionalPrior(
            sampler.fit(data, generator=generator), tuned.architecture, tuned.before, tuned.distance, K.trace().item()
        )

    def _target(self, data: Data, generator: torch.Generator) -> Kernel:
        """The kernel that the prior shall be like."""
        name = "rbf" if self.target is None else self.target
        steps = 200 if self.learn else 0
        fitted = Process(name, mean="zero", steps=steps, restarts=2).fit_exact(data, generator=generator)
        return copy.deepcopy(fitted.kernel).double()


@dataclass(frozen=True)
class Tuned:
    """An architecture with its best scales, and the squared distances before and after."""

    architecture: Layer
    before: float
    distance: float


def tune(architecture: Layer, target: Tensor, X: Tensor, *, steps: int = 200) -> Tuned:
    """The scales with which the NNGP at X (n, d) is closest to a covariance (n, n).

    Errors: ValueError for anything but an architecture of layers, or one without a scale.
    """
    if not isinstance(architecture, Layer):
        raise ValueError(
            f"the prior is tuned through layers of kernelfield.nets, got {type(architecture).__name__}; "
            "kernelfield.nets.convert.from_torch makes them from torch modules"
        )
    start = np.log(architecture.scales())
    if not len(start):
        raise ValueError(f"the architecture has no positive float field to tune: {architecture}")
    points, R = Points(X.double()), root(target.double())
    size = target.trace().item()

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        logs = torch.from_numpy(theta).to(R.device).requires_grad_()
        with torch.enable_grad():
            distance = wasserstein_from(R, gram(architecture, points, scales=logs.exp())) / size
            (slope,) = torch.autograd.grad(distance, logs)
        return distance.item(), slope.cpu().numpy()

    bounds = [(value - REACH, value + REACH) for value in start]
    theta, searches = minimise(objective, [start], bounds, steps, label="tuning the prior")
    return Tuned(architecture.rebuild(iter(np.exp(theta).tolist())), searches[0].first * size, searches[0].last * size)


def measurement_points(X: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows of X (n, d), and points spread evenly over the box around them, (<= count, d)."""
    rows = X[torch.randperm(len(X), generator=generator)[: round(SHARE * count)].to(X.device)]
    low, high = X.min(0).values, X.max(0).values
    spread = torch.rand(count - round(SHARE * count), X.shape[1], generator=generator, dtype=torch.double)
    return torch.cat([rows, low + (high - low) * spread.to(X)])


@dataclass(frozen=True, eq=False)
class FittedFunctionalPrior(Surrogate):
    """Networks drawn under a prior that was tuned to a process.

    before, distance: the squared Wasserstein distance of the priors before and after tuning; size:
    the trace of the target's covariance, which it is to be compared with.
    """

    sampled: Surrogate
    architecture: Layer
    before: float
    distance: float
    size: float

    @property
    def outputs(self) -> int:
        return self.sampled.outputs

    def footprint(self, rows: int) -> int:
        return self.sampled.footprint(rows)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        return self.sampled.posterior(X, noise=noise)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {**self.sampled.hyperparameters(), "scales": self.architecture.scales()}

    def notes(self) -> list[str]:
        left, first = (math.sqrt(max(0.0, d) / self.size) for d in (self.distance, self.before))
        return [
            f"The prior was tuned to the target process: their Wasserstein distance fell from {first:.2g} to "
            f"{left:.2g} of the target's size.",
            *self.sampled.notes(),
        ]
