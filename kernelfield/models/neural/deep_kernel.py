"""Deep kernels: a network and a kernel on its outputs, trained together by the evidence of a process.

With phi the network, K_ij = k(phi(x_i), phi(x_j)) and A = K + noise / weight, the loss of a batch of B
rows is the exact negative evidence of these rows, in nats a row, with the mean profiled out,

    (tr (Y - H b)' A^-1 (Y - H b) + m log|A|) / 2B + m log(2 pi) / 2,

so that targets in any units, or several of them, give one loss; its gradient in K is in closed form
(`models.evidence`) and goes through kernel and network by automatic differentiation. The evidence of
a batch is a biased estimate of that of all rows, whose stationary points it nevertheless finds.

A network has so many parameters that the evidence does not protect from overfitting: it can make all
rows of a kind nearly equal, whereupon the kernel explains the data by few degrees of freedom and
predictions are too sure. What is kept here is therefore the step at which the predictive density of a
held-out part was best. Networks start as the identity by default, with the hyperparameters of the
ordinary process, so that a deep kernel which does not help is not kept, and layers of bounded norm
keep inputs apart (see `feature_kernel`). The result is an exact process in feature space.

Sources: Wilson, Hu, Salakhutdinov & Xing (2016), "Deep Kernel Learning"; Ober, Rasmussen & van der
Wilk (2021), "The Promises and Pitfalls of Deep Kernel Learning"; Chen, Zheng, Al Kontar & Raskutti
(2020), "Stochastic Gradient Descent in Correlated Settings: A Study on Gaussian Processes".
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.mixing import Unit
from kernelfield.core.numerics import require_room, threads_for
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Dense
from kernelfield.models.conditioned import FittedProcess, system
from kernelfield.models.covariance import covariance, named_values
from kernelfield.models.evidence import NOISE_REACH, Objective, Trend
from kernelfield.models.neural.feature_kernel import FeatureKernel, bounded, require_bound, residual_map
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.tangent_features import rows_of
from kernelfield.models.process import BUFFERS, Process
from kernelfield.models.search import kernel_for, sample
from kernelfield.nets.algebra import Layer

FEWEST = 5  # held-out rows; with fewer their density says nothing of a network
START = 512  # rows on which the kernel is fitted to the features at the start
EXACT = 2048  # rows up to which kernel and noise are fitted to all of them at the end
REFERENCE = 1024  # rows that predict the held-out part
EVERY = 10  # steps between two looks at it
QUICK = 5.0  # how much faster hyperparameters of the kernel move than the parameters of the network

_log = logging.getLogger("kernelfield.models.fit")


@dataclass(eq=False, repr=False)
class DeepKernel(Model):
    """A process with a deep kernel.

    network : a `Layer` or torch module whose outputs are the features; None is a residual map that
        starts as the identity, or layers of `width` units where `features` differs from the inputs.
    features : the number q of features; None is as many as inputs.
    width : units of a hidden layer.
    kernel : a kernel of q inputs or a name as for `Process`; None is "matern52".
    mean : "constant", "linear" or "zero".
    lipschitz : the largest spectral norm of a linear layer, against collapse; None leaves them free.
    steps : the most steps of Adam; 0 keeps the network as it starts.
    batch : rows of a batch, whose evidence costs its cube.
    learning_rate : of the network; hyperparameters of the kernel move faster.
    held_out : the share of the rows that choose the step to keep.
    patience : steps without a better density of the held-out part after which to stop.

    Units: X and Y as given. Outputs share kernel and noise.
    Errors: ValueError for a wrong choice; MemoryError where n x n matrices do not fit.

    >>> X = torch.linspace(0, 1, 30, dtype=torch.double)[:, None]
    >>> fitted = DeepKernel(steps=20).fit(Data(X, torch.sin(6 * X)), generator=torch.Generator().manual_seed(0))
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 2)  # sin(3)
    0.14
    """

    network: Layer | nn.Module | None = None
    features: int | None = None
    width: int = 64
    kernel: Kernel | str | None = None
    mean: Literal["constant", "zero", "linear"] = "constant"
    lipschitz: float | None = 0.9
    steps: int = 400
    batch: int = 512
    learning_rate: float = 3e-3
    held_out: float = 0.2
    patience: int = 100

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedDeepKernel":
        self._check(data)
        kernel, noise = self._start(data, generator)
        course = Course()
        held = round(self.held_out * len(data.X)) if self.steps else 0
        if held >= FEWEST:
            order = torch.randperm(len(data.X), generator=generator).to(data.X.device)
            parts = rows_of(data, order[held:]), rows_of(data, order[:held])
            with threads_for(min(self.batch, len(data.X))):
                noise, course = self._climb(kernel, noise, *parts, generator)
        if self.steps and len(data.X) <= EXACT:
            noise = self._tuned(kernel, noise, data, generator)
        with torch.no_grad():
            kernel = kernel.settled()
            solver = Dense.of(system(kernel, noise, data))
            process = FittedProcess.of(kernel, noise, Unit(), data, Trend.of(self.mean, data.X), solver)
        return FittedDeepKernel(process, course)

    def _start(self, data: Data, generator: torch.Generator) -> tuple[FeatureKernel, float]:
        """The network at its start, with the kernel and the noise of a process on its features."""
        d = data.X.shape[1]
        q = d if self.features is None else self.features
        architecture = self.network
        if architecture is None:
            architecture = residual_map(d, width=self.width) if q == d else multilayer((self.width, self.width))
        network = Network(architecture, d, q, self.width)
        centre, spread = data.X.mean(0), data.X.std(0, correction=0)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        start = network.start(generator).to(data.X)
        if self.lipschitz is not None:
            start = bounded(network, start, self.lipschitz)
        few = sample(data, START, generator)
        with torch.no_grad():
            Z = network.call(start, (few.X - centre) / spread)
        base = kernel_for(self.kernel, Z, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
        learned = [parameter.requires_grad for parameter in base.parameters()]
        process = Process(base, self.mean, restarts=2, steps=100).fit_exact(replace(few, X=Z), generator=generator)
        for parameter, moves in zip(process.kernel.parameters(), learned, strict=True):
            parameter.requires_grad_(moves)
        return FeatureKernel(process.kernel, network, start, centre, spread, bound=self.lipschitz), process.noise

    def _climb(
        self, kernel: FeatureKernel, noise: float, training: Data, held: Data, generator: torch.Generator
    ) -> tuple[float, "Course"]:
        """Train the kernel in place; the noise that belongs to the step kept."""
        evidence = Evidence(kernel, noise, self.mean)
        slow, quick = [kernel.features], [p for p in evidence.parameters if p is not kernel.features]
        groups = [{"params": slow, "lr": self.learning_rate}, {"params": quick, "lr": QUICK * self.learning_rate}]
        optimiser = torch.optim.Adam(groups)
        first = sample(training, REFERENCE, generator)
        course = Course.begun(evidence, first, held)
        best = evidence.state()
        n, size = len(training.X), min(self.batch, len(training.X))
        order = torch.empty(0, dtype=torch.long)
        for step in range(1, self.steps + 1):
            if len(order) < size:
                order = torch.randperm(n, generator=generator)
            rows, order = order[:size].to(training.X.device), order[size:]
            loss = evidence.differentiate(rows_of(training, rows))
            if not math.isfinite(loss):
                raise ValueError(
                    f"the evidence is {loss} at step {step} with learning_rate={self.learning_rate:g}; lower it"
                )
            optimiser.step()
            evidence.confine()
            if step % EVERY == 0 or step == self.steps:
                course = course.seen(step, evidence.density(first, held))
                _log.info("step %d of %d, loss %.3f, held-out density %.3f", step, self.steps, loss, course.last)
                if course.kept == step:
                    best = evidence.state()
                elif step - course.kept >= self.patience:
                    break
        evidence.restore(best)
        return evidence.noise, course

    def _tuned(self, kernel: FeatureKernel, noise: float, data: Data, generator: torch.Generator) -> float:
        """Fit kernel and noise to the features of all rows; the noise."""
        with torch.no_grad():
            Z = kernel.map(data.X)
        base = kernel.base_kernel
        process = Process(base, self.mean, noise, restarts=1, steps=100)
        ends = process.fit_exact(replace(data, X=Z), generator=generator)
        for parameter, end in zip(base.parameters(), ends.kernel.parameters(), strict=True):
            parameter.data.copy_(end)
        return ends.noise

    def _check(self, data: Data) -> None:
        require_bound(self.lipschitz)
        counts = {"width": self.width, "batch": self.batch, "patience": self.patience, "steps": self.steps + 1}
        if self.features is not None:
            counts["features"] = self.features
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least {int(name != 'steps')}, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate:g}; 0.003 is usual")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share of the rows between 0 and 1, got {self.held_out:g}")
        n = len(data.X)
        require_room(n, data.X.element_size() * BUFFERS, data.X.device, what=f"an exact process of {n} rows")


class Evidence:
    """The evidence of batches as a function of network, kernel and noise, which it holds as parameters."""

    def __init__(self, kernel: FeatureKernel, noise: float, mean: Literal["constant", "zero", "linear"]) -> None:
        self.kernel, self.mean = kernel, mean
        self.log_noise = nn.Parameter(kernel.features.new_tensor([math.log(noise)]))
        self.parameters = [*(p for p in kernel.parameters() if p.requires_grad), self.log_noise]
        self.reach = (-math.inf, math.inf)

    @property
    def noise(self) -> float:
        return math.exp(self.log_noise.item())

    def differentiate(self, batch: Data) -> float:
        """The negative log evidence a row; its slopes are put into the parameters."""
        trend = Trend.of(self.mean, batch.X)
        objective = Objective(covariance(self.kernel, batch.X), batch, trend, Unit(), self.noise, learn=True)
        value, slope = objective(objective.given())
        parts = torch.from_numpy(slope).split([p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.to(parameter).reshape(parameter.shape)
        low, high = (math.log(end * objective.size) for end in NOISE_REACH)
        self.reach = (low, high)
        return value

    def confine(self) -> None:
        """Keep the noise within its bounds."""
        with torch.no_grad():
            self.log_noise.clamp_(*self.reach)

    def density(self, seen: Data, held: Data) -> float:
        """The mean log predictive density of held-out rows given others, in nats a row."""
        with torch.no_grad():
            solver = Dense.of(system(self.kernel, self.noise, seen))
            trend = Trend.of(self.mean, seen.X)
            law = FittedProcess.of(self.kernel, self.noise, Unit(), seen, trend, solver).posterior(held.X)
            spread = law.variance + (self.noise if held.weight is None else (self.noise / held.weight)[:, None])
            gap = (held.Y - law.mean).square() / spread
            return -0.5 * (gap + spread.log() + math.log(2 * math.pi)).sum(-1).mean().item()

    def state(self) -> list[Tensor]:
        """A copy of all parameters."""
        return [p.detach().clone() for p in self.parameters]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Set all parameters."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state, strict=True):
                parameter.copy_(value)


@dataclass(frozen=True)
class Course:
    """How training went: steps taken, the step kept, and log densities of the held-out rows, in nats a row.

    first, best and last belong to the start, the step kept and the last look; held counts rows.
    """

    steps: int = 0
    kept: int = 0
    held: int = 0
    first: float = math.nan
    best: float = math.nan
    last: float = math.nan

    @classmethod
    def begun(cls, evidence: Evidence, seen: Data, held: Data) -> "Course":
        """Before the first step."""
        density = evidence.density(seen, held)
        return cls(0, 0, len(held.X), density, density, density)

    def seen(self, step: int, density: float) -> "Course":
        """After another look."""
        after = replace(self, steps=step, last=density)
        return replace(after, kept=step, best=density) if density > self.best else after


@dataclass(frozen=True, eq=False)
class FittedDeepKernel(Surrogate):
    """An exact process in the space of learned features.

    process: it, whose `kernel` is a `FeatureKernel`; course: how the network was trained.
    """

    process: FittedProcess
    course: Course

    @property
    def outputs(self) -> int:
        return self.process.outputs

    @property
    def kernel(self) -> FeatureKernel:
        """The deep kernel, of the inputs."""
        return self.process.kernel

    @property
    def noise(self) -> float:
        """The variance of the noise, in squared units of Y."""
        return self.process.noise

    @property
    def log_evidence(self) -> float:
        """The log evidence in nats; the network was fitted to the same data."""
        return self.process.log_evidence

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        return self.process.posterior(X, noise=noise)

    def condition(self, data: Data) -> "FittedDeepKernel":
        return replace(self, process=self.process.condition(data))

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {**named_values(self.kernel.base_kernel), "noise": self.noise}

    def notes(self) -> list[str]:
        course = self.course
        if not course.held:
            return ["the network stayed as it started: too few rows for a held-out part, or no steps"]
        kept = f"the network was trained for {course.steps} steps and kept at step {course.kept}"
        density = f"of {course.held} held-out rows, from {course.first:.3f} to {course.best:.3f} nats a row"
        return [f"{kept}, which raised the log predictive density {density}"]
