"""Grids are found in tables whatever their order, and tables that are none are told from them."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.axes import distinct, gather, recognise, tabulate

AXES = [torch.tensor([0.0, 0.1, 0.5, 0.9]), torch.tensor([-3.0, 2.0, 7.0]), torch.tensor([1e-3, 2e-3])]
GRID = torch.cartesian_prod(*AXES)


def test_axes_are_found_in_rows_of_any_order():
    order = torch.randperm(24)
    axes, cells = recognise(GRID[order])
    assert axes.shape == (4, 3, 2)
    for found, given in zip(axes.points, AXES, strict=True):
        assert torch.equal(found[:, 0], given)
    assert torch.equal(cells, order)
    assert torch.equal(axes.rows(), GRID)
    assert torch.equal(axes.rows(cells), GRID[order])


@pytest.mark.parametrize(("noise", "shape"), [(1e-8, (4, 3, 2)), (0.0, (4, 3, 2))])
def test_rounding_does_not_split_a_value(noise, shape):
    span = GRID.amax(0) - GRID.amin(0)
    axes, cells = recognise(GRID + noise * span * torch.rand(24, 3))
    assert axes.shape == shape
    assert torch.equal(cells, torch.arange(24))
    assert_close(axes.points[1][:, 0], AXES[1], atol=2e-7, rtol=0)


def test_single_precision_is_a_grid_too():
    axes, _ = recognise((GRID / 3).float().double())
    assert axes.shape == (4, 3, 2)


def test_missing_cells_are_told_from_observed_ones():
    kept = torch.randperm(24)[:15]
    data = gather(Data(GRID[kept], torch.arange(24.0)[kept, None]))
    assert data.observed.sum() == 15 and data.rows == 15 and not data.whole
    assert torch.equal(data.present.nonzero()[:, 0], kept.sort().values)
    assert_close(data.values[data.present, 0], torch.arange(24.0)[kept.sort().values])
    assert (data.values[~data.present] == 0).all()
    assert torch.equal(data.data().X, GRID[kept.sort().values])


def test_repeated_rows_are_merged_without_loss():
    rows = torch.cat([torch.arange(24), torch.tensor([3, 3, 7])])
    weight, Y = 0.5 + torch.rand(27), torch.randn(27, 2)
    data = gather(Data(GRID[rows], Y, weight))
    assert data.rows == 27 and data.weight is not None
    own = rows == 3
    assert data.weight[3].item() == pytest.approx(weight[own].sum().item())
    mean = (weight[own, None] * Y[own]).sum(0) / weight[own].sum()
    assert_close(data.values[3], mean)
    # The joint density of a cell's rows is that of their mean times what gather keeps of the rest.
    f, s = torch.randn(24, 1), 0.3
    each = torch.distributions.Normal(f[rows], (s / weight[:, None]).sqrt()).log_prob(Y).sum()
    merged = torch.distributions.Normal(f, (s / data.weight[:, None]).sqrt()).log_prob(data.values).sum()
    spare = 27 - 24
    rest = data.log_weights - spare * math.log(2 * math.pi * s) - data.scatter / (2 * s)
    assert each.item() == pytest.approx((merged + rest).item(), rel=1e-12)


def test_an_axis_may_have_several_columns():
    places, times = torch.randn(6, 2), torch.arange(5.0)
    X = torch.cat([places.repeat_interleave(5, 0), times.repeat(6)[:, None]], 1)[:, [0, 2, 1]]
    order = torch.randperm(30)
    axes, cells = recognise(X[order], [(0, 2), 1])
    assert axes.shape == (6, 5) and axes.columns == ((0, 2), (1,))
    assert_close(axes.rows(cells), X[order])
    with pytest.raises(ValueError, match=r"columns 0 and 2 come in 6 pairs.*axes=\[\(0, 2\), \(1,\)\]"):
        recognise(X)


def test_scattered_points_are_no_grid():
    for n, d in ((30, 2), (3, 2), (100, 3), (500, 2)):
        words = rf"{n} distinct rows are no grid: .*use another model, such as Process \(gp on the command line\)"
        with pytest.raises(ValueError, match=words):
            recognise(torch.randn(n, d))
    with pytest.raises(ValueError, match="no grid"):  # a line of rows is a scattered set of cells
        recognise(torch.stack([torch.arange(50.0), torch.arange(50.0)], -1))


def test_any_line_is_a_grid_and_few_cells_of_a_grid_are_enough():
    assert recognise(torch.randn(40, 1))[0].shape == (40,)
    x = torch.arange(64.0)
    rows = torch.cartesian_prod(x, x)[torch.randperm(4096)[:300]]  # seven in a hundred
    assert recognise(rows)[0].cells <= 4096


def test_an_axis_needs_two_points():
    with pytest.raises(ValueError, match=r"columns \[1\] has one point, 4.*leave out columns that are constant"):
        recognise(torch.stack([torch.arange(5.0), torch.full((5,), 4.0)], -1))


def test_columns_of_the_axes_must_be_those_of_the_table():
    for axes in ([(0, 1)], [0, 1, 3], [(0, 1), (1, 2)]):
        with pytest.raises(ValueError, match=r"must hold each of the 3 columns|disjoint"):
            recognise(GRID, axes)


def test_a_table_of_values_has_its_missing_cells_as_nan():
    values = torch.randn(4, 3, 2)
    values[1, 2, 0] = torch.nan
    data = tabulate(AXES, values)
    assert torch.equal(data.axes.rows(), GRID)
    assert torch.equal(data.observed[:, 0], ~values.isnan().flatten())
    again = gather(data.data())
    assert_close(again.values, data.values)


def test_values_may_have_an_axis_of_outputs():
    data = tabulate([AXES[0], torch.randn(5, 2)], torch.randn(4, 5, 3))
    assert data.values.shape == (20, 3) and data.axes.columns == ((0,), (1, 2))


REFUSED = {
    "another shape": (lambda: tabulate(AXES, torch.zeros(3, 4, 2)), r"\(4, 3, 2\) points.*\(3, 4, 2\)"),
    "all missing": (lambda: tabulate(AXES, torch.full((4, 3, 2), torch.nan)), "all 24 values are missing"),
    "infinite": (lambda: tabulate(AXES, torch.full((4, 3, 2), torch.inf)), "24 infinite"),
    "one point": (lambda: tabulate([torch.zeros(1), AXES[1]], torch.zeros(1, 3)), "axis 0 has 1 points"),
    "a point twice": (lambda: tabulate([torch.zeros(2), AXES[1]], torch.zeros(2, 3)), "axis 0 holds a point twice"),
    "points missing": (lambda: tabulate([torch.tensor([0.0, torch.nan])], torch.zeros(2)), "finite points"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_values_that_do_not_fit_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("shape", [(0, 2), (1, 3), (40, 1), (40, 3)])
def test_distinct_rows_are_those_of_torch(shape):
    X = torch.randint(-2, 3, shape).double()
    rows, number = distinct(X)
    assert torch.equal(rows[number], X)
    assert torch.equal(rows, torch.unique(X, dim=0) if len(X) else X)
