"""Priors over tasks: the small regression problems from which a prior-fitted network learns.

A task is a context of n observations and t further inputs (queries), with the law of f at the
queries given the context and the hyperparameters of the task. With L L' = K_nn + noise / weight
and A = L^-1 K_nt, a Gaussian process gives both a draw of the context and that law,

    Y = L z,    mean = A' z,    variance = diag(K_tt) - column sums of A^2,

at no cost beyond the draw. A drawn network is known everywhere: its law has no variance.

Hyperparameters are drawn anew for each task: inputs are multiplied column by column by
relevances and divided by a lengthscale before the kernel or the network sees them.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.func import vmap

from kernelfield.core.numerics import cholesky
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.stationary import NAMES, Stationary
from kernelfield.models.neural.network import Network
from kernelfield.nets.algebra import Layer

Range = tuple[float, float]

REACH = 3**0.5  # of a uniform law of variance one
GROUP = 16  # tasks of a batch that share a law of functions: each law costs calls of its own
CENTRAL = 0.3  # the reach of queries near the middle of their context, as where contexts are nearest rows


@dataclass(frozen=True, eq=False)
class Tasks:
    """b tasks of one size.

    X (b, n, d), Y (b, n), log_weight (b, n) and at (b, t, d); given the context f is Gaussian at
    the queries with mean and variance (b, t), and y has noise (b,) on top. All in double precision.
    """

    X: Tensor
    Y: Tensor
    log_weight: Tensor
    at: Tensor
    mean: Tensor
    variance: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Scales:
    """How the inputs of a task are stretched: x_j becomes x_j r_j / lengthscale, the r_j^2 adding to one.

    lengthscale: log-uniform between these.
    spread: the std of log r_j; kept: the least share of columns that matter.
    per_column: whether the r_j^2 are one on average instead, for networks, which divide by their number.

    Errors: ValueError for a range that is not positive or falls, or a share outside (0, 1].
    """

    lengthscale: Range = (0.2, 4.0)
    spread: float = 0.7
    kept: float = 0.3
    per_column: bool = False

    def __post_init__(self) -> None:
        _check_range("lengthscale", self.lengthscale)
        if not 0 < self.kept <= 1:
            raise ValueError(f"kept must be a share of columns above 0 and at most 1, got {self.kept}")

    def draw(self, tasks: int, columns: int, generator: torch.Generator) -> Tensor:
        """Factors (tasks, 1, columns) of the inputs."""
        share = self.kept + (1 - self.kept) * _uniform((tasks, 1), generator)
        chance = _uniform((tasks, columns), generator)
        kept = (chance < share) | (chance == chance.amin(-1, keepdim=True))  # one column at least
        relevance = (self.spread * _normal((tasks, columns), generator)).exp() * kept
        size = relevance.square().sum(-1, keepdim=True) / (columns if self.per_column else 1)
        return (relevance / size.sqrt() / _log_uniform(self.lengthscale, (tasks, 1), generator)).unsqueeze(1)


class Functions(ABC):
    """A law of functions."""

    @abstractmethod
    def given(self, X: Tensor, at: Tensor, noise: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Targets (b, n) at X (b, n, d) with noise of variance (b, n), and mean and variance (b, t) of f given them."""


@dataclass(frozen=True)
class ProcessTasks(Functions):
    """Draws of Gaussian processes.

    kernel: any kernel on rows, with the values it has; a `Layer` for that of its infinitely wide networks; or
        "rbf", "matern12", "matern32", "matern52" or "rq" with lengthscale and variance one.
    scales: of the inputs; None leaves them as they are, so that the process is fixed.

    Errors: ValueError for an unknown kernel.
    """

    kernel: Kernel | Layer | str = "rbf"
    scales: Scales | None = field(default_factory=Scales)

    def __post_init__(self) -> None:
        if isinstance(self.kernel, str) and self.kernel not in NAMES:
            raise ValueError(
                f"kernel must be a GPyTorch kernel, a Layer or one of {', '.join(NAMES)}, got {self.kernel!r}"
            )

    def given(self, X: Tensor, at: Tensor, noise: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        if self.scales is not None:
            factors = self.scales.draw(len(X), X.shape[-1], generator)
            X, at = X * factors, at * factors
        kernel = self.kernel if isinstance(self.kernel, Kernel) else _made(self.kernel)
        with torch.no_grad():
            K = kernel(X).to_dense() + torch.diag_embed(noise)
            cross, prior = kernel(X, at).to_dense(), kernel(at, diag=True)
        L = cholesky(K)
        z = _normal((len(X), X.shape[1], 1), generator)
        explained = torch.linalg.solve_triangular(L, cross, upper=False)
        variance = (prior - explained.square().sum(-2)).clamp_min(0)
        return (L @ z).squeeze(-1), (explained.mT @ z).squeeze(-1), variance


@dataclass(frozen=True)
class NetworkTasks(Functions):
    """Draws of finite networks with random weights, as `Network.prior_std` has them.

    architecture: with one output. Its size relative to the noise is that of its own scales.
    """

    architecture: Layer
    scales: Scales | None = field(default_factory=Scales)
    width: int = 64

    def given(self, X: Tensor, at: Tensor, noise: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        b, n, d = X.shape
        every = torch.cat([X, at], 1)
        if self.scales is not None:
            every = every * self.scales.draw(b, d, generator)
        network = _network(self.architecture, d, self.width)
        theta = network.prior_std * _normal((b, network.size), generator)
        with torch.no_grad():
            f = vmap(network.call)(theta, every).squeeze(-1)
        return f[:, :n] + noise.sqrt() * _normal((b, n), generator), f[:, n:], torch.zeros_like(f[:, n:])


class Inputs(ABC):
    """A law of tables of inputs."""

    @abstractmethod
    def draw(self, tasks: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Inputs (tasks, rows, columns)."""


@dataclass(frozen=True)
class Box(Inputs):
    """Uniform between two numbers in each column."""

    low: float = 0.0
    high: float = 1.0

    def draw(self, tasks: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        return self.low + (self.high - self.low) * _uniform((tasks, rows, columns), generator)


@dataclass(frozen=True)
class Tables(Inputs):
    """Columns of mean zero and variance one, about: normal or uniform, half of the tasks with correlated
    columns, some columns skewed and some with few values."""

    skewed: float = 0.15
    discrete: float = 0.2

    def draw(self, tasks: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        shape, each = (tasks, rows, columns), (tasks, 1, columns)
        plain = _normal(shape, generator)
        flat = REACH * (2 * _uniform(shape, generator) - 1)
        x = torch.where(_uniform((tasks, 1, 1), generator) < 0.5, plain, flat)
        # One or two hidden factors behind all columns.
        share = _uniform((tasks, 1, 1), generator) * (_uniform((tasks, 1, 1), generator) < 0.5)
        loadings = _normal((tasks, 2, columns), generator) / 2**0.5
        x = (1 - share).sqrt() * x + share.sqrt() * (_normal((tasks, rows, 2), generator) @ loadings)
        skewed = (x - 0.5).exp() - 1  # mean zero for a normal law of variance one
        x = torch.where(_uniform(each, generator) < self.skewed, skewed.clamp_max(6.0), x)
        step = 0.5 + 1.5 * _uniform(each, generator)
        return torch.where(_uniform(each, generator) < self.discrete, step * (x / step).round(), x)


@dataclass(frozen=True)
class TaskPrior:
    """A law of tasks: laws of functions with their shares, inputs, sizes and noise.

    rows, columns: whole numbers between these, drawn for a batch; rows log-uniform but for `even`.
    noise: the variance of the noise, log-uniform between these.
    weighted: the share of batches whose rows have weights, log-normal of spread one.
    central: the share of tasks whose queries lie near the middle of the context's inputs.

    Errors: ValueError for ranges that fall or are not positive, or no law with a positive share.
    """

    functions: tuple[tuple[float, Functions], ...]
    inputs: Inputs
    rows: tuple[int, int]
    columns: tuple[int, int]
    noise: Range
    even: bool = False
    weighted: float = 0.0
    central: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise", "columns", "rows"):
            _check_range(name, getattr(self, name))
        if not self.functions or min(share for share, _ in self.functions) <= 0:
            raise ValueError(f"a prior needs laws of functions with positive shares, got {self.functions}")

    def sizes(self, generator: torch.Generator) -> tuple[int, int]:
        """Rows and columns of a batch."""
        low, high = self.rows
        u, v = _uniform((2,), generator).tolist()
        columns = self.columns[0] + int(v * (self.columns[1] - self.columns[0] + 1))
        if self.even:
            return low + int(u * (high - low + 1)), columns
        return int(low * math.exp(u * math.log((high + 1) / low))), columns

    def draw(self, tasks: int, rows: int, queries: int, columns: int, generator: torch.Generator) -> Tasks:
        """Tasks with contexts of `rows` rows and as many queries as asked."""
        x = self.inputs.draw(tasks, rows + queries, columns, generator)
        X, at = x[:, :rows], x[:, rows:]
        near = _uniform((tasks, 1, 1), generator) < self.central
        at = torch.where(near, CENTRAL * at, at)
        log_weight = torch.zeros(tasks, rows, dtype=torch.float64)
        if _uniform((1,), generator) < self.weighted:
            log_weight = _normal((tasks, rows), generator)
        noise = _log_uniform(self.noise, (tasks,), generator)
        each = noise[:, None] * (-log_weight).exp()
        shares = torch.tensor([share for share, _ in self.functions], dtype=torch.float64)
        groups = -(-tasks // GROUP)
        which = torch.multinomial(shares, groups, replacement=True, generator=generator)
        which = which.repeat_interleave(GROUP)[:tasks]
        Y, mean, variance = torch.empty_like(each), each.new_empty(tasks, queries), each.new_empty(tasks, queries)
        for i, (_, law) in enumerate(self.functions):
            mine = (which == i).nonzero().squeeze(-1)
            if len(mine):
                Y[mine], mean[mine], variance[mine] = law.given(X[mine], at[mine], each[mine], generator)
        return Tasks(X, Y, log_weight, at, mean, variance, noise)


def _check_range(name: str, ends: tuple[float, float]) -> None:
    low, high = ends
    if not 0 < low <= high < math.inf:
        raise ValueError(f"{name} must lie between two positive numbers, the first at most the second, got {ends}")


def _log_uniform(ends: Range, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = (math.log(end) for end in ends)
    return (low + (high - low) * _uniform(shape, generator)).exp()


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@lru_cache(maxsize=64)
def _made(kernel: Layer | str) -> Kernel:
    made = NAMES[kernel]() if isinstance(kernel, str) else NetworkKernel(kernel)
    made = made.double()
    if isinstance(made, Stationary):
        made.lengthscale, made.outputscale = 1.0, 1.0
    return made.requires_grad_(False)


@lru_cache(maxsize=64)
def _network(architecture: Layer, inputs: int, width: int) -> Network:
    return Network(architecture, inputs, 1, width)
