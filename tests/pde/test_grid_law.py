"""Laws on grids: exact evaluation at points of any kind, and low-rank covariances."""

import torch
from torch.testing import assert_close

from kernelfield.pde.discretisation import mesh
from kernelfield.pde.grid_law import LowRank, at


def test_points_on_a_grid_and_scattered_ones_are_evaluated_alike():
    functions = [lambda x, order: torch.stack([x, x**2, x**3], 1), lambda x, order: torch.stack([x.sin(), x.cos()], 1)]
    T = torch.randn(3, 2, 4)
    points = mesh([torch.linspace(0, 1, 5), torch.linspace(0, 2, 7)])
    whole = at(functions, T, points, (0, 0))
    expect = torch.einsum("ni,nj,ijk->nk", functions[0](points[:, 0], 0), functions[1](points[:, 1], 0), T)
    assert_close(whole, expect)
    assert_close(at(functions, T, points[[3, 11, 20, 33]], (0, 0)), expect[[3, 11, 20, 33]])  # no grid: 16 cells
    jittered = points + 1e-3 * torch.rand(35, 2)
    expect = torch.einsum("ni,nj,ijk->nk", functions[0](jittered[:, 0], 0), functions[1](jittered[:, 1], 0), T)
    assert_close(at(functions, T, jittered, (0, 0)), expect)


def test_a_low_rank_matrix_is_its_root_times_itself():
    root = torch.randn(6, 3)
    matrix = LowRank(lambda: root)
    assert_close(matrix.diagonal(), matrix.to_dense().diagonal())
