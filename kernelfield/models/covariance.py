"""Kernel matrices as functions of one vector of free parameters, with hand-held derivatives.

The fit of a process sees a kernel as three questions: the matrix at a parameter vector, what
a gradient in the matrix is worth in the parameters, and the log prior. The parameters are
GPyTorch's raw ones. `Radial` answers for our stationary kernels without a graph, `Decaying` for
learning curves of two of them, `General` for any GPyTorch kernel by differentiating `kernel(X)`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import AdditiveKernel, Kernel, ProductKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior, Prior
from torch import Tensor, nn

from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.learning_curve import LearningCurve
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.radial import Gram

Vector = np.ndarray  # float64, a few numbers: what SciPy's optimiser works on
Closure = Callable[[Kernel], Tensor]
LogDensity = Callable[[Vector], tuple[float, Vector]]

LENGTH_REACH = (1e-3, 1e4)  # bounds of lengthscales, in standard deviations of their input
ENDLESS = 15.0  # in place of an infinite raw parameter: a sigmoid's end to 3e-7
DECAY_REACH = ((1e-2, 1e2), (1e-4, 1e3))  # of a decay's power, and of its rate in shares of the last step
SCALE_REACH = (1e-4, 1e5)  # bounds of output scales, in mean squares of the targets


class Covariance(ABC):
    """A kernel on the inputs X (n, d) of a fit, with p free parameters."""

    kernel: Kernel
    raw: list[Any]  # GPyTorch's parameters behind theta, in its order
    graph_free: bool  # whether it works under torch.inference_mode, which is quicker

    @abstractmethod
    def start(self) -> Vector:
        """The kernel's present parameters (p,)."""

    @abstractmethod
    def bounds(self, size: float) -> list[tuple[float, float]]:
        """A box around all plausible parameters, for targets of mean square `size`."""

    @abstractmethod
    def scattered(self, size: float, shift: float, generator: torch.Generator) -> Vector:
        """Random parameters scaled to the data; `shift` multiplies lengthscales by exp(shift)."""

    @abstractmethod
    def fill(self, theta: Vector) -> Tensor:
        """The lower triangle of K (n, n), which the caller may overwrite."""

    @abstractmethod
    def pull(self, G: Tensor, trace: float) -> Vector:
        """The gradient (p,) of a function with dF = sum(G o dK) at the last `fill`.

        G (n, n) symmetric; trace is the sum of G o K, which the caller knows in closed form.
        """

    @abstractmethod
    def log_prior(self, theta: Vector) -> tuple[float, Vector | float]:
        """The log density of the kernel's priors, in nats, and its gradient (p,)."""

    @abstractmethod
    def assign(self, theta: Vector) -> None:
        """Set the kernel's parameters."""


def covariance(kernel: Kernel, X: Tensor) -> Covariance:
    """The quickest way to work with a kernel."""
    if isinstance(kernel, LearningCurve) and (grams := kernel.grams(X)) is not None:
        return Decaying(kernel, X[:, -1], grams)
    gram = kernel.gram(X) if isinstance(kernel, Stationary) else None
    return General(kernel, X) if gram is None else Radial(kernel, gram)


def matrix(kernel: Kernel, x1: Tensor, x2: Tensor) -> Tensor:
    """The dense matrix (*b, n, k) of a kernel at x1 (*b, n, d) and x2 (*b, k, d).

    Sums, products and scalings are taken of dense matrices here: GPyTorch would factor a dense
    summand by a Cholesky with a jitter of its own where another one has low rank.
    """
    match kernel:
        case Stationary() if _whole(kernel, x1):
            return kernel.forward(x1, x2)  # without the lazy matrices of GPyTorch, which cost more than a small one
        case AdditiveKernel():
            return sum((matrix(k, x1, x2) for k in kernel.kernels), torch.zeros(()).to(x1))
        case ProductKernel():
            return math.prod((matrix(k, x1, x2) for k in kernel.kernels), start=torch.ones(()).to(x1))
        case ScaleKernel():
            if kernel.active_dims is not None and kernel.base_kernel.active_dims is None:
                x1, x2 = (x.index_select(-1, kernel.active_dims) for x in (x1, x2))
            return kernel.outputscale[..., None, None] * matrix(kernel.base_kernel, x1, x2)
        case GridKernel():
            parts = zip(kernel.axes, kernel.slices(x1), kernel.slices(x2), strict=True)
            return kernel.outputscale[..., None, None] * math.prod(matrix(k, a, b) for k, a, b in parts)
        case _:
            return kernel(x1, x2).to_dense()


def _whole(kernel: Kernel, x: Tensor) -> bool:
    """Whether a kernel takes x (*b, n, d) as it is, all columns of it."""
    return kernel.active_dims is None and not kernel.batch_shape and kernel.ard_num_dims in (None, x.shape[-1])


def named_values(kernel: Kernel) -> dict[str, float | list[float]]:
    """The kernel's parameters by name, in their own units, for reports."""
    values: dict[str, float | list[float]] = {}
    for name, raw, constraint in kernel.named_parameters_and_constraints():
        value = raw if constraint is None else constraint.transform(raw)
        values[name.replace("raw_", "")] = value.item() if value.numel() == 1 else value.flatten().tolist()
    return values


@dataclass(frozen=True, eq=False)
class Lazy:
    """The matrix of a kernel with itself at X (*b, n, d), formed when it is asked for."""

    kernel: Kernel
    X: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.kernel(self.X, diag=True)

    def to_dense(self) -> Tensor:
        return matrix(self.kernel, self.X, self.X)


class Radial(Covariance):
    """A stationary kernel with logarithmic parameters: lengthscales, output scale, shape."""

    graph_free = True

    def __init__(self, kernel: Stationary, gram: Gram) -> None:
        self.kernel, self.gram = kernel, gram
        raw = [kernel.raw_lengthscale, kernel.raw_outputscale]
        self.raw = raw if kernel.raw_shape is None else [*raw, kernel.raw_shape]
        self.fixed = np.concatenate([np.full(p.numel(), not p.requires_grad) for p in self.raw])
        self.lengths = kernel.raw_lengthscale.numel()
        spread = gram.X.std(0, correction=0).cpu().double().numpy()
        spread = np.where(spread > 0, spread, 1.0)
        self.spread = spread if self.lengths > 1 else np.exp(np.log(spread).mean(keepdims=True))
        self.priors = [self._quick(*entry) for entry in kernel.named_priors()]

    def start(self) -> Vector:
        return _flat(self.raw)

    def bounds(self, size: float) -> list[tuple[float, float]]:
        reaches = [*(np.multiply(LENGTH_REACH, s) for s in self.spread), np.multiply(SCALE_REACH, size)]
        reaches += [np.array(self.gram.profile.shape_reach)] * self.gram.profile.shaped
        box = []
        for (low, high), value, fixed in zip(np.log(reaches), self.start(), self.fixed, strict=True):
            # A value of the user's outside the box is the user's to choose.
            box.append((value, value) if fixed else (min(low, value), max(high, value)))
        return box

    def scattered(self, size: float, shift: float, generator: torch.Generator) -> Vector:
        lengths = np.log(self.spread * self.gram.X.shape[1] ** 0.5) + shift + 0.3 * _normals(self.lengths, generator)
        theta = np.concatenate([lengths, [math.log(size)], [0.0] * self.gram.profile.shaped])
        return np.where(self.fixed, self.start(), theta)

    def fill(self, theta: Vector) -> Tensor:
        shape = math.exp(theta[-1]) if self.gram.profile.shaped else None
        return self.gram.fill(np.exp(theta[: self.lengths]), float(theta[self.lengths]), shape)

    def pull(self, G: Tensor, trace: float) -> Vector:
        lengths, shape = self.gram.pull(G)
        return np.concatenate([lengths, [trace] if shape is None else [trace, shape]])

    def log_prior(self, theta: Vector) -> tuple[float, Vector | float]:
        return _total([prior(theta) for prior in self.priors])

    def _quick(self, name: str, module: Kernel, prior: Prior, closure: Closure, _: object) -> LogDensity:
        """A prior as a function of theta; the log-normal, which is everywhere, in closed form."""
        if type(prior) is not LogNormalPrior or name != "lengthscale_prior":
            return lambda theta: _by_autograd(self, module, prior, closure, theta)
        return _log_normal(prior, slice(0, self.lengths), shape=self.raw[0].shape)

    def assign(self, theta: Vector) -> None:
        _assign(self.raw, theta)


class Decaying(Covariance):
    """A `LearningCurve` of two stationary kernels, with logarithmic parameters: power, rate, common, and theirs.

    With s = r + r', D = exp(-a log(1 + s / beta)) and u that at r' = 0, K = K_level + K_change o D + common u u', and
    dD / d log a = D log D,  dD / d log beta = D a s / (beta + s).
    """

    graph_free = True

    def __init__(self, kernel: LearningCurve, r: Tensor, grams: tuple[Gram, Gram]) -> None:
        assert isinstance(kernel.level, Stationary)
        assert isinstance(kernel.change, Stationary)
        self.kernel, self.r, self.sum = kernel, r, r[:, None] + r
        self.level, self.change = Radial(kernel.level, grams[0]), Radial(kernel.change, grams[1])
        own = [kernel.raw_power, kernel.raw_rate, kernel.raw_common]
        self.raw = [*own, *self.level.raw, *self.change.raw]
        self.fixed = np.array([not p.requires_grad for p in own])
        self.cuts = [3, 3 + len(self.level.start())]
        self.priors = [_prior(self, *entry) for entry in kernel.named_priors()]

    def start(self) -> Vector:
        return _flat(self.raw)

    def bounds(self, size: float) -> list[tuple[float, float]]:
        last = self.r.max().clamp_min(1e-12).item()
        reaches = np.log(np.array([*DECAY_REACH, SCALE_REACH]) * np.array([[1.0], [last], [size]]))
        box = [
            (value, value) if fixed else (min(low, value), max(high, value))
            for (low, high), value, fixed in zip(reaches, self.start()[:3].tolist(), self.fixed, strict=True)
        ]
        return [*box, *self.level.bounds(size), *self.change.bounds(size)]

    def scattered(self, size: float, shift: float, generator: torch.Generator) -> Vector:
        own = self.start()[:3] + np.where(self.fixed, 0.0, _normals(3, generator))
        parts = [part.scattered(size, shift, generator) for part in (self.level, self.change)]
        return np.concatenate([own, *parts])

    def fill(self, theta: Vector) -> Tensor:
        own, level, change = np.split(theta, self.cuts)
        self.power, self.rate, self.common = np.exp(own).tolist()
        self.log_u = torch.log1p(self.r / self.rate).mul_(-self.power)
        self.log_D = torch.log1p(self.sum / self.rate).mul_(-self.power)
        self.u, self.D = self.log_u.exp(), self.log_D.exp()
        self.changing = self.change.fill(change).tril_().mul_(self.D)  # above the diagonal stands nothing of meaning
        return self.level.fill(level).add_(self.changing).addr_(self.u, self.u, alpha=self.common)

    def pull(self, G: Tensor, trace: float) -> Vector:
        W = (G * self.changing).mul_(2)
        W.diagonal().mul_(0.5)
        loss = self.common * self.u * (G @ self.u)
        faster = (W * self.log_D).sum() + 2 * (loss * self.log_u).sum()
        slower = (W * self._gain(self.sum)).sum() + 2 * (loss * self._gain(self.r)).sum()
        changing, common = W.sum().item(), loss.sum().item()
        level = self.level.pull(G, trace - changing - common)
        return np.concatenate([[faster.item(), slower.item(), common], level, self.change.pull(G * self.D, changing)])

    def _gain(self, s: Tensor) -> Tensor:
        return self.power * s / (self.rate + s)

    def log_prior(self, theta: Vector) -> tuple[float, Vector | float]:
        return _total([prior(theta) for prior in self.priors])

    def assign(self, theta: Vector) -> None:
        _assign(self.raw, theta)


class General(Covariance):
    """Any GPyTorch kernel, by automatic differentiation of its dense matrix."""

    graph_free = False

    def __init__(self, kernel: Kernel, X: Tensor) -> None:
        self.kernel, self.X = kernel, X
        self.raw = [p for p in kernel.parameters() if p.requires_grad]
        self.priors = [_prior(self, *entry) for entry in kernel.named_priors()]

    def start(self) -> Vector:
        # A value on the end of its interval is infinite in raw numbers, from where no search goes on.
        return np.nan_to_num(_flat(self.raw), nan=math.nan, posinf=ENDLESS, neginf=-ENDLESS)

    def bounds(self, size: float) -> list[tuple[float, float]]:
        return [(-math.inf, math.inf)] * sum(p.numel() for p in self.raw)

    def scattered(self, size: float, shift: float, generator: torch.Generator) -> Vector:
        kept = self.start()
        self.assign(kept + _normals(len(kept), generator))
        for module in self.kernel.modules():  # lengthscales alone are tied to the spread of the inputs
            raw = getattr(module, "raw_lengthscale", None)
            if isinstance(raw, nn.Parameter) and raw.requires_grad:
                X = self.X if module.active_dims is None else self.X[:, module.active_dims]
                spread = X.std(0, correction=0).clamp_min(1e-12) * X.shape[1] ** 0.5
                module.lengthscale = math.exp(shift) * (spread if raw.shape[-1] > 1 else spread.log().mean().exp())
        theta = self.start()
        self.assign(kept)
        return theta

    def fill(self, theta: Vector) -> Tensor:
        self.assign(theta)
        with torch.enable_grad():
            self.graph = matrix(self.kernel, self.X, self.X)
        return self.graph.detach().clone()

    def pull(self, G: Tensor, trace: float) -> Vector:
        if not self.raw:
            return np.empty(0)
        return _flat(torch.autograd.grad(self.graph, self.raw, G, allow_unused=True, materialize_grads=True))

    def log_prior(self, theta: Vector) -> tuple[float, Vector | float]:
        return _total([prior(theta) for prior in self.priors])

    def assign(self, theta: Vector) -> None:
        _assign(self.raw, theta)


def _prior(covariance: Covariance, name: str, module: Kernel, prior: Prior, closure: Closure, _: object) -> LogDensity:
    """A prior as a function of theta; the log-normal of a parameter kept as its logarithm in closed form."""
    general = partial(_by_autograd, covariance, module, prior, closure)
    raw = getattr(module, f"raw_{name.rpartition('.')[2].removesuffix('_prior')}", None)
    place = next((i for i, p in enumerate(covariance.raw) if p is raw), None)
    if type(prior) is not LogNormalPrior or raw is None or place is None:
        return general
    if not torch.equal(closure(module), raw.exp()) or prior.loc.numel() > raw.numel():
        return general
    ends = np.cumsum([0, *(p.numel() for p in covariance.raw)])
    return _log_normal(prior, slice(ends[place], ends[place + 1]), shape=raw.shape)


def _log_normal(prior: LogNormalPrior, own: slice, *, shape: torch.Size) -> LogDensity:
    """The density of exp(x) under a log-normal prior, for the entries x of theta in `own`."""
    loc, variance = (
        np.broadcast_to(v.detach().cpu().double().numpy(), shape).ravel() for v in (prior.loc, prior.scale.square())
    )
    constant = -0.5 * np.log(2 * math.pi * variance).sum()

    def density(theta: Vector) -> tuple[float, Vector]:
        x, slope = theta[own], np.zeros(len(theta))
        gap = (x - loc) / variance
        slope[own] = -1 - gap
        return float(constant - (x + 0.5 * gap * (x - loc)).sum()), slope

    return density


def _by_autograd(
    covariance: Covariance, module: Kernel, prior: Prior, closure: Closure, theta: Vector
) -> tuple[float, Vector]:
    covariance.assign(theta)
    with torch.inference_mode(False), torch.enable_grad():
        value = prior.log_prob(closure(module)).sum()
        raw = [p for p in covariance.raw if p.requires_grad]
        slopes = torch.autograd.grad(value, raw, allow_unused=True) if value.requires_grad else [None] * len(raw)
    found = {id(p): s for p, s in zip(raw, slopes, strict=True) if s is not None}
    return value.item(), _flat([found.get(id(p), torch.zeros_like(p)) for p in covariance.raw])


def _total(parts: list[tuple[float, Vector]]) -> tuple[float, Vector | float]:
    return sum(value for value, _ in parts), sum((slope for _, slope in parts), 0.0)


def _flat(tensors: Sequence[Tensor]) -> Vector:
    return np.concatenate([np.empty(0), *(t.detach().cpu().double().numpy().ravel() for t in tensors)])


def _normals(count: int, generator: torch.Generator) -> Vector:
    return torch.randn(count, generator=generator, dtype=torch.double).numpy()


def _assign(raw: list[nn.Parameter], theta: Vector) -> None:
    values = torch.from_numpy(theta)
    with torch.no_grad():
        for parameter, piece in zip(raw, values.split([p.numel() for p in raw]), strict=True):
            parameter.copy_(piece.reshape(parameter.shape))
