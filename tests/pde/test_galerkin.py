"""Projected equations against a dense solve, and boundary values against what they should be."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.kronecker import contract
from kernelfield.pde.axis import Axis, AxisBasis, Bands, Condition
from kernelfield.pde.galerkin import Grid, LinearOperator, boundary_values
from kernelfield.pde.separable import mesh


def axis(count, frequency, ends):
    basis = AxisBasis.of(torch.linspace(0, 1, count), Bands((0.0, frequency), (0.3, 0.3)))
    return Axis.of(basis, [Condition(f"x{'-+'[end]}", end, 0) for end in ends])


GRIDS = {
    "plane": Grid((axis(24, 1.0, [0, 1]), axis(20, 2.0, [0, 1]))),
    "time": Grid((axis(24, 1.0, [0, 1]), axis(20, 2.0, [0]))),
    "space": Grid((axis(13, 0.5, [0, 1]), axis(14, 0.5, [0, 1]), axis(15, 0.5, [0, 1]))),
}


def field(grid, function):
    points = [a.inner_nodes for a in grid.axes]
    return function(mesh(points)).reshape([len(x) for x in points])


def operators():
    plane, time, space = GRIDS.values()
    yield "constant", plane, [(1.0, (2, 0)), (3.0, (0, 2)), (-2.0, (1, 0)), (5.0, (0, 0))], True
    yield "of its own axis", plane, [(field(plane, lambda X: 1 + X[:, 0]), (2, 0)), (1.0, (0, 2))], True
    yield "a sum of axes", plane, [(1.0, (2, 0)), (1.0, (0, 2)), (field(plane, lambda X: X.sum(1)), (0, 0))], True
    yield "of the other axis", plane, [(field(plane, lambda X: 1 + X[:, 1]), (2, 0)), (1.0, (0, 2))], False
    yield "mixed", plane, [(1.0, (2, 0)), (1.0, (0, 2)), (0.5, (1, 1))], False
    yield "heat", time, [(-0.1, (2, 0)), (1.0, (0, 1))], True
    yield "three axes", space, [(1.0, (2, 0, 0)), (2.0, (0, 2, 0)), (1.0, (0, 0, 2))], True


@pytest.mark.parametrize(
    ("grid", "terms", "direct"), [case[1:] for case in operators()], ids=[c[0] for c in operators()]
)
def test_a_solve_is_that_of_the_written_out_system(grid, terms, direct):
    operator = LinearOperator.of(grid, terms)
    assert operator.direct is direct
    matrix = 0
    for coefficient, orders in terms:
        product = torch.eye(1)
        for a, order in zip(grid.axes, orders, strict=True):
            product = torch.kron(product, a.basis.at(a.inner_nodes, order) @ a.free)
        weight = coefficient.flatten()[:, None] if isinstance(coefficient, torch.Tensor) else coefficient
        matrix = matrix + weight * product
    test = torch.eye(1)
    for a in grid.axes:
        test = torch.kron(test, a.test)
    R = torch.randn(*(a.test.shape[1] for a in grid.axes))
    expect = torch.linalg.solve(test.mT @ matrix, R.flatten()).reshape(R.shape)
    got, report = operator.correct(R)
    assert report.converged and report.residual < 1e-10
    assert_close(got, expect, rtol=0, atol=1e-7 * float(expect.abs().max()))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_lift_has_the_boundary_values_of_a_function_in_the_basis(grid):
    """So it holds on each side, edges and corners included, and for sides without conditions nothing is asked."""
    C = torch.randn(*(a.basis.rank for a in grid.axes)) / 10

    def at(j, i):
        factors = [a.rows[i : i + 1] if k == j else a.basis.values for k, a in enumerate(grid.axes)]
        return contract(factors, C).squeeze(j)

    lifted = grid.lift(boundary_values(grid, at))
    for j, a in enumerate(grid.axes):
        only = [a.rows if k == j else None for k in range(len(grid.axes))]
        expect = contract(only, C)
        assert_close(contract(only, lifted), expect, rtol=0, atol=1e-8 * float(expect.abs().max()))


def test_free_functions_are_orthonormal_on_the_inner_nodes():
    grid = GRIDS["plane"]
    Y = torch.randn(*(a.test.shape[1] for a in grid.axes))
    assert_close(grid.project(grid.derivative(grid.free(Y), (0, 0))), Y, rtol=0, atol=1e-9)


def test_a_resonance_says_so():
    grid = GRIDS["plane"]
    values = torch.linalg.eigvals(grid.matrix(0, 2, 1.0)).real, torch.linalg.eigvals(grid.matrix(1, 2, 1.0)).real
    shift = -float(values[0].max() + values[1].max())
    operator = LinearOperator.of(grid, [(1.0, (2, 0)), (1.0, (0, 2)), (shift * (1 + 1e-6), (0, 0))])
    assert operator.solver.condition > 1e6
