"""What is believed of unknown coefficients, and what that adds to the band of a solution.

The coefficients theta have a Gaussian law about the values of the best evidence, with the inverse of the curvature of
the evidence for its covariance C = L L', other hyperparameters held. Where the search was bounded, a uniform law
between the bounds adds its own inverse variance, 12 / (high - low)^2: a coefficient that the observations do not
tell has a standard deviation of about that. Where there are no bounds and the evidence does not curve as that of a
normal law, which is so about no maximum and where it is flat, the standard deviation in that direction is the distance
at which the evidence has fallen by half a nat, as it does at one standard deviation of a normal law; where it never
does the coefficient is not told and has a very large one. `doubts` says so. By the delta method

    cov u = cov(u | theta) + sum_k g_k g_k',    g_k = (E(u | theta + L_k) - E(u | theta - L_k)) / 2,

a difference over one standard deviation either way. About the solution of a nonlinear problem, E(u | theta + L_k) is a
Gauss-Newton step from there, which has the derivative of the solution in theta.

Source: Gelman et al. (2013), "Bayesian Data Analysis", section 4.1, for the normal approximation.
"""

import math
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
FALL = 0.5  # nats, at one standard deviation of a normal law
HALVINGS = 6  # of the step on which it falls so far
OPEN = 10.0  # standard deviations of a coefficient, in sizes of it and its start, from which it is not told
NOISY = 0.25  # share of the observations' mean square beyond which they are noise to a solution
SHORTER = (1.0, 0.1, 0.01)  # standard deviations between solutions: less where a bound or a singular matrix is near


def covariance_of(evidence: Evidence) -> np.ndarray:
    """The covariance (p, p) of the unknowns at the start of the evidence.

    Directions that neither the curvature tells, but for rounding, nor bounds limit have the variance of the fall by
    half a nat, at most the largest that could be told, a very large one. A coefficient between bounds that meet has
    none.
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
    for untold in np.flatnonzero(values <= NOTHING).tolist():
        along = np.zeros_like(theta)
        along[first:][free] = vectors[:, untold] / size
        values[untold] = max(UNTOLD, 1 / _distance_of_fall(evidence, theta, along) ** 2)
    covariance[np.ix_(free, free)] = (vectors / values) @ vectors.T / np.outer(size, size)
    return covariance


def _distance_of_fall(evidence: Evidence, theta: np.ndarray, step: np.ndarray) -> float:
    """How many steps from theta the evidence has fallen by FALL: the root mean square of both sides, or infinity."""
    here, reached = evidence.count * evidence(theta)[0], list[float]()

    def fallen(length: float) -> bool:
        try:
            return evidence.count * evidence(theta + length * step)[0] - here >= FALL
        except NotPositiveDefinite:
            return True

    for sign in (1, -1):
        high = 1.0
        while not fallen(sign * high):
            high *= 2
            if high**-2 < UNTOLD:
                return math.inf
        low = 0.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if fallen(sign * middle) else (middle, high)
        reached.append(high)
    return math.sqrt(float(np.mean(np.square(reached))))


def estimates(evidence: Evidence, covariance: np.ndarray) -> Mapping[str, Estimate]:
    """Values of the unknowns with their standard deviations."""
    values, stds = evidence.kernel.unknowns, np.sqrt(covariance.diagonal())
    return {u.name: Estimate(values[u.name], float(std)) for u, std in zip(evidence.free, stds, strict=True)}


def doubts(system: System, evidence: Evidence, found: Mapping[str, Estimate]) -> str:
    """What there is to say against the estimates, beginning with a semicolon, or nothing.

    A search from a start far from the truth ends where the observations are noise to the solution.
    """
    said, starts = "", {u.name: u.start for u in evidence.free}
    unsure = [name for name, one in found.items() if one.std > OPEN * max(abs(one.value), abs(starts[name]))]
    if unsure:
        names = ", ".join(f"{name} (standard deviation {found[name].std:.2g})" for name in unsure)
        said += f"; the observations do not tell {names}: give more of them, or Unknown(..., low=, high=)"
    noise, size = system.kernel.noises[-1], float(system.rows[-1].targets.square().mean())
    if found and noise > NOISY * size:
        names = ", ".join(found)
        said += (
            f"; {noise / size:.0%} of the observations is noise to this solution: where they are better than that, the "
            f"start of {names} was too far, and Unknown(..., low=, high=) is searched between its bounds"
        )
    return said


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
