"""A search by slopes alone, for an objective whose value costs as much again and is not needed.

From a start near the end, with a Hessian H of nearly the same objective, steps towards a slope g of zero are

    theta <- theta - H^-1 g,    H <- BFGS update of H by the change of g,

in a box, H with the absolute values of its eigenvalues, steps cut to REACH in each parameter and halved where the
gain that they predict, 1/2 g' H^-1 g, has grown. The search ends once that gain is not worth an evaluation.

Source: Nocedal & Wright (2006), "Numerical Optimization", section 6.1.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernelfield.models.search import Evidence

REACH = 0.7  # of one step, in each log parameter
FLAT = 1e-3  # share of the largest curvature that is the least: a flatter direction is the trust in it of a step
DIFFERENCE = 1e-4  # of finite differences of exact slopes, in log parameters
GROWTH = 4.0  # of the predicted gain, beyond which a step is halved

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The gradient of a loss, and how the solves behind it went: iterations and the largest relative residual."""

    gradient: np.ndarray
    iterations: int
    residual: float


@dataclass(frozen=True)
class Descent:
    """How a search went: evaluations, the gain that the last slope still predicts and whether it is small enough, the
    iterations of all solves and their largest residual."""

    evaluations: int
    gain: float
    converged: bool
    iterations: int
    residual: float


def descend(
    loss: Callable[[np.ndarray], Evaluation],
    theta: np.ndarray,
    hessian: np.ndarray,
    bounds: list[tuple[float, float]],
    *,
    enough: float,
    evaluations: int,
    label: str,
) -> tuple[np.ndarray, Descent]:
    """The point of least predicted gain on the way from theta, with at most so many evaluations.

    hessian : about that of the loss at theta. enough : a predicted gain that is not worth an evaluation.
    """
    low, high = np.transpose(bounds)
    used = [loss(theta)]
    here = used[0].gradient
    step, gain = _step(here, hessian, theta, low, high)
    best, least = theta, gain
    while len(used) < evaluations and gain > enough:
        used.append(loss(theta + step))
        there = used[-1].gradient
        hessian = _updated(hessian, step, there - here)
        ahead, gain_there = _step(there, hessian, theta + step, low, high)
        _log.info("%s, step %d: %.2g left to gain, %d iterations", label, len(used), gain_there, used[-1].iterations)
        if gain_there > GROWTH * gain:
            step = step / 2
            continue
        theta, here, step, gain = theta + step, there, ahead, gain_there
        if gain < least:
            best, least = theta, gain
    iterations, residual = sum(one.iterations for one in used), max(one.residual for one in used)
    return best, Descent(len(used), least, least <= enough, iterations, residual)


def _step(
    gradient: np.ndarray, hessian: np.ndarray, theta: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, float]:
    """A step within the box and within REACH, and the gain of the whole step."""
    free = ~(((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0)))
    step = np.zeros_like(theta)
    if not free.any():
        return step, 0.0
    values, vectors = np.linalg.eigh(hessian[np.ix_(free, free)])
    values = np.maximum(np.abs(values), FLAT * np.abs(values).max())
    along = vectors.T @ gradient[free]
    step[free] = -vectors @ (along / values)
    gain = 0.5 * float((along**2 / values).sum())
    longest = np.abs(step).max()
    if longest > REACH:
        step *= REACH / longest
    return np.clip(theta + step, low, high) - theta, gain


def _updated(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The BFGS update, or what it was where the curvature along the step is not positive."""
    image, curvature = hessian @ step, float(step @ change)
    expected = float(step @ image)
    if curvature <= 1e-2 * abs(expected) or expected <= 0:
        return hessian
    return hessian - np.outer(image, image) / expected + np.outer(change, change) / curvature


def hessian_at(evidence: Evidence, theta: np.ndarray, bounds: list[tuple[float, float]]) -> np.ndarray:
    """The Hessian (p, p) of an exact loss at theta, by central differences of its slope; held parameters have ones."""
    H = np.eye(len(theta))
    moved = [i for i, (low, high) in enumerate(bounds) if low < high]
    for i in moved:
        there = DIFFERENCE * np.eye(len(theta))[i]
        H[i] = (evidence(theta + there)[1] - evidence(theta - there)[1]) / (2 * DIFFERENCE)
    return (H + H.T) / 2
