"""The conditional banana of Feldman, Bates & Romano (2023): a bent line of two targets that moves with one input."""

import numpy as np


def banana(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 1) and targets (n, 2)."""
    rng = np.random.default_rng(seed)
    x, along = rng.uniform(0.8, 3.2, n), rng.uniform(-np.pi, np.pi, n)
    angle, radius = rng.uniform(0, 2 * np.pi, n), rng.uniform(-0.1, 0.1, n)
    first = (1 - np.cos(along)) / 2 + np.sin(x) + radius * np.sin(angle)
    return x[:, None], np.stack([first, along / x + radius * np.cos(angle)], 1)
