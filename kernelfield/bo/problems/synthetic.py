"""Synthetic functions with one objective: classics, constrained, mixed, with a fidelity, and draws in high dimension.

The classics are BoTorch's functions. The draws are those of Li, Rudner & Wilson (2024):

    polynomial    f(x) = sum_j prod_i (x_ij - c_ij),    x and c as 4 rows of d / 4, c standard normal,
    network       f(x) = w3' tanh(W2 tanh(W1 x + b1) + b2) + b3,    all of it standard normal,

on the unit cube, to be maximised. The polynomial has degree one in each input, so its greatest value lies at a
corner; its columns share no input, so that corner is found exactly. The network's is not known.

Sources: Surjanovic & Bingham, "Virtual Library of Simulation Experiments"; Gelbart, Snoek & Adams (2014) for the disk
that constrains Branin's function; Letham et al. (2019) and Gramacy et al. (2016) for the problems of their
names; Gardner et al. (2014), "Bayesian Optimization with Inequality Constraints"; Keane (1994).
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise, product

import numpy as np
import torch
from botorch.test_functions import multi_fidelity, synthetic
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kernelfield.bo.problems.botorch import from_botorch, unit_cube
from kernelfield.bo.problems.catalogue import Outcome, Parameters, Problem
from kernelfield.bo.space import Distribution, Space

LIBRARY = "Surjanovic & Bingham, Virtual Library of Simulation Experiments; BoTorch"
LI = "Li, Rudner & Wilson (2024), section 4"
BRANIN = 10 / (8 * math.pi)  # at (pi, 2.275), where the square vanishes and the cosine is -1
HARTMANN = -3.3223680  # to what single precision, in which BoTorch may hold the constants, leaves of it
HARTMANN_AT = (0.20168951, 0.15001069, 0.47687397, 0.27533243, 0.31165162, 0.65730053)


def branin() -> Problem:
    return from_botorch(
        synthetic.Branin(), "branin", "two inputs, three equal minima", LIBRARY, optimum=BRANIN, at=(math.pi, 2.275)
    )


def hartmann6() -> Problem:
    function = synthetic.Hartmann(6)
    return from_botorch(
        function, "hartmann6", "six inputs, six local minima", LIBRARY, optimum=HARTMANN, at=HARTMANN_AT
    )


def ackley(dimensions: int = 10) -> Problem:
    function = synthetic.Ackley(dimensions)
    return from_botorch(function, "ackley", "a narrow well among many shallow ones", LIBRARY)


def levy(dimensions: int = 20) -> Problem:
    return from_botorch(synthetic.Levy(dimensions), "levy", "waves along every input, on a bowl", LIBRARY)


def rosenbrock(dimensions: int = 6) -> Problem:
    return from_botorch(synthetic.Rosenbrock(dimensions), "rosenbrock", "a curved, flat valley", LIBRARY)


def griewank(dimensions: int = 6) -> Problem:
    return from_botorch(synthetic.Griewank(dimensions), "griewank", "a bowl with regular ripples", LIBRARY)


def constrained_branin() -> Problem:
    plain = branin()

    def function(parameters: Parameters) -> Outcome:
        disk = (parameters["x0"] - 2.5) ** 2 + (parameters["x1"] - 7.5) ** 2 - 50
        return Outcome(plain.function(parameters).values, (disk,))

    return Problem(
        "constrained-branin",
        "Branin's function within a disk that holds one of its three minima",
        plain.space,
        ("minimize",),
        function,
        "Gelbart, Snoek & Adams (2014)",
        constraints=1,
        optimum=BRANIN,
        solution=plain.solution,
    )


def constrained_hartmann6() -> Problem:
    return from_botorch(
        synthetic.ConstrainedHartmann(6),
        "constrained-hartmann6",
        "Hartmann's function in six inputs within the unit ball",
        "Letham et al. (2019); BoTorch",
        optimum=HARTMANN,
        at=HARTMANN_AT,
    )


def constrained_gramacy() -> Problem:
    return from_botorch(
        synthetic.ConstrainedGramacy(),
        "constrained-gramacy",
        "a plane under two constraints, one of them wavy",
        "Gramacy et al. (2016); BoTorch",
        optimum=0.5997880520045812,
        at=(0.19512268350006978, 0.4046653685045114),
    )


def gardner() -> Problem:
    """The first problem of the paper: f = cos 2x cos y + sin x under cos(x + y) <= 1/2, on [0, 6]^2."""

    def function(parameters: Parameters) -> Outcome:
        x, y = parameters["x0"], parameters["x1"]
        return Outcome((math.cos(2 * x) * math.cos(y) + math.sin(x),), (math.cos(x + y) - 0.5,))

    # Neither term is below -1, and both are -1 here, where cos(x + y) is 0.
    return Problem(
        "gardner",
        "two inputs, feasible in separate bands",
        Space({name: FloatDistribution(0.0, 6.0) for name in ("x0", "x1")}),
        ("minimize",),
        function,
        "Gardner et al. (2014), section 4.1",
        constraints=1,
        optimum=-2.0,
        solution={"x0": 1.5 * math.pi, "x1": 0.0},
    )


def keane_bump(dimensions: int = 2) -> Problem:
    plane = dimensions == 2
    return from_botorch(
        synthetic.KeaneBumpFunction(dimensions),
        "keane-bump",
        "bumps whose best lies on the edge of the feasible",
        "Keane (1994); BoTorch",
        optimum=-0.3649797458950543 if plane else None,
        at=(1.6008604373348825, 0.4684980542106759) if plane else None,
    )


def ackley_mixed(dimensions: int = 53, seed: int | None = None) -> Problem:
    """Three real inputs, the others 0 or 1; a seed moves the optimum away from the origin."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        function = synthetic.AckleyMixed(dimensions, randomize_optimum=seed is not None)
    return from_botorch(function, "ackley-mixed", "Ackley's function of fifty bits and three numbers", LIBRARY)


TENTHS = 10
RECIPES = {"base": 0.35, "acid": 0.9, "salt": 0.65, "water": 0.1}  # in an order that says nothing
MIXED = -3.3141948122022513  # the least of the 44 cells' minima
MIXED_AT = (0.20205734734390846, 0.14988285543655475, 0.47590754184890205, 0.27553297876291855)


def hartmann6_mixed() -> Problem:
    """Four real inputs, one in tenths, and one of four choices that stand for values of the sixth."""
    plain = synthetic.Hartmann(6)
    names = [f"x{i}" for i in range(4)]

    def function(parameters: Parameters) -> Outcome:
        inputs = [parameters[name] for name in names]
        inputs += [parameters["tenths"] / TENTHS, RECIPES[parameters["recipe"]]]
        return Outcome((plain.evaluate_true(torch.tensor([inputs], dtype=torch.double)).item(),))

    space: dict[str, Distribution] = {
        **{name: FloatDistribution(0.0, 1.0) for name in names},
        "tenths": IntDistribution(0, TENTHS),
        "recipe": CategoricalDistribution(list(RECIPES)),
    }
    return Problem(
        "hartmann6-mixed",
        "Hartmann's function of four numbers, a whole number and a choice",
        Space(space),
        ("minimize",),
        function,
        "Hartmann's function of BoTorch, two of its inputs made discrete",
        optimum=MIXED,
        solution={**dict(zip(names, MIXED_AT, strict=True)), "tenths": 3, "recipe": "salt"},
    )


def labs(dimensions: int = 30) -> Problem:
    function = synthetic.Labs(dimensions)
    # BoTorch has the value of its optimum to three digits.
    at = torch.tensor(function._optimizers or [], dtype=torch.double)
    best = function.evaluate_true(at)[0].item() if len(at) else None
    return from_botorch(
        function,
        "labs",
        "a binary sequence of low autocorrelation",
        "Packebusch & Mertens (2016); BoTorch",
        optimum=best,
    )


def branin_fidelity() -> Problem:
    return from_botorch(
        multi_fidelity.AugmentedBranin(),
        "branin-fidelity",
        "Branin's function with a fidelity, which is exact at 1",
        "Wu, Toscano-Palmerin, Frazier & Wilson (2019); BoTorch",
        names=("x0", "x1", "fidelity"),
        optimum=BRANIN,
        at=(math.pi, 2.275, 1.0),
    )


def hartmann6_fidelity() -> Problem:
    return from_botorch(
        multi_fidelity.AugmentedHartmann(),
        "hartmann6-fidelity",
        "Hartmann's function with a fidelity, which is exact at 1",
        "Wu, Toscano-Palmerin, Frazier & Wilson (2019); BoTorch",
        names=(*(f"x{i}" for i in range(6)), "fidelity"),
        optimum=HARTMANN,
        at=(*HARTMANN_AT, 1.0),
    )


def polynomial(dimensions: int = 200, seed: int = 0) -> Problem:
    if dimensions < 4 or dimensions % 4:
        raise ValueError(f"the polynomial takes its inputs by fours, got dimensions={dimensions}; use a multiple of 4")
    centres = np.random.default_rng(seed).standard_normal((4, dimensions // 4))
    space = unit_cube(dimensions)

    def value(x: np.ndarray) -> float:
        return float((x.reshape(4, -1) - centres).prod(0).sum())

    corners = np.array(list(product((0.0, 1.0), repeat=4)))  # (16, 4)
    best = corners[(corners[:, :, None] - centres).prod(1).argmax(0)].T.ravel()
    return Problem(
        "polynomial",
        "a sum of products of four inputs each",
        space,
        ("maximize",),
        lambda parameters: Outcome((value(space_row(space, parameters)),)),
        LI,
        optimum=value(best),
        solution=dict(zip(space.parameters, best.tolist(), strict=True)),
    )


def network(dimensions: int = 400, seed: int = 0, width: int = 256) -> Problem:
    generator = np.random.default_rng(seed)
    sizes = [dimensions, width, width, 1]
    layers = [
        (generator.standard_normal((wide, fan)), generator.standard_normal(wide)) for fan, wide in pairwise(sizes)
    ]
    space = unit_cube(dimensions)

    def function(parameters: Parameters) -> Outcome:
        x = space_row(space, parameters)
        for weights, bias in layers[:-1]:
            x = np.tanh(weights @ x + bias)
        weights, bias = layers[-1]
        return Outcome((float((weights @ x + bias)[0]),))

    return Problem("network", "a draw of a finite tanh network", space, ("maximize",), function, LI)


def space_row(space: Space, parameters: Parameters) -> np.ndarray:
    """The values of all parameters (d,) in the order of the space, which has numbers alone."""
    return np.array([parameters[name] for name in space.parameters], dtype=float)


MAKERS: Mapping[str, Callable[..., Problem]] = {
    "branin": branin,
    "hartmann6": hartmann6,
    "ackley": ackley,
    "levy": levy,
    "rosenbrock": rosenbrock,
    "griewank": griewank,
    "constrained-branin": constrained_branin,
    "constrained-hartmann6": constrained_hartmann6,
    "constrained-gramacy": constrained_gramacy,
    "gardner": gardner,
    "keane-bump": keane_bump,
    "ackley-mixed": ackley_mixed,
    "hartmann6-mixed": hartmann6_mixed,
    "labs": labs,
    "branin-fidelity": branin_fidelity,
    "hartmann6-fidelity": hartmann6_fidelity,
    "polynomial": polynomial,
    "network": network,
}
