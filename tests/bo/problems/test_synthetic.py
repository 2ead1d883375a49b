"""Synthetic functions: their optima by formulas, by polishing, and by going through the corners."""

import itertools
import math

import numpy as np
import pytest
import torch
from botorch.test_functions import Hartmann
from scipy.optimize import minimize

from kernelfield.bo.problems.catalogue import problem
from kernelfield.bo.problems.synthetic import RECIPES


def test_branin_and_hartmann_have_the_textbook_minima() -> None:
    assert problem("branin").optimum == pytest.approx(0.397887, abs=5e-7)
    assert problem("hartmann6").optimum == pytest.approx(-3.32237, abs=5e-6)
    for x0, x1 in ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)):
        assert problem("branin")({"x0": x0, "x1": x1}).values[0] == pytest.approx(problem("branin").optimum, abs=1e-12)


def test_one_of_branins_minima_is_within_the_disk() -> None:
    inside = problem("constrained-branin")
    assert [inside({"x0": a, "x1": b}).feasible for a, b in ((-math.pi, 12.275), (math.pi, 2.275), (9.42, 2.475))] == [
        False,
        True,
        False,
    ]


def test_gardners_constraint_is_that_of_the_sum_of_angles() -> None:
    x, y = 1.2, 3.4
    found = problem("gardner")({"x0": x, "x1": y})
    assert found.constraints[0] == pytest.approx(math.cos(x) * math.cos(y) - math.sin(x) * math.sin(y) - 0.5)
    assert found.values[0] == pytest.approx(math.cos(2 * x) * math.cos(y) + math.sin(x))


def test_no_cell_of_the_mixed_hartmann_has_a_lower_minimum() -> None:
    function, one = Hartmann(6), problem("hartmann6-mixed")

    def value(z: np.ndarray, rest: list[float]) -> tuple[float, np.ndarray]:
        x = torch.tensor(z, requires_grad=True)
        f = function(torch.cat([x, torch.tensor(rest)])[None])[0]
        return f.item(), torch.autograd.grad(f, x)[0].numpy()

    starts = np.random.default_rng(0).uniform(size=(3, 4))
    for tenths, level in itertools.product((2, 3, 4), RECIPES.values()):
        for start in starts:
            found = minimize(value, start, args=([tenths / 10, level],), jac=True, bounds=[(0, 1)] * 4, tol=1e-12)
            assert found.fun >= one.optimum - 1e-6


def test_the_polynomial_is_greatest_at_the_best_of_all_corners() -> None:
    one = problem("polynomial", dimensions=12, seed=3)
    corners = itertools.product((0.0, 1.0), repeat=12)
    best = max(one.function(dict(zip(one.space.parameters, corner, strict=True))).values[0] for corner in corners)
    assert one.optimum == pytest.approx(best, rel=1e-12)


def test_the_polynomial_multiplies_inputs_a_quarter_apart() -> None:
    one = problem("polynomial", dimensions=8, seed=0)
    c = np.random.default_rng(0).standard_normal((4, 2)).ravel()
    x = np.random.default_rng(1).uniform(size=8)
    expected = sum(math.prod(x[i + 2 * row] - c[i + 2 * row] for row in range(4)) for i in range(2))
    assert one(dict(zip(one.space.parameters, x.tolist(), strict=True))).values[0] == pytest.approx(expected)


def test_the_network_has_the_variance_of_its_law_over_draws() -> None:
    """Of w3' tanh(.) + b: the width times the mean square of the hidden units, and one."""
    x = {f"x{i}": 0.5 for i in range(20)}
    values = [problem("network", dimensions=20, seed=seed, width=16)(x).values[0] for seed in range(400)]
    z = np.random.default_rng(0).standard_normal((20000, 16))
    first = np.tanh(z * math.sqrt(20 * 0.25 + 1))
    second = np.tanh(np.random.default_rng(1).standard_normal(20000) * np.sqrt((first**2).sum(1) + 1))
    expected = 16 * np.mean(second**2) + 1
    assert np.var(values) == pytest.approx(expected, rel=6 * math.sqrt(2 / 400))


def test_draws_differ_by_their_seeds_alone() -> None:
    for name in ("polynomial", "network"):
        x = {f"x{i}": 0.3 for i in range(8)}
        first, again, other = (problem(name, dimensions=8, seed=seed)(x) for seed in (1, 1, 2))
        assert first == again != other
    with pytest.raises(ValueError, match="got dimensions=6"):
        problem("polynomial", dimensions=6)


def test_a_seed_moves_the_optimum_of_the_mixed_ackley_and_leaves_torch_alone() -> None:
    before = torch.get_rng_state()
    one = problem("ackley-mixed", dimensions=13, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 < sum(one.solution[f"x{i}"] for i in range(10)) < 10
    assert one(one.solution).values[0] == pytest.approx(0.0, abs=1e-12)


def test_a_fidelity_below_one_changes_the_value() -> None:
    for name in ("branin-fidelity", "hartmann6-fidelity"):
        one = problem(name)
        assert one({**one.solution, "fidelity": 0.5}).values[0] != pytest.approx(one.optimum, abs=1e-3)
