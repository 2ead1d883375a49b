"""Several objectives: hypervolumes by fronts, and the published surfaces of the oil sorbent."""

import itertools

import numpy as np
import pytest
import torch
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning

from kernelfield.bo.problems.catalogue import problem
from kernelfield.bo.problems.objectives import LEVELS, surfaces


def hypervolume(values: np.ndarray, reference: tuple[float, ...]) -> float:
    """That of values to be maximised."""
    return FastNondominatedPartitioning(torch.tensor(reference), torch.from_numpy(values)).compute_hypervolume().item()


@pytest.mark.slow
@pytest.mark.parametrize(("objectives", "points"), [(2, 2000), (3, 400)])
def test_the_front_of_dtlz5_comes_near_its_hypervolume_from_below(objectives: int, points: int) -> None:
    one = problem("dtlz5", dimensions=6, objectives=objectives)
    middle = {f"x{i}": 0.5 for i in range(6)}
    front = np.array([one({**middle, "x0": x}).values for x in np.linspace(0, 1, points)])
    found = hypervolume(-front, tuple(-r for r in one.reference))
    gap = one.best_hypervolume - found
    assert 0 < gap < 20 * np.pi / points  # steps of at most pi / (2 points) under a reference of 10


@pytest.mark.slow
def test_the_front_of_dtlz7_comes_near_its_hypervolume_from_below() -> None:
    one = problem("dtlz7", dimensions=3)
    front = np.array([one({"x0": x, "x1": 0.0, "x2": 0.0}).values for x in np.linspace(0, 1, 2000)])
    gap = one.best_hypervolume - hypervolume(-front, tuple(-r for r in one.reference))
    assert 0 < gap < 15 / 2000


@pytest.mark.slow
def test_no_other_point_of_dtlz_adds_to_the_front() -> None:
    """The best hypervolume is an upper bound with everything else thrown in."""
    one = problem("dtlz5", dimensions=4)
    rows = one.space.decode(np.concatenate([one.space.scattered(256, 0), one.space.nearest(np.full((1, 4), 0.5))]))
    rows += [{**row, "x2": 0.5, "x3": 0.5} for row in rows]
    values = np.array([one(row).values for row in rows])
    assert hypervolume(-values, tuple(-r for r in one.reference)) < one.best_hypervolume


@pytest.mark.slow
def test_the_oil_sorbents_levels_have_the_published_hypervolume() -> None:
    """1177461.0 is that of all 50000 designs of the paper, by Li, Rudner & Wilson's code."""
    shares = [np.array(values) / max(values) for values in LEVELS.values()]
    first = np.array([3 / 7, 4 / 6, 1, 6 / 4, 7 / 3]) / (7 / 3)
    fifth = np.array([0, 0.04, 0.08, 0.10, 0.20]) / 0.2
    designs = np.array(list(itertools.product(first, *shares[:3], fifth, *shares[3:])))
    assert hypervolume(surfaces(designs), (133.9736, 4.8289, -38.6565)) == pytest.approx(1177461.0, abs=0.5)


def test_a_design_of_the_oil_sorbent_is_a_row_of_its_surfaces() -> None:
    one = problem("oil-sorbent")
    (row,) = one.space.decode(one.space.scattered(1, seed=5))
    v = [LEVELS[name][x] / max(LEVELS[name]) if name in LEVELS else x for name, x in row.items()]
    assert one(row).values == pytest.approx(surfaces(np.array(v)).tolist())
    # The angle with all shares at their greatest, added up by hand from the paper's coefficients.
    linear = -78.3309 + 98.6355 + 300.0701 + 89.8360 + 208.2343 + 332.9341 + 135.6621
    squares = -16.7536 - 45.6507 - 91.4134 - 76.8701
    crossed = -11.0715 + 201.8934 + 17.1270 + 2.5198 - 109.3922 + 30.1607 - 46.1790 + 19.2888 - 102.9493 - 19.1245
    crossed += (
        53.6297 - 73.0649 - 37.7181 - 219.1268 - 55.3704 + 3.8778 - 6.9252 - 105.1650 - 34.3181 - 36.3892 - 82.3222
    )
    assert surfaces(np.ones(7))[0] == pytest.approx(-197.0928 + linear + squares + crossed)


def test_known_hypervolumes_and_references_are_botorchs() -> None:
    assert problem("branin-currin").best_hypervolume == pytest.approx(59.36011875)
    assert problem("branin-currin").reference == (18.0, 6.0)
    assert problem("dtlz1").best_hypervolume == pytest.approx(159999.75)
    assert problem("penicillin").best_hypervolume == pytest.approx(2183455.91, abs=0.01)
    assert problem("vehicle-safety").best_hypervolume == pytest.approx(246.816, abs=1e-3)
    assert problem("car-side-impact").best_hypervolume == pytest.approx(484.727, abs=1e-3)


def test_penicillin_runs_in_the_middle_of_its_space() -> None:
    one = problem("penicillin")
    values = one(one.space.decode(np.full((1, 7), 0.5))[0]).values
    assert values[0] < 0 < values[1]
