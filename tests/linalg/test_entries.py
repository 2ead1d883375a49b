"""What tiles are made of, against formulas written down."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kernelfield.linalg import profiles, tiled
from kernelfield.linalg.entries import Inner, Product, Radial, Sum
from kernelfield.linalg.profiles import Profile
from kernelfield.linalg.tiled import Entries

N = 60


@pytest.fixture(autouse=True)
def many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "ROWS", 16)
    monkeypatch.setattr(tiled, "BYTES", 16 * 24 * 8)


def root(squares: Tensor, factor: float) -> Tensor:
    return torch.where(squares > 0, factor * squares, 1).sqrt() * (squares > 0)


FORMULAS: dict[type[Profile], Callable[[Tensor, Tensor], Tensor]] = {
    profiles.Rbf: lambda s, a: torch.exp(-s / 2),
    profiles.Matern12: lambda s, a: torch.exp(-root(s, 1)),
    profiles.Matern32: lambda s, a: (1 + root(s, 3)) * torch.exp(-root(s, 3)),
    profiles.Matern52: lambda s, a: (1 + root(s, 5) + 5 / 3 * s) * torch.exp(-root(s, 5)),
    profiles.RationalQuadratic: lambda s, a: (1 + s / (2 * a)) ** -a,
}


def squares(z1: Tensor, z2: Tensor) -> Tensor:
    return (z1[:, None] - z2).square().sum(-1)


@pytest.mark.parametrize("profile", FORMULAS)
@pytest.mark.parametrize("d", [1, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_radial_entries_are_those_of_their_profile(profile: type[Profile], d: int, symmetric: bool) -> None:
    z1, shape = torch.randn(N, d, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    z2 = z1 if symmetric else torch.randn(N // 2, d, requires_grad=True)
    alpha = shape if profile.shaped else None
    entries = Radial(z1, None if symmetric else z2, profile(), alpha)
    agree(entries, FORMULAS[profile](squares(z1, z2), shape))


@pytest.mark.parametrize("profile", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_points_that_nearly_meet_are_as_close_as_they_are(profile: type[Profile], dtype: torch.dtype) -> None:
    """Far from zero the norms of rows say little about their distance."""
    base = torch.randn(N, 3, dtype=dtype)
    z = torch.cat([base, base + 1e-3 * torch.randn(N, 3, dtype=dtype)]) + 30
    shape = torch.tensor(0.7, dtype=dtype)
    entries = Radial(z[:N], z[N:], profile(), shape if profile.shaped else None)
    exact = FORMULAS[profile](squares(z[:N].double(), z[N:].double()), shape.double())
    error = (tiled.dense(entries) - exact).abs().max()
    assert error < 100 * torch.finfo(dtype).eps ** 0.9  # of a few rounding errors of |z|^2, about 10 here


@pytest.mark.parametrize("profile", FORMULAS)
def test_far_points_have_nothing_in_common(profile: type[Profile]) -> None:
    """Their exponentials overflow on the way; a rational quadratic falls by a power."""
    z = torch.tensor([[0.0], [1e4]], dtype=torch.float32)
    K = tiled.dense(Radial(z, None, profile(), torch.tensor(2.0) if profile.shaped else None))
    assert K[0, 1] < 1e-14
    assert K.diagonal().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("symmetric", [True, False])
def test_sums_and_products_are_fused(symmetric: bool) -> None:
    z1, f1 = torch.randn(N, 2, requires_grad=True), torch.randn(N, 3, requires_grad=True)
    z2 = z1 if symmetric else torch.randn(N // 2, 2, requires_grad=True)
    f2 = f1 if symmetric else torch.randn(N // 2, 3, requires_grad=True)
    weights = torch.tensor([0.7, -0.2], requires_grad=True)
    others = (None, None) if symmetric else (z2, f2)
    rough, smooth = Radial(z1, others[0], profiles.Matern12()), Radial(z1, others[0], profiles.Rbf())
    inner = Inner(f1, others[1])
    entries = Sum([Product([rough, inner, smooth]), inner_again(f1, others[1])], weights)
    s = squares(z1, z2)
    wanted = weights[0] * torch.exp(-root(s, 1) - s / 2) * (f1 @ f2.mT) + weights[1] * (f1 @ f2.mT)
    agree(entries, wanted)


def inner_again(first: Tensor, second: Tensor | None) -> Sum:
    """Entries that are scaled twice to what they were."""
    return Sum([Sum([Inner(first, second)], torch.tensor([4.0]))], torch.tensor([0.25]))


def agree(entries: Entries, wanted: Tensor) -> None:
    """Products, diagonal and slopes are those of a matrix with a graph."""
    n1, n2 = wanted.shape
    A, B = torch.randn(n1, 2), torch.randn(n2, 2)
    assert_close(tiled.multiply(entries, B), (wanted @ B).detach())
    assert_close(tiled.multiply_transposed(entries, A), (wanted.mT @ A).detach())
    if entries.symmetric:
        assert_close(entries.diagonal(), wanted.diagonal().detach(), rtol=1e-14, atol=1e-14)
        assert_close(tiled.dense(entries).diagonal(), wanted.diagonal().detach(), rtol=1e-14, atol=1e-14)
    leaves = list({id(root): root for root in entries.roots if root.requires_grad}.values())
    found = torch.autograd.grad((A * tiled.product(entries, B)).sum(), leaves)
    assert_close(found, torch.autograd.grad((A * (wanted @ B)).sum(), leaves))


def test_a_factor_is_multiplied_once_and_not_tile_by_tile() -> None:
    z = torch.randn(N, 2)
    scaled = Sum([Sum([Radial(z, None, profiles.Rbf())], torch.tensor([3.0]))], torch.tensor([2.0]))
    part, factor = scaled.unscaled()
    assert isinstance(part, Radial)
    assert math.isclose(factor, 6.0)
    assert_close(tiled.multiply(scaled, torch.ones(N, 1)), 6 * tiled.multiply(part, torch.ones(N, 1)))
