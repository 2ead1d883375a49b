"""Pareto fronts of several objectives, and the hypervolume that they dominate. Larger is better throughout.

A point dominates another if it is at least as good in every objective and better in one. The
hypervolume of points is the volume of all that lies between them and a reference point,

    H(P) = volume of { z : r <= z <= p for some p of P },

which never falls as points are added. A new point p adds what it dominates alone,

    H(P + p) - H(P) = prod(p - r) - H({ min(q, p) : q of P }),

where min is taken objective by objective. Taken in the order of their last objective, the points
that are still to come all have the last objective of p in min(q, p), so that the volume on the right
has one objective fewer; two objectives are a staircase. Exact, and quick for up to four objectives.

Sources: Zitzler & Thiele (1999), "Multiobjective Evolutionary Algorithms: A Comparative Case Study
and the Strength Pareto Approach", for the hypervolume; While, Bradstreet & Barone (2012), "A Fast
Way of Calculating Exact Hypervolumes", for the sum of exclusive volumes and its order; Ishibuchi,
Akedo & Nojima (2011), "A many-objective test problem for visually examining diversity maintenance
behavior in a decision space", for the reference point.
"""

import numpy as np

MARGIN = 0.1  # of the front's range, between its worst values and the reference point


def efficient(values: np.ndarray) -> np.ndarray:
    """Which of the points (n, m) no other dominates, (n,); equal points all count.

    >>> efficient(np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])).tolist()
    [True, True, False]
    """
    chosen = np.zeros(len(values), dtype=bool)
    rest = np.lexsort(-values.T[::-1])
    while len(rest):
        here = values[rest]
        chosen[rest[(here == here[0]).all(1)]] = True  # nothing before it is left, and nothing after it is as good
        rest = rest[(here > here[0]).any(1)]
    return chosen


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume that points (n, m) dominate above the reference (m,).

    >>> hypervolume(np.array([[2.0, 1.0], [1.0, 2.0]]), np.zeros(2))
    3.0
    """
    return _volume(_above(values, reference))


def hypervolumes(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The hypervolume (n,) of the first points (n, m), after each of them."""
    total, front = 0.0, np.empty((0, values.shape[1]))
    after = np.zeros(len(values))
    for place, point in enumerate(values - reference):
        if (point > 0).all() and not (front >= point).all(1).any():
            total += float(np.prod(point)) - _volume(np.minimum(front, point))
            front = np.vstack([front[(front > point).any(1)], point])
        after[place] = total
    return after


def reference_point(values: np.ndarray) -> np.ndarray:
    """A reference (m,) a little worse than the front of points (n, m) in every objective."""
    front = values[efficient(values)]
    worst, best = front.min(0), front.max(0)
    size = np.where(best > worst, best - worst, np.abs(worst))
    return worst - MARGIN * np.where(size > 0, size, 1.0)


def _above(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    points = values - reference
    return points[(points > 0).all(1)]


def _volume(points: np.ndarray) -> float:
    """Of positive points above the origin."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    if points.shape[1] == 2:
        first, last = points[np.argsort(-points[:, 1], kind="stable")].T
        return float(np.maximum.accumulate(first) @ -np.diff(last, append=0.0))
    points = points[efficient(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    total = 0.0
    for place, point in enumerate(points):
        shared = np.minimum(points[place + 1 :, :-1], point[:-1])
        total += float(point[-1]) * (float(np.prod(point[:-1])) - _volume(shared))
    return total
