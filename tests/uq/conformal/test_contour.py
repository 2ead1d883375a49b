"""Outlines close, turn the right way around, and enclose what they should."""

import math

import pytest
import torch

from kernelfield.uq.conformal.contour import outlines

GRID = torch.linspace(-2, 2, 161)


def area(polygon: torch.Tensor) -> float:
    """Positive for a polygon that turns counterclockwise."""
    x, y = polygon.T
    return 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum().item()


def test_a_ring_has_an_edge_outside_and_one_inside() -> None:
    radius = (GRID[:, None].square() + GRID.square()).sqrt()
    found = sorted(area(polygon) for polygon in outlines((radius - 1).abs(), GRID, GRID, 0.5))
    assert found == pytest.approx([-math.pi / 4, math.pi * 9 / 4], rel=2e-3)


def test_pieces_are_apart_and_the_border_of_the_grid_closes_them() -> None:
    values = GRID[:, None].abs().expand(-1, len(GRID))  # a strip through the whole grid
    (strip,) = outlines(values, GRID, GRID, 0.5)
    assert area(strip) == pytest.approx(4.0, rel=1e-9)
    left, right = outlines((values - 1).abs(), GRID, GRID, 0.25)
    assert [area(left), area(right)] == pytest.approx([2.0, 2.0], rel=1e-9)
    assert outlines(values, GRID, GRID, -1.0) == []


def test_saddles_are_cut_so_that_pieces_stay_apart() -> None:
    checkers = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for values in (checkers, 1 - checkers):
        polygons = outlines(values, torch.arange(2.0), torch.arange(2.0), 0.5)
        assert [area(polygon) for polygon in polygons] == pytest.approx([0.125, 0.125])
