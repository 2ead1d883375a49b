"""Test functions with known difficulties: borehole and Hartmann-6, in their own units.

Both are where fits with a single fixed start fail: the inputs of the borehole function span five
orders of magnitude, and Hartmann-6 has short lengthscales in six inputs.

Sources: Morris, Mitchell & Ylvisaker (1993), "Bayesian Design and Analysis of Computer
Experiments", section 5; Dixon & Szego (1978), "The Global Optimization Problem".
"""

import numpy as np

BOREHOLE = {  # bounds of the inputs, in order
    "borehole radius, m": (0.05, 0.15),
    "radius of influence, m": (100.0, 50_000.0),
    "upper transmissivity, m2/yr": (63_070.0, 115_600.0),
    "upper head, m": (990.0, 1110.0),
    "lower transmissivity, m2/yr": (63.1, 116.0),
    "lower head, m": (700.0, 820.0),
    "borehole length, m": (1120.0, 1680.0),
    "conductivity, m/yr": (9855.0, 12_045.0),
}

_HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_SLOPES = np.array(
    [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ]
)
_CENTRES = 1e-4 * np.array(
    [
        [1312.0, 1696.0, 5569.0, 124.0, 8283.0, 5886.0],
        [2329.0, 4135.0, 8307.0, 3736.0, 1004.0, 9991.0],
        [2348.0, 1451.0, 3522.0, 2883.0, 3047.0, 6650.0],
        [4047.0, 8828.0, 8732.0, 5743.0, 1091.0, 381.0],
    ]
)


def borehole(X: np.ndarray) -> np.ndarray:
    """The flow of water through a borehole, in m3/yr, at X (n, 8) in the units of `BOREHOLE`.

    >>> middle = np.array([[(low + high) / 2 for low, high in BOREHOLE.values()]])
    >>> round(float(borehole(middle)[0]), 2)
    70.87
    """
    radius, influence, upper, upper_head, lower, lower_head, length, conductivity = X.T
    log_ratio = np.log(influence / radius)
    leak = 2 * length * upper / (log_ratio * radius**2 * conductivity)
    return 2 * np.pi * upper * (upper_head - lower_head) / (log_ratio * (1 + leak + upper / lower))


def hartmann6(X: np.ndarray) -> np.ndarray:
    """The Hartmann function at X (n, 6) in the unit cube; its minimum is -3.32237.

    >>> best = np.array([[0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]])
    >>> round(float(hartmann6(best)[0]), 4)
    -3.3224
    """
    gaps = (_SLOPES * (X[:, None] - _CENTRES) ** 2).sum(-1)
    return -(_HEIGHTS * np.exp(-gaps)).sum(-1)


def borehole_sample(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """X (n, 8) uniform within `BOREHOLE`, and the function there (n,)."""
    low, high = np.transpose(list(BOREHOLE.values()))
    X = low + rng.random((n, len(low))) * (high - low)
    return X, borehole(X)


def hartmann6_sample(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """X (n, 6) uniform in the unit cube, and the function there (n,)."""
    X = rng.random((n, 6))
    return X, hartmann6(X)
