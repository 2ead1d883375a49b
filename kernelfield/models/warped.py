"""Warped(model): an exact process of targets behind a monotone map that the evidence chooses.

    z = g(y),    z a process,    log p(y) = log p(z) + sum_i log g'(y_i).

Everything monotone goes back through g exactly: quantiles, distribution functions, densities
and samples of y. Means and variances are those of g^-1(z), by a Gauss-Hermite rule over the
normal scores of z.

For a kernel that is held, log p(z) with the overall scale of the process profiled out is
-N/2 log(z' P z) for one matrix P, so that the search over warps needs no factorisation. It
takes turns with the search for hyperparameters, once from the identity and once from the map
that makes the targets alone most normal; the best evidence is kept, which is never less than
that of no warp.

Source: Snelson, Rasmussen & Ghahramani (2003), "Warped Gaussian Processes", eq. (5).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Elliptical, Posterior
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.fit import minimise
from kernelfield.models.process import Process
from kernelfield.models.warps import Space, Splines, Warp, YeoJohnsons

TURNS = 6  # of warp and hyperparameters, at most
STEPS = 40  # of one search over warps, with which the next turn goes on
GAIN = 1e-3  # nats a target; a turn that brings less is the last
SCORES, MASSES = np.polynomial.hermite_e.hermegauss(20)  # up to 7.6: more would round ndtr to one

SPACES: dict[str, type[Space]] = {"yeo-johnson": YeoJohnsons, "spline": Splines}


@dataclass(frozen=True, eq=False)
class Transformed(Posterior):
    """The law of unit * g^-1(z) + shift for z of the law `inner`, unit > 0 and shift of shape (m,).

    Quantiles, the distribution function, densities and samples are exact. The mean and variance
    are numerical: where the law of y has none, as may be with heavy tails behind a logarithm,
    they are those of its part between the levels 1e-14 and 1 - 1e-14, roughly.
    """

    inner: Posterior
    warp: Warp
    unit: Tensor
    shift: Tensor

    @property
    def width(self) -> int:
        return self.inner.width

    @property
    def mean(self) -> Tensor:
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        levels = torch.special.ndtr(torch.from_numpy(SCORES)).tolist()
        values = torch.stack([self.quantile(level) for level in levels], -1)
        masses = torch.from_numpy(MASSES / MASSES.sum()).to(values)
        mean = values @ masses
        return mean, (values - mean.unsqueeze(-1)).square() @ masses

    def draw(self, z: Tensor) -> Tensor:
        return self._outwards(self.inner.draw(z))

    def cdf(self, y: Tensor) -> Tensor:
        return self.inner.cdf(self.warp.forward(self._inwards(y)))

    def log_prob(self, y: Tensor) -> Tensor:
        inside = self._inwards(y)
        return self.inner.log_prob(self.warp.forward(inside)) + self.warp.log_slope(inside) - self.unit.log()

    def quantile(self, p: float) -> Tensor:
        return self._outwards(self.inner.quantile(p))

    def affine(self, scale: Tensor, shift: Tensor) -> "Transformed":
        return replace(self, unit=self.unit * scale, shift=self.shift * scale + shift)

    def _outwards(self, z: Tensor) -> Tensor:
        return self.unit * self.warp.inverse(z) + self.shift

    def _inwards(self, y: Tensor) -> Tensor:
        return (y - self.shift) / self.unit


@dataclass(eq=False, repr=False)
class Warped(Model):
    """A process of warped targets.

    model : the exact process; None is Process().
    warp : "yeo-johnson", three numbers an output, for targets that are skewed, positive or of
        many magnitudes; "spline", of eight rational-quadratic pieces, for any shape, given some
        hundred rows; or a Warp, which is held.

    With noise=False the posterior is that of g^-1(f), the median of y given f.

    Errors: ValueError for another model or warp.

    >>> X = torch.linspace(0, 1, 20, dtype=torch.double)[:, None]
    >>> data = Data(X, torch.exp(3 * torch.sin(6 * X)))
    >>> fitted = Warped(Process(restarts=1)).fit(data, generator=torch.Generator())
    >>> bool(fitted.posterior(X, noise=True).quantile(0.01).min() > 0)  # targets are from 0.05 to 20
    True
    """

    model: Process | None = None
    warp: Literal["yeo-johnson", "spline"] | Warp = "yeo-johnson"

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedWarped":
        model = Process() if self.model is None else self.model
        if not isinstance(model, Process):
            raise ValueError(f"a warp is learned by the evidence of an exact process, got {model!r}; use Process(...)")
        if isinstance(self.warp, Warp):
            return _fitted(model, self.warp, data, generator)
        if self.warp not in SPACES:
            raise ValueError(f"warp must be a Warp or one of {', '.join(SPACES)}, got {self.warp!r}")
        space = SPACES[self.warp](data.Y)
        identity = space.starts()[0]
        ends = [_turns(model, space, identity, data, generator)]
        if _varies(data.Y):
            normal = _learned(space, space.starts(), lambda Z: Z - Z.mean(0))
            ends.append(_turns(model, space, normal, data, generator))
        return max(ends, key=lambda fitted: fitted.log_evidence)


@dataclass(frozen=True, eq=False)
class FittedWarped(Surrogate):
    """A process conditioned on warped data; log_evidence in nats is that of the data as they were given."""

    inner: FittedProcess
    warp: Warp
    log_evidence: float

    @property
    def data(self) -> Data:
        """What the process was conditioned on: targets are warped."""
        return self.inner.data

    @classmethod
    def of(cls, inner: FittedProcess, warp: Warp, Y: Tensor) -> "FittedWarped":
        """From the process of the targets Y (n, m) after the warp."""
        return cls(inner, warp, inner.log_evidence + warp.log_slope(Y).sum().item())

    @property
    def outputs(self) -> int:
        return self.inner.outputs

    def posterior(self, X: Tensor, *, noise: bool = False) -> Transformed:
        return self._transformed(self.inner.posterior(X, noise=noise))

    def _transformed(self, law: Posterior) -> Transformed:
        unit = torch.ones(self.outputs).to(self.data.Y)
        return Transformed(law, self.warp, unit, torch.zeros_like(unit))

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows, hyperparameters and warp held.

        They are those of `posterior` with noise, made of the law that the process has without the
        row. Under a mixing law that law differs from row to row, and takes the time of n laws.
        """
        process, (n, m) = self.inner, self.data.Y.shape
        loc, variance = replace(process, mixing=Unit()).leave_one_out()  # the scale, whatever the law of s
        scale = torch.diag_embed(variance)
        if isinstance(process.mixing, Unit):
            laws = [Elliptical(loc[:, None], scale)]
        else:
            left = process.mean.S - ((self.data.Y - loc) * process.weights).sum(-1)
            count = (n - 1 - process.mean.basis.shape[1]) * m
            mixings = [process.mixing.condition(S, count) for S in left]
            laws = [Elliptical(loc[i, None], scale[i], mixing) for i, mixing in enumerate(mixings)]
        moments = [torch.stack([law.mean, law.variance]) for law in map(self._transformed, laws)]
        mean, variance = torch.cat([both.reshape(2, -1, m) for both in moments], 1)
        return mean, variance

    def condition(self, data: Data) -> "FittedWarped":
        inner = self.inner.condition(_warped(data, self.warp))
        return FittedWarped.of(inner, self.warp, self.warp.inverse(inner.data.Y))

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return self.inner.hyperparameters() | {
            f"warp_{name}": t.flatten().tolist() for name, t in vars(self.warp).items()
        }


def _turns(model: Process, space: Space, theta: np.ndarray, data: Data, generator: torch.Generator) -> FittedWarped:
    """Hyperparameters and warp in turn, until neither gains."""
    best = _fitted(model, _at(space, theta), data, generator)
    for _ in range(TURNS if _varies(data.Y) else 0):
        theta = _learned(space, [theta], _residual(best.inner))
        following = _fitted(_continued(model, best.inner), _at(space, theta), data, generator)
        gain = following.log_evidence - best.log_evidence
        best = following if gain > 0 else best
        if gain < GAIN * data.Y.numel():
            break
    return best


def _varies(Y: Tensor) -> bool:
    """Whether no output is constant: a constant tells nothing of its warp."""
    return bool((Y != Y[:1]).any(0).all())


def _at(space: Space, theta: np.ndarray) -> Warp:
    with torch.no_grad():
        return space.warp(torch.from_numpy(theta))


def _residual(inner: FittedProcess) -> Callable[[Tensor], Tensor]:
    """Whitened targets after the mean, a linear map of targets (n, m)."""
    with torch.no_grad():
        basis = torch.linalg.qr(inner.solver.whiten(inner.trend(inner.data.X))).Q

    def residual(Z: Tensor) -> Tensor:
        whitened = inner.solver.whiten(Z)
        return whitened - basis @ (basis.mT @ whitened)

    return residual


def _learned(space: Space, starts: list[np.ndarray], residual: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The warp of greatest evidence for one kernel matrix, its overall scale profiled out."""
    count = space.Y.numel()

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            vector = torch.from_numpy(theta).clone().requires_grad_()
            warp = space.warp(vector)
            S = residual(warp.forward(space.Y)).square().sum()
            value = -0.5 * count * S.log() + warp.log_slope(space.Y).sum() + space.log_prior(vector)
            (slope,) = torch.autograd.grad(-value / count, vector)
        return -value.item() / count, slope.numpy()

    return minimise(loss, starts, space.bounds(), STEPS, label=f"warp of {len(space.Y)} rows")[0]


def _fitted(model: Process, warp: Warp, data: Data, generator: torch.Generator) -> FittedWarped:
    return FittedWarped.of(model.fit_exact(_warped(data, warp), generator=generator), warp, data.Y)


def _warped(data: Data, warp: Warp) -> Data:
    return Data(data.X, warp.forward(data.Y), data.weight)


def _continued(model: Process, inner: FittedProcess) -> Process:
    """The model from where its last fit ended, with the same parameters held."""
    kernel = copy.deepcopy(inner.kernel)
    free = [p.requires_grad for p in model.kernel.parameters()] if isinstance(model.kernel, Kernel) else None
    for place, parameter in enumerate(kernel.parameters()):
        parameter.requires_grad_(free is None or free[place])
    return replace(model, kernel=kernel, noise=inner.noise, mixing=inner.mixing, restarts=1)
