"""Problems with several objectives, all minimised unless they say otherwise.

Their best hypervolumes are BoTorch's, or follow from the Pareto front:

    DTLZ5, 3 objectives    the arc (c, c, s) with c(s)^2 = (1 - s^2) / 2; with the reference r in each,
                           int_0^r (r - c(min(s, 1)))^2 ds = r^3 - r pi / sqrt(8) + 1 / 3,
    DTLZ7, 2 objectives    f2 = 4 - f1 (1 + sin 3 pi f1), of which the running minimum dominates.

The oil sorbent is the design of an electrospun mat: three quadratic response surfaces in seven variables, of
which five have a few levels each, divided by the greatest. All three are to be large: the angle at which
water stands on it, the oil that it takes up, and its strength.

Sources: Deb, Thiele, Laumanns & Zitzler (2005) for DTLZ; Tanabe & Ishibuchi (2020) for the two of cars; Liang & Lai
(2021) for penicillin; Wang, Cai, Liu, Yang & Ding (2020), "Harnessing a Novel Machine-Learning-Assisted Evolutionary
Algorithm to Co-optimize Three Characteristics of an Electrospun Oil Sorbent", for its response surfaces.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from botorch.test_functions import multi_objective
from optuna.distributions import FloatDistribution, IntDistribution

from kernelfield.bo.problems.botorch import from_botorch
from kernelfield.bo.problems.catalogue import Outcome, Parameters, Problem
from kernelfield.bo.space import Distribution, Space

DTLZ = "Deb, Thiele, Laumanns & Zitzler (2005); BoTorch"
LEVELS = {  # of the ordinal variables of the sorbent, as they were made
    "v2": (0.7, 1.0, 1.4, 1.7, 2.0),
    "v3": (12.0, 15.0, 18.0, 21.0, 24.0),
    "v4": (0.12, 0.135, 0.15, 0.165, 0.18),
    "v6": (16.0, 20.0, 26.0, 28.0),
    "v7": (0.41, 0.6, 0.84, 1.32),
}
# Of each surface: the constant, the slopes in v1 ... v7, then the products v1 v2, v1 v3, ..., v6 v7, then the squares.
ANGLE = (
    (-197.0928,),
    (-78.3309, 98.6355, 300.0701, 89.8360, 208.2343, 332.9341, 135.6621),
    (-11.0715, 201.8934, 17.1270, 2.5198, -109.3922, 30.1607),
    (-46.1790, 19.2888, -102.9493, -19.1245, 53.6297),
    (-73.0649, -37.7181, -219.1268, -55.3704),
    (3.8778, -6.9252, -105.1650),
    (-34.3181, -36.3892),
    (-82.3222,),
    (-16.7536, -45.6507, -91.4134, 0.0, -76.8701, 0.0, 0.0),
)
UPTAKE = (
    (-212.8531,),
    (245.7998, -127.3395, 305.8461, 638.1605, 301.2118, -451.3796, -115.5485),
    (42.8351, 262.3775, -103.5274, -196.1568, -394.7975, -176.3341),
    (74.8291, 4.1557, -133.8683, 65.8711, -42.6911),
    (-323.9363, -107.3983, -323.2353, 46.9172),
    (-144.4199, 272.3729, 49.0799),
    (318.4706, -236.2498),
    (252.4848,),
    (0.0, 0.0, 0.0, -286.0182, 0.0, 393.5992, 0.0),
)
STRENGTH = (
    (7.7696,),
    (15.4344, -10.6190, -17.9367, 17.1385, 2.5026, -24.3010, 10.6058),
    (-1.2041, -37.2207, -3.2265, 7.3121, 52.3994, 9.7485),
    (-15.9371, -1.1706, -2.6297, 7.0225, -1.4938),
    (30.2786, 14.5061, 48.5021, -11.4857),
    (-3.1381, -14.9747, 4.5204),
    (-17.6907, -19.2489),
    (-9.8219,),
    (-18.7356, 12.1928, 0.0, -17.5460, 5.4997, -26.2718, 0.0),
)
SURFACES = np.array([[c for row in surface for c in row] for surface in (ANGLE, UPTAKE, STRENGTH)])  # (3, 36)


def branin_currin() -> Problem:
    return from_botorch(
        multi_objective.BraninCurrin(),
        "branin-currin",
        "Branin's function against Currin's, two inputs",
        "Belakaria, Deshwal & Doppa (2019); BoTorch",
    )


def constrained_branin_currin() -> Problem:
    return from_botorch(
        multi_objective.ConstrainedBraninCurrin(),
        "constrained-branin-currin",
        "Branin's function against Currin's, within a disk",
        "Gelbart, Snoek & Adams (2014) for the disk; BoTorch",
    )


def dtlz1(dimensions: int = 5, objectives: int = 2) -> Problem:
    function = multi_objective.DTLZ1(dimensions, objectives)
    return from_botorch(function, "dtlz1", "a plane front behind 11^k - 1 local ones", DTLZ)


def dtlz2(dimensions: int = 6, objectives: int = 2) -> Problem:
    return from_botorch(multi_objective.DTLZ2(dimensions, objectives), "dtlz2", "a front on the sphere", DTLZ)


def dtlz3(dimensions: int = 6, objectives: int = 2) -> Problem:
    function = multi_objective.DTLZ3(dimensions, objectives)
    return from_botorch(function, "dtlz3", "a front on the sphere behind many local ones", DTLZ)


def dtlz5(dimensions: int = 20, objectives: int = 3) -> Problem:
    function = multi_objective.DTLZ5(dimensions, objectives)
    best = {2: _quarter_circle, 3: _arc}.get(objectives)
    return from_botorch(
        function,
        "dtlz5",
        "a front that is a curve in three objectives",
        DTLZ,
        best_hypervolume=None if best is None else best(function._ref_val),
    )


def dtlz7(dimensions: int = 6, objectives: int = 2) -> Problem:
    function = multi_objective.DTLZ7(dimensions, objectives)
    return from_botorch(
        function,
        "dtlz7",
        "a front in separate pieces",
        DTLZ,
        best_hypervolume=_pieces(function._ref_val) if objectives == 2 else None,
    )


def penicillin() -> Problem:
    return from_botorch(
        multi_objective.Penicillin(),
        "penicillin",
        "minus the yield of a fermentation, its carbon dioxide and its time",
        "Liang & Lai (2021); BoTorch",
        names=("volume", "biomass", "temperature", "glucose", "feed_rate", "feed_glucose", "acidity"),
    )


def vehicle_safety() -> Problem:
    return from_botorch(
        multi_objective.VehicleSafety(),
        "vehicle-safety",
        "mass, acceleration and intrusion of a car in a crash, five thicknesses",
        "Tanabe & Ishibuchi (2020); BoTorch",
    )


def car_side_impact() -> Problem:
    return from_botorch(
        multi_objective.CarSideImpact(),
        "car-side-impact",
        "four objectives of a car hit from the side, seven thicknesses",
        "Tanabe & Ishibuchi (2020); BoTorch",
    )


def oil_sorbent() -> Problem:
    space: dict[str, Distribution] = {
        name: IntDistribution(0, len(LEVELS[name]) - 1) if name in LEVELS else FloatDistribution(0.0, 1.0)
        for name in (f"v{i}" for i in range(1, 8))
    }
    return Problem(
        "oil-sorbent",
        "contact angle, oil uptake and strength of a mat, from two shares and five levels",
        Space(space),
        ("maximize",) * 3,
        _sorbent,
        "Wang, Cai, Liu, Yang & Ding (2020)",
        reference=(125.3865, 57.8292, -43.2665),
        best_hypervolume=1485174.56,  # of all levels with both shares in eightieths; the published 1279774.75 is less
    )


def _sorbent(parameters: Parameters) -> Outcome:
    v = np.array(
        [
            LEVELS[name][parameters[name]] / max(LEVELS[name]) if name in LEVELS else parameters[name]
            for name in (f"v{i}" for i in range(1, 8))
        ]
    )
    return Outcome(tuple(surfaces(v).tolist()))


def surfaces(v: np.ndarray) -> np.ndarray:
    """The three response surfaces (*b, 3) at seven variables (*b, 7), each as a share of its greatest value."""
    first, second = np.triu_indices(7, 1)
    terms = [np.ones_like(v[..., :1]), v, v[..., first] * v[..., second], v**2]
    return np.concatenate(terms, -1) @ SURFACES.T


def _quarter_circle(r: float) -> float:
    return r**2 - math.pi / 4


def _arc(r: float) -> float:
    return r**3 - r * math.pi / (2 * math.sqrt(2)) + 1 / 3


def _pieces(r: float) -> float:
    """The area that the front of DTLZ7 dominates, to twelve digits by the trapezoidal rule on a fine grid."""
    f1 = np.linspace(0, 1, 2_000_001)
    least = np.minimum.accumulate(4 - f1 * (1 + np.sin(3 * math.pi * f1)))
    return float(np.trapezoid(r - least, f1) + (r - 1) * (r - least[-1]))


MAKERS: Mapping[str, Callable[..., Problem]] = {
    "branin-currin": branin_currin,
    "constrained-branin-currin": constrained_branin_currin,
    "dtlz1": dtlz1,
    "dtlz2": dtlz2,
    "dtlz3": dtlz3,
    "dtlz5": dtlz5,
    "dtlz7": dtlz7,
    "oil-sorbent": oil_sorbent,
    "penicillin": penicillin,
    "vehicle-safety": vehicle_safety,
    "car-side-impact": car_side_impact,
}
