"""What is believed of unknown coefficients, and what that adds to the band of a solution.

The coefficients theta have a Gaussian law about the values of the best evidence, with the inverse of the curvature of
the evidence for its covariance C = L L', other hyperparameters held. Where the search was bounded, a uniform law
between the bounds adds its own inverse variance, 12 / (high - low)^2: a coefficient that the observations do not
tell has a standard deviation of about that, and without bounds a very large one, not one of zero. By the delta method

    cov u = cov(u | theta) + sum_k g_k g_k',    g_k = (E(u | theta + L_k) - E(u | theta - L_k)) / 2,

a difference over one standard deviation either way. About the solution of a nonlinear problem, E(u | theta + L_k) is a
Gauss-Newton step from there, which has the derivative of the solution in theta.

Source: Gelman et al. (2013), "Bayesian Data Analysis", section 4.1, for the normal approximation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.core.posterior import Elliptical, LazyMatrix
from kernelfield.pde.conditioned import Conditioned
from kernelfield.pde.likelihood import Evidence, System
from kernelfield.pde.problem import Orders
from kernelfield.pde.solution import Estimate

STEP = 1e-4  # of a coefficient, between slopes of the evidence
UNTOLD = 1e-8  # rounding in curvatures in units of each, as differences of slopes
NOTHING = 1e-14  # that in their eigenvalues
SHORTER = (1.0, 0.1, 0.01)  # standard deviations between solutions: less where a bound or a singular matrix is near


def covariance_of(evidence: Evidence) -> np.ndarray:
    """The covariance (p, p) of the unknowns at the start of the evidence.

    Directions that neither the evidence tells, but for rounding, nor bounds limit have the largest variance that could
    be told, a very large one. A coefficient between bounds that meet has none.
    """
    theta, first = evidence.start, len(evidence.start) - len(evidence.free)
    curvature = np.empty((len(evidence.free), len(evidence.free)))
    for k, unknown in enumerate(evidence.free):
        step = STEP * (max(abs(theta[first + k]), 1e-3 * min(unknown.high - unknown.low, 1.0)) or 1.0)
        ahead, behind = (theta + sign * step * np.eye(len(theta))[first + k] for sign in (1, -1))
        curvature[k] = evidence.count * (evidence(ahead)[1] - evidence(behind)[1])[first:] / (2 * step)
    free = np.array([u.high > u.low for u in evidence.free])
    bounds = np.array([12 / (u.high - u.low) ** 2 for u in evidence.free if u.high > u.low])
    curvature, covariance = curvature[np.ix_(free, free)], np.zeros_like(curvature)
    # In units of each, as coefficients may be of any size.
    size = np.sqrt(np.abs(curvature.diagonal()) + bounds)
    size[size == 0] = 1.0
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2 / np.outer(size, size))
    told = (vectors * np.where(values > UNTOLD, values, 0.0)) @ vectors.T
    values, vectors = np.linalg.eigh(told + np.diag(bounds / size**2))
    values = np.where(values > NOTHING, values, UNTOLD)
    covariance[np.ix_(free, free)] = (vectors / values) @ vectors.T / np.outer(size, size)
    return covariance


def estimates(evidence: Evidence, covariance: np.ndarray) -> Mapping[str, Estimate]:
    """Values of the unknowns with their standard deviations."""
    values, stds = evidence.kernel.unknowns, np.sqrt(covariance.diagonal())
    return {u.name: Estimate(values[u.name], float(std)) for u, std in zip(evidence.free, stds, strict=True)}


@dataclass(frozen=True, eq=False)
class Averaged:
    """A solution whose coefficients were learned, averaged over what they may be; see the module docstring.

    pairs : solutions to either side of the learned values, and how many standard deviations each is away.
    """

    given: Conditioned
    pairs: tuple[tuple[Conditioned, Conditioned, float], ...]

    @classmethod
    def of(cls, given: Conditioned, evidence: Evidence, covariance: np.ndarray) -> "Averaged":
        """The average of the solution given the best coefficients."""
        stds = np.sqrt(covariance.diagonal())
        unit = np.where(stds > 0, stds, 1.0)
        values, vectors = np.linalg.eigh(covariance / np.outer(unit, unit))
        columns = (vectors * np.sqrt(np.maximum(values, 0.0))).T
        pairs = [pair for column in columns if column.any() for pair in _pair(given.system, evidence, column, unit)]
        return cls(given, tuple(pairs))

    def mean(self, X: Tensor, orders: Orders) -> Tensor:
        return self.given.mean(X, orders)

    def posterior(self, X: Tensor, orders: Orders) -> Elliptical:
        law = self.given.posterior(X, orders)
        gaps = [(a.mean(X, orders) - b.mean(X, orders)) / (2 * step) for a, b, step in self.pairs]
        return replace(law, scale=Sum(law.scale, torch.stack(gaps)) if gaps else law.scale)


@dataclass(frozen=True, eq=False)
class Sum:
    """scale + gaps' gaps, for gaps (p, n)."""

    scale: LazyMatrix | Tensor
    gaps: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.scale.diagonal(dim1=dim1, dim2=dim2) + self.gaps.square().sum(0)

    def to_dense(self) -> Tensor:
        return self.scale.to_dense() + self.gaps.mT @ self.gaps


def _pair(
    system: System, evidence: Evidence, column: np.ndarray, unit: np.ndarray
) -> list[tuple[Conditioned, Conditioned, float]]:
    """The solutions about one axis of the covariance, in units of each, or none where no step can be taken."""
    names, low, high = zip(*((u.name, u.low, u.high) for u in evidence.free), strict=True)
    middle = np.array([system.kernel.unknowns[name] for name in names])
    for step in SHORTER:
        # A value at its bound is moved inwards only, which the difference of one side then stands for.
        ends = [np.clip(middle + sign * step * column * unit, low, high) for sign in (1, -1)]
        moved = float((ends[0] - ends[1]) / unit @ column / (column @ column)) / 2
        try:
            one, two = (Conditioned(_at(system, dict(zip(names, end.tolist(), strict=True)))) for end in ends)
        except NotPositiveDefinite:
            continue
        return [(one, two, moved)] if moved else []
    return []


def _at(system: System, unknowns: Mapping[str, float]) -> System:
    """The system with other values of the unknowns."""
    return System.of(replace(system.kernel, unknowns=unknowns), system.rows)
