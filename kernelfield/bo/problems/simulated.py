"""Simulators: a reaction in a plane, the spread of a pest, and an interferometer that is out of line.

The Brusselator on a square of 64 x 64 cells of side one, with no flux through the border, is

    u_t = d0 laplace(u) + a - (b + 1) u + u^2 v,    v_t = d1 laplace(v) + b u - u^2 v

from u = a, v = b / a + noise, up to time 20, by explicit Euler steps: the diffusion is stable below
a step of 1 / (4 d) = 0.05, and steps of 0.01 and 0.001 agree to four digits. The objective is the variance of both
fields, weighted 1 on the two outer rings of cells and 1/10 within.

In the interferometer, two mirrors tilt one of two Gaussian beams. On the camera it is displaced and its wave
front inclined, so that with the weights w of a Gaussian window and a phase p between the arms

    I(p) = sum w |E1 + E2 exp(i (k . r + p))|^2,    visibility = (high - low) / (high + low),

high = log sum_p exp I(p) and low = -log sum_p exp(-I(p)), soft forms of the greatest and the least. Both beams
equal and in line is best: their cross term is at most the mean of their squares.

Sources: Li, Rudner & Wilson (2024), section 4 and their code; Oh, Tomczak, Gavves & Welling (2019), "Combinatorial
Bayesian Optimization using the Graph Cartesian Product", for the pests; Sorokin et al. (2020), "Interferobot", for
the interferometer, of which this is a small form of our own.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy.special import logsumexp

from kernelfield.bo.problems.catalogue import Outcome, Parameters, Problem
from kernelfield.bo.space import Space

LI = "Li, Rudner & Wilson (2024), section 4"
CELLS, UNTIL, STEP = 64, 20.0, 1e-2
NOISE, BLOWN_UP = 0.1, 1e5  # of the start; in place of what is not finite
STAGES, ACTIONS, SIMULATIONS, THRESHOLD = 25, 5, 100, 0.1
PRICE = (0.0, 1.0, 0.8, 0.7, 0.5)  # of each action, the first of which is to do nothing
DISCOUNT = (0.0, 0.2, 0.3, 0.3, 0.0)  # the most, where an action is taken at every stage
CONTROL = (1.0, 2 / 7, 3 / 7, 3 / 7, 5 / 7)  # second parameter of the beta law of what a pesticide kills
TOLERANCE = (0.0, 1 / 7, 2.5 / 7, 2 / 7, 0.5 / 7)  # what pests learn, added to it by a use at all stages
PIXELS, PHASES, WAIST, WINDOW = 64, 16, 0.5, 0.95
LEVER, INCLINE, BRIGHTNESS = (0.6, 0.3), 12.0, 100.0  # of a mirror's tilt on the camera; intensity of a beam in line


def brusselator(seed: int = 0) -> Problem:
    box = {"a": (0.1, 5.0), "b": (0.1, 5.0), "d0": (0.01, 5.0), "d1": (0.01, 5.0)}

    def function(parameters: Parameters) -> Outcome:
        return Outcome((brusselator_spread(*(parameters[name] for name in box), seed=seed),))

    return Problem(
        "brusselator",
        "the variance of a reaction that forms patterns, about a second each",
        Space({name: FloatDistribution(*ends) for name, ends in box.items()}),
        ("minimize",),
        function,
        LI,
    )


def brusselator_spread(a: float, b: float, d0: float, d1: float, *, seed: int = 0, step: float = STEP) -> float:
    """The weighted variance of u and v at the end."""
    generator = np.random.default_rng(seed)
    noise, replacement = generator.standard_normal((CELLS, CELLS)), generator.standard_normal((2, CELLS, CELLS))
    u, v = (np.empty((CELLS + 2, CELLS + 2)) for _ in range(2))  # with a border of their own neighbours
    inner = np.s_[1:-1, 1:-1]
    u[inner], v[inner] = a, b / a + NOISE * noise
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(round(UNTIL / step)):
            slope_u, slope_v = d0 * _laplace(u), d1 * _laplace(v)
            now_u, now_v = u[inner], v[inner]
            reaction = now_u * (now_u * now_v - b)
            now_u += step * (slope_u + a - now_u + reaction)
            now_v += step * (slope_v - reaction)
    weight = np.ones((CELLS, CELLS))
    weight[2:-2, 2:-2] = 0.1
    fields = np.stack([u[inner], v[inner]])
    fields = np.where(np.isfinite(fields), fields, BLOWN_UP * replacement)
    return float((weight * fields).var(ddof=1))


def _laplace(field: np.ndarray) -> np.ndarray:
    """The five-point Laplacian (n, n) of a field (n + 2, n + 2), whose border is set to its neighbours first."""
    field[0], field[-1], field[:, 0], field[:, -1] = field[1], field[-2], field[:, 1], field[:, -2]
    around = field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:]
    return around - 4 * field[1:-1, 1:-1]


def pest_control(seed: int = 1) -> Problem:
    space = Space({f"stage{i}": CategoricalDistribution(list(range(ACTIONS))) for i in range(STAGES)})

    def function(parameters: Parameters) -> Outcome:
        return Outcome((pest_cost([parameters[name] for name in space.parameters], seed),))

    return Problem(
        "pest-control",
        "what to spray at each of 25 stages: one of four pesticides, or nothing",
        space,
        ("minimize",),
        function,
        "Oh, Tomczak, Gavves & Welling (2019)",
    )


def pest_cost(actions: list[int], seed: int) -> float:
    """The price of the pesticides, and the mean number of stages at which pests were above the threshold.

    The random numbers of a stage are those of every other, as in the published code.
    """

    def beta(second: float, first: float = 1.0) -> np.ndarray:
        return np.random.RandomState(seed).beta(first, second, size=SIMULATIONS)

    pests, spread = beta(30.0), beta(17 / 3)
    control = list(CONTROL)
    cost = 0.0
    for action in actions:
        cost += float(np.mean(pests > THRESHOLD))
        if not action:
            pests = spread * (1 - pests) + pests
            continue
        pests = (1 - beta(control[action])) * pests
        control[action] += TOLERANCE[action] / len(actions)
        cost += PRICE[action] * (1 - DISCOUNT[action] * actions.count(action) / len(actions))
    return cost


def interferometer(seed: int = 1) -> Problem:
    names = ("first_x", "first_y", "second_x", "second_y")
    line = np.random.default_rng(seed).uniform(-0.5, 0.5, 4)  # where the beams are in line

    def function(parameters: Parameters) -> Outcome:
        tilt = np.array([parameters[name] for name in names]) - line
        return Outcome((visibility(tilt[:2], tilt[2:]),))

    solution = dict(zip(names, line.tolist(), strict=True))
    return Problem(
        "interferometer",
        "the visibility of fringes, by the tilts of two mirrors",
        Space({name: FloatDistribution(-1.0, 1.0) for name in names}),
        ("maximize",),
        function,
        "after Sorokin et al. (2020)",
        optimum=function(solution).values[0],
        solution=solution,
    )


def visibility(first: np.ndarray, second: np.ndarray) -> float:
    """The soft visibility of the fringes at two mirrors' tilts (2,) from where the beams are in line."""
    axis = np.linspace(-1, 1, PIXELS)
    window = np.exp(-(axis**2) / (2 * WINDOW) ** 2)  # the camera is two units wide
    steady = np.exp(-(axis**2) / WAIST**2)
    cross, moved = 1.0 + 0.0j, 1.0
    for tilt_1, tilt_2 in zip(first, second, strict=True):  # both beams and the window are products over the axes
        beam = np.exp(-((axis - LEVER[0] * tilt_1 - LEVER[1] * tilt_2) ** 2) / WAIST**2)
        cross *= (window * steady * beam * np.exp(1j * INCLINE * (tilt_1 + tilt_2) * axis)).sum()
        moved *= (window * beam**2).sum()
    unit = BRIGHTNESS / (window * steady**2).sum() ** 2
    phases = 2 * math.pi * np.arange(PHASES) / PHASES
    intensity = BRIGHTNESS + unit * moved + 2 * unit * (cross * np.exp(1j * phases)).real
    high, low = logsumexp(intensity), -logsumexp(-intensity)
    return float((high - low) / (high + low))


MAKERS: Mapping[str, Callable[..., Problem]] = {
    "brusselator": brusselator,
    "pest-control": pest_control,
    "interferometer": interferometer,
}
