"""Fronts and hypervolumes are those of BoTorch, of a sum over cells, and of closed forms."""

import itertools

import numpy as np
import pytest
import torch
from botorch.utils.multi_objective.hypervolume import Hypervolume, infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated

from kernelfield.uq.pareto import efficient, hypervolume, hypervolumes, reference_point


def points(n: int, m: int, *, whole: bool = False) -> np.ndarray:
    """On a sphere, so that most are efficient, and whole numbers with many ties."""
    rng = np.random.default_rng(n + m)
    if whole:
        return rng.integers(-2, 3, (n, m)).astype(float)
    z = np.abs(rng.standard_normal((n, m)))
    return rng.uniform(0.8, 1.0, (n, 1)) * z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_the_front_is_that_of_botorch_and_equal_points_all_count(m, whole):
    values = points(60, m, whole=whole)
    assert np.array_equal(efficient(values), is_non_dominated(torch.from_numpy(values), deduplicate=False).numpy())


def test_the_front_tells_points_apart_whose_sums_round_alike():
    for values in ([[1e16, 0.0], [1e16, 1.0]], [[1e16, 1.0], [1e16, 0.0]]):
        mask = efficient(np.array(values))
        assert np.array(values)[mask].tolist() == [[1e16, 1.0]]


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("whole", [False, True])
def test_the_hypervolume_is_that_of_botorch(m, whole):
    values, reference = points(40, m, whole=whole), np.full(m, -0.1)
    front = torch.from_numpy(values[efficient(values)])
    expected = Hypervolume(torch.from_numpy(reference)).compute(front)
    assert hypervolume(values, reference) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_hypervolume_counts_the_cells_of_whole_numbers(m):
    values, reference = points(12, m, whole=True), np.full(m, -2.0)
    cells = itertools.product(range(-2, 2), repeat=m)
    dominated = sum(bool((values >= np.array(cell) + 1).all(1).any()) for cell in cells)
    assert hypervolume(values, reference) == dominated


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_hypervolume_over_time_is_that_of_the_first_points(m):
    values, reference = points(30, m), np.full(m, 0.2)
    expected = [hypervolume(values[: k + 1], reference) for k in range(len(values))]
    assert hypervolumes(values, reference) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_points_below_the_reference_have_no_volume():
    assert hypervolume(np.array([[1.0, -1.0]]), np.zeros(2)) == 0.0
    assert hypervolumes(np.array([[1.0, -1.0], [1.0, 1.0]]), np.zeros(2)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("m", [2, 3])
def test_the_reference_point_is_that_of_botorch(m):
    values = points(40, m)
    front = torch.from_numpy(values[efficient(values)])
    assert reference_point(values) == pytest.approx(infer_reference_point(front).numpy(), rel=1e-12)
    assert reference_point(values[:1]) == pytest.approx(infer_reference_point(torch.from_numpy(values[:1]))[:].numpy())


def test_a_front_without_extent_has_a_reference_point_below_it():
    assert (reference_point(np.zeros((2, 3))) < 0).all()
