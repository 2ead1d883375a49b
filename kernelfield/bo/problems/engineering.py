"""Designs of machine parts under constraints, with the best designs that are known.

BoTorch's figures for two of them are those of the papers they come from, and have been improved on since: the
optima here satisfy all constraints of BoTorch's functions to eight digits, and are lower. Where a dimension is a
number of teeth or of sixteenths of an inch, it is one here too.

Sources: Coello Coello & Mezura Montes (2002), "Constraint-handling in genetic algorithms through the use of
dominance-based tournament selection"; Lemonge, Barbosa, Borges & Silva (2010); Hedar & Fukushima (2006).
"""

from collections.abc import Callable, Mapping

from botorch.test_functions import synthetic
from optuna.distributions import FloatDistribution, IntDistribution

from kernelfield.bo.problems.botorch import from_botorch
from kernelfield.bo.problems.catalogue import Problem

COELLO = "Coello Coello & Mezura Montes (2002); BoTorch"


def pressure_vessel() -> Problem:
    # BoTorch rounds the thicknesses in the cost alone and not in the constraints; here they are multiples.
    sixteenths = FloatDistribution(0.0, 10.0, step=0.0625)
    return from_botorch(
        synthetic.PressureVessel(),
        "pressure-vessel",
        "the cost of a vessel: two thicknesses in sixteenths of an inch, radius and length",
        COELLO,
        names=("shell", "head", "radius", "length"),
        finer={"shell": sixteenths, "head": sixteenths},
        optimum=6059.714335048436,
        at=(0.8125, 0.4375, 42.09844559585492, 176.63659584243945),
    )


def speed_reducer() -> Problem:
    return from_botorch(
        synthetic.SpeedReducer(),
        "speed-reducer",
        "the weight of a gear box: seven dimensions, one a number of teeth",
        "Lemonge, Barbosa, Borges & Silva (2010); BoTorch",
        names=("face", "module", "teeth", "length_1", "length_2", "diameter_1", "diameter_2"),
        finer={"teeth": IntDistribution(17, 28)},
        optimum=2996.348164968529,
        at=(3.5, 0.7, 17.0, 7.3, 7.8, 3.350214666096447, 5.286683229757915),
    )


def spring() -> Problem:
    return from_botorch(
        synthetic.TensionCompressionString(),
        "spring",
        "the weight of a spring: wire, coil and the number of its turns",
        "Hedar & Fukushima (2006); BoTorch",
        names=("wire", "coil", "turns"),
        optimum=0.012665232788204733,
        at=(0.051689061065886645, 0.35671773939484613, 11.28896577524342),
    )


MAKERS: Mapping[str, Callable[..., Problem]] = {
    "pressure-vessel": pressure_vessel,
    "speed-reducer": speed_reducer,
    "spring": spring,
}
