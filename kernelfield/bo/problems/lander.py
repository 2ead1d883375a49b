"""The lunar lander: twelve numbers of a controller that is to set a craft down softly.

The controller aims for an angle and a height that follow from where the craft is, and fires an engine where it is
off by more than a threshold:

    angle  = clip(w0 x + w1 x', -w2, w2),    turn  = (angle - t) w4 - t' w5,
    height = w3 |x|,                         climb = (height - y) w6 - y' w7,

or turn = w8 and climb = -y' w9 once a leg stands. The objective is the mean reward of 50 seeded flights.

Source: Eriksson, Pearce, Gardner, Turner & Poloczek (2019), "Scalable Global Optimization via Local Bayesian
Optimization", section 3.4; the controller is the heuristic of the environment, its constants made parameters.
"""

from collections.abc import Callable, Mapping
from contextlib import closing

import numpy as np
from optuna.distributions import FloatDistribution

from kernelfield.bo.problems.catalogue import Outcome, Parameters, Problem
from kernelfield.bo.space import Space

try:
    import gymnasium
except ImportError:
    gymnasium = None

FLIGHTS, MOST_STEPS = 50, 5000
USUAL = (0.5, 1.0, 0.4, 0.55, 0.5, 1.0, 0.5, 0.5, 0.0, 0.5, 0.05, 0.05)  # the constants of the heuristic
NOTHING, LEFT, MAIN, RIGHT = range(4)


def lunar_lander(flights: int = FLIGHTS, seed: int = 0) -> Problem:
    """Errors: ImportError without gymnasium and its physics."""
    if gymnasium is None:
        raise ImportError("the lunar lander needs gymnasium, box2d and pygame; pip install 'kernelfield[lunar]'")
    names = [f"w{i}" for i in range(len(USUAL))]

    def function(parameters: Parameters) -> Outcome:
        weights = [parameters[name] for name in names]
        rewards = [flight(weights, seed + i) for i in range(flights)]
        return Outcome((float(np.mean(rewards)),))

    return Problem(
        "lunar-lander",
        "the reward of a landing controller of twelve numbers",
        Space({name: FloatDistribution(0.0, 2.0) for name in names}),
        ("maximize",),
        function,
        "Eriksson, Pearce, Gardner, Turner & Poloczek (2019)",
    )


def flight(weights: list[float], seed: int) -> float:
    """The reward of one flight."""
    try:
        world = gymnasium.make("LunarLander-v3", max_episode_steps=MOST_STEPS)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError("the lunar lander needs box2d and pygame; pip install 'kernelfield[lunar]'") from error
    with closing(world):
        state, _ = world.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            state, reward, landed, late, _ = world.step(action(state, weights))
            total, over = total + float(reward), landed or late
    return total


def action(state: np.ndarray, weights: list[float]) -> int:
    """Which engine fires at a state: x, y, their velocities, the angle, its velocity, and whether each leg stands."""
    x, y, dx, dy, tilt, spin, left_leg, right_leg = state
    w = weights
    angle = np.clip(w[0] * x + w[1] * dx, -w[2], w[2])
    turn, climb = (angle - tilt) * w[4] - spin * w[5], (w[3] * abs(x) - y) * w[6] - dy * w[7]
    if left_leg or right_leg:
        turn, climb = w[8], -dy * w[9]
    if climb > abs(turn) and climb > w[10]:
        return MAIN
    if turn < -w[11]:
        return RIGHT
    return LEFT if turn > w[11] else NOTHING


MAKERS: Mapping[str, Callable[..., Problem]] = {"lunar-lander": lunar_lander}
