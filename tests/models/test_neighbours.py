import pytest
import torch
from gpytorch.kernels import ConstantKernel, RBFKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.models import neighbours
from kernelfield.models.neighbours import earlier, ordered, scales

LENGTHS = torch.tensor([0.3, 1.0, 20.0])


def brute(Z, k):
    """The distances to the k nearest rows before each row, by all distances."""
    apart = torch.cdist(Z, Z, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart.masked_fill(torch.ones(len(Z), len(Z)).triu().bool(), torch.inf)
    return apart.sort(-1).values[:, :k]


def lengths(kernel):
    own = kernel if kernel.has_lengthscale else kernel.base_kernel
    own.lengthscale = LENGTHS
    return kernel


@pytest.mark.parametrize(
    "kernel",
    [
        RBF(ard_num_dims=3),
        Matern(0.5, ard_num_dims=3),
        Matern(2.5, ard_num_dims=3),
        RationalQuadratic(ard_num_dims=3),
        ScaleKernel(RBFKernel(ard_num_dims=3)),
    ],
)
def test_scales_of_a_stationary_kernel_are_its_lengthscales_up_to_a_factor(kernel):
    X = torch.randn(50, 3) * torch.tensor([1.0, 7.0, 0.1])
    for found in (scales(lengths(kernel), X), neighbours._reaches(kernel, X)):
        assert_close(found / found[0], LENGTHS / LENGTHS[0], rtol=1e-6, atol=0)


def test_one_lengthscale_is_that_of_all_inputs():
    kernel = RBF()
    kernel.lengthscale = 0.7
    assert_close(scales(kernel, torch.randn(5, 3)), torch.full((3,), 0.7))


def test_a_constant_part_does_not_hide_the_lengthscales():
    kernel = lengths(RBF(ard_num_dims=3)) + ConstantKernel()
    found = scales(kernel, torch.randn(50, 3))
    assert_close(found / found[0], LENGTHS / LENGTHS[0], rtol=1e-6, atol=0)


def test_an_input_that_the_kernel_ignores_has_no_part_in_distances():
    X = torch.cat([torch.randn(20, 2), torch.ones(20, 1)], -1)
    for kernel in (RBF(active_dims=[0]), ScaleKernel(RBF(active_dims=[0]))):
        found = scales(kernel, X)
        assert found.isfinite().tolist() == [True, False, False]
        assert (X / found)[:, 1:].eq(0).all()


@pytest.mark.parametrize("d", [1, 3, 9])  # by trees, and by all distances
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 4), (5, 30), (300, 1), (300, 7), (40, 39)])
def test_earlier_neighbours_are_the_nearest_rows_before(n, k, d):
    Z = torch.randn(n, d)
    found = earlier(Z, k)
    own = torch.arange(n)[:, None]
    assert found.shape == (n, k)
    assert ((found >= 0).sum(-1) == torch.arange(n).clamp_max(k)).all()
    assert (found < own).all()
    assert all(len(set(row)) == len(row) for row in ([i for i in r if i >= 0] for r in found.tolist()))
    apart = (Z[found.clamp_min(0)] - Z[:, None]).norm(dim=-1).masked_fill(found < 0, torch.inf)
    expected = torch.nn.functional.pad(brute(Z, k), (0, max(0, k - n)), value=torch.inf)
    assert_close(apart.sort(-1).values, expected, rtol=1e-9, atol=1e-12)


def test_some_rows_have_the_neighbours_that_they_have_among_all():
    Z, rows = torch.randn(200, 2), torch.tensor([150, 3, 77, 0, 199])
    assert (earlier(Z, 5, rows) == earlier(Z, 5)[rows]).all()


def test_rows_that_are_all_equal_have_neighbours_before_them():
    found = earlier(torch.zeros(100, 2), 6)
    assert (found < torch.arange(100)[:, None]).all()
    assert (found[6:] >= 0).all()


def test_rows_in_a_hostile_order_find_neighbours_that_come_late():
    # The far cluster comes first, so that few of the nearest rows are before a row of it.
    Z = torch.cat([torch.linspace(9, 10, 64), torch.linspace(0, 1, 64).flip(0), torch.linspace(9, 10, 128)])[:, None]
    apart = (Z[earlier(Z, 8).clamp_min(0)] - Z[:, None]).abs()[8:, :, 0]
    assert_close(apart.sort(-1).values, brute(Z, 8)[8:], rtol=1e-9, atol=1e-12)


def test_a_maximin_order_takes_the_farthest_row_each_time():
    Z = torch.randn(60, 2)
    order = ordered("maximin", Z, generator=torch.Generator())
    apart = torch.cdist(Z, Z)
    assert order[0] == (Z - Z.mean(0)).norm(dim=-1).argmin()
    for i in range(1, 60):
        gaps = apart[:, order[:i]].amin(-1)
        assert gaps[order[i]] >= gaps.max() - 1e-7


def test_beyond_the_budget_rows_follow_at_random(monkeypatch):
    Z = torch.randn(50, 2)
    whole = ordered("maximin", Z, generator=torch.Generator())
    monkeypatch.setattr(neighbours, "PAIRS", 500)
    part = ordered("maximin", Z, generator=torch.Generator())
    assert (part[:10] == whole[:10]).all()
    assert (part[10:] != whole[10:]).any()
    assert part.sort().values.tolist() == list(range(50))


@pytest.mark.parametrize("how", ["maximin", "random", "given"])
def test_every_order_has_each_row_once_and_repeats_with_its_seed(how):
    Z = torch.randn(30, 3)[torch.randint(0, 12, (30,))]  # with copies
    first, second = (ordered(how, Z, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert first.sort().values.tolist() == list(range(30))
    assert (first == second).all()
