"""Points of boxes and of masks."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.pde.benchmarks import in_the_l
from kernelfield.pde.points import place, weak_norm
from kernelfield.pde.problem import Problem, Term

CPU = torch.device("cpu")
SQUARE = ((-1.0, 1.0),) * 2
LAPLACIAN = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))


def masked(inside):
    return Problem("m", SQUARE, LAPLACIAN, lambda X: 0 * X[:, 0], lambda X: X.sum(1), inside=inside)


def test_a_disc_has_its_boundary_on_the_circle_and_its_points_within():
    points = place(masked(lambda X: X.norm(dim=1) < 0.8), (12, 12), CPU)
    assert_close(points.values[0].norm(dim=1), torch.full((len(points.values[0]),), 0.8))
    assert (points.interior.norm(dim=1) < 0.8).all()
    assert_close(points.values[1], points.values[0].sum(1))


def test_the_boundary_of_the_l_goes_round_its_corner_once():
    points = place(masked(in_the_l), (9, 9), CPU)
    edge = points.values[0]
    assert len(edge.unique(dim=0)) == len(edge) == 32 + 1 - 1  # the perimeter of 8 in steps of a quarter
    assert (edge.abs().sum(1) == 0).sum() == 1
    assert in_the_l(points.offset).all()


def test_a_corner_of_a_box_is_one_row():
    box = Problem("b", SQUARE, LAPLACIAN, lambda X: 0 * X[:, 0], lambda X: X.sum(1))
    assert len(place(box, (5, 6), CPU).values[0]) == 18


def test_the_weak_norm_is_the_error_that_makes_the_residual():
    problem = Problem("w", ((0.0, 2.0),), (Term(3.0, (2,)),), lambda X: 0 * X[:, 0], lambda X: 0 * X[:, 0])
    points = place(problem, (65,), CPU)
    wave = (math.pi / 2 * 5 * points.offset[:, 0]).sin() * 0.01
    assert weak_norm(problem, points, 3 * (math.pi / 2 * 5) ** 2 * wave) == pytest.approx(
        float(wave.square().mean().sqrt()), rel=1e-12
    )


def test_grids_and_masks_without_points_are_refused():
    with pytest.raises(ValueError, match="at least 4 points"):
        place(masked(in_the_l), (3, 9), CPU)
    with pytest.raises(ValueError, match="holds for no point"):
        place(masked(lambda X: X[:, 0] > 5), (9, 9), CPU)
