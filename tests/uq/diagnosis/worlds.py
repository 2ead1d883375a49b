"""Simulated predictions with columns, a group and time, calibrated or wrong in a known place."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.scores import Evaluation

Z = 1.6448536269514722  # of a central 90% interval
Columns = dict[str, np.ndarray]


def gaussian(y: np.ndarray, mean: np.ndarray, std: np.ndarray, latent: np.ndarray | None = None) -> Evaluation:
    """What scipy says of Gaussian predictions (n,) at y (n,), without the code under test."""
    law = stats.norm(mean, std)
    z = (y - mean) / std
    crps = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    low, high = mean - Z * std, mean + Z * std
    known = {} if latent is None else {"latent": latent[:, None]}
    arrays = (y, mean, std, low, high, law.cdf(y), -law.logpdf(y), crps)
    return Evaluation(*(array[:, None] for array in arrays), **known)


def world(
    n: int, seed: int, error: Callable[[Columns], np.ndarray | float] = lambda _: 1.0
) -> tuple[Evaluation, Columns]:
    """Heteroscedastic Gaussians; errors are `error` times as large as predicted, which may depend on the columns."""
    rng = np.random.default_rng(seed)
    columns: Columns = {f"x{index}": rng.standard_normal(n) for index in range(5)}
    columns["site"] = rng.choice(["Bern", "Basel", "Chur"], n)
    columns["day"] = np.arange(n) / 10
    mean, std = 3 * columns["x1"], np.exp(0.5 * columns["x0"])
    return gaussian(mean + error(columns) * std * rng.standard_normal(n), mean, std), columns


def classes(
    n: int, seed: int, sharpness: Callable[[Columns], np.ndarray | float] = lambda _: 1.0
) -> tuple[ClassEvaluation, Columns]:
    """Labels drawn from probabilities of three classes, which are then overstated by the power `sharpness`."""
    rng = np.random.default_rng(seed)
    columns: Columns = {"x0": rng.standard_normal(n), "site": rng.choice(["Bern", "Basel"], n), "day": np.arange(n)}
    true = rng.dirichlet(np.full(3, 0.5), n)
    labels = (rng.random((n, 1)) > np.cumsum(true, 1)[:, :2]).sum(1)
    said = true ** np.broadcast_to(sharpness(columns), n)[:, None]
    return ClassEvaluation.of(said / said.sum(1, keepdims=True), labels), columns
