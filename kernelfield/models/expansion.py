"""Processes in k basis functions: how they are learned, and what they predict.

With B = I + G / s = L L', a(x) = L^-1 phi(x) and the sums of `collapsed`, given the data

    mean of f(x)       h'b + a(x)' (C_Y - C_H b),            C = L^-1 sum w phi v' / s,
    covariance         k(x, x') - phi'phi + a(x)'a(x') + t(x)'t(x'),
                       t(x) = T^-1 (h - C_H' a(x)),           T T' = H'A^-1 H,

which is what the process would predict were its covariance phi'phi plus, at each point of its own, the
rest. Groups of basis functions that are held independent have a(x) of their own blocks of B in the
covariance. New rows add to the sums, so that conditioning is exact and forgets nothing.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import Unit
from kernelfield.core.numerics import NotConverged, cholesky, schur
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Conditional
from kernelfield.models.collapsed import (
    Basis,
    RegressionSums,
    Rows,
    bound,
    determined,
    diagonal_blocks,
    gather,
    slopes,
    whitened,
)
from kernelfield.models.covariance import Covariance, covariance, named_values
from kernelfield.models.evidence import NOISE_REACH, Objective, Trend, mean_square
from kernelfield.models.fit import LOOSE, Search, minimise
from kernelfield.models.leave_one_out import gaps, means_without_each, require_determined
from kernelfield.models.search import SUBSET, Settings, race, sample

B = TypeVar("B", bound=Basis)
LOSS = 0.05  # nats a row, of which a user should know
ROUNDED = 0.01  # of its standard deviation, by which rounding moves a mean, of which a user should know
KNOWN = 1e-10  # share of the variance left, below which inducing values have their own noise and no more to tell


@dataclass(frozen=True, eq=False)
class FittedExpansion(Surrogate):
    """A process in basis functions, conditioned on data of which the sums are kept and not the rows.

    noise a variance in squared units of Y; log_bound in nats, of the log evidence; searches the record of
    the searches for hyperparameters.
    """

    basis: Basis
    noise: float
    trend: Trend
    centre: Tensor  # (m,)
    moments: RegressionSums
    searches: tuple[Search, ...] = ()

    @classmethod
    def of(
        cls, basis: Basis, noise: float, trend: Trend, centre: Tensor, rows: Rows, searches: Sequence[Search] = ()
    ) -> "FittedExpansion":
        """The process given all rows, in one pass over them."""
        return cls(basis, noise, trend, centre, gather(basis, basis.factor(), rows), tuple(searches))

    @property
    def outputs(self) -> int:
        return len(self.centre)

    def footprint(self, rows: int) -> int:
        return self.basis.size

    @property
    def kernel(self) -> Kernel | None:
        """The kernel of the process, or None where the basis has none."""
        return self.basis.kernel

    @cached_property
    def log_bound(self) -> float:
        """The bound of the log evidence, in nats."""
        return bound(self.moments, self.moments.G.new_tensor(self.noise), self.basis.groups, self.outputs).item()

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
        phi, H, law = self.features(flat), self.trend(flat), self._law
        joint = torch.linalg.solve_triangular(law.factor, phi, upper=False)
        loc = self.centre + H @ law.coefficients + joint.mT @ law.weights
        prior = self.basis.prior(X)

        def terms() -> tuple[Tensor, Tensor]:
            unsure = torch.linalg.solve_triangular(law.trend, H.mT - law.basis.mT @ joint, upper=False)
            known = law.spread(phi, joint)
            explained = phi[:0] if prior is None else phi
            both = torch.cat([known, unsure])
            return explained.unflatten(-1, batch).movedim(0, -2), both.unflatten(-1, batch).movedim(0, -2)

        scale = Conditional(prior or Nothing(X), terms, self.noise if noise else 0.0, self.outputs)
        return Elliptical(loc.unflatten(0, batch), scale)

    def features(self, X: Tensor) -> Tensor:
        """phi (k, n) at X (n, d)."""
        return whitened(self._factor, self.basis.cross(X))

    @cached_property
    def _factor(self) -> Tensor | None:
        return self.basis.factor()

    @cached_property
    def _law(self) -> "_Law":
        return _Law.of(self.moments, self.noise, self.basis.groups, self.outputs)

    def condition(self, data: Data) -> "FittedExpansion":
        with torch.no_grad():
            more = gather(self.basis, self._factor, Rows.of(data, self.trend, self.centre))
            return replace(self, moments=self.moments + more)

    def leaving_out(self, data: Data) -> "RowsOfExpansion":
        """What the process would predict without each of the rows (n, d) that it was fitted to, which it did not keep.

        The basis, such as inducing inputs, is held with the hyperparameters.
        """
        return RowsOfExpansion(self, data)

    def smoother(self, X: Tensor) -> Tensor:
        """[a(x); t(x)] (k + p, n) at X (n, d): products of two are the covariance that data leave of mean and basis."""
        joint = torch.linalg.solve_triangular(self._law.factor, self.features(X), upper=False)
        gap = self.trend(X).mT - self._law.basis.mT @ joint
        return torch.cat([joint, torch.linalg.solve_triangular(self._law.trend, gap, upper=False)])

    def hyperparameters(self) -> dict[str, float | list[float]]:
        values = {} if self.kernel is None else named_values(self.kernel)
        return {**values, "noise": self.noise}

    def notes(self) -> list[str]:
        found = []
        last = self.searches[-1] if self.searches else None
        if last is not None and not last.converged and last.slope > LOOSE:
            left = f"with a slope of {last.slope:.2g} nats a point left"
            found.append(f"the search stopped after {last.steps} steps {left}; raise steps")
        G, slack = self.moments.G.trace().item(), self.moments.slack.item()
        moved = torch.finfo(self.moments.G.dtype).eps * G / self.noise
        if moved > ROUNDED:
            found.append(
                f"rounding moves means by about {moved:.1g} of their standard deviations: over all rows, the "
                f"process has {G / self.noise:.1g} times the variance of the noise; raise the noise, or use a Process"
            )
        loss = 0.5 * self.outputs * slack / (self.noise * self.moments.rows)
        if loss >= LOSS and slack > KNOWN * G:
            found.append(
                f"the {self.basis.size} basis functions leave a part of the process out that costs {loss:.2f} nats a "
                "row of the evidence; more of them would predict better"
            )
        elif loss >= LOSS:
            found.append(
                f"the noise {self.noise:.1g} is so small that what inducing values have of their own costs {loss:.2f} "
                "nats a row of the evidence; raise the noise, or use a Process"
            )
        return found


@dataclass(frozen=True, eq=False)
class RowsOfExpansion:
    """An expansion with the rows of its fit, of which each can be left out; see `LeavesOneOut`.

    With [a; t] of `smoother`, P_ii = w_i / s (1 - w_i / s |[a(x_i); t(x_i)]|^2).
    """

    fitted: FittedExpansion
    data: Data

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows.

        Errors: NotImplementedError for groups of basis functions that are held independent, whose variance has no
        closed form here.
        """
        if len(self.fitted.basis.groups) > 1:
            raise NotImplementedError("the variance without a row has no closed form for several groups of functions")
        rest = self.fitted.basis.variance(self.data.X)
        variance = 1 / self._precision
        if rest is not None:
            variance = variance + (rest - self.fitted.features(self.data.X).square().sum(0)).clamp_min(0)
        return self.data.Y - self._gaps, variance[:, None].expand_as(self.data.Y)

    def without_each(self, X: Tensor) -> Tensor:
        """Means (q, n, m) at X (q, d) of the n surrogates that each lack one row."""
        smoother = self._rate[:, None] * (self._rows.mT @ self.fitted.smoother(X))
        return means_without_each(self.fitted.posterior(X).mean, smoother, self._gaps)

    @cached_property
    def _rows(self) -> Tensor:
        return self.fitted.smoother(self.data.X)

    @cached_property
    def _rate(self) -> Tensor:
        weight = torch.ones_like(self.data.X[:, 0]) if self.data.weight is None else self.data.weight
        return weight / self.fitted.noise

    @cached_property
    def _precision(self) -> Tensor:
        return require_determined(self._rate * (1 - self._rate * self._rows.square().sum(0)), self._rate)

    @cached_property
    def _gaps(self) -> Tensor:
        left = self.data.Y - self.fitted.posterior(self.data.X).mean
        return gaps(self._rate[:, None] * left, self._precision)


@dataclass(frozen=True, eq=False)
class _Law:
    """The law of the coefficients given data; names as in the module docstring."""

    factor: Tensor  # L
    parts: list[Tensor]  # factors of the diagonal blocks, where there are several
    weights: Tensor  # C_Y - C_H b (k, m)
    basis: Tensor  # C_H (k, p)
    coefficients: Tensor  # b (p, m)
    trend: Tensor  # T (p, p)

    @classmethod
    def of(cls, moments: RegressionSums, noise: float, groups: Sequence[int], m: int) -> "_Law":
        B = torch.eye(len(moments.G)).to(moments.G) + moments.G / noise
        factor = cholesky(B)
        C = torch.linalg.solve_triangular(factor, moments.C, upper=False) / noise
        Q = schur(moments.V / noise, C)[m:]
        trend = cholesky(determined(Q[:, m:], moments.V[m:, m:] / noise, B.trace()))
        b = torch.cholesky_solve(Q[:, :m], trend)
        parts = [] if len(groups) == 1 else [cholesky(part) for part in diagonal_blocks(B, groups)]
        return cls(factor, parts, C[:, :m] - C[:, m:] @ b, C[:, m:], b, trend)

    def spread(self, phi: Tensor, joint: Tensor) -> Tensor:
        """a(x) (k, n), by groups."""
        if not self.parts:
            return joint
        pieces = phi.split([len(part) for part in self.parts])
        return torch.cat([whitened(part, piece) for part, piece in zip(self.parts, pieces, strict=True)])


@dataclass(frozen=True, eq=False)
class Nothing:
    """The covariance of what a basis leaves where it leaves nothing: zero at X (*b, n, d)."""

    X: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return torch.zeros_like(self.X[..., 0])

    def to_dense(self) -> Tensor:
        return torch.zeros_like(self.X[..., :1]) @ torch.zeros_like(self.X[..., :1]).mT


def centre_of(mean: str, Y: Tensor) -> Tensor:
    """A constant (m,) that the mean can take on, near the targets."""
    return torch.zeros_like(Y[0]) if mean == "zero" else Y.mean(0)


def guess(
    kernel: Kernel, settings: Settings, data: Data, *, learn_noise: bool, generator: torch.Generator
) -> tuple[float, Data, list[Search]]:
    """Set the kernel to the best found of the exact evidence of a sample of rows, by a race of starts.

    Returns the noise, the sample, and the record of the searches.
    """
    few, noise = sample(data, SUBSET, generator), float(settings.noise)
    trend = Trend.of(settings.mean, few.X)
    objective = Objective(covariance(kernel, few.X), few, trend, Unit(), noise, learn=learn_noise)
    if not settings.steps or all(low == high for low, high in objective.bounds()):
        return noise, few, []
    with _noted():
        theta, searches = race(
            lambda _: objective, few, restarts=settings.restarts, steps=settings.steps, generator=generator
        )
    parameters, noise, _ = objective.split(theta)
    objective.covariance.assign(parameters)
    return noise, few, searches


@contextmanager
def _noted() -> Iterator[None]:
    """A search that ends before it has settled is a note of the fit: the first only starts the one that counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        yield


class BoundObjective:
    """Minus the bound and log priors, a point, and its slope in theta.

    theta : kernel parameters, log noise if `learn`, and what else is free in the basis if `move`.
    """

    def __init__(
        self, basis: Basis, few: Data, rows: Rows, outputs: int, noise: float, *, learn: bool, move: bool
    ) -> None:
        self.basis, self.rows, self.m, self.learn, self.noise = basis, rows, outputs, learn, noise
        self.covariance: Covariance | None = None if basis.kernel is None else covariance(basis.kernel, few.X)
        self.free = basis.free if move else basis.free[:0]
        self.size = mean_square(rows.V[:, :outputs], rows.V[:, outputs:])

    def start(self) -> np.ndarray:
        kernel = np.empty(0) if self.covariance is None else self.covariance.start()
        noise = [math.log(self.noise)] if self.learn else []
        return np.concatenate([kernel, noise, self.free.detach().cpu().double().numpy()])

    def bounds(self) -> list[tuple[float, float]]:
        box = [] if self.covariance is None else self.covariance.bounds(self.size)
        if self.learn:
            low, high = (math.log(end * self.size) for end in NOISE_REACH)
            box.append((min(low, math.log(self.noise)), max(high, math.log(self.noise))))
        return [*box, *[(-math.inf, math.inf)] * len(self.free)]

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, float, Tensor]:
        """Kernel parameters, noise and free part."""
        head, free = np.split(theta, [len(theta) - len(self.free)])
        moved = torch.from_numpy(free.copy()).to(self.free)
        return (head[:-1], math.exp(head[-1]), moved) if self.learn else (head, self.noise, moved)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        parameters, noise, free = self.split(theta)
        raw: list[Tensor] = []
        if self.covariance is not None:
            self.covariance.assign(parameters)
            raw = list(self.covariance.raw)
        with torch.enable_grad():
            basis, wanted = self.basis, [p for p in raw if p.requires_grad]
            if len(free):
                wanted.append(free.requires_grad_())
                basis = basis.at(free)
            slope = slopes(basis, self.rows, noise, self.m, wanted)
        found = {id(t): g for t, g in zip(wanted, slope.tensors, strict=True)}
        kernel = [found.get(id(p), torch.zeros_like(p)).flatten() for p in raw]
        gradient = np.concatenate(
            [
                *(g.cpu().double().numpy() for g in kernel),
                [slope.log_noise] if self.learn else [],
                found[id(free)].cpu().double().numpy() if len(free) else [],
            ]
        )
        prior, count = 0.0, len(self.rows.X) * self.m
        if self.covariance is not None:
            prior, tilt = self.covariance.log_prior(parameters)
            gradient[: len(parameters)] += tilt
        return -(slope.value + prior) / count, -gradient / count


def climb(
    basis: B,
    few: Data,
    rows: Rows,
    outputs: int,
    noise: float,
    *,
    learn: bool,
    move: bool,
    steps: int,
) -> tuple[B, float, list[Search]]:
    """The basis, kernel set, and the noise of the greatest bound of all rows near those given."""
    objective = BoundObjective(basis, few, rows, outputs, noise, learn=learn, move=move)
    box = objective.bounds()
    if not steps or all(low == high for low, high in box):
        return basis, noise, []
    label = f"fit of {basis.size} basis functions to {len(rows.X)} rows"
    with _noted():
        theta, searches = minimise(objective, [objective.start()], box, steps, label=label)
    parameters, noise, free = objective.split(theta)
    if objective.covariance is not None:
        objective.covariance.assign(parameters)
    return (basis.at(free) if len(free) else basis), noise, searches
